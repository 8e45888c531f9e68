import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graftage.data.catalog import Catalog, Entry
from graftage.data.checks import Problem, problems, write_problems


def entry(name: str, label: int, *, digest: str = "", split: str = "") -> Entry:
    return Entry(0, name, Path(name), "used", "", label, split, -1, 8, 8, digest or name)


def catalog(*entries: Entry, classes: tuple[str, ...] = ("cat", "dog"), empty: tuple[str, ...] = ()) -> Catalog:
    numbered = tuple(replace(entry, index=index) for index, entry in enumerate(entries))
    return Catalog("photos", classes, numbered, empty)


def many(name: str, label: int, count: int, split: str = "") -> list[Entry]:
    return [entry(f"{name}/{number}", label, split=split) for number in range(count)]


def found(data: Catalog, groups: list[int] | None = None) -> tuple[Problem, ...]:
    return problems(data, np.array(groups if groups is not None else range(len(data.entries)), dtype=np.int64))


def test_sound_data_has_no_problems() -> None:
    assert found(catalog(*many("cat", 0, 10), *many("dog", 1, 100))) == ()


def test_the_same_file_under_two_labels_is_an_error() -> None:
    data = catalog(*many("cat", 0, 10), *many("dog", 1, 10), entry("x", 0, digest="same"), entry("y", 1, digest="same"))
    assert found(data) == (Problem("conflicting labels", "error", "x", "labelled 'cat', 'dog'; same file as y"),)


def test_the_same_file_twice_under_one_label_is_a_note() -> None:
    copies = [entry(f"copy{number}", 0, digest="same") for number in range(8)]
    (problem,) = found(catalog(*many("cat", 0, 10), *many("dog", 1, 10), *copies))
    assert (problem.kind, problem.severity, problem.id) == ("duplicates", "note", "copy0")
    assert problem.detail == "same file as copy1, copy2, copy3, copy4, copy5 and 2 more"


def test_files_that_could_not_be_read_are_nobodys_duplicates() -> None:
    unread = [replace(entry(name, 0), digest="") for name in "xy"]
    assert found(catalog(*many("cat", 0, 10), *many("dog", 1, 10), *unread)) == ()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_group_in_train_and_in_a_held_out_folder_is_an_error(split: str) -> None:
    data = catalog(
        *many("cat", 0, 10, "train"),
        *many("dog", 1, 10, "train"),
        entry("leak", 1, split=split),
        entry("alone", 1, split=split),
    )
    groups = [*range(20), 13, 20]
    detail = "the same picture or group as dog/3 in train"
    assert found(data, groups) == (Problem("train and test share", "error", "leak", detail),)
    assert found(data, [*range(19), -1, -1, -1]) == ()  # -1: in no group


def test_rejected_and_repaired_pictures_are_listed_with_their_reason() -> None:
    bad = replace(entry("bad", 0), status="rejected", reason="truncated")
    mended = replace(entry("mended", 0), status="repaired", reason="truncated")
    assert found(catalog(*many("cat", 0, 10), *many("dog", 1, 10), bad, mended)) == (
        Problem("rejected", "warning", "bad", "truncated"),
        Problem("repaired", "warning", "mended", "truncated"),
    )


def test_few_pictures_and_imbalance_count_usable_training_pictures() -> None:
    rejected = replace(entry("bad", 0), status="rejected", reason="corrupt")
    held_out = entry("held out", 0, split="test")
    kinds = [
        (item.kind, item.id, item.detail)
        for item in found(catalog(*many("cat", 0, 9), rejected, held_out, *many("dog", 1, 91)))
    ]
    assert kinds == [
        ("rejected", "bad", "corrupt"),
        ("few pictures", "cat", "9 usable for training, fewer than 10"),
        ("imbalance", "cat", "9 pictures against 91 of 'dog'"),
    ]


def test_ten_to_one_is_still_balanced() -> None:
    assert found(catalog(*many("cat", 0, 10), *many("dog", 1, 100))) == ()
    assert [item.kind for item in found(catalog(*many("cat", 0, 10), *many("dog", 1, 101)))] == ["imbalance"]


def test_the_worst_comes_first() -> None:
    data = catalog(
        *many("cat", 0, 9),
        *many("dog", 1, 10),
        entry("x", 1, digest="d"),
        entry("y", 1, digest="d"),
        entry("p", 0, digest="c"),
        entry("q", 1, digest="c"),
        replace(entry("bad", 0), status="rejected", reason="empty file"),
        empty=("bird",),
    )
    severities = [item.severity for item in found(data)]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert [item.kind for item in found(data)] == ["conflicting labels", "rejected", "duplicates", "empty class"]


def test_problems_are_written_as_csv(tmp_path: Path) -> None:
    write_problems([Problem("rejected", "warning", "猫\n.jpg", 'says "no"')], tmp_path / "problems.csv")
    with (tmp_path / "problems.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["severity", "kind", "id", "detail"], ["warning", "rejected", "猫\n.jpg", 'says "no"']]
