"""Everything that can be named for a prediction becomes one stream of inputs: pictures, folders, shards, tables, lists.

Of what is named outright or in a list, tables and shards are opened; of what lies in a folder, shards are, and a table
is a file like any other. What is not there is an input that says so.
"""

import io
import itertools
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.inputs import Input, walk
from graftage.data.rows import Asked, check, is_table, rows
from graftage.data.shards import is_shard, members
from graftage.data.sources import ignored, is_dir
from graftage.errors import DataError, OptionError

STDIN: Final = "-"
_BLOCK: Final = 2**16
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Named:
    """What was named for a prediction.

    Attributes:
        paths: pictures, folders, shards, tables, or "-" for a list on standard input; may hold braces: a-{00..12}.tar.
        list: a file with a path on each line, "-" for standard input, "" for none.
        null: whether lists are separated by zero bytes instead of line ends.
        asked: of tables.
    """

    paths: Sequence[str]
    list: str = ""
    null: bool = False
    asked: Asked = field(default_factory=Asked)

    def inputs(self, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Input]:
        """One input after the other, in the order named; the same each time, as long as the files are."""
        for path in self._listed():
            yield from _opened(path, self.asked, limits)

    def check(self) -> None:
        """Looks at what is certain to be read, so that what is wrong with it is said before hours have passed.

        Raises:
            DataError: a table cannot be opened, or has no such column.
            OptionError: a list cannot be read, standard input is named twice, braces expand to too much, or a column is
                named and no table.
        """
        paths = [*_named(self.paths)]
        tables = [Path(path) for path in paths if is_table(Path(path)) and not Path(path).is_dir()]
        for table in tables:
            check(table, self.asked)
        lists = [*(path for path in paths if path == STDIN), *([self.list] if self.list else [])]
        if lists.count(STDIN) > 1:
            raise OptionError("standard input is named twice: it can be read only once")
        if self.list not in ("", STDIN):
            _open_list(self.list).close()
        if (self.asked.path_col or self.asked.id_col) and not tables and not lists:
            flag = "--path-col" if self.asked.path_col else "--id-col"
            raise OptionError(f"{flag} names a column, but no table is named: leave it out")

    def _listed(self) -> Iterator[Path]:
        for name in _named(self.paths):
            if name == STDIN:
                yield from lines(STDIN, null=self.null)
            else:
                yield Path(name)
        if self.list:
            yield from lines(self.list, null=self.null)

    def count(self) -> int | None:
        """How many inputs there will be, where that is cheap to tell; a line or a row is counted as one. Else None."""
        if self.list == STDIN or STDIN in self.paths:
            return None
        parts = [_count(Path(path)) for path in _named(self.paths)]
        if self.list:
            parts.append(_count_lines(Path(self.list), b"\0" if self.null else b"\n"))
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def _opened(path: Path, asked: Asked, limits: Limits) -> Iterator[Input]:
    if is_dir(path):
        for each in walk(path):
            if each.path is not None and is_shard(each.path):
                yield from members(each.path, limits=limits)
            else:
                yield each
    elif is_shard(path):
        yield from members(path, limits=limits)
    elif is_table(path):
        try:
            yield from rows(path, asked, limits=limits)
        except DataError as error:
            yield Input(str(path), reason=f"table cannot be read: {error}", broken=True)
    else:
        yield Input(str(path), path)


def lines(name: str, *, null: bool = False) -> Iterator[Path]:
    r"""The paths in a list, as they are read; empty lines are none.

    Bytes, because file names need not be UTF-8 and may hold what text takes for the end of a line.

    Args:
        name: a file, or "-" for standard input.
        null: whether a zero byte ends each, as `find -print0` writes them, instead of \n or \r\n.

    Raises:
        OptionError: the file cannot be read.
    """
    end = b"\0" if null else b"\n"
    with _open_list(name) as file:
        left = b""
        while block := os.read(file.fileno(), _BLOCK):  # what is there, without waiting for a full block
            *whole, left = (left + block).split(end)
            yield from _paths(whole, null=null)
        yield from _paths([left], null=null)


def _paths(found: Iterable[bytes], *, null: bool) -> Iterator[Path]:
    texts = found if null else (line.removesuffix(b"\r") for line in found)
    return (Path(os.fsdecode(text)) for text in texts if text.strip())


def _open_list(name: str) -> io.FileIO:
    if name == STDIN:
        return open(os.dup(sys.stdin.fileno()), "rb", buffering=0)  # noqa: PTH123
    try:
        return Path(name).open("rb", buffering=0)
    except OSError as error:
        raise OptionError(f"{name}: the list of pictures cannot be read ({error.strerror})") from error


# ---------------------------------------------------------------- braces


def _named(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from [path] if "{" not in path or os.path.lexists(path) else braced(path)


def braced(pattern: str) -> Iterator[str]:
    """What braces stand for, in order, as bash and WebDataset have it.

    >>> list(braced("{a,b}-{08..10}.tar"))
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    pieces = _BRACES.split(pattern)  # text, what stands in braces, text, …
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    return ("".join(parts) for parts in itertools.product(*choices))


def _choices(inside: str) -> Sequence[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= 10**6:
            raise OptionError(f"the braces {{{inside}}} stand for more than a million names: name fewer shards at once")
        step = 1 if first <= last else -1
        width = max(map(len, match.groups())) if any(text.startswith("0") for text in match.groups()) else 0
        return [f"{number:0{width}}" for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


# ---------------------------------------------------------------- counting


def _count(path: Path) -> int | None:
    try:
        if is_dir(path):
            return _count_files(path)
        if is_shard(path):
            return None
        if is_table(path):
            return _count_rows(path)
    except (OSError, ValueError, ImportError, tarfile.TarError):
        return None
    return 1


def _count_files(top: Path) -> int | None:
    total, left = 0, [str(top)]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:  # one after the other: a million names are not held
            for entry in entries:
                if ignored(entry.name):
                    continue
                if entry.is_dir():
                    left += [] if entry.is_symlink() else [entry.path]
                elif is_shard(Path(entry.name)):
                    return None
                else:
                    total += 1
    return max(total, 1)


def _count_rows(table: Path) -> int | None:
    if table.suffix.lower() == ".parquet":
        from pyarrow import parquet

        return int(parquet.read_metadata(table).num_rows)
    lines = _count_lines(table, b"\n")
    return lines if lines is None or table.suffix.lower() == ".jsonl" else max(lines - 1, 0)


def _count_lines(file: Path, end: bytes) -> int | None:
    try:
        with file.open("rb") as stream:
            total, last = 0, end
            while block := stream.read(2**20):
                total, last = total + block.count(end), block[-1:]
    except OSError:
        return None
    return total + (last != end)
