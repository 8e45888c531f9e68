"""Model → a file for another runtime, kept only if it answers as the model does on the user's own pictures (W).

An export is a folder: the graph, its metadata inside, and a short program that uses it without graftage. It is made
under a temporary name, asked about pictures from their raw bytes in its own runtime, and renamed if it passes.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from graftage.data.decode import MARGIN, decode
from graftage.data.sources import read
from graftage.errors import ExportError, OptionError, PictureError, StoreError
from graftage.features.extract import Progress
from graftage.serve.about import about
from graftage.serve.bundle import Bundle
from graftage.serve.predict import Prediction, Predictor
from graftage.serve.targets import TARGETS, Target
from graftage.serve.webfolder import add_page
from graftage.serve.wholegraph import LARGEST_SIDE, WholeGraph, exported_program

FORMAT = 1  # of the metadata
LEAST = 200  # pictures to check on, if there are so many
TOLERANCE = 1e-3  # largest difference of a probability
_AGAIN = 3  # pictures that are asked once more of the finished file
_SHOWN = 5  # of the worst pictures
_EXAMPLE = "example.py"


@dataclass(frozen=True)
class Answer:
    """What the two say of one picture.

    Attributes:
        path: the picture.
        label: of the model.
        other: of the export.
        margin: how much surer the model is of its label than of the next class.
        difference: largest of all classes' probabilities.
    """

    path: str
    label: str
    other: str
    margin: float
    difference: float


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
    """

    n: int
    rejected: int
    same: int
    worst: float
    tolerance: float
    otherwise: int


@dataclass(frozen=True)
class Exported:
    """An export that passed.

    Attributes:
        folder: where it is.
        target: its format.
        files: in the folder, with their sizes in bytes.
        checked: how it did.
    """

    folder: Path
    target: str
    files: Mapping[str, int]
    checked: Checked

    @property
    def summary(self) -> tuple[str, ...]:
        """A few lines for a person."""
        c = self.checked
        size = sum(self.files.values()) / 2**20
        lines = [
            f"checked on {c.n:,} pictures, from their files: {c.same:,} got the same label, "
            f"the largest difference of a probability is {c.worst:.1e} (allowed {c.tolerance:.0e})",
        ]
        if c.rejected:
            lines.append(f"{c.rejected:,} more could not be used")
        if c.otherwise and self.target != "web":
            lines.append(
                f"{c.otherwise:,} of them have transparency, 16 bits or an odd ICC profile, which {_EXAMPLE} leaves "
                "out: it gives other answers for such pictures"
            )
        return (*lines, f"{self.target:<12}{self.folder}  ({', '.join(self.files)}; {size:.1f} MiB)")


def export(
    predictor: Predictor,
    pictures: Sequence[Path],
    *,
    to: str,
    output: Path,
    runtime: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Writes an export, checks it, and keeps it if it passes.

    Args:
        predictor: the model, opened with precision "float32".
        pictures: to check it on.
        to: one of `TARGETS`.
        output: the folder, which must not exist.
        runtime: for "web": onnxruntime-web, as a folder or the file that `npm pack` leaves.
        progress: called with (done, total) pictures.

    Raises:
        OptionError: an unknown target, an output that exists, no pictures, a missing package or runtime.
        ExportError: no graph can be made, or it gives other answers; nothing is left behind.
        StoreError: the folder cannot be written.
    """
    target = _target(to)
    if output.exists() or output.is_symlink():
        raise OptionError(f"{output} exists already; name another folder with -o")
    if not pictures:
        raise OptionError("an export is checked before it is kept, and there are no pictures to check it on")
    program = exported_program(WholeGraph(predictor.bundle, exact=target.exact))
    with _appearing(output) as folder:
        graph = folder / target.file
        target.write(program, graph)
        answers, rejected, otherwise = compare(predictor, target, graph, pictures, progress)
        checked = judged(answers, rejected=rejected, otherwise=otherwise)
        target.label(graph, metadata(predictor.bundle, target.name, checked))
        _ask_again(predictor, target, graph, [Path(answer.path) for answer in answers[:_AGAIN]])
        if to == "web":
            add_page(folder, told(predictor.bundle, _name(predictor)), short_side(predictor.bundle), runtime)
        else:
            (folder / _EXAMPLE).write_text(example(to), encoding="utf-8")
    files = {file.relative_to(output).as_posix(): file.stat().st_size for file in sorted(output.rglob("*.*"))}
    return Exported(output, to, files, checked)


def _target(to: str) -> Target:
    if to not in TARGETS:
        raise OptionError(f"to must be one of {', '.join(TARGETS)}, got {to!r}")
    TARGETS[to].require()
    return TARGETS[to]


def example(to: str) -> str:
    """The text of the program that uses an export."""
    return (resources.files("graftage.serve") / "examples" / f"{to}.py").read_text("utf-8")


def _name(predictor: Predictor) -> str:
    path = Path(predictor.source or "model")
    return path.resolve().parent.name if path.stem == "model" and predictor.source else path.stem


# ---------------------------------------------------------------- metadata


def metadata(bundle: Bundle, to: str, checked: Checked) -> dict[str, Any]:
    """What lies in the file beside the graph, as JSON knows it.

    `classes` are in the order of the probabilities. A JPEG may be decoded at the smallest of 1, 1/2, 1/4 and 1/8 whose
    short side is at least `short_side` pixels, as training did. Thresholds: a class belongs to the prediction set where
    1 - p is at most `decisions.sets.threshold`, or where it is the most probable; an answer is promised where the
    largest probability is at least `decisions.answers.threshold`.
    """
    known = told(bundle, "")
    return {
        "format": FORMAT,
        "target": to,
        "precision": "float32",
        "input": {"name": "pixels", "type": "uint8", "shape": ["height", "width", 3], "largest_side": LARGEST_SIDE},
        "output": {"name": "probabilities", "type": "float32", "shape": [len(bundle.classes)]},
        **{
            key: known[key]
            for key in ("classes", "card", "scores", "learnt_from", "backbone", "created", "versions", "decisions")
        },
        "preprocess": bundle.preprocess.to_json(),
        "short_side": short_side(bundle),
        "pillow": PIL.__version__,
        "checked": asdict(checked),
    }


def told(bundle: Bundle, name: str) -> dict[str, Any]:
    """What a model says of itself, less what an export cannot do."""
    known = about(bundle, name)
    decisions = known["decisions"]
    if decisions["unlike"] is not None:
        reasons = {**decisions["reasons"], "unlike": "an export does not hold the detector of pictures unlike all seen"}
        decisions = {**decisions, "unlike": None, "reasons": reasons}
    return {**known, "decisions": decisions}


def short_side(bundle: Bundle) -> float:
    """Pixels that the short side of a scaled JPEG must still have."""
    return bundle.preprocess.cover * MARGIN


# ---------------------------------------------------------------- check


def compare(
    predictor: Predictor, target: Target, graph: Path, pictures: Sequence[Path], progress: Progress | None = None
) -> tuple[list[Answer], int, int]:
    """The model against the file in its own runtime, picture by picture from raw bytes.

    Returns:
        The answers; how many pictures the model cannot use, or are one pixel wide; how many the example would decode
        otherwise.
    """
    run, answers, rejected, otherwise = target.open(graph), list[Answer](), 0, 0
    for done, path in enumerate(pictures, start=1):
        try:
            data = read(path, limits=predictor.limits)
            pixels = decode(data, cover=predictor.bundle.preprocess.cover, limits=predictor.limits).pixels
            own = predictor.predict_bytes(data, name=str(path))
        except PictureError:
            rejected += 1
        else:
            if not 2 <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= LARGEST_SIDE:
                rejected += 1
                continue
            answers.append(_answer(own, run(np.ascontiguousarray(pixels)), predictor.classes))
            otherwise += not _decodes_alike(data, short_side(predictor.bundle), pixels)
        if progress is not None:
            progress(done, len(pictures))
    return answers, rejected, otherwise


def _answer(own: Prediction, found: NDArray[np.float32], classes: Sequence[str]) -> Answer:
    p = np.asarray(own.probabilities)
    difference = np.abs(p - found.astype(np.float64)).max() if found.shape == p.shape else np.inf
    worst = float(difference) if np.isfinite(difference) else float("inf")
    other = classes[int(found.argmax())] if found.shape == p.shape else ""
    return Answer(own.path, own.label, other, own.probability - own.runner_up_probability, worst)


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


def judged(answers: Sequence[Answer], *, rejected: int, otherwise: int, tolerance: float = TOLERANCE) -> Checked:
    """The record of a check that was passed.

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
    return Checked(len(answers), rejected, same, worst_of_all, tolerance, otherwise)


def _ask_again(predictor: Predictor, target: Target, graph: Path, pictures: Sequence[Path]) -> None:
    """The finished file, metadata and all, still opens, tells its classes and gives the right answers."""
    answers, rejected, otherwise = compare(predictor, target, graph, pictures)
    judged(answers, rejected=rejected, otherwise=otherwise)
    if list(target.read(graph)["classes"]) != list(predictor.classes):
        raise ExportError("the metadata cannot be read back from the file; it was not kept")


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes it if the block succeeds, and vanishes if it does not."""
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        temporary.chmod(0o755)
        yield temporary
        temporary.rename(output)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
