"""What a picture was when it was answered for: a change is seen, a touch is none."""

import os
import shutil
from pathlib import Path

import pytest

from graftage.data.decode import DEFAULT_LIMITS
from graftage.data.inputs import Input
from graftage.data.traces import SIZE, UNKNOWN, has_changed, take


def traced(path: Path) -> bytes:
    found = take(path, None, "", limits=DEFAULT_LIMITS, traced=True).trace
    assert len(found) == SIZE
    return found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"first")
    return path


def test_a_file_that_was_left_alone_is_not_read_again(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = traced(picture)
    monkeypatch.setattr("graftage.data.traces.read", None)
    assert not has_changed(Input("a", picture), held)


def test_a_file_that_was_touched_or_copied_back_is_the_same(picture: Path) -> None:
    held = traced(picture)
    os.utime(picture, (1, 1))
    assert not has_changed(Input("a", picture), held)
    shutil.copy(picture, picture.with_name("b.jpg"))
    assert not has_changed(Input("a", picture.with_name("b.jpg")), held)


def test_another_content_of_equal_size_and_time_is_seen(picture: Path) -> None:
    held, times = traced(picture), picture.stat()
    picture.write_bytes(b"secon")
    os.utime(picture, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert picture.stat().st_mtime_ns == times.st_mtime_ns
    assert has_changed(Input("a", picture), held)


def test_a_file_that_was_not_there_and_is_now_has_changed_and_not_the_other_way_round(picture: Path) -> None:
    held = traced(picture)
    picture.unlink()
    assert not has_changed(Input("a", picture), held)
    missing = traced(picture)
    assert not has_changed(Input("a", picture), missing)
    picture.write_bytes(b"first")
    assert has_changed(Input("a", picture), missing)


def test_bytes_of_shards_and_reasons_are_compared_themselves() -> None:
    held = take(Path("s/m"), b"member", "", limits=DEFAULT_LIMITS, traced=True).trace
    assert not has_changed(Input("s/m", data=b"member"), held)
    assert has_changed(Input("s/m", data=b"other"), held)
    assert has_changed(Input("s/m", reason="a link"), held)
    link = take(Path("s/m"), None, "a link", limits=DEFAULT_LIMITS, traced=True).trace
    assert not has_changed(Input("s/m", reason="a link"), link)
    assert has_changed(Input("s/m", data=b"member"), link)
    assert has_changed(Input("s/m", data=b"a link"), link)


def test_of_what_is_not_known_nothing_is_said(picture: Path) -> None:
    assert take(picture, None, "", limits=DEFAULT_LIMITS, traced=False).trace == UNKNOWN
    assert not has_changed(Input("a", picture), UNKNOWN)
