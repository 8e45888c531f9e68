"""Models before labelled pictures that they have not learnt from: what to ask them about, and what they answer.

Contestants for a comparison come in four shapes: the folder of a run, a model file, and what `train` or `load` gave.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import outcome, remembered, versus
from graftage.data.catalog import Catalog, Entry, printable, scan
from graftage.data.grouping import groups_of
from graftage.data.listing import Columns
from graftage.data.sources import labelled
from graftage.data.split import exact_groups, merge_groups
from graftage.data.twins import find_known, find_twins, signature
from graftage.errors import DataError, OptionError
from graftage.features.engine import cores
from graftage.features.extract import extract_looks
from graftage.features.looks import colours_of, digests_of, thumbnails_of
from graftage.measure.decide import Answers
from graftage.measure.unlike import FALSE_ALARM
from graftage.progress import Journal
from graftage.serve import predict
from graftage.serve.bundle import Bundle
from graftage.serve.predict import Prediction, Predictor
from graftage.versus import Held

Ints = NDArray[np.int64]

TRAINED_ON = "the model was trained on it"
COPY_TRAINED_ON = "the model was trained on a copy of it"


@dataclass(frozen=True, eq=False)
class Examined:
    """A model's answers for the labelled pictures of a folder.

    Attributes:
        catalog: in the model's class order; what was left out is rejected, with the reason.
        rows: (n,) catalog indices of the pictures answered.
        y: int64 (n,) their classes.
        probabilities: float64 (n, K).
        groups: int64 (n,) copies of one another are one group, and what a table says belongs together.
        answers: what the model decided for each picture.
    """

    catalog: Catalog
    rows: Ints
    y: Ints
    probabilities: NDArray[np.float64]
    groups: Ints
    answers: Answers

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each picture's file."""
        return tuple(self.catalog.entries[i].digest for i in self.rows)

    def held(self, name: str, classes: tuple[str, ...]) -> Held:
        """The answers under a name, ready to be compared."""
        return Held(name, classes, self.digests, self.y, self.groups, self.probabilities)


def look(
    predictor: Predictor, data: str | Path, journal: Journal, *, workers: int = 0, columns: Columns | None = None
) -> Catalog:
    """Every file of a folder or table looked at once, with the limits of a model that is to answer for it."""
    with journal.stage("look at every file"):
        sources = labelled(Path(data), columns)
        for note in sources.notes:
            journal.note(note)
        return scan(
            sources,
            limits=predictor.limits,
            repair=predictor.repair,
            workers=workers or cores(),
            progress=journal.watcher.progress,
        )


def examine(
    found: Catalog, predictor: Predictor, journal: Journal, *, workers: int = 0, learners: Sequence[Bundle] = ()
) -> Examined:
    """Asks a model about every picture of a catalog that it may be measured on.

    Args:
        found: the pictures.
        predictor: the model.
        journal: told what is left out.
        workers: threads; 0 means two more than there are cores.
        learners: models whose training pictures are left out; default: the model alone.

    Raises:
        DataError: no picture is left.
    """
    bundle = predictor.bundle
    catalog, chosen = _chosen(found, bundle.classes, predictor, learners or [bundle], journal, workers)
    with journal.stage("predict"):
        answers = predictor.predict([catalog.entries[i].path for i in chosen], workers=workers)
    for i, answer in zip(chosen, answers, strict=True):
        if answer.status == "rejected":
            catalog = catalog.reject(i, answer.reason)
    kept = [(i, a) for i, a in zip(chosen, answers, strict=True) if a.status != "rejected"]
    if not kept:
        raise DataError(f"{found.root}: no picture is left to measure on; {_why_left_out(catalog)}")
    rows = np.array([i for i, _ in kept], dtype=np.int64)
    groups = groups_of(catalog)[rows]
    p, said = np.array([a.probabilities for _, a in kept]), _decided([a for _, a in kept], predictor)
    return Examined(catalog, rows, catalog.labels()[rows], p, groups, said)


def _decided(answers: list[Prediction], predictor: Predictor) -> Answers:
    """What was decided for each picture, as columns."""
    rules = predictor.decisions
    sets = np.array([[name in a.prediction_set for name in predictor.classes] for a in answers])
    return Answers(
        None if rules.sets is None else sets,
        None if rules.answers is None else np.array([bool(a.abstained) for a in answers]),
        None if rules.unlike is None else np.array([a.unlike_p for a in answers], dtype=np.float64),
        rules.unlike.false_alarm if rules.unlike else FALSE_ALARM,
    )


def _chosen(
    found: Catalog,
    classes: tuple[str, ...],
    predictor: Predictor,
    learners: Sequence[Bundle],
    journal: Journal,
    workers: int,
) -> tuple[Catalog, list[int]]:
    """The catalog in a model's own class order, and the entries to measure on: not learnt from, the test part if any.

    Copies among them are entered as groups.
    """
    catalog = _with_classes(found, classes)
    parts = {entry.split for entry in catalog.entries}
    part = next((p for p in ("test", "val") if p in parts), None)
    if part:
        journal.note(f"measured on the {part} {catalog.part} alone")
        for i in [i for i in catalog.usable if catalog.entries[i].split != part]:
            catalog = catalog.reject(i, f"not in the {part} {catalog.part}")
    rows = catalog.usable
    known = frozenset().union(*(remembered.known_digests(learner) for learner in learners))
    seen = {i: TRAINED_ON for i in rows if remembered.short(catalog.entries[i].digest) in known}
    left = [i for i in rows if i not in seen]
    catalog, copies = _copies(catalog, left, predictor, learners, journal, workers)
    seen |= copies
    for i, reason in seen.items():
        catalog = catalog.reject(i, reason)
    if seen:
        journal.note(
            f"{len(seen):,} of {len(rows):,} pictures were trained on{_of_them(seen)}; they are left out of the scores"
        )
    if not all("thumbnails" in learner.pictures for learner in learners):
        journal.note(
            "copies of training pictures that were cut, resized or compressed again are not known to this model"
        )
    return catalog, [i for i in rows if catalog.entries[i].status != "rejected"]


def _of_them(seen: Mapping[int, str]) -> str:
    copies = sum(reason == COPY_TRAINED_ON for reason in seen.values())
    return f" ({copies:,} of them as a copy)" if copies else ""


def _copies(
    catalog: Catalog,
    rows: Sequence[int],
    predictor: Predictor,
    learners: Sequence[Bundle],
    journal: Journal,
    workers: int,
) -> tuple[Catalog, dict[int, str]]:
    """The catalog with copies among `rows` as groups; and which of them are copies of training pictures, by reason."""
    with journal.stage("look for copies"):
        entries = [catalog.entries[i] for i in rows]
        found = extract_looks(
            [entry.path for entry in entries],
            [entry.digest for entry in entries],
            forward=predictor.forward,
            preprocess=predictor.bundle.preprocess,
            limits=predictor.limits,
            repair=predictor.repair,
            workers=workers,
            progress=journal.watcher.progress,
        )
        assert found.looks is not None
        good = np.setdiff1d(np.arange(len(rows)), found.failed)  # what fails here fails again, and is told then
        place, looks = [rows[i] for i in good], found.looks[good]
        pixels, thumbnails = digests_of(looks), thumbnails_of(looks)
        changed = {i: replace(catalog.entries[i], pixels=p) for i, p in zip(place, pixels, strict=True)}
        twins = find_twins(thumbnails, exact_groups([remembered.short(p) for p in pixels]), colours=colours_of(looks))
        told = np.array([changed[i].group for i in place], dtype=np.int64)  # by a table
        groups = zip(place, merge_groups(twins.groups, told), strict=True)
        catalog = catalog.with_entries({i: replace(changed[i], group=int(group)) for i, group in groups})
        return catalog, _known_copies(place, pixels, thumbnails, learners)


def _known_copies(
    rows: Sequence[int], pixels: Sequence[str], thumbnails: NDArray[np.uint8], learners: Sequence[Bundle]
) -> dict[int, str]:
    seen: dict[int, str] = {}
    small = signature(thumbnails)
    for learner in learners:
        if "thumbnails" in learner.pictures:
            _, like = find_known(small, learner.pictures["thumbnails"].astype(np.uint8))
            seen |= {
                i: COPY_TRAINED_ON
                for i, value in zip(rows, like, strict=True)
                if value >= remembered.known_level(learner)
            }
    for learner in learners:
        known = {digest.tobytes().hex() for digest in learner.pictures.get("pixels", np.zeros((0, 8), np.uint8))}
        seen |= {i: TRAINED_ON for i, digest in zip(rows, pixels, strict=True) if remembered.short(digest) in known}
    return seen


def _why_left_out(catalog: Catalog) -> str:
    """The commonest reasons for which entries were left out, in one line."""
    reasons = Counter(entry.reason for entry in catalog.entries)
    return "; ".join(f"{count:,} left out: {reason}" for reason, count in reasons.most_common(5))


def _with_classes(catalog: Catalog, classes: tuple[str, ...]) -> Catalog:
    places = {name: k for k, name in enumerate(classes)}
    changed: dict[int, Entry] = {}
    for entry in catalog.entries:
        name = catalog.classes[entry.label] if entry.label >= 0 else ""
        if entry.label >= 0 and name not in places:
            reason = entry.reason if entry.status == "rejected" else "the model does not know this class"
            changed[entry.index] = replace(entry, label=-1, status="rejected", reason=reason)
        elif entry.label >= 0:
            changed[entry.index] = replace(entry, label=places[name])
    return replace(catalog.with_entries(changed), classes=classes)


def against(
    first: tuple[str, Predictor], second: tuple[str, Predictor], found: Catalog, journal: Journal, *, workers: int
) -> tuple[Held, Held]:
    """The answers of two models, (name, model) each, for the pictures that neither was trained on.

    Raises:
        DataError: the models know different classes, or no picture is left.
    """
    (name_a, a), (name_b, b) = first, second
    versus.require_same_classes((name_a, a.classes), (name_b, b.classes))
    both = (a.bundle, b.bundle)
    seen_a, seen_b = (examine(found, model, journal, workers=workers, learners=both) for model in (a, b))
    return seen_a.held(name_a, a.classes), seen_b.held(name_b, b.classes)


def left_by(contender: Path | Predictor) -> Held:
    """The held-out answers that a run has left in its folder.

    Raises:
        OptionError: a model has none; or there is no such folder.
        DataError: what lies there is damaged.
    """
    name = name_of(contender)
    if isinstance(contender, Predictor) or _there(contender).is_file():
        raise OptionError(f"{name} is a model, which holds no pictures: say on which to compare, with --data PHOTOS")
    if not (contender / outcome.PREDICTIONS).is_file():
        raise OptionError(
            f"{name} is no run, as there is no {outcome.PREDICTIONS} in it: give the folder that graftage train has "
            "left, or a model file and --data PHOTOS"
        )
    return versus.read_run(
        name,
        predictions=contender / outcome.PREDICTIONS,
        ledger=contender / outcome.LEDGER,
        metrics=contender / outcome.METRICS,
    )


def opened(contender: Path | Predictor, *, device: str = "auto") -> Predictor:
    """The model of a run, of a file, or the loaded one itself. Raises BundleError if there is none."""
    if isinstance(contender, Predictor):
        return contender
    return predict.load(contender, device=device)


def _there(path: Path) -> Path:
    if not path.exists():
        raise OptionError(f"{path} does not exist: give the folder of a run, or a {outcome.MODEL}")
    return path


def name_of(contender: Path | Predictor) -> str:
    """What to call it in a sentence."""
    if isinstance(contender, Predictor):
        return printable(contender.source) or f"a model in memory ({contender.bundle.backbone.id})"
    return printable(str(contender))
