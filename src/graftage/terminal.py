"""A watcher for people: a progress bar with rate and time left on a terminal, a line per stage elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from graftage.progress import Watcher

_EVERY = 60.0  # seconds between two lines of progress where there is no bar


class Terminal(Watcher):
    """Shows the stages of a run on standard error. Use as a context manager.

    Args:
        quiet: show nothing but notices, because standard output is being read by a person or a program.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>9}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._name, self._started, self._first = "", time.monotonic(), 0
        self._told = self._started

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._live:
            self._bar.stop()

    def stage(self, name: str) -> None:
        """A new part of the work begins: its line, or its bar."""
        self._end()
        self._name, self._started, self._first = name, time.monotonic(), -1
        self._told = self._started
        if self._live:
            self._task = self._bar.add_task(name, total=None, rate="")

    def progress(self, done: int, total: int) -> None:
        """Moves the bar, with pictures per second since the stage began; a total of 0 is not known.

        Without a bar a line tells the same once a minute.
        """
        if self._first < 0:
            self._first = done  # what was there before costs no time: it is not part of the rate
        now = time.monotonic()
        per_second = (done - self._first) / max(now - self._started, 1e-9)
        if self._live and self._task is not None:
            rate = f"{per_second:.0f}/s" if now - self._started > 0.5 and done > self._first else ""
            self._bar.update(self._task, completed=done, total=total or None, rate=rate)
        elif not self._live and not self._quiet and now - self._told > _EVERY:
            self._told = now
            print(_so_far(self._name, done, total, per_second), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def row(self, text: str) -> None:
        """A line of a table, above the bar."""
        if self._quiet:
            return
        if self._live:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _end(self) -> None:
        if not self._name:
            return
        seconds = time.monotonic() - self._started
        if self._live and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if not self._quiet and seconds >= 0.05:
            print(f"{self._name:<28} {seconds:6.1f} s", file=sys.stderr, flush=True)
        self._name = ""


def _so_far(name: str, done: int, total: int, per_second: float) -> str:
    """A line of progress.

    >>> _so_far("predict", 1200, 4800, 20.0)
    'predict                      1,200 of 4,800, 20/s, 3.0 min left'
    """
    of = f" of {total:,}" if total else ""
    left = f", {(total - done) / per_second / 60:.1f} min left" if total > done and per_second > 0 else ""
    return f"{name:<28} {done:,}{of}, {per_second:.0f}/s{left}"
