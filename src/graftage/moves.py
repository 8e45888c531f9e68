"""Renames that can be interrupted anywhere and taken back: a line in a journal, on disk, before each of them.

The journals lie in NAME-aside/ beside the folder NAME. Whatever ends the work, every file lies in one place that the
journal knows.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from graftage.errors import DataError, OptionError, StoreError

SHOWN: Final = 10  # faults named in one message


@dataclass(frozen=True)
class Move:
    """One file's way: from and to are relative to the folder that holds PHOTOS; label is the new class of a relabel."""

    source: str
    target: str
    label: str = ""


@dataclass
class Journal:
    """The lines of one clean: what was about to be moved, and whether it ended or was undone."""

    path: Path
    moves: list[Move] = field(default_factory=list)
    done: bool = False
    undone: bool = False
    torn: int = 0  # bytes of a last line that a kill cut off

    def add(self, **record: str) -> None:
        """Writes one line and waits until it is on disk."""
        fresh = not self.path.exists()
        line = json.dumps(record, ensure_ascii=True) + "\n"
        with self.path.open("a", encoding="ascii") as file:
            if self.torn:
                file.truncate(self.path.stat().st_size - self.torn)
                self.torn = 0
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync(self.path.parent)


def aside_of(root: Path) -> Path:
    """The folder beside `root` that takes what is moved aside, and the journals."""
    return root.with_name(f"{root.name}-aside")


def carry_out(root: Path, moves: Sequence[Move], journal: Journal) -> None:
    """Makes the moves, each after its line in the journal. Raises StoreError where one cannot be made."""
    try:
        journal.path.parent.mkdir(exist_ok=True)
        for move in moves:
            journal.add(source=move.source, target=move.target, label=move.label)
            rename(root.parent / move.source, root.parent / move.target)
        journal.add(event="done")
    except OSError as error:
        raise StoreError(
            f"{root}: cannot go on moving files ({error.strerror}: {error.filename}); mend that and give the same "
            "command again, or take back what was moved with --undo"
        ) from error


def rename(source: Path, target: Path) -> None:
    """One rename into a folder that is made if missing; never onto something. Raises StoreError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            raise StoreError(f"{target} has appeared meanwhile; nothing is overwritten. Move it away and go on")
        source.rename(target)
    except OSError as error:
        raise StoreError(
            f"{source} cannot be moved to {target} ({error.strerror}); mend that and give the same command again, or "
            "take back what was moved with --undo"
        ) from error


def way_back(root: Path, journal: Journal) -> list[Move]:
    """The moves that undo a journal. Raises DataError where a file is not where it was put."""
    back, faults = [], []
    known: dict[str, bool] = {}  # what will be where, once the moves found so far are made
    for move in reversed(journal.moves):
        here, there = (known.get(n, os.path.lexists(root.parent / n)) for n in (move.source, move.target))
        if here and there:
            faults.append(f"{move.source} and {move.target} both exist: move one away")
        elif not here and not there:
            faults.append(f"{move.target} is gone: put it back there, or at {move.source}")
        elif there:
            back.append(Move(move.target, move.source))
            known.update({move.source: True, move.target: False})
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError("nothing was moved back, because\n  " + "\n  ".join(faults[:SHOWN]) + more)
    return back


def remove_empty(root: Path) -> None:
    """Folders in NAME-aside that hold nothing any more."""
    for folder, _, _ in os.walk(aside_of(root), topdown=False):
        if Path(folder) != aside_of(root):
            with suppress(OSError):
                Path(folder).rmdir()


def journals_of(root: Path) -> list[Journal]:
    """All journals, oldest first. A last line cut off by a kill was never acted upon, and does not count.

    Raises:
        StoreError: one cannot be read, is damaged, or names a path outside the two folders that clean may touch.
    """
    found = []
    for path in sorted(aside_of(root).glob("clean-*.jsonl")):
        journal = Journal(path)
        try:
            lines = path.read_text(encoding="ascii").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: the journal of an earlier clean cannot be read ({error})") from error
        journal.torn = len(lines[-1])
        for line in lines[:-1]:
            _take(journal, line)
        found.append(journal)
    return found


def _take(journal: Journal, line: str) -> None:
    try:
        record: dict[str, Any] = json.loads(line)
        if "event" in record:
            journal.done = journal.done or record["event"] == "done"
            journal.undone = record["event"] == "undone"
        else:
            move = Move(record["source"], record["target"], record["label"])
            folders = (journal.path.parent.name, journal.path.parent.name.removesuffix("-aside"))
            if not all(_inside(name, folders) for name in (move.source, move.target)):
                raise ValueError("a path leaves the folder")
            journal.moves.append(move)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{journal.path}: the journal of an earlier clean is damaged ({error})") from error


def _inside(name: object, folders: Sequence[str]) -> bool:
    """Whether a path in a journal lies in one of the two folders that clean may touch."""
    parts = PurePosixPath(str(name)).parts
    return isinstance(name, str) and len(parts) > 1 and parts[0] in folders and ".." not in parts


@contextmanager
def alone(root: Path, *, dry: bool) -> Iterator[None]:
    """No two cleans of one folder at a time; the lock goes with its process, however it ends.

    Raises:
        OptionError: another clean is at work.
        StoreError: the folder for what is moved aside cannot be made.
    """
    if dry:
        yield
        return
    try:
        aside_of(root).mkdir(exist_ok=True)
        handle = (aside_of(root) / ".lock").open("a")
    except OSError as error:
        raise StoreError(f"{aside_of(root)}: cannot be made ({error.strerror}); make {root.parent} writable") from error
    with handle:
        _lock(handle.fileno(), root)
        yield


def _lock(handle: int, root: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps a second clean away
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OptionError(f"another clean of {root} is at work; wait until it has ended") from error


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not every system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
