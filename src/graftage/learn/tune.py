"""The loop that tunes a network: yields one record per epoch, writes nothing; its state is a value.

Nothing random is carried along: the order of an epoch, a picture's view and a step's dropout are drawn anew from
(seed, epoch, step), so that a state needs only where it stands, and what is continued gives the same bits as what was
never interrupted. The loss of a step is the sum over the batch by the weights' sum, whatever the number of processes
and of pieces that the batch was cut into for lack of memory.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from graftage.errors import GraftageError
from graftage.learn.augment import mixed
from graftage.learn.defaults import Recipe
from graftage.learn.faster import QuickDepthwise, fold_frozen_norms
from graftage.learn.network import (
    Arrays,
    choose_trainable,
    follow_statistics,
    groups,
    load_arrays,
    optimiser,
    set_training,
    statistics_frozen,
)
from graftage.learn.task import Epoch, State, Task

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BATCHES_AHEAD = 2  # that the inputs are told of


class Diverged(GraftageError):
    """The loss is no longer a number."""


class Training:
    """A task under way: call `run` and take its epochs; `state` at any step, `restore` to go on from one."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.network = task.network
        choose_trainable(self.network.body, task.recipe, frozen=task.frozen)
        self.network.to(task.device).to(memory_format=torch.channels_last)
        if statistics_frozen(task.recipe) and not task.compiled:  # the compiler does so itself
            fold_frozen_norms(self.network.body, task.batches.plain(task.train[:2]).to(task.device))
        if not statistics_frozen(task.recipe):
            follow_statistics(self.network, self.steps_per_epoch)
        self.optimiser = optimiser(groups(self.network, task.recipe, task.stages), task.recipe)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.average = [p.detach().clone() for p in self.trained] if task.recipe.ema else []
        self.scaler = torch.amp.GradScaler("cuda", enabled=task.amp == "float16")
        self.forward: Any = torch.compile(self.network) if task.compiled else self.network
        self.epoch, self.step, self.loss_sum = 0, 0, 0.0
        self.records: list[Epoch] = []
        self.best: tuple[float, int, Arrays] | None = None
        self.piece = task.recipe.batch_size  # pictures that go through at once; halves when memory runs out
        self._weights = row_weights(task.y, task.train, task.recipe)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the pictures."""
        return math.ceil(len(self.task.train) / self.task.recipe.batch_size)

    @property
    def last(self) -> int:
        """The epoch after which to stop."""
        return min(self.task.stop_after or self.task.recipe.epochs, self.task.recipe.epochs)

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.epoch >= self.last or self._out_of_patience()

    def run(self, after_step: Callable[["Training"], None] = lambda _: None) -> Iterator[Epoch]:
        """Trains, from where it stands; one record per epoch. `after_step` may look at `state()`.

        Raises:
            Diverged: the loss is no longer finite.
        """
        while self.epoch < self.last:
            start, first = time.perf_counter(), self.step
            order = self._order()
            size = self.task.recipe.batch_size
            while self.step < self.steps_per_epoch:
                self._expect(order[(self.step + 1) * size : (self.step + 1 + _BATCHES_AHEAD) * size])
                self._train_step(order[self.step * size : (self.step + 1) * size])
                self.step += 1
                after_step(self)
            record = self._end_of_epoch(time.perf_counter() - start, (self.step - first) * size)
            self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
            self.records.append(record)
            after_step(self)
            yield record
            if self._out_of_patience():
                return

    def logits(self, rows: Ints) -> Floats:
        """Logits (len(rows), K) of rows as they are, by the average of the weights if one is kept."""
        self.network.eval()
        out = []
        with self._averaged(), torch.inference_mode():
            for start in range(0, len(rows), 64):
                x = self.task.batches.plain(rows[start : start + 64]).to(self.task.device)
                out.append(self.network(x).double().cpu().numpy())
        return np.concatenate(out)

    def weights(self) -> Arrays:
        """State dict of the network as it stands (the average, if one is kept)."""
        with self._averaged():
            return {n: t.detach().cpu().numpy().copy() for n, t in self.network.state_dict().items()}

    def state(self) -> State:
        """All that `restore` needs."""
        tensors = {f"network.{n}": t.detach().cpu().numpy().copy() for n, t in self.network.state_dict().items()}
        moments = self.optimiser.state_dict()["state"]
        for index, own in moments.items():
            for name, value in own.items():
                tensors[f"optimiser.{index}.{name}"] = torch.as_tensor(value).detach().cpu().numpy().copy()
        tensors |= {f"average.{i}": t.cpu().numpy().copy() for i, t in enumerate(self.average)}
        facts: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "loss_sum": self.loss_sum, "piece": self.piece}
        facts["records"] = [vars(record) for record in self.records]
        facts["scaler"] = self.scaler.state_dict()
        if self.best is not None:
            facts["best"] = self.best[:2]
            tensors |= {f"best.{name}": array for name, array in self.best[2].items()}
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Goes back to where `state` was taken, in a training of the same task."""
        parts: dict[str, Arrays] = {"network": {}, "optimiser": {}, "average": {}, "best": {}}
        for name, array in state.tensors.items():
            owner, _, rest = name.partition(".")
            parts[owner][rest] = array
        load_arrays(self.network, parts["network"])
        whole = self.optimiser.state_dict()
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in parts["optimiser"].items():
            index, _, rest = name.partition(".")
            moments.setdefault(int(index), {})[rest] = torch.from_numpy(np.array(array))
        self.optimiser.load_state_dict({**whole, "state": moments})
        for i, tensor in enumerate(self.average):
            tensor.copy_(torch.from_numpy(np.array(parts["average"][str(i)])))
        facts = state.facts
        self.epoch, self.step, self.loss_sum = facts["epoch"], facts["step"], facts["loss_sum"]
        self.piece = facts["piece"]
        self.records = [Epoch(**record) for record in facts["records"]]
        self.scaler.load_state_dict(facts["scaler"])
        if "best" in facts:
            self.best = (facts["best"][0], facts["best"][1], parts["best"])

    def _order(self) -> Ints:
        rng = np.random.default_rng([self.task.seed, 1, self.epoch])
        rows = self.task.train
        if self.task.recipe.balance == "sampling":
            return rng.choice(rows, len(rows), p=balanced_chances(self.task.y[rows]))
        return rows[rng.permutation(len(rows))]

    def _expect(self, rows: Ints) -> None:
        if self.task.world.size == 1 and self.task.recipe.balance != "sampling":  # then no row comes twice
            self.task.batches.expect(rows, self.epoch)

    def _train_step(self, rows: Ints) -> None:
        while True:
            try:
                loss = self._gradients(rows)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error) or self.piece <= 1:
                    raise
                self.piece = math.ceil(self.piece / 2)
        if not math.isfinite(loss):
            rates = sorted({group["peak"] for group in self.optimiser.param_groups})
            raise Diverged(
                f"training diverged in epoch {self.epoch + 1}: the loss is no longer a number; "
                f"take a lower --lr, such as {rates[-1] / 5:.1g}, or a --clip-grad of 1"
            )
        self.loss_sum += loss * len(rows)
        self._update()

    def _gradients(self, rows: Ints) -> float:
        """Sets the gradients of the batch's loss, summed over processes and pieces; returns the loss."""
        task, world = self.task, self.task.world
        set_training(self.network, task.recipe)
        self.optimiser.zero_grad(set_to_none=False)
        torch.manual_seed(_number(task.seed, self.epoch, self.step, world.rank))  # dropout and stochastic depth
        total = float(self._weights[rows].sum())
        own = rows[world.rank :: world.size]
        loss = torch.zeros((), dtype=torch.float64)
        x, targets = self._inputs(own)
        weights = torch.from_numpy(self._weights[own].astype(np.float32))
        for start in range(0, len(own), self.piece):
            part = slice(start, start + self.piece)
            with self._precision(), self._kernels():
                logits = self.forward(x[part].to(task.device))
            losses = -(targets[part].to(task.device) * functional.log_softmax(logits.float(), dim=1)).sum(1)
            piece = (losses * weights[part].to(task.device)).sum() / total
            self.scaler.scale(piece).backward()  # type: ignore[no-untyped-call]
            loss += piece.detach().double().cpu()
        world.add([p.grad for p in self.trained if p.grad is not None])
        world.add([loss])
        return float(loss)

    def _inputs(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        recipe = self.task.recipe
        n_classes = self.task.n_classes
        targets = functional.one_hot(torch.from_numpy(self.task.y[rows]), n_classes).float()
        if recipe.smoothing:
            targets = targets * (1 - recipe.smoothing) + recipe.smoothing / n_classes
        if not len(rows):
            rows = self.task.train[:1]  # a process without a picture in the last batch still takes part in the sum
            return self.task.batches.training(rows, self.epoch)[:0], targets
        x = self.task.batches.training(rows, self.epoch)
        if recipe.mixup or recipe.cutmix:
            rng = np.random.default_rng([self.task.seed, 2, self.epoch, self.step, self.task.world.rank])
            x, targets = mixed(x.float(), targets, mixup=recipe.mixup, cutmix=recipe.cutmix, probability=1.0, rng=rng)
        return x, targets

    def _update(self) -> None:
        recipe = self.task.recipe
        done, factor = self.epoch * self.steps_per_epoch + self.step, self._factor(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        if recipe.clip_grad:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.trained, recipe.clip_grad, foreach=False)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        for mean, parameter in zip(self.average, self.trained, strict=bool(self.average)):
            mean.lerp_(parameter.detach(), 1 - min(recipe.ema, (1 + done) / (10 + done)))

    def _factor(self, step: int) -> float:
        """Share of the peak rate at a step of this epoch."""
        recipe, each = self.task.recipe, self.steps_per_epoch
        return schedule(self.epoch * each + step, recipe.epochs * each, recipe.warmup)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.task.amp == "none":
            return nullcontext()
        kind = torch.bfloat16 if self.task.amp == "bfloat16" else torch.float16
        return torch.autocast(self.task.device, dtype=kind)

    def _kernels(self) -> AbstractContextManager[Any]:
        quick = self.task.amp == "bfloat16" and self.task.device == "cpu" and not self.task.compiled
        return QuickDepthwise() if quick else nullcontext()

    def _averaged(self) -> "_Swapped":
        return _Swapped(self.trained, self.average)

    def _end_of_epoch(self, seconds: float, pictures: int) -> Epoch:
        record = Epoch(
            number=self.epoch + 1,
            of=self.task.recipe.epochs,
            train_loss=self.loss_sum / len(self.task.train),
            log_loss=None,
            accuracy=None,
            lr=self._factor(self.step - 1) * max(group["peak"] for group in self.optimiser.param_groups),
            seconds=seconds,
            pictures_per_second=min(pictures, len(self.task.train)) / max(seconds, 1e-9),
        )
        if not len(self.task.held):
            return record
        z, y = self.logits(self.task.held), self.task.y[self.task.held]
        shifted = z - z.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
        loss = float(losses.mean())
        if self.task.recipe.patience and (self.best is None or loss < self.best[0]):
            self.best = (loss, self.epoch + 1, self.weights())
        return replace(record, log_loss=loss, accuracy=float((z.argmax(1) == y).mean()))

    def _out_of_patience(self) -> bool:
        if self.best is None or not self.task.recipe.patience:
            return False
        return self.epoch - self.best[1] >= max(1, round(self.task.recipe.patience * self.task.recipe.epochs))


class _Swapped:
    """The averaged weights in the network's place, for a while."""

    def __init__(self, parameters: list[torch.nn.Parameter], average: list[torch.Tensor]) -> None:
        self._pairs = list(zip(parameters, average, strict=bool(average)))

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for parameter, mean in self._pairs:
                kept = parameter.detach().clone()
                parameter.copy_(mean)
                mean.copy_(kept)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: a line from 0 over the first `warmup` of the steps, then a cosine to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))


def row_weights(y: Ints, train: Ints, recipe: Recipe) -> Floats:
    """How much each row counts, float64 (n,): w = n / (K n_c) where classes are to count alike, else 1."""
    if recipe.balance != "weights":
        return np.ones(len(y))
    counts = np.bincount(y[train], minlength=int(y.max()) + 1)
    per_class = len(train) / (len(counts) * np.maximum(counts, 1))
    return np.asarray(per_class[y], dtype=np.float64)


def balanced_chances(y: Ints) -> Floats:
    """Chance of drawing each row so that every class is drawn alike, float64 (n,), summing to 1."""
    chances = 1.0 / np.bincount(y)[y]
    return np.asarray(chances / chances.sum(), dtype=np.float64)


def _number(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "alloc" in str(error).lower() and "memory" in str(error).lower()
