import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.data.decode import Limits
from graftage.data.sources import labelled, natural_key, read, unlabelled
from graftage.errors import DataError, PictureError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
    return root


def reason(path: Path, **options: Limits) -> str:
    with pytest.raises(PictureError) as caught:
        read(path, **options)
    return caught.value.reason


# Order


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["img10", "img9", "IMG1", "img", "img02", "2", "10", "1"]
    assert sorted(names, key=natural_key) == ["1", "2", "10", "img", "IMG1", "img02", "img9", "img10"]


@settings(max_examples=100, deadline=None)
@given(names=st.lists(st.text(), unique=True))
def test_the_natural_order_does_not_depend_on_the_order_of_listing(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


@settings(max_examples=50, deadline=None)
@given(numbers=st.lists(st.integers(0, 10**30)))
def test_the_natural_order_of_numbers_is_their_order(numbers: list[int]) -> None:
    assert sorted(map(str, numbers), key=natural_key) == [str(number) for number in sorted(numbers)]


def test_a_number_of_five_thousand_digits_is_no_trouble() -> None:
    assert natural_key("9" * 5000) < natural_key("1" + "0" * 5000)


# Class folders


def test_class_folders_become_classes_in_natural_order(tmp_path: Path) -> None:
    sources = labelled(fill(tmp_path, "10/a.jpg", "9/b2.jpg", "9/b10.jpg", "9/deep/er/c.jpg"))
    assert (sources.layout, sources.classes, sources.root) == ("classes", ("9", "10"), tmp_path)
    assert [(row.id, row.label) for row in sources.rows] == [
        ("9/b2.jpg", "9"),
        ("9/b10.jpg", "9"),
        ("9/deep/er/c.jpg", "9"),
        ("10/a.jpg", "10"),
    ]
    assert all(row.split == row.reason == "" for row in sources.rows)
    assert sources.rows[0].path == tmp_path / "9/b2.jpg"


def test_what_systems_leave_behind_is_ignored(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/.hidden/2.jpg", ".git/config")
    fill(tmp_path, "__MACOSX/a/._1.jpg", "a/.ipynb_checkpoints/1.jpg", ".ipynb_checkpoints/x", "b/.DS_Store")
    sources = labelled(tmp_path)
    assert [row.id for row in sources.rows] == ["a/1.jpg"]
    assert (sources.classes, sources.empty_classes) == (("a",), ("b",))


def test_every_other_file_is_a_row_even_if_it_is_no_picture(tmp_path: Path) -> None:
    sources = labelled(fill(tmp_path, "a/1.jpg", "a/notes.txt", "readme.md"))
    assert [(row.id, row.label, row.reason) for row in sources.rows] == [
        ("a/1.jpg", "a", ""),
        ("a/notes.txt", "a", ""),
        ("readme.md", "", "not in a class folder"),
    ]


def test_an_empty_class_folder_is_reported_and_no_class(tmp_path: Path) -> None:
    sources = labelled(fill(tmp_path, "a/1.jpg", "b/", "c/only/folders/"))
    assert (sources.classes, sources.empty_classes) == (("a",), ("b", "c"))


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / "猫").mkdir()
    raw = os.fsencode(tmp_path) + "/猫/".encode() + b"\xff\n.jpg"
    try:
        Path(os.fsdecode(raw)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (row,) = labelled(tmp_path).rows
    assert (row.id, row.label) == ("猫/\udcff\n.jpg", "猫")
    assert read(row.path) == b"x"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    fill(tmp_path, "photos/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "photos/a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/a/up").symlink_to(tmp_path / "photos/a")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "photos/a")
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    ids = [row.id for row in labelled(tmp_path / "photos").rows]
    assert ids == ["a/1.jpg", "a/linked/2.jpg", "b/2.jpg", "b/loop/1.jpg"]


# Train, validation and test folders


def test_split_folders_are_honoured_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, "Train/b/1.jpg", "Train/a/2.jpg", "VALID/a/3.jpg", "test/b/4.jpg")
    sources = labelled(tmp_path)
    assert (sources.layout, sources.classes) == ("splits", ("a", "b"))
    assert [(row.id, row.label, row.split) for row in sources.rows] == [
        ("Train/a/2.jpg", "a", "train"),
        ("Train/b/1.jpg", "b", "train"),
        ("VALID/a/3.jpg", "a", "val"),
        ("test/b/4.jpg", "b", "test"),
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_validation_has_three_names(tmp_path: Path, name: str) -> None:
    assert labelled(fill(tmp_path, "train/a/1.jpg", f"{name}/a/2.jpg")).rows[1].split == "val"


def test_classes_are_decided_by_train(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/c/", "test/a/2.jpg", "test/b/3.jpg", "test/c/4.jpg")
    sources = labelled(tmp_path)
    assert (sources.classes, sources.empty_classes) == (("a",), ("c",))
    unknown = "class not in train"
    assert [(row.id, row.reason) for row in sources.rows[1:]] == [
        ("test/a/2.jpg", ""),
        ("test/b/3.jpg", unknown),
        ("test/c/4.jpg", unknown),
    ]


def test_files_beside_the_split_folders_are_said_to_have_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.jpg", "train/loose.jpg", "extra/a/2.jpg", "top.jpg")
    reasons = {row.id: (row.split, row.reason) for row in labelled(tmp_path).rows}
    why = "not in a class folder"
    assert reasons == {
        "train/a/1.jpg": ("train", ""),
        "train/loose.jpg": ("train", why),
        "extra/a/2.jpg": ("", why),
        "top.jpg": ("", why),
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    sources = labelled(fill(tmp_path, "train/1.jpg", "bus/2.jpg"))
    assert (sources.layout, sources.classes) == ("classes", ("bus", "train"))


# What is no folder of labelled pictures


def test_a_missing_root_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: give the folder"):
        labelled(tmp_path / "nowhere")


def test_a_file_is_no_root(tmp_path: Path) -> None:
    fill(tmp_path, "photos.zip")
    with pytest.raises(DataError, match=r"photos\.zip is no folder: .*unpack"):
        labelled(tmp_path / "photos.zip")


def test_no_class_folders_says_what_was_found_and_what_is_expected(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", "empty/")
    with pytest.raises(DataError, match=r"found 2 files outside class folders and 1 empty folders(.|\n)*train/cat/1"):
        labelled(tmp_path)


def test_an_unreadable_folder_stops_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1.jpg", "locked/2.jpg")
    listed = Path.iterdir

    def refuse(folder: Path) -> object:  # permission bits do not bind root, who may run the tests
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot list the folder .*locked: Permission denied"):
        labelled(tmp_path)


# Unlabelled inputs


def test_every_input_gives_at_least_one_row_in_the_order_given(tmp_path: Path) -> None:
    fill(tmp_path, "b/10.jpg", "b/9.jpg", "a.jpg", ".hidden.jpg", "empty/")
    names = ["b", "missing.jpg", "empty", ".hidden.jpg", "a.jpg", "a.jpg"]
    rows = unlabelled([tmp_path / name for name in names])
    assert [row.path.relative_to(tmp_path).as_posix() for row in rows] == [
        *("b/9.jpg", "b/10.jpg", "missing.jpg", "empty", ".hidden.jpg", "a.jpg", "a.jpg")
    ]
    assert [row.id for row in rows] == [row.path.as_posix() for row in rows]


# Reading


def test_reading_gives_the_bytes(tmp_path: Path) -> None:
    assert read(fill(tmp_path, "a.jpg") / "a.jpg") == b"a.jpg"


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert reason(tmp_path / "gone") == "missing"
    assert reason(tmp_path / "dangling") == "broken link"
    assert reason(tmp_path / "circle") == "broken link"
    assert reason(tmp_path) == "not a file"
    assert reason(tmp_path / ("x" * 5000)) == "unreadable"
    assert reason(tmp_path / "null\0") == "unreadable"


def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert reason(tmp_path / "pipe") == reason(tmp_path / "socket") == "not a file"


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fill(tmp_path, "12345") / "12345"
    assert read(path, limits=Limits(max_bytes=5)) == b"12345"
    monkeypatch.setattr(Path, "open", None)
    assert reason(path, limits=Limits(max_bytes=4)) == "too many bytes"


@pytest.mark.parametrize(
    ("error", "expected"), [(PermissionError(13, "denied"), "permission denied"), (OSError(5, "I/O"), "unreadable")]
)
def test_what_the_system_refuses_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    path = fill(tmp_path, "a.jpg") / "a.jpg"
    monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == expected
