"""Pictures as bytes of a file, and as data URIs, so that a page holds what it shows."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def png_uri(image: Image.Image) -> str:
    """A picture as the data URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")


def jpeg_uri(pixels: NDArray[np.uint8], *, longest: int, quality: int = 80) -> str:
    """Pixels (H, W, 3) as the data URI of a JPEG whose longer side has at most so many pixels."""
    image, stream = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
