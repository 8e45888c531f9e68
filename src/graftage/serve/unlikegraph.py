"""The detector of pictures unlike those trained on, as part of a graph (C).

The same scores, surprises and sum as in `measure.unlike`, in float32. A p-value counts held-out training pictures that
are at least as odd, so it moves by whole pictures where a score lies as close to one of theirs as float32 can tell.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftage.measure.unlike import GAMMA, TAIL, TOP, Unlike

_TINY = 1e-12  # as in `head.transform`
_ARRAYS = ("basis", "within", "total", "means", "centre", "bank")  # of `Geometry`


class UnlikeGraph(nn.Module):
    """Features (1, D) and probabilities (1, K), float32 → p-value, float32, and flag, bool; both without dimensions.

    Args:
        unlike: the detector.
    """

    basis: torch.Tensor
    within: torch.Tensor
    total: torch.Tensor
    means: torch.Tensor
    centre: torch.Tensor
    bank: torch.Tensor
    reference: torch.Tensor
    joint: torch.Tensor
    starts: torch.Tensor
    scales: torch.Tensor

    def __init__(self, unlike: Unlike) -> None:
        super().__init__()
        geometry, tails = unlike.geometry, np.array(unlike.scale.tails)
        self._k, self._outside, self._least = geometry.k, float(geometry.outside[0]), unlike.least_odder
        arrays = {name: getattr(geometry, name) for name in _ARRAYS}
        arrays |= {"reference": unlike.scale.reference, "joint": unlike.scale.joint}
        arrays |= {"starts": tails[:, 0], "scales": tails[:, 1]}
        for name, array in arrays.items():
            self.register_buffer(name, _tensor(array), persistent=False)

    def forward(self, features: torch.Tensor, probabilities: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The p-value of a picture like those trained on, low is odd; and whether it is flagged."""
        scores = torch.stack([*self._of(features), _gen(probabilities[0])])  # (4,)
        above = (self.reference >= scores[:, None]).to(torch.float32).sum(1)
        rank = -torch.log((above + 1) / (self.reference.shape[1] + 1))
        tail = (scores - self.starts) / self.scales - math.log(TAIL)
        surprise = torch.where(scores > self.starts, tail, rank).sum()
        odder = (self.joint >= surprise).to(torch.float32).sum()
        return (odder + 1) / (self.joint.shape[0] + 1), odder < self._least

    def _of(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Geometry.scores`, each without dimensions."""
        length = torch.sqrt((features * features).sum(1, keepdim=True))
        row = features / torch.clamp(length, min=_TINY)  # (1, D)
        inside = row @ self.basis.T  # (1, r)
        left_over = torch.clamp((row * row).sum() - (inside * inside).sum(), min=0.0)
        own = torch.square(self.means - inside @ self.within.T).sum(1).amin(0)
        every = torch.square(self.centre - inside @ self.total.T).sum()
        nearest = torch.topk((inside @ self.bank.T)[0], self._k).values[self._k - 1]
        return own - every, own + left_over / self._outside, 1.0 - nearest


def _gen(p: torch.Tensor) -> torch.Tensor:
    """As `unlike.gen`, of (K,). What the largest lacks of 1 is the sum of the others: its own digits end too soon."""
    top = torch.topk(p, min(TOP, p.shape[0])).values
    first = torch.arange(p.shape[0]) == p.argmax()
    lacking = torch.cat([torch.where(first, 0.0, p).sum().reshape(1), 1.0 - top[1:]])
    return torch.pow(torch.clamp(top * lacking, min=0.0), GAMMA).sum()


def _tensor(array: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))
