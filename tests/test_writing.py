import json
import math
from pathlib import Path

import pytest

from graftage.errors import OptionError, StoreError
from graftage.writing import finite, free_folder, page_file, write_bytes, write_json, write_page, write_text


def test_a_page_and_the_record_beside_it_appear_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_page("<p>é</p>\n", tmp_path / "new" / "curve.html", record={"score": 0.5, "name": "é"})
    assert (tmp_path / "new" / "curve.html").read_bytes() == "<p>é</p>\n".encode()
    assert json.loads((tmp_path / "new" / "curve.json").read_bytes()) == {"score": 0.5, "name": "é"}
    assert len(list((tmp_path / "new").iterdir())) == 2  # no temporary file


def test_a_page_without_a_record_stands_alone(tmp_path: Path) -> None:
    write_page("words", tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_number_that_json_cannot_say_is_a_fault_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_page("words", tmp_path / "page.html", record={"score": math.nan})
    with pytest.raises(ValueError, match="JSON"):
        write_json({"score": math.inf}, tmp_path / "score.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "said"), [(0.25, 0.25), (math.nan, None), (-math.inf, None)])
def test_a_number_that_json_cannot_say_is_none(value: float, said: float | None) -> None:
    assert finite(value) == said


def test_what_was_there_stays_where_the_new_file_cannot_be_put(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):  # noqa: PT011 - a folder that is not empty: systems name it differently
        write_bytes(b"new", tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"page\.html: cannot be written \(.+\); take another -o"):
        write_page("words", tmp_path / "file" / "page.html")


def test_names_that_utf8_cannot_hold_are_written_escaped_or_as_they_were(tmp_path: Path) -> None:
    write_text("a\udcff", tmp_path / "shown")
    write_text("a\udcff", tmp_path / "kept", errors="surrogateescape")
    assert (tmp_path / "shown").read_bytes() == b"a\\udcff"
    assert (tmp_path / "kept").read_bytes() == b"a\xff"


@pytest.mark.parametrize(
    ("output", "why"),
    [("photos/page.html", "among the pictures"), (".", "is a folder"), ("page.json", "no name for a page")],
)
def test_no_page_where_it_would_join_or_replace_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, why: str
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=why):
        page_file(output, "photos", usual="rank.html")


def test_a_page_that_stands_alone_may_have_any_name(tmp_path: Path) -> None:
    assert page_file(tmp_path / "page", tmp_path / "photos", usual="a.html", beside=False) == tmp_path / "page"


def test_the_next_free_name_is_numbered_from_two(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "runs", "birds") == tmp_path / "runs" / "birds"
    for name in ("birds", "birds-2", "bees"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert free_folder(tmp_path / "runs", "birds") == tmp_path / "runs" / "birds-3"
