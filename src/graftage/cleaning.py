"""`graftage clean`: carries out the action column of a problems.csv. In folders it renames files and nothing else.

Where a table was checked, its rows are what changes, see `correcting`. Everything is checked before anything is moved,
by `moves`: aside into NAME-aside/ beside the folder NAME, or into another class folder. Whatever interrupts the work,
the same command goes on, and undo goes back.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final

from graftage import correcting
from graftage.correcting import Wanted
from graftage.data.catalog import printable
from graftage.data.listing import Columns, table_of
from graftage.data.sources import SPLIT_NAMES, Sources, labelled
from graftage.errors import DataError, OptionError
from graftage.moves import SHOWN, Journal, Move, alone, aside_of, carry_out, journals_of, remove_empty, rename, way_back

ACTIONS: Final = ("", "keep", "move", "relabel")
_NEEDED: Final = ("path", "suggested label", "action")


@dataclass(frozen=True)
class Cleaned:
    """What was done.

    Attributes:
        moved: files renamed now, or rows of a table changed.
        already: rows of the csv that an earlier clean had carried out.
        moves: in order; none where a table was changed.
        summary: lines for a person.
    """

    moved: int
    already: int
    moves: tuple[Move, ...]
    summary: tuple[str, ...]


def clean(photos: Path, problems: Path, *, columns: Columns | None = None, dry: bool = False) -> Cleaned:
    """Moves what the csv says, or changes the table.

    Args:
        photos: the folder or table that was checked.
        problems: its problems.csv, with actions.
        columns: of the table, by name.
        dry: check and tell, move and change nothing.

    Raises:
        OptionError: the csv cannot be read or is no problems.csv.
        DataError: a row cannot be carried out; nothing has been moved.
        StoreError: a file cannot be moved; the same command goes on, undo goes back.
    """
    root = None if table_of(photos) else _root(photos)
    rows = _wanted(problems)
    if not rows:
        return Cleaned(0, 0, (), (f"{problems} asks for nothing: its column action says neither move nor relabel",))
    if root is None:
        return _corrected(photos, rows, columns or Columns(), dry=dry)
    with alone(root, dry=dry):
        journals = journals_of(root)
        moves, already = _plan(root, rows, journals)
        if not dry and (moves or (journals and not journals[-1].done)):
            carry_out(root, moves, _journal_to_go_on(root, journals))
    return Cleaned(0 if dry else len(moves), already, tuple(moves), _said(root, moves, already, dry=dry))


def _corrected(photos: Path, rows: Sequence[Wanted], columns: Columns, *, dry: bool) -> Cleaned:
    edits, already = correcting.correct(photos, rows, columns, dry=dry)
    out = sum(edit.label is None for edit in edits)
    will = "would be " if dry else ""
    lines = [f"{will}taken out     {out:,} rows of {photos}", f"{will}relabelled    {len(edits) - out:,} rows"]
    if already:
        lines.append(f"done before   {already:,}")
    if dry:
        lines += [edit.line() for edit in edits]
    elif edits:
        lines.append(f"take it back with graftage clean {photos} --undo")
    return Cleaned(0 if dry else len(edits), already, (), tuple(lines))


def _journal_to_go_on(root: Path, journals: "Sequence[Journal]") -> "Journal":
    """The last one if it was interrupted, so that undo takes all of it back; else a new one."""
    if journals and not journals[-1].done and not journals[-1].undone:
        return journals[-1]
    return Journal(aside_of(root) / f"clean-{len(journals) + 1:04}.jsonl")


def undo(photos: Path, *, dry: bool = False) -> Cleaned:
    """Takes the last clean back, file by file, the last one first; or a table's. Raises as `clean` does."""
    if table_of(photos):
        lines = correcting.undo(photos, dry=dry)
        said = f"{photos} {'would be' if dry else 'is'} as it was before the last clean ({lines:,} rows given back)"
        return Cleaned(0 if dry else lines, 0, (), (said,))
    root = _root(photos)
    if not any(not journal.undone for journal in journals_of(root)):
        raise DataError(f"there is no clean of {root} to take back (looked for journals in {aside_of(root)})")
    with alone(root, dry=dry):
        journal = [journal for journal in journals_of(root) if not journal.undone][-1]
        back = way_back(root, journal)
        if not dry:
            for move in back:
                rename(root.parent / move.source, root.parent / move.target)
            journal.add(event="undone")
            remove_empty(root)
    count = len(back)
    words = f"{'would be moved' if dry else 'moved'} back to where {'it was' if count == 1 else 'they were'}"
    files = "1 file" if count == 1 else f"{count:,} files"
    return Cleaned(0 if dry else count, 0, tuple(back), (f"{files} {words}",))


def _root(photos: Path) -> Path:
    if photos.is_file():
        raise DataError(
            f"{photos} is a file: clean moves pictures in a folder of class folders; give that folder, or a table"
        )
    if not photos.is_dir():
        raise DataError(f"{photos} does not exist: give the folder of pictures that was checked")
    return photos.resolve()


# Reading the csv


def _wanted(problems: Path) -> list[Wanted]:
    """Rows with something to do."""
    rows = []
    for line, row in _table(problems):
        action = (row["action"] or "").strip().lower()
        if action not in ACTIONS:
            near = get_close_matches(action, ACTIONS[1:], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(
                f"{problems}, line {line}: action {row['action']!r} is none of move, relabel, keep or nothing{hint}"
            )
        if action in ("move", "relabel"):
            rows.append(Wanted(line, row["path"] or "", action, (row["suggested label"] or "").strip()))
    return rows


def _table(problems: Path) -> list[tuple[int, Mapping[str, str]]]:
    """(line number, row) of the csv; a spreadsheet may have put semicolons for commas, and a mark in front."""
    try:
        with problems.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            semicolons = head.count(";") > head.count(",")
            reader = csv.DictReader(file, delimiter=";" if semicolons else ",", strict=True)
            missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise OptionError(
                    f"{problems} has no column {', '.join(map(repr, missing))}: give the problems.csv of graftage check"
                )
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise OptionError(
            f"{problems} cannot be read ({error.strerror}): give the problems.csv of graftage check"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{problems} is no csv file in UTF-8 ({error}): save it as such") from error


# Planning


def _plan(root: Path, rows: Sequence[Wanted], journals: Sequence[Journal]) -> tuple[list[Move], int]:
    """The moves to make and the number of rows made before. Raises DataError with every row that cannot be."""
    sources = labelled(root)
    made = _made(root, journals)
    faults: list[str] = []
    moves: dict[str, tuple[Move, int]] = {}
    taken: dict[str, str] = {}  # target → the file that goes there
    already = 0
    names = _names(sources)
    for row in rows:
        try:
            source = _source(root, row, names, made)
            if source is None:
                already += 1
                continue
            move = _move(root, sources, source, row, taken)
        except DataError as error:
            faults.append(f"line {row.line}: {error}")
            continue
        before = moves.get(move.source)
        if before is None:
            moves[move.source], taken[move.target] = (move, row.line), move.source
        elif before[0] != move:
            faults.append(f"line {row.line}: {row.path} is to go elsewhere by line {before[1]}; leave one of the two")
    faults += _other_disk(root, [move for move, _ in moves.values()])
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError("nothing was moved, because\n  " + "\n  ".join(faults[:SHOWN]) + more)
    return [move for move, _ in moves.values()], already


def _names(sources: Sources) -> dict[str, list[str]]:
    """What the csv calls a file → its real ids; a name that is no UTF-8 is written escaped there."""
    names: dict[str, list[str]] = {}
    for row in sources.rows:
        names.setdefault(printable(row.id), []).append(row.id)
    return names


def _made(root: Path, journals: Sequence[Journal]) -> dict[str, Move]:
    """Moves made by cleans that still stand, by what the csv calls the file."""
    made: dict[str, Move] = {}
    for journal in journals:
        for move in () if journal.undone else journal.moves:
            if not os.path.lexists(root.parent / move.source) and os.path.lexists(root.parent / move.target):
                made[printable(move.source.partition("/")[2])] = move
    return made


def _source(root: Path, row: Wanted, names: Mapping[str, list[str]], made: Mapping[str, Move]) -> str | None:
    """The id of the file that a row means; None if it has been moved there already."""
    if not row.path:
        raise DataError("the row names no picture, so there is nothing to move")
    pure = PurePosixPath(row.path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in row.path:
        raise DataError(f"{row.path!r} lies outside {root}")
    known = names.get(row.path, [])
    if len(known) > 1:
        raise DataError(f"{row.path!r} is the name of {len(known)} files when written as text; rename one")
    if not known:
        move = made.get(row.path)
        if move is not None and (row.action == "relabel") == bool(move.label) and move.label in ("", row.label):
            return None
        near = get_close_matches(row.path, list(names), n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"there is no file {row.path!r} in {root}{hint}")
    return known[0]


def _move(root: Path, sources: Sources, source: str, row: Wanted, taken: Mapping[str, str]) -> Move:
    parts = PurePosixPath(source).parts
    for depth in range(1, len(parts) + 1):
        if root.joinpath(*parts[:depth]).is_symlink():
            raise DataError(f"{'/'.join(parts[:depth])!r} is a symbolic link; move what it points to yourself")
    if not (root / source).is_file():
        raise DataError(f"{source!r} is no ordinary file")
    if row.action == "move":
        target = f"{aside_of(root).name}/{source}"
        if os.path.lexists(root.parent / target):
            raise DataError(f"{target} exists already; move it away")
        _require_folders(root.parent, target)
        return Move(f"{root.name}/{source}", target)
    return _relabel(root, sources, parts, row, taken)


def _relabel(root: Path, sources: Sources, parts: Sequence[str], row: Wanted, taken: Mapping[str, str]) -> Move:
    place = 1 if sources.layout == "splits" else 0
    if len(parts) < place + 2 or (place and parts[0].lower() not in SPLIT_NAMES):
        raise DataError(f"{row.path!r} lies in no class folder, so it has no class to change")
    if row.label not in sources.classes:
        near = get_close_matches(row.label, sources.classes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        what = f"the suggested label {row.label!r} is no class of" if row.label else "there is no suggested label for"
        raise DataError(f"{what} {row.path if not row.label else root}{hint}")
    if row.label == parts[place]:
        raise DataError(f"{row.path!r} is labelled {row.label!r} already")
    head, rest = [*parts[:place], row.label], list(parts[place + 1 :])
    target = "/".join([root.name, *head, *rest])
    own = f"{root.name}/{'/'.join(parts)}"

    def free(name: str) -> bool:
        return not os.path.lexists(root.parent / name) and taken.get(name, own) == own

    if not free(target):
        rest[-1] = f"{parts[place]}-{rest[-1]}"  # 1.jpg of cat and 1.jpg of dog: the old class goes in front
        second = "/".join([root.name, *head, *rest])
        if not free(second):
            raise DataError(f"{target} and {second} exist already; rename {row.path!r} first and check again")
        target = second
    _require_folders(root.parent, target)
    return Move(own, target, row.label)


def _require_folders(base: Path, target: str) -> None:
    """No file and no link stands where a folder of the target must be."""
    parts = PurePosixPath(target).parts[:-1]
    for depth in range(1, len(parts) + 1):
        folder = base.joinpath(*parts[:depth])
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise DataError(f"{folder} is a link or a file, where a folder is needed")


def _other_disk(root: Path, moves: Sequence[Move]) -> Iterator[str]:
    """A rename cannot leave its disk, and copying could be interrupted half-way."""
    for move in moves:
        place = root.parent / move.target
        while not place.exists():
            place = place.parent
        if place.stat().st_dev != (root.parent / move.source).stat().st_dev:
            yield f"{move.source} and {move.target} lie on different disks, between which files are not moved"


def _said(root: Path, moves: Sequence[Move], already: int, *, dry: bool) -> tuple[str, ...]:
    aside, relabelled = sum(not m.label for m in moves), sum(bool(m.label) for m in moves)
    will = "would be " if dry else ""
    lines = [f"{will}moved aside   {aside:,} (into {aside_of(root)})", f"{will}relabelled    {relabelled:,}"]
    if already:
        lines.append(f"done before   {already:,}")
    if dry:
        lines += [f"{move.source} → {move.target}" for move in moves]
    elif moves:
        lines.append("take it back with graftage clean PHOTOS --undo")
    return tuple(lines)
