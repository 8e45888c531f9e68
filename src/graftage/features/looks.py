"""What a picture looks like, whatever the network: a digest of its pixels, its mean colour, a small grey thumbnail.

All are made of the picture as it is decoded for the network, upright and in sRGB. A large JPEG is decoded at a smaller
scale, so equal digests mean: equal in size and in every pixel that the network could see.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftage.data.decode import DECODER, Picture
from graftage.data.likeness import SIDE
from graftage.data.quality import BORDER
from graftage.features.preprocess import Preprocess

_DIGEST = 32  # bytes of a SHA-256
_BEFORE = _DIGEST + 3  # bytes before the thumbnail: digest and colour
WIDTH = _BEFORE + SIDE * SIDE  # bytes of a look

_TOGETHER = 512  # thumbnails whose shades are measured at once: 17 MB

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]


def look_key(preprocess: Preprocess) -> str:
    """Name under which looks are kept: it changes with the scale of decoding, not with the network."""
    return f"looks2-{SIDE}-{preprocess.cover}-{DECODER}"


def look_of(picture: Picture) -> Bytes:
    """The look of a picture, uint8 (WIDTH,): the digest of its pixels, its colour, its thumbnail."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height} {picture.pixels.shape}".encode())
    digest.update(np.ascontiguousarray(picture.pixels).tobytes())
    colour = picture.pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    return np.concatenate([np.frombuffer(digest.digest(), np.uint8), colour, _thumbnail(picture.pixels).reshape(-1)])


def digests_of(looks: Bytes) -> list[str]:
    """SHA-256 of the pixels, hex, of each look (n, WIDTH)."""
    return [row[:_DIGEST].tobytes().hex() for row in looks]


def colours_of(looks: Bytes) -> Bytes:
    """Mean colours sRGB uint8 (n, 3) of looks (n, WIDTH)."""
    return looks[:, _DIGEST:_BEFORE]


def thumbnails_of(looks: Bytes) -> Bytes:
    """Grey thumbnails uint8 (n, SIDE, SIDE) of looks (n, WIDTH): the whole picture, its shape given up."""
    return looks[:, _BEFORE:].reshape(len(looks), SIDE, SIDE)


def shades_of(looks: Bytes) -> Floats:
    """Shades of looks (n, WIDTH), float64 (n, 9), each 0 to 1.

    Of the grey thumbnail the 5th percentile, mean, 99th percentile and standard deviation; the mean red, green and
    blue; the mean and the standard deviation of the thumbnail's outermost pixels.
    """
    starts = range(0, len(looks), _TOGETHER)
    return np.concatenate([np.zeros((0, 9)), *(_shades(looks[i : i + _TOGETHER]) for i in starts)])


def _shades(looks: Bytes) -> Floats:
    grey = thumbnails_of(looks)
    outer = np.ones((SIDE, SIDE), dtype=bool)
    outer[BORDER:-BORDER, BORDER:-BORDER] = False
    flat, edge = grey.reshape(len(grey), -1), grey[:, outer]
    low, high = np.percentile(flat, [5, 99], axis=1)
    columns = (
        low,
        flat.mean(axis=1),
        high,
        flat.std(axis=1),
        *colours_of(looks).T,
        edge.mean(axis=1),
        edge.std(axis=1),
    )
    return np.stack(columns, axis=1) / 255


def _thumbnail(pixels: Bytes) -> Bytes:
    grey = pixels.strides[2] == 0
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0]) if grey else np.ascontiguousarray(pixels))
    image = image if image.mode == "L" else image.convert("L")  # ITU-R 601 luma
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0))
