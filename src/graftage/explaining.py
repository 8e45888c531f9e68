"""The steps of `graftage explain`, and the heat maps that the report shows beside the worst mistakes."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from graftage import outcome, remembered, shown
from graftage.data.catalog import Catalog
from graftage.data.decode import decode
from graftage.data.listing import table_of
from graftage.data.sources import read, unlabelled
from graftage.errors import OptionError, PictureError
from graftage.measuring import Measured
from graftage.progress import Journal
from graftage.report import overlay
from graftage.report.contents import Beside
from graftage.report.explained import Case, ExplainedPage, Like, render
from graftage.report.pictures import jpeg_uri, png, png_uri
from graftage.serve.predict import Explanation, Predictor
from graftage.settings import read_config
from graftage.writing import unwritable, write_bytes

LARGEST = 200  # pictures on a page: some 15 MB
MISTAKES = 12  # of the report that get a heat map, as far as the time goes
SECONDS = 10.0  # for them

_SHOWN = 480  # pixels of the longer side on the page
_THUMBNAIL = 128
_HEAT = 96  # pixels of a see-through heat map: the browser smooths it, and cells are coarser
_NAMED = 4  # classes with their probabilities
_MOST_SIMILAR = 20


@dataclass(frozen=True)
class Place:
    """Where a page goes: its file, and the folder for heat maps, or None."""

    page: Path
    folder: Path | None


def pictures(paths: Sequence[str | Path]) -> list[Path]:
    """The pictures named, and those in the folders named. Raises OptionError where that is none or too many."""
    found = [source.path for source in unlabelled([Path(path) for path in paths])]
    if not found:
        raise OptionError("explain needs pictures: name files, or folders that hold some")
    if len(found) > LARGEST:
        raise OptionError(f"{len(found):,} pictures are too many for one page; name at most {LARGEST}")
    return found


def require_similar(count: int) -> None:
    """Raises OptionError for a number of training pictures that no row can hold."""
    if not 0 <= count <= _MOST_SIMILAR:
        raise OptionError(f"similar must be 0 to {_MOST_SIMILAR} training pictures, got {count}")


def place_of(output: str | Path, given: Sequence[str | Path]) -> Place:
    """A page if the name ends in .html, else a folder. Raises OptionError where it would lie among the pictures."""
    path = Path(output)
    for folder in (Path(name) for name in given):
        if folder.is_dir() and path.resolve().is_relative_to(folder.resolve()):
            raise OptionError(f"{path} would lie among the pictures of {folder}; name another place with -o")
    if path.suffix.lower() in (".html", ".htm"):
        if path.is_dir():
            raise OptionError(f"{path} is a folder; name a file with -o, such as {path / 'explain.html'}")
        return Place(path, None)
    if path.exists() and not path.is_dir():
        raise OptionError(f"{path} is a file and no page; name a folder or PAGE.html with -o")
    return Place(path / "explain.html", path)


def explained(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    label: str | None,
    similar: int,
    progress: Callable[[int, int], None],
) -> list[Explanation]:
    """Each picture explained, in order; those that cannot be used come back rejected."""
    found = []
    for path in paths:
        found.append(predictor.explain(path, label=label, similar=similar))
        progress(len(found), len(paths))
    return found


def training_folder(predictor: Predictor, photos: str | Path | None) -> Path | None:
    """The folder given, else the one that the run beside the model file learnt from, if it is still there.

    Raises:
        OptionError: the folder given is none.
    """
    if photos is not None:
        if not _folder(Path(photos)).is_dir():
            raise OptionError(f"{photos} is no folder; name the one that the model learnt from with --photos")
        return _folder(Path(photos))
    config = Path(predictor.source).parent / outcome.CONFIG
    if not predictor.source or not config.is_file():
        return None
    try:
        folder = _folder(Path(str(read_config(config).get("data", ""))))
    except OptionError:
        return None
    return folder if folder.is_dir() and str(folder) != "." else None


def _folder(data: Path) -> Path:
    """The folder that names of pictures are relative to: that of a table is the one that it lies in."""
    table = table_of(data)
    return data if table is None else table.parent


def page(predictor: Predictor, found: Sequence[Explanation], folder: Path | None) -> ExplainedPage:
    """What the page says and shows."""
    cases = tuple(_case(predictor, explanation, folder) for explanation in found)
    bad = sum(e.heat is None for e in found)
    good = len(found) - bad
    verdict = f"{good:,} {'picture' if good == 1 else 'pictures'} explained, {bad:,} could not be used."
    return ExplainedPage(
        "/".join(Path(predictor.source).parts[-2:]) or "a model in memory",
        verdict,
        cases,
        _notes(predictor, found, folder, cases),
    )


def _notes(
    predictor: Predictor, found: Sequence[Explanation], folder: Path | None, cases: Sequence[Case]
) -> tuple[str, ...]:
    notes, known = [], predictor.bundle.neighbours
    if known is None:
        notes.append("The model file holds no training pictures in small, so no similar ones can be named.")
    elif len(known.names) < (learnt := int(str(predictor.bundle.data.get("n", 0)))):
        notes.append(f"Similar pictures are sought among {len(known.names):,} of {learnt:,} it learnt from.")
    missing = sum(not like.image for case in cases for like in case.likes)
    if missing and folder is None:
        notes.append("Similar pictures are named but not shown: say where they lie with --photos FOLDER.")
    elif missing:
        notes.append(
            f"{missing:,} similar pictures are not shown: {folder} does not hold them as they were learnt from."
        )
    if any(e.heat is not None and e.heat.method == "occlusion" for e in found):
        notes.append("This network cannot be taken apart, so places were covered one after the other.")
    return tuple(notes)


def _case(predictor: Predictor, explanation: Explanation, folder: Path | None) -> Case:
    prediction = explanation.prediction
    if explanation.heat is None or explanation.pixels is None:
        return Case(prediction.path, prediction.reason)
    heat = explanation.heat
    order = np.argsort(-np.array(prediction.probabilities), kind="stable")[:_NAMED]
    named = [(predictor.classes[i], prediction.probabilities[i]) for i in order]
    chosen = predictor.classes.index(explanation.label)
    if chosen not in order:
        named.append((explanation.label, prediction.probabilities[chosen]))
    return Case(
        id=prediction.path,
        reason=prediction.reason,
        label=explanation.label,
        probabilities=tuple(named),
        image=jpeg_uri(explanation.pixels, longest=_SHOWN),
        heat=png_uri(overlay.overlay(heat.picture, longest=_HEAT)),
        empty=_probability(heat.start),
        full=prediction.probabilities[chosen],
        likes=tuple(
            Like(near.id, predictor.classes[near.label], near.similarity, _training_picture(predictor, folder, near.id))
            for near in explanation.similar
        ),
    )


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -500.0), 500.0)))


def _training_picture(predictor: Predictor, folder: Path | None, name: str) -> str:
    """A thumbnail as a data URI, "" unless the folder holds the very file that was learnt from."""
    inside = PurePosixPath(name)
    if folder is None or inside.is_absolute() or ".." in inside.parts:  # a model file may come from anyone
        return ""
    try:
        data = read(folder / name, limits=predictor.limits)
        if remembered.short(hashlib.sha256(data).hexdigest()) not in remembered.known_digests(predictor.bundle):
            return ""
        picture = decode(data, cover=_THUMBNAIL, limits=predictor.limits, repair=True)
    except PictureError:
        return ""
    return jpeg_uri(picture.pixels, longest=_THUMBNAIL, quality=70)


def write(whole: ExplainedPage, found: Sequence[Explanation], place: Place) -> None:
    """Writes the page, and the heat maps where a folder was named, each under a temporary name that is then renamed.

    Raises:
        StoreError: something cannot be written.
    """
    try:
        place.page.parent.mkdir(parents=True, exist_ok=True)
        if place.folder is not None:
            for name, picture in zip(_names(found), found, strict=True):
                if picture.heat is not None and picture.pixels is not None:
                    drawn = overlay.over(picture.pixels, picture.heat.picture)
                    write_bytes(png(drawn), place.folder / name)
        write_bytes(render(whole).encode(), place.page)
    except OSError as error:
        raise unwritable(place.page, error) from error


def _names(found: Sequence[Explanation]) -> list[str]:
    """File names of the heat maps, no two the same."""
    taken: set[str] = set()
    names = []
    for stem in (Path(e.prediction.path).stem for e in found):
        number = 1
        while (name := f"{stem}-heat{'' if number == 1 else f'-{number}'}.png").lower() in taken:
            number += 1
        taken.add(name.lower())
        names.append(name)
    return names


def mistakes(
    predictor: Predictor, catalog: Catalog, measured: Measured, journal: Journal, *, count: int = MISTAKES
) -> dict[int, Beside]:
    """What stands beside the most confident mistakes of a run, by their position among the held-out pictures.

    The heat map is the model file's for the class that was named when the picture was held out; the picture itself and
    files equal to it are not among those like it.
    """
    chosen = shown.worst(measured)[:count]
    if not chosen:
        return {}
    equal: dict[str, set[str]] = {}
    paths = {}
    for entry in catalog.entries:
        equal.setdefault(entry.digest, set()).add(entry.id)
        paths[entry.id] = entry.path
    found: dict[int, Beside] = {}
    started = time.monotonic()
    with journal.stage("heat maps of mistakes"):
        for done, i in enumerate(chosen, 1):
            entry = catalog.entries[measured.rows[i]]
            label = catalog.classes[measured.predicted[i]]
            without = frozenset(equal[entry.digest])
            seen = predictor.explain(entry.path, label=label, similar=1, without=without)
            if seen.heat is not None:  # the file may have gone meanwhile
                found[i] = _beside(predictor, seen, seen.heat.picture, paths)
            journal.watcher.progress(done, len(chosen))
            if time.monotonic() - started > SECONDS:
                break
    return found


def _beside(predictor: Predictor, seen: Explanation, heat: NDArray[np.float32], paths: dict[str, Path]) -> Beside:
    drawn = png_uri(overlay.overlay(overlay.squared(heat), longest=_HEAT // 2))
    if not seen.similar:
        return Beside(drawn)
    (near,) = seen.similar
    image = shown.thumbnail(paths[near.id], limits=predictor.limits, repair=True)
    return Beside(drawn, image, near.id, predictor.classes[near.label], near.similarity)
