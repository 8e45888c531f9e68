"""The verbs that make a model: `train` and `fit`, each a short list of plain calls in order. Read this first.

`train`: folder → catalog → split → features → head → scores → RUN/. The verbs that look at pictures before are in
`surveying`, those that ask a finished model in `asking`. File names are decided in `outcome`; every room is called with
plain arguments.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np

from graftage import (
    checking,
    choosing,
    deciding,
    explaining,
    growth,
    looking,
    measuring,
    outcome,
    parting,
    steps,
    world,
)
from graftage.data.catalog import require_learnable, scan
from graftage.data.checks import by_severity, problems
from graftage.data.grouping import groups_of
from graftage.data.sources import Source, Sources, natural_key
from graftage.errors import DataError
from graftage.features.engine import choose_device
from graftage.learn import defaults
from graftage.measure.scores import to_json
from graftage.progress import Journal, Silent, Watcher
from graftage.runs import Run
from graftage.serve.predict import Predictor
from graftage.settings import Settings, settings_of
from graftage.states import States, folder_of
from graftage.story import Outcome


def train(data: str | Path | Settings, *, watcher: Watcher | None = None, **options: object) -> Run:
    """A folder or table of labelled pictures becomes a classifier, its scores and a report.

    Args:
        data: the folder or table, or complete settings.
        watcher: told how it goes on.
        options: fields of `Settings`, such as `output="runs/birds"`, `backbone="timm/resnet50.a1_in1k"`, `seed=1`.

    Returns:
        The run: `run.scores.accuracy`, `run.folder`, `run.model`.

    Raises:
        GraftageError: something that the user can mend; the message says what and how.
    """
    started = time.monotonic()
    settings = settings_of(data, options)
    with outcome.run_folder(settings) as (folder, final), world.joined(choose_device(settings.device)):
        journal = Journal((watcher or Silent()) if not world.rank() else Silent(), folder / outcome.LOG)
        with world.first_alone():
            catalog = looking.look_at_files(settings, journal)
            early = parting.partition(catalog, settings)  # what cannot be split is told before the work
            first = choosing.first_network(settings)
            looked = looking.Looked(
                first,
                *looking.open_network(first, catalog, early.train, journal, meanwhile=_load_pytorch),
                journal,
            )
            catalog, closed = looked.gate(catalog)
            split = parting.partition(catalog, settings)
            suspected = steps.suspect(catalog, closed, split, settings.seed, journal)
            closed = closed.without_features()
            looked = choosing.before_choice(looked, settings)
            looked, rivals = choosing.choose_backbone(looked, catalog, split, settings)
            catalog, fit, others = choosing.choose_fit(looked, catalog, split)
            others = choosing.together(rivals, others)
            outcome.require_space(folder, final, looked.backbone.info.parameters)
            catalog, table = steps.tabulate(looked, catalog, split, fit)
        Thread(target=_load_pytorch, name="graftage-loading").start()
        learnt = steps.learn(table, fit, split, settings.seed, journal)
        adapted, tested = steps.adapt(looked, catalog, table, learnt, final, started)
        tuned, T = adapted.tuned, None if tested is None else tested[1]
        found = deciding.gather(looked, catalog, table, learnt, tuned=tuned, forward=tested and tested[0])
        decisions = deciding.rules(found, settings)
        measured = measuring.measure(table, learnt, others, settings.seed, journal, tuned=tuned, T=T)
        measured = measuring.count_opening(catalog, measured, journal)
        shown = measuring.features_of(table, measured, T)
        measured = measuring.lay_out(measured, shown, settings.seed, journal)
        measured = deciding.with_promises(measured, decisions, found, settings, shown)
        scores = {**to_json(measured.scores), "how": measured.how}
        shipped = None if tuned is None or tested is None else (tuned, tested[0])
        known = steps.remember_pictures(looked, catalog, table, learnt, tuned=shipped)
        bundle = steps.make_bundle(
            looked, catalog, table, learnt, closed, scores, tuned=tuned, decisions=decisions, neighbours=known
        )
        parts, copies = steps.in_their_parts(catalog, table), closed.near(len(catalog.entries))
        with journal.stage("labels"):
            wrong = checking.likely_wrong(
                catalog, table.train, table.X, table.y, table.groups, learnt.searched, settings.seed
            )
        short = steps.find_shortcuts(catalog, closed, table, learnt, settings.seed, journal)
        faults = by_severity([*problems(parts, groups_of(catalog), copies), *checking.shortcut_problems(short), *wrong])
        grown = growth.beside_training(table.X, table.y, table.groups, seed=settings.seed, journal=journal)
        answering = looked.forward if tested is None else tested[0]  # auto may have taken another network
        predictor = Predictor(bundle, answering, limits=looking.limits_of(settings), repair=settings.repair)
        beside = {} if world.rank() else explaining.mistakes(predictor, catalog, measured, journal)
        whole = Outcome(
            settings,
            catalog,
            faults,
            bundle,
            measured,
            adapted=adapted,
            curve=grown,
            suspected=suspected,
            beside=beside,
            shortcuts=short,
        )
        summary = outcome.write(folder, final, whole, journal)
    States(folder_of(final)).remove()
    return Run(final, measured.scores, summary, tuple(journal.notes))


def _load_pytorch() -> None:
    """Tuning and heat maps take it later; here a core is free for the seconds that it takes to load."""
    with suppress(ImportError):  # who takes it says what is missing
        import_module("timm")


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
    started = time.monotonic()
    settings = settings_of(".", {"recipe": "linear", **options})
    journal = Journal(watcher or Silent())
    classes = tuple(classes or sorted(set(labels), key=natural_key))
    rows = tuple(Source(Path(p), str(p), label) for p, label in zip(paths, labels, strict=True))
    catalog = scan(
        Sources(Path(), rows, classes, (), "classes"),
        limits=looking.limits_of(settings),
        repair=settings.repair,
        workers=looking.worker_count(settings),
    )
    require_learnable(catalog)
    usable = np.array(catalog.usable, dtype=np.int64)
    usual = defaults.plan(len(usable))
    split = parting.Partition(usable, usable[:0], "cross-validation", usual.folds, 1)
    backbone, forward = looking.open_network(settings, catalog, split.train, journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    catalog, closed = looked.gate(catalog)
    closed = closed.without_features()
    split = replace(split, train=np.array(catalog.usable, dtype=np.int64))
    catalog, how, _ = choosing.choose_fit(looked, catalog, split)
    catalog, table = steps.tabulate(looked, catalog, split, how)
    learnt = steps.learn(table, how, split, settings.seed, journal)
    with tempfile.TemporaryDirectory() as states:
        adapted, tested = steps.adapt(looked, catalog, table, learnt, Path(states) / "fit", started)
    found = deciding.gather(looked, catalog, table, learnt, tuned=adapted.tuned, forward=tested and tested[0])
    decisions = deciding.rules(found, settings)
    bundle = steps.make_bundle(looked, catalog, table, learnt, closed, {}, tuned=adapted.tuned, decisions=decisions)
    return Predictor(
        bundle, forward if tested is None else tested[0], limits=looking.limits_of(settings), repair=settings.repair
    )
