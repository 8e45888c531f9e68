"""Two classifiers on the same held-out pictures: who calls more of them right, and whose probabilities are better.

Answers come from the tables that a run leaves, or from models that have just predicted. They are matched by what the
pictures hold, so that the same picture under another name, or in another folder, is the same picture.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.data.split import merge_groups
from graftage.errors import DataError
from graftage.measure.compare import paired, paired_mean
from graftage.measure.interval import Estimate, proportion
from graftage.measure.scores import check, log_losses

Ints = NDArray[np.int64]
Key = tuple[str, str, int]  # digest, label, how many such rows came before: equal files are rows of their own

_SURE = 0.05  # the largest p at which one is called better
_ENOUGH = 20  # independent pictures below which a bootstrap of log-losses is too narrow to call a winner by
_OUT_OF_FOLD = (
    "the held-out answers of {} are out-of-fold: by models trained on the other folds, not by its model file, and not "
    "corrected for the choice that was made on the same folds"
)


@dataclass(frozen=True, eq=False)
class Held:
    """One classifier's answers for pictures that it has not learnt from.

    Attributes:
        name: what a person calls it.
        classes: K names, in the order of the probabilities.
        digests: n SHA-256 digests of the pictures' files.
        y: int64 (n,) true classes, places in `classes`.
        groups: int64 (n,) pictures that belong together; below 0 for one that is alone.
        probabilities: float64 (n, K).
        out_of_fold: whether the pictures were held out in turn and served to choose among configurations.
    """

    name: str
    classes: tuple[str, ...]
    digests: tuple[str, ...]
    y: Ints
    groups: Ints
    probabilities: NDArray[np.float64]
    out_of_fold: bool = False

    def keys(self) -> list[Key]:
        """What each row is matched by."""
        seen: Counter[tuple[str, str]] = Counter()
        found = []
        for digest, label in zip(self.digests, self.y, strict=True):
            picture = (digest, self.classes[label])
            found.append((*picture, seen[picture]))
            seen[picture] += 1
        return found

    def answers(self, rows: Ints) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(whether the row was called right, its log-loss in nats), both (m,), of m rows."""
        p, y = self.probabilities[rows], self.y[rows]
        return p.argmax(axis=1) == y, log_losses(p, y)


@dataclass(frozen=True)
class Compared:
    """Classifier a against classifier b on the same pictures.

    Attributes:
        a: name of the first.
        b: name of the second.
        n: pictures that both answered and neither learnt from.
        groups: independent groups among them (n where no two belong together).
        only_a: pictures held out by a only; they are left out.
        only_b: likewise by b.
        accuracy_a: 0 to 1.
        accuracy_b: likewise.
        difference: accuracy of a minus that of b, -1 to 1; its interval is of the paired difference.
        both_right: pictures that both called right.
        a_right: pictures that only a called right.
        b_right: pictures that only b called right.
        both_wrong: pictures that neither called right.
        p: exact two-sided McNemar test of the difference (on groups, where pictures belong together), 0 to 1.
        log_loss_a: mean, in nats; lower is better.
        log_loss_b: likewise.
        log_loss_difference: log-loss of a minus that of b, paired; below 0 a is better.
        verdict: what follows, in plain words.
        notes: what to keep in mind.
    """

    a: str
    b: str
    n: int
    groups: int
    only_a: int
    only_b: int
    accuracy_a: Estimate
    accuracy_b: Estimate
    difference: Estimate
    both_right: int
    a_right: int
    b_right: int
    both_wrong: int
    p: float
    log_loss_a: Estimate
    log_loss_b: Estimate
    log_loss_difference: Estimate
    verdict: str
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> tuple[str, ...]:
        """About ten lines for a person."""
        gain, loss = self.difference, self.log_loss_difference
        within = f" in {self.groups:,} independent groups" if self.groups < self.n else ""
        left = f"; left out: {self.only_a:,} held out by A only, {self.only_b:,} by B only"
        return (
            f"A                   {self.a}",
            f"B                   {self.b}",
            f"compared            on {self.n:,} pictures{within}{left if self.only_a or self.only_b else ''}",
            f"accuracy            A {self.accuracy_a.percent()}, B {self.accuracy_b.percent()}",
            f"difference A - B    {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
            f"right               both {self.both_right:,}, only A {self.a_right:,}, only B {self.b_right:,}, "
            f"neither {self.both_wrong:,}; McNemar {_p_value(self.p)}",
            f"log-loss            A {self.log_loss_a.value:.3f}, B {self.log_loss_b.value:.3f}; "
            f"A - B {loss.value:+.3f} ({loss.low:+.3f} to {loss.high:+.3f})",
            f"verdict             {self.verdict}",
            *(f"note                {note}" for note in self.notes),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, an estimate as a record of value, low, high, method and level."""
        return asdict(self)


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def compare(a: Held, b: Held, *, seed: int, notes: Sequence[str] = ()) -> Compared:
    """Compares two classifiers on the pictures that both have answered.

    Args:
        a: answers of the first.
        b: answers of the second.
        seed: of the bootstrap.
        notes: what a reader should know of how the answers came about.

    Raises:
        DataError: other classes, other labels, or no picture held out by both.
    """
    rows_a, rows_b = match(a, b)
    groups = merge_groups(a.groups[rows_a], b.groups[rows_b])
    (right_a, losses_a), (right_b, losses_b) = a.answers(rows_a), b.answers(rows_b)
    against = paired(right_a, right_b, groups, rng=np.random.default_rng([seed, 7]))
    loss_a, loss_b, loss = (
        paired_mean(losses, groups, rng=np.random.default_rng([seed, 8]))
        for losses in (losses_a, losses_b, losses_a - losses_b)
    )
    n, n_groups = len(groups), int(groups.max()) + 1
    return Compared(
        a=a.name,
        b=b.name,
        n=n,
        groups=n_groups,
        only_a=len(a.y) - n,
        only_b=len(b.y) - n,
        accuracy_a=proportion(right_a.astype(np.float64), groups),
        accuracy_b=proportion(right_b.astype(np.float64), groups),
        difference=against.difference,
        both_right=int((right_a & right_b).sum()),
        a_right=against.b,
        b_right=against.c,
        both_wrong=int((~right_a & ~right_b).sum()),
        p=against.p,
        log_loss_a=loss_a,
        log_loss_b=loss_b,
        log_loss_difference=loss,
        verdict=verdict(against.difference, against.p, loss, n=n, groups=n_groups),
        notes=(*notes, *_fold_notes(a, b)),
    )


def _fold_notes(a: Held, b: Held) -> list[str]:
    turned = [letter for letter, held in (("A", a), ("B", b)) if held.out_of_fold]
    return [_OUT_OF_FOLD.format(" and of ".join(turned))] if turned else []


def verdict(difference: Estimate, p: float, loss: Estimate, *, n: int, groups: int) -> str:
    """In plain words: which is better by accuracy, if the test and the interval both say so; and which by log-loss."""
    by_accuracy = _winner(difference) if p < _SURE else ""
    by_loss = _winner(loss, lower_is_better=True) if groups >= _ENOUGH else ""
    first = f"{by_accuracy} is better" if by_accuracy else f"no difference can be shown (n = {n:,})"
    if not by_loss:
        return first
    return f"{first}; by log-loss {by_loss} is better{', too' if by_loss == by_accuracy else ''}"


def _winner(difference: Estimate, *, lower_is_better: bool = False) -> str:
    if difference.low <= 0 <= difference.high or difference.low == difference.high:
        return ""
    return "A" if (difference.low > 0) != lower_is_better else "B"


def match(a: Held, b: Held) -> tuple[Ints, Ints]:
    """Rows of a and rows of b that are the same pictures, both int64 (m,), in an order that both sides share.

    Raises:
        DataError: other classes, other labels, or no picture held out by both.
    """
    require_same_classes((a.name, a.classes), (b.name, b.classes))
    _require_same_labels(a, b)
    places_a = {key: row for row, key in enumerate(a.keys())}
    places_b = {key: row for row, key in enumerate(b.keys())}
    shared = sorted(places_a.keys() & places_b.keys())
    if not shared:
        raise DataError(
            f"no picture was held out in both {a.name} and {b.name}: train both on the same pictures with the same "
            "--seed and --test, or give pictures for both to answer with --data PHOTOS"
        )
    return (
        np.array([places_a[key] for key in shared], dtype=np.int64),
        np.array([places_b[key] for key in shared], dtype=np.int64),
    )


def require_same_classes(a: tuple[str, Sequence[str]], b: tuple[str, Sequence[str]]) -> None:
    """Checks that two classifiers, (name, classes) each, know the same classes, in whatever order. Raises DataError."""
    only = [(name, sorted(set(own) - set(other))) for (name, own), (_, other) in ((a, b), (b, a))]
    told = [f"only {name}: {', '.join(classes[:5])}{' …' * (len(classes) > 5)}" for name, classes in only if classes]
    if told:
        raise DataError(
            f"{a[0]} and {b[0]} know different classes ({'; '.join(told)}): a comparison needs the same classes"
        )


def _require_same_labels(a: Held, b: Held) -> None:
    labels_a, labels_b = _labels(a), _labels(b)
    shared = labels_a.keys() & labels_b.keys()
    differ = sorted(digest for digest in shared if not labels_a[digest] & labels_b[digest])
    if differ:
        one = differ[0]
        raise DataError(
            f"{len(differ):,} of {len(shared):,} shared pictures have another label in {a.name} than in {b.name}, such "
            f"as {', '.join(sorted(labels_a[one]))} and {', '.join(sorted(labels_b[one]))} for the picture of digest "
            f"{one[:16]} (see their ledger.csv): train or evaluate both on the same labels"
        )


def _labels(held: Held) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for digest, label in zip(held.digests, held.y, strict=True):
        found[digest].add(held.classes[label])
    return found


def read_run(name: str, *, predictions: Path, ledger: Path, metrics: Path) -> Held:
    """The held-out answers that a run, or an evaluation, has left.

    Args:
        name: what to call it.
        predictions: its `predictions.csv`: id, label, and a column "p:CLASS" for every class.
        ledger: its `ledger.csv`, which knows every id's digest and group.
        metrics: its `metrics.json`, which says how the pictures were held out; need not be there.

    Raises:
        DataError: a table is missing, damaged, or does not belong to the other.
    """
    ids, labels, classes, p = _read_predictions(predictions)
    known = _read_ledger(ledger)
    strangers = [i for i in ids if not known.get(i, ("", -1))[0]]
    if strangers:
        raise DataError(
            f"{ledger}: has no digest for {len(strangers):,} of the pictures in {predictions.name}, such as "
            f"{strangers[0]}: the two tables are not of the same run"
        )
    places = {label: k for k, label in enumerate(classes)}
    y = np.array([places.get(label, -1) for label in labels], dtype=np.int64)
    try:
        check(p, y)
    except DataError as error:
        raise DataError(f"{predictions}: {error}") from error
    digests, groups = zip(*(known[i] for i in ids), strict=True)
    return Held(name, classes, digests, y, np.array(groups, dtype=np.int64), p, _out_of_fold(metrics))


def _read_predictions(path: Path) -> tuple[list[str], list[str], tuple[str, ...], NDArray[np.float64]]:
    ids, labels, numbers = [], [], []
    with _table(path) as rows:
        header = next(rows, [])
        place_id, place_label = header.index("id"), header.index("label")
        columns = [i for i, name in enumerate(header) if name.startswith("p:")]
        for row in rows:
            ids.append(row[place_id])
            labels.append(row[place_label])
            numbers.append(np.array([float(row[i]) for i in columns]))
    classes = tuple(header[i].removeprefix("p:") for i in columns)
    return ids, labels, classes, np.array(numbers).reshape(len(ids), len(classes))


def _read_ledger(path: Path) -> dict[str, tuple[str, int]]:
    with _table(path) as rows:
        header = next(rows, [])
        i, digest, group = (header.index(name) for name in ("id", "digest", "group"))
        found: dict[str, tuple[str, int]] = {}
        for row in rows:
            if row[digest] or row[i] not in found:  # a table may list a file twice: one row is used, and has a digest
                found[row[i]] = row[digest], int(row[group])
        return found


@contextmanager
def _table(path: Path) -> Iterator[Iterator[list[str]]]:
    """The rows of a csv file; whatever is wrong with them, the message names the file and the line."""
    line = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            try:
                yield reader
            finally:
                line = reader.line_num
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it is one of the tables of a run") from error
    except (csv.Error, ValueError, IndexError) as error:
        raise DataError(f"{path}: line {line} is not as graftage writes it ({error}); is the run complete?") from error


def _out_of_fold(metrics: Path) -> bool:
    try:
        how = json.loads(metrics.read_text(encoding="utf-8"))["how"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{metrics}: cannot be read ({error}); is the run complete?") from error
    return "cross-validation" in str(how)
