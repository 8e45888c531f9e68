"""What was named for a prediction, cut into pieces that any worker can read by itself, in one process' order (P)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from graftage.data.decode import Limits
from graftage.data.gathering import STDIN, Named, braced, lines
from graftage.data.inputs import Input
from graftage.data.rows import Asked

_LISTED = 256  # paths of a unit, where they are listed one by one


@dataclass(frozen=True)
class Unit:
    """A piece of what was named: pictures, folders, shards or tables, read one after the other.

    Attributes:
        paths: as they were named; braces are expanded.
        asked: of tables.
    """

    paths: tuple[str, ...]
    asked: Asked = field(default_factory=Asked)

    def inputs(self, *, limits: Limits) -> Iterator[Input]:
        """One input after the other; the same each time, as long as the files are."""
        for path in self.paths:
            if "{" in path and not os.path.lexists(path):  # no braces any more: a name of a file that is not there
                yield Input(path, Path(path))
            else:
                yield from Named((path,), asked=self.asked).inputs(limits=limits)


class Walked:
    """The inputs of units one after the other, in this process, and where they are: a run that goes on finds its place.

    Args:
        units: the pieces.
        limits: of files.
    """

    def __init__(self, units: Sequence[Unit], *, limits: Limits) -> None:
        self._units, self._limits = tuple(units), limits
        self._unit = self._number = 0  # of the input given last

    def __iter__(self) -> Iterator[Input]:
        """All of them, in order."""
        for number, unit in enumerate(self._units):
            for place, each in enumerate(unit.inputs(limits=self._limits)):
                self._unit, self._number = number, place
                yield each

    def left(self) -> tuple[tuple[Unit, ...], int]:
        """The units from that of the input given last on, and how many inputs of the first come before it."""
        return self._units[self._unit :], self._number


def units(named: Named) -> Iterator[Unit]:
    """The pieces, in order; together they have the inputs of `named`. Of all, only lists are read here."""
    for path in named.paths:
        if path == STDIN:
            yield from _listed(named, STDIN)
        else:
            whole = "{" not in path or os.path.lexists(path)
            yield from (Unit((each,), named.asked) for each in ([path] if whole else braced(path)))
    if named.list:
        yield from _listed(named, named.list)


def _listed(named: Named, name: str) -> Iterator[Unit]:
    found = (str(path) for path in lines(name, null=named.null))
    while paths := tuple(islice(found, _LISTED)):
        yield Unit(paths, named.asked)
