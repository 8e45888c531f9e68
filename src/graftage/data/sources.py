"""Folders and tables become rows: which files there are, what they are called, and what is said about them.

No picture is opened here but by `read`. Nothing is skipped in silence: every file that is not hidden is a row, or every
row of a table, and what cannot be used as a labelled picture carries the reason.
"""

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from graftage.data import listing
from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.listing import Columns, Listing, Record
from graftage.errors import DataError, PictureError

SPLIT_NAMES: Final = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NO_CLASS_FOLDER: Final = "not in a class folder"
UNKNOWN_CLASS: Final = "class not in train"
# What may be wrong with a row of a table; details follow after a colon.
NO_PATH: Final = "no path in the table"
NO_LABEL: Final = "no label in the table"
NO_SPLIT: Final = "no split in the table"
UNKNOWN_SPLIT: Final = "split is none of train, val, test"
TWICE: Final = "listed twice"
CONFLICTING: Final = "listed with different labels"
DIFFERING: Final = "listed with different groups or splits"
TABLE_REASONS: Final = (
    NO_PATH, NO_LABEL, NO_SPLIT, UNKNOWN_SPLIT, TWICE, CONFLICTING, DIFFERING, listing.SHORT, listing.LONG
)  # fmt: skip

_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")  # that a table may leave out
_JUNK: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # beside everything that begins with a dot
_EXPECTED: Final = """Expected one folder per class:
    PHOTOS/cat/1.jpg  PHOTOS/dog/2.jpg
or class folders inside train, and if you have them val and test:
    PHOTOS/train/cat/1.jpg  PHOTOS/train/dog/2.jpg  PHOTOS/test/cat/3.jpg
or a metadata.csv in PHOTOS, or a .csv, .tsv, .jsonl or .parquet file, with columns such as file_name and label"""

NaturalKey = tuple[tuple[tuple[str, int, str], ...], str]


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        path: where the file lies.
        id: posix path relative to the root, for `unlabelled` the path as given, for a table as written there;
            undecodable bytes as surrogates.
        label: the class folder's name or the table's label, "" if there is none.
        split: "train", "val", "test", or "" where nothing is said.
        reason: why it cannot be used as a labelled picture, "" if it can.
        group: what the table says it belongs to, "" if nothing.
    """

    path: Path
    id: str
    label: str = ""
    split: str = ""
    reason: str = ""
    group: str = ""


@dataclass(frozen=True)
class Sources:
    """Everything found under a folder of labelled pictures, or in a table of them.

    Attributes:
        root: the folder or table, as given.
        rows: one per file, split by split, class by class, in natural order; or one per row of the table, in its order.
        classes: class names in natural order (1, 2, 10): of what is in train if there is that.
        empty_classes: class folders without a single file; they are no classes.
        layout: "splits" if the root holds a train folder of class folders, "table" if it is one, else "classes".
        notes: how a table was read.
    """

    root: Path
    rows: tuple[Source, ...]
    classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    layout: Literal["classes", "splits", "table"]
    notes: tuple[str, ...] = ()


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


def sorting_text(name: str) -> str:
    """As `natural_key`, as one text: a tenth of the memory where a folder holds a million files.

    Parts end in a zero character, which no file name holds; a number is written as its length and its digits.
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return "".join(_sorting_part(part) for part in parts) + "\0\0" + name


def _sorting_part(part: str) -> str:
    if part[0] not in "0123456789":
        return part + "\0"
    bare = part.lstrip("0")
    return f"\0{chr(len(bare) + 1)}{bare}\0"


def labelled(root: Path, columns: Columns | None = None) -> Sources:
    """Lists a folder of class folders, or of train, val and test folders of them; or a table, see `listing`.

    Args:
        root: the folder; or a .csv, .tsv, .jsonl or .parquet file, or a folder that holds a metadata.csv.
        columns: of the table, by name.

    Raises:
        DataError: the root is missing, neither folder nor table, or unreadable; there is no class folder with a file in
            it, or no row with a label; or columns are named and there is no table.
        OptionError: Parquet without pyarrow.
    """
    table = listing.table_of(root)
    if table is not None:
        return _from_table(root, listing.read(table, columns), columns or Columns())
    _require_folder(root)
    if named := (columns or Columns()).flags():
        raise DataError(f"{root} holds no table with columns, so {' '.join(named[:2])} cannot be obeyed: leave it out")
    _require_no_tables(root)
    splits = [(SPLIT_NAMES[child.name.lower()], child) for child in _folders(root) if child.name.lower() in SPLIT_NAMES]
    if any(name == "train" and _folders(folder) for name, folder in splits):
        return _from_splits(root, splits)
    rows = _class_rows(root, root, "")
    classes, empty = _classes(root, rows, [root])
    return Sources(root, rows, classes, empty, "classes")


def _require_folder(root: Path) -> None:
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise DataError(
                f"{root} is no folder: give the folder of your class folders (unpack an archive first), or a table: "
                f"{', '.join(listing.SUFFIXES)}"
            )
    except FileNotFoundError as error:
        raise DataError(f"{root} does not exist: give the folder that holds your class folders") from error
    except OSError as error:
        raise DataError(f"{root} cannot be opened ({error.strerror}): make it readable") from error


def _require_no_tables(root: Path) -> None:
    """Pictures beside a metadata.csv in a train folder have their classes there, and "train" is none."""
    for child in _folders(root):
        if child.name.lower() in SPLIT_NAMES and (child / listing.METADATA).is_file():
            raise DataError(
                f"{child / listing.METADATA}: a table inside a split's folder is not read; make one "
                f"{listing.METADATA} in {root}, with paths such as {child.name}/1.jpg and a column split"
            )


def unlabelled(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Lists files and folders (recursive, natural order) in the order given.

    One input gives at least one row: what is missing, or a folder without files, stays as a row that `read` refuses.
    Files named outright are kept even if hidden.
    """
    rows: list[Source] = []
    for path in paths:
        found = list(_files(path)) if is_dir(path) else []
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


# Folders


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
    return replace(row, reason=UNKNOWN_CLASS)


def _class_rows(root: Path, folder: Path, split: str) -> tuple[Source, ...]:
    """The rows of one folder of class folders; files directly in it have no class."""
    rows: list[Source] = []
    for child in _children(folder):
        if is_dir(child):
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
        if not is_dir(path):
            yield path
            continue
        status = path.stat()
        here = (status.st_dev, status.st_ino)
        if here not in parents:
            pending += [(child, parents | {here}) for child in reversed(_children(path))]


def _folders(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if is_dir(child)]


def _children(folder: Path) -> list[Path]:
    try:
        children = [child for child in folder.iterdir() if not ignored(child.name)]
    except OSError as error:
        raise DataError(
            f"cannot list the folder {folder}: {error.strerror}. Make it readable or move it out"
        ) from error
    return sorted(children, key=lambda child: natural_key(child.name))


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK


def is_dir(path: Path) -> bool:
    """Whether it is a folder; what cannot be asked is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # it stays as a row, and `read` says what is wrong with it
        return False


# Tables


def _from_table(root: Path, table: Listing, asked: Columns) -> Sources:
    """One row for every record.

    Raises:
        DataError: there is no record, no label, no group although a column of them was asked for, or a split column
            that says nothing known.
    """
    if not table.records:
        raise DataError(f"{table.file} lists no picture: below the names of the columns there should be a row for each")
    splits = _splits(table)
    folder = asked.folder(table.file)
    if not folder.is_dir():
        raise DataError(f"--root {folder} is no folder: name the one in which the paths of {table.file} begin")
    paths = [place(folder, record.path) for record in table.records]
    rows = [
        Source(path, record.path, record.label, SPLIT_NAMES.get(record.split.lower(), ""), fault, record.group)
        for path, record, fault in zip(paths, table.records, _faults(table, paths, splits=splits), strict=True)
    ]
    train = [row for row in rows if row.split == "train"] or rows
    classes = tuple(sorted({row.label for row in train if row.label}, key=natural_key))
    if not classes:
        raise DataError(f"{table.file}: the column {table.columns.label!r} is empty in every row, so there is no label")
    if asked.group and table.columns.group and not any(row.group for row in rows):
        raise DataError(f"{table.file}: the column {table.columns.group!r} (--group-col) is empty in every row")
    rows = [row if row.split in ("", "train") or not row.label else _known(row, classes) for row in rows]
    return Sources(root, tuple(rows), classes, (), "table", (_how_read(table),))


def _splits(table: Listing) -> bool:
    """Whether the table splits its pictures. Raises DataError where its split column says nothing known."""
    given = [record for record in table.records if record.split]
    if given and not any(record.split.lower() in SPLIT_NAMES for record in given):
        raise DataError(
            f"{table.file}, {given[0].place}: the column {table.columns.split!r} says {given[0].split!r}, and nowhere "
            "train, val or test: name another with --split-col NAME, or none with --split-col none"
        )
    return bool(given)


def place(folder: Path, written: str) -> Path:
    """Where a table's file lies: as written, else without blanks around it or with the other system's slashes.

    Many tables name pictures without their ending (ISIC_0024306 for ISIC_0024306.jpg): it is found where just one file
    is called so.
    """
    plain = written.strip().replace("\\", "/")
    found = next((each for each in (written, written.strip(), plain) if os.path.lexists(folder / each)), None)
    if found is None and plain:
        small = [plain + ending for ending in _ENDINGS if os.path.lexists(folder / (plain + ending))]
        large = [plain + ending.upper() for ending in _ENDINGS if os.path.lexists(folder / (plain + ending.upper()))]
        found = (small or large)[0] if len(small or large) == 1 else None
    return folder / (written if found is None else found)


def _faults(table: Listing, paths: Sequence[Path], *, splits: bool) -> list[str]:
    """Why each row cannot be used, "" if it can as far as the table tells."""
    faults = [record.fault or _fault(record, splits=splits) for record in table.records]
    same: defaultdict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        if not faults[i]:
            same[os.path.normpath(path)].append(i)
    for rows in same.values():
        if len(rows) > 1:
            for i, fault in _repeated([(i, table.records[i]) for i in rows]).items():
                faults[i] = fault
    return faults


def _fault(record: Record, *, splits: bool) -> str:
    if not record.path.strip():
        return f"{NO_PATH}: {record.place}"
    if not record.label:
        return NO_LABEL
    if splits and not record.split:
        return NO_SPLIT
    if splits and record.split.lower() not in SPLIT_NAMES:
        return f"{UNKNOWN_SPLIT}: {record.split!r}"
    return ""


def _repeated(rows: Sequence[tuple[int, Record]]) -> Mapping[int, str]:
    """Faults of rows that name one file: the first stands if all say the same, else none, as none is known right."""
    first = rows[0][1]
    different = next((other for _, other in rows if other.label != first.label), None)
    if different is not None:
        words = f"{first.label!r} in {first.place}, {different.label!r} in {different.place}"
        return {i: f"{CONFLICTING}: {words}" for i, _ in rows}
    if len({(record.group, SPLIT_NAMES.get(record.split.lower())) for _, record in rows}) > 1:
        return {i: f"{DIFFERING}: {', '.join(record.place for _, record in rows[:5])}" for i, _ in rows}
    return {i: f"{TWICE}: as in {first.place}" for i, _ in rows[1:]}


def _how_read(table: Listing) -> str:
    columns = table.columns
    parts = [f"files from the column {columns.path!r}", f"labels from {columns.label!r}"]
    if columns.group:
        alone = sum(not record.group for record in table.records)
        rest = f" (empty in {alone:,} rows: those are on their own)" if alone else ""
        parts.append(f"groups from {columns.group!r}{rest}")
    if columns.split:
        parts.append(f"the split from {columns.split!r}")
    return f"{table.file.name}: {', '.join(parts)}"
