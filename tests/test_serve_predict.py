"""The classifier at work: a row for every input, the same bits as when it was measured, whatever the company."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import graftage as gr
import photos
from graftage.data.decode import Limits
from graftage.serve.bundle import load as load_bundle
from graftage.serve.predict import Prediction, Predictor, load
from photos import save, table


@pytest.fixture(scope="module")
def model(locked: Path) -> Predictor:
    return load(locked / "model.safetensors")


@pytest.fixture(scope="module")
def some(class_folders: Path) -> list[Path]:
    return sorted(class_folders.rglob("*.jpg"))[::5]


# ---------------------------------------------------------------- the same bits


def test_held_out_pictures_get_the_very_probabilities_of_the_run(
    model: Predictor, locked: Path, class_folders: Path
) -> None:
    rows = table(locked / "predictions.csv")
    assert len(rows) > 10
    for row, answer in zip(rows, model.predict([class_folders / row["id"] for row in rows]), strict=True):
        assert [row["p:1"], row["p:2"], row["p:10"]] == [f"{p:.9g}" for p in answer.probabilities]
        assert (row["predicted"], row["runner_up"]) == (answer.label, answer.runner_up)
        assert row["probability"] == f"{answer.probability:.9g}"


def test_company_and_threads_make_no_difference(model: Predictor, some: list[Path]) -> None:
    together = model.predict(some)
    assert [model.predict([path])[0] for path in some] == together
    assert model.predict(some[::-1], workers=3) == together[::-1]
    assert list(model.stream(iter(some), workers=1)) == together


def test_bytes_and_files_give_the_same(model: Predictor, some: list[Path]) -> None:
    for path, answer in zip(some[:3], model.predict(some[:3]), strict=True):
        assert model.predict_bytes(path.read_bytes(), name=str(path)) == answer


def test_a_moved_and_renamed_model_file_is_the_same_model(
    model: Predictor, locked: Path, some: list[Path], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "鸟 model.bin"
    moved.parent.mkdir()
    shutil.copy(locked / "model.safetensors", moved)
    assert load(moved).predict(some) == gr.load(str(moved)).predict(some) == model.predict(some)


def test_a_fresh_process_answers_the_same_and_loads_no_pytorch(
    model: Predictor, locked: Path, some: list[Path]
) -> None:
    code = (
        "import sys, graftage as gr\n"
        "for a in gr.load(sys.argv[1]).predict(sys.argv[2:]): print(repr(a))\n"
        "print(sorted({'torch', 'timm', 'openvino', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(locked / "model.safetensors"), *map(str, some[:3])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ))
    *answers, loaded = done.stdout.splitlines()
    assert answers == [repr(answer) for answer in model.predict(some[:3])]
    assert "'torch'" not in loaded
    assert "'timm'" not in loaded
    assert "'openvino'" in loaded


def test_features_become_the_same_probabilities(model: Predictor, some: list[Path]) -> None:
    p = model.probabilities(np.zeros((2, model.forward.features), np.float32))
    assert p.shape == (2, 3)
    assert p.sum(axis=1) == pytest.approx(1)


# ---------------------------------------------------------------- a row per input


def test_every_input_has_its_row_in_order(model: Predictor, some: list[Path], tmp_path: Path) -> None:
    empty, text, missing = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "missing.jpg"
    empty.touch()
    text.write_text("no picture")
    late = photos.broken_late(save(tmp_path, photos.crops("flower.jpg", 1))[0])
    inputs = [some[0], missing, some[1], empty, some[0], text, tmp_path, late, some[0]]
    answers = model.predict(inputs)
    assert [answer.path for answer in answers] == [str(path) for path in inputs]
    status = {0: "ok", 2: "ok", 4: "ok", 8: "ok"}
    assert [answer.status for answer in answers] == [status.get(i, "rejected") for i in range(9)]
    reasons = [answer.reason.split(":")[0] for answer in answers if answer.status == "rejected"]
    assert reasons == ["missing", "empty file", "not an image", "not a file", "corrupt"]
    assert answers[0] == answers[4] == answers[8]


def test_a_rejected_input_has_no_numbers(model: Predictor) -> None:
    answer = model.predict_bytes(b"", name="upload")
    assert answer == Prediction("upload", "rejected", "empty file", "", 0.0, "", ())
    assert answer.runner_up_probability == 0


def test_names_come_back_as_they_were_spelt(
    model: Predictor, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(class_folders)
    spelt = ["./2/0.jpg", "2//0.jpg", "2/../2/0.jpg", "./missing.jpg"]
    answers = model.predict(spelt)
    assert [answer.path for answer in answers] == spelt
    assert len({answer.probabilities for answer in answers[:3]}) == 1


def test_label_and_runner_up_are_the_first_and_second_of_the_probabilities(model: Predictor, some: list[Path]) -> None:
    for answer in model.predict(some):
        first, second = sorted(answer.probabilities, reverse=True)[:2]
        p = dict(zip(model.classes, answer.probabilities, strict=True))
        assert p[answer.label] == answer.probability == first
        assert p[answer.runner_up] == answer.runner_up_probability == second
        assert sum(p.values()) == pytest.approx(1)
        assert all(type(value) is float for value in answer.probabilities)


def test_a_stream_takes_its_inputs_as_it_needs_them(model: Predictor, some: list[Path]) -> None:
    taken = []

    def endless() -> Iterator[Path]:
        while True:
            taken.append(1)
            yield some[0]

    answers = model.stream(endless(), workers=2)
    first = [next(answers) for _ in range(3)]
    answers.close()
    assert len({answer.probabilities for answer in first}) == 1
    assert len(taken) < 100


def test_damaged_pictures_are_answered_only_where_asked(model: Predictor, some: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(some[0].read_bytes()[:-600])
    repairing = Predictor(model.bundle, model.forward, repair=True)
    assert model.predict([cut])[0].reason.startswith("truncated")
    answer = repairing.predict([cut])[0]
    assert answer.status == "repaired"
    assert answer.label in model.classes
    assert repairing.predict_bytes(cut.read_bytes(), name=str(cut)) == answer


def test_limits_are_obeyed(model: Predictor, some: list[Path]) -> None:
    strict = Predictor(model.bundle, model.forward, limits=Limits(max_pixels=100))
    assert strict.predict(some[:1])[0].reason.startswith("too many pixels")
    assert strict.predict_bytes(some[0].read_bytes()).reason.startswith("too many pixels")


def test_nothing_in_nothing_out(model: Predictor) -> None:
    assert model.predict([]) == []


# ---------------------------------------------------------------- what cannot be loaded


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(gr.BundleError, match=r"model\.safetensors: is not a graftage model"):
        load(tmp_path / "model.safetensors")
    with pytest.raises(gr.BundleError, match="there is no such file"):
        load(tmp_path / "missing.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(gr.BundleError, match="is not a graftage model"):
        load(tmp_path / "other.safetensors")
    assert load_file(tmp_path / "other.safetensors").keys() == {"a"}


def test_a_model_of_a_network_that_is_unknown_here_is_named(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftage.serve.bundle import save as save_bundle

    bundle = load_bundle(locked / "model.safetensors")
    save_bundle(
        replace(bundle, backbone=replace(bundle.backbone, architecture="network_of_tomorrow")),
        tmp_path / "model.safetensors",
    )
    with pytest.raises(gr.BundleError, match=r"model\.safetensors: its network cannot be built here: .*tomorrow"):
        load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda or mps, got 'tpu'"),
        ({"precision": "int4"}, "precision must be auto, float32 or bfloat16, got 'int4'"),
    ],
)
def test_bad_options_are_named(locked: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(gr.OptionError, match=message):
        gr.load(locked / "model.safetensors", **options)


def test_a_negative_number_of_threads_is_an_error(model: Predictor, some: list[Path]) -> None:
    with pytest.raises(gr.OptionError, match="workers must be 0 or more, got -1"):
        model.predict(some, workers=-1)


def test_eight_threads_get_the_answers_of_one(locked: Path, class_folders: Path) -> None:
    paths = sorted(class_folders.rglob("*.jpg"))
    shared = load(locked)
    expected = shared.predict(paths, workers=1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: shared.predict(paths[k:] + paths[:k], workers=2), range(8)))
        alone = list(pool.map(lambda path: shared.predict_bytes(path.read_bytes(), name=str(path)), paths))
    for k, answers in enumerate(found):
        assert answers == expected[k:] + expected[:k]
    assert alone == expected


def test_the_folder_of_a_run_stands_for_its_model(locked: Path, some: list[Path]) -> None:
    model = load(str(locked))
    assert model.source == str(locked / "model.safetensors")
    assert model.predict(some[:1]) == load(locked / "model.safetensors").predict(some[:1])


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(gr.BundleError, match=r"there is no model\.safetensors in this folder; give the folder that"):
        load(tmp_path)


@pytest.mark.parametrize(
    "words", [("predict",), ("explain", "-o", "{}/page.html"), ("evaluate",), ("compare", "{run}", "--data")]
)
def test_every_command_takes_the_folder_of_a_run(
    words: tuple[str, ...], locked: Path, class_folders: Path, tmp_path: Path
) -> None:
    photos.three_classes(tmp_path / "new", 4, seed=5)
    given = tmp_path / "new" / "2" / "0.jpg" if words[0] in ("predict", "explain") else tmp_path / "new"
    command, *rest = (word.format(tmp_path, run=locked) for word in words)
    answers = [photos.graftage(command, model, *rest, given) for model in (locked, locked / "model.safetensors")]
    assert [answer.status for answer in answers] == [0, 0], answers[0].err
    if command == "predict":
        assert answers[0].out == answers[1].out
