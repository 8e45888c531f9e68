"""What a prediction is asked for, one record at a time: a file, or bytes out of a shard or a table.

Records are made as they are needed and forgotten once answered: nothing here holds a list of the inputs.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Final

from graftage.data.sources import ignored, sorting_text

_RUN: Final = 4096  # names of a folder that are sorted at a time


@dataclass(frozen=True, eq=False)
class Input:
    """One picture to be answered for.

    Attributes:
        name: what its row calls it: the path as given, SHARD/MEMBER, or as written in a table.
        path: its file; None where `data` or `reason` stands for it.
        data: its bytes, where they are at hand.
        reason: why there is nothing to decode, "" if there is.
        id: what a table's id column says, "" if there is none.
        broken: what it comes from could not be read to the end: there may have been more inputs than there are rows.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    reason: str = ""
    id: str = ""
    broken: bool = False


def walk(top: Path) -> Iterator[Input]:
    """Every file at or below the folder `top` that is not hidden, depth first in natural order.

    Links to folders are followed, loops are not. The names in the folders that are open are held, as long as they are
    written, nothing else. A folder that cannot be listed is an input that says so, and so is one without any file.
    """
    found = False
    for each in _below(top, frozenset()):
        found = True
        yield each
    if not found:
        yield Input(str(top), reason="not a file: a folder without files")


def _below(folder: Path, parents: frozenset[tuple[int, int]]) -> Iterator[Input]:
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        names = iter(()) if here in parents else _names(folder)
    except OSError as error:
        yield Input(str(folder), reason=f"folder cannot be listed: {error.strerror}", broken=True)
        return
    for name in names:
        path = folder / name.rstrip("/")  # a folder's name is marked by the slash that no name can hold
        if name.endswith("/"):
            yield from _below(path, parents | {here})
        else:
            yield Input(str(path), path)


def _names(folder: Path) -> Iterator[str]:
    """The names, sorted some thousands at a time and merged: written one after the other they take a sixth of what as
    many texts do.
    """
    runs: list[bytes] = []
    with os.scandir(folder) as entries:
        found = (entry.name + "/" * _is_folder(entry) for entry in entries if not ignored(entry.name))
        while some := sorted(islice(found, _RUN), key=_order):
            runs.append(b"".join(os.fsencode(name) + b"\0" for name in some))
    return merge(*map(_run, runs), key=_order)


def _run(held: bytes) -> Iterator[str]:
    start = 0
    while start < len(held):
        end = held.index(b"\0", start)
        yield os.fsdecode(held[start:end])
        start = end + 1


def _order(name: str) -> str:
    return sorting_text(name.rstrip("/"))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # it stays as an input, and reading it says what is wrong
        return False
