"""How a picture looks as a photograph: dark, bright, blurred, empty, oddly shaped; measured on one small decode.

The measures and their limits are those that cleanvision uses (perceived brightness, entropy, edges of a 64-pixel
picture). A limit alone would flag all pictures of a set that is dark or grey by nature, so a picture is reported only
where it is past the limit and also far from the rest of its set.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftage.data.decode import Limits, decode

Floats = NDArray[np.float64]

SIDE: Final = 64  # pixels of the longer side that all is measured on
DARK: Final = 0.32  # the 99th percentile of brightness, 0 to 1, below which a picture is too dark
BRIGHT: Final = 0.95  # the 5th percentile above which it is too bright
EMPTY: Final = 3.0  # bits of entropy of the grey values below which there is hardly anything to see
BLURRED: Final = 0.29  # score of edges, 1 − exp(−spread / 100)
FLAT: Final = 0.18  # and at the same time the score of contrast: a sharp picture may have few edges
ODD_SHAPE: Final = 0.35  # short side to long side
FAR: Final = 3.0  # robust standard deviations from the median that make a picture unlike its set
FAR_SIZE: Final = 10.0  # interquartile ranges beyond the quartiles that make a size odd

_FEW = 5  # pictures below which nothing is said of what is usual in the set
BORDER: Final = 3  # pixels of SIDE
_CAMERA_TAGS = (271, 272)  # EXIF make and model
_EXIF_BYTES = 65_536


@dataclass(frozen=True)
class Traits:
    """What can be said of a picture without knowing what it shows; brightness and colour are measured at 64 pixels.

    Attributes:
        bytes: size of the file.
        format: "JPEG", "PNG", ... by content.
        camera: EXIF make and model, "" where there is none.
        width: pixels of the upright picture.
        height: likewise.
        low: 5th percentile of the brightness, 0 to 1.
        mean: its mean.
        high: its 99th percentile.
        contrast: standard deviation of the grey values, 0 to 1.
        colour: mean red, green and blue, 0 to 1.
        border: mean of the outermost pixels, grey or red, green and blue, and their standard deviation, 0 to 1.
    """

    bytes: int
    format: str
    camera: str
    width: int
    height: int
    low: float
    mean: float
    high: float
    contrast: float
    colour: tuple[float, float, float]
    border: tuple[float, ...]


@dataclass(frozen=True)
class Look(Traits):
    """One picture as a photograph; brightness is that perceived.

    Attributes:
        entropy: of the grey values, 0 to 8 bits.
        edges: standard deviation of the edge filter's answer, 0 to 255.
    """

    entropy: float
    edges: float


def look(data: bytes, *, limits: Limits, repair: bool = False) -> Look:
    """Measures one file's picture. Raises PictureError."""
    picture = decode(data, cover=SIDE, limits=limits, repair=repair)
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    rgb = np.asarray(image, dtype=np.float32)
    brightness = np.sqrt(np.square(rgb) @ np.array([0.241, 0.691, 0.068], dtype=np.float32)) / 255
    grey = np.rint(rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32))
    share = np.bincount(grey.astype(np.int64).ravel(), minlength=256) / grey.size
    share = share[share > 0]
    low, high = np.percentile(brightness, [5, 99])
    red, green, blue = (float(v) for v in rgb.mean(axis=(0, 1)) / 255)
    return Look(
        bytes=len(data),
        format=picture.format,
        camera=camera(data),
        width=picture.width,
        height=picture.height,
        low=float(low),
        mean=float(brightness.mean()),
        high=float(high),
        contrast=float(grey.std() / 255),
        entropy=max(0.0, float(-(share * np.log2(share)).sum())),
        edges=_edges(grey),
        colour=(red, green, blue),
        border=_border(rgb),
    )


def _edges(grey: NDArray[np.float32]) -> float:
    """Spread of 8·centre − neighbours, cut to 0..255: what Pillow's FIND_EDGES answers."""
    if min(grey.shape) < 3:
        return 0.0
    rows = grey[:-2] + grey[1:-1] + grey[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return float(np.clip(9 * grey[1:-1, 1:-1] - around, 0, 255).std())


def _border(rgb: NDArray[np.float32]) -> tuple[float, float, float, float]:
    edge = min(BORDER, max(1, min(rgb.shape[:2]) // 4))
    inner = np.ones(rgb.shape[:2], dtype=bool)
    inner[edge:-edge, edge:-edge] = False
    outer = rgb[inner] / 255
    red, green, blue = (float(v) for v in outer.mean(axis=0))
    return red, green, blue, float(outer.mean(axis=1).std())


def camera(data: bytes) -> str:
    """EXIF make and model of a file, "" where it names none; damaged EXIF counts as none."""
    start = data.find(b"Exif\0\0", 0, _EXIF_BYTES)
    if start < 0:
        return ""
    exif = Image.Exif()
    try:
        exif.load(data[start : start + _EXIF_BYTES])
        words = [str(exif.get(tag, "")).strip("\0 ") for tag in _CAMERA_TAGS]
    except Exception:  # broken EXIF raises nearly anything, and is no fault of the picture
        return ""
    return re.sub(r"\s+", " ", " ".join(words)).strip()


@dataclass(frozen=True)
class Oddity:
    """A picture that looks wrong.

    Attributes:
        row: which of the pictures.
        kind: "too dark", "too bright", "blurred", "low information", "odd shape" or "odd size".
        evidence: what was measured, against what.
        extent: how far beyond what is usual in the set, for sorting; larger is worse.
    """

    row: int
    kind: str
    evidence: str
    extent: float


def oddities(looks: Sequence[Look]) -> tuple[Oddity, ...]:
    """What is past its limit and far from the rest of the set, kind by kind, the worst of each first."""
    if not looks:
        return ()
    high, low = _column(looks, "high"), _column(looks, "low")
    edges, contrast = 1 - np.exp(-_column(looks, "edges") / 100), 1 - np.exp(-2.55 * _column(looks, "contrast"))
    width, height = _column(looks, "width"), _column(looks, "height")
    shape = np.minimum(width, height) / np.maximum(width, height)
    entropy = _column(looks, "entropy")
    found = [
        *_past("too dark", high, high < DARK, -1, "99 % of it is darker than {:.2f}"),
        *_past("too bright", low, low > BRIGHT, 1, "95 % of it is brighter than {:.2f}"),
        *_past("low information", entropy, entropy < EMPTY, -1, "{:.1f} bits of entropy"),
        *_past(
            "blurred",
            edges,
            (edges < BLURRED) & (contrast < FLAT),
            -1,
            "sharpness {:.2f}",
            scale=np.log1p(_column(looks, "edges")),
        ),
        *_past("odd shape", shape, shape < ODD_SHAPE, -1, "short side to long side {:.2f}"),
        *_sizes(np.sqrt(width * height), looks),
    ]
    return tuple(found)


def _column(looks: Sequence[Look], name: str) -> Floats:
    return np.array([getattr(each, name) for each in looks], dtype=np.float64)


def robust_z(values: Floats) -> Floats:
    """Distances from the median in robust standard deviations (1.4826 × median absolute deviation)."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return np.asarray((values - middle) / max(spread, 1e-3 * max(abs(middle), 1e-3)), dtype=np.float64)


def _past(
    kind: str, values: Floats, beyond: NDArray[np.bool_], sign: int, words: str, *, scale: Floats | None = None
) -> Iterator[Oddity]:
    """Pictures beyond a limit and far from the set's median, in `values` or on another scale of them."""
    z = sign * robust_z(values if scale is None else scale) if len(values) >= _FEW else np.full(len(values), np.inf)
    median = float(np.median(values))
    rows = np.flatnonzero(beyond & (z >= FAR))
    for row in rows[np.argsort(-z[rows], kind="stable")]:
        evidence = f"{words.format(values[row])}; usual here: {median:.2f}"
        yield Oddity(int(row), kind, evidence, float(min(z[row], 1e6)))


def _sizes(sides: Floats, looks: Sequence[Look]) -> Iterator[Oddity]:
    """Sizes far out on the logarithmic scale; a set of mixed sizes has wide quartiles and no odd ones."""
    if len(sides) < _FEW:
        return
    logs = np.log2(sides)
    first, median, third = np.percentile(logs, [25, 50, 75])
    spread = max(third - first, 0.1)  # a set of one size: beyond half or double is odd
    beyond = np.maximum(first - logs, logs - third) / spread
    rows = np.flatnonzero(beyond > FAR_SIZE)
    for row in rows[np.argsort(-beyond[rows], kind="stable")]:
        size = f"{looks[row].width} × {looks[row].height} pixels"
        evidence = f"{size}, {2 ** (logs[row] - median):.2g} times the usual side of {2**median:.0f}"
        yield Oddity(int(row), "odd size", evidence, float(beyond[row]))
