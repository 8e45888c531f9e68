"""A loaded image in any of Pillow's modes becomes 8-bit sRGB, gray or colour: the second half of decoding.

`decode` is the only caller. Pixels stay inside Pillow, which is faster than numpy for all of this.
"""

from functools import lru_cache
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SPACES: Final = {"L": ("GRAY", "RGB "), "RGB": ("RGB ",), "CMYK": ("CMYK",)}  # profiles that make sense for a mode
_MODE_NOTES: Final = {
    "I;16": "16-bit scaled",
    "I;16B": "16-bit scaled",
    "I;16L": "16-bit scaled",
    "I;16N": "16-bit scaled",
    "I": "32-bit scaled",
    "F": "float scaled",
    "CMYK": "CMYK",
    "P": "palette",
    "PA": "palette",
    "YCbCr": "YCbCr",
    "LAB": "Lab",
    "1": "1-bit",
}


def to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Converts a loaded image to sRGB in mode "L" (if it holds no colour by its mode) or "RGB".

    16-bit gray is scaled by 1/257. Float images within 0..1 are scaled by 255; other float and 32-bit integer images
    are stretched from their minimum to their maximum, because nothing in them says what white is. An ICC profile is
    obeyed where it fits the image's mode; a broken one is ignored. What is transparent becomes white.

    Args:
        image: loaded image, as it came out of its file, with its `info`.

    Returns:
        The image, the same object if nothing had to be done; and a note for each conversion, in words.
    """
    notes = [_MODE_NOTES[image.mode]] if image.mode in _MODE_NOTES else []
    profile = image.info.get("icc_profile")
    colour, alpha = _split_alpha(_eight_bits(image))
    colour, profile_note = _by_profile(colour, profile)
    if profile_note:
        notes.append(profile_note)
    if alpha is not None:
        colour = _over_white(colour, alpha)
        notes.append("alpha over white")
    return colour, tuple(notes)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray(_divide_257(np.asarray(image)))
    if image.mode == "I" and image.format == "PNG":  # Pillow before 11 opens 16-bit gray PNG so
        return Image.fromarray(_divide_257(np.asarray(image)))
    if image.mode in ("I", "F"):
        return Image.fromarray(_stretch(np.asarray(image, dtype=np.float64), image.mode))
    return image.convert("L") if image.mode == "1" and "transparency" not in image.info else image


def _divide_257(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """0..65535 to the nearest of 0..255, black and white exactly kept."""
    wide: NDArray[np.uint32] = np.clip(values, 0, 65535).astype(np.uint32)
    return ((wide + 128) // 257).astype(np.uint8)


def _stretch(values: NDArray[np.float64], mode: str) -> NDArray[np.uint8]:
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    if mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    # halved so that the range of the largest floats does not overflow; what is not finite becomes black
    span = high / 2 - low / 2
    share = (np.where(finite, values, low) / 2 - low / 2) / (span if span > 0 else 1.0)
    return np.rint(share * 255).astype(np.uint8)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour in mode "L", "RGB" or "CMYK", and alpha ("L") unless everything is opaque."""
    gray = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        straight = image.mode in ("L", "RGB", "CMYK")
        return image if straight else image.convert("L" if gray else "RGB"), None
    mixed = image.convert("LA" if gray else "RGBA")
    alpha = mixed.getchannel("A")
    colour = mixed.convert("L" if gray else "RGB")
    return colour, None if alpha.getextrema() == (255, 255) else alpha


def _over_white(colour: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new(colour.mode, colour.size, "white")
    white.paste(colour, mask=alpha)
    return white


def _by_profile(colour: Image.Image, profile: object) -> tuple[Image.Image, str]:
    """The image in sRGB, mode "L" or "RGB", and a note ("" if no profile had anything to say)."""
    plain = colour.convert("RGB") if colour.mode == "CMYK" else colour
    if not isinstance(profile, bytes) or not profile:
        return plain, ""
    try:
        transform = _transform(profile, colour.mode)
        if transform is None:
            return plain, ""
        if isinstance(transform, bytes):
            return colour.point(transform), "ICC profile to sRGB"
        converted = ImageCms.applyTransform(colour, transform)
    except Exception:  # lcms and Pillow raise several kinds; a broken profile never makes a picture unusable
        return plain, "ICC profile ignored"
    return (plain, "") if converted is None else (converted, "ICC profile to sRGB")


@lru_cache(maxsize=32)  # building one costs more than applying it to a small picture
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | bytes | None:
    """Transform to sRGB; for gray a table of 256 values; None if the profile is sRGB already.

    Raises:
        ValueError: the profile is for another colour space than the image's.
        OSError, ImageCms.PyCMSError: the profile is broken.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space
    if space not in _SPACES[mode]:
        raise ValueError(f"a profile for {space!r} does not fit an image of mode {mode}")
    name = (source.profile.profile_description or "").lower()
    if space == "RGB " and ("srgb" in name or name.startswith("c2")):  # "c2" is a tiny sRGB profile of web services
        return None
    given = "L" if space == "GRAY" else mode if mode == "CMYK" else "RGB"
    # lcms's shortcuts are off by up to 10 of 255 in the dark end of gray curves; 256 values need no shortcut
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), given, "RGB", flags=flags)
    return _gray_table(transform, given) if mode == "L" else transform


def _gray_table(transform: ImageCms.ImageCmsTransform, given: str) -> bytes:
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    converted = ImageCms.applyTransform(ramp.convert(given), transform)
    assert converted is not None, "applyTransform gives no image only where it works in place"
    return converted.getchannel("G").tobytes()
