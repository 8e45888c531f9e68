"""The curve against training from scratch: real trainings of a tiny network, kept and gone on with; words and page."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graftage
import photos
from graftage import fromscratch, worthstory
from graftage.errors import DataError, OptionError
from graftage.fromscratch import FromScratch, Trained, plan
from graftage.measure.interval import Estimate
from graftage.measure.worth import LUCK, Answered, Exchange, Worth, worth

Drawn = tuple[Path, photos.Said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.two_classes(tmp_path_factory.mktemp("against") / "photos", 40)


@pytest.fixture(scope="module")
def drawn(folder: Path, weights_file, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """One comparison of a tiny network by the command line: (its page, what the command said)."""
    page = tmp_path_factory.mktemp("pages") / "page.html"
    options = ("--backbone", weights_file("test_resnet"), "--fit", "squash", "--against", "scratch", "--epochs", "2")
    said = photos.graftage("curve", folder, "-o", page, *options)
    assert said.status == 0, said.err
    return page, said


def curve(folder: Path, backbone: Path, output: Path, **options: object) -> graftage.growth.Curved:  # type: ignore[name-defined]
    given = {"fit": "squash", "epochs": 2, **options}
    return graftage.curve(folder, against="scratch", backbone=backbone, output=output, **given)


# The command


def test_the_plan_comes_first_and_the_summary_says_what_pretraining_is_worth(drawn: Drawn) -> None:
    said = drawn[1]
    plans = [line for line in said.err.splitlines() if line.startswith("plan: from scratch")]
    assert [line.split(",")[1].strip() for line in plans] == ["15 pictures", "30 pictures", "60 pictures"]
    first = said.err.index("plan: from scratch")
    assert "pictures held out from every training" in said.err
    assert first < said.err.index("from scratch, 15 pictures:") < said.err.index("from scratch, 60 pictures:")
    assert said.out.count("from scratch        ") == 3
    assert "pretraining         " in said.out


def test_page_and_json_hold_both_curves(drawn: Drawn) -> None:
    text = drawn[0].read_text(encoding="utf-8")
    record = photos.read_json(drawn[0].with_suffix(".json"))["against_scratch"]
    section = text.partition('<section id="scratch">')[2].partition("</section>")[0]
    assert section.count('<g class="other">') == 3
    assert section.count('<g class="measured">') == len(record["pretrained"]) >= 5
    assert record["held_out"] == 20
    assert [t["pictures"] for t in record["trained"]] == [15, 30, 60]
    assert all((t["epochs"], t["epochs_of_its_recipe"]) == (2, 80) for t in record["trained"])
    assert record["verdict"] in section.replace("&#x27;", "'")
    assert "Made by" in text


def test_few_epochs_are_told_and_never_hidden(drawn: Drawn) -> None:
    record = photos.read_json(drawn[0].with_suffix(".json"))["against_scratch"]
    words = "it had fewer epochs than its recipe gives: 2 of 80 epochs with 15, 30, 60 pictures"
    assert record["notes"][0].startswith(f"not a fair training from scratch, {words}")
    assert words in drawn[0].read_text(encoding="utf-8")
    assert words in drawn[1].out
    assert "plan: from scratch, 15 pictures, 2 epochs of 80 that it should have; about" in drawn[1].err


def test_without_it_the_page_has_no_such_section(folder: Path, weights_file, tmp_path: Path) -> None:
    found = graftage.curve(folder, backbone=weights_file("test_resnet"), output=tmp_path / "c.html", fit="squash")
    assert 'id="scratch"' not in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "against_scratch" not in photos.read_json(tmp_path / "c.json")
    assert found.worth is None


def test_a_second_run_trains_nothing_and_gives_the_same(
    folder: Path, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = weights_file("test_resnet")
    first = curve(folder, backbone, tmp_path / "a.html")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what was kept was trained again")

    monkeypatch.setattr(fromscratch, "run_task", never)
    second = curve(folder, backbone, tmp_path / "b.html")
    assert first.worth is not None
    assert second.worth is not None
    assert first.worth.scratch == second.worth.scratch
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(AssertionError, match="trained again"):
        curve(folder, backbone, tmp_path / "c.html", seed=7)


def test_an_interrupted_run_goes_on_where_it_was(
    folder: Path, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, real, asked = weights_file("test_resnet"), fromscratch.run_task, []

    def stopping(ground, task, name, states, **options):
        asked.append(name)
        if len(asked) == 2:
            options["until"] = 0.0  # after its first epoch, as Ctrl-C would at any step
            real(ground, task, name, states, **options)
            raise KeyboardInterrupt
        return real(ground, task, name, states, **options)

    monkeypatch.setattr(fromscratch, "run_task", stopping)
    with pytest.raises(KeyboardInterrupt):
        curve(folder, backbone, tmp_path / "a.html", seed=3)
    assert not (tmp_path / "a.html").exists()
    gone_on = curve(folder, backbone, tmp_path / "a.html", seed=3)
    assert asked == ["scratch, 15 pictures", *["scratch, 30 pictures"] * 2, "scratch, 60 pictures"]
    monkeypatch.setattr(fromscratch, "run_task", real)
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path / "cache"))
    whole = curve(folder, backbone, tmp_path / "b.html", seed=3)
    assert gone_on.worth is not None
    assert whole.worth is not None
    assert gone_on.worth.scratch == whole.worth.scratch


def test_time_that_runs_out_is_told_and_what_there_is_is_used(
    folder: Path, weights_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fromscratch.run_task

    def slow(ground, task, name, states, *, until):
        return real(ground, task, name, states, until=0.0 if "60" in name else until)

    monkeypatch.setattr(fromscratch, "run_task", slow)
    found = curve(folder, weights_file("test_resnet"), tmp_path / "c.html", seed=5)
    assert found.worth is not None
    assert [m for m, _ in found.worth.scratch] == [15, 30]
    assert found.worth.trouble
    assert any("the time ran out within the training of 60 pictures" in note for note in found.notes)
    assert "too short for the trainings with 60 pictures" in (tmp_path / "c.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--against", "zero"), "against must be scratch"),
        (("--budget", "5m"), "--budget and --epochs are for the trainings of --against scratch"),
        (("--against", "scratch", "--budget", "soon"), "budget must be a time such as 30s"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(options: tuple[str, ...], said: str, class_folders: Path) -> None:
    answer = photos.graftage("curve", class_folders, *options)
    assert answer.status == 2
    assert said in answer.err


def test_several_layers_together_are_refused(folder: Path, weights_file, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="only a network of timm with its own feature vector"):
        curve(folder, weights_file("test_resnet"), tmp_path / "c.html", layers=2)
    assert not (tmp_path / "c.html").exists()


def test_too_few_pictures_are_an_error(weights_file, tmp_path: Path) -> None:
    few = photos.two_classes(tmp_path / "few", 12)
    with pytest.raises(DataError, match="too few for curves from scratch; they take 64 or more"):
        curve(few, weights_file("test_resnet"), tmp_path / "c.html")


# The plan


def test_time_goes_into_epochs_first_then_into_pictures() -> None:
    rich = plan(800, 200, 4, 1e-4, budget=3600, epochs=None)
    assert (rich.sizes, rich.epochs) == ((100, 200, 400, 800), (80, 80, 80, 48))
    assert not rich.short
    poor = plan(800, 200, 4, 1e-2, budget=300, epochs=None)
    assert poor.sizes[-1] < 800
    assert all(e >= f / 2 for e, f in zip(poor.epochs, poor.fair, strict=True))
    poorest = plan(800, 200, 4, 1e-2, budget=60, epochs=None)
    assert poorest.short
    for each, budget in ((rich, 3600), (poor, 300), (poorest, 60)):
        assert sum(each.seconds) <= budget
        assert [round(b / a) for a, b in zip(each.sizes, each.sizes[1:], strict=False)] == [2] * (len(each.sizes) - 1)
    with pytest.raises(OptionError, match="take a longer --budget"):
        plan(800, 200, 4, 1.0, budget=10, epochs=None)


# The numbers


def laws(J: int, *, scratch: float, seed: int = 0) -> tuple[Answered, Answered, Answered, np.ndarray]:
    """Two curves of error 4 m^-0.5 pretrained and `scratch` times that, on 3,000 pictures of two classes."""
    rng, y = np.random.default_rng(seed), np.arange(3000) % 2
    sizes, small = 200 * 2 ** np.arange(J), np.unique(np.geomspace(100, 2000, 8).round().astype(int))
    hard = rng.random(3000)  # the same pictures are hard for all

    def right(m: np.ndarray, times: float) -> np.ndarray:
        return (hard[None] > (times * 4 / np.sqrt(m) / 4)[:, None]).astype(float)

    luck, none = np.full(J, LUCK), np.zeros(J)
    pretrained = Answered(sizes, right(sizes, 1), none), Answered(small, right(small, 1), np.zeros(len(small)))
    return Answered(sizes, right(sizes, scratch), luck), *pretrained, y


def test_a_known_worth_is_found() -> None:
    # errors m^-0.5 and 2 m^-0.5: four times the pictures do the same
    scratch, same, usual, y = laws(4, scratch=2.0)
    found = worth(scratch, same, usual, y, np.arange(len(y)), rng=np.random.default_rng(1))
    assert found.trouble == ""
    for each in found.exchanges:
        if 200 <= 4 * each.pictures <= 1600:
            assert each.low <= 4 * each.pictures <= each.high
            assert each.value == pytest.approx(4 * each.pictures, rel=0.25)
    assert found.back is not None
    assert found.back[0] <= 400 <= found.back[2]
    assert found.limit == 12_800
    for (_, gain), m in zip(found.gains, scratch.sizes, strict=True):
        assert gain.value == pytest.approx(1 / math.sqrt(m), abs=0.02)
        assert gain.high - gain.low >= 2 * 1.28 * LUCK * 0.8


def test_intervals_hold_what_they_say_and_steeper_curves_are_no_worse() -> None:
    held = [0, 0]
    for seed in range(15):
        for gamma in (-0.5, -0.9):
            found, true = drawn_by_chance(seed, gamma)
            for each in found.exchanges:
                if 100 < (m := true(each.pictures)) <= found.limit:
                    held[0] += each.low <= m <= each.high
                    held[1] += 1
    assert held[1] > 100
    assert 0.65 <= held[0] / held[1] <= 0.95  # 80 % wanted


def drawn_by_chance(seed: int, gamma: float) -> tuple[Worth, Callable[[int], float]]:
    """A curve of slope gamma whose trainings have luck; and the pictures that truly are as good as so many."""
    rng, y = np.random.default_rng(seed), np.arange(300) % 2
    hard, sizes = rng.random(300), 100 * 2 ** np.arange(4)
    small = np.unique(np.geomspace(20, 1000, 8).round().astype(int))

    def right(errors: np.ndarray) -> np.ndarray:
        return (hard[None] > errors[:, None]).astype(float)

    lucky = 0.4 * (sizes / 100) ** gamma + rng.normal(0, LUCK, 4)
    scratch = Answered(sizes, right(lucky), np.full(4, LUCK))
    same = Answered(sizes, right(0.3 * (sizes / 20) ** -0.4), np.zeros(4))
    usual = Answered(small, right(0.3 * (small / 20) ** -0.4), np.zeros(len(small)))
    found = worth(scratch, same, usual, y, np.arange(300), rng=rng)
    return found, lambda m: 100 * (0.3 * (m / 20) ** -0.4 / 0.4) ** (1 / gamma)


def test_balanced_accuracy_counts_classes_alike() -> None:
    scratch, same, usual, _ = laws(4, scratch=2.0)
    y = (np.arange(3000) % 10 == 0).astype(np.int64)
    right = np.where(y == 0, 1.0, 0.0)  # one class always, the other never
    never = replace(scratch, right=np.tile(right, (4, 1)))
    plain = worth(never, same, usual, y, np.arange(3000), rng=np.random.default_rng(1))
    even = worth(never, same, usual, y, np.arange(3000), metric="balanced_accuracy", rng=np.random.default_rng(1))
    assert plain.scratch[-1][1].value == pytest.approx(0.9)
    assert even.scratch[-1][1].value == pytest.approx(0.5)
    assert plain.trouble.startswith("no signal")
    assert even.trouble.startswith("no signal")
    assert even.back is None
    assert even.exchanges == ()


def test_an_ill_behaved_curve_is_refused() -> None:
    scratch, same, usual, y = laws(4, scratch=2.0)
    falling = replace(scratch, right=scratch.right[[1, 3, 2, 1]])
    groups = np.arange(len(y))
    found = worth(falling, same, usual, y, groups, rng=np.random.default_rng(1))
    assert "falls" not in found.trouble  # four points are within what one training is allowed to be off by
    assert found.exchanges
    worse = replace(scratch, right=np.stack([scratch.right[3], *[scratch.right[0] * (np.arange(3000) % 4 > 0)] * 3]))
    found = worth(worse, same, usual, y, groups, rng=np.random.default_rng(1))
    assert found.trouble == "its score falls with more pictures in part of the curve"
    two = replace(scratch, sizes=scratch.sizes[:2], right=scratch.right[:2], luck=scratch.luck[:2])
    pair = replace(same, sizes=same.sizes[:2], right=same.right[:2], luck=same.luck[:2])
    assert worth(two, pair, usual, y, groups, rng=np.random.default_rng(1)).trouble.startswith("a curve needs 3 sizes")


def test_a_curve_steeper_than_any_law_is_looked_up_but_not_carried_on() -> None:
    scratch, same, usual, y = laws(4, scratch=2.0)
    hard = np.random.default_rng(0).random(len(y))
    errors = np.array([0.40, 0.25, 0.10, 0.01])
    found = worth(
        replace(scratch, right=(hard > errors[:, None]).astype(float)),
        same,
        usual,
        y,
        np.arange(len(y)),
        rng=np.random.default_rng(1),
    )
    assert found.trouble == "no power law fits its scores"
    assert found.limit == 1600
    assert found.scratch_fan == ()
    (first, *_, last) = found.exchanges
    assert first.pictures == 100  # error 0.1, which the third training has
    assert first.low < 800 < first.high
    assert first.value == pytest.approx(800, rel=0.1)
    assert last.low > 800


# Words


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, "x", 0.8)


def told(exchanges: tuple[Exchange, ...], **more: object) -> FromScratch:
    scratch = ((100, estimate(0.4)), (200, estimate(0.5)), (400, estimate(0.6)))
    usual = ((20, estimate(0.7)), (100, estimate(0.8)), (400, estimate(0.9)))
    gains = tuple((m, estimate(0.3)) for m, _ in scratch)
    found = Worth("accuracy", 250, 3200, scratch, usual, usual, gains, "", exchanges, (0.0, 0.0, 25.4))
    trained = tuple(Trained(m, 80, 80, 0.1, "1") for m, _ in scratch)
    recipe = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "batch_size": 32, "crop_scale": 0.35, "hflip": 0.5}
    return FromScratch(replace(found, **more), trained, (100, 200, 400), recipe, 4)


INF = math.inf


@pytest.mark.parametrize(
    ("exchanges", "said"),
    [
        (
            (Exchange(20, 700, 812.3, 1100), Exchange(100, 1200, 1704, 2600), Exchange(400, INF, INF, INF)),
            "reaches with 100 pictures what training from scratch reaches with about 1,700 (1,200 to 2,600, 80 %",
        ),
        ((Exchange(20, 700, 812.3, INF),), "about 812 (700 to more than 3,200, 80 % interval)"),
        (
            (Exchange(20, 2000, INF, INF),),
            "with 20 pictures, 70.0 % (68.0 to 72.0), training from scratch reaches with probably more than 3,200, 8 "
            "times its largest training (2,000 at the least, 9 in 10)",
        ),
        ((Exchange(20, INF, INF, INF),), "more than 3,200, 8 times its largest training; nothing is said past that"),
        (
            (Exchange(20, 0, 0, 150), Exchange(100, 0, 0, 210)),
            "with 100 pictures, training from scratch reaches with fewer than 100, its smallest training.",
        ),
        (
            (Exchange(20, 0, 130, 210),),
            "what training from scratch reaches with about 130 (fewer than 100 to 210, 80 %",
        ),
        (
            (Exchange(20, 700, 812.3, 1100), Exchange(100, 1200, 1704, INF)),
            "reaches with 20 pictures what training from scratch reaches with about 812 (700 to 1,100, 80 % interval)",
        ),
    ],
)
def test_what_pretraining_is_worth_in_words(exchanges: tuple[Exchange, ...], said: str) -> None:
    words = worthstory.verdict(told(exchanges))
    assert said in words
    assert "the pretrained network has with fewer than 20 (25 at the most, 9 in 10)" in words


def test_trouble_leaves_what_was_measured() -> None:
    found = told((), trouble="no signal found: at the largest sizes …", back=None)
    words = worthstory.verdict(found)
    assert words.startswith("With the same 400 pictures the pretrained network is +30.0 points (+28.0 to +32.0) better")
    assert words.endswith(
        "More is not said, because of training from scratch: no signal found: at the largest sizes …."
    )
    assert "reaches with" not in words


def test_a_curve_that_is_not_carried_on_ends_at_its_largest_training() -> None:
    exchanges = (Exchange(20, 120, 160, 210), Exchange(100, INF, INF, INF))
    found = told(exchanges, trouble="no power law fits its scores", limit=400)
    words = worthstory.verdict(found)
    assert "reaches with 20 pictures what training from scratch reaches with about 160 (120 to 210" in words
    assert words.endswith("Nothing is said past 400 pictures from scratch, since no power law fits its scores.")
    assert worthstory.exchange_words(exchanges[1], found.worth).startswith("more than 400, its largest training")


def test_what_is_unfair_is_said() -> None:
    fair = told(())
    assert worthstory.notes(fair) == ()
    short = replace(fair, trained=tuple(replace(t, epochs=40) for t in fair.trained))
    assert "40 of 80 epochs with 100, 200, 400 pictures" in worthstory.notes(short)[0]
    mixed = replace(fair, trained=tuple(replace(t, epochs=40 + i) for i, t in enumerate(fair.trained)))
    assert "40 of 80 epochs with 100 pictures, 41 of 80 epochs with 200 pictures" in worthstory.notes(mixed)[0]
    unlearnt = replace(fair, trained=tuple(replace(t, train_loss=1.0) for t in fair.trained))
    assert "had not learnt its own pictures" in worthstory.notes(unlearnt)[0]


def test_the_record_is_json() -> None:
    record = worthstory.to_json(told((Exchange(20, 700, INF, INF),), back=(0.0, 30.0, INF)))
    json.dumps(record, allow_nan=False)
    assert record["as_good_from_scratch"] == [{"pictures": 20, "p10": 700, "p50": None, "p90": None}]
    assert record["as_good_pretrained"] == {"p10": 0, "p50": 30, "p90": None}
