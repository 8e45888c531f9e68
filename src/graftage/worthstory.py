"""What pretraining is worth, told: in a few lines for the terminal, on the curve's page, as plain values."""

import math
from typing import Any

from graftage.fromscratch import FromScratch, Trained
from graftage.growth import estimate_json, metric_words, rounded
from graftage.measure.curve import FARTHEST
from graftage.measure.interval import Estimate
from graftage.measure.worth import LUCK, Exchange, Worth
from graftage.report.curve import Rival, RivalRow
from graftage.report.fan import Fan
from graftage.writing import finite


def summary(found: FromScratch) -> tuple[str, ...]:
    """Lines for the terminal."""
    w = found.worth
    lines = [f"{'from scratch':<19} {m:,} pictures: {score.percent()}" for m, score in w.scratch]
    pairs = zip(w.same, w.gains, strict=True)
    lines += [f"{'pretrained':<19} {m:,} pictures: {same.percent()}; {_points(gain)}" for (m, same), (_, gain) in pairs]
    lines.append(f"{'pretraining':<19} {verdict(found)}")
    return (*lines, *(f"{'note':<19} {note}" for note in notes(found)))


def verdict(found: FromScratch) -> str:
    """What pretraining is worth in pictures; never more than was measured."""
    w = found.worth
    if not w.exchanges:
        m, gain = w.gains[-1]
        return (
            f"With the same {m:,} pictures the pretrained network is {_points(gain)} better than one from scratch. "
            f"More is not said, because of training from scratch: {w.trouble}."
        )
    end = f" Nothing is said past {w.limit:,} pictures from scratch, since {w.trouble}." if w.trouble else ""
    return f"{_exchanged(w)} {_back(w)}{end}"


def _exchanged(w: Worth) -> str:
    known = [e for e in w.exchanges if e.value and math.isfinite(e.value)]
    if known:
        best = ([e for e in known if math.isfinite(e.high)] or known[:1])[-1]
        return (
            f"The pretrained network reaches with {best.pictures:,} pictures what training from scratch reaches with "
            f"{exchange_words(best, w)}."
        )
    least = w.exchanges[0]
    if math.isinf(least.value):
        return (
            f"What the pretrained network reaches with {least.pictures:,} pictures, "
            f"{dict(w.pretrained)[least.pictures].percent()}, training from scratch reaches with "
            f"{exchange_words(least, w)}."
        )
    return (
        f"What the pretrained network reaches with {w.exchanges[-1].pictures:,} pictures, training from scratch "
        f"reaches with {exchange_words(w.exchanges[-1], w)}."
    )


def exchange_words(e: Exchange, w: Worth) -> str:
    """How many pictures from scratch are as good, with an interval, or that nothing is said."""
    first = f"fewer than {w.scratch[0][0]:,}"
    past = f"more than {w.limit:,}, " + ("its" if w.trouble else f"{FARTHEST} times its") + " largest training"
    if math.isinf(e.low):
        return f"{past}; nothing is said past that"
    low = rounded(e.low) if e.low else first
    if math.isinf(e.value):
        return f"probably {past} ({low} at the least, 9 in 10)"
    if not e.value:
        return f"{first}, its smallest training"
    high = f"more than {w.limit:,}" if math.isinf(e.high) else rounded(e.high)
    return f"about {rounded(e.value)} ({low} to {high}, 80 % interval)"


def _back(w: Worth) -> str:
    """With how many pictures the pretrained network is as good as the largest training; "" where that is not known."""
    if w.back is None:
        return ""
    (m, score), (low, value, high) = w.scratch[-1], w.back
    first, most = w.pretrained[0][0], w.pretrained[-1][0]
    what = f"What training from scratch reaches with {m:,} pictures, {score.percent()}, the pretrained network has with"
    if not value:
        end = "" if not high else f" ({rounded(high)} at the most, 9 in 10)" if math.isfinite(high) else ""
        return f"{what} fewer than {first:,}{end}."
    if math.isinf(value):
        return f"{what} more than {most:,}."
    lowest = rounded(low) if low else f"fewer than {first:,}"
    highest = rounded(high) if math.isfinite(high) else f"more than {most:,}"
    return f"{what} about {rounded(value)} ({lowest} to {highest}, 80 % interval)."


def notes(found: FromScratch) -> tuple[str, ...]:
    """What makes the comparison unfair or incomplete."""
    said = []
    short = [t for t in found.trained if t.epochs < t.fair]
    if short:
        said.append(
            f"not a fair training from scratch, it had fewer epochs than its recipe gives: {_epochs(short)}. With more "
            "it would most likely be better, and pretraining worth less than is said here; take a longer --budget"
        )
    elif unfinished := [t for t in found.trained if t.train_loss > _learnt(found.classes)]:
        sizes = ", ".join(f"{t.pictures:,}" for t in unfinished)
        said.append(
            f"training from scratch had not learnt its own pictures at its end ({sizes} pictures): with more epochs it "
            "might be better"
        )
    if len(found.trained) < len(found.planned):
        left = ", ".join(f"{m:,}" for m in found.planned[len(found.trained) :])
        said.append(f"the time was too short for the trainings with {left} pictures; the same command goes on")
    return tuple(said)


def _learnt(classes: int) -> float:
    """Loss above which a network has not learnt even the pictures that it is shown: half of knowing nothing."""
    return 0.5 * math.log(classes)


def _epochs(some: list[Trained]) -> str:
    if len({(t.epochs, t.fair) for t in some}) == 1:
        sizes = ", ".join(f"{t.pictures:,}" for t in some)
        return f"{some[0].epochs} of {some[0].fair} epochs with {sizes} pictures"
    return ", ".join(f"{t.epochs} of {t.fair} epochs with {t.pictures:,} pictures" for t in some)


def _points(gain: Estimate) -> str:
    words = f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return words.replace("-", "\N{MINUS SIGN}")


def section(found: FromScratch) -> Rival:
    """What the page says."""
    w, scores = found.worth, dict(found.worth.pretrained)
    now = max(w.pretrained[-1][0], w.scratch[-1][0])
    fan = Fan(w.pretrained, w.pretrained_fan, (), now, None, w.scratch, w.scratch_fan)
    rows = tuple(
        RivalRow(m, score, same, gain, f"{t.epochs} of {t.fair}", f"{t.train_loss:.2f}")
        for (m, score), (_, same), (_, gain), t in zip(w.scratch, w.same, w.gains, found.trained, strict=True)
    )
    swapped = tuple((e.pictures, scores[e.pictures], exchange_words(e, w)) for e in w.exchanges)
    return Rival(verdict(found), notes(found), fan, metric_words(w.metric), rows, swapped, _how(found))


def _how(found: FromScratch) -> str:
    w, r = found.worth, found.recipe
    first = (
        f"{w.held:,} pictures were set apart, class by class, with equal and grouped ones kept together. Of the others "
        "ever larger parts were learnt from, each about twice the one before. From scratch: every weight of the same "
        f"architecture drawn at random, the whole network trained with {r['opt']}, peak learning rate {r['lr']:g} "
        f"(warm-up, then a cosine to 0), weight decay {r['weight_decay']:g}, {r['batch_size']} pictures a step, random "
        f"crops of {100 * r['crop_scale']:.0f} % or more and flips ({100 * r['hflip']:.0f} %), to the end of the "
        "epochs above, without early stopping. Pretrained: ridge regression on the network's frozen features, on "
        "the very same parts for the differences, and on eight parts of each size for its curve."
    )
    second = (
        "Both curves are drawn anew together in 300 bootstraps of the held-out pictures; how far the eight parts of a "
        "size differ is in them. Between the sizes trained, pictures are read off the line through the "
        "measured scores, beyond them off power laws of three families in equal shares, with a prior on the exponent, "
        "if these pass by the largest size. Intervals hold the middle 80 %. Each size was "
        "trained once from scratch: how much another start or another part would change it was not measured, and "
        f"{100 * LUCK:g} points (one standard deviation) are allowed for it. Nothing is said past {FARTHEST} times the "
        "pictures of the largest training."
    )
    return f"{first}\n\n{second}"


def to_json(found: FromScratch) -> dict[str, Any]:
    """As plain values; what is not known is None."""
    w = found.worth
    return {
        "held_out": w.held,
        "limit": w.limit,
        "verdict": verdict(found),
        "notes": list(notes(found)),
        "not_carried_on": w.trouble or None,
        "recipe": dict(found.recipe),
        "trained": [
            {
                "pictures": m,
                "epochs": t.epochs,
                "epochs_of_its_recipe": t.fair,
                "train_loss": t.train_loss,
                "score": estimate_json(score),
                "pretrained_is_better_by": estimate_json(gain),
            }
            for (m, score), (_, gain), t in zip(w.scratch, w.gains, found.trained, strict=True)
        ],
        "pretrained": [{"pictures": m, **estimate_json(score)} for m, score in w.pretrained],
        "as_good_from_scratch": [
            {"pictures": e.pictures, **{n: finite(v) for n, v in (("p10", e.low), ("p50", e.value), ("p90", e.high))}}
            for e in w.exchanges
        ],
        "as_good_pretrained": None
        if w.back is None
        else {n: finite(v) for n, v in zip(("p10", "p50", "p90"), w.back, strict=True)},
        "fan": [{"pictures": m, **estimate_json(score)} for m, score in w.scratch_fan],
    }
