"""Pictures are looked at: files become a catalog, a network is opened, and through it entries become features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import gate
from graftage.data.catalog import Catalog, Entry, require_learnable, scan
from graftage.data.decode import Limits, decode
from graftage.data.sources import labelled, read
from graftage.errors import PictureError
from graftage.features.backbone import find
from graftage.features.engine import Forward, choose_device, cores, open_forward
from graftage.features.extract import Extracted, Seen, extract
from graftage.features.facts import Backbone
from graftage.features.prepare import prepare_elsewhere
from graftage.features.preprocess import FITS, Fit, Preprocess
from graftage.features.variants import parse, varied
from graftage.features.zoo import require_licence
from graftage.gate import Gate
from graftage.progress import Journal
from graftage.settings import Settings

Ints = NDArray[np.int64]

LIKELY: Fit = "crop"  # the fit that training chooses on four of five sets: every picture is looked at with it first
_SQUARE = 1.02  # pictures no longer than this are square: padding and squashing them is the same
_SAMPLE_SQUARES = 8  # of the user's own pictures, to hold a new graph against PyTorch


def worker_count(settings: Settings) -> int:
    """Threads that look at files."""
    return settings.workers or cores()


def limits_of(settings: Settings) -> Limits:
    """Largest file and picture that a run accepts."""
    return Limits(max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)


def look_at_files(settings: Settings, journal: Journal, *, learnable: bool = True) -> Catalog:
    """Every file looked at once. Raises DataError if nothing can be learnt, where that is wanted, before any work."""
    with journal.stage("look at every file"):
        sources = labelled(Path(settings.data), settings.columns())
        for note in sources.notes:
            journal.note(note)
        catalog = scan(
            sources,
            limits=limits_of(settings),
            workers=worker_count(settings),
            repair=settings.repair,
            progress=journal.watcher.progress,
        )
    if learnable:
        require_learnable(catalog)
    return catalog


def network_of(settings: Settings) -> Backbone:
    """The pretrained network that a run asks for, at the size and with the layers that it asks for.

    Raises:
        BackboneError: it cannot be had, or `settings.licence` does not let its weights pass.
    """
    spec = varied(settings.backbone, size=settings.img_size, layers=settings.layers)
    for one in parse(spec).ids:
        require_licence(one, None, settings.licence)  # before anything is fetched
    backbone = find(spec, architecture=settings.architecture or None)
    require_licence(spec, backbone.info.licence, settings.licence)
    return backbone


def open_network(
    settings: Settings,
    catalog: Catalog,
    rows: Ints,
    journal: Journal,
    *,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[Backbone, Forward]:
    """The pretrained network and its engine, checked on the first of the entries `rows`, catalog indices (n,).

    Args:
        settings: which network, and how its squares are made.
        catalog: the pictures.
        rows: those that it is for.
        journal: told of it.
        meanwhile: done where another process makes its graph, while that is at work.

    Raises:
        BackboneError: the network cannot be had, or its licence does not let it pass.
        OptionError: a device or precision that is not to be had.
    """
    with journal.stage("prepare the network"):
        backbone = network_of(settings)
        sample = partial(_first_squares, catalog, rows, backbone.preprocess, settings)
        device = choose_device(settings.device)
        if device == "cpu":
            prepare_elsewhere(backbone, settings.architecture, sample, meanwhile)
        forward = open_forward(
            backbone, backbone.preprocess, device=device, precision=settings.precision, sample=sample
        )
    for notice in forward.notices:
        journal.note(notice)
    precision = "bfloat16" if forward.name.endswith("bfloat16") else "float32"
    return replace(backbone, info=replace(backbone.info, precision=precision)), forward


def _first_squares(catalog: Catalog, rows: Ints, preprocess: Preprocess, settings: Settings) -> NDArray[np.uint8]:
    squares: list[NDArray[np.uint8]] = []
    for i in rows[: 4 * _SAMPLE_SQUARES]:
        if len(squares) == _SAMPLE_SQUARES:
            break
        try:
            data = read(catalog.entries[i].path, limits=limits_of(settings))
            squares.append(preprocess.square(decode(data, cover=preprocess.cover, limits=limits_of(settings)).pixels))
        except PictureError:  # it will be met again, and entered in the ledger
            continue
    return np.array(squares, np.uint8).reshape(-1, preprocess.size, preprocess.size, 3)


@dataclass(frozen=True, eq=False)
class Looked:
    """The network, with everything that turning entries into features needs."""

    settings: Settings
    backbone: Backbone
    forward: Forward
    journal: Journal

    def let_go(self) -> "Looked":
        """The same without what runs the network, for what may follow without it."""
        return replace(self, forward=self.forward.let_go())

    def gate(self, catalog: Catalog, *, first: Fit = LIKELY, learnable: bool = True) -> tuple[Catalog, Gate]:
        """Every usable picture looked at: the catalog with what belongs together, and what was found.

        Args:
            catalog: after the files were looked at.
            first: the fit of the features, if it is one of those that will be tried. They are kept: where training
                chooses it, they are not computed twice.
            learnable: whether what nothing can be learnt from is refused.
        """
        rows = np.array(catalog.usable, dtype=np.int64)
        fits = fits_of(self.settings, catalog, rows)
        fit = first if first in fits else fits[0]
        catalog, rows, found = self._extracted(catalog, rows, [fit], looks=True)
        if learnable:
            require_learnable(catalog)
        assert found.looks is not None
        good = np.setdiff1d(np.arange(len(found.looks)), found.failed)
        with self.journal.stage("look for copies and groups"):
            catalog, closed = gate.close(
                catalog, rows, found.features[0][good], found.looks[good], pattern=self.settings.grouping()
            )
        for note in closed.notes:
            self.journal.note(note)
        return catalog, closed

    def features(
        self, catalog: Catalog, rows: Ints, fits: Sequence[Fit]
    ) -> tuple[Catalog, Ints, list[NDArray[np.float32]]]:
        """Features of these entries under each fit.

        Returns:
            The catalog in which entries that could not be decoded are rejected; the rows that remain, (n,); for each
            fit their features, float32 (n, D).
        """
        catalog, kept, found = self._extracted(catalog, rows, fits)
        if len(kept) == len(rows):
            return catalog, rows, list(found.features)
        good = np.setdiff1d(np.arange(len(rows)), found.failed)
        return catalog, kept, [X[good] for X in found.features]

    def _extracted(
        self, catalog: Catalog, rows: Ints, fits: Sequence[Fit], *, looks: bool = False
    ) -> tuple[Catalog, Ints, Extracted]:
        """The catalog without what would not decode, the rows that remain, and what was found for all of `rows`."""
        entries = [catalog.entries[i] for i in rows]
        with self.journal.stage("features"):
            found = extract(
                [entry.path for entry in entries],
                [entry.digest for entry in entries],
                forward=self.forward,
                preprocesses=[self.backbone.preprocess.with_fit(fit) for fit in fits],
                limits=limits_of(self.settings),
                repair=self.settings.repair,
                workers=self.settings.workers,
                progress=self.journal.watcher.progress,
                looks=looks,
            )
        catalog = catalog.with_entries({e.index: _after(e, s) for e, s in zip(entries, found.seen, strict=True)})
        return catalog, rows[np.setdiff1d(np.arange(len(rows)), found.failed)], found


def _after(entry: Entry, seen: Seen) -> Entry:
    """The ledger's row once the picture has been decoded."""
    if seen.reason:
        return replace(entry, status="rejected", reason=seen.reason)
    parts = [part for text in (entry.reason, seen.notes) for part in text.split("; ") if part]
    remarks = "; ".join(dict.fromkeys(parts))  # pictures are looked at more than once
    return replace(entry, status="repaired" if seen.repaired else entry.status, reason=remarks)


def fits_of(settings: Settings, catalog: Catalog, rows: Ints) -> list[Fit]:
    """The ways of making the square that are tried on these entries, simplest first."""
    if settings.fit != "auto":
        return [fit for fit in FITS if fit == settings.fit]
    sizes = [(catalog.entries[i].width, catalog.entries[i].height) for i in rows]
    square = all(max(size) <= _SQUARE * min(size) for size in sizes)
    return [fit for fit in FITS if fit != "pad" or not square]
