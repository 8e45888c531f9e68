"""What is to be learnt by tuning, and what comes of it: a task, the record of an epoch, a state to continue from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from graftage.learn.defaults import Recipe
from graftage.learn.network import Arrays, Network

Ints = NDArray[np.int64]


class Batches(Protocol):
    """Where the inputs of the network come from."""

    def training(self, rows: Ints, epoch: int) -> torch.Tensor:
        """Inputs of these rows as they are seen in this epoch: augmented."""

    def plain(self, rows: Ints) -> torch.Tensor:
        """Inputs of these rows as they are."""

    def expect(self, rows: Ints, epoch: int) -> None:
        """These will be asked for soon."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is, and how they add up."""

    rank: int = 0
    size: int = 1

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces the tensors by their sums over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].reshape(tensor.shape))
            start += tensor.numel()


@dataclass(frozen=True)
class Epoch:
    """What one pass over the pictures did.

    Attributes:
        number: 1 to `of`.
        of: planned.
        train_loss: mean over the pictures, as seen in training.
        log_loss: of the pictures held out, None where none are.
        accuracy: likewise, 0 to 1.
        lr: learning rate of the last layers at the end.
        seconds: wall time.
        pictures_per_second: over all processes.
    """

    number: int
    of: int
    train_loss: float
    log_loss: float | None
    accuracy: float | None
    lr: float
    seconds: float
    pictures_per_second: float


@dataclass(frozen=True, eq=False)
class State:
    """Where a training stands; `tensors` and `facts` together continue it bit for bit."""

    tensors: Arrays
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learnt.

    Attributes:
        network: where it starts from; it is changed.
        batches: the inputs of all rows.
        y: int64 (n,) classes of all rows.
        n_classes: K.
        train: rows learnt from.
        held: rows held out, may be none.
        recipe: the hyperparameters.
        stages: of the body, first to last, for the layer decay.
        seed: of everything random.
        device: "cpu", "cuda" or "mps".
        amp: "none", "bfloat16" or "float16".
        world: the processes.
        stop_after: end after so many epochs of the schedule; None is all.
        compiled: use torch.compile.
        frozen: prefixes of the names of parameters of the body that do not move, whatever the recipe says.
    """

    network: Network
    batches: Batches
    y: Ints
    n_classes: int
    train: Ints
    held: Ints
    recipe: Recipe
    stages: tuple[str, ...]
    seed: int
    device: str = "cpu"
    amp: str = "none"
    world: World = World()
    stop_after: int | None = None
    compiled: bool = False
    frozen: tuple[str, ...] = ()
