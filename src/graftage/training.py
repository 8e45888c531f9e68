"""One training of a recipe: its inputs, its network, its device; kept as it goes on, and continued."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage import world
from graftage.errors import OptionError
from graftage.features.engine import choose_device, has_bfloat16
from graftage.ground import Ground, start_head
from graftage.learn.defaults import Recipe
from graftage.recipes import Ready
from graftage.settings import Settings
from graftage.states import States
from graftage.tracking import Tracker

if TYPE_CHECKING:
    from graftage.features.views import View
    from graftage.learn.network import Network
    from graftage.learn.task import Batches, Epoch, Task
    from graftage.learn.tune import Training

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_SAVE_SECONDS = 30.0


def augment_of(recipe: Recipe) -> Any:
    """The augmentation that a recipe asks for."""
    from graftage.learn.augment import KINDS, Augment

    kind = next(kind for kind in KINDS if kind == recipe.aa)
    scale = (recipe.crop_scale, 1.0)
    return Augment(kind, scale=scale, hflip=recipe.hflip, vflip=recipe.vflip, erase=recipe.reprob)


def _view(ground: Ground, ready: Ready) -> "View":
    from graftage.learn.augment import augmented

    augment, preprocess, seed = augment_of(ready.recipe), ground.pictures.preprocess, ground.settings.seed

    def view(pixels: NDArray[np.uint8], row: int, number: int) -> NDArray[np.uint8]:
        return augmented(pixels, preprocess, augment, np.random.default_rng([seed, 3, number, row]))

    return view


@contextmanager
def inputs_of(ground: Ground, ready: Ready) -> "Iterator[Batches]":
    """What the network is fed: kept activations of views where a part is frozen, else pictures; closed at the end."""
    from graftage.features.inputs import PictureInputs, ViewInputs
    from graftage.features.views import keep_views

    view = _view(ground, ready)
    if ready.forward is None:
        fresh = PictureInputs(ground.pictures, view)
        try:
            yield fresh
        finally:
            fresh.close()
        return
    with ground.journal.stage("frozen part"):
        kept = keep_views(
            ground.pictures,
            view,
            forward=ready.forward,
            views=ready.recipe.views,
            key=f"{augment_of(ready.recipe)} {ground.settings.seed}",
            share=(world.rank(), world.size()),
            progress=ground.journal.watcher.progress,
        )
        world.together()
    yield ViewInputs(kept, ready.tensor_shape, seed=ground.settings.seed)


def starting_network(ground: Ground, ready: Ready, train: Ints | None) -> "Network":
    """The network as it starts: with the head fitted to the rows (m,) that it learns from, or a fresh one."""
    from graftage.learn.network import Network, fresh_head, linear_head

    recipe, seed = ready.recipe, ground.settings.seed
    if recipe.hidden or not recipe.pretrained or train is None:
        width = ready.backbone.info.features
        head = fresh_head(width, recipe.hidden, len(ground.classes), seed=seed)
        return Network(ready.body(), head, unit=not recipe.hidden)
    return Network(ready.body(), linear_head(start_head(ground, train)), unit=True)


def training_device(settings: Settings) -> str:
    """The device that trains: "cuda" or "mps" where there is one and it is not ruled out, else "cpu".

    Raises:
        OptionError: a device is asked for that is not to be had.
    """
    import torch

    if settings.device in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    if settings.device == "mps":
        raise OptionError("device mps: PyTorch sees no Apple GPU here; use --device cpu or auto")
    return choose_device(settings.device)


def precision_on(device: str, wanted: str) -> str:
    """Mixed precision: "auto" takes bfloat16 where the hardware has it, on older CUDA devices float16."""
    if wanted != "auto":
        return wanted
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if device == "cpu" and has_bfloat16() else "none"


def make_task(ground: Ground, ready: Ready, batches: Any, train: Ints, held: Ints, name: str) -> "Task":
    """A training of the recipe, ready to run.

    Args:
        ground: what all trainings stand on.
        ready: the recipe, and the network taken apart for it.
        batches: gives the inputs of rows, see `learn.task.Batches`.
        train: int64 (m,) rows learnt from; held: int64 (h,) rows that it is judged on.
        name: "cost" starts from a fresh head, to be timed and thrown away.
    """
    from graftage.learn.task import Task, World

    device = training_device(ground.settings)
    return Task(
        network=starting_network(ground, ready, train if name != "cost" else None),
        batches=batches,
        y=ground.y,
        n_classes=len(ground.classes),
        train=train,
        held=held,
        recipe=ready.recipe,
        stages=ready.stages,
        seed=ground.settings.seed,
        device=device,
        amp=precision_on(device, ground.settings.amp),
        world=World(world.rank(), world.size()),
        compiled=ground.settings.torchcompile and name != "cost",
        frozen=ready.frozen,
    )


def run_task(
    ground: Ground, task: "Task", name: str, states: States, *, until: float = math.inf
) -> "tuple[Any, Training]":
    """Trains a task to its end, going on from what is kept of it; returns the weights it began with, and itself.

    No epoch begins after `until`, on `time.monotonic`; what is kept then goes on another time.
    """
    from graftage.learn.faster import steady_memory
    from graftage.learn.tune import Training

    training = Training(task)
    start = world.agreed(training.weights())
    if world.size() > 1:
        from graftage.learn.network import load_arrays

        load_arrays(training.network, start)
    key = name.replace(", ", "-").replace(" ", "-")
    kept = states.load(key)
    if kept is not None:
        training.restore(kept)
        ground.journal.row(f"{name}: goes on in epoch {training.epoch + 1}, step {training.step}")
    saved = [time.monotonic()]

    def after_step(now: "Training") -> None:
        ground.journal.watcher.progress(now.epoch * now.steps_per_epoch + now.step, now.last * now.steps_per_epoch)
        if time.monotonic() - saved[0] > _SAVE_SECONDS:
            states.save(key, now.state(), done=False)
            saved[0] = time.monotonic()

    tracked = Tracker.of(ground.settings.track, name, vars(task.recipe))
    with ground.journal.stage(name), steady_memory(), tracked as tracker:
        for record in training.run(after_step):
            ground.journal.row(epoch_line(name, record), **vars(record))
            tracker.log(record)
            if time.monotonic() > until:
                break
    states.save(key, training.state(), done=training.over)
    return start, training


def epoch_line(name: str, record: "Epoch") -> str:
    """One row of the table that grows on the terminal."""
    held = ""
    if record.log_loss is not None and record.accuracy is not None:
        held = f"  held out: log-loss {record.log_loss:.4f}, accuracy {100 * record.accuracy:5.1f} %"
    speed = f"{record.seconds:6.1f} s, {record.pictures_per_second:.0f}/s"
    return f"{name:<20} epoch {record.number:>3}/{record.of:<3} loss {record.train_loss:.4f}{held}  {speed}"


def logits_between(training: "Training", start: Any, end: Any, alpha: float, rows: Ints) -> Floats:
    """Logits of rows by the network at `alpha` of the way from start to end; the training is over then."""
    from graftage.learn.network import between, load_arrays

    load_arrays(training.network, between(start, end, alpha))
    training.average = []  # `end` is the average already
    return training.logits(rows)
