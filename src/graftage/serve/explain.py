"""Why a picture got its class: where in it the answer comes from, as a heat map over the picture itself (C).

The network is built anew in PyTorch float32 from the bundle's weights, since the engines that predict cannot
differentiate. Where it has no place to share log-odds out from (see `seams`), places are covered one after the other
instead, and what the class loses by it is their share.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from graftage.features.engine import Forward
from graftage.features.preprocess import Preprocess
from graftage.features.seams import Seam, find_seam
from graftage.serve.attribution import Odds, Shares, shares
from graftage.serve.bundle import Bundle

_COVERED = 7  # places across and down where they have to be covered one by one


@dataclass(frozen=True, eq=False)
class Heat:
    """Where an answer comes from.

    Attributes:
        cells: float32 (side, side) over the square that the network saw: nats that each place adds to the log-odds of
            the class; negative where it speaks against.
        picture: float32 (H, W): the same over the upright picture, NaN where the network did not see it.
        start: log-odds of the class for an empty picture, of the picture's mean colour.
        end: its log-odds for the picture.
        elsewhere: nats that belong to no place, such as those of a class token.
        method: "integrated gradients" or "occlusion".
        features: float32 (D,), the network's.
    """

    cells: NDArray[np.float32]
    picture: NDArray[np.float32]
    start: float
    end: float
    elsewhere: float
    method: str
    features: NDArray[np.float32]


class Explainer:
    """Heat maps of one model; building its network is left until the first.

    Args:
        bundle: the model.
        forward: its network as it predicts, for networks that cannot be taken apart.
    """

    def __init__(self, bundle: Bundle, forward: Forward) -> None:
        self._bundle, self._forward = bundle, forward

    @cached_property
    def _seam(self) -> Seam | None:
        return find_seam(self._bundle.backbone, dict(self._bundle.weights), self._bundle.preprocess.size)

    @cached_property
    def _odds(self) -> Odds:
        return Odds(self._bundle.head, self._bundle.temperature)

    def heat(self, pixels: NDArray[np.uint8], k: int) -> Heat:
        """The heat map of class k over an upright picture, uint8 (H, W, 3)."""
        preprocess = self._bundle.preprocess
        empty = np.empty(pixels.shape, np.uint8)
        empty[:] = np.rint(pixels.mean((0, 1)))
        squares = np.stack([preprocess.square(pixels), preprocess.square(empty)])
        found, features, method = self._shared(squares, k)
        cells = found.cells.astype(np.float32)
        picture = over_picture(cells, preprocess, pixels.shape[1], pixels.shape[0])
        return Heat(cells, picture, found.start, found.end, found.elsewhere, method, features)

    def _shared(self, squares: NDArray[np.uint8], k: int) -> tuple[Shares, NDArray[np.float32], str]:
        if self._seam is None:
            return *self._covered(squares, k), "occlusion"
        scale, shift = (torch.from_numpy(v).view(1, 3, 1, 1) for v in self._bundle.preprocess.scale_and_shift())
        x = torch.from_numpy(squares).permute(0, 3, 1, 2).to(torch.float32) * scale + shift
        with torch.no_grad():
            # one by one: a picture's answer does not depend on its company
            at, empty = (self._seam.before(part[None].contiguous()) for part in x)
            features = self._seam.after(at)[0].numpy().astype(np.float32)
        return shares(self._seam, at, empty, self._odds, k), features, "integrated gradients"

    def _covered(self, squares: NDArray[np.uint8], k: int) -> tuple[Shares, NDArray[np.float32]]:
        """Log-odds lost when places twice as wide as a cell are covered by the empty picture."""
        square, empty = squares
        edges = np.linspace(0, len(square), 2 * _COVERED + 1).round().astype(int)
        many = [square, empty]
        for row in range(_COVERED):
            for column in range(_COVERED):
                y0, y1, x0, x1 = (
                    edges[np.clip(i, 0, 2 * _COVERED)] for c in (row, column) for i in (2 * c - 1, 2 * c + 3)
                )
                many.append(square.copy())
                many[-1][y0:y1, x0:x1] = empty[y0:y1, x0:x1]
        features = np.concatenate([self._forward(one[None]) for one in many])
        odds = self._odds(torch.from_numpy(features), k).numpy()
        cells = (odds[0] - odds[2:]).reshape(_COVERED, _COVERED)
        return Shares(cells, float("nan"), float(odds[1]), float(odds[0])), features[0]


def over_picture(cells: NDArray[np.float32], preprocess: Preprocess, width: int, height: int) -> NDArray[np.float32]:
    """A map over the square → float32 (height, width) over the picture, NaN where the network did not see it."""
    (left, top, right, bottom), place = preprocess.seen(width, height)
    x0, y0 = min(int(np.floor(left)), width - 1), min(int(np.floor(top)), height - 1)
    x1, y1 = max(int(np.ceil(right)), x0 + 1), max(int(np.ceil(bottom)), y0 + 1)
    side = len(cells)
    box = (place[0] * side, place[1] * side, place[2] * side, place[3] * side)
    image = Image.fromarray(np.asarray(cells, np.float32))
    out = np.full((height, width), np.nan, np.float32)
    out[y0:y1, x0:x1] = np.asarray(image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box))
    return out
