"""Which held-out pictures the page of a run shows: mistakes, a few for every cell of the matrix, those on the map."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graftage.data.catalog import Catalog
from graftage.data.decode import Limits, decode
from graftage.data.sources import read
from graftage.errors import PictureError
from graftage.looking import limits_of
from graftage.measuring import Measured
from graftage.report.contents import Beside, Shot
from graftage.report.pictures import jpeg_uri
from graftage.report.scatter import Dot
from graftage.settings import Settings

_THUMBNAIL = 112  # pixels of the longer side
MISTAKES = 200
_PER_CELL = 8
_IN_ALL = 600  # thumbnails: about 1.5 MB of page


def shots(measured: Measured, catalog: Catalog, settings: Settings, beside: Mapping[int, Beside]) -> dict[int, Shot]:
    """The pictures shown, by their position among the held-out ones. Reads their files for thumbnails.

    Args:
        measured: n held-out pictures; the mistakes come first, most confident first.
        catalog: where their files lie.
        settings: limits on files, and whether damaged ones are repaired.
        beside: what stands beside a mistake, by the same positions.
    """
    predicted, per_cell = measured.predicted, Counter[tuple[int, int]]()
    chosen = dict.fromkeys(worst(measured)[:MISTAKES])
    for i in by_confidence(measured):
        cell = int(measured.y[i]), int(predicted[i])
        per_cell[cell] += 1
        if per_cell[cell] <= _PER_CELL and len(chosen) < _IN_ALL:
            chosen[i] = None
    chosen |= dict.fromkeys(_placed(measured))
    limits = limits_of(settings)

    def shot(i: int) -> Shot:
        entry, p = catalog.entries[measured.rows[i]], measured.probabilities[i]
        first, second = np.argsort(-p, kind="stable")[:2]
        return Shot(
            id=entry.id,
            true=catalog.classes[measured.y[i]],
            predicted=catalog.classes[first],
            confidence=float(p[first]),
            runner_up=catalog.classes[second],
            image=thumbnail(entry.path, limits=limits, repair=settings.repair),
            beside=beside.get(i),
        )

    return {i: shot(i) for i in chosen}


def worst(measured: Measured) -> list[int]:
    """The mistakes, most confident first, as positions among the held-out pictures."""
    wrong = measured.predicted != measured.y
    return [i for i in by_confidence(measured) if wrong[i]]


def by_confidence(measured: Measured) -> list[int]:
    """All held-out pictures, the most confident answer first, as positions."""
    top = measured.probabilities.max(axis=1)
    return [int(i) for i in np.argsort(-top, kind="stable")]


def thumbnail(path: Path, *, limits: Limits, repair: bool) -> str:
    """A small JPEG as a data URI; "" if the file has gone meanwhile."""
    try:
        picture = decode(read(path, limits=limits), cover=_THUMBNAIL, limits=limits, repair=repair)
    except PictureError:
        return ""
    return jpeg_uri(picture.pixels, longest=_THUMBNAIL, quality=70)


def cells(measured: Measured, shown: Mapping[int, Shot]) -> dict[tuple[int, int], tuple[Shot, ...]]:
    """Those of the pictures shown that belong to each cell of the matrix."""
    predicted = measured.predicted
    found: dict[tuple[int, int], tuple[Shot, ...]] = {}
    for i, shot in shown.items():
        key = int(measured.y[i]), int(predicted[i])
        found[key] = (*found.get(key, ()), shot)
    return found


def dots(measured: Measured, shown: Mapping[int, Shot]) -> tuple[Dot, ...]:
    """The pictures that have a place on the flat map."""
    if measured.places is None:
        return ()
    predicted = measured.predicted
    return tuple(
        Dot(
            x=float(measured.places[i, 0]),
            y=float(measured.places[i, 1]),
            id=shown[i].id,
            true=int(measured.y[i]),
            predicted=int(predicted[i]),
            confidence=shown[i].confidence,
            image=shown[i].image,
        )
        for i in _placed(measured)
        if i in shown
    )


def _placed(measured: Measured) -> list[int]:
    if measured.places is None:
        return []
    return [int(i) for i in np.flatnonzero(np.isfinite(measured.places).all(axis=1))]
