"""An export against the model, picture by picture from raw bytes, and the verdict (C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from graftage.data.decode import MARGIN, decode
from graftage.data.sources import read
from graftage.errors import ExportError, OptionError, PictureError
from graftage.features.extract import Progress
from graftage.serve.bundle import Bundle
from graftage.serve.flagging import Flag, Flags
from graftage.serve.predict import Prediction, Predictor
from graftage.serve.targets import Run, Said
from graftage.serve.wholegraph import LARGEST_SIDE

TOLERANCE = 1e-3  # largest difference of a probability
_SHOWN = 5  # of the worst pictures


@dataclass(frozen=True)
class Answer:
    """What the two say of one picture.

    Attributes:
        path: the picture.
        label: of the model.
        other: of the export.
        margin: how much surer the model is of its label than of the next class.
        difference: largest of all classes' probabilities.
        flag: whether it is unlike those trained on; None where one of them does not say.
        probabilities: of the model.
    """

    path: str
    label: str
    other: str
    margin: float
    difference: float
    flag: Flag | None = None
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True)
class Checked:
    """How an export did against the model.

    Attributes:
        n: pictures compared.
        rejected: pictures that the model cannot use, or a pixel wide, left out.
        same: of the n, how many got the same label.
        worst: largest difference of a probability.
        tolerance: that it may have; labels may differ where the margin is below twice as much.
        otherwise: of the n, how many the example decodes to other pixels: they have transparency, 16 bits, or an ICC
            profile in grey or CMYK, of which it knows nothing.
        flags: how the flag for pictures unlike those trained on did; None where the model has none.
    """

    n: int
    rejected: int
    same: int
    worst: float
    tolerance: float
    otherwise: int
    flags: Flags | None = None

    @property
    def summary(self) -> tuple[str, ...]:
        """A line or two for a person."""
        line = (
            f"checked on {self.n:,} pictures, from their files: {self.same:,} got the same label, "
            f"the largest difference of a probability is {self.worst:.1e} (allowed {self.tolerance:.0e})"
        )
        return (line,) if self.flags is None else (line, self.flags.summary)


def short_side(bundle: Bundle) -> float:
    """Pixels that the short side of a scaled JPEG must still have."""
    return bundle.preprocess.cover * MARGIN


def compare(
    predictor: Predictor, run: Run, pictures: Sequence[Path], progress: Progress | None = None
) -> tuple[list[Answer], int, int]:
    """The model against the file in its own runtime, picture by picture from raw bytes.

    Returns:
        The answers; how many pictures the model cannot use, or are one pixel wide; how many the example would decode
        otherwise.
    """
    answers, rejected, otherwise = list[Answer](), 0, 0
    for done, path in enumerate(pictures, start=1):
        try:
            data, pixels = usable(predictor, path)
        except PictureError:
            rejected += 1
        else:
            own = predictor.predict_bytes(data, name=str(path))
            answers.append(_answer(own, run(pixels), predictor.classes))
            otherwise += not _decodes_alike(data, short_side(predictor.bundle), pixels)
        if progress is not None:
            progress(done, len(pictures))
    return answers, rejected, otherwise


def usable(predictor: Predictor, path: Path) -> tuple[bytes, NDArray[np.uint8]]:
    """A file's bytes and its upright pixels (H, W, 3), contiguous.

    Raises:
        PictureError: the model cannot use it, or a side is too short or too long for an export.
    """
    data = read(path, limits=predictor.limits)
    pixels = decode(data, cover=predictor.bundle.preprocess.cover, limits=predictor.limits).pixels
    if not 2 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= LARGEST_SIDE:
        raise PictureError("a side that no export takes")
    return data, np.ascontiguousarray(pixels)


def _answer(own: Prediction, said: Said, classes: Sequence[str]) -> Answer:
    p, found = np.asarray(own.probabilities), said.probabilities
    difference = np.abs(p - found.astype(np.float64)).max() if found.shape == p.shape else np.inf
    worst = float(difference) if np.isfinite(difference) else float("inf")
    other = classes[int(found.argmax())] if found.shape == p.shape else ""
    margin = own.probability - own.runner_up_probability
    return Answer(own.path, own.label, other, margin, worst, Flag.of(own, said), own.probabilities)


def _decodes_alike(data: bytes, least: float, pixels: NDArray[np.uint8]) -> bool:
    try:
        return np.array_equal(_plainly(data, least), pixels)
    except Exception:  # Pillow and its colour library raise several kinds; to say so is all that is asked for
        return False


def _plainly(data: bytes, least: float) -> NDArray[np.uint8]:
    """Pixels as the examples decode them."""
    image: Image.Image = Image.open(BytesIO(data))
    if image.format == "JPEG":
        scale = next((s for s in (8, 4, 2) if min(image.size) // s >= least), 1)
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "icc_profile" in image.info:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        if "srgb" not in (profile.profile.profile_description or "").lower():
            ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), inPlace=True)
    return np.asarray(image.convert("RGB"))


def judged(
    answers: Sequence[Answer],
    *,
    rejected: int,
    otherwise: int,
    tolerance: float = TOLERANCE,
    flags: Flags | None = None,
) -> Checked:
    """The record of a check that was passed; of flags, `flagging` has the rule.

    Raises:
        OptionError: there was nothing to compare.
        ExportError: a probability differs by more than the tolerance, or a label where the margin is twice as large.
    """
    if not answers:
        raise OptionError(f"none of the {rejected:,} pictures to check the export on can be used")
    wrong = [a for a in answers if a.difference > tolerance or (a.label != a.other and a.margin >= 2 * tolerance)]
    if wrong:
        worst = sorted(wrong, key=lambda a: -a.difference)[:_SHOWN]
        named = "; ".join(f"{a.path}: {a.label} → {a.other or 'nothing'}, off by {a.difference:.1e}" for a in worst)
        raise ExportError(
            f"the export gives other answers than the model for {len(wrong):,} of {len(answers):,} pictures "
            f"(allowed: {tolerance:.0e}) and was not kept. Worst: {named}"
        )
    same = sum(a.label == a.other for a in answers)
    worst_of_all = max(a.difference for a in answers)
    return Checked(len(answers), rejected, same, worst_of_all, tolerance, otherwise, flags)
