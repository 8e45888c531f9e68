"""The command line: what it says, what it writes where, and its exit status, 0, 1, 2 or 130."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graftage as gr
import photos
from graftage import flags
from photos import Said, graftage, save, table

COMMANDS = [
    "train",
    "predict",
    "evaluate",
    "compare",
    "explain",
    "check",
    "clean",
    "export",
    "serve",
    "embed",
    "curve",
    "augment-preview",
    "rank",
    "backbones",
    "demo",
]
QUICK = ("--folds", "3", "--fit", "crop")


@pytest.fixture(scope="module")
def model(locked: Path) -> Path:
    return locked / "model.safetensors"


def in_a_process(*arguments: object, **options: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "graftage", *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, capture_output=True, check=False, timeout=120, **options)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ---------------------------------------------------------------- help


def test_alone_it_prints_its_help() -> None:
    said = graftage()
    assert said.status == 0
    listed = said.out.split("commands:")[1].splitlines()
    assert {line.split()[0] for line in listed if line.startswith("    ") and line[4] != " "} == {*COMMANDS}


def test_the_version_is_the_packages() -> None:
    assert graftage("--version") == Said(0, f"graftage {gr.__version__}\n", "")


def test_every_command_helps_without_loading_a_network_library() -> None:
    code = (
        "import sys\nfrom graftage.cli import main\n"
        f"for name in {COMMANDS}:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as left: assert not left.code\n"
        "print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    helps, loaded = done.stdout.split("loaded:")
    assert helps.count("usage: graftage ") == len(COMMANDS)
    assert {"torch", "timm", "openvino", "numpy"} & set(loaded.split()) == set()


def test_every_option_of_training_is_a_flag_with_help() -> None:
    said = graftage("train", "--help").out
    for name in vars(gr.Settings("x")):
        assert name == "data" or f"--{name.replace('_', '-')}" in said
    assert all(text.strip() for _, _, text in flags._HELP.values())


def test_the_module_is_the_command() -> None:
    done = in_a_process("--version")
    assert (done.returncode, done.stdout.decode().strip()) == (0, f"graftage {gr.__version__}")
    assert in_a_process("train", "nowhere").returncode == 2


# ---------------------------------------------------------------- errors before any work


def one_class(root: Path) -> None:
    save(root / "cat", photos.crops("flower.jpg", 3))


def one_picture(root: Path) -> None:
    photos.two_classes(root, 3)
    for name in ("1.jpg", "2.jpg"):
        (root / "palace" / name).write_bytes(b"")


def one_that_decodes(root: Path) -> None:
    photos.two_classes(root, 2)
    photos.broken_late(root / "palace" / "1.jpg")


def absent(root: Path) -> None:
    assert not root.exists()


def a_file(root: Path) -> None:
    root.write_text("x")


def nothing(root: Path) -> None:
    root.mkdir()


def pictures_without_folders(root: Path) -> None:
    save(root, photos.crops("flower.jpg", 3))


def odd_class(root: Path) -> None:
    photos.two_classes(root, 2)
    (root / "palace").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (one_class, ["photos holds one class only ('cat')", "at least two class folders"]),
        (one_picture, ["1 of 2 classes", "'palace': 1 usable", "palace/1.jpg (empty file); palace/2.jpg (empty file)"]),
        (one_that_decodes, ["1 of 2 classes", "'palace': 1 usable", "palace/1.jpg (corrupt"]),
        (nothing, ["no class folders with files in", "0 files outside", "PHOTOS/cat/1.jpg"]),
        (pictures_without_folders, ["no class folders with files in", "3 files outside class folders"]),
        (odd_class, [r"the class folder 'caf\xe9' has a name that is no UTF-8 text"]),
        (absent, ["photos does not exist"]),
        (a_file, ["photos is no folder"]),
    ],
)
def test_pictures_that_cannot_be_learnt_from_are_told_and_nothing_is_written(
    tmp_path: Path, make: Callable[[Path], None], parts: list[str]
) -> None:
    make(tmp_path / "photos")
    said = graftage("train", tmp_path / "photos", "-o", tmp_path / "runs" / "run", *QUICK)
    assert said.status == 2
    assert said.out == ""
    assert all(part in said.err for part in parts), said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test", "1.5"], "test must be auto, none or a share such as 0.2, got '1.5'"),
        (["--folds", "1"], "folds must be 2 to 1000"),
        (["--folds", "many"], "folds must be auto, K or KxR"),
        (["--fit", "stretch"], "fit must be one of auto, crop, squash, pad, got 'stretch'"),
        (["--seed=-1"], "seed must be 0 or more, got -1"),
        (["--seed", "x"], "invalid int value: 'x'"),
        (["-j=-2"], "workers must be 0 or more"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or mps, got 'tpu'"),
        (["--precision", "int4"], "precision must be auto, float32 or bfloat16, got 'int4'"),
        (["--backbone", "bundled/efficientnet"], "bundled/efficientnet_lite"),
        (["--backbone", "resnet50"], "resnet50"),
        (["--colour", "red"], "unrecognized arguments: --colour"),
    ],
)
def test_a_bad_option_is_told_and_nothing_is_written(
    class_folders: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    said = graftage("train", class_folders, "-o", tmp_path / "runs" / "run", *options)
    assert said.status == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "runs").exists()


def test_without_pictures_training_says_what_it_needs() -> None:
    said = graftage("train")
    assert (said.status, said.out) == (2, "")
    assert "train needs a folder of pictures, or -c with a config.toml" in said.err


def test_an_existing_run_stays_unless_overwritten(class_folders: Path, tmp_path: Path) -> None:
    command = ["train", class_folders, "-o", tmp_path / "run", *QUICK]
    assert graftage(*command).status == 0
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    said = graftage(*command)
    assert said.status == 2
    assert "run exists already; take another -o, or --overwrite to replace it" in said.err
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert graftage(*command, "--overwrite").status == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() != before
    (tmp_path / "run" / "mine.txt").write_text("x")
    said = graftage(*command, "--overwrite")
    assert said.status == 2
    assert "holds other things than a graftage run (mine.txt)" in said.err
    assert (tmp_path / "run" / "mine.txt").exists()


def test_unknown_names_in_a_config_are_all_told(class_folders: Path, tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text(f'data = "{class_folders}"\nsed = 3\nbackbon = "x"\n')
    said = graftage("train", "-c", config, "-o", tmp_path / "run")
    assert said.status == 2
    assert "my.toml: unknown options sed (did you mean seed?), backbon (did you mean backbone?)" in said.err


def test_flags_override_a_config(class_folders: Path, tmp_path: Path) -> None:
    config = tmp_path / "my.toml"
    config.write_text(f'data = "{class_folders}"\nseed = 3\nfit = "crop"\nfolds = "3"\noverwrite = true\n')
    said = graftage("train", "-c", config, "-o", tmp_path / "run", "--seed", "4", "--no-overwrite")
    assert said.status == 0, said.err
    lines = (tmp_path / "run" / "config.toml").read_text().splitlines()
    assert {"seed = 4", 'fit = "crop"', "overwrite = false"} <= set(lines)


def test_a_config_never_lands_on_the_run_that_it_repeats(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = graftage("train", "-c", locked / "config.toml", "--overwrite")
    assert said.status == 0, said.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["photos"]


def test_the_log_is_valid_json_from_start_to_end(locked: Path) -> None:
    lines = [json.loads(line) for line in (locked / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if line["event"] == "start"][-2:] == ["write", "report"]
    assert lines[-1]["event"] == "end"
    assert {line["event"] for line in lines} <= {"start", "end", "row", "test opened"}


def test_odd_names_of_folders_pass_through_all_files(tmp_path: Path) -> None:
    """The folder's name is no UTF-8, as old archives have it: the run works, and its config repeats it."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xe4\xb8\xad\n"))
    photos.two_classes(root, 3)
    done = in_a_process("train", root, "-o", tmp_path / "run", *QUICK, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    again = graftage("train", "-c", tmp_path / "run" / "config.toml", "-o", f"{root} run")
    assert again.status == 0, again.err
    assert (Path(f"{root} run") / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


# ---------------------------------------------------------------- faults


def test_a_fault_of_ours_is_shown_whole_and_exits_with_1(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        error = RuntimeError("the cat sat on it")
        error.add_note("a note")
        raise error

    monkeypatch.setattr("graftage.pipeline.train", fail)
    said = graftage("train", class_folders)
    assert said.status == 1
    assert "Traceback" in said.err
    assert "RuntimeError: the cat sat on it" in said.err
    assert said.err.endswith("please report it with the lines above\na note\n")


def test_notes_of_an_error_are_printed(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        error = gr.DataError("wrong: caf\udce9")
        error.add_note("see there")
        raise error

    monkeypatch.setattr("graftage.pipeline.train", fail)
    said = graftage("train", class_folders)
    assert (said.status, said.out) == (2, "")
    assert said.err == "graftage: wrong: caf\\udce9\nsee there\n"


# ---------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to predict: three pictures and two files that are none, one of them hidden."""
    folder = tmp_path_factory.mktemp("mixed")
    save(folder, photos.crops("flower.jpg", 2, seed=8), prefix="a")
    save(folder / "deep", photos.crops("china.jpg", 1, seed=8), prefix="b")
    (folder / "c.txt").write_text("no picture")
    (folder / ".hidden").write_text("x")
    return folder


def test_predict_writes_a_row_per_picture_to_the_terminal(model: Path, mixed: Path) -> None:
    said = graftage("predict", model, mixed, mixed / "a0.jpg", mixed / "missing.jpg")
    assert said.status == 0
    rows = rows_of(said.out)
    names = [Path(row["path"]).relative_to(mixed).as_posix() for row in rows]
    assert names == ["a0.jpg", "a1.jpg", "c.txt", "deep/b0.jpg", "a0.jpg", "missing.jpg"]
    assert [row["status"] for row in rows] == ["ok", "ok", "rejected", "ok", "ok", "rejected"]
    assert [row["label"] for row in rows[:3]] == ["2", "2", ""]
    assert rows[0] == rows[4]
    assert list(rows[0]) == [
        "path", "status", "reason", "label", "probability", "runner_up", "runner_up_probability",
        "prediction_set", "abstained", "unlike_p", "unlike",
    ]  # fmt: skip
    assert said.err == "2 of 6 could not be used\n"


def test_predict_says_what_it_wrote(model: Path, mixed: Path, tmp_path: Path) -> None:
    said = graftage("predict", model, mixed, "-o", tmp_path / "p.csv")
    assert said.out == f"3 pictures predicted, 1 could not be used; {tmp_path / 'p.csv'}\n"
    assert (tmp_path / "p.csv").read_text() == graftage("predict", model, mixed).out


def test_every_format_holds_the_same(model: Path, mixed: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        assert graftage("predict", model, mixed, "-o", tmp_path / name, "--all").status == 0
    rows = table(tmp_path / "p.csv")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    columns = pq.read_table(tmp_path / "p.parquet").to_pylist()
    for row, line, column in zip(rows, lines, columns, strict=True):
        assert row["path"] == line["path"] == column["path"]
        assert row["label"] == line["label"] == column["label"]
        for name in ("1", "2", "10"):
            if row["status"] == "ok":
                assert float(row[f"p:{name}"]) == line["probabilities"][name]
                assert np.float32(line["probabilities"][name]) == np.float32(column[f"p:{name}"])
    shown = graftage("predict", model, mixed, "--format", "table").out.splitlines()
    assert shown[0].split() == ["path", "label", "runner-up", "note"]
    assert "rejected: not an image" in shown[3]
    assert "%" in shown[1]


def test_a_list_may_come_from_a_file_or_a_pipe(model: Path, mixed: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\x0b\xe2\x80\xa8.jpg"))  # what splitlines would split at
    odd.write_bytes((mixed / "a0.jpg").read_bytes())
    listed = b"\r\n".join(os.fsencode(path) for path in (mixed / "a0.jpg", odd)) + b"\n\n"
    (tmp_path / "list.txt").write_bytes(listed)
    from_file = graftage("predict", model, "--list", tmp_path / "list.txt")
    assert from_file.status == 0
    assert [row["status"] for row in rows_of(from_file.out)] == ["ok", "ok"]
    from_pipe = in_a_process("predict", model, "--list", "-", input=listed)
    assert from_pipe.returncode == 0, from_pipe.stderr
    assert from_pipe.stdout.decode() == from_file.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "predict needs pictures: name files or folders, or --list FILE"),
        (["--list", "empty.txt"], "empty.txt: the list names no picture"),
        (["--list", "missing.txt"], "missing.txt: the list of pictures cannot be read (No such file"),
        (["a.jpg", "--format", "parquet"], "format parquet cannot go to the terminal"),
        (["a.jpg", "--workers=-1"], "workers must be 0 or more, got -1"),
        (["a.jpg", "-o", "."], "is a folder: name a file to write"),
        (["a.jpg", "--device", "tpu"], "device must be auto, cpu, cuda or mps"),
    ],
)
def test_a_prediction_that_cannot_be_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    said = graftage("predict", model, *arguments)
    assert said.status == 2
    assert message in said.err
    assert "Traceback" not in said.err


def test_only_bad_pictures_are_rows_too(model: Path, tmp_path: Path) -> None:
    for number in range(40):  # more than are answered together
        (tmp_path / f"{number}.jpg").touch()
    said = graftage("predict", model, tmp_path)
    assert said.status == 0
    assert [row["reason"] for row in rows_of(said.out)] == ["empty file"] * 40


def test_what_is_no_model_is_told(mixed: Path, tmp_path: Path) -> None:
    said = graftage("predict", tmp_path / "model.safetensors", mixed)
    assert (said.status, said.out) == (2, "")
    assert "model.safetensors: there is no such file" in said.err


def test_a_reader_that_leaves_early_is_no_error(model: Path, tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.jpg").touch()
    command = [sys.executable, "-m", "graftage", "predict", model, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"path,status")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_odd_file_names_are_written_escaped(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = Image.new("RGB", (50, 50), "red")
    for name in (b"caf\xe9.png", "中文.png".encode(), b"two\nlines.png", b'quote".png'):
        picture.save(os.fsdecode(os.fsencode(folder) + b"/" + name))
    rows = rows_of(graftage("predict", model, folder).out)
    assert {Path(row["path"]).name for row in rows} == {r"caf\udce9.png", "中文.png", "two\nlines.png", 'quote".png'}
    assert {row["status"] for row in rows} == {"ok"}


# ---------------------------------------------------------------- evaluate


def test_evaluate_prints_scores_with_intervals(model: Path, tmp_path: Path) -> None:
    said = graftage("evaluate", model, photos.three_classes(tmp_path / "new", 3, seed=9))
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "9 pictures measured, 0 left out"
    assert [line.split("  ")[0] for line in lines[1:]] == [
        *("accuracy", "macro F1", "balanced accuracy", "log-loss", "prediction sets")
    ]
    assert all(" to " in line for line in lines[1:])
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]  # nothing is written unless asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed=-1"], "seed must be 0 or more"),
        (["-j=-1"], "workers must be 0 or more"),
        (["-o", "file"], "is a file"),
    ],
)
def test_an_evaluation_that_cannot_be_is_told(
    model: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    said = graftage("evaluate", model, class_folders, *options)
    assert said.status == 2
    assert message in said.err
