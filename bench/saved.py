"""Measured runs as JSON lines, so that a benchmark that was stopped goes on where it was; and what they ran on."""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

Record = dict[str, Any]
KEY = ("set", "seed", "recipe", "budget", "limit")
NO_BUDGET = "none"


class Saved:
    """Runs by (set, seed, recipe, budget, limit); what is added is appended to the file at once."""

    def __init__(self, file: Path | None, *, also: Iterable[Path] = ()) -> None:
        self.file = file
        self.records: dict[tuple[object, ...], Record] = {}
        for path in (*also, *([file] if file is not None and file.exists() else [])):
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    self._keep(json.loads(line))

    def get(self, **key: object) -> Record | None:
        """The run with this key, if it has been measured."""
        return self.records.get(tuple(key[name] for name in KEY))

    def add(self, record: Record) -> None:
        """Keeps a run, in the file too."""
        self._keep(record)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _keep(self, record: Record) -> None:
        self.records[tuple(record[name] for name in KEY)] = record


@contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """graftage keeps features and networks in `folder` meanwhile, and finds nothing of earlier runs."""
    before = os.environ.get("GRAFTAGE_CACHE")
    os.environ["GRAFTAGE_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["GRAFTAGE_CACHE"]
        if before is not None:
            os.environ["GRAFTAGE_CACHE"] = before


def seconds_of(budget: str) -> float:
    """ "300s", "5m", "1h" or plain seconds → seconds."""
    number, unit = (budget[:-1], budget[-1]) if budget[-1:] in ("s", "m", "h") else (budget, "s")
    return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def machine(*packages: str) -> str:
    """The processor and the versions that a measurement ran on, as one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{os.cpu_count()} cores, {processor()}; Python {platform.python_version()}; {versions}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
