"""`graftage predict` as it is typed: whatever is named, killed and gone on with, in every format."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import photos
from graftage.serve import batch, outputs
from graftage.serve.tables import row_of
from photos import graftage, save, table


@pytest.fixture(scope="module")
def model(locked: Path) -> Path:
    return locked / "model.safetensors"


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("some")
    save(folder, photos.crops("flower.jpg", 3, seed=21), prefix="a")
    save(folder, photos.crops("china.jpg", 3, seed=22), prefix="b")
    (folder / "c.txt").write_text("no picture")
    return folder


def packed(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
            label = tarfile.TarInfo(f"{file.stem}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    return path


def answers(path: Path) -> list[tuple[str, ...]]:
    return [(row["status"], row["label"], row["probability"], row["unlike_p"]) for row in table(path)]


def test_files_lists_tables_and_shards_give_the_same_answers(model: Path, some: Path, tmp_path: Path) -> None:
    files = sorted(str(file) for file in some.iterdir())
    (tmp_path / "list").write_text("\n".join(files))
    (tmp_path / "t.csv").write_text("file,sku\n" + "".join(f"{Path(file).name},s{i}\n" for i, file in enumerate(files)))
    packed(tmp_path / "s-0.tar", some)
    graftage("predict", model, *files, "-o", tmp_path / "1.csv")
    expected = answers(tmp_path / "1.csv")
    assert [row[0] for row in expected] == ["ok"] * 6 + ["rejected"]
    graftage("predict", model, "--list", tmp_path / "list", "-o", tmp_path / "2.csv")
    graftage("predict", model, "--id-col", "sku", "--root", some, tmp_path / "t.csv", "-o", tmp_path / "3.csv")
    said = graftage("predict", model, f"{tmp_path}/s-{{0..0}}.tar", "-o", tmp_path / "4.csv")
    assert said.status == 0, said.err
    assert answers(tmp_path / "2.csv") == answers(tmp_path / "3.csv") == expected
    assert answers(tmp_path / "4.csv") == expected[:-1]  # c.txt is what describes a picture
    assert [row["id"] for row in table(tmp_path / "3.csv")] == [f"s{i}" for i in range(7)]
    assert table(tmp_path / "4.csv")[0]["path"] == f"{tmp_path}/s-0.tar/a0.jpg"


def test_a_shard_that_breaks_off_is_a_row_and_an_exit_status(model: Path, some: Path, tmp_path: Path) -> None:
    whole = packed(tmp_path / "whole.tar", some).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    said = graftage("predict", model, tmp_path / "cut.tar", some / "a0.jpg", "-o", tmp_path / "p.csv")
    assert said.status == 2
    assert "1 shards, tables or folders could not be read to their end" in said.err
    *_, broken, last = table(tmp_path / "p.csv")
    assert broken["path"] == str(tmp_path / "cut.tar")
    assert broken["reason"].startswith("shard cannot be read further")
    assert last["status"] == "ok"


def test_parts_and_one_file_hold_the_same(model: Path, some: Path, tmp_path: Path) -> None:
    graftage("predict", model, some, "-o", tmp_path / "p.parquet", "--all")
    said = graftage(
        "predict", model, some, "-o", tmp_path / "parts", "--format", "parquet", "--rows-per-part", "3", "--all"
    )
    assert said.status == 0, said.err
    assert len(list((tmp_path / "parts").iterdir())) == 3
    assert pq.read_table(tmp_path / "parts").to_pylist() == pq.read_table(tmp_path / "p.parquet").to_pylist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv"], "t.csv does not exist"),
        (["a.jpg", "--rows-per-part", "5"], "--rows-per-part is for Parquet in a folder"),
        (["a.jpg", "--rows-per-part", "0"], "--rows-per-part must be 1 or more"),
        (["a.jpg", "--resume"], "only a file of csv, jsonl or parquet can be resumed"),
        (["a.jpg", "--id-col", "x"], "--id-col names a column, but no table is named"),
        (["a.jpg", "--most-worth", "5"], "--most-worth belongs to --drift"),
        (["a.jpg", "--drift", "--most-worth", "5000"], "--most-worth must be 0 to 1,000"),
    ],
)
def test_what_cannot_be_is_told_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = graftage("predict", model, *arguments)
    assert (said.status, said.out) == (2, "")
    assert message in said.err


def test_killed_it_goes_on_and_no_row_is_lost_or_doubled(model: Path, some: Path, tmp_path: Path) -> None:
    files, name = [str(file) for file in sorted(some.iterdir())] * 60, "p.parquet"  # rows are lines until the end
    (tmp_path / "list").write_text("\n".join(files))
    (tmp_path / "whole").mkdir()
    whole, target, given = tmp_path / "whole" / name, tmp_path / name, ("--list", str(tmp_path / "list"), "--drift")
    uninterrupted = graftage("predict", model, *given, "-o", whole)
    command = ["predict", str(model), *given, "-o", str(target), "--resume"]
    noted, kills = 0, 0
    while kills < 2:
        with subprocess.Popen([sys.executable, "-m", "graftage", *command], stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as process:  # fmt: skip
            while process.poll() is None and rows_noted(target) <= noted:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        if target.exists():
            break
        noted, kills = rows_noted(target), kills + 1
        assert noted > 0
    said = graftage(*command)
    assert said.status == 0, said.err
    if kills:
        assert f"goes on after {noted:,} rows" in said.err
    assert target.read_bytes() == whole.read_bytes()
    assert said.out == uninterrupted.out.replace(str(whole), str(target))
    assert said.out.endswith(f"360 pictures predicted, 60 could not be used; {target}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["list", name, "whole"])


def rows_noted(target: Path) -> int:
    try:
        return int(json.loads(Path(f"{target}.resume").read_text())["rows"])
    except FileNotFoundError:
        return 0


def interrupted(after: int, *command: object) -> None:
    """Runs a command that is interrupted after so many rows, each of which is noted."""
    numbers = count()

    def row(*arguments: Any, **options: Any) -> Any:
        if next(numbers) == after:
            raise KeyboardInterrupt
        return row_of(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "_SECONDS", 0.0)
        patch.setattr(batch, "row_of", row)
        assert graftage(*command).status == 130


def test_from_a_picture_that_has_changed_it_predicts_anew_and_says_so(model: Path, some: Path, tmp_path: Path) -> None:
    """Without a look it would keep the answer for a picture that is no longer there."""
    pictures = Path(shutil.copytree(some, tmp_path / "some"))
    command = ("predict", model, pictures, "-o", tmp_path / "p.csv")
    interrupted(5, *command)
    shutil.copy(pictures / "b0.jpg", pictures / "a1.jpg")
    os.utime(pictures / "a0.jpg", (1, 1))  # touched, but the same
    said = graftage(*command, "--resume")
    assert said.status == 0, said.err
    assert f"row 2 is of {pictures}/a1.jpg, which has changed since" in said.err
    assert "it and what comes after it is predicted anew, 1 rows stay" in said.err
    assert "6 pictures predicted, 1 could not be used" in said.out
    graftage(*command[:-1], tmp_path / "whole.csv")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    rows = answers(tmp_path / "p.csv")
    assert rows[1] == rows[3]
    assert {path.name for path in tmp_path.iterdir()} == {"some", "p.csv", "whole.csv"}


def test_what_drift_has_counted_is_not_taken_back(model: Path, some: Path, tmp_path: Path) -> None:
    pictures = Path(shutil.copytree(some, tmp_path / "some"))
    command = ("predict", model, pictures, "-o", tmp_path / "p.csv", "--drift")
    interrupted(5, *command)
    shutil.copy(pictures / "b0.jpg", pictures / "a1.jpg")
    said = graftage(*command, "--resume")
    assert said.status == 2
    assert "a1.jpg, which has changed since, and what --drift has counted cannot be taken back" in said.err


def test_another_model_cannot_go_on(model: Path, some: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{some}/a0.jpg\n" * 5)
    target = tmp_path / "p.csv"
    (tmp_path / "p.csv.resume").write_text(json.dumps({"made_by": {"model file": "another"}, "rows": 3, "length": 10}))
    said = graftage("predict", model, "--list", tmp_path / "list", "-o", target, "--resume")
    assert said.status == 2
    assert "the interrupted run had another" in said.err
    assert "model file" in said.err


def test_drift_is_told_and_written(model: Path, some: Path, tmp_path: Path) -> None:
    said = graftage(
        "predict", model, some, "-o", tmp_path / "p.csv", "--drift-report", tmp_path / "d.json", "--most-worth", 2
    )
    assert said.status == 0, said.err
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["pictures"] == 6
    assert 0 <= found["accuracy"]["low"] <= found["accuracy"]["value"] <= found["accuracy"]["high"] <= 1
    assert {each["path"] for each in found["worth"]} <= {str(path) for path in some.iterdir()}
    assert "estimated accuracy" in said.out
    rows = table(tmp_path / "p.csv")
    mean = sum(float(row["probability"]) for row in rows if row["probability"]) / 6
    assert found["accuracy"]["value"] == pytest.approx(mean, abs=1e-6)
    to_pipe = graftage("predict", model, some, "--drift", "--most-worth", 0)
    assert "estimated accuracy" in to_pipe.err
    assert "estimated accuracy" not in to_pipe.out
