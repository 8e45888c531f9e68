"""Kept activations and pictures that are read again and again: once each, from the right files, after a kill too."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftage.data.decode import Limits
from graftage.errors import DataError
from graftage.features import views
from graftage.features.inputs import PictureInputs, ViewInputs
from graftage.features.preprocess import Preprocess
from graftage.features.views import Pictures, keep_views

PREPROCESS = Preprocess("squash", 8, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
N, VIEWS = 6, 3


class Mean:
    """A frozen part: the mean of each channel, and how often it ran."""

    key, features, batch = "mean", 3, 1

    def __init__(self, scale: float = 1.0) -> None:
        self.runs, self.scale = 0, scale

    def __call__(self, squares: np.ndarray) -> np.ndarray:
        self.runs += len(squares)
        return self.scale * squares.mean((1, 2)).astype(np.float32)


def brighter(pixels: np.ndarray, row: int, number: int) -> np.ndarray:
    return np.full((8, 8, 3), min(255, int(pixels[0, 0, 0]) + 10 * number), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    paths = tuple(tmp_path / f"{i}.png" for i in range(N))
    for i, path in enumerate(paths):
        Image.new("RGB", (10, 10), (20 * i, 0, 0)).save(path)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    return Pictures(paths, digests, PREPROCESS, Limits())


def kept(pictures: Pictures, forward: Mean, **options: object) -> np.ndarray:
    own = {"forward": forward, "views": VIEWS, "key": "brighter", **options}
    return np.array(keep_views(pictures, brighter, **own).rows)


def test_every_view_is_computed_once_and_the_plain_one_first(pictures: Pictures) -> None:
    forward = Mean()
    rows = kept(pictures, forward)
    np.testing.assert_array_equal(rows[:, :, 0], [[20 * i + 10 * v for v in range(VIEWS + 1)] for i in range(N)])
    assert rows.dtype == np.float16
    again = Mean()
    np.testing.assert_array_equal(kept(pictures, again), rows)
    assert again.runs == 1  # only the look at how large the numbers are


def test_large_activations_are_kept_in_float32(pictures: Pictures) -> None:
    assert kept(Pictures(pictures.paths[1:], pictures.digests[1:], PREPROCESS, Limits()), Mean(1e4)).dtype == np.float32
    assert kept(pictures, Mean(), exact=True).dtype == np.float32


def test_two_processes_share_the_rows_and_a_kill_costs_only_what_was_under_way(pictures: Pictures) -> None:
    forward = Mean()
    kept(pictures, forward, share=(0, 2))
    assert forward.runs == 1 + 3 * (VIEWS + 1)
    rest = Mean()
    rows = kept(pictures, rest)
    assert rest.runs == 1 + 3 * (VIEWS + 1)
    assert (rows[:, 0, 0] == 20 * np.arange(N)).all()


def test_a_file_that_changed_or_went_is_named_and_how_to_go_on(pictures: Pictures) -> None:
    Image.new("RGB", (10, 10)).save(pictures.paths[2])
    with pytest.raises(DataError, match=r"2\.png: changed while running.* bring the file back and go on with --resume"):
        pictures.pixels(2)
    pictures.paths[3].unlink()
    with pytest.raises(DataError, match=r"3\.png: .*--resume"):
        pictures.pixels(3)


def test_the_oldest_activations_make_room(pictures: Pictures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(pictures, Mean())
    monkeypatch.setattr(views, "KEPT_BYTES", 1)
    kept(pictures, Mean(), key="another")
    assert len(list((tmp_path / "cache" / "activations").iterdir())) == 1


def test_an_epoch_shows_each_picture_one_view_and_the_same_one_again(pictures: Pictures) -> None:
    rows = keep_views(pictures, brighter, forward=Mean(), views=VIEWS, key="brighter")
    inputs = ViewInputs(rows, (3,), seed=1)
    first, second = (inputs.training(np.arange(N), epoch)[:, 0].numpy() for epoch in (0, 1))
    drawn = (first - 20 * np.arange(N)) / 10
    assert set(drawn) <= set(range(VIEWS + 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(ViewInputs(rows, (3,), seed=1).training(np.array([4, 2]), 0)[:, 0], first[[4, 2]])
    np.testing.assert_array_equal(inputs.plain(np.array([5]))[:, 0], [100])


def test_fresh_views_depend_on_the_epoch_alone(pictures: Pictures) -> None:
    inputs = PictureInputs(pictures, brighter)
    try:
        inputs.expect(np.array([1, 2]), 3)
        squares = inputs.training(np.array([2, 1]), 3)
        assert squares[:, 0, 0, 0].tolist() == [40 + 40, 20 + 40]
        assert inputs.plain(np.array([1]))[0, 0, 0].tolist() == [20, 0, 0]
    finally:
        inputs.close()
