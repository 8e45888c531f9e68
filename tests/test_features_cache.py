import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from graftage.errors import StoreError
from graftage.features.cache import appearing, cache_root, ready, require_space, write_whole


@dataclass
class Usage:
    free: int


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_cache_goes_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path


@pytest.mark.parametrize(
    ("platform", "place"),
    [("linux", ".cache/graftage"), ("darwin", "Library/Caches/graftage"), ("win32", "AppData/Local/graftage/cache")],
)
def test_else_where_the_platform_keeps_caches(
    platform: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GRAFTAGE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_root() == tmp_path / place


def test_xdg_is_honoured_on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRAFTAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root() == tmp_path / "graftage"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/cache.*set GRAFTAGE_CACHE"):
        ready(tmp_path / "file" / "cache")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "net"
    with appearing(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert names(target.parent) == ["net"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_folder_does_not_appear_if_the_work_fails(tmp_path: Path, fault: type[BaseException]) -> None:
    def work() -> None:
        with appearing(tmp_path / "net") as temporary:
            (temporary / "a").write_text("1")
            raise fault

    with pytest.raises(fault):
        work()
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    with appearing(tmp_path / "net") as temporary:
        (temporary / "a").write_text("ours")
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "a").write_text("theirs")
    assert (tmp_path / "net" / "a").read_text() == "theirs"
    assert names(tmp_path) == ["net"]


def test_a_full_disk_while_a_folder_is_filled_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"net: cannot be written \(No space left"), appearing(tmp_path / "net"):
        full_disk()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", full_disk)
    monkeypatch.setattr(tempfile, "mkstemp", full_disk)
    with pytest.raises(StoreError, match="net: cannot be written"), appearing(tmp_path / "net"):
        pytest.fail("there is nothing to write to")
    with pytest.raises(StoreError, match="note: cannot be written"):
        write_whole(tmp_path / "note", b"x")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "note", b"old")
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StoreError, match="note: cannot be written"):
        write_whole(tmp_path / "note", b"new")
    monkeypatch.undo()
    assert (tmp_path / "note").read_bytes() == b"old"
    write_whole(tmp_path / "note", b"new")
    assert (tmp_path / "note").read_bytes() == b"new"
    assert names(tmp_path) == ["note"]


def test_a_vanished_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"), appearing(tmp_path / "x" / "net"):
        shutil.rmtree(tmp_path / "x")


def test_too_little_space_is_said_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2_000_000 if place == tmp_path else 0))
    yet_to_be_made = tmp_path / "a" / "b"
    require_space(yet_to_be_made, 2_000_000)
    with pytest.raises(
        StoreError, match=r"b: 3\.0 MB are needed and 2\.0 MB are free; free some space or set GRAFTAGE"
    ):
        require_space(yet_to_be_made, 3_000_000)
