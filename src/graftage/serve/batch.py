"""Many inputs through a model: an answer each, written as they come, in memory that does not grow (C)."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from graftage.data.inputs import Input
from graftage.serve.outputs import Sink
from graftage.serve.predict import Answered
from graftage.serve.tables import row_of

_TELL = 0.1  # seconds between two words about progress

Progress = Callable[[int, int], None]


@dataclass
class Tally:
    """What has been answered so far.

    Attributes:
        rows: inputs with a row.
        left: of these, those whose picture could not be used.
        broken: of these, sources that could not be read to their end, so that inputs may be missing.
    """

    rows: int = 0
    left: int = 0
    broken: int = 0

    def add(self, input: Input, status: str) -> None:
        """Counts one."""
        self.rows += 1
        self.left += status == "rejected"
        self.broken += input.broken


class Counting:
    """How many inputs there will be, counted beside the work, since counting a million files takes a while.

    Args:
        count: gives the number, or None.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self.total = 0  # not known (yet)
        self._count = count
        threading.Thread(target=self._run, daemon=True, name="graftage-count").start()

    def _run(self) -> None:
        self.total = self._count() or 0


class Answering(Protocol):
    """A Predictor, or what answers as one does."""

    def answers(self, inputs: Iterable[Input], *, workers: int = 0) -> Generator[Answered, None, None]:
        """An answer for every input, in order."""


def predict_all(
    predictor: Answering,
    inputs: Iterable[Input],
    sink: Sink,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    total: Callable[[], int] = lambda: 0,
    begun: Callable[[], None] = lambda: None,
    listen: Callable[[Answered], None] | None = None,
    keep: Callable[[], Mapping[str, Any]] = dict,
) -> Tally:
    """A row for every input, in order; those that an interrupted run has left rows of are passed over.

    Where a picture has changed since it had its row, that row and those after it are made anew.

    Args:
        predictor: the model.
        inputs: taken as they are needed; the same as before, where the sink goes on with an interrupted run.
        sink: takes the rows.
        workers: threads; 0 means two more than there are cores.
        progress: called with (done, total) in this thread, ten times a second at most; a total of 0 is not known.
        total: gives the number of inputs, as far as it is known.
        begun: called once it is seen which rows are there, before the first answer.
        listen: is told every answer before its row is written; what it has heard cannot be taken back.
        keep: what to note beside the rows for a run that goes on.

    Returns:
        The count, rows of the interrupted run included.

    Raises:
        OptionError: the inputs are not those of the interrupted run; or one has changed and there is a `listen`.
        StoreError: the rows cannot be written.
    """
    tally = Tally()
    left = sink.past(inputs, tally.add, divisible=listen is None)
    if "tally" in sink.kept:
        tally = Tally(**sink.kept["tally"])
    begun()
    sink.keep = lambda: {"tally": vars(tally).copy(), **keep()}
    told = time.monotonic()
    if progress is not None:
        progress(tally.rows, total())
    with closing(predictor.answers(left, workers=workers)) as answers:  # no worker outlives an interrupt
        for answered in answers:
            tally.add(answered.input, answered.prediction.status)
            if listen is not None:
                listen(answered)
            sink.write(row_of(answered.prediction, id=answered.input.id), answered.trace)
            if progress is not None and time.monotonic() - told > _TELL:
                told = time.monotonic()
                progress(tally.rows, total())
    return tally
