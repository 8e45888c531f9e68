"""Which pictures an export is calibrated and checked on (W).

Those to calibrate on are never among those that are checked, nor in the run's locked test set.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from graftage.data.sources import unlabelled
from graftage.errors import OptionError

LEAST = 200  # pictures to check on, if there are so many
MOST = 500  # of a run's pictures that are checked
ENOUGH = 50  # test pictures: with fewer, accuracy is taken from those that the model learnt from
CALIBRATE = 200  # pictures, if there are so many; of a run that has no test pictures at most a third
_LEDGER = "ledger.csv"
_TEST = "test"

Origin = Literal["test", "training", "named"]
Row = Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """Pictures for an export.

    Attributes:
        check: to check on.
        labels: the class of those that accuracy is taken from, a part of `check`; may be empty.
        origin: of those: the run's locked test set, what the model learnt from, or named by the user.
        calibrate: to calibrate on, none of them in `check`; empty where nothing is calibrated.
    """

    check: tuple[Path, ...]
    labels: Mapping[Path, str] = field(default_factory=dict)
    origin: Origin = "named"
    calibrate: tuple[Path, ...] = ()


def sample(
    model: Path,
    classes: Sequence[str],
    *,
    check: Sequence[str | Path] | None = None,
    calibrate: Sequence[str | Path] | None = None,
    lighter: bool = False,
    calibrates: bool = False,
) -> Sample:
    """Chooses the pictures.

    Args:
        model: the model file; a ledger beside it names the pictures of its run.
        classes: of the model.
        check: pictures or folders to check on; None for those of the run.
        calibrate: likewise to calibrate on; None for those of the run that are not in its test set.
        lighter: whether the export is in fewer bits than the model: then test pictures are the first choice.
        calibrates: whether anything is calibrated.

    Raises:
        OptionError: a path that is not there, or no pictures.
    """
    rows = _of_run(model.parent)
    kept = _spare(rows, calibrate) if calibrates and check is None else []
    if check is not None:
        named = _named(check, "check the export on")
        chosen = Sample(tuple(named), _labels_of(named, rows, classes))
    else:
        chosen = _from_run(model, rows, kept, lighter=lighter)
    if not calibrates:
        return chosen
    known = {path.resolve() for path in chosen.check}
    found = kept or _to_calibrate(rows, calibrate)
    found = [path for path in found if path.resolve() not in known]
    if not found:
        raise OptionError(
            f"int8 is calibrated on pictures that are neither checked on nor in the run's test set, and beside {model} "
            f"lies no {_LEDGER} that names any, or all of them are checked on: name some with --calibrate PHOTOS"
        )
    return Sample(chosen.check, chosen.labels, chosen.origin, tuple(_evenly(found, CALIBRATE)))


def _from_run(model: Path, rows: Mapping[Path, Row], kept: Sequence[Path], *, lighter: bool) -> Sample:
    """Pictures of the run that are not kept for calibration, nor copies of such."""
    if not rows:
        raise OptionError(
            f"an export is checked on pictures before it is kept, and beside {model} lies no {_LEDGER} that names "
            "pictures which are still there: name some with --check PHOTOS"
        )
    if not lighter:
        return Sample(tuple(_evenly(list(rows), MOST)))
    used = {rows[path].get("digest") for path in kept if path in rows}
    free = [path for path, row in rows.items() if row.get("digest") not in used]
    test = _evenly([path for path in free if rows[path].get("split") == _TEST], MOST)
    learnt = [path for path in free if rows[path].get("split") != _TEST]
    if len(test) < ENOUGH:
        check = _evenly([*test, *learnt], MOST)
        return Sample(tuple(check), {path: rows[path].get("label") or "" for path in check}, "training")
    check = [*test, *_evenly(learnt, max(0, LEAST - len(test)))]
    return Sample(tuple(check), {path: rows[path].get("label") or "" for path in test}, "test")


def _spare(rows: Mapping[Path, Row], calibrate: Sequence[str | Path] | None) -> list[Path]:
    """What is kept for calibration when all else comes from the run."""
    found = _to_calibrate(rows, calibrate)
    tested = sum(row.get("split") == _TEST for row in rows.values()) >= ENOUGH
    return found if calibrate is not None else _evenly(found, CALIBRATE if tested else min(CALIBRATE, len(found) // 3))


def _to_calibrate(rows: Mapping[Path, Row], calibrate: Sequence[str | Path] | None) -> list[Path]:
    """Candidates: never of the locked test set."""
    if calibrate is None:
        return [path for path, row in rows.items() if row.get("split") != _TEST]
    locked = {path.resolve() for path, row in rows.items() if row.get("split") == _TEST}
    return [path for path in _named(calibrate, "calibrate on") if path.resolve() not in locked]


def _named(paths: Sequence[str | Path], purpose: str) -> list[Path]:
    named = [Path(name) for name in paths]
    if missing := [name for name in named if not name.exists()]:
        raise OptionError(f"{missing[0]}: there is no such picture or folder to {purpose}")
    return [source.path for source in unlabelled(named)]


def _labels_of(paths: Sequence[Path], rows: Mapping[Path, Row], classes: Sequence[str]) -> dict[Path, str]:
    """The run's label of a picture, or the folder that it lies in, where that is called like a class."""
    known = {path.resolve(): row.get("label") or "" for path, row in rows.items()}
    found = {path: known.get(path.resolve(), path.parent.name) for path in paths}
    return {path: label for path, label in found.items() if label in classes}


def _of_run(folder: Path) -> dict[Path, Row]:
    """Pictures that the run in this folder used, as far as they are where they were."""
    try:
        with (folder / _LEDGER).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("status") == "used"]
    except (OSError, csv.Error):
        return {}
    return {path: row for row in rows if (path := Path(row.get("path") or "")).is_file()}


def _evenly(items: Sequence[T], most: int) -> list[T]:
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
