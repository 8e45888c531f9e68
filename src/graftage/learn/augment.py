"""Pictures seen anew in every epoch: crops, flips, TrivialAugment, shear and zoom, erasing; mixed batches.

Everything random comes from the generator that is handed in, so the same generator gives the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy import special

from graftage.features.preprocess import Fit, Preprocess

if TYPE_CHECKING:
    import torch

Kind = Literal["none", "classic", "crop", "trivial"]
KINDS: tuple[Kind, ...] = ("none", "classic", "crop", "trivial")
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Colour = tuple[int, int, int]

_ERASED = (0.02, 0.33)  # share of the square that erasing takes, and the hole's height to width (Zhong et al. 2020)
_HOLE = (0.3, 3.3)
_LEVEL = 0.01  # of the sign test on mirror images


@dataclass(frozen=True)
class Augment:
    """How a picture is changed before the network sees it.

    Attributes:
        kind: "none", the plain square, not even flipped; "crop", a random part of the picture; "trivial", that and one
            operation of TrivialAugmentWide (Müller & Hutter 2021); "classic", the textbooks' shear and zoom.
        scale: share of the area of what the plain square shows that a random crop keeps, from and to.
        ratio: width to height of the crop, as a multiple of that of what the plain square shows, from and to.
        hflip, vflip: chances of a left-right and of an upside-down flip.
        erase: chance of random erasing (Zhong et al. 2020).
        shear: degrees, either way: Keras' ImageDataGenerator(shear_range=0.2) means 0.2 degrees, which is next to
            nothing; "classic" only.
        zoom: factors drawn from 1 − zoom to 1 + zoom for each axis, as in Keras; "classic" only.

    Raises:
        ValueError: a value outside its range.
    """

    kind: Kind = "crop"
    scale: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    erase: float = 0.0
    shear: float = 0.2
    zoom: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for name in ("hflip", "vflip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a chance from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two rising shares above 0 and up to 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < np.inf:
            raise ValueError(f"ratio must be two rising numbers above 0, got {self.ratio}")
        if not 0 <= self.shear < 90:
            raise ValueError(f"shear must be 0 to 90 degrees, 90 left out, got {self.shear}")
        if not 0 <= self.zoom < 1:
            raise ValueError(f"zoom must be 0 to 1, 1 left out, got {self.zoom}")


def augmented(pixels: Pixels, preprocess: Preprocess, augment: Augment, rng: np.random.Generator) -> Pixels:
    """One random view of a picture, in place of `preprocess.square`.

    Args:
        pixels: upright sRGB, uint8 (H, W, 3); a gray picture may be a broadcast view (stride 0 in the last axis).
        preprocess: the plain square: its size, fit, interpolation and mean colour.
        augment: what may happen.
        rng: source of all draws.

    Returns:
        uint8 (S, S, 3), contiguous.
    """
    if augment.kind == "none":
        return np.ascontiguousarray(preprocess.square(pixels))
    if augment.kind == "classic":
        square = _classic(preprocess.square(pixels), augment, rng)
    else:
        square = _cropped(pixels, preprocess, augment, rng)
    fill = _mean_colour(preprocess)
    if augment.kind == "trivial":
        square = _trivial(square, fill, rng)
    across, down, hole = rng.random(3)
    square = square[:, ::-1] if across < augment.hflip else square
    square = square[::-1] if down < augment.vflip else square
    return _erased(square, fill, rng) if hole < augment.erase else np.ascontiguousarray(square)


def _mean_colour(preprocess: Preprocess) -> Colour:
    red, green, blue = (round(255 * min(max(m, 0.0), 1.0)) for m in preprocess.mean)
    return red, green, blue


# Random crops


def _cropped(pixels: Pixels, preprocess: Preprocess, augment: Augment, rng: np.random.Generator) -> Pixels:
    """A random part of the picture (of its padded square, with "pad"), made square as the plain one is."""
    height, width = pixels.shape[:2]
    box = _box(width, height, preprocess.fit, augment, rng)
    seen = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
    gray = pixels.strides[2] == 0
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]) if gray else pixels)
    image = _on_canvas(image, box, seen, preprocess) if preprocess.fit == "pad" else preprocess.resized(image, seen)
    square = np.asarray(image)
    return np.repeat(square[:, :, None], 3, axis=2) if square.ndim == 2 else square  # (S, S) → (S, S, 3)


def _box(width: int, height: int, fit: Fit, augment: Augment, rng: np.random.Generator) -> Box:
    """A random crop in the picture's own pixels; with "pad" it may reach beyond the picture.

    Area and shape are drawn relative to what fills the plain square: the whole picture ("squash"), its largest square
    ("crop") or the padded square ("pad"). So an oblong picture is cropped as freely as a square one; torchvision's
    `RandomResizedCrop`, with shares of the whole picture, finds no crop of 70 % in a picture of 2:1 and gives up.
    """
    side = max(width, height) if fit == "pad" else min(width, height)
    plain = (width, height) if fit == "squash" else (side, side)
    room = (side, side) if fit == "pad" else (width, height)
    share = rng.uniform(*augment.scale)
    within = share * (plain[1] / room[1]) ** 2, (room[0] / plain[0]) ** 2 / share  # shapes that lie inside the room
    ratio = np.exp(rng.uniform(*np.log(np.clip(augment.ratio, *within))))
    w, h = min(plain[0] * np.sqrt(share * ratio), room[0]), min(plain[1] * np.sqrt(share / ratio), room[1])
    left, top = _start(w, width, room[0], rng), _start(h, height, room[1], rng)
    return left, top, float(left + w), float(top + h)


def _start(length: float, size: int, room: int, rng: np.random.Generator) -> float:
    """Where a crop begins along one axis, from the picture's edge; it shows at least half of what it could."""
    edge = (room - size) / 2  # the padding before the picture
    half = min(length, size) / 2
    return float(rng.uniform(max(0.0, edge + half - length), min(room - length, edge + size - half))) - edge


def _on_canvas(image: Image.Image, box: Box, seen: Box, preprocess: Preprocess) -> Image.Image:
    """What is seen of a picture, laid on the mean colour where the box reaches beyond it."""
    x, width = _place(box[0], seen[0], seen[2], box[2], preprocess.size)
    y, height = _place(box[1], seen[1], seen[3], box[3], preprocess.size)
    canvas = Image.new("RGB", (preprocess.size, preprocess.size), _mean_colour(preprocess))
    canvas.paste(preprocess.resized(image, seen, size=(width, height)), (x, y))
    return canvas


def _place(begin: float, first: float, last: float, end: float, size: int) -> tuple[int, int]:
    """(offset, length) in whole output pixels of the part first..last of begin..end, rounded as the plain square is."""
    length = max(1, round((last - first) * size / (end - begin)))
    padding = (first - begin) + (end - last)
    return int((size - length) * (first - begin) / padding) if padding else 0, length


# The textbooks' shear and zoom


def _classic(square: Pixels, augment: Augment, rng: np.random.Generator) -> Pixels:
    shear = float(rng.uniform(-augment.shear, augment.shear))
    down, across = (float(z) for z in rng.uniform(1 - augment.zoom, 1 + augment.zoom, 2))
    return _sheared(square, shear, down, across)


def _sheared(square: Pixels, shear: float, down: float, across: float) -> Pixels:
    """Shear (degrees) and zoom about the middle, bilinear; what comes from outside is the nearest pixel.

    The matrix is that of Keras' `apply_affine_transform`; it leads from the output's (row, column) to the input's.
    """
    angle, size, middle = np.deg2rad(shear), len(square), (len(square) - 1) / 2
    (a, b), (c, d) = matrix = np.array([[1, -np.sin(angle)], [0, np.cos(angle)]]) @ np.diag([down, across])
    corners = np.abs(matrix) @ np.array([middle, middle])
    margin = max(0, int(np.ceil(corners.max() - middle))) + 1
    image = Image.fromarray(np.pad(square, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    half = size / 2  # Pillow's coordinates: x before y, pixel centres at halves
    data = (d, c, margin + half - (c + d) * half, b, a, margin + half - (a + b) * half)
    return np.asarray(image.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))


# TrivialAugmentWide


def _trivial(square: Pixels, fill: Colour, rng: np.random.Generator) -> Pixels:
    """One operation at one strength, both drawn evenly."""
    name = list(_OPERATIONS)[int(rng.integers(len(_OPERATIONS)))]
    strength, sign = float(rng.random()), 1.0 if rng.random() < 0.5 else -1.0
    return np.asarray(_OPERATIONS[name](Image.fromarray(square), strength, sign * strength, fill))


_Operation = Callable[[Image.Image, float, float, Colour], Image.Image]  # strength 0..1, the same with a random sign


def _affine(matrix: Callable[[float, float], tuple[float, ...]]) -> _Operation:
    """`matrix` gets the signed strength and the side of the square."""

    def apply(image: Image.Image, _: float, signed: float, fill: Colour) -> Image.Image:
        data = matrix(signed, image.width)
        return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=fill)

    return apply


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Operation:
    return lambda image, _, signed, __: kind(image).enhance(1 + 0.99 * signed)


# The 14 operations and wide ranges of the paper (table 6), except that shear turns about the middle, and that a shift
# is a share of the side: 32 pixels at the paper's 224. What comes from outside has the mean colour, as in timm.
_OPERATIONS: dict[str, _Operation] = {
    "identity": lambda image, *_: image,
    "shear x": _affine(lambda s, side: (1, 0.99 * s, -0.99 * s * side / 2, 0, 1, 0)),
    "shear y": _affine(lambda s, side: (1, 0, 0, 0.99 * s, 1, -0.99 * s * side / 2)),
    "shift x": _affine(lambda s, side: (1, 0, s * side / 7, 0, 1, 0)),
    "shift y": _affine(lambda s, side: (1, 0, 0, 0, 1, s * side / 7)),
    "rotate": lambda image, _, signed, fill: image.rotate(135 * signed, Image.Resampling.BILINEAR, fillcolor=fill),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterise": lambda image, strength, *_: ImageOps.posterize(image, 8 - round(6 * strength)),
    "solarise": lambda image, strength, *_: ImageOps.solarize(image, round(255 * (1 - strength))),
    "autocontrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalise": lambda image, *_: ImageOps.equalize(image),
}


def _erased(square: Pixels, fill: Colour, rng: np.random.Generator) -> Pixels:
    """A rectangle in the mean colour over 2 to 33 % of the square."""
    size = len(square)
    area, ratio = size * size * rng.uniform(*_ERASED), np.exp(rng.uniform(*np.log(_HOLE)))
    height, width = (min(size, max(1, round(float(side)))) for side in (np.sqrt(area * ratio), np.sqrt(area / ratio)))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    out = square.copy(order="C")
    out[top : top + height, left : left + width] = fill
    return out


# Mixed batches


def mixed(
    inputs: "torch.Tensor",
    targets: "torch.Tensor",
    *,
    mixup: float,
    cutmix: float,
    probability: float,
    rng: np.random.Generator,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with itself in reverse, as in timm.

    Args:
        inputs: float (b, ...); boxes are cut from (b, C, H, W) and from pictures (b, S, S, 3), others are blended.
        targets: float (b, K).
        mixup: α of λ ~ Beta(α, α), one for the whole batch; 0 is off.
        cutmix: likewise; where both are on, a coin decides for each batch.
        probability: that a batch is mixed at all.
        rng: source of all draws.

    Returns:
        Inputs and targets of the same shapes; the targets in proportion to what is seen of each picture.
    """
    if rng.random() >= probability or not (mixup or cutmix):
        return inputs, targets
    cut = bool(cutmix) and inputs.ndim == 4 and (not mixup or rng.random() < 0.5)
    alpha = cutmix if cut or not mixup else mixup
    share = float(rng.beta(alpha, alpha))
    if cut:
        inputs, share = _pasted(inputs, share, rng)
    else:
        inputs = share * inputs + (1 - share) * inputs.flip(0)
    return inputs, share * targets + (1 - share) * targets.flip(0)


def _pasted(inputs: "torch.Tensor", share: float, rng: np.random.Generator) -> "tuple[torch.Tensor, float]":
    """The batch with a box of the reversed batch in it, and the share of the area that is still its own."""
    channels_last = inputs.shape[3] == 3 and inputs.shape[1] == inputs.shape[2]  # pictures, not maps
    height, width = inputs.shape[1:3] if channels_last else inputs.shape[2:4]
    rows, columns = _span(height, share, rng), _span(width, share, rng)
    area = (slice(None), rows, columns) if channels_last else (slice(None), slice(None), rows, columns)
    out = inputs.clone()
    out[area] = inputs.flip(0)[area]
    return out, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _span(length: int, share: float, rng: np.random.Generator) -> slice:
    """One side of a box over 1 − share of the area, about an even place, cut off at the edges."""
    middle, half = int(rng.integers(length)), int(length * np.sqrt(1 - share)) // 2
    return slice(max(0, middle - half), min(length, middle + half))


# Whether flips are allowed


def flips_change_label(p: Floats, flipped: Floats, y: Ints, classes: Sequence[str] = ()) -> str:
    """Whether mirroring turns pictures of one class into pictures of another, as b into d.

    For each ordered pair of classes a, b: the pictures of a that are called a upright and b mirrored, against those
    called b upright and a mirrored; a one-sided exact sign test at 0.01 over the number of pairs that have any.

    Args:
        p: (n, K) held-out probabilities of the pictures.
        flipped: (n, K) of their mirror images, by the same classifier.
        y: (n,) classes.
        classes: K names; without them classes are named by number.

    Returns:
        "" if mirrored pictures may be learnt from, else a sentence that names the pair with the clearest evidence.
    """
    upright, mirrored = p.argmax(axis=1), flipped.argmax(axis=1)
    turned = (upright == y) != (mirrored == y)
    if not turned.any():
        return ""
    away = (upright == y)[turned]
    pairs = np.stack([y[turned], np.where(away, mirrored[turned], upright[turned])], axis=1)
    found, which = np.unique(pairs, axis=0, return_inverse=True)
    counts, gone = np.bincount(which.ravel()), np.bincount(which.ravel(), weights=away)
    chances = special.bdtrc(gone - 1, counts, 0.5)  # of so many or more out of `counts`, were both ways alike
    best = int(chances.argmin())
    if chances[best] >= _LEVEL / len(found):
        return ""
    a, b = (repr(classes[k]) if len(classes) else f"class {k}" for k in found[best])
    return (
        f"mirrored pictures of {a} are taken for {b}: of {counts[best]} whose answer changes between the two, "
        f"{int(gone[best])} are right only upright (sign test, p = {chances[best]:.1g})"
    )
