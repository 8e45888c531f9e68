"""From an upright picture of any size to the square that a backbone sees: one recipe, in array form and in graph form.

The array form resizes and crops on uint8 pixels (`Preprocess.square`); the graph form normalises inside the network
(`Preprocess.scale_and_shift`), so that an exported network takes plain uint8 pixels and nothing is left to write anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Fit = Literal["crop", "squash", "pad"]
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")  # simplest first: the order in which ties are broken

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Pictures more than this many times larger than needed are first shrunk by whole factors (Pillow's `reducing_gap`).
_REDUCING_GAP = 2.0
_LEAST_CROP = 0.05  # a smaller share asks for pictures (`cover`) that nobody has

Triple = tuple[float, float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the square that the network sees.

    Attributes:
        fit: "crop" keeps the shape and cuts the centre out, "squash" takes the whole picture and gives up its shape,
            "pad" takes the whole picture, keeps its shape and fills the rest with the mean colour.
        size: side of the square, pixels.
        crop_pct: side of the centre crop as a share of the short side, 0.05 to 1; used by "crop" only.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; always antialiased.
        mean: per channel, subtracted after scaling to 0..1.
        std: per channel, divided by.
    """

    fit: Fit
    size: int
    crop_pct: float
    interpolation: str
    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size must be 1 to 4096 pixels, got {self.size!r}")
        if not _LEAST_CROP <= self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be {_LEAST_CROP} to 1, got {self.crop_pct!r}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(_FILTERS)}, got {self.interpolation!r}")
        _check_triple("mean", self.mean, low=-1e3)
        _check_triple("std", self.std, low=1e-6)

    @property
    def cover(self) -> int:
        """Pixels that the short side of a scaled decode must still have.

        It does not depend on `fit`: a file is decoded at the same scale whichever fit is tried, trained or served.
        """
        return round(self.size / self.crop_pct)

    @property
    def key(self) -> str:
        """16 hex digits that change when anything that changes the pixels or the normalisation changes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def with_fit(self, fit: Fit) -> Self:
        """The same recipe with another way of making the picture square."""
        return replace(self, fit=fit)

    def square(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upright sRGB pixels (H, W, 3) → the square (size, size, 3), uint8, ready for the network's graph.

        A gray picture that is a broadcast view (stride 0 in the last axis) is resized once instead of three times.
        """
        gray = pixels.strides[2] == 0
        return self.square_of(Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]) if gray else pixels))

    def square_of(self, image: Image.Image) -> NDArray[np.uint8]:
        """As `square`, from an upright sRGB image of mode "RGB" or "L"."""
        out = np.asarray(self._pad(image) if self.fit == "pad" else self._resize(image, self.size, self.size))
        if out.ndim == 2:
            three = np.empty((*out.shape, 3), np.uint8)  # (S, S) → (S, S, 3), in half the time of np.repeat
            for channel in range(3):
                three[:, :, channel] = out
            return three
        return out

    def resized(
        self, image: Image.Image, box: tuple[float, float, float, float], *, size: tuple[int, int] | None = None
    ) -> Image.Image:
        """The part of an image within `box` (left, top, right, bottom), at `size` (width, height) or as the square."""
        size = size or (self.size, self.size)
        return image.resize(size, _FILTERS[self.interpolation], box=box, reducing_gap=_REDUCING_GAP)

    def _resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        box = self._centre(image) if self.fit == "crop" else (0.0, 0.0, float(image.width), float(image.height))
        return image.resize((width, height), _FILTERS[self.interpolation], box=box, reducing_gap=_REDUCING_GAP)

    def _centre(self, image: Image.Image) -> Box:
        return self._middle(*image.size)

    def _middle(self, width: int, height: int) -> Box:
        side = min(width, height) * self.crop_pct
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side)

    def _pad(self, image: Image.Image) -> Image.Image:
        width, height, left, top = self._inset(*image.size)
        fill = tuple(round(255 * min(max(m, 0.0), 1.0)) for m in self.mean)
        same = len(set(fill)) == 1
        canvas = Image.new(
            image.mode if same else "RGB", (self.size, self.size), fill[0] if same and image.mode == "L" else fill
        )
        canvas.paste(self._resize(image, width, height), (left, top))
        return canvas

    def _inset(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width, height, left and top of a picture inside the padded square."""
        scale = self.size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        return (*inner, (self.size - inner[0]) // 2, (self.size - inner[1]) // 2)

    def seen(self, width: int, height: int) -> tuple[Box, Box]:
        """What of a picture lies where in the square: (its part in picture pixels, its place as shares of the square).

        Both are (left, top, right, bottom). The part fills the place; what is outside the place is padding.
        """
        whole = (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            return self._middle(width, height), (0.0, 0.0, 1.0, 1.0)
        if self.fit == "squash":
            return whole, (0.0, 0.0, 1.0, 1.0)
        inner_width, inner_height, left, top = self._inset(width, height)
        edges = (left, top, left + inner_width, top + inner_height)
        return whole, (edges[0] / self.size, edges[1] / self.size, edges[2] / self.size, edges[3] / self.size)

    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The graph form: (scale, shift), float32 (3,) each, so that network input = uint8 · scale + shift."""
        std = np.asarray(self.std, dtype=np.float64)
        scale, shift = 1 / (255 * std), -np.asarray(self.mean, dtype=np.float64) / std
        return scale.astype(np.float32), shift.astype(np.float32)

    def to_json(self) -> dict[str, object]:
        """Plain values, for the model file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        fields = {"fit": str, "size": int, "crop_pct": float, "interpolation": str, "mean": list, "std": list}
        if set(values) != set(fields):
            raise ValueError(f"preprocess must have exactly the keys {', '.join(fields)}")
        return cls(
            fit=_one_of_fits(values["fit"]),
            size=_whole(values["size"]),
            crop_pct=_real(values["crop_pct"]),
            interpolation=str(values["interpolation"]),
            mean=_triple(values["mean"]),
            std=_triple(values["std"]),
        )


def _one_of_fits(value: object) -> Fit:
    for fit in FITS:
        if value == fit:
            return fit
    raise ValueError(f"fit must be one of {', '.join(FITS)}, got {value!r}")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    if abs(value) > 1e9:  # also the whole numbers that no float holds
        raise ValueError("expected a number of ordinary size")
    return float(value)


def _triple(value: object) -> Triple:
    if not isinstance(value, list) or len(value) != 3:
        raise TypeError(f"expected three numbers, got {value!r}")
    return _real(value[0]), _real(value[1]), _real(value[2])


def _check_triple(name: str, values: Triple, *, low: float) -> None:
    if len(values) != 3 or not all(np.isfinite(v) and low <= v <= 1e3 for v in values):
        raise ValueError(f"{name} must be three finite numbers between {low} and 1000, got {values!r}")
