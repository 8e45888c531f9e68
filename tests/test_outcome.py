"""A run's folder appears whole or not at all, whatever happens, and never takes the place of anything else."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graftage.errors import OptionError, StoreError
from graftage.outcome import CONFIG, FILES, evaluation_folder, run_folder
from graftage.settings import Settings
from photos import graftage, table

SAME = ("model.safetensors", "metrics.json", "predictions.csv", "ledger.csv", "problems.csv")

# Runs `graftage train` and, when a stage begins or its progress comes so far, sends itself a signal.
DRIVER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number, wanted, least = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
from graftage.terminal import Terminal
from graftage.cli import main
begin, step = Terminal.stage, Terminal.progress
now = [""]

def stage(self, name):
    begin(self, name)
    now[0] = name
    if name == wanted and not least:
        os.kill(os.getpid(), number)

def progress(self, done, total):
    step(self, done, total)
    if now[0] == wanted and least and done >= least:
        os.kill(os.getpid(), number)

Terminal.stage, Terminal.progress = stage, progress
sys.exit(main(sys.argv[4:]))
"""


def settings(tmp_path: Path, output: Path | str = "", **changes: object) -> Settings:
    return Settings.from_mapping({"data": str(tmp_path / "photos"), "output": str(output), **changes}, source="test")


def write_run(folder: Path, text: str = "run") -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(text)
    return folder


# ---------------------------------------------------------------- the folder


def test_a_run_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    with run_folder(settings(tmp_path, tmp_path / "deep" / "run")) as (folder, final):
        (folder / "a").write_text("x")
        assert final == tmp_path / "deep" / "run"
        assert not final.exists()
        assert folder.name.startswith(".run.")  # hidden, and beside the place that it will take
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run"]
    assert (final / "a").read_text() == "x"
    assert final.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_run_that_fails_leaves_nothing_at_all(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with run_folder(settings(tmp_path, tmp_path / "very" / "deep" / "run")) as (folder, _):
            (folder / "a").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ValueError, match="x"), run_folder(settings(tmp_path, tmp_path / "here" / "deep" / "run")):
        raise ValueError("x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_without_a_name_the_next_free_one_under_runs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        with run_folder(Settings(str(tmp_path / "elsewhere" / "photos"))) as (_, final):
            names.append(final)
    assert names == [Path("runs/photos"), Path("runs/photos-2"), Path("runs/photos-3")]


def test_what_exists_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(OptionError, match=r"run exists already; take another -o, or --overwrite"):
        run_folder(settings(tmp_path, run)).__enter__()
    with run_folder(settings(tmp_path, run, overwrite=True)) as (folder, _):
        (folder / CONFIG).write_text("new")
    assert (run / CONFIG).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("other", ["holiday.jpg", "photos", "notes.txt"])
def test_what_is_no_run_is_never_replaced(tmp_path: Path, other: str) -> None:
    run = write_run(tmp_path / "run")
    (run / other).mkdir()
    with pytest.raises(OptionError, match=rf"holds other things than a graftage run \({other}\)"):
        run_folder(settings(tmp_path, run, overwrite=True)).__enter__()
    (run / CONFIG).unlink()
    with pytest.raises(OptionError, match="holds other things"):
        run_folder(settings(tmp_path, run, overwrite=True)).__enter__()
    assert (run / other).exists()


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OptionError, match=r"run (exists already|is a file)"):
            run_folder(settings(tmp_path, tmp_path / "run", overwrite=overwrite)).__enter__()
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("inside", ["", "run", "cat/run"])
def test_a_run_never_lies_among_the_pictures(tmp_path: Path, inside: str) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    with pytest.raises(OptionError, match="among the pictures"):
        run_folder(settings(tmp_path, tmp_path / "photos" / inside)).__enter__()
    assert list((tmp_path / "photos").iterdir()) == [tmp_path / "photos" / "cat"]


def test_the_current_folder_as_pictures_needs_a_name_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="among the pictures of \\."):
        run_folder(Settings(".")).__enter__()


def test_what_came_meanwhile_is_kept(tmp_path: Path) -> None:
    def race() -> None:
        with run_folder(settings(tmp_path, tmp_path / "run")) as (folder, final):
            (folder / CONFIG).write_text("mine")
            write_run(final, "theirs")

    with pytest.raises(OptionError, match="was made by someone else meanwhile"):
        race()
    assert (tmp_path / "run" / CONFIG).read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_old_run_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rename = write_run(tmp_path / "run", "old"), Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.startswith(".run.") and target == run:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(StoreError, match=r"run: cannot be put in place \(No space left"),
        run_folder(settings(tmp_path, run, overwrite=True)),
    ):
        pass
    assert (run / CONFIG).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_disk_without_room_for_the_model_is_told_before_training(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(place: Path) -> SimpleNamespace:
        return SimpleNamespace(free=20_000_000 if place.is_relative_to(tmp_path) else 10**12)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    said = graftage("train", class_folders, "-o", tmp_path / "run", "--fit", "crop")
    assert said.status == 2
    assert f"are needed and 20.0 MB are free; free some space or take another -o than {tmp_path / 'run'}" in said.err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"file/run: cannot be made"):
        run_folder(settings(tmp_path, tmp_path / "file" / "run")).__enter__()


def test_an_evaluation_may_be_repeated_into_its_folder_but_not_into_a_run(tmp_path: Path) -> None:
    assert evaluation_folder(None) is None
    assert evaluation_folder(str(tmp_path)) == tmp_path
    with pytest.raises(OptionError, match="holds a training run"):
        evaluation_folder(write_run(tmp_path / "run"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OptionError, match="is a file"):
        evaluation_folder(tmp_path / "file")


def test_a_full_disk_is_told_and_nothing_is_left(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    """Files may not grow beyond a few kilobytes: the model file cannot be written."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from graftage import outcome; really = outcome.save\n"
        "def save(*a): resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); really(*a)\n"
        "outcome.save = save\n"
        "from graftage.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["train", class_folders, "-o", tmp_path / "run", "--folds", "3", "--fit", "crop"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "model.safetensors: cannot be saved: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- interrupts


def strike(number: signal.Signals, stage: str, least: int, arguments: list[object]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER, str(int(number)), stage, str(least), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))


def stored(cache: Path) -> dict[tuple[str, str], int]:
    """(store, digest) → SQLite's row number, which changes when a row is written again."""
    found = {}
    for path in (cache / "features").glob("*.sqlite"):
        with sqlite3.connect(path) as connection:
            found |= {
                (path.name, digest): row for digest, row in connection.execute("SELECT digest, rowid FROM features")
            }
        connection.close()
    return found


@pytest.mark.parametrize(
    ("number", "stage", "least"),
    [
        (signal.SIGINT, "features", 9),
        (signal.SIGKILL, "prepare the network", 0),
        (signal.SIGKILL, "report", 0),
    ],
    ids=str,
)
def test_after_an_interrupt_the_same_command_goes_on(
    locked: Path,
    class_folders: Path,
    cold: Path,
    tmp_path: Path,
    number: signal.Signals,
    stage: str,
    least: int,
) -> None:
    place = tmp_path / "place"
    command = ["train", class_folders, "-o", place / "run", "--test", "0.3", "--folds", "3", "--fit", "crop"]
    struck = strike(number, stage, least, command)
    if number == signal.SIGINT:
        assert struck.returncode == 130, struck.stderr
        assert struck.stderr.splitlines()[-1].startswith("graftage: interrupted; what was computed is kept")
        assert not place.exists()
    else:
        assert struck.returncode == -signal.SIGKILL
        assert not (place / "run").exists()  # at most a hidden folder is left
        assert all(path.name.startswith(".run.") for path in place.iterdir())
    before = stored(cold)
    assert bool(before) == (stage != "prepare the network")
    said = graftage(*command)
    assert said.status == 0, said.err
    assert [name for name in SAME if (place / "run" / name).read_bytes() != (locked / name).read_bytes()] == []
    after = stored(cold)
    assert len(after) == 2 * 48  # features and looks
    assert {key: row for key, row in after.items() if key in before} == before  # nothing was computed twice
    assert len(table(place / "run" / "ledger.csv")) == 48


def test_a_kill_amid_the_features_keeps_what_was_stored(class_folders: Path, finished: object, cold: Path) -> None:
    struck = strike(signal.SIGKILL, "features", 36, ["train", class_folders, "-o", cold / "run"])
    assert struck.returncode == -signal.SIGKILL
    before = stored(cold)
    assert 40 < len(before) <= 2 * 48  # crop and squash; the batch in flight may be lost
    said = graftage("train", class_folders, "-o", cold / "run", "--fit", "squash", "--folds", "3")
    assert said.status == 0, said.err
    after = stored(cold)
    assert {key: row for key, row in after.items() if key in before} == before  # nothing was computed twice


def test_the_files_of_a_run_are_the_ones_named() -> None:
    assert {*SAME, "report.html", "config.toml", "log.jsonl"} == FILES
