"""Shortcuts: does something beside the content predict the label? Then a classifier may have learnt that instead.

Each clue (file size, picture size, format, colour, border, camera, name) gets a naive Bayes classifier on values cut
into bins, held out in the same folds as the content's classifier, and is compared with the most frequent class and with
the content.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graftage.data.quality import Traits
from graftage.measure.compare import paired
from graftage.measure.interval import Estimate, proportion

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS: Final = 8  # of a number, by quantiles of the pictures learnt from
NEARLY: Final = 0.8  # share of the content's gain over the most frequent class that is suspiciously good
NOTABLE: Final = 0.5  # share that is worth a look
_COMMON: Final = 30  # different words of a clue; rarer ones count as one
_NAMES: Final = ("pattern of the file name", "number in the file name")
_SMOOTHING: Final = 1.0  # pictures that every bin of every class begins with


@dataclass(frozen=True, eq=False)
class Clue:
    """Something about the pictures that is not their content.

    Attributes:
        name: in words.
        numbers: float64 (n, F), F may be 0.
        words: one per picture, or none.
        seen: whether a network can see it in the picture's content too, so that it may be honest (colour, brightness).
    """

    name: str
    numbers: Floats
    words: tuple[str, ...] = ()
    seen: bool = False


@dataclass(frozen=True)
class Shortcut:
    """How well a clue predicts the label, on pictures held out.

    Attributes:
        clue: its name.
        accuracy: of the clue alone, with its interval.
        majority: accuracy of always naming the most frequent class.
        content: accuracy of the content's classifier, on the same pictures.
        share: of the content's gain over the most frequent class, what the clue alone gains; 0 to 1 and above.
        better: whether the clue measurably beats the most frequent class (exact McNemar test, 1 %).
        seen: as of the clue.
        n: pictures.
    """

    clue: str
    accuracy: Estimate
    majority: float
    content: float
    share: float
    better: bool
    seen: bool
    n: int

    @property
    def verdict(self) -> str:
        """ "nearly as good as the content", "notable", or "" where there is nothing to say."""
        if not self.better or self.share < NOTABLE:
            return ""
        return "nearly as good as the content" if self.share >= NEARLY else "notable"

    @property
    def serious(self) -> bool:
        """Whether a classifier may well have learnt this instead of the content: nearly as good, and in no name.

        What is seen in the content too may be honest; no network sees the name of a file.
        """
        return bool(self.verdict) and self.share >= NEARLY and not self.seen and self.clue not in _NAMES

    def words(self) -> str:
        """What the clue alone can do, against what."""
        return (
            f"alone it names {self.accuracy.percent()} of the labels, the most frequent class "
            f"{100 * self.majority:.1f} %, the content {100 * self.content:.1f} %"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "clue": self.clue,
            "accuracy": vars(self.accuracy),
            "majority": self.majority,
            "content": self.content,
            "share": self.share,
            "verdict": self.verdict,
        }


def clues(looks: Sequence[Traits], names: Sequence[str], labels: Sequence[str]) -> tuple[Clue, ...]:
    """The clues that vary within the set.

    Args:
        looks: n pictures.
        names: their file names without folder.
        labels: their class names; a class's name within a file's name is no clue, but how people name files. The names
            of all classes are taken out of every file's name: taking out its own alone would give the label away.
    """
    classes = _any_of(labels)
    stems = [classes.sub("", name.rpartition(".")[0] or name) for name in names]
    found = (
        Clue("file size", _columns([math.log(max(each.bytes, 1)) for each in looks])),
        Clue("picture size", np.log(_columns([each.width for each in looks], [each.height for each in looks]))),
        Clue("picture shape", np.log(_columns([each.width / each.height for each in looks]))),
        Clue("file format", _columns(), tuple(each.format for each in looks)),
        Clue("mean colour", np.array([each.colour for each in looks]), seen=True),
        Clue(
            "brightness and contrast",
            np.array([(each.low, each.mean, each.high, each.contrast) for each in looks]),
            seen=True,
        ),
        Clue("border", np.array([each.border for each in looks]), seen=True),
        Clue("camera (EXIF)", _columns(), tuple(each.camera for each in looks)),
        Clue(_NAMES[0], _columns(), tuple(re.sub(r"[0-9]+", "#", stem) for stem in stems)),
        Clue(_NAMES[1], _columns([_number(stem) for stem in stems])),
    )
    return tuple(clue for clue in found if _varies(clue))


def _columns(*columns: Sequence[float]) -> Floats:
    return np.array(columns, dtype=np.float64).T if columns else np.zeros((0, 0))


def _any_of(labels: Sequence[str]) -> re.Pattern[str]:
    """Finds the name of any class; one that is a number, only where it is the whole number."""
    longest = sorted(set(filter(None, labels)), key=lambda label: (-len(label), label))
    parts = (rf"(?<![0-9]){name}(?![0-9])" if re.fullmatch("[0-9]+", name) else re.escape(name) for name in longest)
    return re.compile("|".join(parts) or "(?!)", re.IGNORECASE)


def _number(stem: str) -> float:
    """The last number in a name, by which cameras count; -1 where there is none."""
    found = re.findall(r"[0-9]+", stem)
    return float(found[-1][-9:]) if found else -1.0


def _varies(clue: Clue) -> bool:
    return len(set(clue.words)) > 1 or bool(clue.numbers.size and np.ptp(clue.numbers, axis=0).max() > 1e-9)


def shortcuts(
    clues: Sequence[Clue], y: Ints, folds: Ints, groups: Ints, content: Ints, *, rng: np.random.Generator
) -> tuple[Shortcut, ...]:
    """Every clue's held-out accuracy, the best share first.

    Args:
        clues: of n pictures.
        y: int64 (n,) labels 0..K-1.
        folds: int64 (n,) the fold in which each is held out.
        groups: int64 (n,) copies, for the intervals.
        content: int64 (n,) what the content's classifier answered, held out.
        rng: of the paired bootstrap.
    """
    n_classes = int(y.max()) + 1
    majority = _held_out(Clue("", np.zeros((len(y), 0))), y, folds, n_classes) == y
    base, best = float(majority.mean()), float((content == y).mean())
    found = []
    for clue in clues:
        right = _held_out(clue, y, folds, n_classes) == y
        accuracy = proportion(right.astype(np.float64), groups)
        p = paired(right, majority, groups, rng=rng, draws=50).p
        better = p is not None and p < 0.01 and accuracy.value > base
        share = (accuracy.value - base) / (best - base) if best > base else float(accuracy.value > base)
        found.append(Shortcut(clue.name, accuracy, base, best, share, better, clue.seen, len(y)))
    return tuple(sorted(found, key=lambda each: -each.share))


def _held_out(clue: Clue, y: Ints, folds: Ints, n_classes: int) -> Ints:
    """Naive Bayes' answers (n,), each by the pictures outside its fold."""
    out = np.zeros(len(y), dtype=np.int64)
    for fold in np.unique(folds):
        asked = folds == fold
        learnt = ~asked
        counts = np.bincount(y[learnt], minlength=n_classes) + 1e-9
        scores = np.tile(np.log(counts), (int(asked.sum()), 1))
        for codes in (*_binned(clue.numbers, learnt), *_worded(clue.words, learnt)):
            scores += _evidence(codes, y, learnt, n_classes)[codes[asked]]
        out[asked] = scores.argmax(axis=1)
    return out


def _evidence(codes: Ints, y: Ints, learnt: NDArray[np.bool_], n_classes: int) -> Floats:
    """Log-probability of each bin given each class, (bins, K), smoothed."""
    bins = int(codes.max()) + 1
    table = np.bincount(codes[learnt] * n_classes + y[learnt], minlength=bins * n_classes).reshape(bins, n_classes)
    smooth = table + _SMOOTHING
    return np.asarray(np.log(smooth / smooth.sum(axis=0)))


def _binned(numbers: Floats, learnt: NDArray[np.bool_]) -> list[Ints]:
    steps = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = [np.unique(np.quantile(column[learnt], steps)) for column in numbers.T]
    return [np.searchsorted(e, c, side="right").astype(np.int64) for e, c in zip(edges, numbers.T, strict=True)]


def _worded(words: Sequence[str], learnt: NDArray[np.bool_]) -> list[Ints]:
    if not words:
        return []
    common = Counter(word for word, used in zip(words, learnt, strict=True) if used).most_common(_COMMON)
    places = {word: i for i, (word, count) in enumerate(common, start=1) if count > 1}
    return [np.array([places.get(word, 0) for word in words], dtype=np.int64)]
