"""`graftage compare`: two runs or models on the same held-out pictures."""

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import graftage as gr
import photos
from graftage.measure.compare import mcnemar
from graftage.measure.interval import Estimate, wilson
from graftage.versus import verdict
from photos import graftage, read_json, table

Answer = tuple[str, str, str, dict[str, float]]  # id, digest, label, probabilities


def made_run(
    folder: Path, answers: Sequence[Answer], *, groups: Sequence[int] = (), how: str = "Measured once"
) -> Path:
    """A run's tables, written by hand."""
    classes = list(answers[0][3])
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "predicted", "probability", "runner_up", *(f"p:{name}" for name in classes)])
        rows.writerows([i, label, "", "", "", *(p[name] for name in classes)] for i, _, label, p in answers)
    with (folder / "ledger.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "digest", "group"])
        rows.writerows([a[0], a[1], groups[k] if groups else k] for k, a in enumerate(answers))
    (folder / "metrics.json").write_text(json.dumps({"how": how}))
    return folder


def answers(rights: str, *, sure: float = 0.8, first: int = 0, classes: Sequence[str] = ("cat", "dog")) -> list[Answer]:
    """An answer for every character: "x" is right, "." is wrong; all pictures are cats, `sure` of what is said."""
    found = []
    for k, right in enumerate(rights, start=first):
        cat = sure if right == "x" else 1 - sure
        p = {name: cat if name == "cat" else 1 - cat for name in classes}
        found.append((f"cat/{k}.jpg", f"{k:064x}", "cat", p))
    return found


def p_of(lines: Sequence[str], name: str) -> str:
    return next(line.removeprefix(name).strip() for line in lines if line.startswith(name))


# ---------------------------------------------------------------- known answers


def test_known_answer(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("x" * 30 + "." * 10))
    b = made_run(tmp_path / "b", answers("x" * 21 + "." * 9 + "x" * 2 + "." * 8))
    found = gr.compare(a, b)
    assert (found.n, found.groups, found.only_a, found.only_b) == (40, 40, 0, 0)
    assert (found.both_right, found.a_right, found.b_right, found.both_wrong) == (21, 9, 2, 8)
    assert found.accuracy_a == wilson(30 / 40, 40)
    assert found.accuracy_b == wilson(23 / 40, 40)
    assert found.difference.value == pytest.approx(7 / 40)
    assert found.difference.low < 7 / 40 < found.difference.high
    assert found.p == mcnemar(9, 2)
    gain = -math.log(0.8) + math.log(0.2)  # of the log-loss, by each picture that a has right and b has wrong
    assert found.log_loss_difference.value == pytest.approx(7 * gain / 40)
    assert found.log_loss_a.value == pytest.approx(-(30 * math.log(0.8) + 10 * math.log(0.2)) / 40)
    assert found.verdict.startswith("no difference can be shown (n = 40)")


def test_the_command_tells_it_in_lines_and_writes_json(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("x" * 40))
    b = made_run(tmp_path / "b", answers("x" * 25 + "." * 15))
    said = graftage("compare", a, b, "-o", tmp_path / "new" / "c.json")
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert len(lines) == 8
    assert p_of(lines, "A ") == str(a)
    assert p_of(lines, "compared") == "on 40 pictures"
    assert p_of(lines, "accuracy") == "A 100.0 % (91.2 to 100.0), B 62.5 % (47.0 to 75.8)"
    assert p_of(lines, "difference").startswith("A - B    +37.5 points (+")
    assert p_of(lines, "right") == "both 25, only A 15, only B 0, neither 0; McNemar p < 0.001"
    assert p_of(lines, "verdict") == "A is better; by log-loss A is better, too"
    kept = read_json(tmp_path / "new" / "c.json")
    assert kept == json.loads(json.dumps(gr.compare(a, b).to_json()))
    assert kept["difference"]["value"] == 0.375
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.json"]


def test_turned_round_everything_is_turned_round(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = ("".join(rng.choice(["x", "x", "."], 60)) for _ in range(2))
    a, b = made_run(tmp_path / "a", answers(one)), made_run(tmp_path / "b", answers(two, sure=0.6)[::-1])
    there, back = gr.compare(a, b), gr.compare(b, a)
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.log_loss_difference.low == pytest.approx(-back.log_loss_difference.high)
    assert (there.a_right, there.b_right, there.p) == (back.b_right, back.a_right, back.p)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xx.x.xxx"))
    b = made_run(tmp_path / "b", answers("xx.x.xxx", classes=("dog", "cat")))
    found = gr.compare(a, b)
    assert (found.a_right, found.b_right, found.both_right) == (0, 0, 6)
    assert found.log_loss_difference == Estimate(0.0, 0.0, 0.0, "bootstrap (all draws equal)")


def test_pictures_are_matched_by_digest_and_the_rest_is_counted(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("x" * 10))
    moved = [(f"renamed/{i}", *rest) for i, *rest in answers("x" * 10, first=4)]  # 0 .. 3 and 10 .. 13 are not shared
    assert (c := gr.compare(a, made_run(tmp_path / "b", moved))).n == 6
    assert (c.only_a, c.only_b) == (4, 4)
    assert p_of(c.summary, "compared") == "on 6 pictures; left out: 4 held out by A only, 4 by B only"


def test_the_same_name_is_not_the_same_picture(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xxx"))
    other = [(i, digest.replace("0", "f"), label, p) for i, digest, label, p in answers("xxx")]
    with pytest.raises(gr.DataError, match=r"no picture was held out in both .* same --seed and --test.* --data"):
        gr.compare(a, made_run(tmp_path / "b", other))


def test_equal_pictures_are_rows_of_their_own_but_one_group(tmp_path: Path) -> None:
    def twice(rights: str) -> list[Answer]:
        return [(f"{k}/{i}", d, label, p) for k in (1, 2) for i, d, label, p in answers(rights)]

    numbers = [*range(10), *range(10)]
    a = made_run(tmp_path / "a", twice("x" * 10), groups=numbers)
    b = made_run(tmp_path / "b", twice("x" * 4 + "." * 6), groups=numbers)
    found = gr.compare(a, b)
    assert (found.n, found.groups, found.a_right) == (20, 10, 12)
    assert found.p == mcnemar(6, 0)  # not mcnemar(12, 0): the second copy proves nothing
    assert "in 10 independent groups" in p_of(found.summary, "compared")


def test_groups_of_either_run_count(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("x" * 4), groups=[0, 0, 1, 2])
    b = made_run(tmp_path / "b", answers("x" * 4), groups=[7, 8, 8, -1])
    assert gr.compare(a, b).groups == 2


def test_out_of_fold_answers_are_told(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xxx"), how="Measured by stratified 5-fold cross-validation: every")
    b = made_run(tmp_path / "b", answers("xxx"))
    (note,) = gr.compare(b, a).notes
    assert note.startswith("the held-out answers of B are out-of-fold")
    assert "of A and of B" in gr.compare(a, a).notes[0]
    assert gr.compare(b, b).notes == ()


@pytest.mark.parametrize(
    ("difference", "p", "loss", "groups", "said"),
    [
        ((0.02, 0.1), 0.01, (-0.1, 0.1), 90, "A is better"),
        ((-0.1, -0.02), 0.01, (-0.1, 0.1), 90, "B is better"),
        ((0.02, 0.1), 0.06, (-0.1, 0.1), 90, "no difference can be shown (n = 1,234)"),
        ((0.0, 0.1), 0.04, (-0.1, 0.1), 90, "no difference can be shown (n = 1,234)"),
        ((-0.1, 0.1), 0.9, (-0.2, -0.1), 90, "no difference can be shown (n = 1,234); by log-loss A is better"),
        ((-0.1, 0.1), 0.9, (-0.2, -0.1), 9, "no difference can be shown (n = 1,234)"),
        ((0.02, 0.1), 0.01, (0.1, 0.2), 90, "A is better; by log-loss B is better"),
        ((0.02, 0.1), 0.01, (-0.2, -0.1), 90, "A is better; by log-loss A is better, too"),
    ],
)
def test_verdict(difference: tuple[float, float], p: float, loss: tuple[float, float], groups: int, said: str) -> None:
    def estimate(ends: tuple[float, float]) -> Estimate:
        return Estimate(sum(ends) / 2, *ends, "made")

    assert verdict(estimate(difference), p, estimate(loss), n=1234, groups=groups) == said


# ---------------------------------------------------------------- what cannot be compared


def test_other_labels_are_an_error(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xxx"))
    relabelled = [(i, digest, "dog" if k == 1 else label, p) for k, (i, digest, label, p) in enumerate(answers("xxx"))]
    said = graftage("compare", a, made_run(tmp_path / "b", relabelled))
    assert said.status == 2
    assert "1 of 3 shared pictures have another label" in said.err
    assert "such as cat and dog" in said.err


def test_other_classes_are_an_error(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xxx"))
    b = made_run(tmp_path / "b", answers("xxx", classes=("cat", "wolf")))
    said = graftage("compare", a, b)
    assert said.status == 2
    assert f"know different classes (only {a}: dog; only {b}: wolf)" in said.err


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", answers("xxx"))
    spoil = {
        "predictions.csv": [("0.8", "much"), ("0.8", "0.1"), ("p:cat", "cat"), ("cat/1.jpg,cat", "cat/1.jpg,lion")],
        "ledger.csv": [("digest", "hash"), (f"{1:064x}", ""), ("cat/1.jpg", "cat/9.jpg"), (",1\r", ",one\r")],
        "metrics.json": [("how", "why"), ("{", "")],
    }
    for name, faults in spoil.items():
        for old, new in faults:
            content = (a / name).read_bytes()
            assert old.encode() in content
            with (
                photos.changed(a / name, content.replace(old.encode(), new.encode())),
                pytest.raises(gr.DataError, match=name.replace(".", r"\.")),
            ):
                gr.compare(a, a)
    (a / "ledger.csv").unlink()
    with pytest.raises(gr.DataError, match=r"ledger\.csv: cannot be read \(No such file"):
        gr.compare(a, a)


def test_a_place_without_a_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, problem in {"empty": "is no run", "nowhere": "does not exist"}.items():
        said = graftage("compare", tmp_path / name, tmp_path / name)
        assert (said.status, problem in said.err) == (2, True)


def test_a_model_file_needs_pictures(locked: Path) -> None:
    said = graftage("compare", locked, locked / "model.safetensors")
    assert said.status == 2
    assert "is a model, which holds no pictures: say on which to compare, with --data PHOTOS" in said.err


@pytest.mark.parametrize("name", ["c.txt", "metrics.json", "folder.json"])
def test_nothing_else_is_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    a = made_run(tmp_path / "a", answers("xxx"))
    said = graftage("compare", a, a, "-o", tmp_path / name)
    assert said.status == 2
    assert "name a file of its own" in said.err


# ---------------------------------------------------------------- real runs


def test_runs_of_the_same_pictures(finished: tuple[Path, photos.Said], locked: Path) -> None:
    run, _ = finished
    found = gr.compare(run, locked)
    assert (found.n, found.only_b) == (len(table(locked / "predictions.csv")), 0)
    assert found.only_a == len(table(run / "predictions.csv")) - found.n
    right = sum(row["label"] == row["predicted"] for row in table(locked / "predictions.csv"))
    assert found.accuracy_b.value == pytest.approx(right / found.n)
    assert "of A are out-of-fold" in found.notes[0]


def test_a_run_against_itself_differs_in_nothing(finished: tuple[Path, photos.Said]) -> None:
    found = gr.compare(finished[0], finished[0])
    assert (found.difference.value, found.p, found.log_loss_difference.value) == (0.0, 1.0, 0.0)
    assert found.verdict == f"no difference can be shown (n = {found.n})"


@pytest.fixture(scope="module")
def mixed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight new pictures a class, and six of a class that the runs know."""
    folder = photos.three_classes(tmp_path_factory.mktemp("mixed") / "photos", 8, seed=9)
    for k in range(6):
        shutil.copy(class_folders / "1" / f"{k}.jpg", folder / "1" / f"seen{k}.jpg")
    return folder


def test_pictures_that_either_was_trained_on_are_left_out(
    finished: tuple[Path, photos.Said], locked: Path, mixed: Path
) -> None:
    said = graftage("compare", finished[0] / "model.safetensors", locked, "--data", mixed)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert p_of(lines, "compared") == "on 24 pictures"
    assert p_of(lines, "note") == "6 of 30 pictures were trained on; they are left out of the scores"
    assert "out-of-fold" not in said.out  # these answers are those of the model files


def test_a_model_against_itself_on_new_pictures(locked: Path, mixed: Path) -> None:
    model = gr.load(locked / "model.safetensors")
    found = gr.compare(model, locked, mixed)
    assert (found.difference.value, found.p, found.log_loss_difference.value) == (0.0, 1.0, 0.0)
    assert found.a == str(locked / "model.safetensors")


def test_with_only_pictures_that_were_trained_on_there_is_nothing_to_compare(
    finished: tuple[Path, photos.Said], locked: Path, class_folders: Path
) -> None:
    with pytest.raises(gr.DataError, match="no picture is left to measure on; 48 left out"):
        gr.compare(finished[0], locked, class_folders)


def test_evaluate_against_another_model(
    finished: tuple[Path, photos.Said], locked: Path, mixed: Path, tmp_path: Path
) -> None:
    a, b = locked / "model.safetensors", finished[0] / "model.safetensors"
    said = graftage("evaluate", a, mixed, "--against", b, "-o", tmp_path / "out")
    assert said.status == 0, said.err
    found = read_json(tmp_path / "out" / "comparison.json")
    assert (found["a"], found["b"], found["n"], found["only_b"]) == (str(a), str(b), 24, 0)
    n = read_json(tmp_path / "out" / "metrics.json")["scores"]["n"]
    assert found["only_a"] == n - 24 > 0  # B alone was trained on them: A's own scores keep them
    assert p_of(said.out.splitlines(), "verdict") == found["verdict"]
    alone = gr.evaluate(a, mixed)
    assert (alone.scores.n, alone.compared) == (n, None)


def test_evaluations_can_be_compared_as_runs_can(locked: Path, mixed: Path, tmp_path: Path) -> None:
    gr.evaluate(locked / "model.safetensors", mixed, output=tmp_path / "one")
    assert gr.compare(tmp_path / "one", tmp_path / "one").n >= 24


def test_other_classes_are_told_before_the_work(locked: Path, mixed: Path, tmp_path: Path) -> None:
    other = gr.train(photos.two_classes(tmp_path / "two", 6), output=tmp_path / "run", fit="crop", folds="2")
    for attempt in (
        lambda: gr.compare(locked, other, mixed),
        lambda: gr.evaluate(locked / "model.safetensors", mixed, against=other.model, output=tmp_path / "out"),
    ):
        with pytest.raises(gr.DataError, match="know different classes"):
            attempt()
    assert not (tmp_path / "out").exists()
