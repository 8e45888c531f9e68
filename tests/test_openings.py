"""A locked test set is opened once, and each further look at it is counted and told."""

from pathlib import Path

import pytest

import photos
from graftage import openings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos.three_classes(tmp_path / "photos", 12)


def test_looks_are_counted_for_each_set_of_pictures(fresh_cache: Path) -> None:
    assert [openings.opened(["a", "b"]) for _ in range(3)] == [1, 2, 3]
    assert openings.opened(["b", "a"]) == 4  # the order does not matter
    assert openings.opened(["a"]) == 1


def test_a_damaged_count_begins_anew(fresh_cache: Path) -> None:
    openings.opened(["a"])
    (file,) = (fresh_cache / "openings").iterdir()
    file.write_text("many")
    assert openings.opened(["a"]) == 1


def test_many_looks_are_warned_of() -> None:
    assert openings.told(0) == ""
    assert "first time" in openings.told(1)
    assert "flattered" not in openings.told(openings.MANY - 1)
    assert "flattered" in openings.told(openings.MANY)


def test_a_run_says_how_often_its_test_set_has_been_opened(folder: Path, tmp_path: Path, cold: Path) -> None:
    options = ("--recipe", "linear", "--test", "0.3")
    for number in range(openings.MANY):
        said = photos.graftage("train", folder, "-o", tmp_path / f"run{number}", *options)
        assert said.status == 0, said.err
        assert ("opened" in said.out) is (number > 0)
    assert f"(test set, opened {openings.MANY} times)" in said.out
    assert "its number is flattered" in said.out
    assert "have now been opened 2 times" in (tmp_path / "run1" / "report.html").read_text(encoding="utf-8")
    first, last = ((tmp_path / f"run{i}" / "model.safetensors").read_bytes() for i in (0, openings.MANY - 1))
    assert first == last  # the count is told, and is no part of the model


def test_cross_validation_opens_no_test_set(folder: Path, tmp_path: Path, cold: Path) -> None:
    said = photos.graftage("train", folder, "-o", tmp_path / "run", "--recipe", "linear")
    assert said.status == 0, said.err
    assert not (cold / "openings").exists()
