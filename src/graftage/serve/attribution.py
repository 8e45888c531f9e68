"""Which places of a picture speak for a class: the class's log-odds, shared out over the cells of a map (C).

Integrated gradients (Sundararajan, Taly, Yan 2017) between the activations of a picture and those of an empty one, a
picture of nothing but its mean colour. The shares of all places add up to what the picture's log-odds gained over the
empty picture's: nothing is scaled to look good. Where features are the mean of a map and the head is linear in them, a
share is the cell's own part of the sum.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from graftage.features.seams import Seam
from graftage.learn.head import Head

STEPS = 32  # nodes of the quadrature between the empty picture and the picture
_TOGETHER = 8  # of them run at once
_TINY = 1e-12
_NEARLY = 1e-6  # of the way: features of nothing but zeros, as of a mid-grey picture, have no direction of their own


@dataclass(frozen=True, eq=False)
class Shares:
    """Log-odds shared out.

    Attributes:
        cells: float64 (side, side), nats: what each place adds to the log-odds of the class; may be negative.
        elsewhere: what tokens that belong to no place add.
        start: log-odds of the empty picture.
        end: log-odds of the picture; `cells.sum() + elsewhere` is end − start, up to the quadrature's error, which
            grows where signed features change their sign under a square root.
    """

    cells: NDArray[np.float64]
    elsewhere: float
    start: float
    end: float


class Odds:
    """`Head.logits` and the calibrated softmax in float64, differentiable.

    Args:
        head: D features → K logits.
        temperature: divides the logits.
    """

    def __init__(self, head: Head, temperature: float) -> None:
        self._head, self._temperature = head, temperature
        self._weights, self._bias = _double(head.weights), _double(head.bias)
        self._support, self._coefficients = _double(head.support), _double(head.coefficients)
        self._hidden = None if head.hidden is None else (_double(head.hidden[0]), _double(head.hidden[1]))

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features (b, D) → calibrated logits (b, K)."""
        rows = self._transformed(features.double())
        hidden = rows if self._hidden is None else torch.relu(rows @ self._hidden[0].T + self._hidden[1])
        z = hidden @ self._weights.T + self._bias
        if self._head.kernel:
            z = z + self._kernel(rows @ self._support.T) @ self._coefficients.T
        return z / self._temperature

    def __call__(self, features: torch.Tensor, k: int) -> torch.Tensor:
        """Features (b, D) → ln p / (1 − p) of class k, (b,)."""
        z = self.logits(features)
        return z[:, k] - torch.logsumexp(torch.cat([z[:, :k], z[:, k + 1 :]], dim=1), dim=1)

    def _transformed(self, rows: torch.Tensor) -> torch.Tensor:
        if self._head.transform == "plain":
            return rows
        if self._head.transform == "root":  # at 0 the square root has no slope: none is taken
            rows = torch.sign(rows) * torch.sqrt(rows.abs().clamp_min(_TINY))
        return functional.normalize(rows, dim=1)

    def _kernel(self, inner: torch.Tensor) -> torch.Tensor:
        """`head.kernel_of_inner`, differentiable."""
        if self._head.kernel == "gaussian":
            return torch.exp((inner.clamp_max(1.0) - 1.0) * (2.0 / self._head.scale))
        cosine = ((inner + 1.0) / 2.0).clamp(-1.0 + _TINY, 1.0 - _TINY)
        return (torch.sqrt(1.0 - cosine**2) + torch.arccos(-cosine) * cosine) / torch.pi


def _double(array: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def shares(seam: Seam, at: torch.Tensor, empty: torch.Tensor, odds: Odds, k: int, *, steps: int = STEPS) -> Shares:
    """The log-odds of class k for one picture, shared out over the cells of its map.

    Args:
        seam: the network in two parts.
        at: the picture's activations (1, *shape).
        empty: those of the empty picture.
        odds: features → log-odds.
        k: the class.
        steps: nodes of the quadrature.
    """
    # t = u²: where the way begins at 0, as features behind a ReLU do, square roots have endless slope there
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    u = (nodes + 1) / 2
    t = torch.from_numpy(u**2).to(at.dtype).reshape(-1, *[1] * (at.ndim - 1))
    way, share = (at - empty).detach(), torch.from_numpy(weights * u)
    mean = torch.zeros(at.shape[1:], dtype=torch.float64)
    for first in range(0, steps, _TOGETHER):  # a large network's activations fit into memory only a few at a time
        some = slice(first, first + _TOGETHER)
        with torch.enable_grad():
            path = (empty + t[some] * way).detach().requires_grad_()
            (slopes,) = torch.autograd.grad(odds(seam.after(path), k).sum(), path)
        mean += torch.einsum("s,s...->...", share[some], slopes.double())
    parts = mean[None] * way.double()
    with torch.no_grad():
        start, end = (float(odds(seam.after(a), k)[0]) for a in (empty + _NEARLY * way, at))
    cells = seam.cells(parts)[0].numpy()
    return Shares(cells, float(parts.sum()) - float(cells.sum()), start, end)
