import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageCms

from graftage.data.colour import to_srgb
from graftage.data.decode import decode


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int = 48, height: int = 32) -> NDArray[np.uint8]:
    """Colours all over the cube, (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 200 // width], axis=-1).astype(np.uint8)


# Gray and depth


def test_gray_costs_one_channel_and_reads_as_three() -> None:
    gray = gradient()[..., 0]
    pixels = decode(encode(Image.fromarray(gray), "PNG")).pixels
    assert pixels.strides[-1] == 0
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.repeat(gray[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_divided_by_257(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32_767, 65_534, 65_535]], dtype=np.uint16)
    picture = decode(encode(Image.fromarray(values), kind))
    assert picture.pixels[0, :, 0].tolist() == [0, 0, 1, 1, 127, 255, 255]
    assert picture.notes == ("16-bit scaled",)


def test_big_endian_16_bit_tiff_is_the_same_picture() -> None:
    values = np.arange(0, 65_536, 997, dtype=np.uint16)[None]
    big = Image.frombytes("I;16B", (values.shape[1], 1), values.astype(">u2").tobytes())
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(big, "TIFF")).pixels[..., 0], expected)


def test_16_bit_colour_png_is_said_to_be_scaled() -> None:
    rows = b"".join(b"\0" + bytes([200, 7, 100, 0, 50, 255]) * 2 for _ in range(2))
    data = png(2, 2, depth=16, colour=2, rows=rows)
    picture = decode(data)
    assert picture.pixels[0, 0].tolist() == [200, 100, 50]
    assert picture.notes == ("16-bit scaled",)


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.2, 0.6]], dtype=np.float32), [0, 51, 153]),  # within 0..1: 1 is white
        (np.array([[-1.0, 0.0, 3.0]], dtype=np.float32), [0, 64, 255]),  # anything else: its own range
        (np.array([[5.0, 5.0]], dtype=np.float32), [0, 0]),
        (np.array([[np.nan, 2.0, np.inf, 4.0]], dtype=np.float32), [0, 0, 0, 255]),
        (np.array([[-3e38, 0.0, 3e38]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-100, 0, 100_000]], dtype=np.int32), [0, 0, 255]),
    ],
)
def test_pictures_of_floats_and_long_integers(values: NDArray[np.generic], expected: list[int]) -> None:
    picture = decode(encode(Image.fromarray(values), "TIFF"))
    assert picture.pixels[0, :, 0].tolist() == expected
    assert picture.notes in (("float scaled",), ("32-bit scaled",))


def test_1_bit_is_black_and_white() -> None:
    picture = decode(encode(Image.fromarray(np.array([[True, False]])), "PNG"))
    assert picture.pixels[0, :, 0].tolist() == [255, 0]
    assert picture.notes == ("1-bit",)


# Alpha and palettes


@settings(max_examples=20, deadline=None)
@given(values=arrays(np.uint8, (5, 7, 4)))
def test_alpha_lies_over_white(values: NDArray[np.uint8]) -> None:
    values[0, 0, 3] = 0  # something is transparent
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    picture = decode(encode(Image.fromarray(values), "PNG"))
    assert np.abs(picture.pixels - expected).max() <= 1
    assert picture.notes == ("alpha over white",)


def test_gray_with_alpha_stays_gray() -> None:
    values = np.array([[[100, 255], [100, 0], [100, 51]]], dtype=np.uint8)
    pixels = decode(encode(_la(values), "PNG")).pixels
    assert pixels[0, :, 0].tolist() == [100, 255, 224]
    assert pixels.strides[-1] == 0


def _la(values: NDArray[np.uint8]) -> Image.Image:
    return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(values[..., i])) for i in range(2)])


def test_alpha_that_is_opaque_everywhere_is_not_worth_a_word() -> None:
    picture = decode(encode(Image.fromarray(gradient()).convert("RGBA"), "PNG"))
    np.testing.assert_array_equal(picture.pixels, gradient())
    assert picture.notes == ()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    picture = decode(encode(image, kind, transparency=0))
    assert picture.pixels[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    assert picture.notes == ("palette", "alpha over white")


def test_palette_with_an_alpha_for_each_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((1, 0), 1)
    picture = decode(encode(image, "PNG", transparency=bytes([51, 255])))
    assert picture.pixels[0].tolist() == [[204, 204, 204], [200, 100, 50]]


@pytest.mark.parametrize(("mode", "key", "left"), [("L", 7, [255, 90]), ("RGB", (7, 7, 7), [255, 90])])
def test_a_key_colour_is_transparent(mode: str, key: object, left: list[int]) -> None:
    image = Image.fromarray(np.array([[7, 90]], dtype=np.uint8)).convert(mode)
    assert decode(encode(image, "PNG", transparency=key)).pixels[0, :, 0].tolist() == left


# Animations


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_an_animation_is_its_first_frame(kind: str, options: dict[str, object]) -> None:
    shades = [Image.new("RGB", (9, 6), (shade, 0, 0)) for shade in (50, 100, 150)]
    picture = decode(encode(shades[0], kind, save_all=True, append_images=shades[1:], **options))
    np.testing.assert_array_equal(picture.pixels, np.asarray(shades[0]))
    assert picture.notes[-1] == "first of 3 frames"


# CMYK and profiles


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC version 2 display profile."""
    body, table, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    white = struct.pack(">iii", 63190, 65536, 54061)  # D50
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + white
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in (x, y, z)))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


D50 = xyz(0.9642, 1.0, 0.8249)
RED, GREEN, BLUE = xyz(0.4361, 0.2225, 0.0139), xyz(0.3851, 0.7169, 0.0971), xyz(0.1431, 0.0606, 0.7141)  # of sRGB


def linear_profile(red: bytes, green: bytes, blue: bytes) -> bytes:
    curves = {b"rTRC": gamma(1), b"gTRC": gamma(1), b"bTRC": gamma(1)}
    return profile(b"RGB ", {b"wtpt": D50, b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, **curves})


def srgb_curve(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1, light 0..1 to value 0..255."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_profile_of_linear_light_is_brought_to_the_srgb_curve() -> None:
    data = encode(Image.fromarray(gradient()), "PNG", icc_profile=linear_profile(RED, GREEN, BLUE))
    picture = decode(data)
    assert np.abs(picture.pixels - srgb_curve(gradient() / 255)).max() <= 2
    assert picture.notes == ("ICC profile to sRGB",)


def test_a_profile_with_red_and_blue_swapped_swaps_them_back() -> None:
    data = encode(Image.fromarray(gradient()), "TIFF", icc_profile=linear_profile(BLUE, GREEN, RED))
    expected = srgb_curve(gradient()[..., ::-1] / 255)
    assert np.abs(decode(data).pixels - expected).max() <= 2


def test_a_gray_profile_changes_the_curve_and_stays_gray() -> None:
    gray = np.arange(256, dtype=np.uint8)[None]
    data = encode(Image.fromarray(gray), "PNG", icc_profile=profile(b"GRAY", {b"wtpt": D50, b"kTRC": gamma(1)}))
    picture = decode(data)
    assert picture.pixels.strides[-1] == 0
    assert np.abs(picture.pixels[..., 0] - srgb_curve(gray / 255)).max() <= 2


def test_a_gray_picture_may_carry_an_rgb_profile() -> None:
    gray = np.arange(256, dtype=np.uint8)[None]
    data = encode(Image.fromarray(gray), "JPEG", quality=100, icc_profile=linear_profile(RED, GREEN, BLUE))
    assert np.abs(decode(data).pixels[..., 0] - srgb_curve(gray / 255)).max() <= 8


def test_alpha_is_kept_through_a_profile() -> None:
    values = np.dstack([gradient(), np.full(gradient().shape[:2], 255, dtype=np.uint8)])
    values[0, 0, 3] = 0
    picture = decode(encode(Image.fromarray(values), "PNG", icc_profile=linear_profile(RED, GREEN, BLUE)))
    assert picture.pixels[0, 0].tolist() == [255, 255, 255]
    assert np.abs(picture.pixels - srgb_curve(gradient() / 255))[1:].max() <= 2
    assert picture.notes == ("ICC profile to sRGB", "alpha over white")


def test_an_srgb_profile_changes_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode(encode(Image.fromarray(gradient()), "PNG", icc_profile=srgb))
    np.testing.assert_array_equal(picture.pixels, gradient())
    assert picture.notes == ()


@pytest.mark.parametrize(
    "broken", [b"nonsense", linear_profile(RED, GREEN, BLUE)[:200], profile(b"GRAY", {b"kTRC": gamma(1)})]
)
def test_a_profile_that_is_broken_or_of_another_space_is_ignored_with_a_note(broken: bytes) -> None:
    picture = decode(encode(Image.fromarray(gradient()), "PNG", icc_profile=broken))
    np.testing.assert_array_equal(picture.pixels, gradient())
    assert picture.notes == ("ICC profile ignored",)


@pytest.mark.parametrize(
    "encoder", [lambda image: encode(image, "TIFF"), lambda image: encode(image, "JPEG", quality=100)]
)
def test_cmyk_without_a_profile_is_converted_by_complement(encoder: Callable[[Image.Image], bytes]) -> None:
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[..., 0], ink[..., 3] = 255, 51  # all cyan and a fifth of black
    picture = decode(encoder(_cmyk(ink)))
    assert np.abs(picture.pixels.astype(int) - [0, 204, 204]).max() <= 3
    assert picture.notes == ("CMYK",)


def _cmyk(ink: NDArray[np.uint8]) -> Image.Image:
    return Image.frombytes("CMYK", (ink.shape[1], ink.shape[0]), ink.tobytes())


def test_a_cmyk_picture_with_a_profile_for_screens_ignores_it() -> None:
    data = encode(_cmyk(np.zeros((4, 4, 4), dtype=np.uint8)), "TIFF", icc_profile=linear_profile(RED, GREEN, BLUE))
    picture = decode(data)
    assert picture.notes == ("CMYK", "ICC profile ignored")
    assert picture.pixels.min() == 255


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
def test_every_mode_of_pillow_ends_as_gray_or_rgb(mode: str) -> None:
    source = Image.fromarray(gradient()).convert("L") if mode in ("I;16",) else Image.fromarray(gradient())
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        source = ImageCms.profileToProfile(source, ImageCms.createProfile("sRGB"), lab, outputMode="LAB") or source
    image, _ = to_srgb(source if mode == "LAB" else source.convert(mode))
    assert image.mode in ("L", "RGB")
    assert image.size == (48, 32)
