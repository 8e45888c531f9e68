"""A network on PyTorch itself, from squares of bytes to features: what takes over where its graph will not do (C)."""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class Normalised(nn.Module):
    """Normalisation and network in one module: uint8 (b, S, S, 3) → float32 (b, D).

    Args:
        body: float32 (b, 3, S, S) → (b, D).
        scale: (3,) factors of each channel, and shift: (3,) what is added then.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, body: nn.Module, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("scale", torch.from_numpy(scale).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.from_numpy(shift).view(1, 3, 1, 1))

    def forward(self, squares: torch.Tensor) -> torch.Tensor:
        """Features of squares."""
        chw = squares.permute(0, 3, 1, 2).to(torch.float32)  # (b, 3, S, S)
        features: torch.Tensor = self.body(chw * self.scale + self.shift)
        return features


class TorchBatches:
    """Always full batches (the last is filled up), so that a picture's features do not depend on its company.

    Args:
        module: uint8 (batch, S, S, 3) → float32 (batch, D), on `device`.
        batch: pictures of each call of the module.
        device: PyTorch's name of it.
    """

    def __init__(self, module: "torch.nn.Module", batch: int, device: str) -> None:
        self._module, self._batch, self._device = module, batch, device
        self._lock = threading.Lock()

    def __call__(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of at least one square picture: uint8 (b, S, S, 3) → float32 (b, D). Several threads may call."""
        starts = range(0, len(squares), self._batch)
        return np.concatenate([self._one(squares[start : start + self._batch]) for start in starts])

    def _one(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        full = np.zeros((self._batch, *squares.shape[1:]), np.uint8)
        full[: len(squares)] = squares
        # TensorFloat-32, PyTorch's own default for convolutions, is not the float32 that the features are named after
        with self._lock, torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._module(torch.from_numpy(full).to(self._device)).cpu().numpy()
        rows: NDArray[np.float32] = features[: len(squares)]
        return rows
