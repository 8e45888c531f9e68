"""The verbs that ask a finished model: `evaluate`, `compare`, `explain`. Each a short list of plain calls in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graftage import deciding, examine, explaining, measuring, outcome, versus
from graftage.measure.scores import score
from graftage.measuring import Measured
from graftage.outcome import Evaluated
from graftage.progress import Journal, Silent, Watcher
from graftage.runs import Contender, plain
from graftage.serve.predict import Explanation, Predictor
from graftage.settings import Settings, columns_of
from graftage.versus import Compared
from graftage.writing import write_json


def evaluate(
    model: str | Path | Predictor,
    data: str | Path,
    *,
    output: str | Path | None = None,
    against: Contender | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
    **columns: str,
) -> Evaluated:
    """Scores of a model on another labelled folder; pictures it was trained on are left out and counted.

    Args:
        model: a model file, or a loaded model.
        data: class folders, train/val/test folders of which the test (else val) part is taken, or a table likewise.
        output: folder for metrics.json, predictions.csv, ledger.csv and report.html; None writes nothing.
        against: another model to compare with, on those pictures that neither was trained on.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.
        columns: of a table: path_col, label_col, group_col and split_col, as of `Settings`.

    Raises:
        GraftageError: something that the user can mend.
    """
    Settings(str(data), seed=seed, workers=workers)  # refuses what is out of range
    chosen = columns_of(columns)
    folder = outcome.evaluation_folder(output)
    predictor, rival = examine.opened(plain(model)), None if against is None else examine.opened(plain(against))
    names = [examine.name_of(plain(each)) for each in (model, against) if each is not None]
    if rival is not None:  # told before the work
        versus.require_same_classes((names[0], predictor.classes), (names[1], rival.classes))
    journal = Journal(watcher or Silent())
    found = examine.look(predictor, data, journal, workers=workers, columns=chosen)
    seen = examine.examine(found, predictor, journal, workers=workers)
    y, p, groups = seen.y, seen.probabilities, seen.groups
    scores = score(p, y, classes=predictor.classes, groups=groups, rng=np.random.default_rng(seed))
    how = f"{len(y):,} pictures of {data}, none of which the model was trained on, measured once."
    measured = measuring.count_opening(seen.catalog, Measured(seen.rows, y, p, scores, how, groups, ()), journal)
    measured = deciding.examined(measured, predictor.decisions, seen.answers, seed=seed)
    evaluated = outcome.write_evaluation(folder, seen.catalog, measured, predictor.bundle, journal)
    if rival is None:
        return evaluated
    later = Journal(journal.watcher)
    both = (predictor.bundle, rival.bundle)
    answered = examine.examine(found, rival, later, workers=workers, learners=both)
    pair = seen.held(names[0], predictor.classes), answered.held(names[1], rival.classes)
    return outcome.with_comparison(evaluated, versus.compare(*pair, seed=seed, notes=later.notes))


def compare(
    a: Contender,
    b: Contender,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    watcher: Watcher | None = None,
    workers: int = 0,
    seed: int = 42,
    device: str = "auto",
    **columns: str,
) -> Compared:
    """Two runs or models on the same held-out pictures, picture by picture.

    Without `data`, two runs are compared on the pictures held out in both, by the answers that they have left. With it,
    both models answer for its pictures; those that either was trained on are left out.

    Args:
        a: the folder of a run, a model file, or what `train` or `load` gave.
        b: likewise.
        data: class folders, train/val/test folders of which the test (else val) part is taken, or a table likewise.
        output: a .json file for what was found; None writes nothing.
        watcher: told how it goes on.
        workers: threads; 0 means two more than there are cores.
        seed: of the bootstrap.
        device: "auto", "cpu" or "cuda", for models that are yet to be loaded.
        columns: of a table: path_col, label_col, group_col and split_col, as of `Settings`.

    Raises:
        GraftageError: something that the user can mend.
    """
    Settings(str(data or "."), seed=seed, workers=workers)  # refuses what is out of range
    chosen = columns_of(columns)
    target = outcome.comparison_file(output)
    places = plain(a), plain(b)
    journal = Journal(watcher or Silent())
    if data is None:
        pair = examine.left_by(places[0]), examine.left_by(places[1])
    else:
        one, two = (examine.opened(place, device=device) for place in places)
        found = examine.look(one, data, journal, workers=workers, columns=chosen)
        names = examine.name_of(places[0]), examine.name_of(places[1])
        pair = examine.against((names[0], one), (names[1], two), found, journal, workers=workers)
    compared = versus.compare(*pair, seed=seed, notes=journal.notes)
    if target is not None:
        write_json(compared.to_json(), target)
    return compared


@dataclass(frozen=True)
class Explained:
    """A page of explained pictures.

    Attributes:
        path: where it lies.
        explanations: one for each picture, in order.
        summary: lines for a person.
        notes: what to keep in mind.
    """

    path: Path
    explanations: tuple[Explanation, ...]
    summary: tuple[str, ...]
    notes: tuple[str, ...]


def explain(
    model: str | Path | Predictor,
    pictures: Sequence[str | Path],
    *,
    output: str | Path = "explain.html",
    label: str | None = None,
    photos: str | Path | None = None,
    similar: int = 5,
    watcher: Watcher | None = None,
) -> Explained:
    """A page that shows where in each picture the answer comes from, and the training pictures most like it.

    Args:
        model: a model file, the folder of a run, or a loaded model.
        pictures: files, or folders searched for them.
        output: the page, a name that ends in .html; or a folder, which gets explain.html and each heat map as a PNG.
        label: the class to explain; default: the predicted one of each picture.
        photos: folder of the training pictures; default: what the run beside the model says, if it is still there.
        similar: how many training pictures for each.
        watcher: told how it goes on.

    Raises:
        GraftageError: something that the user can mend. A picture that cannot be used is none: it is told on the page.
    """
    paths, place = explaining.pictures(pictures), explaining.place_of(output, pictures)
    explaining.require_similar(similar)
    predictor = examine.opened(plain(model))
    known = explaining.training_folder(predictor, photos)
    journal = Journal(watcher or Silent())
    with journal.stage("explain"):
        found = explaining.explained(predictor, paths, label=label, similar=similar, progress=journal.watcher.progress)
    page = explaining.page(predictor, found, known)
    for note in page.notes:
        journal.note(note)
    explaining.write(page, found, place)
    return Explained(place.page, tuple(found), (f"{page.verdict} {place.page}",), page.notes)
