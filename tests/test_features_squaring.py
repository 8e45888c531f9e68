"""The resize as arithmetic on tensors: Pillow's own pixels, byte for byte."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.features.preprocess import FITS, Preprocess
from graftage.features.squaring import KNOWN, Square


def recipe(fit: str, size: int = 224, *, crop: float = 0.875, interpolation: str = "bicubic") -> Preprocess:
    return Preprocess.from_json(
        {
            "fit": fit,
            "size": size,
            "crop_pct": crop,
            "interpolation": interpolation,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.2, 0.2, 0.2],
        }
    )


def squared(preprocess: Preprocess, pixels: np.ndarray, *, exact: bool = True) -> np.ndarray:
    return Square(preprocess, exact=exact)(torch.from_numpy(np.array(pixels))).permute(1, 2, 0).numpy()


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 5, (height, width, 3)), axis=1) + rng.uniform(0, 255, 3)
    return np.clip(walk, 0, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    fit=st.sampled_from(FITS),
    interpolation=st.sampled_from(KNOWN),
    size=st.sampled_from([32, 47, 64, 96]),
    crop=st.sampled_from([0.875, 0.882, 0.89, 0.95, 1.0]),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    seed=st.integers(0, 99),
)
def test_every_size_fit_and_filter_gives_pillows_bytes(
    fit: str, interpolation: str, size: int, crop: float, height: int, width: int, seed: int
) -> None:
    preprocess, pixels = recipe(fit, size, crop=crop, interpolation=interpolation), smooth(height, width, seed)
    np.testing.assert_array_equal(squared(preprocess, pixels), preprocess.square(pixels))
    near = squared(preprocess, pixels, exact=False)
    apart = near != preprocess.square(pixels)
    assert apart.mean() < 0.02
    assert np.abs(near - preprocess.square(pixels)).max() <= 2


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(2500, 400), (900, 2000), (1793, 1344), (448, 896), (224, 224), (1, 1), (1, 600)])
def test_large_small_long_and_tall_pictures_at_the_usual_size(fit: str, shape: tuple[int, int]) -> None:
    preprocess, pixels = recipe(fit), smooth(*shape, 3)
    np.testing.assert_array_equal(squared(preprocess, pixels), preprocess.square(pixels))


@pytest.mark.parametrize("fit", FITS)
def test_in_float32_a_photograph_is_off_by_one_here_and_there(
    fit: str, photograph: Callable[[str], np.ndarray]
) -> None:
    pixels = photograph("china.jpg")
    apart = np.abs(squared(recipe(fit), pixels, exact=False) - recipe(fit).square(pixels))
    assert apart.max() <= 1
    assert apart.mean() < 1e-3


def test_gray_pictures_are_pictures_of_three_equal_channels() -> None:
    gray = np.broadcast_to(smooth(90, 70, 1)[:, :, :1], (90, 70, 3))
    np.testing.assert_array_equal(squared(recipe("pad"), gray), recipe("pad").square(gray))


def test_nearest_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, lanczos, got 'nearest'"):
        Square(recipe("crop", interpolation="nearest"))
