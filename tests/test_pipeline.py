"""The whole job: a folder of labelled pictures becomes a model, its scores and the tables that account for both."""

import math
import os
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graftage as gr
import photos
from graftage.looking import Looked
from graftage.measure.interval import CROSS_VALIDATED, wilson
from graftage.pipeline import fit
from photos import BROKEN, by_id, changed, graftage, read_json, save, table

FILES = {
    "model.safetensors", "report.html", "metrics.json", "predictions.csv",
    "ledger.csv", "problems.csv", "config.toml", "log.jsonl",
}  # fmt: skip
SAME = sorted(FILES - {"report.html", "config.toml", "log.jsonl"})  # the rest tell where and when
QUICK = ("--folds", "3", "--fit", "crop")
LIMITS = ("--max-bytes", 150_000, "--max-pixels", 1_000_000)


def train(data: Path, output: Path, *options: object) -> photos.Said:
    said = graftage("train", data, "-o", output, *(options or QUICK))
    assert said.status == 0, said.err
    return said


def tensors(run: Path) -> dict[str, bytes]:
    """The tensors of a model, and what in its header belongs to the classifier; not its scores."""
    bundle = gr.load(run / "model.safetensors").bundle
    arrays = {**bundle.weights, **bundle.head.to_tensors()}
    settled = repr((bundle.classes, bundle.preprocess, bundle.head.to_json(), bundle.temperature, bundle.data))
    return {**{name: array.tobytes() for name, array in arrays.items()}, "": settled.encode()}


def different(one: Path, other: Path) -> list[str]:
    return [name for name in SAME if (one / name).read_bytes() != (other / name).read_bytes()]


# ---------------------------------------------------------------- what a run leaves


def test_a_run_leaves_exactly_its_files(finished: tuple[Path, photos.Said]) -> None:
    assert {path.name for path in finished[0].iterdir()} == FILES
    assert {path.name for path in finished[0].parent.iterdir()} == {"run"}


def test_the_summary_is_about_ten_lines_and_every_number_has_its_interval(finished: tuple[Path, photos.Said]) -> None:
    lines = finished[1].out.splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[0] == "48 pictures of 3 classes used"
    numbers = [line for line in lines if line.startswith(("accuracy", "macro", "balanced", "log-loss", "majority"))]
    assert len(numbers) == 5
    assert all(" to " in line and "(" in line for line in numbers)
    assert "95 % intervals" in finished[1].out
    assert f"report              {finished[0] / 'report.html'}" in lines


def test_classes_come_in_natural_order(finished: tuple[Path, photos.Said]) -> None:
    assert gr.load(finished[0] / "model.safetensors").classes == ("1", "2", "10")
    assert list(table(finished[0] / "predictions.csv")[0])[-3:] == ["p:1", "p:2", "p:10"]
    assert read_json(finished[0] / "metrics.json")["scores"]["classes"] == ["1", "2", "10"]


def test_the_ledger_has_a_row_per_file(finished: tuple[Path, photos.Said], class_folders: Path) -> None:
    files = {path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.jpg")}
    rows = table(finished[0] / "ledger.csv")
    assert {row["id"] for row in rows} == files
    assert len(rows) == len(files) == 48
    assert {row["status"] for row in rows} == {"used"}
    assert all(row["id"].split("/")[0] == row["label"] for row in rows)


def test_the_locked_scores_can_be_recomputed_from_the_predictions(locked: Path) -> None:
    scores, rows = read_json(locked / "metrics.json")["scores"], table(locked / "predictions.csv")
    right = [row["label"] == row["predicted"] for row in rows]
    losses = [-math.log(float(row[f"p:{row['label']}"])) for row in rows]
    assert 0.5 < np.mean(right) < 1  # a classifier that is neither blind nor perfect: the numbers say something
    assert scores["n"] == len(rows)
    assert scores["accuracy"]["value"] == pytest.approx(np.mean(right), abs=1e-12)
    assert scores["log_loss"]["value"] == pytest.approx(np.mean(losses), rel=1e-7)


def test_each_prediction_row_is_consistent(finished: tuple[Path, photos.Said]) -> None:
    for row in table(finished[0] / "predictions.csv"):
        p = {name: float(row[f"p:{name}"]) for name in ("1", "2", "10")}
        assert sum(p.values()) == pytest.approx(1, abs=1e-7)
        assert p[row["predicted"]] == float(row["probability"]) == max(p.values())
        assert p[row["runner_up"]] == sorted(p.values())[1]


def test_cross_validated_scores_are_corrected_and_say_so(finished: tuple[Path, photos.Said]) -> None:
    found, rows = read_json(finished[0] / "metrics.json"), table(finished[0] / "predictions.csv")
    plain = np.mean([row["label"] == row["predicted"] for row in rows])
    assert found["scores"]["accuracy"]["method"].startswith("BBC")
    assert found["scores"]["accuracy"]["value"] <= plain + 1e-9  # the winner's luck is taken out, never put in
    assert "bias-corrected" in found["how"]
    confusion = np.array(found["scores"]["confusion"])
    assert confusion.trace() / confusion.sum() == pytest.approx(plain)  # the matrix stays as counted


def test_the_choice_is_listed_and_one_is_chosen(finished: tuple[Path, photos.Said]) -> None:
    tried = read_json(finished[0] / "metrics.json")["tried"]
    assert [trial["chosen"] for trial in tried].count(True) == 1
    assert any("crop" in trial["name"] for trial in tried)
    assert any("squash" in trial["name"] for trial in tried)


# ---------------------------------------------------------------- a messy folder


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = photos.two_classes(tmp_path_factory.mktemp("messy") / "photos", 6)
    palace, dahlia = root / "palace", root / "dahlia"
    plain = Image.open(palace / "0.jpg").copy()
    whole = (palace / "1.jpg").read_bytes()
    (palace / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (palace / "empty.jpg").touch()
    (palace / "text.jpg").write_text("this is no picture")
    (palace / "link.jpg").symlink_to("nowhere.jpg")
    (palace / "large.bmp").write_bytes(b"BM" + bytes(200_000))
    Image.new("1", (3000, 3000)).save(palace / "wide.png")
    plain.save(dahlia / "in truth a png.jpg", "PNG")
    photos.broken_late(save(dahlia, [plain.rotate(90)], prefix="late")[0])
    (dahlia / "中文.png").write_bytes(_png(plain.rotate(10)))
    (dahlia / "two\nlines.png").write_bytes(_png(plain.rotate(20)))
    Path(os.fsdecode(os.fsencode(dahlia) + b"/caf\xe9.png")).write_bytes(_png(plain.rotate(30)))
    plain.convert("CMYK").save(dahlia / "cmyk.tif")
    plain.convert("P").save(dahlia / "palette.gif")
    Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257).save(dahlia / "deep.png")
    (dahlia / ".hidden.jpg").write_text("x")
    (dahlia / "Thumbs.db").write_text("x")
    (root / ".ipynb_checkpoints").mkdir()
    (root / "nothing").mkdir()
    (root / "readme.txt").write_text("beside the class folders")
    return root


def _png(picture: Image.Image) -> bytes:
    path = Path(os.environ["GRAFTAGE_CACHE"]) / "one.png"
    picture.save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def messy_run(messy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Said]:
    folder = tmp_path_factory.mktemp("messy-run") / "run"
    return folder, train(messy, folder, *QUICK, *LIMITS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("palace/truncated.jpg", "truncated"),
        ("palace/empty.jpg", "empty file"),
        ("palace/text.jpg", "not an image"),
        ("palace/link.jpg", "broken link"),
        ("palace/large.bmp", "too many bytes"),
        ("palace/wide.png", "too many pixels"),
        ("dahlia/late0.jpg", "corrupt"),
        ("readme.txt", "not in a class folder"),
    ],
)
def test_what_cannot_be_used_has_its_row_and_reason(
    messy_run: tuple[Path, photos.Said], name: str, reason: str
) -> None:
    row = by_id(messy_run[0] / "ledger.csv")[name]
    assert row["status"] == "rejected"
    assert row["reason"].startswith(reason)
    assert (row["group"], row["label"]) == ("-1", name.split("/")[0] if "/" in name else "")
    problem = [problem for problem in table(messy_run[0] / "problems.csv") if problem["id"] == name]
    assert [(p["kind"], p["detail"]) for p in problem] == [("rejected", row["reason"])]


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("dahlia/in truth a png.jpg", "PNG content in a .jpg name"),
        ("dahlia/中文.png", ""),
        ("dahlia/two\nlines.png", ""),
        (r"dahlia/caf\xe9.png", ""),
        ("dahlia/cmyk.tif", "CMYK"),
        ("dahlia/palette.gif", ""),
        ("dahlia/deep.png", "16"),
    ],
)
def test_what_is_odd_is_used_and_noted(messy_run: tuple[Path, photos.Said], name: str, remark: str) -> None:
    row = by_id(messy_run[0] / "ledger.csv")[name]
    assert row["status"] == "used"
    assert remark in row["reason"]
    assert name in {prediction["id"] for prediction in table(messy_run[0] / "predictions.csv")}


def test_hidden_files_are_no_rows_and_empty_folders_no_classes(messy_run: tuple[Path, photos.Said]) -> None:
    assert len(table(messy_run[0] / "ledger.csv")) == 12 + 8 + 7
    assert gr.load(messy_run[0] / "model.safetensors").classes == ("dahlia", "palace")
    empty = [p for p in table(messy_run[0] / "problems.csv") if p["kind"] == "empty class"]
    assert [p["id"] for p in empty] == ["nothing"]


def test_the_summary_counts_what_was_left_out(messy_run: tuple[Path, photos.Said]) -> None:
    assert messy_run[1].out.startswith("19 pictures of 2 classes used, 8 left out (why: ledger.csv)\n")
    assert read_json(messy_run[0] / "metrics.json")["pictures"] == {"used": 19, "repaired": 0, "rejected": 8}
    assert "late0.jpg" in (messy_run[0] / "report.html").read_text(encoding="utf-8")


def test_repair_uses_the_truncated_picture_and_says_so(messy: Path, tmp_path: Path) -> None:
    said = train(messy, tmp_path / "run", *QUICK, *LIMITS, "--repair")
    row = by_id(tmp_path / "run" / "ledger.csv")["palace/truncated.jpg"]
    assert (row["status"], row["reason"].split(";")[0]) == ("repaired", "truncated")
    assert said.out.startswith("20 pictures")
    kinds = {p["id"]: p["kind"] for p in table(tmp_path / "run" / "problems.csv") if p["kind"] == "repaired"}
    assert kinds == {"palace/truncated.jpg": "repaired"}
    again = graftage("predict", tmp_path / "run" / "model.safetensors", messy / "palace" / "truncated.jpg", "--repair")
    assert ",repaired," in again.out
    assert ',rejected,"truncated' in graftage("predict", tmp_path / "run/model.safetensors", messy / "palace").out


def test_a_file_without_permission_has_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos.two_classes(tmp_path / "photos", 4)
    really = Path.read_bytes

    def refuse(path: Path) -> bytes:  # root may read everything, whatever the mode says
        if path.name == "3.jpg" and path.parent.name == "palace":
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    train(root, tmp_path / "run")
    row = by_id(tmp_path / "run" / "ledger.csv")["palace/3.jpg"]
    assert (row["status"], row["reason"]) == ("rejected", "permission denied")


# ---------------------------------------------------------------- splits


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train, val and test folders of class folders."""
    root = tmp_path_factory.mktemp("parted")
    photos.two_classes(root / "train", 8, seed=1)
    photos.two_classes(root / "val", 3, seed=2)
    photos.two_classes(root / "test", 4, seed=3)
    return root


def subset(root: Path, target: Path, *parts: str) -> Path:
    for part in parts:
        (target / part).mkdir(parents=True)
        for folder in (root / part).iterdir():
            save(target / part / folder.name, [])
            for path in folder.iterdir():
                (target / part / folder.name / path.name).write_bytes(path.read_bytes())
    return target


def held_out(run: Path) -> Counter[str]:
    return Counter(row["id"].split("/")[0] for row in table(run / "predictions.csv"))


@pytest.mark.parametrize(
    ("parts", "tested", "learnt", "words"),
    [
        (("train", "val", "test"), {"test": 8}, 22, "the test folder as it was given"),
        (("train", "test"), {"test": 8}, 16, "the test folder as it was given"),
        (("train", "val"), {"val": 6}, 16, "it serves as the test set"),
        (("train",), {"train": 16}, 16, "cross-validation"),
    ],
)
def test_the_users_own_split_is_honoured(
    parted: Path, tmp_path: Path, parts: tuple[str, ...], tested: dict[str, int], learnt: int, words: str
) -> None:
    train(subset(parted, tmp_path / "photos", *parts), tmp_path / "run")
    found = read_json(tmp_path / "run" / "metrics.json")
    assert held_out(tmp_path / "run") == tested
    assert found["learnt_from"] == learnt == gr.load(tmp_path / "run" / "model.safetensors").bundle.data["n"]
    assert words in found["how"]
    rows = table(tmp_path / "run" / "ledger.csv")
    assert all(row["split"] == row["id"].split("/")[0] for row in rows)


def test_the_test_folder_never_touches_the_model(parted: Path, tmp_path: Path) -> None:
    root = subset(parted, tmp_path / "photos", "train", "test")
    train(root, tmp_path / "one")
    palace, dahlia = root / "test" / "palace", root / "test" / "dahlia"
    palace.rename(root / "test" / "swap")
    dahlia.rename(palace)
    (root / "test" / "swap").rename(dahlia)
    save(palace, [Image.new("RGB", (300, 40), "red")], prefix="new")
    train(root, tmp_path / "two")
    assert tensors(tmp_path / "one") == tensors(tmp_path / "two")
    first, second = (read_json(tmp_path / name / "metrics.json")["scores"] for name in ("one", "two"))
    assert first["accuracy"]["value"] > 0.7 > 0.3 > second["accuracy"]["value"]  # but the score does see it


@pytest.mark.parametrize("first", ["crop", "squash"])
def test_the_square_is_chosen_without_the_test_folder(
    parted: Path, cold: Path, tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Looked.gate
    monkeypatch.setattr(Looked, "gate", lambda self, catalog, **rest: gate(self, catalog, **{**rest, "first": first}))
    root = subset(parted, tmp_path / "photos", "train", "test")
    save(root / "test" / "palace", [Image.new("RGB", (300, 40), "red")], prefix="wide")  # would bring padding into play
    train(root, tmp_path / "run", "--folds", "3")
    stores = [sqlite3.connect(path) for path in (cold / "features").glob("[!l]*.sqlite")]  # no looks
    seen = sorted(store.execute("SELECT count(*) FROM features").fetchone()[0] for store in stores)
    for store in stores:
        store.close()
    chosen = read_json(tmp_path / "run" / "metrics.json")["fit"]
    # all pictures are looked at with the first, the other is tried on those of training: on the rest only if chosen
    assert seen == ([16, 16 + 9] if chosen == first else [16 + 9, 16 + 9])


def test_a_share_is_locked_away_within_each_class(locked: Path) -> None:
    rows = table(locked / "ledger.csv")
    parts = {name: Counter(row["split"] for row in rows if row["label"] == name) for name in ("1", "2", "10")}
    assert all(part["test"] in (4, 5, 6) and part["train"] == 16 - part["test"] for part in parts.values())
    assert {row["id"] for row in table(locked / "predictions.csv")} == {r["id"] for r in rows if r["split"] == "test"}
    assert "locked away before anything was learnt" in read_json(locked / "metrics.json")["how"]


def test_locked_pictures_never_touch_the_model(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    victim = class_folders / next(row["id"] for row in table(locked / "ledger.csv") if row["split"] == "test")
    other = save(tmp_path, photos.crops("flower.jpg", 1, seed=99))[0].read_bytes()
    with changed(victim, other):
        train(class_folders, tmp_path / "run", "--test", "0.3", *QUICK)
    assert tensors(locked) == tensors(tmp_path / "run")
    assert "predictions.csv" in different(locked, tmp_path / "run")


def test_cross_validation_can_be_asked_for_and_its_folds_told(class_folders: Path, tmp_path: Path) -> None:
    train(class_folders, tmp_path / "run", "--test", "none", "--folds", "3x2", "--fit", "crop")
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert "3-fold cross-validation, repeated 2 times" in metrics["how"]
    assert len(table(tmp_path / "run" / "predictions.csv")) == 48
    for simple in metrics["baselines"]:  # their intervals are those of cross-validation, too
        found, usual = simple["accuracy"], wilson(simple["accuracy"]["value"], metrics["scores"]["effective_n"])
        assert found["low"] == pytest.approx(found["value"] + CROSS_VALIDATED * (usual.low - usual.value))


@pytest.mark.parametrize("test", ["0.3", "none"])
def test_a_test_folder_is_never_learnt_from_even_if_asked(parted: Path, tmp_path: Path, test: str) -> None:
    said = graftage("train", parted, "-o", tmp_path / "run", "--test", test, *QUICK)
    assert said.status == 2
    assert "has a test folder, which is never learnt from" in said.err


def test_a_share_of_a_parted_folder_is_named_in_the_ledger(parted: Path, tmp_path: Path) -> None:
    root = subset(parted, tmp_path / "photos", "train", "val")
    train(root, tmp_path / "run", "--test", "0.3", *QUICK)
    rows = table(tmp_path / "run" / "ledger.csv")
    named = {row["id"] for row in rows if row["split"] == "test"}
    assert named == {row["id"] for row in table(tmp_path / "run" / "predictions.csv")}
    assert {row["split"] for row in rows} == {"train", "test"}


def test_a_test_folder_without_a_usable_picture_is_an_error(parted: Path, tmp_path: Path) -> None:
    root = subset(parted, tmp_path / "photos", "train", "test")
    for path in (root / "test").rglob("*.jpg"):
        path.write_bytes(b"gone")
    with pytest.raises(gr.DataError, match=r"none of the pictures to test on \(test folder\) can be used"):
        gr.train(root, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_folder_may_lack_a_class_or_have_one_too_many(parted: Path, tmp_path: Path) -> None:
    root = subset(parted, tmp_path / "photos", "train", "test")
    (root / "test" / "palace").rename(root / "test" / "castle")
    train(root, tmp_path / "run")
    rows = by_id(tmp_path / "run" / "ledger.csv")
    assert rows["test/castle/0.jpg"]["reason"] == "class not in train"
    assert held_out(tmp_path / "run") == {"test": 4}
    by_class = {row["name"]: row["n"] for row in read_json(tmp_path / "run" / "metrics.json")["scores"]["per_class"]}
    assert by_class == {"dahlia": 4, "palace": 0}


# ---------------------------------------------------------------- the same again


def test_the_same_command_gives_the_same_bytes(
    finished: tuple[Path, photos.Said], class_folders: Path, tmp_path: Path
) -> None:
    said = graftage("train", class_folders, "-o", tmp_path / "elsewhere", "-j", "3")  # the features are there by now
    assert said.status == 0
    assert different(finished[0], tmp_path / "elsewhere") == []


def test_a_cold_cache_and_one_thread_give_the_same_bytes(
    finished: tuple[Path, photos.Said], cold: Path, class_folders: Path, tmp_path: Path
) -> None:
    said = graftage("train", class_folders, "-o", tmp_path / "run", "-j", "1")
    assert said.status == 0
    assert different(finished[0], tmp_path / "run") == []
    assert list((cold / "features").glob("*.sqlite"))  # they were computed here


def test_a_run_can_be_repeated_from_its_config(finished: tuple[Path, photos.Said], tmp_path: Path) -> None:
    said = graftage("train", "-c", finished[0] / "config.toml", "-o", tmp_path / "again")
    assert said.status == 0
    assert different(finished[0], tmp_path / "again") == []
    first, second = ((path / "config.toml").read_text().splitlines() for path in (finished[0], tmp_path / "again"))
    changed_lines = [line for line in first if line not in second]
    assert [line.split(" = ")[0] for line in changed_lines] == ["output"]


def test_another_seed_gives_another_draw(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    train(class_folders, tmp_path / "run", "--test", "0.3", "--seed", "7", *QUICK)
    drawn = [{row["id"] for row in table(run / "predictions.csv")} for run in (locked, tmp_path / "run")]
    assert drawn[0] != drawn[1]


def test_a_renamed_folder_of_pictures_gives_the_same_model(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "moved", 16)
    train(root, tmp_path / "run", "--test", "0.3", *QUICK)
    assert different(locked, tmp_path / "run") == ["ledger.csv"]  # it says where the files lie


# ---------------------------------------------------------------- evaluate


def evaluate(*arguments: object) -> photos.Said:
    return graftage("evaluate", *arguments)


def test_evaluate_on_other_pictures(finished: tuple[Path, photos.Said], tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "new", 4, seed=5)
    said = evaluate(finished[0] / "model.safetensors", root, "-o", tmp_path / "out")
    assert said.status == 0, said.err
    assert said.out.startswith("12 pictures measured, 0 left out\naccuracy ")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"metrics.json", "predictions.csv", "ledger.csv", "report.html"}
    rows, scores = table(tmp_path / "out" / "predictions.csv"), read_json(tmp_path / "out" / "metrics.json")["scores"]
    assert scores["accuracy"]["value"] == pytest.approx(np.mean([r["label"] == r["predicted"] for r in rows]))
    assert all(row["label"] == row["id"].split("/")[0] for row in rows)
    assert [(row["status"], row["split"]) for row in table(tmp_path / "out" / "ledger.csv")] == [("used", "test")] * 12


def test_evaluate_and_predict_say_the_same(finished: tuple[Path, photos.Said], tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "new", 2, seed=5)
    model = gr.load(finished[0] / "model.safetensors")
    found = gr.evaluate(model, root, output=tmp_path / "out")
    rows = table(tmp_path / "out" / "predictions.csv")
    answers = model.predict([root / row["id"] for row in rows])
    assert [float(row["probability"]) for row in rows] == [float(f"{a.probability:.9g}") for a in answers]
    assert found.scores.n == 6
    assert found.folder == tmp_path / "out"


def test_evaluate_leaves_out_what_the_model_was_trained_on(finished: tuple[Path, photos.Said], tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "new", 3, seed=5)
    save(root / "2", photos.crops("flower.jpg", 2), prefix="known")  # as in the training folder, under other names
    said = evaluate(finished[0] / "model.safetensors", root, "-o", tmp_path / "out")
    assert "9 pictures measured, 2 left out" in said.out
    assert "2 of 11 pictures were trained on; they are left out of the scores" in said.out
    reasons = {row["id"]: row["reason"] for row in table(tmp_path / "out" / "ledger.csv") if row["reason"]}
    assert reasons == dict.fromkeys(["2/known0.jpg", "2/known1.jpg"], "the model was trained on it")


def test_evaluate_on_the_training_folder_is_an_error_that_says_why(
    finished: tuple[Path, photos.Said], class_folders: Path, tmp_path: Path
) -> None:
    said = evaluate(finished[0] / "model.safetensors", class_folders, "-o", tmp_path / "out")
    assert said.status == 2
    assert "no picture is left to measure on; 48 left out: the model was trained on it" in said.err
    assert not (tmp_path / "out").exists()


def test_evaluate_knows_classes_by_name_and_reports_those_it_does_not_know(locked: Path, tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "new", 3, seed=5)
    (root / "1").rename(root / "one")  # unknown to the model; the class 1 is missing now
    (root / "10" / "bad.jpg").write_bytes(b"")
    said = evaluate(locked / "model.safetensors", root, "-o", tmp_path / "out")
    assert said.status == 0, said.err
    assert "6 pictures measured, 4 left out" in said.out
    rows = by_id(tmp_path / "out" / "ledger.csv")
    assert rows["one/0.jpg"]["reason"] == "the model does not know this class"
    assert rows["10/bad.jpg"]["reason"] == "empty file"
    assert {row["label"] for row in table(tmp_path / "out" / "predictions.csv")} == {"2", "10"}
    flowers = [row for row in table(tmp_path / "out" / "predictions.csv") if row["label"] == "2"]
    assert [row["predicted"] for row in flowers] == ["2"] * 3


def test_evaluate_takes_the_test_folder_of_a_parted_folder(parted: Path, tmp_path: Path) -> None:
    train(parted / "train", tmp_path / "run")
    said = evaluate(tmp_path / "run" / "model.safetensors", parted, "-o", tmp_path / "out")
    assert "measured on the test folder alone" in said.out
    rows = table(tmp_path / "out" / "ledger.csv")
    assert Counter(row["status"] for row in rows if row["split"] == "test") == {"used": 8}
    assert {row["reason"] for row in rows if row["split"] == "val"} == {"not in the test folder"}


def test_evaluate_obeys_repair_and_the_models_limits(locked: Path, tmp_path: Path) -> None:
    root = photos.three_classes(tmp_path / "new", 2, seed=5)
    path = root / "2" / "0.jpg"
    path.write_bytes(path.read_bytes()[:-800])
    assert "5 pictures measured, 1 left out" in evaluate(locked / "model.safetensors", root).out
    said = evaluate(locked / "model.safetensors", root, "--repair", "-o", tmp_path / "out")
    assert "6 pictures measured, 0 left out" in said.out
    assert by_id(tmp_path / "out" / "ledger.csv")["2/0.jpg"]["status"] == "repaired"


def test_evaluate_never_replaces_a_training_run(finished: tuple[Path, photos.Said], class_folders: Path) -> None:
    before = (finished[0] / "metrics.json").read_bytes()
    said = evaluate(finished[0] / "model.safetensors", class_folders, "-o", finished[0])
    assert said.status == 2
    assert "holds a training run" in said.err
    assert (finished[0] / "metrics.json").read_bytes() == before


# ---------------------------------------------------------------- honest numbers


def test_noise_is_called_noise(tmp_path: Path) -> None:
    said = train(photos.noise(tmp_path / "photos", 20), tmp_path / "run")
    assert "No signal found" in said.out
    assert "No signal found" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_signal_is_not_called_noise(finished: tuple[Path, photos.Said]) -> None:
    assert "No signal" not in finished[1].out


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which many are there twice or thrice, some of them in the other class too."""
    root = photos.two_classes(tmp_path_factory.mktemp("copied") / "photos", 10)
    for i in range(6):
        (root / "palace" / f"copy-{i}.jpg").write_bytes((root / "palace" / f"{i % 3}.jpg").read_bytes())
    (root / "dahlia" / "wrong.jpg").write_bytes((root / "palace" / "9.jpg").read_bytes())
    return root


def test_copies_never_lie_on_both_sides_of_the_lock(copied: Path, tmp_path: Path) -> None:
    for seed in range(2):
        train(copied, tmp_path / f"run{seed}", "--test", "0.4", "--seed", seed, *QUICK)
        sides = defaultdict(set)
        for row in table(tmp_path / f"run{seed}" / "ledger.csv"):
            sides[row["digest"]].add((row["group"], row["split"]))
        assert all(len(side) == 1 for side in sides.values())
        assert {split for side in sides.values() for _, split in side} == {"train", "test"}


def test_copies_in_two_classes_are_a_problem_and_a_notice(copied: Path, tmp_path: Path) -> None:
    said = train(copied, tmp_path / "run")
    first = table(tmp_path / "run" / "problems.csv")[0]
    assert (first["severity"], first["kind"], first["id"]) == ("error", "conflicting labels", "dahlia/wrong.jpg")
    assert "palace/9.jpg" in first["detail"]
    assert "1 pictures have a copy in another class" in said.out


def test_a_copied_picture_gains_nothing_in_cross_validation(tmp_path: Path) -> None:
    """Noise, each picture there three times: memorising would be rewarded if copies lay in different folds."""
    root = photos.noise(tmp_path / "photos", 12)
    for path in sorted(root.rglob("*.jpg")):
        for number in range(2):
            path.with_name(f"{path.stem}-{number}.jpg").write_bytes(path.read_bytes())
    said = train(root, tmp_path / "run")
    assert read_json(tmp_path / "run" / "metrics.json")["scores"]["accuracy"]["value"] < 0.75
    assert "No signal found" in said.out


def test_a_copy_in_the_users_own_test_folder_is_told(parted: Path, tmp_path: Path) -> None:
    root = subset(parted, tmp_path / "photos", "train", "val", "test")
    for part, name in (("train", "a.jpg"), ("val", "b.jpg")):  # both are learnt from
        (root / "test" / "palace" / name).write_bytes((root / part / "palace" / "0.jpg").read_bytes())
    (root / "val" / "palace" / "c.jpg").write_bytes((root / "train" / "palace" / "1.jpg").read_bytes())  # no harm
    said = train(root, tmp_path / "run")
    assert "2 of 10 test pictures are also in train, as copies or in one group" in said.out
    assert held_out(tmp_path / "run") == {"test": 8}
    shared = [p["id"] for p in table(tmp_path / "run" / "problems.csv") if p["kind"] == "train and test share"]
    assert sorted(shared) == ["test/palace/a.jpg", "test/palace/b.jpg"]


def test_equal_probabilities_are_counted_as_they_are_written(tmp_path: Path) -> None:
    """Both classes are the same pictures: every probability is a tie, and tables and scores must break it alike."""
    for name in ("a", "b"):
        save(tmp_path / "photos" / name, [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")])
    train(tmp_path / "photos", tmp_path / "run", "--folds", "2", "--fit", "crop", "--test", "0.34")
    rows, found = table(tmp_path / "run" / "predictions.csv"), read_json(tmp_path / "run" / "metrics.json")
    assert {row["probability"] for row in rows} == {"0.5"}
    assert found["scores"]["accuracy"]["value"] == np.mean([row["label"] == row["predicted"] for row in rows])
    answers = gr.load(tmp_path / "run" / "model.safetensors").predict([tmp_path / "photos" / r["id"] for r in rows])
    assert [answer.label for answer in answers] == [row["predicted"] for row in rows]


# ---------------------------------------------------------------- small sets, and pictures that fail late


def test_two_pictures_a_class_are_enough_to_run(tmp_path: Path) -> None:
    said = train(photos.two_classes(tmp_path / "photos", 2), tmp_path / "run")
    assert said.out.startswith("4 pictures of 2 classes used")


def test_one_file_copied_over_and_over_is_an_error(tmp_path: Path) -> None:
    root = photos.two_classes(tmp_path / "photos", 3)
    for path in root.rglob("*.jpg"):
        path.write_bytes((root / "dahlia" / "0.jpg").read_bytes())
    with pytest.raises(gr.DataError, match="one and the same file"):
        gr.train(root, output=tmp_path / "run")


def test_a_class_whose_pictures_all_fail_late_is_an_error(tmp_path: Path) -> None:
    root = photos.two_classes(tmp_path / "photos", 6)
    for i in range(6):
        photos.broken_late(root / "palace" / f"{i}.jpg")
    with pytest.raises(gr.DataError, match=r"'palace': 0 usable, rejected: palace/0\.jpg"):
        gr.train(root, output=tmp_path / "run", test="0.5", folds="3", fit="crop")
    assert not (tmp_path / "run").exists()


def test_a_share_that_sets_nothing_apart_is_an_error(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(gr.OptionError, match=r"a test share of 0\.001 sets none of 48 pictures apart"):
        gr.train(class_folders, output=tmp_path / "run", test="0.001")


def test_a_picture_that_fails_late_is_left_out_of_both_sides(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    rows = table(locked / "ledger.csv")
    victims = [next(row["id"] for row in rows if row["split"] == part) for part in ("train", "test")]
    root = photos.three_classes(tmp_path / "photos", 16)
    for name in victims:
        photos.broken_late(root / name)
    train(root, tmp_path / "run", "--test", "0.3", *QUICK)
    found = by_id(tmp_path / "run" / "ledger.csv")
    assert all(found[name]["status"] == "rejected" and found[name]["reason"].startswith("corrupt") for name in victims)
    tested = len(table(tmp_path / "run" / "predictions.csv"))
    assert abs(tested - 0.3 * 46) <= 1
    assert gr.load(tmp_path / "run" / "model.safetensors").bundle.data["n"] == 46 - tested
    assert BROKEN in (root / victims[0]).read_bytes()


# ---------------------------------------------------------------- from Python


def test_a_run_in_python_is_the_run_of_the_command(class_folders: Path, locked: Path, tmp_path: Path) -> None:
    settings = gr.Settings(str(class_folders), test="0.3", folds="3", fit="crop")
    run = gr.train(settings, output=tmp_path / "run")
    assert different(locked, run.folder) == []
    assert run.scores.accuracy.value == read_json(locked / "metrics.json")["scores"]["accuracy"]["value"]
    assert run.scores.accuracy.low < run.scores.accuracy.value < run.scores.accuracy.high
    paths = sorted(class_folders.rglob("*.jpg"))[:3]
    assert run.predict(paths) == gr.load(locked / "model.safetensors").predict(paths)
    assert run.summary[0] == "48 pictures of 3 classes used"


def test_a_watcher_is_told_the_stages(class_folders: Path, tmp_path: Path) -> None:
    stages, steps = [], []

    class Told:
        def stage(self, name: str) -> None:
            stages.append(name)

        def progress(self, done: int, total: int) -> None:
            steps.append((done, total))

        def note(self, text: str) -> None:
            raise AssertionError(text)

        def row(self, text: str) -> None:
            assert "ships: the head on frozen features" in text

    gr.train(class_folders, watcher=Told(), output=tmp_path / "run", folds="3", fit="crop")
    gate = ["look for copies and groups", "look for series"]
    first = ["look at every file", "prepare the network", "features", *gate, "features", "head", "decide", "measure"]
    last = [
        "map",
        "remember pictures",
        "labels",
        "shortcuts",
        "learning curve",
        "heat maps of mistakes",
        "write",
        "report",
    ]
    assert stages == [*first, *last]
    assert (48, 48) in steps
    assert all(done <= total for done, total in steps)


def test_labels_that_look_wrong_are_among_the_problems(tmp_path: Path) -> None:
    root = photos.two_classes(tmp_path / "photos", 24)
    photos.save(root / "palace", photos.crops("flower.jpg", 1, seed=5), prefix="wrong")
    train(root, tmp_path / "run", "--recipe", "linear")
    rows = [row for row in table(tmp_path / "run" / "problems.csv") if row["kind"] == "likely wrong label"]
    assert rows[0]["id"] == "palace/wrong0.jpg"
    assert rows[0]["severity"] == "warning"
    assert rows[0]["detail"].startswith("looks like dahlia: ")
    assert len(rows) <= 2
    assert "looks like dahlia" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_model_may_keep_no_training_picture_not_even_in_small(tmp_path: Path) -> None:
    root = photos.two_classes(tmp_path / "photos", 8)
    for name, options in (("with", ()), ("without", ("--no-remember",))):
        train(root, tmp_path / name, "--recipe", "linear", *options)
    kept, bare = (gr.load(tmp_path / name / "model.safetensors").bundle for name in ("with", "without"))
    assert set(kept.pictures) == {"pixels", "thumbnails"}
    assert kept.neighbours is not None
    assert set(bare.pictures) == {"pixels"}
    assert bare.neighbours is None
    assert b"0.jpg" in (tmp_path / "with" / "model.safetensors").read_bytes()
    assert b"0.jpg" not in (tmp_path / "without" / "model.safetensors").read_bytes()


def test_fit_takes_files_and_labels(class_folders: Path) -> None:
    paths = sorted(class_folders.rglob("*.jpg"))
    model = fit(paths, [f"n{path.parent.name}" for path in paths], fit="crop")
    assert model.classes == ("n1", "n2", "n10")
    assert model.predict([class_folders / "2" / "0.jpg"])[0].label == "n2"
    with pytest.raises(gr.DataError, match="48 pictures but 1 labels"):
        fit(paths, ["a"])


def test_fit_repairs_where_asked(tmp_path: Path) -> None:
    root = photos.two_classes(tmp_path / "photos", 2)
    paths = sorted(root.rglob("*.jpg"))
    cut = root / "palace" / "0.jpg"
    cut.write_bytes(cut.read_bytes()[:-500])
    labels = [path.parent.name for path in paths]
    with pytest.raises(gr.DataError, match="'palace': 1 usable"):
        fit(paths, labels, fit="crop")
    assert fit(paths, labels, fit="crop", repair=True).predict([cut])[0].status == "repaired"
