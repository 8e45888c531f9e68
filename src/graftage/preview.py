"""The steps of `graftage augment-preview`: choose pictures, look at them as the network would, write a page."""

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import decode
from graftage.data.listing import title_of
from graftage.data.sources import Source, Sources, read
from graftage.errors import DataError, OptionError, PictureError
from graftage.features.preprocess import FITS, Fit, Preprocess
from graftage.learn.augment import KINDS, Augment, augmented
from graftage.looking import limits_of, network_of
from graftage.report.pictures import jpeg_uri
from graftage.report.preview import Preview, Strip
from graftage.settings import Settings

VIEWS = 7  # augmented views of each picture
LARGEST = 96  # pictures on a page: some 10 MB

_SHOWN = 224  # pixels of a square on the page
_KINDS = {
    "none": "the plain square in every epoch: nothing is flipped or erased either",
    "crop": "each view is a random part of the picture, resized as the plain square is",
    "trivial": "a random part as with crop, then one operation of TrivialAugmentWide at random strength",
    "classic": "the textbooks' shear (0.2 degrees, next to nothing) and zoom (0.8 to 1.2), edges repeated",
}
_FITS = {
    "squash": "the whole picture, its shape given up",
    "crop": "the middle of the picture, its shape kept",
    "pad": "the whole picture in its shape, the rest filled with the mean colour",
}


def preprocess_of(settings: Settings) -> Preprocess:
    """The plain square of the network asked for; squashed where training would choose the fit."""
    fit: Fit = next((fit for fit in FITS if fit == settings.fit), "squash")
    return network_of(settings).preprocess.with_fit(fit)


def augment_of(settings: Settings) -> Augment:
    """What was asked for, with the defaults of `Augment` for what was not."""
    usual = Augment()
    return Augment(
        next((kind for kind in KINDS if kind == settings.aa), usual.kind),
        scale=(usual.scale[0] if settings.crop_scale is None else settings.crop_scale, 1.0),
        hflip=usual.hflip if settings.hflip is None else settings.hflip,
        vflip=usual.vflip if settings.vflip is None else settings.vflip,
        erase=usual.erase if settings.reprob is None else settings.reprob,
    )


def require_count(count: int) -> None:
    """Raises OptionError for a number of pictures that no page can hold."""
    if not 1 <= count <= LARGEST:
        raise OptionError(f"count must be 1 to {LARGEST} pictures, got {count}")


@dataclass(frozen=True)
class Shown:
    """The pictures that were chosen and could be read, class by class; and what is missing, and why."""

    strips: tuple[Strip, ...]
    notes: tuple[str, ...]

    @property
    def said(self) -> str:
        """How many pictures of how many classes."""
        pictures, classes = len(self.strips), len({strip.label for strip in self.strips})
        return f"{_counted(pictures, 'picture')} of {_counted(classes, 'class', 'classes')}"


def choose(found: Sources, show: Callable[[Source], Strip], *, count: int, seed: int) -> Shown:
    """About `count` pictures that may be learnt from, as many of each class; of classes at random if there are more.

    Args:
        found: every file; those in val and test folders are left alone.
        show: source → its strip; where it raises PictureError, another of the class is taken.
        count: pictures.
        seed: of the choice.

    Raises:
        DataError: no picture can be read.
    """
    rng = np.random.default_rng([seed, 6])
    classes = [found.classes[k] for k in np.sort(rng.permutation(len(found.classes))[:count])]
    strips, reasons = list[Strip](), Counter[str]()
    for label in classes:
        own = [row for row in found.rows if row.label == label and row.split in ("", "train") and not row.reason]
        rows = (own[i] for i in rng.permutation(len(own)))
        strips += islice(_readable(rows, show, reasons), max(1, count // len(classes)))
    notes = _skipped(reasons)
    if not strips:
        raise DataError(f"{found.root}: no picture can be shown; {'; '.join(notes) or 'there is none to learn from'}")
    if len(classes) < len(found.classes):
        notes = (
            f"{len(classes)} of {len(found.classes)} classes, drawn at random; a larger --count shows more",
            *notes,
        )
    return Shown(tuple(strips), notes)


def _readable(rows: Iterable[Source], show: Callable[[Source], Strip], reasons: Counter[str]) -> Iterator[Strip]:
    for row in rows:
        try:
            strip = show(row)
        except PictureError as error:
            reasons[error.reason] += 1
        else:
            yield strip


def _skipped(reasons: Counter[str]) -> tuple[str, ...]:
    if not reasons:
        return ()
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (f"{_counted(reasons.total(), 'picture')} skipped, which could not be read: {why}",)


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shower(preprocess: Preprocess, augment: Augment, settings: Settings) -> Callable[[Source], Strip]:
    """Source → its strip, decoded and augmented as for training; the views do not depend on the other pictures."""
    limits = limits_of(settings)

    def show(row: Source) -> Strip:
        data = read(row.path, limits=limits)
        pixels = decode(data, cover=preprocess.cover, limits=limits, repair=settings.repair).pixels
        name = zlib.crc32(os.fsencode(row.id))
        draws = (np.random.default_rng([settings.seed, 7, name, view]) for view in range(VIEWS))
        views = [augmented(pixels, preprocess, augment, rng) for rng in draws]
        return Strip(row.id, row.label, _shown(preprocess.square(pixels)), tuple(map(_shown, views)))

    return show


def _shown(square: NDArray[np.uint8]) -> str:
    return jpeg_uri(square, longest=_SHOWN, quality=85)


def page(shown: Shown, preprocess: Preprocess, augment: Augment, settings: Settings) -> Preview:
    """What the page says."""
    return Preview(
        title=title_of(settings.data),
        verdict=f"{shown.said}, each plain and in {VIEWS} random views.",
        options=options_in_use(preprocess, augment, settings),
        strips=shown.strips,
        notes=shown.notes,
    )


def options_in_use(preprocess: Preprocess, augment: Augment, settings: Settings) -> tuple[tuple[str, str, str], ...]:
    """(what, how it is set, why) for everything that decides what the page shows."""
    size, fit, kind = preprocess.size, preprocess.fit, augment.kind
    open_choice = "; train chooses between squash, crop and pad by cross-validation" if settings.fit == "auto" else ""
    rows = [
        ("Network", settings.backbone, f"sees squares of {size} × {size} pixels"),
        ("Fit (--fit)", fit, _FITS[fit] + open_choice),
        ("Augmentation (--aa)", kind, _KINDS[kind]),
    ]
    if kind in ("crop", "trivial"):
        kept = f"{_percent(augment.scale[0])} to {_percent(augment.scale[1])}"
        why = "of the area is kept; a smaller part is more variety, but may lose what the label is about"
        rows.append(("Crop (--crop-scale)", kept, why))
    if kind != "none":
        rows += [
            ("Left-right flip (--hflip)", _percent(augment.hflip), "0 where left and right matter, as in writing"),
            ("Upside-down flip (--vflip)", _percent(augment.vflip), "only where there is no up, as from above"),
            (
                "Erasing (--reprob)",
                _percent(augment.erase),
                "a rectangle of 2 to 33 % of the square in the mean colour",
            ),
        ]
    return (*rows, ("Seed (--seed)", str(settings.seed), "another one shows other pictures and other views"))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
