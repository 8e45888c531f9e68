"""Loggers that a user may have: TensorBoard, Weights & Biases, MLflow. Each gets every epoch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graftage import world
from graftage.errors import OptionError

if TYPE_CHECKING:
    from graftage.learn.task import Epoch

KNOWN = ("tensorboard", "wandb", "mlflow")

Log = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Tracker:
    """Passes epochs on to the loggers that were asked for."""

    logs: tuple[Log, ...]

    @classmethod
    @contextmanager
    def of(cls, names: str, run: str, facts: Mapping[str, Any]) -> "Iterator[Tracker]":
        """Opens the loggers named, joined by commas, for one training.

        Raises:
            OptionError: an unknown name, or a library that is not installed.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip()] if not world.rank() else []
        if unknown := [name for name in wanted if name not in KNOWN]:
            raise OptionError(f"track knows {', '.join(KNOWN)}, not {', '.join(unknown)}")
        opened = [_opened(name, run, facts) for name in wanted]
        try:
            yield cls(tuple(log for log, _ in opened))
        finally:
            for _, close in opened:
                close()

    def log(self, record: "Epoch") -> None:
        """One epoch: all its numbers."""
        numbers = {n: float(v) for n, v in vars(record).items() if isinstance(v, int | float) and n != "number"}
        for log in self.logs:
            log(record.number, numbers)


def _opened(name: str, run: str, facts: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    try:
        return {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name](run, facts)
    except ImportError as error:
        raise OptionError(f"track {name}: it is not installed; pip install {name}") from error


def _tensorboard(run: str, facts: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(comment=f"-{run.replace(', ', '-').replace(' ', '-')}")
    writer.add_text("recipe", str(dict(facts)))

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return log, writer.close


def _wandb(run: str, facts: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    import wandb

    own: Any = wandb.init(project="graftage", name=run, config=dict(facts), reinit=True)
    return lambda step, numbers: own.log(dict(numbers), step=step), own.finish


def _mlflow(run: str, facts: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    import mlflow

    mlflow.start_run(run_name=run)
    mlflow.log_params(dict(facts))
    return lambda step, numbers: mlflow.log_metrics(dict(numbers), step=step), mlflow.end_run
