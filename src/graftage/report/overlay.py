"""A heat map becomes a see-through picture to lay over another: orange speaks for, blue against, grey was not seen."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOR, AGAINST, UNSEEN = (240, 120, 0), (30, 110, 235), (110, 110, 110)
_DEEPEST = 0.85  # opacity of the strongest place
_UNSEEN = 0.6


def overlay(heat: NDArray[np.float32], *, longest: int | None = None) -> Image.Image:
    """The see-through picture, RGBA.

    Args:
        heat: float32 (H, W), NaN where nothing is known. The strongest place, for or against, is drawn the deepest.
        longest: pixels of the longer side; None keeps the size.
    """
    heat = _shrunk(heat, longest)
    unseen = np.isnan(heat)
    strength = np.where(unseen, 0, np.abs(heat)) / max(float(np.nanmax(np.abs(heat), initial=0.0)), 1e-12)
    colour = np.where((heat > 0)[..., None], np.array(FOR), np.array(AGAINST))
    colour[unseen] = UNSEEN
    alpha = np.where(unseen, _UNSEEN, _DEEPEST * strength)
    return Image.fromarray(np.dstack([colour, np.rint(255 * alpha)]).astype(np.uint8), "RGBA")


def _shrunk(heat: NDArray[np.float32], longest: int | None) -> NDArray[np.float32]:
    height, width = heat.shape
    if longest is None or max(height, width) <= longest:
        return heat
    ys, xs = (
        ((np.arange(n) + 0.5) * (side / n)).astype(int)
        for side, n in ((side, max(1, round(side * longest / max(height, width)))) for side in (height, width))
    )
    return np.asarray(heat[ys[:, None], xs[None]], np.float32)


def over(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> Image.Image:
    """The picture under its heat map, RGB, as large as the picture."""
    base = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")
    return Image.alpha_composite(base, overlay(heat)).convert("RGB")


def squared(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map in the middle of a square of zeros, for pictures that are shown whole in a square."""
    height, width = heat.shape
    side = max(height, width)
    out = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = heat
    return out
