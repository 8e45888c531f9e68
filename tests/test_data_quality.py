"""Pictures as photographs: known answers for single pictures, and what counts as unusual within a set."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import photos
from graftage.data.decode import DEFAULT_LIMITS
from graftage.data.quality import Look, camera, look, oddities
from graftage.errors import PictureError


def seen(image: Image.Image, kind: str = "PNG", **options: object) -> Look:
    file = BytesIO()
    image.save(file, kind, **options)
    return look(file.getvalue(), limits=DEFAULT_LIMITS)


def kinds(looks: list[Look]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for odd in oddities(looks):
        found.setdefault(odd.row, set()).add(odd.kind)
    return found


@pytest.fixture(scope="module")
def usual() -> list[Look]:
    """Thirty parts of a palace; those that show nothing but sky are left out."""
    return [each for each in map(seen, photos.crops("china.jpg", 60)) if each.edges > 45][:30]


def test_a_plain_grey_picture_has_nothing_in_it() -> None:
    grey = seen(Image.new("RGB", (80, 60), (128, 128, 128)))
    assert (grey.width, grey.height, grey.format) == (80, 60, "PNG")
    assert grey.low == grey.high == pytest.approx(128 / 255, abs=1e-4)
    assert (grey.entropy, grey.edges, grey.contrast) == (0, 0, 0)
    assert grey.colour == pytest.approx((128 / 255,) * 3, abs=1e-4)
    assert grey.border == pytest.approx((128 / 255, 128 / 255, 128 / 255, 0), abs=1e-4)


def test_entropy_is_that_of_the_grey_values() -> None:
    half = Image.fromarray(np.repeat([[0, 255]], 64, axis=0).repeat(32, axis=1).astype(np.uint8))
    assert seen(half).entropy == pytest.approx(1.0)
    assert seen(half).contrast == pytest.approx(0.5)


def test_edges_are_those_of_pillows_filter() -> None:
    picture = photos.crops("china.jpg", 1, size=(64, 64))[0]
    by_pillow = np.asarray(picture.convert("L").filter(ImageFilter.FIND_EDGES))[1:-1, 1:-1].std()
    assert seen(picture).edges == pytest.approx(by_pillow, rel=0.03)


def test_the_border_is_told_from_the_middle() -> None:
    framed = Image.new("RGB", (64, 64), (255, 0, 0))
    framed.paste((0, 0, 255), (8, 8, 56, 56))
    assert seen(framed).border[:3] == pytest.approx((1, 0, 0), abs=0.01)


def test_what_is_unusual_within_its_set_is_found(usual: list[Look]) -> None:
    one = photos.crops("china.jpg", 1)[0]
    dark, bright = one.point(lambda v: v // 12), one.point(lambda v: 250 + v // 52)
    blurred = Image.blend(one.filter(ImageFilter.GaussianBlur(15)), Image.new("RGB", one.size, (120, 120, 120)), 0.8)
    wide = photos.crops("china.jpg", 1, size=(400, 90))[0]
    huge = one.resize((900, 900))
    looks = [*usual, *map(seen, (dark, bright, Image.new("RGB", (110, 110), (90, 90, 90)), blurred, wide, huge))]
    found = kinds(looks)
    n = len(usual)
    assert "too dark" in found[n]
    assert "too bright" in found[n + 1]
    assert "low information" in found[n + 2]
    assert "blurred" in found[n + 3]
    assert "odd shape" in found[n + 4]
    assert "odd size" in found[n + 5]
    assert set(found) == set(range(n, n + 6))


def test_a_set_that_is_dark_by_nature_has_no_dark_pictures(usual: list[Look]) -> None:
    rng = np.random.default_rng(0)
    night = [replace(each, high=0.2 + 0.05 * rng.random(), low=0.01, mean=0.05) for each in usual]
    assert kinds(night) == {}


def test_a_set_of_mixed_sizes_has_no_odd_ones(usual: list[Look]) -> None:
    sizes = [64, 100, 200, 400, 800, 1600] * 5
    assert kinds([replace(each, width=s, height=s) for each, s in zip(usual, sizes, strict=True)]) == {}


def test_alone_a_picture_is_held_against_the_limits_only() -> None:
    assert kinds([seen(Image.new("RGB", (50, 50)))]) == {0: {"too dark", "low information", "blurred"}}
    assert oddities([]) == ()


@given(st.permutations(range(12)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_pictures_does_not_matter(usual: list[Look], order: list[int]) -> None:
    some = [*usual[:11], replace(usual[0], high=0.1, low=0.0)]
    shuffled = kinds([some[i] for i in order])
    assert {order[row]: names for row, names in shuffled.items()} == kinds(some)


def test_the_camera_is_read_from_exif_and_damaged_exif_is_none() -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "Acme ", "Eye  7"
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=exif)
    assert camera(file.getvalue()) == "Acme Eye 7"
    broken = file.getvalue().replace(b"II*\0", b"\xff\xff\xff\xff").replace(b"MM\0*", b"\xff\xff\xff\xff")
    assert camera(broken) == ""
    assert camera(b"Exif\0\0") == camera(b"") == ""


def test_what_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(PictureError):
        look(b"no picture", limits=DEFAULT_LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2), (500, 1)])
def test_tiny_pictures_are_measured_too(size: tuple[int, int]) -> None:
    assert seen(Image.new("RGB", size, (9, 9, 9))).width == size[0]
