"""What a network in training is fed: kept activations of views, or pictures decoded and augmented anew."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from graftage.features.engine import cores
from graftage.features.views import Activations, Pictures, View

Ints = NDArray[np.int64]

_DECODED_BYTES = 2**30  # of decoded pictures that are kept in memory
_AHEAD = 4096  # augmented squares that may wait


class ViewInputs:
    """Kept activations: in every epoch each picture shows one of its views, drawn by (seed, epoch)."""

    def __init__(self, kept: Activations, shape: tuple[int, ...], *, seed: int) -> None:
        self._kept, self._shape, self._seed = kept, shape, seed
        self._drawn: tuple[int, Ints] = (-1, np.empty(0, np.int64))

    def training(self, rows: Ints, epoch: int) -> torch.Tensor:
        """Activations (b, *shape), float32."""
        if self._drawn[0] != epoch:
            rng = np.random.default_rng([self._seed, 4, epoch])
            self._drawn = epoch, rng.integers(self._kept.rows.shape[1], size=len(self._kept.rows))
        return self._take(rows, self._drawn[1][rows])

    def plain(self, rows: Ints) -> torch.Tensor:
        """Activations of the plain squares."""
        return self._take(rows, np.zeros(len(rows), np.int64))

    def expect(self, rows: Ints, epoch: int) -> None:
        """Nothing: they are there."""

    def _take(self, rows: Ints, views: Ints) -> torch.Tensor:
        x = torch.from_numpy(np.asarray(self._kept.rows[rows, views], dtype=np.float32)).reshape(-1, *self._shape)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class PictureInputs:
    """Pictures, decoded and augmented by threads; (row, epoch) decides how. Small sets stay decoded in memory."""

    def __init__(self, pictures: Pictures, view: View) -> None:
        self._pictures, self._view = pictures, view
        self._pool = ThreadPoolExecutor(cores() + 1, thread_name_prefix="graftage-pictures")
        self._decoded: dict[int, NDArray[np.uint8]] = {}
        self._bytes = 0
        self._waiting: OrderedDict[tuple[int, int], Future[NDArray[np.uint8]]] = OrderedDict()

    def training(self, rows: Ints, epoch: int) -> torch.Tensor:
        """Augmented squares, uint8 (b, S, S, 3)."""
        self.expect(rows, epoch)
        return torch.from_numpy(np.stack([self._waiting.pop((int(row), epoch)).result() for row in rows]))

    def plain(self, rows: Ints) -> torch.Tensor:
        """Plain squares, uint8 (b, S, S, 3)."""
        return torch.from_numpy(np.stack(list(self._pool.map(self._square, rows.tolist()))))

    def expect(self, rows: Ints, epoch: int) -> None:
        """Begins to make what `training` will soon be asked for."""
        for row in rows.tolist():
            if (row, epoch) not in self._waiting and len(self._waiting) < _AHEAD:
                self._waiting[row, epoch] = self._pool.submit(self._augmented, row, epoch)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _square(self, row: int) -> NDArray[np.uint8]:
        return self._pictures.preprocess.square(self._pixels(row))

    def _augmented(self, row: int, epoch: int) -> NDArray[np.uint8]:
        return self._view(self._pixels(row), row, epoch + 1)

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        if row in self._decoded:
            return self._decoded[row]
        pixels = self._pictures.pixels(row)
        if self._bytes + pixels.nbytes <= _DECODED_BYTES:
            self._decoded[row] = pixels
            self._bytes += pixels.nbytes
        return pixels
