"""Training pictures in small: what is kept of them, and whether the nearest are found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.errors import BundleError
from graftage.serve.bundle import load, save
from graftage.serve.neighbours import LIMIT, WIDTH, Neighbours, balanced, folded, remember
from test_serve_bundle import bundle


def cloud(n: int, width: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, width))).astype(np.float32)


def kept(n: int = 6, width: int = 4) -> Neighbours:
    return remember(cloud(n, width, width), np.arange(n) % 3, [f"a/{i}-鸟\udcff.jpg" for i in range(n)])


def test_where_the_projection_loses_nothing_the_cosines_are_the_true_ones() -> None:
    *rows, x = cloud(201, 300, 40)
    X = np.array(rows)
    found = remember(X, np.zeros(200, np.int64), [str(i) for i in range(200)]).nearest(x, 200)
    true = X @ x / (np.linalg.norm(X, axis=1) * np.linalg.norm(x))
    for near in found:
        assert near.similarity == pytest.approx(true[int(near.id)], abs=0.01)  # int8 and float16
    assert [int(n.id) for n in found[:1]] == [int(true.argmax())]
    assert np.all(np.diff([n.similarity for n in found]) <= 0)


def test_wide_features_are_folded_and_keep_their_neighbours() -> None:
    X = cloud(50, 10_000, 10)
    assert folded(X).shape == (50, 4096)
    assert folded(X[:, :100]) is not None
    unit, small = (A / np.linalg.norm(A, axis=1, keepdims=True) for A in (X, folded(X)))
    assert np.abs(unit @ unit.T - small @ small.T).max() < 0.15
    known = remember(X, np.zeros(50, np.int64), [str(i) for i in range(50)])
    assert known.basis.shape == (4096, WIDTH)
    assert [known.nearest(x, 1)[0].id for x in X] == [str(i) for i in range(50)]


def test_the_size_is_below_a_megabyte_for_3000_pictures() -> None:
    known = remember(
        cloud(LIMIT, 1280, 80), np.zeros(LIMIT, np.int64), [f"class name/picture-{i:05}.jpg" for i in range(LIMIT)]
    )
    assert sum(tensor.nbytes for tensor in known.to_tensors().values()) < 2**20


def test_the_same_pictures_give_the_same_bytes() -> None:
    first, again = kept(40, 30).to_tensors(), kept(40, 30).to_tensors()
    assert {name: t.tobytes() for name, t in first.items()} == {name: t.tobytes() for name, t in again.items()}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(5, 60))
@settings(max_examples=60, deadline=None)
def test_a_subset_is_as_balanced_as_the_sizes_allow(labels: list[int], limit: int) -> None:
    y = np.array(labels)
    rows = balanced(y, limit, np.random.default_rng(0))
    assert len(rows) == min(limit, len(y)) == len(set(rows.tolist()))
    counts, taken = np.bincount(y, minlength=5), np.bincount(y[rows], minlength=5)
    most = taken.max()
    assert all(t == c or t >= most - 1 for c, t in zip(counts, taken, strict=True))


def test_what_is_not_to_be_shown_is_passed_over() -> None:
    known, x = kept(), cloud(6, 4, 4)[2]
    assert known.nearest(x, 1)[0].id == known.names[2]
    assert known.names[2] not in {n.id for n in known.nearest(x, 9, without=frozenset([known.names[2]]))}
    assert len(known.nearest(x, 9)) == 6


def test_a_model_file_keeps_them_to_the_bit_or_does_without(tmp_path: Path) -> None:
    save(bundle(neighbours=kept()), tmp_path / "m")
    found = load(tmp_path / "m").neighbours
    assert found is not None
    assert found.names == kept().names
    for name, tensor in kept().to_tensors().items():
        np.testing.assert_array_equal(found.to_tensors()[name], tensor)
    save(bundle(), tmp_path / "n")
    assert load(tmp_path / "n").neighbours is None


def test_a_file_of_format_2_loads_without_them() -> None:
    old = load(Path(__file__).parent / "files" / "format-2.safetensors")
    assert old.classes == ("cat", "dog", "鸟")
    assert old.backbone.output == "flat"
    assert old.neighbours is None


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0, 1, 2, 0, 1, 3], np.int32)},
        {"labels": np.array([0, 1], np.int32)},
        {"names": ("a", "b")},
        {"basis": np.zeros((5, 4), np.float16)},
        {"basis": np.full((4, 4), np.inf, np.float16)},
        {"rows": np.zeros((6, 3), np.int8)},
    ],
)
def test_parts_that_do_not_fit_are_never_saved(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="training pictures in small"):
        save(bundle(neighbours=replace(kept(), **changes)), tmp_path / "m")
