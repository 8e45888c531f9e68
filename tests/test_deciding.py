"""Promises through the whole job: from held-out answers, kept in the model file, the same in every way to predict."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graftage as gr
import photos
from graftage import deciding
from photos import graftage, read_json, save, table

CELLS = ("prediction_set", "abstained", "unlike_p", "unlike")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.three_classes(tmp_path_factory.mktemp("decided") / "photos", 50)


@pytest.fixture(scope="module")
def run(pictures: Path, own_cache: Path) -> tuple[Path, photos.Said]:
    folder = pictures.parent / "run"
    options = ("--test", "0.2", "--folds", "3", "--fit", "crop", "--recipe", "linear", "--max-error", "0.1")
    said = graftage("train", pictures, "-o", folder, *options)
    assert said.status == 0, said.err
    return folder, said


def cells_of(answer: gr.Prediction) -> list[str]:
    words = {None: "", True: "true", False: "false"}
    p = "" if answer.unlike_p is None else f"{answer.unlike_p:.9g}"
    names = json.dumps(list(answer.prediction_set), ensure_ascii=False) if answer.prediction_set else ""
    return [names, words[answer.abstained], p, words[answer.unlike]]


def test_held_out_pictures_get_the_very_decisions_of_the_run(run: tuple[Path, photos.Said], pictures: Path) -> None:
    rows = table(run[0] / "predictions.csv")
    answers = gr.load(run[0] / "model.safetensors").predict([pictures / row["id"] for row in rows])
    assert len(rows) == 30
    assert [[row[name] for name in CELLS] for row in rows] == [cells_of(answer) for answer in answers]
    assert {answer.prediction_set[0] == answer.label for answer in answers} == {True}
    assert [gr.load(run[0] / "model.safetensors").predict([a.path])[0] for a in answers[:4]] == answers[:4]


def test_metrics_say_what_was_promised_and_what_came_of_it(run: tuple[Path, photos.Said]) -> None:
    told, rows = read_json(run[0] / "metrics.json")["decisions"], table(run[0] / "predictions.csv")
    held = [row["label"] in json.loads(row["prediction_set"]) for row in rows]
    assert told["measured_on"] == "test set"
    assert told["prediction_sets"]["coverage"]["value"] == pytest.approx(np.mean(held))
    assert told["prediction_sets"]["rule"]["n"] == 120
    given = [row for row in rows if row["abstained"] == "false"]
    assert told["abstention"]["answered"]["value"] == pytest.approx(len(given) / 30)
    assert told["abstention"]["error"]["value"] == np.mean([row["label"] != row["predicted"] for row in given])
    assert told["unlike"]["false_alarms"]["value"] == np.mean([row["unlike"] == "true" for row in rows])
    assert told["risk_coverage"]["risk"][-1] == pytest.approx(np.mean([r["label"] != r["predicted"] for r in rows]))


def test_the_summary_and_the_page_tell_of_them(run: tuple[Path, photos.Said]) -> None:
    names = ("prediction sets", "sure answers", "unlike flag")
    lines = [line for line in run[1].out.splitlines() if line.startswith(names)]
    assert [line[: len(name)] for line, name in zip(lines, names, strict=True)] == list(names)
    assert all(" to " in line for line in lines)
    page = (run[0] / "report.html").read_text("utf-8")
    assert "Sure answers that are wrong" in page
    assert re.search(r'<svg class="curve" role="img"[^>]*><title>Of all answers', page)


def test_pictures_of_another_kind_have_the_lowest_p_values(run: tuple[Path, photos.Said], tmp_path: Path) -> None:
    """Of 120 pictures one is odder than noise, so that a flag at 1 % is out of reach; the second place is not."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (110, 110, 3), dtype=np.uint8)) for _ in range(5)]
    kin = save(tmp_path / "kin", photos.crops("flower.jpg", 20, seed=9))
    model = gr.load(run[0] / "model.safetensors")
    strange, usual = model.predict(save(tmp_path / "noise", noise)), model.predict(kin)
    assert max(a.unlike_p for a in strange) <= 2 / 121 + 1e-9
    assert min(a.unlike_p for a in usual) > max(a.unlike_p for a in strange)
    shown = graftage("predict", run[0] / "model.safetensors", tmp_path / "noise", "--format", "table").out
    assert shown.count("unlike anything trained on") == sum(bool(a.unlike) for a in strange)


def test_the_command_writes_what_python_says(run: tuple[Path, photos.Said], pictures: Path) -> None:
    paths = sorted(pictures.rglob("*.jpg"))[::40]
    said = graftage("predict", run[0] / "model.safetensors", *paths)
    answers = gr.load(run[0] / "model.safetensors").predict(paths)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [[row[name] for name in CELLS] for row in rows] == [cells_of(answer) for answer in answers]


def test_without_a_test_set_each_fold_is_judged_by_the_others_and_that_is_said(
    finished: tuple[Path, photos.Said],
) -> None:
    told, rows = read_json(finished[0] / "metrics.json")["decisions"], table(finished[0] / "predictions.csv")
    assert told["measured_on"].startswith("out-of-fold answers")
    held = [row["label"] in json.loads(row["prediction_set"]) for row in rows]
    assert told["prediction_sets"]["coverage"]["value"] == pytest.approx(np.mean(held))
    assert "needs 99 training pictures" in told["reasons"]["unlike"]
    assert "230" in told["reasons"]["answers"]
    assert {row["unlike"] for row in rows} == {row["abstained"] for row in rows} == {""}
    assert "not promised" in (finished[0] / "report.html").read_text("utf-8")


def test_too_few_pictures_get_no_sets_and_the_reason(tmp_path: Path) -> None:
    run = gr.train(photos.two_classes(tmp_path / "photos", 10), output=tmp_path / "run", folds="2", fit="crop")
    told = read_json(run.folder / "metrics.json")["decisions"]
    assert told["prediction_sets"] == {"rule": None, "coverage": None, "size": None}
    assert "from 20 held-out pictures; it needs 22" in told["reasons"]["sets"]
    answer = run.predict([tmp_path / "photos" / "dahlia" / "0.jpg"])[0]
    assert (answer.prediction_set, answer.abstained, answer.unlike_p, answer.unlike) == ((), None, None, None)
    assert run.model.decisions.reasons == told["reasons"]


def test_evaluation_measures_the_promises_on_other_pictures(run: tuple[Path, photos.Said], tmp_path: Path) -> None:
    other = photos.three_classes(tmp_path / "other", 8, seed=5)
    found = gr.evaluate(run[0] / "model.safetensors", other, output=tmp_path / "out")
    told, rows = read_json(tmp_path / "out" / "metrics.json")["decisions"], table(tmp_path / "out" / "predictions.csv")
    assert told["n"] == len(rows) == 24
    assert told["unlike"]["false_alarms"]["value"] == np.mean([row["unlike"] == "true" for row in rows])
    assert any(line.startswith("prediction sets") for line in found.summary)


@pytest.mark.parametrize("test", ["0.34", "none"])
def test_a_tuned_network_is_judged_by_one_that_was_trained_without_the_pictures(
    test: str, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "FALSE_ALARM", 0.25)  # so that few pictures are enough
    opened, asked = [], []
    real_open, real_features = deciding._opened, deciding._features
    monkeypatch.setattr(deciding, "_opened", lambda *a: opened.append(real_open(*a)) or opened[-1])
    monkeypatch.setattr(deciding, "_features", lambda *a: asked.append((a[4][1], a[5])) or real_features(*a))
    root = photos.two_classes(tmp_path / "photos", 18)
    options = {"fit": "squash", "test": test, "folds": "2", "recipe": "full", "epochs": 1, "batch_size": 8}
    run = gr.train(root, output=tmp_path / "run", backbone=weights_file("test_resnet"), **options)
    assert len(opened) == 1
    (first, fitted), (second, judged), (last, again) = asked
    assert first is second is opened[0]
    assert last is not first
    assert (np.intersect1d(fitted, judged).size, again.tolist()) == (0, fitted.tolist())
    model = gr.load(run.model_path)
    assert model.decisions.unlike is not None
    rows = table(run.folder / "predictions.csv")
    answers = model.predict([root / row["id"] for row in rows])
    assert all(answer.unlike_p is not None for answer in answers)
    if test != "none":
        assert [[row[name] for name in CELLS] for row in rows] == [cells_of(answer) for answer in answers]
