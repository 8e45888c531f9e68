"""Bytes become an upright sRGB picture: the only place in graftage that decodes an image file.

Every path (training, prediction, server, checks) comes through `decode`, so that a picture is the same picture
everywhere. The order is fixed: recognise by content, check the limits, decode (JPEGs at the smallest scale that still
covers what the caller needs), bring to 8 bits, convert colours by the ICC profile, lay alpha over white, turn upright
by EXIF. Whatever hostile bytes make Pillow raise leaves this module as `PictureError`.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from graftage.data.colour import to_srgb
from graftage.data.formats import READERS, ends_early, recognise, strips_missing
from graftage.errors import PictureError

# A scaled JPEG keeps a short side of at least MARGIN * cover pixels, so that the antialiased resize that follows still
# decides what the picture looks like. Measured by `bench/decode.py` on 4000x3000 photographs, cover 256: 1.5 decodes at
# 1/4, 4.1 times as fast as the full path, mean feature cosine 0.9996; 1.25 decodes at 1/8, 5.5 times, 0.9992.
MARGIN: Final = 1.25

# Names what turns bytes into pixels: features of another decoder are not these. Raise the number when pixels change.
DECODER: Final = f"decode1-pillow{PIL.__version__}"

LEAST_LEFT: Final = 0.05  # share of the values that a repaired picture must have left; a broken first block is none
ORIENTATION: Final = 0x0112  # the EXIF and TIFF tag
_EXIF_IFD: Final = 0x8769
_TIME_TAKEN: Final = 0x9003  # DateTimeOriginal
_CAMERA: Final = 0x010F, 0x0110  # make and model
_TIME: Final = re.compile(r"[12][0-9]{3}:[0-9]{2}:[0-9]{2} [0-9]{2}:[0-9]{2}")

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW_MODULES: Final = re.compile(r"PIL\.")


@dataclass(frozen=True)
class Limits:
    """What a single file may cost.

    Attributes:
        max_bytes: largest file, in bytes (256 MiB).
        max_pixels: largest width * height; the default is where Pillow itself begins to refuse (twice its
            `MAX_IMAGE_PIXELS`), some 0.5 GB decoded. For TIFF and WebP a higher limit is still cut off there.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 178_956_970


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        image: of mode "RGB" or "L", upright sRGB; not to be changed.
        width: width in pixels of the full upright picture, before scaled decoding.
        height: height in pixels, likewise.
        format: "JPEG", "PNG", "WebP", "TIFF", "BMP" or "GIF", by content.
        notes: what was converted on the way, in words.
        repaired: True if the file was truncated and what is missing was filled (gray for JPEG, else black).
    """

    image: Image.Image
    width: int
    height: int
    format: str
    notes: tuple[str, ...]
    repaired: bool

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), upright sRGB, read-only; of a gray picture a broadcast view whose last axis has stride 0."""
        return _as_array(self.image)


@dataclass(frozen=True)
class Facts:
    """What a file's header says.

    Attributes:
        format: "JPEG", "PNG", "WebP", "TIFF", "BMP" or "GIF", by content.
        width: width in pixels of the upright picture.
        height: height in pixels, likewise.
        suspicious: True if the end of the file does not look complete: decode it to know.
        taken: camera and time as EXIF gives them, "MAKE MODEL|YYYY:MM:DD HH:MM:SS", or "" if it gives no time.
    """

    format: str
    width: int
    height: int
    suspicious: bool
    taken: str = ""


@dataclass(frozen=True, eq=False)
class _Opened:
    image: ImageFile.ImageFile
    format: str
    orientation: int
    width: int
    height: int


def inspect(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Facts:
    """Reads a file's header only: cheap, and enough to fill a catalog.

    Args:
        data: the whole file.
        limits: largest file and picture.

    Raises:
        PictureError: empty, too many bytes or pixels, not an image, unsupported format, truncated or corrupt header.
    """
    opened = _open(data, limits)
    suspicious = ends_early(data, opened.format) or strips_missing(opened.image, len(data))
    return Facts(opened.format, opened.width, opened.height, suspicious, _taken(opened.image, data))


def decode(data: bytes, *, cover: int | None = None, limits: Limits = DEFAULT_LIMITS, repair: bool = False) -> Picture:
    """Decodes a file to upright sRGB. Safe to call from many threads at once.

    16-bit gray is scaled by 1/257. Float pictures within 0..1 are scaled by 255; other float and 32-bit integer
    pictures have no defined white, so they are stretched from their own minimum to their own maximum.

    Args:
        data: the whole file.
        cover: pixels that the short side must still have: a JPEG is decoded at the smallest scale (1, 1/2, 1/4, 1/8)
            whose short side is at least `MARGIN * cover`. None decodes at full size.
        limits: largest file and picture.
        repair: use what is left of a truncated file instead of raising.

    Raises:
        PictureError: everything that `inspect` raises, and truncated or corrupt data; with `repair`, "truncated"
            still where less than a twentieth is left, or where the format keeps nothing (WebP, compressed TIFF).
    """
    assert cover is None or cover > 0, f"cover must be positive, got {cover}"
    opened = _open(data, limits)
    repaired = False
    try:
        _load(opened, data, cover)
    except PictureError as error:
        if not repair or error.reason != "truncated":
            raise
        opened, repaired = _rescue(opened, data, cover, limits), True
    with _faults(data, opened.format):
        image, notes = _upright_srgb(opened, data)
    if repaired:
        notes = (*notes, "truncated, the missing part filled")
    return Picture(image, opened.width, opened.height, opened.format, notes, repaired)


# Opening and loading


def _open(data: bytes, limits: Limits) -> _Opened:
    if len(data) > limits.max_bytes:
        raise PictureError("too many bytes", f"{len(data):,}, the limit is {limits.max_bytes:,}")
    kind = recognise(data)
    _hush_pillow()
    with _faults(data, kind):
        image = READERS[kind](BytesIO(data))
        orientation = _orientation(image, data)
        width, height = _upright_size(image, orientation)
    if width * height > limits.max_pixels:
        raise PictureError("too many pixels", f"{width} x {height}, the limit is {limits.max_pixels:,}")
    return _Opened(image, kind, orientation, width, height)


def _hush_pillow() -> None:
    """Keeps Pillow's own warnings (dirty EXIF or TIFF tags) out of the way: what matters becomes a `PictureError`.

    `warnings.catch_warnings` swaps global state and is not thread-safe, so one rule about Pillow's modules alone is
    put on top of the list, and stays.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)


@contextmanager
def _faults(data: bytes, kind: str) -> Iterator[None]:
    """Turns whatever Pillow raises on bad bytes into `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError("too many pixels", str(error)) from error
    except MemoryError as error:
        raise PictureError("too large for memory") from error
    except Exception as error:
        cut = "truncat" in str(error).lower() or ends_early(data, kind)
        detail = f"{kind}, {str(error)[:200] or type(error).__name__}"
        raise PictureError("truncated" if cut else "corrupt", detail) from error


def _orientation(image: Image.Image, data: bytes) -> int:
    """EXIF orientation 1 to 8; 1 where there is none or the EXIF is broken."""
    # Without this test Pillow decodes a whole PNG to look for EXIF behind the pixels.
    if isinstance(image, PngImageFile) and b"eXIf" not in data and b"Raw profile type" not in data:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF raises nearly anything, and never makes a picture unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _taken(image: Image.Image, data: bytes) -> str:
    """Camera and time of a photograph; "" where EXIF is missing, broken or without a time."""
    if b"Exif" not in data and b"eXIf" not in data and not isinstance(image, TiffImageFile):
        return ""
    if isinstance(image, PngImageFile) and b"eXIf" not in data:  # as in `_orientation`
        return ""
    try:
        exif = image.getexif()
        time = exif.get_ifd(_EXIF_IFD).get(_TIME_TAKEN, "")
        camera = " ".join(str(exif.get(tag, "")).strip(" \0") for tag in _CAMERA)
    except Exception:  # as in `_orientation`
        return ""
    return f"{camera.strip()}|{time.strip()}" if isinstance(time, str) and _TIME.match(time) else ""


def _upright_size(image: ImageFile.ImageFile, orientation: int) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImageFile):  # newer Pillows have turned `size` of a TIFF already
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    return (height, width) if orientation >= 5 else (width, height)


def _load(opened: _Opened, data: bytes, cover: int | None) -> None:
    with _faults(data, opened.format):
        if cover is not None and opened.format == "JPEG":
            image = opened.image
            if (scale := _scale(min(image.size), cover)) > 1:
                image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
        opened.image.load()


def _scale(short: int, cover: int) -> int:
    """The largest of 8, 4, 2, 1 that leaves the short side `MARGIN * cover` pixels."""
    return next((scale for scale in (8, 4, 2) if short // scale >= cover * MARGIN), 1)


def _rescue(opened: _Opened, data: bytes, cover: int | None, limits: Limits) -> _Opened:
    """What can be had of a truncated file; Pillow's global `LOAD_TRUNCATED_IMAGES` would hit the other threads too.

    A JPEG gets the end marker that it lacks, and libjpeg fills the rest. For the others the rows decoded before the
    data ran out are already in the image: it only has to stop asking for more.
    """
    if opened.format == "JPEG":
        opened = _open(data + b"\xff\xd9", limits)
        _load(opened, data, cover)
    else:
        opened.image.tile = []
        with _faults(data, opened.format):
            opened.image.load()
    fill = 128 if opened.format == "JPEG" else 0
    if np.mean(np.asarray(opened.image) != fill) < LEAST_LEFT:
        raise PictureError("truncated", f"{opened.format}, less than {LEAST_LEFT:.0%} of the picture is left to repair")
    return opened


# Colours and orientation


def _upright_srgb(opened: _Opened, data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """The loaded image in mode "L" or "RGB", upright, and what was done to it."""
    image, colour_notes = to_srgb(opened.image)
    notes = list(colour_notes)
    if opened.format == "PNG" and image.mode == "RGB" and data[24:25] == b"\x10":  # Pillow keeps the upper 8 bits
        notes.insert(0, "16-bit scaled")
    # newer Pillows turn a TIFF while loading and then drop the tag: turn only what is still to be turned
    left = _orientation(opened.image, b"") if opened.format == "TIFF" else opened.orientation
    if left in _TURNS:
        image = image.transpose(_TURNS[left])
    if opened.orientation != 1:
        notes.append(f"rotated by EXIF ({opened.orientation})")
    frames = _frames(opened.image)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    return image, tuple(notes)


def _frames(image: ImageFile.ImageFile) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a broken later frame does not matter to the first
        return 1


def _as_array(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image, dtype=np.uint8)
    if image.mode == "L":
        return np.broadcast_to(pixels[..., None], (*pixels.shape, 3))  # (H, W, 3), the last axis has stride 0
    pixels.flags.writeable = False
    return pixels
