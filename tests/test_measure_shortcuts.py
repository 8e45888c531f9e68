"""Shortcuts: clues that give the label away are found, innocent ones are not."""

from dataclasses import replace

import numpy as np
import pytest

from graftage.data.quality import Traits
from graftage.data.split import folds
from graftage.measure.shortcuts import Clue, clues, shortcuts

PLAIN = Traits(9000, "JPEG", "", 100, 80, 0.1, 0.4, 0.9, 0.2, (0.4, 0.4, 0.4), (0.3, 0.3, 0.3, 0.1))


def compare(tried: tuple[Clue, ...], y: np.ndarray, content: float = 0.95) -> dict[str, tuple[float, str]]:
    rng = np.random.default_rng(1)
    said = np.where(rng.random(len(y)) < content, y, 1 - y)
    held = folds(y, np.arange(len(y)), k=5, repeats=1, rng=rng)[0]
    found = shortcuts(tried, y, held, np.arange(len(y)), said, rng=rng)
    return {each.clue: (each.accuracy.value, each.verdict) for each in found}


@pytest.fixture
def y() -> np.ndarray:
    return np.arange(400) % 2


def test_a_clue_that_is_the_label_is_as_good_as_the_content(y: np.ndarray) -> None:
    looks = [replace(PLAIN, format="PNG" if label else "JPEG") for label in y]
    found = compare(clues(looks, ["a.jpg"] * len(y), ["x"] * len(y)), y)
    assert found == {"file format": (1.0, "nearly as good as the content")}


def test_a_clue_that_is_noise_says_nothing(y: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    looks = [replace(PLAIN, bytes=int(b)) for b in rng.integers(1000, 90_000, len(y))]
    (found,) = compare(clues(looks, ["a.jpg"] * len(y), ["x"] * len(y)), y).values()
    assert found[0] < 0.62
    assert found[1] == ""


def test_a_clue_that_says_half_is_notable(y: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    shown = np.where(rng.random(len(y)) < 0.8, y, 1 - y)  # 80 % right; the content gains 45 points, this one 30
    looks = [replace(PLAIN, width=100 + 50 * int(s)) for s in shown]
    found = compare(clues(looks, ["a.jpg"] * len(y), ["x"] * len(y)), y)
    assert found["picture size"][1] == "notable"


@pytest.mark.parametrize(
    ("clue", "change"),
    [
        ("file size", lambda on: {"bytes": 5000 + 9000 * on}),
        ("picture size", lambda on: {"width": 100 + 100 * on, "height": 80 + 80 * on}),
        ("picture shape", lambda on: {"width": 100 + 60 * on}),
        ("mean colour", lambda on: {"colour": (0.4, 0.4 + 0.2 * on, 0.4)}),
        ("brightness and contrast", lambda on: {"mean": 0.4 + 0.2 * on}),
        ("border", lambda on: {"border": (0.3, 0.3, 0.3 + 0.3 * on, 0.1)}),
        ("camera (EXIF)", lambda on: {"camera": "Acme" if on else ""}),
    ],
)
def test_every_clue_is_looked_for(clue: str, change: object, y: np.ndarray) -> None:
    looks = [replace(PLAIN, **change(int(on))) for on in y]
    assert compare(clues(looks, ["a.jpg"] * len(y), ["x"] * len(y)), y)[clue][0] == 1.0


def test_names_count_without_the_name_of_the_class(y: np.ndarray) -> None:
    labels = ["cat" if on else "dog" for on in y]
    looks = [PLAIN] * len(y)
    honest = [f"{label}.{i}.jpg" for i, label in enumerate(labels)]
    assert compare(clues(looks, honest, labels), y)["number in the file name"][1] == ""
    telling = [f"IMG_{i}.jpg" if on else f"DSC{i}.jpg" for i, on in enumerate(y)]
    assert compare(clues(looks, telling, labels), y)["pattern of the file name"][0] == 1.0
    ordered = [f"IMG_{i + 1000 * int(on)}.jpg" for i, on in enumerate(y)]
    assert compare(clues(looks, ordered, labels), y)["number in the file name"][0] == 1.0


@pytest.mark.parametrize(
    ("classes", "name"), [(("ant", "bee"), "plant-{}"), (("a", "b"), "a"), (("1", "2"), "DSC{}"), (("", "x"), "x{}")]
)
def test_the_name_of_the_class_taken_out_gives_nothing_away(classes: tuple[str, str], name: str, y: np.ndarray) -> None:
    labels = [classes[on] for on in y]
    files = [f"{name.format(11 + i // 2)}.jpg" for i in range(len(y))]  # the same names in both classes
    assert all(each[0] < 0.6 for each in compare(clues([PLAIN] * len(y), files, labels), y).values())


def test_a_class_that_is_called_by_a_number_takes_no_digit_out_of_others(y: np.ndarray) -> None:
    labels = ["1" if on else "2" for on in y]
    files = [f"DSC{111 if on else 222}.jpg" for on in y]
    assert compare(clues([PLAIN] * len(y), files, labels), y)["number in the file name"][0] == 1.0


def test_what_never_varies_is_no_clue(y: np.ndarray) -> None:
    assert clues([PLAIN] * len(y), ["a.jpg"] * len(y), ["x"] * len(y)) == ()


def test_naive_bayes_is_that_of_scikit_learn_on_the_same_bins() -> None:
    from sklearn.naive_bayes import CategoricalNB

    from graftage.measure import shortcuts as ours

    rng = np.random.default_rng(5)
    y, codes = rng.integers(0, 3, 300), rng.integers(0, 4, (300, 2))
    codes[:, 0] = np.where(rng.random(300) < 0.5, y, codes[:, 0])
    learnt = np.arange(300) < 200
    theirs = CategoricalNB(alpha=1.0, min_categories=4).fit(codes[learnt], y[learnt])
    scores = np.tile(np.log(np.bincount(y[learnt]) / 200), (100, 1))
    for column in codes.T:
        scores += ours._evidence(column, y, learnt, 3)[column[~learnt]]
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert scores == pytest.approx(theirs.predict_log_proba(codes[~learnt]), abs=1e-9)
