"""The flag of an export against that of the model: is a picture unlike those trained on? (C).

A p-value counts held-out training pictures that are at least as odd, so it moves in steps of one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftage.errors import ExportError
from graftage.measure.unlike import Unlike
from graftage.serve.predict import Prediction, Predictor
from graftage.serve.targets import Run, Said

TOLERANCE = 0.05  # largest difference of a p-value; or five held-out pictures where they are fewer than 100
CLOSE = 1e-3  # of a p-value to the threshold: there a flag may differ; or one held-out picture
LEAST_AGREEMENT = 0.98  # of flags, of an export in fewer bits
MADE_APART = 1  # of the made pictures, likewise: how many flags may differ
_ROUNDING = 1e-6  # of a p-value in float32
_SHOWN = 5


@dataclass(frozen=True)
class Flag:
    """What the two say of one picture.

    Attributes:
        path: the picture.
        p: p-value by the model, 0 to 1, low is odd.
        flagged: whether the model flags it.
        other_p: p-value by the export.
        other: whether the export flags it.
    """

    path: str
    p: float
    flagged: bool
    other_p: float
    other: bool

    @classmethod
    def of(cls, own: Prediction, found: Said) -> "Flag | None":
        """None where one of them has no detector."""
        if own.unlike_p is None or own.unlike is None or found.unlike_p is None or found.unlike is None:
            return None
        return cls(own.path, own.unlike_p, own.unlike, found.unlike_p, found.unlike)


@dataclass(frozen=True)
class Flags:
    """How the flag of an export did against that of the model.

    Attributes:
        n: pictures compared.
        same: of the n, how many got the same flag.
        flagged: of the n, how many the model flags.
        other: of the n, how many the export flags.
        strange: pictures made to be like no photograph, on which the two were compared as well.
        strange_flagged: of those, how many the model flags.
        strange_same: of those, how many got the same flag.
        worst: largest difference of a p-value, made pictures included.
        mean: mean difference of a p-value over the n.
        kept: whether the file holds the detector.
    """

    n: int
    same: int
    flagged: int
    other: int
    strange: int
    strange_flagged: int
    strange_same: int
    worst: float
    mean: float
    kept: bool = True

    @property
    def holds(self) -> bool:
        """Whether flags in fewer bits are near enough to those of the model."""
        return self.strange - self.strange_same <= MADE_APART and self.same >= LEAST_AGREEMENT * self.n

    @property
    def summary(self) -> str:
        """A line for a person."""
        text = (
            f"flag for pictures unlike those trained on: the same for {self.same:,} of {self.n:,} pictures ("
            f"{self.flagged:,} flagged by the model, {self.other:,} by the export) and for {self.strange_same} of "
            f"{self.strange} made to be strange; p-values differ by {self.worst:.1e} at most"
        )
        if self.kept:
            return text
        least = f"at least {LEAST_AGREEMENT:.0%}, and all but {MADE_APART} of the made ones, must be the same"
        return f"{text}; {least}: the file is left without the flag"


def made_strange() -> dict[str, bytes]:
    """Four pictures like no photograph, as PNG files by name: noise, one colour, stripes, a checkerboard."""
    y, x = np.mgrid[:96, :128]
    one = np.full((96, 128), 255)
    arrays = {
        "noise": np.random.default_rng(0).integers(0, 256, (96, 128, 3)),
        "one colour": np.stack([one, 0 * one, one], axis=2),
        "stripes": np.stack([255 * (x // 3 % 2)] * 3, axis=2),
        "checkerboard": np.stack([255 * ((x // 8 + y // 8) % 2), 0 * one, one], axis=2),
    }
    return {name: _png(array.astype(np.uint8)) for name, array in arrays.items()}


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def strange_flags(predictor: Predictor, run: Run) -> list[Flag]:
    """Flags of the made pictures; empty where one of the two has no detector."""
    found = []
    for name, data in made_strange().items():
        pixels = np.array(Image.open(BytesIO(data)))
        found.append(Flag.of(predictor.predict_bytes(data, name=f"made picture: {name}"), run(pixels)))
    return [flag for flag in found if flag is not None]


def flags_of(flags: Sequence[Flag], strange: Sequence[Flag]) -> Flags | None:
    """The record of both; None where there are none."""
    if not flags:
        return None
    return Flags(
        n=len(flags),
        same=sum(flag.flagged == flag.other for flag in flags),
        flagged=sum(flag.flagged for flag in flags),
        other=sum(flag.other for flag in flags),
        strange=len(strange),
        strange_flagged=sum(flag.flagged for flag in strange),
        strange_same=sum(flag.flagged == flag.other for flag in strange),
        worst=max(abs(flag.p - flag.other_p) for flag in (*flags, *strange)),
        mean=float(np.mean([abs(flag.p - flag.other_p) for flag in flags])),
    )


def require_same(unlike: Unlike, flags: Sequence[Flag]) -> None:
    """Raises ExportError where an export in float32 flags another picture, or gives another p-value."""
    step = 1 / (len(unlike.scale.joint) + 1)
    most, close = max(TOLERANCE, 5 * step) + _ROUNDING, max(CLOSE, step) + _ROUNDING
    wrong = [
        flag
        for flag in flags
        if not abs(flag.p - flag.other_p) <= most
        or (flag.flagged != flag.other and abs(flag.p - unlike.false_alarm) > close)
    ]
    if wrong:
        worst = sorted(wrong, key=lambda flag: -abs(flag.p - flag.other_p))[:_SHOWN]
        named = "; ".join(f"{flag.path}: p {flag.p:.4f} → {flag.other_p:.4f}" for flag in worst)
        raise ExportError(
            f"the export judges otherwise than the model whether {len(wrong):,} of {len(flags):,} pictures are unlike "
            f"those trained on (p-values may differ by {most:.3f}, flags within {close:.4f} of "
            f"{unlike.false_alarm:g}) and was not kept. Worst: {named}"
        )
