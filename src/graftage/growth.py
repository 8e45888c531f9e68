"""The steps of `graftage curve`: refits on parts of the pictures, the curve through them, and what it says in words."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import DataError, OptionError
from graftage.learn.refits import refit
from graftage.measure.curve import (
    FARTHEST,
    FEWEST_OF_CLASS,
    FEWEST_SIZES,
    REPLICATES,
    ClassGain,
    Curve,
    Metric,
    Needed,
    Refits,
    curve_sizes,
    learning_curve,
)
from graftage.measure.interval import Estimate
from graftage.measure.worth import Worth
from graftage.progress import Journal
from graftage.report.curve import ClassRow, Growth, Rival
from graftage.report.fan import Fan
from graftage.writing import finite

Ints = NDArray[np.int64]

AGAINST = ("", "scratch")  # what a curve can be held against
METRICS: tuple[Metric, ...] = ("accuracy", "balanced_accuracy")
_FEWEST = 10  # different pictures
_BESIDE, _BESIDE_REPLICATES = 1000, 5  # pictures up to which a report has a curve, and its refits of each size
SOURCE = "conditional on new pictures coming from the same source"


@dataclass(frozen=True, eq=False)
class Curved:
    """What `curve` found.

    Attributes:
        curve: measured and foretold scores.
        classes: names; `curve.classes` are in the same order.
        path: the page; a json file of the same name lies beside it.
        summary: a few lines for a person.
        notes: what to keep in mind.
        worth: the curve of the same network trained from scratch beside its own, where that was asked for.
    """

    curve: Curve
    classes: tuple[str, ...]
    path: Path
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    worth: Worth | None = None


def metric_of(name: str) -> Metric:
    """The metric of that name, with - or _. Raises OptionError for one that has no curve."""
    plain = name.replace("-", "_")
    for metric in METRICS:
        if metric == plain:
            return metric
    raise OptionError(f"metric must be accuracy or balanced-accuracy for a curve, got {name!r}")


def require_target(target: float | None) -> None:
    """Raises OptionError for a score that cannot be asked for."""
    if target is not None and not 0 < target < 1:
        raise OptionError(f"target must lie between 0 and 1, such as 0.95 for 95 %, got {target:g}")


def require_against(against: str, budget: str, epochs: int | None) -> None:
    """Raises OptionError for what a curve cannot be held against, and for a budget that nothing would be spent on."""
    if against not in AGAINST:
        raise OptionError(f"against must be scratch, the same network trained from random weights; got {against!r}")
    if (budget or epochs) and not against:
        raise OptionError("--budget and --epochs are for the trainings of --against scratch; a curve itself has none")


def curve_of(
    X: NDArray[np.float32], y: Ints, groups: Ints, *, metric: Metric, target: float | None, seed: int, journal: Journal
) -> Curve:
    """The learning curve of pictures with features X (n, D), classes y (n,) and groups (n,).

    Raises:
        DataError: too few pictures for a single refit.
    """
    sizes = curve_sizes(len(y), int(y.max()) + 1)
    if not len(sizes) or len(np.unique(groups)) < _FEWEST:
        raise DataError(
            f"{len(y):,} pictures, {len(np.unique(groups)):,} of them different, are too few for a curve: "
            "add pictures, ten or more of each class"
        )
    with journal.stage("refits"):
        right = refit(
            X, y, groups, sizes, replicates=REPLICATES, seed=seed, step=journal.watcher.progress
        )  # fmt: skip
    with journal.stage("curve"):
        refits = Refits(sizes, right, y, groups)
        return learning_curve(refits, metric=metric, target=target, rng=np.random.default_rng([seed, 9]))


def beside_training(X: NDArray[np.float32], y: Ints, groups: Ints, *, seed: int, journal: Journal) -> Curve | None:
    """The curve for the report of a training run, from fewer refits; None where it takes too long, or cannot be.

    Args:
        X: float32 (n, D) frozen features; y: int64 (n,) classes; groups: int64 (n,) what belongs together.
        seed: of the parts and the bootstrap.
        journal: told how it goes on.
    """
    sizes = curve_sizes(len(y), int(y.max()) + 1)
    if len(y) > _BESIDE or len(sizes) < FEWEST_SIZES or len(np.unique(groups)) < _FEWEST:
        return None
    with journal.stage("learning curve"):
        right = refit(X, y, groups, sizes, replicates=_BESIDE_REPLICATES, seed=seed)
        return learning_curve(Refits(sizes, right, y, groups), rng=np.random.default_rng([seed, 9]))


def section(curve: Curve | None) -> tuple[Fan, str] | None:
    """The figure of a report and a sentence; None where there is no curve."""
    return None if curve is None else (_fan(curve), _verdict(curve))


def few_notes(y: Ints, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What must be said of classes that are too small to tell anything of; y is int64 (n,)."""
    counts = np.bincount(y, minlength=len(classes))
    few = [f"{classes[k]} ({counts[k]})" for k in np.flatnonzero(counts < FEWEST_OF_CLASS)]
    if not few:
        return ()
    named = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
    return (f"too few pictures to tell what more would do for them (fewer than {FEWEST_OF_CLASS}): {named}",)


def metric_words(metric: Metric) -> str:
    """The metric as it is said."""
    return metric.replace("_", " ")


def summary(curve: Curve, classes: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """A few lines for the terminal."""
    name = metric_words(curve.metric)
    most, last = int(curve.sizes[-1]), curve.measured[-1]
    lines = [f"{curve.n:,} pictures of {len(classes):,} classes; {name} with {most:,} of them: {last.percent()}"]
    if curve.trouble:
        lines.append(f"not carried on      {curve.trouble}")
    for pictures, score in curve.expected:
        what = "with all" if pictures == curve.n else f"with {pictures / curve.n:.2g} ×"
        lines.append(f"expected {what:<10} {score.percent()}, {pictures:,} pictures")
    lines += [f"for {100 * n.target:g} %{'':<11} {need_words(n, curve)}" for n in [curve.needed] if n]
    lines.append(f"least often right   {class_words(curve, classes)}")
    if not curve.trouble:
        lines.append(f"80 % intervals, {SOURCE}; frozen features with a ridge head")
    return (*lines, f"page                {path}")


def need_words(needed: Needed, curve: Curve) -> str:
    """How many pictures a target takes."""
    if not needed.reachable:
        best = "" if curve.ceiling is None else f"; the most it comes to is {100 * curve.ceiling.high:.1f} %"
        return f"not reachable with this backbone by more pictures alone{best}"
    if needed.value <= curve.n:
        return f"reached with about {rounded(needed.value)} pictures, fewer than there are"
    if math.isinf(needed.low):
        return f"more than {curve.limit:,} pictures; nothing is said past that"
    if math.isinf(needed.value):
        return f"probably more than {curve.limit:,} pictures, {rounded(needed.low)} at the least (1 in 10)"
    high = f"more than {curve.limit:,}" if math.isinf(needed.high) else rounded(needed.high)
    return f"about {rounded(needed.value)} pictures in all ({rounded(needed.low)} to {high}, 80 % interval)"


def rounded(pictures: float) -> str:
    """A number of pictures to three digits."""
    digits = 2 - math.floor(math.log10(max(pictures, 1.0)))
    return f"{round(pictures, min(digits, 0)):,.0f}"


def class_words(curve: Curve, classes: tuple[str, ...]) -> str:
    """Which class is least often right now."""
    weakest = curve.weakest
    if weakest is None:
        return f"cannot be told: no class has {FEWEST_OF_CLASS} pictures"
    return f"{classes[weakest.label]}: {weakest.recall.percent()} right"


def page(
    curve: Curve,
    classes: tuple[str, ...],
    *,
    title: str,
    backbone: str,
    fit: str,
    notes: tuple[str, ...],
    rival: Rival | None = None,
) -> Growth:
    """What the page says; `rival` is what the curve is held against."""
    rows = [(int(m), "measured", score) for m, score in zip(curve.sizes, curve.measured, strict=True)]
    rows += [(m, "expected, all" if m == curve.n else f"expected, {m / curve.n:.2g} ×", s) for m, s in curve.expected]
    return Growth(
        title=title,
        verdict=_verdict(curve),
        notes=notes,
        fan=_fan(curve),
        metric=metric_words(curve.metric),
        rows=tuple(rows),
        facts=_facts(curve, classes, backbone, fit),
        classes=tuple(_class_row(c, classes) for c in _weakest_first(curve.classes)),
        how=_how(curve),
        rival=rival,
    )


def _fan(curve: Curve) -> Fan:
    measured = tuple((int(m), s) for m, s in zip(curve.sizes, curve.measured, strict=True))
    ahead = tuple((m, s) for m, s in curve.expected if m != curve.n)
    return Fan(measured, curve.fan, ahead, curve.n, None if curve.needed is None else curve.needed.target)


def _verdict(curve: Curve) -> str:
    if curve.trouble:
        return f"{curve.trouble[0].upper()}{curve.trouble[1:]}."
    name, now, twice = metric_words(curve.metric), curve.at(1.0), curve.at(2.0)
    if now is None or twice is None:
        return f"Measured up to {curve.sizes[-1]:,} pictures; so many more are not foretold from that."
    rise = round(100 * twice.value, 1) - round(100 * now.value, 1)  # of the numbers that are shown
    words = f"Twice the pictures would bring the {name} from about {100 * now.value:.1f} % to {twice.percent()}"
    return f"{words}: {rise:.1f} points more." if rise >= 0.05 else f"{words}: next to nothing."


def _facts(curve: Curve, classes: tuple[str, ...], backbone: str, fit: str) -> dict[str, str]:
    facts = {"pictures": f"{curve.n:,} of {len(classes):,} classes", "backbone": f"{backbone}, frozen; {fit}"}
    if curve.needed is not None:
        facts[f"pictures for {100 * curve.needed.target:g} %"] = need_words(curve.needed, curve)
    facts["least often right"] = class_words(curve, classes)
    if curve.ceiling is not None:
        facts["no better than, however many pictures"] = curve.ceiling.percent()
    return facts


def _weakest_first(gains: tuple[ClassGain, ...]) -> list[ClassGain]:
    return sorted(gains, key=lambda c: (c.recall.value if math.isfinite(c.recall.value) else math.inf, c.label))


def _class_row(c: ClassGain, classes: tuple[str, ...]) -> ClassRow:
    low, value, high = (100 * v for v in (c.gain.low, c.gain.value, c.gain.high))
    gain = f"{value:+.1f} points ({low:+.1f} to {high:+.1f})".replace("-", "\N{MINUS SIGN}")
    return ClassRow(classes[c.label], c.pictures, c.recall, gain if c.gain.measurable else "cannot be told")


def _how(curve: Curve) -> str:
    first = (
        f"At {len(curve.sizes)} sizes from {curve.sizes[0]:,} to {curve.sizes[-1]:,} pictures, {REPLICATES} "
        "classifiers each were trained on a part of the pictures, drawn class by class with equal files kept together, "
        "and tested on all others: ridge regression on frozen features, its penalty chosen within its own part. "
        "What graftage train ships is chosen among more heads, or is tuned, and is measured in its own report."
    )
    if curve.trouble:
        return f"{first}\n\nNothing is carried on from here, because {curve.trouble}."
    shares = ", ".join(f"{_LAWS[name]} {100 * share:.0f} %" for name, share in curve.believed)
    second = (
        f"Power laws through the error rates are weighted by what they foretell of the two largest sizes ({shares}) "
        "and carried on. Their fan comes from 300 draws in which the classifiers of each size, the pictures and the "
        "prior on the exponent are drawn anew; intervals hold the middle 80 %. Nothing is said past "
        f"{curve.limit:,} pictures, {FARTHEST} times what the refits cover."
    )
    return f"{first}\n\n{second}\n\nAll of it is {SOURCE}."


_LAWS = {"pow2": "η·nˠ", "pow3": "α + η·nˠ", "half": "α + η/√n"}


def curve_json(curve: Curve, classes: tuple[str, ...]) -> dict[str, Any]:
    """The curve as plain values; what is not known is None."""
    needed = curve.needed
    return {
        "metric": curve.metric,
        "pictures": curve.n,
        "limit": curve.limit,
        "condition": SOURCE,
        "measured": [_row(int(m), s) for m, s in zip(curve.sizes, curve.measured, strict=True)],
        "not_carried_on": curve.trouble or None,
        "expected": [_row(m, s) for m, s in curve.expected],
        "fan": [_row(m, s) for m, s in curve.fan],
        "families": dict(curve.believed),
        "ceiling": None if curve.ceiling is None else estimate_json(curve.ceiling),
        "target": None if needed is None else {
            "score": needed.target,
            "reachable": needed.reachable,
            **{name: finite(v) for name, v in (("p10", needed.low), ("p50", needed.value), ("p90", needed.high))},
            "words": need_words(needed, curve),
        },
        "least_often_right": None if curve.weakest is None else classes[curve.weakest.label],
        "classes": [
            {
                "name": classes[c.label],
                "pictures": c.pictures,
                "recall": estimate_json(c.recall),
                "gain_from_twice": estimate_json(c.gain) if c.gain.measurable else None,
            }
            for c in curve.classes
        ],
    }  # fmt: skip


def _row(pictures: int, score: Estimate) -> dict[str, Any]:
    return {"pictures": pictures, **estimate_json(score)}


def estimate_json(e: Estimate) -> dict[str, Any]:
    """An estimate as plain values."""
    return {"value": finite(e.value), "low": e.low, "high": e.high, "level": e.level, "method": e.method}
