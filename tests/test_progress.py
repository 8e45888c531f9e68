"""The journal: it times stages, keeps notices and writes a log that is whole at every moment."""

import json
import time
from pathlib import Path

import pytest

from graftage.progress import Journal, Silent


class Told(Silent):
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def stage(self, name: str) -> None:
        self.heard.append(("stage", name))

    def note(self, text: str) -> None:
        self.heard.append(("note", text))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_stage_is_told_timed_and_logged(tmp_path: Path) -> None:
    told, path = Told(), tmp_path / "log.jsonl"
    journal = Journal(told, path)
    with journal.stage("features"):
        assert [(line["event"], line["stage"]) for line in lines(path)] == [("start", "features")]  # at once
        time.sleep(0.02)
    start, end = lines(path)
    assert (end["event"], end["stage"]) == ("end", "features")
    assert 0.02 <= float(str(end["seconds"])) < 5
    assert set(start) == {"time", "event", "stage"}
    time.strptime(str(start["time"]), "%Y-%m-%dT%H:%M:%S%z")
    assert told.heard == [("stage", "features")]


def test_the_time_of_a_stage_adds_up_over_its_parts_in_the_order_of_first_start() -> None:
    journal = Journal(Silent())
    for name in ("features", "head", "features"):
        with journal.stage(name):
            time.sleep(0.01)
    assert [name for name, _ in journal.timing] == ["features", "head"]
    assert dict(journal.timing)["features"] >= 0.02


def test_a_stage_that_fails_ends_in_the_log_too(tmp_path: Path) -> None:
    journal = Journal(Silent(), tmp_path / "log.jsonl")
    with pytest.raises(ValueError, match="x"), journal.stage("head"):
        raise ValueError("x")
    assert [line["event"] for line in lines(tmp_path / "log.jsonl")] == ["start", "end"]


def test_a_notice_is_said_and_kept_once(tmp_path: Path) -> None:
    told = Told()
    journal = Journal(told, tmp_path / "log.jsonl")
    for text in ("slow", "slow", "odd"):
        journal.note(text)
    assert journal.notes == ["slow", "odd"]
    assert told.heard == [("note", "slow"), ("note", "odd")]
    assert [line["text"] for line in lines(tmp_path / "log.jsonl")] == ["slow", "odd"]


def test_any_text_is_valid_json(tmp_path: Path) -> None:
    journal = Journal(Silent(), tmp_path / "log.jsonl")
    for text in ("中文 \U0001f426", "two\nlines", "caf\udce9", 'a "quote"'):
        journal.note(text)
    assert [line["text"] for line in lines(tmp_path / "log.jsonl")] == journal.notes


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(Silent())
    journal.note("x")
    with journal.stage("y"):
        journal.watcher.progress(1, 2)
    assert list(tmp_path.iterdir()) == []
