"""What a recipe takes on this machine, measured by a few seconds of it."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.features.engine import cores
from graftage.ground import Ground
from graftage.plans import Cost
from graftage.recipes import Ready
from graftage.training import augment_of, make_task

if TYPE_CHECKING:
    pass

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def measure_cost(ground: Ground, ready: Ready) -> Cost:
    """What a recipe takes here, by a few seconds of it."""
    from graftage.learn.augment import augmented

    view = 0.0
    if ready.forward is not None:
        pixels, rng = ground.pictures.pixels(0), np.random.default_rng(0)
        start = time.perf_counter()
        for _ in range(4):
            ready.forward(augmented(pixels, ground.pictures.preprocess, augment_of(ready.recipe), rng)[None])
        view = (time.perf_counter() - start) / 4 / (1 if ready.forward.batch > 1 else cores())
    return Cost(5.0, view, 1.1 * _step_seconds(ground, ready))


def _step_seconds(ground: Ground, ready: Ready) -> float:
    """Seconds per picture of a training step, by two steps after a first one, on made-up inputs."""
    from graftage.learn.faster import steady_memory
    from graftage.learn.tune import Training

    batch = min(32, ready.recipe.batch_size, len(ground.y))
    task = make_task(ground, ready, _Zeros(ready), np.arange(batch), np.arange(0), "cost")
    training = Training(replace(task, recipe=replace(task.recipe, epochs=10_000), world=_alone()))
    steps = training.run()
    with steady_memory():
        next(steps)
        start = time.perf_counter()
        next(steps)
        next(steps)
        seconds = time.perf_counter() - start
    decode = 0.0
    if ready.forward is None:
        begin = time.perf_counter()
        ground.pictures.preprocess.square(ground.pictures.pixels(0))
        decode = (time.perf_counter() - begin) / cores()
    return seconds / (2 * batch) + decode


def _alone() -> Any:
    from graftage.learn.task import World

    return World()


class _Zeros:
    """Inputs for timing."""

    def __init__(self, ready: Ready) -> None:
        self._shape, self._kept = ready.tensor_shape, ready.forward is not None

    def training(self, rows: Ints, _: int) -> Any:
        import torch

        zeros = torch.zeros(len(rows), *self._shape, dtype=torch.float32 if self._kept else torch.uint8)
        return zeros.contiguous(memory_format=torch.channels_last) if self._kept and zeros.ndim == 4 else zeros

    def plain(self, rows: Ints) -> Any:
        return self.training(rows, 0)

    def expect(self, _: Ints, __: int) -> None:
        return
