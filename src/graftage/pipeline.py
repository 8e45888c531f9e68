"""The verbs, each a short list of plain calls in order. Read this first.

`train`: folder → catalog → split → features → head → scores → RUN/. `evaluate`: model and folder → scores.
File names are decided here and in `outcome`; every room is called with plain arguments.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import outcome, steps
from graftage.data.catalog import require_learnable, scan
from graftage.data.checks import problems
from graftage.data.sources import Source, Sources, labelled, natural_key
from graftage.data.split import exact_groups
from graftage.errors import DataError
from graftage.learn import defaults
from graftage.measure.scores import Scores, score, to_json
from graftage.outcome import Evaluated
from graftage.progress import Journal, Silent, Watcher
from graftage.serve import predict
from graftage.serve.predict import Predictor
from graftage.settings import Settings
from graftage.story import Measured, Outcome

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: where it lies.
        scores: on pictures held out.
        summary: about ten lines for a person.
        notes: notices that belong on top.
    """

    folder: Path
    scores: Scores
    summary: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def model_path(self) -> Path:
        """The model file."""
        return self.folder / outcome.MODEL

    @cached_property
    def model(self) -> Predictor:
        """The model, ready to predict."""
        return predict.load(self.model_path)

    def predict(self, paths: Sequence[str | Path]) -> list[predict.Prediction]:
        """Predictions of the trained model; see `Predictor.predict`."""
        return self.model.predict(paths)


def train(data: str | Path | Settings, *, watcher: Watcher | None = None, **options: object) -> Run:
    """A folder of labelled pictures becomes a classifier, its scores and a report.

    Args:
        data: the folder, or complete settings.
        watcher: told how it goes on.
        options: fields of `Settings`, such as `output="runs/birds"`, `backbone="timm/resnet50.a1_in1k"`, `seed=1`.

    Returns:
        The run: `run.scores.accuracy`, `run.folder`, `run.model`.

    Raises:
        GraftageError: something that the user can mend; the message says what and how.
    """
    settings = _settings(data, options)
    with outcome.run_folder(settings) as (folder, final):
        journal = Journal(watcher or Silent(), folder / outcome.LOG)
        catalog = steps.look_at_files(settings, journal)
        split = steps.partition(catalog, settings)
        backbone, forward = steps.open_network(settings, catalog, split.train, journal)
        looked = steps.Looked(settings, backbone, forward, journal)
        catalog, fit, others = steps.choose_fit(looked, catalog, split)
        catalog, table = steps.tabulate(looked, catalog, split, fit)
        learnt = steps.learn(table, fit, split, settings.seed, journal)
        measured = steps.measure(table, learnt, others, settings.seed, journal)
        scores = {**to_json(measured.scores), "how": measured.how}
        bundle = steps.make_bundle(looked, catalog, table, learnt, scores)
        found = problems(steps.in_their_parts(catalog, table), steps.groups_of(catalog))
        summary = outcome.write(folder, final, Outcome(settings, catalog, found, bundle, measured), journal)
    return Run(final, measured.scores, summary, tuple(journal.notes))


def evaluate(
    model: str | Path | Predictor,
    data: str | Path,
    *,
    output: str | Path | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
) -> Evaluated:
    """Scores of a model on another labelled folder; pictures it was trained on are left out and counted.

    Args:
        model: a model file, or a loaded model.
        data: class folders, or train/val/test folders of which the test (else val) part is taken.
        output: folder for metrics.json, predictions.csv, ledger.csv and report.html; None writes nothing.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.

    Raises:
        GraftageError: something that the user can mend.
    """
    settings = Settings(str(data), seed=seed, workers=workers)
    folder = outcome.evaluation_folder(output)
    predictor = model if isinstance(model, Predictor) else predict.load(model)
    journal = Journal(watcher or Silent())
    with journal.stage("look at every file"):
        found = scan(
            labelled(Path(data)),
            limits=predictor.limits,
            repair=predictor.repair,
            workers=steps.worker_count(settings),
            progress=journal.watcher.progress,
        )
    catalog, chosen = steps.evaluated_rows(found, predictor.bundle, journal)
    with journal.stage("predict"):
        answers = predictor.predict([catalog.entries[i].path for i in chosen], workers=workers)
    for i, answer in zip(chosen, answers, strict=True):
        if answer.status == "rejected":
            catalog = catalog.reject(i, answer.reason)
    kept = [(i, a) for i, a in zip(chosen, answers, strict=True) if a.status != "rejected"]
    if not kept:
        raise DataError(f"{data}: no picture is left to measure on; {steps.why_left_out(catalog)}")
    y = np.array([catalog.entries[i].label for i, _ in kept])
    p = np.array([a.probabilities for _, a in kept])
    groups = exact_groups([catalog.entries[i].digest for i, _ in kept])
    rng = np.random.default_rng(seed)
    scores = score(p, y, classes=predictor.classes, groups=groups, rng=rng)
    rows = np.array([i for i, _ in kept])
    how = f"{len(rows):,} pictures of {data}, none of which the model was trained on, measured once."
    measured = Measured(rows, y, p, scores, how, groups, ())
    return outcome.write_evaluation(folder, catalog, measured, predictor.bundle, journal)


def fit(
    paths: Sequence[str | Path],
    labels: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    watcher: Watcher | None = None,
    **options: object,
) -> Predictor:
    """A classifier from files and labels, without measuring it and without leaving a folder.

    Args:
        paths: n picture files.
        labels: n class names.
        classes: all class names in the order that the probabilities shall have; default: natural order.
        watcher: told how it goes on.
        options: fields of `Settings`, as for `train`.

    Raises:
        DataError: lengths that differ, fewer than two classes, or a class with fewer than two usable pictures.
    """
    if len(paths) != len(labels):
        raise DataError(f"{len(paths)} pictures but {len(labels)} labels; give one label for each picture")
    settings = _settings(".", options)
    journal = Journal(watcher or Silent())
    classes = tuple(classes or sorted(set(labels), key=natural_key))
    rows = tuple(Source(Path(p), str(p), label) for p, label in zip(paths, labels, strict=True))
    catalog = scan(
        Sources(Path(), rows, classes, (), "classes"),
        limits=steps.limits_of(settings),
        repair=settings.repair,
        workers=steps.worker_count(settings),
    )
    require_learnable(catalog)
    usable = np.array(catalog.usable, dtype=np.int64)
    usual = defaults.plan(len(usable))
    split = steps.Partition(usable, usable[:0], "cross-validation", usual.folds, 1)
    backbone, forward = steps.open_network(settings, catalog, split.train, journal)
    looked = steps.Looked(settings, backbone, forward, journal)
    catalog, how, _ = steps.choose_fit(looked, catalog, split)
    catalog, table = steps.tabulate(looked, catalog, split, how)
    learnt = steps.learn(table, how, split, settings.seed, journal)
    bundle = steps.make_bundle(looked, catalog, table, learnt, {})
    return Predictor(bundle, forward, limits=steps.limits_of(settings), repair=settings.repair)


def _settings(data: str | Path | Settings, options: Mapping[str, object]) -> Settings:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    known = vars(data) if isinstance(data, Settings) else {"data": str(data)}
    return Settings.from_mapping({**known, **plain}, source="train")
