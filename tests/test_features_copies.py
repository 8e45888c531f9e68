"""Copies are searched for once: the same pictures have the same copies."""

from pathlib import Path

import numpy as np
import pytest

from graftage.data.twins import Twins, find_twins
from graftage.features import copies


@pytest.fixture
def asked() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (40, 64, 64)).astype(np.uint8)
    thumbnails[7], thumbnails[9] = thumbnails[3], thumbnails[4][:, ::-1]
    X = rng.normal(size=(40, 8)).astype(np.float32)
    y = np.arange(40) % 2
    return {"thumbnails": thumbnails, "exact": np.arange(40), "X": X, "y": y, "colours": np.zeros((40, 3), np.uint8)}


def same(a: Twins, b: Twins) -> bool:
    plain = (a.pairs, a.level, a.tau, a.tried) == (b.pairs, b.level, b.tau, b.tried)
    return plain and np.array_equal(a.groups, b.groups) and np.array_equal(a.alike, b.alike)


def test_what_was_found_is_found_again_without_searching(
    asked: dict[str, np.ndarray], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = copies.known_twins(**asked)
    assert {(p.one, p.other) for p in found.pairs} == {(3, 7), (4, 9)}
    assert same(found, find_twins(**asked))
    monkeypatch.setattr(copies, "find_twins", None)  # whoever searched now would fail
    assert same(copies.known_twins(**asked), found)


def test_other_pictures_are_searched_anew(asked: dict[str, np.ndarray], fresh_cache: Path) -> None:
    first = copies.known_twins(**asked)
    again = copies.known_twins(**asked)
    assert same(first, again)
    changed = asked["thumbnails"].copy()
    changed[7] = changed[8]
    other = copies.known_twins(**{**asked, "thumbnails": changed})
    assert {(p.one, p.other) for p in other.pairs} == {(7, 8), (4, 9)}
    assert len(list((fresh_cache / "copies").iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_a_damaged_file_is_searched_anew(asked: dict[str, np.ndarray], fresh_cache: Path, content: bytes) -> None:
    first = copies.known_twins(**asked)
    (file,) = (fresh_cache / "copies").iterdir()
    file.write_bytes(content)
    assert same(copies.known_twins(**asked), first)
    assert same(copies._read(file.read_bytes(), 40), first)
