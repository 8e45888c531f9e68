"""An export in fewer bits: how it is made, what it changes, whether that is little enough to keep it (C).

It cannot answer as the model does to a thousandth, so the change is measured: labels that differ, and where classes
are known the accuracy of both on the same pictures, a paired difference with its interval.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import ExportError, OptionError, PictureError
from graftage.measure.compare import paired
from graftage.measure.interval import Estimate, wilson
from graftage.serve.checking import Answer, usable
from graftage.serve.flagging import Flags
from graftage.serve.precision import Precision, halved, quantised
from graftage.serve.predict import Predictor
from graftage.serve.sample import Origin, Sample
from graftage.serve.targets import Run

MAX_LOSS = 1.0  # points of accuracy
LEAST_AGREEMENT = 0.98  # of labels, where classes are not known
_TIMED, _WARM = 20, 2  # pictures
_SHOWN = 5
_SLACK = 1e-9  # of a share: what its rounding may add
_FROM: Mapping[Origin, str] = {
    "test": "test pictures of the run",
    "training": "pictures that the model learnt from, where less changes than on new ones",
    "named": "pictures named by --check",
}


@dataclass(frozen=True)
class Changed:
    """How an export in fewer bits differs from the model in float32, on the same pictures from their files.

    Attributes:
        precision: "fp16" or "int8".
        n: pictures compared.
        rejected: pictures that the model cannot use, or a pixel wide, left out.
        otherwise: of the n, how many the example decodes to other pixels, see `checking.Checked`.
        same: of the n, how many got the same label.
        agreement: that share, 0 to 1, with its interval.
        worst: largest difference of a probability, of all pictures and classes.
        mean: largest difference of a picture's probabilities, mean over the pictures.
        calibrated: pictures that it was calibrated on.
        labelled: of the n, how many have a known class and are of the origin that accuracy is taken from.
        origin: of those.
        accuracy: of the export on them, 0 to 1; None if there are none.
        before: of the model in float32 on them.
        loss: before minus accuracy, the paired difference with its interval; None if there are none.
        max_loss: what it may be, as a share.
        flags: how the flag for pictures unlike those trained on did; None where the model has none.
    """

    precision: Precision
    n: int
    rejected: int
    otherwise: int
    same: int
    agreement: Estimate
    worst: float
    mean: float
    calibrated: int
    labelled: int
    origin: Origin
    accuracy: Estimate | None
    before: Estimate | None
    loss: Estimate | None
    max_loss: float
    flags: Flags | None = None

    @property
    def summary(self) -> tuple[str, ...]:
        """A few lines for a person."""
        lines = [
            f"checked on {self.n:,} pictures, from their files: {self.same:,} got the same label as in float32, "
            f"{self.agreement.percent()}; a picture's probabilities differ by {self.mean:.1e} in the mean, "
            f"{self.worst:.1e} at most",
            self.said,
        ]
        if self.flags is not None:
            lines.append(self.flags.summary)
        if self.calibrated:
            lines.append(f"calibrated on {self.calibrated:,} other pictures, none of the run's test set")
        return tuple(lines)

    @property
    def said(self) -> str:
        """The change of accuracy, in a sentence."""
        if self.accuracy is None or self.before is None or self.loss is None:
            return (
                "accuracy was not compared, since no classes are known: labels must agree on at least "
                f"{LEAST_AGREEMENT:.0%} of the pictures"
            )
        low, high = -100 * self.loss.high, -100 * self.loss.low
        return (
            f"accuracy on {self.labelled:,} {_FROM[self.origin]}: {self.before.percent()} in float32, "
            f"{self.accuracy.percent()} in {self.precision}; change {0.0 - 100 * self.loss.value:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), allowed {-100 * self.max_loss:+.1f}"
        )

    def card(self) -> dict[str, str]:
        """A section of the model card."""
        return {"heading": "Precision", "text": f"Exported in {self.precision}. {' '.join(_sentences(self))}"}


def _sentences(changed: Changed) -> Iterator[str]:
    for line in changed.summary:
        yield f"{line[0].upper()}{line[1:]}."


def lighten(model: Any, precision: Precision, predictor: Predictor, calibrate: Sequence[Path]) -> int:
    """Puts an ONNX model of `wholegraph` in fewer bits, where it is; gives the number of pictures calibrated on.

    Raises:
        OptionError: none of the pictures to calibrate on can be used.
        ExportError: it cannot be quantised.
    """
    if precision == "fp16":
        halved(model)
        return 0
    inputs = list(_inputs(predictor, calibrate))
    if not inputs:
        raise OptionError(f"none of the {len(calibrate):,} pictures to calibrate on can be used")
    scale, shift = predictor.bundle.preprocess.scale_and_shift()
    quantised(model, ((square * scale + shift).transpose(2, 0, 1)[None] for square in inputs))
    return len(inputs)


def _inputs(predictor: Predictor, pictures: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
    for path in pictures:
        try:
            yield predictor.bundle.preprocess.square(usable(predictor, path)[1])
        except PictureError:
            continue


def changed(
    answers: Sequence[Answer],
    sample: Sample,
    *,
    precision: Precision,
    counts: tuple[int, int, int],
    max_loss: float,
    flags: Flags | None = None,
) -> Changed:
    """The record of a change that is small enough.

    Args:
        answers: of the model and the export.
        sample: where the pictures are from, and their classes.
        precision: of the export.
        counts: pictures rejected, decoded otherwise by the example, and calibrated on.
        max_loss: share of accuracy that may be lost, by the paired estimate.
        flags: how the flag did.

    Raises:
        OptionError: there was nothing to compare.
        ExportError: accuracy falls by more, or no classes are known and too few labels agree.
    """
    rejected, otherwise, calibrated = counts
    if not answers:
        raise OptionError(f"none of the {rejected:,} pictures to check the export on can be used")
    if broken := [answer.path for answer in answers if not np.isfinite(answer.difference)]:
        raise ExportError(
            f"the export gives no probabilities for {len(broken):,} of {len(answers):,} pictures, such as {broken[0]}, "
            "and was not kept"
        )
    same = sum(answer.label == answer.other for answer in answers)
    differences = [answer.difference for answer in answers]
    known = [(answer, sample.labels[Path(answer.path)]) for answer in answers if Path(answer.path) in sample.labels]
    before, after, loss = _accuracies(known) if known else (None, None, None)
    found = Changed(
        precision=precision,
        n=len(answers),
        rejected=rejected,
        otherwise=otherwise,
        same=same,
        agreement=wilson(same / len(answers), len(answers)),
        worst=max(differences),
        mean=float(np.mean(differences)),
        calibrated=calibrated,
        labelled=len(known),
        origin=sample.origin,
        accuracy=after,
        before=before,
        loss=loss,
        max_loss=max_loss,
        flags=flags,
    )
    _refuse(found, answers)
    return found


def _refuse(found: Changed, answers: Sequence[Answer]) -> None:
    """Raises ExportError where the change is too large."""
    if found.loss is not None and found.loss.value > found.max_loss + _SLACK:
        raise ExportError(
            f"the export loses too much and was not kept: {found.said}. Allow more with --max-loss, or take "
            f"--precision {'fp16' if found.precision == 'int8' else 'float32'}. {_worst(answers)}"
        )
    if found.loss is None and found.agreement.value < LEAST_AGREEMENT:
        raise ExportError(
            f"the export gives another label for {found.n - found.same:,} of {found.n:,} pictures (at least "
            f"{LEAST_AGREEMENT:.0%} must agree where no classes are known) and was not kept. {_worst(answers)}"
        )


def _accuracies(known: Sequence[tuple[Answer, str]]) -> tuple[Estimate, Estimate, Estimate]:
    """Accuracy of the model, of the export, and what is lost."""
    own = np.array([answer.label == label for answer, label in known])
    other = np.array([answer.other == label for answer, label in known])
    n, rng = len(known), np.random.default_rng(0)
    loss = paired(own, other, np.arange(n), rng=rng).difference
    return wilson(float(own.mean()), n), wilson(float(other.mean()), n), loss


def _worst(answers: Sequence[Answer]) -> str:
    worst = sorted((a for a in answers if a.label != a.other), key=lambda a: -a.difference)[:_SHOWN]
    return "Worst: " + "; ".join(f"{a.path}: {a.label} → {a.other}, off by {a.difference:.1e}" for a in worst)


def timed(plain: Run, light: Run, pixels: Sequence[NDArray[np.uint8]]) -> tuple[float, float]:
    """Median seconds a picture of both, taken in turns over the first pictures."""
    times: tuple[list[float], list[float]] = ([], [])
    for picture in [*pixels[:_WARM], *pixels[:_TIMED]]:
        for run, taken in zip((plain, light), times, strict=True):
            started = time.perf_counter()
            run(picture)
            taken.append(time.perf_counter() - started)
    before, after = (float(np.median(taken[_WARM:])) for taken in times)
    return before, after
