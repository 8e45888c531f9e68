"""Recipes through the whole job: every family of networks, what ships and why, going on after a kill, two processes."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import graftage as gr
import photos
from graftage import judging, states, training
from graftage.features import inputs
from graftage.ground import parts
from graftage.learn.defaults import Recipe
from graftage.learn.search import Candidate, Trial
from graftage.plans import Cost, plan
from graftage.settings import RANGES

FAST = ("--fit", "squash", "--test", "0.34", "--folds", "2", "-b", "8")
FAMILIES = ("test_resnet", "test_convnext", "test_vit")


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.two_classes(tmp_path_factory.mktemp("twelve") / "photos", 12)


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        *itertools.product(FAMILIES, ("tail", "full", "norm", "lora", "scratch", "classic")),
        ("vgg11", "classic"),  # a large network, on small squares: the rest is the same code
    ],
)
def test_every_recipe_trains_saves_and_answers_from_its_file(
    architecture: str, recipe: str, twelve: Path, weights_file, tmp_path: Path
) -> None:
    run = gr.train(
        twelve,
        output=tmp_path / "run",
        backbone=weights_file(architecture),
        fit="squash",
        test="0.34",
        folds="2",
        recipe=recipe,
        epochs=1,
        batch_size=8,
        **({"views": 1} if recipe in ("tail", "classic") else {}),
        **({"img_size": 64} if architecture == "vgg11" else {}),
    )
    rows = photos.table(run.folder / "predictions.csv")
    answers = gr.load(run.model_path).predict([twelve / row["id"] for row in rows])
    assert [a.label for a in answers] == [row["predicted"] for row in rows]
    assert [f"{a.probability:.9g}" for a in answers] == [row["probability"] for row in rows]
    told = photos.read_json(run.folder / "metrics.json")
    assert (told["recipe"], told["asked"]) == (recipe, recipe)
    assert all(np.isfinite(epoch["train_loss"]) for epoch in told["epochs"])
    assert "head on frozen features" in {b["name"] for b in told["baselines"]}
    assert not (tmp_path / "run.resume").exists()


def test_the_bundled_network_is_tuned_on_real_pictures(twelve: Path, tmp_path: Path) -> None:
    said = photos.graftage("train", twelve, "-o", tmp_path / "run", "--recipe", "tail", "--epochs", "2", *FAST)
    assert said.status == 0, said.err
    assert "recipe tail: on " in said.out
    assert "tail, fold 1         epoch   2/2" in said.err
    again = photos.graftage("train", "-c", tmp_path / "run" / "config.toml", "-o", tmp_path / "again")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


def test_without_a_test_set_every_picture_is_held_out_once(twelve: Path, weights_file, tmp_path: Path) -> None:
    run = gr.train(
        twelve,
        output=tmp_path / "run",
        backbone=weights_file("test_resnet"),
        recipe="tail",
        folds="3",
        fit="squash",
        epochs=1,
    )
    assert run.scores.n == 24
    assert any("tuned network" in trial["name"] for trial in photos.read_json(run.folder / "metrics.json")["tried"])


def test_auto_does_not_tune_where_a_gain_could_not_be_told(finished) -> None:
    folder, said = finished
    assert "shipped             the head on frozen features: with 48 pictures a gain could not be told" in said.out
    assert photos.read_json(folder / "metrics.json")["recipe"] == "linear"


def test_a_budget_too_short_says_so_and_ships_the_head(twelve: Path, weights_file, tmp_path: Path) -> None:
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "tail", "--budget", "1s", *FAST)
    said = photos.graftage("train", twelve, "-o", tmp_path / "run", *options)
    assert said.status == 0, said.err
    assert "the head on frozen features: the budget of 1s is too short to tune the network" in said.out


def test_a_rate_that_diverges_ends_with_advice(
    twelve: Path, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RANGES, "lr", (0, 1e30))  # at those allowed, these networks' own normalisation holds them
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "full", "--opt", "sgd", "--lr", "1e30", *FAST)
    said = photos.graftage("train", twelve, "-o", tmp_path / "run", *options, "--clip-grad", "0", "--epochs", "4")
    assert said.status == 2
    assert "training diverged in epoch" in said.err
    assert "take a lower --lr, such as 2e+29, or a --clip-grad of 1" in said.err
    assert not (tmp_path / "run").exists()


SLOW = """
import sys, time
from graftage.learn import tune
from graftage import judging, states, training
training._SAVE_SECONDS = 0.0
before = tune.Training._update
def update(self):
    before(self)
    time.sleep(0.05)
tune.Training._update = update
from graftage.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(twelve: Path, weights_file, tmp_path: Path) -> None:
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "tail", "--epochs", "3", *FAST)
    whole = photos.graftage("train", twelve, "-o", tmp_path / "whole", *options)
    assert whole.status == 0, whole.err
    command = [sys.executable, "-c", SLOW, "train", twelve, "-o", tmp_path / "run", *options]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run.resume"
    deadline = time.monotonic() + 120
    while not list(state.glob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run").exists()
    refused = photos.graftage("train", twelve, "-o", tmp_path / "run", *options)
    assert refused.status == 2
    assert "holds the state of an interrupted run: go on with it by --resume" in refused.err
    other = photos.graftage("train", twelve, "-o", tmp_path / "run", *options, "--seed", "5", "--resume")
    assert other.status == 2
    assert "belongs to another run (different: settings" in other.err
    again = photos.graftage("train", twelve, "-o", tmp_path / "run", *options, "--resume")
    assert again.status == 0, again.err
    assert "goes on in epoch" in again.err
    names = ("model.safetensors", "predictions.csv")
    assert [(tmp_path / "run" / n).read_bytes() for n in names] == [
        (tmp_path / "whole" / n).read_bytes() for n in names
    ]
    assert not state.exists()


@pytest.mark.parametrize("fault", ["full disk", "lost file"])
def test_a_fault_in_the_middle_ends_with_a_state_to_go_on_from(
    fault: str, twelve: Path, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "photos"
    shutil.copytree(twelve, own)
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "full", "--epochs", "3", *FAST)
    whole = photos.graftage("train", own, "-o", tmp_path / "whole", *options)
    assert whole.status == 0, whole.err
    tested = {row["id"] for row in photos.table(tmp_path / "whole" / "predictions.csv")}
    lost = next(p for p in sorted(own.rglob("*.*")) if p.relative_to(own).as_posix() not in tested)
    saves, save = itertools.count(1), states.save_file

    def failing(*args: object, **kwargs: object) -> None:
        if next(saves) == 4:
            if fault == "full disk":
                raise OSError(28, "No space left on device")
            lost.rename(tmp_path / "aside")
        save(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(states, "save_file", failing)
        patched.setattr(training, "_SAVE_SECONDS", 0.0)
        patched.setattr(inputs, "_DECODED_BYTES", 0)  # pictures are read anew in every epoch
        said = photos.graftage("train", own, "-o", tmp_path / "run", *options)
    assert said.status == 2
    assert "free some space and go on with --resume" in said.err or "bring the file back and go on with --resume" in (
        said.err
    )
    assert not (tmp_path / "run").exists()
    if fault == "lost file":
        assert lost.name in said.err
        (tmp_path / "aside").rename(lost)
    again = photos.graftage("train", own, "-o", tmp_path / "run", *options, "--resume")
    assert again.status == 0, again.err
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_two_processes_give_the_result_of_one(twelve: Path, weights_file, tmp_path: Path) -> None:
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "full", "--epochs", "2", "--amp", "none", *FAST)
    one = photos.graftage("train", twelve, "-o", tmp_path / "one", *options)
    assert one.status == 0, one.err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "graftage", "train", twelve, "-o", tmp_path / "two", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(c) for c in command], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("measured ") == 1  # one of them speaks
    a, b = (photos.read_json(tmp_path / name / "metrics.json")["epochs"] for name in ("one", "two"))
    assert [e["train_loss"] for e in a] == pytest.approx([e["train_loss"] for e in b], rel=1e-4)
    p, q = (photos.table(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert [float(r["probability"]) for r in p] == pytest.approx([float(r["probability"]) for r in q], abs=1e-3)


@pytest.mark.parametrize("budget", [None, 60.0, 1200.0, 6000.0])
@pytest.mark.parametrize("whole", [True, False])
def test_a_plan_keeps_to_its_budget(budget: float | None, whole: bool) -> None:
    found = plan(
        Recipe("tail", "tail", epochs=12, views=4),
        Cost(5, 0.005, 0.02),
        n=2000,
        k=5,
        whole=whole,
        budget=budget,
        least=3,
    )
    if budget == 60:
        assert found is None
    else:
        assert found is not None
        assert budget is None or found.seconds <= budget
        assert found.folds == 5 or not whole
        assert found.epochs == 12 or budget is not None
        assert "epochs" in found.line()


def test_where_one_fold_holds_few_pictures_more_folds_come_before_more_epochs() -> None:
    recipe, cost = Recipe("tail", "tail", epochs=12, views=4), Cost(5, 0.005, 0.01)
    few = plan(recipe, cost, n=250, k=5, whole=False, budget=75.0, least=2)
    many = plan(recipe, cost, n=2500, k=5, whole=False, budget=750.0, least=2)
    assert few is not None
    assert (few.folds, few.refit) == (5, True)
    assert 5 <= few.epochs < 8
    assert many is not None
    assert (many.folds, many.refit) == (1, True)
    assert many.epochs >= 8


def test_flips_are_switched_off_where_they_change_the_label(twelve: Path, tmp_path: Path) -> None:
    """Arrows to the left and to the right: with the bundled network, which tells them apart."""
    rng = np.random.default_rng(0)
    arrow = np.zeros((40, 60), np.uint8)
    for row in range(40):
        arrow[row, : max(0, 60 - 3 * abs(row - 20))] = 255
    for name, turned in (("left", arrow[:, ::-1]), ("right", arrow)):
        noisy = [np.clip(turned * 0.7 + rng.normal(40, 15, arrow.shape), 0, 255).astype(np.uint8) for _ in range(40)]
        photos.save(tmp_path / "arrows" / name, [Image.fromarray(pixels) for pixels in noisy])
    options = ("--recipe", "tail", "--epochs", "1", "--views", "1", *FAST)
    said = photos.graftage("train", tmp_path / "arrows", "-o", tmp_path / "run", *options)
    assert said.status == 0, said.err
    assert "no left-right flips in training: mirrored pictures of '" in said.err
    assert photos.read_json(tmp_path / "run" / "metrics.json")["hyperparameters"]["hflip"] == 0


def test_a_class_in_one_fold_only_is_learnt_from() -> None:
    y, held = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 0, 0, 1, 0])
    train, rows = parts(y, held, np.arange(6), 0, at_most=None, seed=0)
    assert rows.tolist() == [0, 2, 3]
    assert train.tolist() == [1, 4, 5]
    assert set(y[train]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("loss", "more_right", "ships"),
    [
        (0.10, 0, True),  # the log-loss is clearly better, the accuracy the same
        (0.0, 8, True),  # the accuracy is clearly better, the log-loss the same
        (0.10, -1, False),  # better in one, worse in the other
        (-0.01, 8, False),
        (0.01, 1, False),  # neither can be told from luck
        (0.0, 0, False),
    ],
)
def test_a_tuned_network_ships_where_one_gain_is_real_and_the_other_no_loss(
    loss: float, more_right: int, ships: bool
) -> None:
    rng = np.random.default_rng(0)
    y, noise = np.zeros(200, np.int64), rng.normal(0, 0.5, 200)
    wrong = np.arange(200) < 20
    now_wrong = np.arange(200) < 20 - more_right
    head = Trial(Candidate("ridge", "crop", "unit", 1.0), 1.0, np.full(200, 1.0), wrong.astype(np.int32), np.zeros(200))
    losses = head.losses - loss - (noise - noise.mean())
    tuned = Trial(Candidate("tuned", "crop", "unit", 1.0), 1.0, losses, now_wrong.astype(np.int32), np.zeros(200))
    judged = judging.Judged(None, None, np.arange(200), tuned, (), None, 1.0, 3, (), None)
    assert judged.better(SimpleNamespace(y=y, head=head)) is ships
