import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graftage.features.preprocess import FITS, Fit, Preprocess

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Preprocess("squash", 4, 1.0, "nearest", HALF, HALF)


def numbered(height: int, width: int) -> np.ndarray:
    """Every pixel tells where it lies: red is its row, green its column."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, np.full_like(rows, 200)], -1).astype(np.uint8)  # (H, W, 3)


def test_crop_keeps_the_centre_square_in_its_shape() -> None:
    square = PLAIN.with_fit("crop").square(numbered(4, 8))
    np.testing.assert_array_equal(square, numbered(4, 8)[:, 2:6])


def test_crop_takes_its_share_of_the_short_side() -> None:
    square = replace(PLAIN, fit="crop", crop_pct=0.5).square(numbered(8, 12))
    np.testing.assert_array_equal(square, numbered(8, 12)[2:6, 4:8])


def test_squash_keeps_the_whole_picture_and_gives_up_its_shape() -> None:
    square = replace(PLAIN, size=2).square(numbered(2, 6))
    np.testing.assert_array_equal(square[:, :, 1], [[1, 4], [1, 4]])  # the middle of each half


@pytest.mark.parametrize("crop_pct", [0.5, 1.0])
def test_only_crop_looks_at_crop_pct(crop_pct: float) -> None:
    recipe, picture = replace(PLAIN, crop_pct=crop_pct), numbered(9, 13)
    np.testing.assert_array_equal(recipe.square(picture), PLAIN.square(picture))
    np.testing.assert_array_equal(recipe.with_fit("pad").square(picture), PLAIN.with_fit("pad").square(picture))


def test_pad_keeps_the_whole_picture_and_fills_with_the_mean_colour() -> None:
    square = replace(PLAIN, fit="pad", mean=(0.2, 0.4, 0.6)).square(numbered(2, 4))
    np.testing.assert_array_equal(square[1:3], numbered(2, 4))
    assert (square[[0, 3]] == (51, 102, 153)).all()


def test_pad_centres_an_upright_picture_too() -> None:
    square = replace(PLAIN, fit="pad").square(numbered(4, 2))
    np.testing.assert_array_equal(square[:, 1:3], numbered(4, 2))
    assert (square[:, [0, 3]] == 128).all()


def test_a_picture_that_fits_already_is_not_touched() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for fit in FITS:
        recipe = Preprocess(fit, 32, 1.0, "bicubic", *IMAGENET)
        np.testing.assert_array_equal(recipe.square(picture), picture)


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))[..., None].repeat(3, 2)  # (64, 64, 3)
    square = Preprocess("squash", 16, 1.0, "bicubic", *IMAGENET).square(stripes)
    assert abs(square[2:-2, 2:-2].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mean", [HALF, IMAGENET[0]])
@pytest.mark.parametrize("shape", [(50, 80), (900, 700), (3, 400)])
def test_a_gray_picture_is_resized_once_and_gives_the_same_bits(fit: Fit, mean: tuple, shape: tuple) -> None:
    gray = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    view = np.broadcast_to(gray[..., None], (*shape, 3))
    recipe = Preprocess(fit, 48, 0.875, "bicubic", mean, HALF)
    np.testing.assert_array_equal(recipe.square(view), recipe.square(np.ascontiguousarray(view)))


@settings(max_examples=60, deadline=None)
@given(
    fit=st.sampled_from(FITS),
    size=st.integers(1, 40),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop_pct=st.floats(0.05, 1),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    gray=st.booleans(),
)
def test_whatever_comes_in_a_square_comes_out(
    fit: Fit, size: int, shape: tuple, crop_pct: float, interpolation: str, gray: bool
) -> None:
    pixels = np.full((*shape, 3), 77, np.uint8)
    recipe = Preprocess(fit, size, crop_pct, interpolation, (77 / 255,) * 3, HALF)
    square = recipe.square(np.broadcast_to(pixels[..., :1], pixels.shape) if gray else pixels)
    assert (square.shape, square.dtype) == ((size, size, 3), np.uint8)
    assert (square == 77).all()  # an even picture stays even, its padding included


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (2, 10000)])
def test_extreme_shapes(fit: Fit, shape: tuple) -> None:
    pixels = np.broadcast_to(np.array([10, 20, 30], np.uint8), (*shape, 3))
    square = Preprocess(fit, 224, 0.875, "bicubic", (0, 0, 0), HALF).square(np.ascontiguousarray(pixels))
    assert square.shape == (224, 224, 3)
    assert (square == (10, 20, 30)).all(-1).any()


def test_a_turned_view_of_the_pixels_is_seen_as_it_is() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    recipe = Preprocess("crop", 16, 0.9, "bicubic", *IMAGENET)
    view = picture[::-1, ::-1]
    np.testing.assert_array_equal(recipe.square(view), recipe.square(view.copy()))


def test_scale_and_shift_is_the_usual_normalisation() -> None:
    scale, shift = Preprocess("crop", 4, 1.0, "nearest", *IMAGENET).scale_and_shift()
    values = np.arange(256)[:, None]
    wanted = (values / 255 - np.array(IMAGENET[0])) / np.array(IMAGENET[1])
    assert (scale.dtype, shift.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(values * scale + shift, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize(("enlarged", "apart"), [(1, 1e-3), (4, 1.0)])
def test_crop_is_timms_evaluation_transform(
    name: str, enlarged: int, apart: float, photograph: Callable[[str], np.ndarray]
) -> None:
    """Pixel for pixel where timm's resize (256 x 400 here) and offsets come out whole, as they do for this cut.

    Elsewhere timm rounds the crop to whole pixels, which moves it by up to half a pixel; and much larger pictures are
    shrunk by whole factors first.
    """
    from timm.data import create_transform

    mean, std = IMAGENET
    picture = Image.fromarray(photograph(name)[:400, :625]).resize((625 * enlarged, 400 * enlarged))
    theirs = create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=0.875, crop_mode="center", mean=mean, std=std
    )
    wanted = theirs(picture).numpy().transpose(1, 2, 0)  # (3, S, S) → (S, S, 3)
    recipe = Preprocess("crop", 224, 0.875, "bicubic", mean, std)
    scale, shift = recipe.scale_and_shift()
    pixels_apart = np.abs(recipe.square(np.asarray(picture)) * scale + shift - wanted) * np.array(std) * 255
    assert pixels_apart.mean() < apart


CHANGES = [
    {"fit": "crop"},
    {"size": 5},
    {"crop_pct": 0.9},
    {"interpolation": "bicubic"},
    {"mean": (0.5, 0.5, 0.500001)},
    {"std": (0.500001, 0.5, 0.5)},
]


def test_the_key_changes_with_every_field() -> None:
    keys = {PLAIN.key, *(replace(PLAIN, **change).key for change in CHANGES)}
    assert len(keys) == 1 + len(CHANGES)
    assert replace(PLAIN).key == PLAIN.key
    assert len(PLAIN.key) == 16


def test_the_decode_scale_does_not_depend_on_the_fit() -> None:
    recipe = Preprocess("crop", 224, 0.875, "bicubic", *IMAGENET)
    assert {recipe.with_fit(fit).cover for fit in FITS} == {256}


@pytest.mark.parametrize("change", [{}, *CHANGES])
def test_json_round_trip(change: dict) -> None:
    recipe = replace(PLAIN, **change)
    again = Preprocess.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.key == recipe.key


HOSTILE = [
    ("fit", "stretch"),
    ("fit", None),
    ("fit", ["crop"]),
    ("size", 0),
    ("size", -1),
    ("size", 5000),
    ("size", 10**400),
    ("size", 224.0),
    ("size", True),
    ("size", "224"),
    ("crop_pct", 0),
    ("crop_pct", 5e-324),
    ("crop_pct", 1.01),
    ("crop_pct", float("nan")),
    ("crop_pct", 10**400),
    ("crop_pct", None),
    ("interpolation", "box"),
    ("interpolation", {}),
    ("mean", [0.5, 0.5]),
    ("mean", [0.5, 0.5, "0.5"]),
    ("mean", [0.5, 0.5, float("inf")]),
    ("mean", [0.5, 0.5, -(10**400)]),
    ("mean", "abc"),
    ("std", [0.5, 0.5, 0]),
    ("std", [0.5, 0.5, -0.5]),
    ("std", [0.5, 0.5, float("nan")]),
    ("std", {"0": 1}),
]


@pytest.mark.parametrize(("field", "value"), HOSTILE)
def test_hostile_values_are_refused(field: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Preprocess.from_json({**PLAIN.to_json(), field: value})


def test_missing_and_unknown_keys_are_refused() -> None:
    values = PLAIN.to_json()
    with pytest.raises(ValueError, match="exactly the keys fit, size"):
        Preprocess.from_json({**values, "code": "import os"})
    values.pop("std")
    with pytest.raises(ValueError, match="exactly the keys fit, size"):
        Preprocess.from_json(values)
