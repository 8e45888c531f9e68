"""What a person sees while a run goes on: a bar on a terminal, a line per stage elsewhere."""

import os
import pty
import re
import subprocess
import sys

import pytest

from graftage import terminal as module
from graftage.terminal import Terminal


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_elsewhere_there_is_a_line_per_stage(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        terminal.stage("features")
        for done in range(100):
            terminal.progress(done, 100)
        clock.now += 12.34
        terminal.stage("head")
        clock.now += 0.06
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"{'features':<28}   12.3 s", f"{'head':<28}    0.1 s"]


def test_a_stage_that_takes_no_time_is_not_worth_a_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal() as terminal:
        terminal.stage("quick")
        clock.now += 0.049
        terminal.stage("slow")
        clock.now += 0.06
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["slow"]


def test_quiet_shows_notices_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(quiet=True) as terminal:
        terminal.stage("features")
        terminal.progress(1, 2)
        clock.now += 0.06
        terminal.note("[bold]as it stands[/bold] " + "x" * 200)
    assert capsys.readouterr().err == "note: [bold]as it stands[/bold] " + "x" * 200 + "\n"


def test_a_failure_within_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with Terminal() as terminal:
            terminal.stage("features")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out == ""


SHOW = """
import sys, time
from graftage.terminal import Terminal
with Terminal(quiet="quiet" in sys.argv) as terminal:
    terminal.stage("features")
    for done in range(0, 101, 20):
        terminal.progress(done, 100)
        time.sleep(0.15)
    terminal.note("something odd")
    terminal.stage("head")
    time.sleep(0.1)
"""


def on_a_terminal(*arguments: str) -> str:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", SHOW, *arguments], stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end has closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_on_a_terminal_there_is_a_bar_with_counts_and_rate() -> None:
    shown = on_a_terminal()
    assert "/100" in shown
    assert re.search(r"\d+/s", shown)
    assert "note: something odd" in shown
    assert re.search(r"features +\d+\.\d s", shown)  # and the line stays when the bar has gone


def test_quiet_on_a_terminal_there_is_no_bar() -> None:
    assert on_a_terminal("quiet").strip() == "note: something odd"


def test_without_a_bar_progress_is_a_line_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftage.terminal._EVERY", 0.0)
    with Terminal() as terminal:
        terminal.stage("predict")
        terminal.progress(0, 0)
        terminal.progress(12, 0)
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first.split()[:2] == ["predict", "0,"]
    assert second.split()[:2] == ["predict", "12,"]
    assert "left" not in second  # where the total is not known, the rate alone
    monkeypatch.undo()
    with Terminal() as terminal:
        terminal.stage("predict")
        terminal.progress(12, 20)
    assert capsys.readouterr().err == ""
