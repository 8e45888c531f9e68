"""Folders become rows: which files there are, what they are called, and what their folders say about them.

Nothing is opened here but by `read`. Nothing is skipped in silence: every file that is not hidden is a row, and what
cannot be used as a labelled picture carries the reason.
"""

import errno
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.errors import DataError, PictureError

SPLIT_NAMES: Final = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NO_CLASS_FOLDER: Final = "not in a class folder"
UNKNOWN_CLASS: Final = "class not in train"

_JUNK: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # beside everything that begins with a dot
_EXPECTED: Final = """Expected one folder per class:
    PHOTOS/cat/1.jpg  PHOTOS/dog/2.jpg
or class folders inside train, and if you have them val and test:
    PHOTOS/train/cat/1.jpg  PHOTOS/train/dog/2.jpg  PHOTOS/test/cat/3.jpg"""

NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        path: where the file lies.
        id: posix path relative to the root, for `unlabelled` the path as given; undecodable bytes as surrogates.
        label: the class folder's name, "" if there is none.
        split: "train", "val", "test", or "" where the folders do not say.
        reason: why it cannot be used as a labelled picture, "" if it can.
    """

    path: Path
    id: str
    label: str = ""
    split: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Sources:
    """Everything found under a folder of labelled pictures.

    Attributes:
        root: the folder.
        rows: one per file, split by split, class by class, in natural order.
        classes: class names in natural order (1, 2, 10): of the train folder if there is one.
        empty_classes: class folders without a single file; they are no classes.
        layout: "splits" if the root holds a train folder of class folders, else "classes".
    """

    root: Path
    rows: tuple[Source, ...]
    classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    layout: Literal["classes", "splits"]


def natural_key(text: str) -> NaturalKey:
    """Sort key under which numbers count as numbers and case does not matter: a1, A2, a10.

    >>> sorted(["10", "9", "b", "B2", "b10"], key=natural_key)
    ['9', '10', 'b', 'B2', 'b10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    # numbers are compared by length without leading zeros, then digit by digit: int() refuses very long ones
    keys = tuple(_number_key(part) if part[0] in "0123456789" else (part, 0, "") for part in parts)
    return keys, text


def _number_key(digits: str) -> tuple[str, int, str]:
    bare = digits.lstrip("0")
    return ("", len(bare), bare)  # "": numbers come before text


def labelled(root: Path) -> Sources:
    """Lists a folder of class folders, or of train, val and test folders of class folders.

    Raises:
        DataError: the root is missing, no folder or unreadable; or there is no class folder with a file in it.
    """
    _require_folder(root)
    splits = [(SPLIT_NAMES[child.name.lower()], child) for child in _folders(root) if child.name.lower() in SPLIT_NAMES]
    if any(name == "train" and _folders(folder) for name, folder in splits):
        return _from_splits(root, splits)
    rows = _class_rows(root, root, "")
    classes, empty = _classes(root, rows, [root])
    return Sources(root, rows, classes, empty, "classes")


def _require_folder(root: Path) -> None:
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise DataError(f"{root} is no folder: give the folder of your class folders (unpack an archive first)")
    except FileNotFoundError as error:
        raise DataError(f"{root} does not exist: give the folder that holds your class folders") from error
    except OSError as error:
        raise DataError(f"{root} cannot be opened ({error.strerror}): make it readable") from error


def unlabelled(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Lists files and folders (recursive, natural order) in the order given.

    One input gives at least one row: what is missing, or a folder without files, stays as a row that `read` refuses.
    Files named outright are kept even if hidden.
    """
    rows: list[Source] = []
    for path in paths:
        found = list(_files(path)) if _is_dir(path) else []
        rows += [Source(file, file.as_posix()) for file in found or [path]]
    return tuple(rows)


def read(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Reads a whole file; pipes, sockets and devices are never opened.

    Raises:
        PictureError: with reason "missing", "broken link", "permission denied", "not a file", "too many bytes" or
            "unreadable".
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("not a file", "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device")
        if status.st_size > limits.max_bytes:
            raise PictureError("too many bytes", f"{status.st_size:,}, the limit is {limits.max_bytes:,}")
        return path.read_bytes()
    except PermissionError as error:
        raise PictureError("permission denied") from error
    except FileNotFoundError as error:
        raise PictureError("broken link" if path.is_symlink() else "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        circle = isinstance(error, OSError) and error.errno == errno.ELOOP
        raise PictureError("broken link" if circle else "unreadable", str(error)) from error


def _from_splits(root: Path, splits: Sequence[tuple[str, Path]]) -> Sources:
    train = [folder for name, folder in splits if name == "train"]
    rows = [row for folder in train for row in _class_rows(root, folder, "train")]
    classes, empty = _classes(root, rows, train)
    for split in ("val", "test"):
        found = [row for name, folder in splits if name == split for row in _class_rows(root, folder, split)]
        rows += [_known(row, classes) for row in found]
    inside = {folder for _, folder in splits}
    strays = [file for child in _children(root) if child not in inside for file in _files(child)]
    rows += [_row(root, file, reason=NO_CLASS_FOLDER) for file in strays]
    return Sources(root, tuple(rows), classes, empty, "splits")


def _known(row: Source, classes: Sequence[str]) -> Source:
    if row.reason or row.label in classes:
        return row
    return Source(row.path, row.id, row.label, row.split, UNKNOWN_CLASS)


def _class_rows(root: Path, folder: Path, split: str) -> tuple[Source, ...]:
    """The rows of one folder of class folders; files directly in it have no class."""
    rows: list[Source] = []
    for child in _children(folder):
        if _is_dir(child):
            rows += [_row(root, file, label=child.name, split=split) for file in _files(child)]
        else:
            rows.append(_row(root, child, split=split, reason=NO_CLASS_FOLDER))
    return tuple(rows)


def _row(root: Path, path: Path, *, label: str = "", split: str = "", reason: str = "") -> Source:
    return Source(path, path.relative_to(root).as_posix(), label, split, reason)


def _classes(root: Path, rows: Sequence[Source], parents: Sequence[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the class folders with files, and of those without.

    Raises:
        DataError: no class folder holds a file.
    """
    folders = {child.name for parent in parents for child in _folders(parent)}
    filled = {row.label for row in rows if row.label}
    if not filled:
        loose = sum(1 for row in rows if not row.label)
        raise DataError(
            f"no class folders with files in {root}: found {loose} files outside class folders and "
            f"{len(folders)} empty folders.\n{_EXPECTED}"
        )
    return tuple(sorted(filled, key=natural_key)), tuple(sorted(folders - filled, key=natural_key))


def _files(top: Path) -> Iterator[Path]:
    """Every file at or below `top`, depth first in natural order; links to folders are followed, loops are not."""
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while pending:
        path, parents = pending.pop()
        if not _is_dir(path):
            yield path
            continue
        status = path.stat()
        here = (status.st_dev, status.st_ino)
        if here not in parents:
            pending += [(child, parents | {here}) for child in reversed(_children(path))]


def _folders(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if _is_dir(child)]


def _children(folder: Path) -> list[Path]:
    try:
        children = [child for child in folder.iterdir() if not _ignored(child.name)]
    except OSError as error:
        raise DataError(
            f"cannot list the folder {folder}: {error.strerror}. Make it readable or move it out"
        ) from error
    return sorted(children, key=lambda child: natural_key(child.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # it stays as a row, and `read` says what is wrong with it
        return False
