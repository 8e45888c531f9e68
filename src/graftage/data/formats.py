"""What a file is by its first bytes, which of Pillow's readers opens it, and whether its end is there."""

from collections.abc import Callable
from io import BytesIO
from typing import Final

from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from graftage.errors import PictureError

_Reader = Callable[[BytesIO], ImageFile.ImageFile]
# Pillow's classes are called directly, not through Image.open, whose own pixel limit is a global setting and a warning.
READERS: Final[dict[str, _Reader]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
_MAGIC: Final = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WebP", 8, b"WEBP"),
    ("Canon raw (CR2)", 8, b"CR\x02"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftyphev"),
    ("HEIC or AVIF", 4, b"ftypmif1"),
    ("HEIC", 4, b"ftypmsf1"),
    ("Canon raw (CR3)", 4, b"ftypcrx"),
    ("MP4 video", 4, b"ftyp"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL \r\n"),
    ("JPEG 2000", 4, b"jP  \r\n"),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("Photoshop", 0, b"8BPS"),
    ("icon (ICO)", 0, b"\0\0\1\0"),
    ("PDF", 0, b"%PDF"),
    ("PostScript", 0, b"%!PS"),
    ("DDS", 0, b"DDS "),
    ("QOI", 0, b"qoif"),
    ("SVG", 0, b"<svg"),
    *(("PNM", 0, b"P%d%c" % (kind, space)) for kind in range(1, 7) for space in b" \n"),
)
_BMP_HEADERS: Final = (12, 40, 52, 56, 64, 108, 124)  # "BM" alone would take a text file that begins so


def recognise(data: bytes) -> str:
    """The format, a key of `READERS`, by content. Raises PictureError: empty, not an image, unsupported format."""
    if not data:
        raise PictureError("empty file")
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    for kind, offset, magic in _MAGIC:
        if data.startswith(magic, offset):
            if kind not in READERS:
                raise PictureError("unsupported format", f"{kind}: convert it to JPEG or PNG")
            return kind
    raise PictureError("not an image", f"begins with {data[:8]!r}")


def ends_early(data: bytes, kind: str) -> bool:
    """True if the end of a file of this format does not look complete."""
    match kind:
        case "JPEG":  # neither marker can occur inside the compressed data; cameras append things after the end
            return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
        case "PNG":
            return b"IEND" not in data
        case "WebP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return int.from_bytes(data[2:6], "little") > len(data)
        case "GIF":
            return data[-64:].rstrip(b"\0")[-1:] != b";"
        case _:
            return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)


def strips_missing(image: ImageFile.ImageFile, size: int) -> bool:
    """True if a TIFF's strips or tiles reach beyond the end of the file."""
    if not isinstance(image, TiffImageFile):
        return False
    try:
        starts = image.tag_v2.get(273) or image.tag_v2.get(324) or ()
        counts = image.tag_v2.get(279) or image.tag_v2.get(325) or ()
        return any(start + count > size for start, count in zip(starts, counts, strict=False))
    except (TypeError, ValueError):
        return True
