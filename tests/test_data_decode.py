import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from PIL.Image import Transpose

from graftage.data.decode import MARGIN, ORIENTATION, Limits, decode, inspect
from graftage.errors import PictureError
from graftage.features.preprocess import Preprocess

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF")


def scene(width: int = 37, height: int = 23, seed: int = 0) -> Image.Image:
    """A smooth coloured picture without any symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind.upper(), **options)
    return file.getvalue()


def oriented(image: Image.Image, kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **options)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(PictureError) as caught:
        call()
    return caught.value.reason


# How a camera held in each of the eight ways stores the upright picture: the inverse of the turn that mends it.
STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_every_exif_orientation_decodes_to_the_same_upright_pixels(
    kind: str, options: dict[str, str], orientation: int
) -> None:
    upright = scene()
    turn = STORED[orientation]
    data = oriented(upright if turn is None else upright.transpose(turn), kind, orientation, **options)
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, np.asarray(upright))
    facts = inspect(data)
    assert (picture.width, picture.height) == (facts.width, facts.height) == upright.size
    assert picture.notes == (() if orientation == 1 else (f"rotated by EXIF ({orientation})",))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_lossy_formats_turn_upright_too_and_after_scaled_decoding(kind: str, orientation: int) -> None:
    upright = scene(320, 240)
    turn = STORED[orientation]
    data = oriented(upright if turn is None else upright.transpose(turn), kind, orientation, quality=95)
    picture = decode(data, cover=50)
    assert (picture.width, picture.height) == (inspect(data).width, inspect(data).height) == (320, 240)
    height, width, _ = picture.pixels.shape
    assert (width, height) == ((80 * 2, 60 * 2) if kind == "JPEG" else (320, 240))
    expected = np.asarray(upright.resize((width, height), Image.Resampling.BOX), dtype=float)
    assert np.abs(picture.pixels - expected).mean() < 6


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
def test_broken_exif_counts_as_upright(kind: str, exif: bytes) -> None:
    data = encode(scene(), kind, exif=exif)
    assert decode(data).pixels.shape == (23, 37, 3)
    assert inspect(data).width == 37


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(value: int) -> None:
    assert decode(oriented(scene(), "PNG", value)).notes == ()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_known_by_content(kind: str) -> None:
    data = encode(scene(), kind)
    facts = inspect(data)
    assert (facts.format, facts.width, facts.height, facts.suspicious) == (kind, 37, 23, False)
    picture = decode(data)
    assert (picture.format, picture.pixels.shape, picture.pixels.dtype) == (kind, (23, 37, 3), np.uint8)
    assert not picture.pixels.flags.writeable
    assert not picture.repaired
    for fit in ("crop", "squash", "pad"):
        recipe = Preprocess(fit, 16, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        np.testing.assert_array_equal(recipe.square_of(picture.image), recipe.square(picture.pixels))


@pytest.mark.parametrize("kind", FORMATS)
def test_inspecting_decodes_no_pixels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image))
    inspect(encode(scene(), kind))
    assert loaded == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_single_pixel_is_a_picture(kind: str) -> None:
    data = encode(Image.new("RGB", (1, 1), (200, 200, 200)), kind)
    assert np.abs(decode(data, cover=224).pixels.astype(int) - 200).max() <= 2


def test_multi_picture_objects_count_as_jpeg() -> None:
    first = scene(64, 48)
    data = encode(first, "MPO", save_all=True, append_images=[scene(64, 48, seed=1)])
    picture = decode(data)
    assert picture.format == "JPEG"
    np.testing.assert_array_equal(picture.pixels, decode(encode(first, "JPEG")).pixels)


@settings(max_examples=30, deadline=None)
@example(width=17, height=17, cover=1)
@given(width=st.integers(1, 900), height=st.integers(1, 900), cover=st.integers(1, 400))
def test_scaled_decoding_covers_what_was_asked_and_no_scale_smaller_would(width: int, height: int, cover: int) -> None:
    picture = decode(encode(Image.new("RGB", (width, height), "red"), "JPEG"), cover=cover)
    assert (picture.width, picture.height) == (width, height)
    short = min(picture.pixels.shape[:2])
    full = min(width, height)
    fitting = [scale for scale in (1, 2, 4, 8) if -(-full // scale) == short]  # libjpeg rounds up
    assert fitting
    assert short == full or short >= cover * MARGIN
    if fitting[-1] < 8:
        assert full // (2 * fitting[-1]) < cover * MARGIN


def test_a_twelve_megapixel_photo_for_a_small_network_is_decoded_at_an_eighth() -> None:
    data = encode(Image.new("L", (4000, 3000)), "JPEG")
    assert decode(data, cover=224).pixels.shape == (375, 500, 3)


# What cannot be used


@pytest.mark.parametrize("call", [inspect, decode])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"hello, I am a text file", "not an image"),
        (b"BMW is a brand of cars, and this is a text file", "not an image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported format"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "unsupported format"),
        (b"8BPS\0\x01", "unsupported format"),
        (b"P6\n1 1\n255\n\0\0\0", "unsupported format"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"GIF89a\x01\x00;", "corrupt"),
    ],
)
def test_unusable_bytes_have_a_reason(call: Callable[[bytes], object], data: bytes, expected: str) -> None:
    assert reason(lambda: call(data)) == expected


def test_an_unsupported_format_is_named_with_what_to_do() -> None:
    with pytest.raises(PictureError, match=r"unsupported format: HEIC: convert it to JPEG or PNG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


@pytest.mark.parametrize("call", [inspect, decode])
@pytest.mark.parametrize("kind", FORMATS)
def test_limits_hold_before_anything_is_decoded(call: Callable[..., object], kind: str) -> None:
    data = encode(scene(40, 30), kind)
    assert reason(lambda: call(data, limits=Limits(max_bytes=len(data) - 1))) == "too many bytes"
    assert reason(lambda: call(data, limits=Limits(max_pixels=1199))) == "too many pixels"
    call(data, limits=Limits(max_bytes=len(data), max_pixels=1200))


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    png = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    header = png[12:16] + (60000).to_bytes(4, "big") * 2 + png[24:29]
    bomb = bytes(png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:])
    assert reason(lambda: inspect(bomb)) == "too many pixels"


def test_between_pillows_warning_and_its_error_a_large_picture_is_just_a_picture() -> None:
    data = encode(Image.new("1", (10_000, 9_000)), "TIFF", compression="group4")
    assert inspect(data).width == 10_000


# Truncated files


def noisy(kind: str) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_looks_suspicious_and_is_refused(kind: str, share: float) -> None:
    data = noisy(kind)
    data = data[: int(share * len(data))]
    assert reason(lambda: decode(data)) == "truncated"
    if kind == "WebP":  # nothing but whole WebP files can be opened
        assert reason(lambda: inspect(data)) == "truncated"
    else:
        assert inspect(data).suspicious


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
def test_a_truncated_file_is_repaired_only_on_request_and_says_so(kind: str) -> None:
    whole = noisy(kind)
    picture = decode(whole[: int(0.6 * len(whole))], repair=True)
    assert picture.repaired
    assert picture.notes[-1] == "truncated, the missing part filled"
    rows = {"BMP": slice(-30, None), "GIF": slice(0, None, 2)}.get(kind, slice(0, 30))  # bottom first; interlaced
    np.testing.assert_array_equal(picture.pixels[rows], decode(whole).pixels[rows])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_truncated_progressive_jpeg_is_repaired_from_its_first_scans() -> None:
    whole = encode(scene(320, 240), "JPEG", progressive=True)
    repaired = decode(whole[: int(0.7 * len(whole))], repair=True).pixels
    assert np.abs(repaired.astype(int) - decode(whole).pixels).mean() < 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_nothing_left_is_not_repaired(kind: str) -> None:
    data = noisy(kind)
    start = data.index(b"\xff\xda") + 14 if kind == "JPEG" else 60
    assert reason(lambda: decode(data[:start], repair=True)) == "truncated"


def test_asking_for_repair_changes_nothing_for_a_whole_file() -> None:
    assert not decode(noisy("JPEG"), repair=True).repaired


def test_bytes_after_the_end_do_no_harm() -> None:
    data = encode(scene(), "JPEG") + b"camera maker's trailer" * 100
    assert not inspect(data).suspicious
    assert not decode(data).repaired


def test_repairing_in_one_thread_does_not_repair_in_another() -> None:
    cut = {kind: noisy(kind)[:-3000] for kind in ("JPEG", "PNG", "BMP")}

    def attempt(job: int) -> bool:
        data = list(cut.values())[job // 2 % 3]
        try:
            return decode(data, repair=job % 2 == 0).repaired
        except PictureError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(120))) == [job % 2 == 0 for job in range(120)]


# Hostile bytes

SAMPLES = [encode(scene(), kind) for kind in FORMATS] + [
    encode(scene(), "JPEG", progressive=True),
    oriented(scene(), "JPEG", 6),
    oriented(scene(), "PNG", 6),
    encode(scene(), "TIFF", compression="tiff_lzw"),
    encode(scene(), "TIFF", compression="jpeg"),
    encode(scene().convert("CMYK"), "JPEG"),
    encode(scene().convert("P"), "PNG", transparency=3),
    encode(scene(), "GIF", save_all=True, append_images=[scene(seed=1)]),
    encode(scene(), "PNG", save_all=True, append_images=[scene(seed=1)]),
    encode(scene(), "WebP", save_all=True, append_images=[scene(seed=1)]),
]


def survives(data: bytes) -> None:
    """Both functions either work or raise PictureError, and no warning escapes (pytest makes it an error)."""
    for call in (inspect, decode, lambda data: decode(data, cover=8, repair=True)):
        with suppress(PictureError):
            call(data)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), sample=st.sampled_from(SAMPLES), keep=st.integers(0, 40))
def test_random_bytes_after_a_real_beginning_raise_nothing_but_picture_errors(
    data: bytes, sample: bytes, keep: int
) -> None:
    survives(sample[:keep] + data)


@settings(max_examples=300, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6),
)
@example(sample=SAMPLES[3], cut=1.0, flips=[])
def test_damaged_files_raise_nothing_but_picture_errors(
    sample: bytes, cut: float, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(sample[: max(1, int(cut * len(sample)))])
    for place, bit in flips:
        damaged[int(place * len(damaged))] ^= 1 << bit
    survives(bytes(damaged))


def test_pillows_own_warnings_do_not_escape_but_others_do() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x0e\x01\x02\0\xff\xff\0\0\x40\0\0\0"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(encode(scene(), "JPEG", exif=exif))
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["somebody else's"]
