"""How a run says what it is doing, without knowing who listens; and the log that it keeps."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Protocol

_ROW_SECONDS = 30.0


class Watcher(Protocol):
    """Someone who is told how a run goes on."""

    def stage(self, name: str) -> None:
        """A new part of the work begins."""

    def progress(self, done: int, total: int) -> None:
        """So much of the present part is done."""

    def note(self, text: str) -> None:
        """Something that a person should read."""

    def row(self, text: str) -> None:
        """A line of a table that grows: an epoch, or the plan."""


class Silent:
    """A watcher that does nothing."""

    def row(self, text: str) -> None:
        """Nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class _Sparing:
    """Passes all on, of the rows only one every half minute, for those who see no bar."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher, self._last = watcher, time.monotonic()

    def row(self, text: str) -> None:
        if time.monotonic() - self._last > _ROW_SECONDS:
            self._last = time.monotonic()
            self._watcher.row(text)

    def stage(self, name: str) -> None:
        self._watcher.stage(name)

    def progress(self, done: int, total: int) -> None:
        self._watcher.progress(done, total)

    def note(self, text: str) -> None:
        self._watcher.note(text)


class Journal:
    """Times the stages of a run, passes them on to a watcher and writes them to `log.jsonl` as they happen.

    Args:
        watcher: told everything.
        path: the log file, or None to keep none.
    """

    def __init__(self, watcher: Watcher, path: Path | None = None) -> None:
        self.watcher = watcher
        self.notes: list[str] = []
        self._path = path
        self._seconds: dict[str, float] = {}

    @property
    def timing(self) -> tuple[tuple[str, float], ...]:
        """(stage, seconds) in the order of their first start."""
        return tuple(self._seconds.items())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a part of the work."""
        self.watcher.stage(name)
        self._write(event="start", stage=name)
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self._write(event="end", stage=name, seconds=round(seconds, 3))

    def note(self, text: str) -> None:
        """Passes a notice on, and keeps it for the report; one said before is not said again."""
        if text not in self.notes:
            self.notes.append(text)
            self._write(event="note", text=text)
            self.watcher.note(text)

    def with_fewer_rows(self) -> "Journal":
        """The same journal; of its rows one in half a minute is passed on, all are in the log."""
        other = copy(self)  # notes and times are shared
        other.watcher = _Sparing(self.watcher)
        return other

    def log(self, **fields: object) -> None:
        """Something for the log alone."""
        self._write(**fields)

    def row(self, text: str, **fields: object) -> None:
        """A line for a person, and what it tells as fields for the log."""
        self._write(event="row", text=text, **fields)
        self.watcher.row(text)

    def _write(self, **fields: object) -> None:
        if self._path is not None:
            line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields}, ensure_ascii=False)
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(line + "\n")
