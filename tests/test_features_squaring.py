"""The resize as arithmetic on tensors: Pillow's own pixels, byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.features.preprocess import FITS, Preprocess
from graftage.features.squaring import KNOWN, Square
from graftage.serve.targets import open_openvino, write_openvino
from graftage.serve.wholegraph import quiet


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
    in_pairs = squared(preprocess, pixels, exact=False)
    if interpolation != "lanczos":
        np.testing.assert_array_equal(in_pairs, preprocess.square(pixels))
    assert np.abs(in_pairs - preprocess.square(pixels)).max() <= 1


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(2500, 400), (900, 2000), (1793, 1344), (448, 896), (224, 224), (1, 1), (1, 600)])
def test_large_small_long_and_tall_pictures_at_the_usual_size(fit: str, shape: tuple[int, int]) -> None:
    preprocess, pixels = recipe(fit), smooth(*shape, 3)
    np.testing.assert_array_equal(squared(preprocess, pixels), preprocess.square(pixels))
    np.testing.assert_array_equal(squared(preprocess, pixels, exact=False), preprocess.square(pixels))


def test_padding_follows_float64_where_a_length_ends_in_a_half() -> None:
    """Of 45 x 320 pixels at 224 the short side becomes 45 · 0.7 = 31.5, of which float64 makes a hair less."""
    pixels = smooth(45, 320, 5)
    assert 45 * (224 / 320) < 31.5
    for exact in (True, False):
        np.testing.assert_array_equal(squared(recipe("pad"), pixels, exact=exact), recipe("pad").square(pixels))


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_openvino_which_has_no_float64_gives_pillows_bytes(
    fit: str, photograph: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    free = {0: torch.export.Dim("height", min=2, max=65_535), 1: torch.export.Dim("width", min=2, max=65_535)}
    with quiet():
        module, example = Square(recipe(fit), exact=False), torch.zeros(67, 53, 3, dtype=torch.uint8)
        write_openvino(torch.export.export(module, (example,), dynamic_shapes=(free,)), tmp_path / "square.xml")
    run = open_openvino(tmp_path / "square.xml")
    shapes = [(450, 600), (337, 1000), (900, 2000), (45, 320), (2500, 400), (50, 60), (224, 224)]
    for pixels in (photograph("flower.jpg"), *(smooth(*shape, 7) for shape in shapes)):
        found = run(np.ascontiguousarray(pixels)).probabilities.transpose(1, 2, 0)  # the first output, whatever it is
        np.testing.assert_array_equal(found, recipe(fit).square(pixels))


def test_gray_pictures_are_pictures_of_three_equal_channels() -> None:
    gray = np.broadcast_to(smooth(90, 70, 1)[:, :, :1], (90, 70, 3))
    np.testing.assert_array_equal(squared(recipe("pad"), gray), recipe("pad").square(gray))


def test_nearest_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, lanczos, got 'nearest'"):
        Square(recipe("crop", interpolation="nearest"))
