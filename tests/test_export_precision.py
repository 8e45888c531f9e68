"""Exports in fewer bits: smaller, their change measured on pictures of known class, refused where it is too large."""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graftage as gr
from graftage import exporting
from graftage.serve import lighter, sample, targets
from graftage.serve.checking import Answer
from graftage.serve.export import Exported
from graftage.serve.lighter import Changed, changed
from graftage.serve.precision import PRECISIONS, halved
from graftage.serve.predict import Predictor, load
from graftage.serve.sample import Sample
from photos import graftage
from test_export import WITHOUT

onnx: Any = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("onnx_once")


@pytest.fixture(scope="module")
def model(locked: Path) -> Predictor:
    """Of EfficientNet-Lite0, learnt from two thirds of 48 real pictures."""
    return load(locked / "model.safetensors", device="cpu", precision="float32")


@pytest.fixture(scope="module", params=["fp16", "int8"])
def made(request: pytest.FixtureRequest, locked: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("light") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample, "ENOUGH", 5)
        return gr.export(locked / "model.safetensors", to="onnx", precision=request.param, output=folder)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "ledger.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "used"]


def test_accuracy_before_and_after_is_that_of_the_locked_test_pictures(made: Exported, locked: Path) -> None:
    test, change = [row for row in rows_of(locked) if row["split"] == "test"], made.checked
    assert isinstance(change, Changed)
    assert (change.labelled, change.origin) == (len(test), "test")
    assert change.before is not None
    assert change.accuracy is not None
    assert change.loss is not None
    assert change.loss.value == pytest.approx(change.before.value - change.accuracy.value)
    assert change.loss.low <= 0 <= change.loss.high
    assert change.before.value > 0.8
    assert 0 < change.mean <= change.worst < (0.01 if change.precision == "fp16" else 0.5)
    assert f"accuracy on {len(test)} test pictures of the run: " in "\n".join(made.summary)
    assert change.agreement.percent() in made.summary[0]


def test_calibration_takes_none_of_the_pictures_that_are_checked(made: Exported, locked: Path) -> None:
    change, rows = made.checked, rows_of(locked)
    assert isinstance(change, Changed)
    learnt = sum(row["split"] != "test" for row in rows)
    assert change.calibrated == (learnt if change.precision == "int8" else 0)
    assert change.n == len(rows) - change.calibrated


def test_the_file_is_smaller_and_tells_its_change(made: Exported) -> None:
    card = targets.read_onnx(made.folder / "model.onnx")
    precision = card["precision"]
    assert precision == made.folder.name
    assert made.before is not None
    share = made.files["model.onnx"] / made.before[0]
    assert share < {"fp16": 0.6, "int8": 0.4}[precision]
    assert card["checked"]["loss"]["value"] == made.checked.loss.value  # type: ignore[union-attr]
    assert card["card"][-1]["heading"] == "Precision"
    assert f"Exported in {precision}. Checked on " in card["card"][-1]["text"]
    assert "ms a picture instead of" in made.summary[-2]


def test_what_makes_the_square_is_left_as_it_is(made: Exported) -> None:
    nodes = onnx.load(made.folder / "model.onnx").graph.node
    square = [node for node in nodes if node.name.startswith("square/")]
    assert len(square) > 100
    changed_types = {"QuantizeLinear", "DequantizeLinear"}
    assert changed_types & {node.op_type for node in square} == set()
    made_of_halves = {node.output[0] for node in nodes if node.name.startswith("cast/")}
    assert made_of_halves & {name for node in square for name in node.input} == set()
    if made.folder.name == "int8":
        weighted = [node for node in nodes if node.op_type == "Conv"]
        scaled = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
        assert all({node.input[0], node.input[1]} <= scaled for node in weighted)


def test_the_example_needs_no_word_of_it(made: Exported, model: Predictor, class_folders: Path) -> None:
    pictures = [class_folders / "1" / "3.jpg", class_folders / "10" / "2.jpg"]
    command = [sys.executable, "-I", "-c", WITHOUT, str(made.folder / "example.py"), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    for line, answer in zip(done.stdout.splitlines(), model.predict(pictures), strict=True):
        assert line.split("\t")[1] == answer.label


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_openvino_files_get_smaller_too(
    precision: str, class_folders: Path, weights_file: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    made = gr.export(tiny, to="openvino", precision=precision, output=tmp_path / "made", max_loss=20)
    assert made.before is not None
    assert made.files["model.bin"] + made.files["model.xml"] < made.before[0]
    card = targets.read_openvino(made.folder / "model.xml")
    assert (card["precision"], card["target"]) == (precision, "openvino")
    assert (made.checked.n, card["checked"]["origin"]) == (48 if precision == "fp16" else 32, "training")


@pytest.fixture(scope="module")
def tiny(class_folders: Path, weights_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "run"
    options = ("--recipe", "linear", "--folds", "3", "--backbone", weights_file("test_efficientnet"))
    said = graftage("train", class_folders, "-o", folder, *options)
    assert said.status == 0, said.err
    return folder / "model.safetensors"


def test_a_file_that_loses_too_much_is_refused_and_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any) -> None:
        halved(model)
        for tensor in model.graph.initializer:
            if tensor.name.startswith("body.") and tensor.name.endswith("_fp16"):
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))

    monkeypatch.setattr(lighter, "halved", broken)
    wanted = r"loses too much and was not kept: accuracy on 48 pictures that the model learnt from.* allowed -1\.0\. "
    with pytest.raises(gr.ExportError, match=wanted + r"Allow more with --max-loss, or .*Worst: .*jpg: "):
        gr.export(tiny, to="onnx", precision="fp16", output=tmp_path / "out" / "made")
    assert list((tmp_path / "out").iterdir()) == []


# ---------------------------------------------------------------- what is little enough


def answers(wrong: int, n: int = 100) -> list[Answer]:
    """Of the n, the export calls the first `wrong` b; the model calls all a."""
    return [Answer(f"{i}.jpg", "a", "b" if i < wrong else "a", 0.5, 0.1) for i in range(n)]


def measured(wrong: int, labels: dict[Path, str], max_loss: float = 0.01) -> Changed:
    pictures = tuple(Path(f"{i}.jpg") for i in range(100))
    chosen = Sample(pictures, labels, "named")
    return changed(answers(wrong), chosen, precision="int8", counts=(0, 0, 9), max_loss=max_loss)


def test_accuracy_may_fall_by_as_much_as_is_allowed_and_no_more() -> None:
    labels = {Path(f"{i}.jpg"): "a" for i in range(100)}
    assert measured(1, labels).loss.value == pytest.approx(0.01)  # type: ignore[union-attr]
    with pytest.raises(gr.ExportError, match=r"100\.0 %.* 98\.0 %.*change -2\.0 points .*allowed -1\.0.*fp16.*0\.jpg"):
        measured(2, labels)
    assert measured(2, labels, 0.02).same == 98


def test_labels_that_change_for_the_better_are_no_loss() -> None:
    labels = {Path(f"{i}.jpg"): "b" if i < 10 else "a" for i in range(100)}
    found = measured(10, labels)
    assert found.loss.value == pytest.approx(-0.1)  # type: ignore[union-attr]
    assert "change +10.0 points" in found.said


def test_without_known_classes_98_percent_must_agree() -> None:
    assert measured(2, {}).loss is None
    assert "no classes are known" in measured(2, {}).summary[1]
    with pytest.raises(gr.ExportError, match=r"another label for 3 of 100 pictures \(at least 98% must agree"):
        measured(3, {})


def test_an_answer_that_is_no_number_is_refused_whatever_is_allowed() -> None:
    bad = [Answer("x.jpg", "a", "", 0.5, float("inf"))]
    with pytest.raises(gr.ExportError, match=r"no probabilities for 1 of 1 pictures, such as x\.jpg"):
        changed(bad, Sample((Path("x.jpg"),)), precision="fp16", counts=(0, 0, 0), max_loss=1.0)
    with pytest.raises(gr.OptionError, match="none of the 3 pictures"):
        changed([], Sample(()), precision="fp16", counts=(3, 0, 0), max_loss=1.0)


# ---------------------------------------------------------------- which pictures


def run_of(folder: Path, splits: dict[str, int], *, digest: Callable[[int], int] = lambda i: i) -> Path:
    """A ledger that names as many pictures of each split; of two classes in turn."""
    lines, number = ["id,path,status,reason,label,split,group,width,height,digest"], 0
    for split, count in splits.items():
        for _ in range(count):
            path = folder / f"{number}.jpg"
            path.touch()
            lines.append(f"{number},{path},used,,{'ab'[number % 2]},{split},0,9,9,{digest(number)}")
            number += 1
    (folder / "ledger.csv").write_text("\n".join(lines))
    return folder / "model.safetensors"


def chosen(model: Path, **options: Any) -> Sample:
    return sample.sample(model, ["a", "b"], **{"lighter": True, "calibrates": True, **options})


def test_float32_is_checked_on_up_to_500_pictures_evenly_from_all(tmp_path: Path) -> None:
    found = chosen(run_of(tmp_path, {"train": 700, "test": 300}), lighter=False, calibrates=False)
    assert len(found.check) == 500
    assert sum(int(path.stem) >= 700 for path in found.check) == 150
    assert (found.labels, found.calibrate) == ({}, ())


def test_test_pictures_are_checked_first_and_never_calibrate(tmp_path: Path) -> None:
    found = chosen(run_of(tmp_path, {"train": 700, "test": 120}))
    assert {int(path.stem) for path in found.labels} == set(range(700, 820))
    assert (len(found.check), len(found.calibrate), found.origin) == (200, 200, "test")
    assert set(found.check) & set(found.calibrate) == set()
    assert all(int(path.stem) < 700 for path in found.calibrate)


def test_with_few_test_pictures_accuracy_is_that_of_all_that_do_not_calibrate(tmp_path: Path) -> None:
    found = chosen(run_of(tmp_path, {"train": 90, "test": 10}))
    assert (len(found.calibrate), len(found.check), found.origin) == (30, 70, "training")
    assert set(found.labels) == set(found.check)
    assert {int(path.stem) for path in found.check} >= set(range(90, 100))


def test_copies_of_what_calibrates_are_not_checked_on(tmp_path: Path) -> None:
    found = chosen(run_of(tmp_path, {"": 60}, digest=lambda i: i // 2))
    twins = {int(path.stem) // 2 for path in found.calibrate}
    assert len(twins) == 20
    assert twins & {int(path.stem) // 2 for path in found.check} == set()


def test_named_pictures_have_the_runs_class_or_that_of_their_folder(tmp_path: Path) -> None:
    model = run_of(tmp_path, {"train": 40})
    for name in ("b/new.jpg", "c/new.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    found = chosen(model, check=[tmp_path / "0.jpg", tmp_path / "b", tmp_path / "c"])
    assert found.labels == {tmp_path / "0.jpg": "a", tmp_path / "b" / "new.jpg": "b"}
    assert found.origin == "named"
    assert len(found.calibrate) == 39


def test_test_pictures_that_are_named_to_calibrate_are_left_out(tmp_path: Path) -> None:
    model = run_of(tmp_path, {"train": 4, "test": 3})
    found = chosen(model, calibrate=[tmp_path / f"{i}.jpg" for i in (1, 5, 6)])
    assert found.calibrate == (tmp_path / "1.jpg",)
    with pytest.raises(gr.OptionError, match="neither checked on nor in the run's test set"):
        chosen(model, calibrate=[tmp_path / "5.jpg"])
    with pytest.raises(gr.OptionError, match=r"9\.jpg: there is no such picture or folder to calibrate on"):
        chosen(model, calibrate=[tmp_path / "9.jpg"])


# ---------------------------------------------------------------- bad input


def test_bad_input_ends_with_2_and_says_what_to_do(tiny: Path, class_folders: Path, tmp_path: Path) -> None:
    alone = shutil.copy(tiny, tmp_path / "alone.safetensors")
    for options, message in (
        (("torch", "--precision", "int8"), "--to torch has float32 alone"),
        (("onnx", "--precision", "int4"), "invalid choice: 'int4'"),
        (("onnx", "--precision", "fp16", "--calibrate", class_folders), "--calibrate is for --precision int8"),
        (("onnx", "--max-loss", "2"), "--max-loss is for --precision fp16 and int8"),
        (("onnx", "--precision", "fp16", "--max-loss", "-1"), "--max-loss must be 0 to 100 points of accuracy, got -1"),
        (("onnx", "--precision", "int8", "--check", class_folders), "name some with --calibrate PHOTOS"),
    ):
        said = graftage("export", alone, "--to", *options)
        assert said.status == 2, (options, said.err)
        assert message in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["alone.safetensors"]


def test_the_command_line_names_what_there_is() -> None:
    """It lists them itself, so that `graftage --help` need not load what exports."""
    assert exporting.PRECISIONS == PRECISIONS
    assert exporting.MOST == sample.MOST
    assert tuple(targets.TARGETS) == exporting.FORMATS
