"""graftage as a scikit-learn classifier."""

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import graftage as gr
import photos


@pytest.fixture(scope="module")
def data(class_folders: Path) -> tuple[list[Path], list[int]]:
    paths = sorted(class_folders.rglob("*.jpg"))
    return paths, [int(path.parent.name) for path in paths]  # numbers 1, 2 and 10


@pytest.fixture(scope="module")
def fitted(data: tuple[list[Path], list[int]]) -> gr.GraftClassifier:
    return gr.GraftClassifier(squaring="crop").fit(*data)


def test_parameters_are_stored_as_given_and_cloned() -> None:
    model = gr.GraftClassifier(backbone="b", squaring="pad", seed=7, workers=2)
    wanted = {"backbone": "b", "squaring": "pad", "seed": 7, "workers": 2}
    assert model.get_params() == clone(model).get_params() == wanted
    assert model.set_params(seed=8).seed == 8
    assert is_classifier(model)


def test_columns_follow_the_numbers_not_their_spelling(
    fitted: gr.GraftClassifier, data: tuple[list[Path], list[int]]
) -> None:
    paths, labels = data
    assert fitted.classes_.tolist() == [1, 2, 10]
    p = fitted.predict_proba(paths)
    assert p.shape == (48, 3)
    assert p.sum(axis=1) == pytest.approx(1)
    found = fitted.predict(paths)
    assert found.dtype == fitted.classes_.dtype
    assert found.tolist() == fitted.classes_[p.argmax(axis=1)].tolist()
    flowers = np.array(labels) == 2
    assert (found[flowers] == 2).all()
    assert fitted.score(paths, labels) == np.mean(found == labels)


def test_columns_follow_the_letters_of_text_labels(data: tuple[list[Path], list[int]]) -> None:
    """As text, 10 comes before 2 in scikit-learn, but after it in natural order."""
    paths, labels = data
    model = gr.GraftClassifier(squaring="crop").fit(np.array(paths, dtype=str), [str(label) for label in labels])
    assert model.classes_.tolist() == ["1", "10", "2"] == list(model.predictor_.classes)
    flowers = [path for path, label in zip(paths, labels, strict=True) if label == 2]
    assert set(model.predict(flowers)) == {"2"}
    assert model.predict_proba(flowers).argmax(axis=1).tolist() == [2] * 16


def test_the_predictor_within_speaks_of_the_labels(fitted: gr.GraftClassifier, class_folders: Path) -> None:
    assert fitted.predictor_.predict([class_folders / "2" / "0.jpg"])[0].label == "2"


def test_cross_validation_takes_files(data: tuple[list[Path], list[int]]) -> None:
    scores = cross_val_score(gr.GraftClassifier(squaring="crop"), *data, cv=2)
    assert scores.shape == (2,)
    assert (scores > 0.5).all()  # chance is 1/3


def test_the_saved_model_gives_the_same(
    fitted: gr.GraftClassifier, data: tuple[list[Path], list[int]], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.safetensors")
    model = gr.load(tmp_path / "model.safetensors")
    assert model.classes == ("1", "2", "10")
    paths = data[0][::7]
    assert [list(answer.probabilities) for answer in model.predict(paths)] == fitted.predict_proba(paths).tolist()


def test_the_same_seed_gives_the_same_model(fitted: gr.GraftClassifier, data: tuple[list[Path], list[int]]) -> None:
    again = clone(fitted).fit(*data)
    assert again.predict_proba(data[0][:5]).tolist() == fitted.predict_proba(data[0][:5]).tolist()


def test_a_picture_that_cannot_be_used_is_an_error_that_names_it(
    fitted: gr.GraftClassifier, data: tuple[list[Path], list[int]], tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(gr.DataError, match=r"1 of 2 pictures cannot be used, first .*empty\.jpg: empty file"):
        fitted.predict([data[0][0], tmp_path / "empty.jpg"])


def test_without_a_fit_there_is_no_answer(data: tuple[list[Path], list[int]], tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        gr.GraftClassifier().predict(data[0])
    with pytest.raises(NotFittedError):
        gr.GraftClassifier().save(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat"] * 4, "one class only"),
        (["cat", "cat", "cat", "dog"], "'dog': 1 usable"),
        (["cat"] * 3, "4 pictures but 3 labels"),
    ],
)
def test_labels_that_cannot_be_learnt_are_named(tmp_path: Path, labels: list[str], message: str) -> None:
    paths = photos.save(tmp_path, photos.crops("flower.jpg", 4))
    with pytest.raises(gr.DataError, match=message):
        gr.GraftClassifier().fit(paths, labels)


def test_no_pictures_give_no_rows(fitted: gr.GraftClassifier) -> None:
    assert fitted.predict_proba([]).shape == (0, 3)
    assert fitted.predict([]).shape == (0,)


# ---------------------------------------------------------------- pictures in memory


def test_pictures_in_memory_get_the_answers_of_their_files(
    fitted: gr.GraftClassifier, data: tuple[list[Path], list[int]]
) -> None:
    paths = data[0][::9]
    expected = fitted.predict_proba(paths).tolist()
    opened = [Image.open(path).convert("RGB") for path in paths]  # 110 × 110: nothing is scaled while decoding
    arrays = [np.asarray(picture) for picture in opened]
    for X in (opened, arrays, np.stack(arrays), np.array(paths, dtype=object)[:, None], pd.DataFrame({"file": paths})):
        assert fitted.predict_proba(X).tolist() == expected


def test_a_picture_in_memory_is_turned_upright_as_its_file_is(fitted: gr.GraftClassifier, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = photos.crops("china.jpg", 1, size=(90, 60))[0]
    lying.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        p = fitted.predict_proba([picture, lying.transpose(Image.Transpose.ROTATE_270), lying])
    assert p[0].tolist() == p[1].tolist() == fitted.predict_proba([tmp_path / "a.png"])[0].tolist()
    assert p[0].tolist() != p[2].tolist()


def test_it_learns_from_grey_pictures_in_memory(
    weights_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    both = [*photos.crops("china.jpg", 8), *photos.crops("flower.jpg", 8)]
    X, y = np.stack([np.asarray(picture.convert("L")) for picture in both]), ["palace"] * 8 + ["dahlia"] * 8
    model = gr.GraftClassifier(backbone=str(weights_file("test_efficientnet"))).fit(X, y)
    assert model.predict(X[:2]).shape == (2,)
    assert not list(tmp_path.iterdir())  # what was written for it is gone


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 2)), r"X is an array \(4, 2\) of float64, but must hold pictures"),
        (np.zeros((4, 5, 3), np.uint8), "may be one coloured picture or narrow grey ones"),
        (np.zeros((2, 5, 5)), r"X\[0\] is an array \(5, 5\) of float64, but must be .* uint8"),
        ([np.zeros((5, 5, 2), np.uint8)], r"X\[0\] is an array \(5, 5, 2\) of uint8: a picture is"),
        ([3.5], r"X\[0\] is <class 'float'>, but must be a path"),
        ("a.jpg", "X is one picture: give a sequence of them"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "must hold pictures: paths"),
        (
            [Image.new("F", (4, 4)), Image.new("HSV", (4, 4))],
            r"X\[1\]: .* of mode HSV that cannot be written",
        ),
    ],
)
def test_what_is_no_picture_is_named(fitted: gr.GraftClassifier, X: Any, message: str) -> None:
    with pytest.raises(gr.DataError, match=message) as raised:
        fitted.predict(X)
    assert isinstance(raised.value, ValueError)  # as scikit-learn's own tools expect


# ---------------------------------------------------------------- among scikit-learn's tools


def test_a_search_and_a_pipeline_take_files(data: tuple[list[Path], list[int]]) -> None:
    folder = data[0][0].parent.parent
    names = [str(path.relative_to(folder)) for path in data[0]]
    whole = Pipeline(
        [
            ("place", FunctionTransformer(lambda names: [folder / name for name in names])),
            ("model", gr.GraftClassifier()),
        ]
    )
    found = GridSearchCV(whole, {"model__squaring": ["crop", "squash"]}, cv=2).fit(names, data[1])
    assert found.best_score_ > 0.5
    assert found.predict(names[:3]).shape == (3,)
    assert found.best_estimator_["model"].get_params()["squaring"] == found.best_params_["model__squaring"]


def test_only_what_holds_no_model_is_pickled(fitted: gr.GraftClassifier) -> None:
    assert pickle.loads(pickle.dumps(gr.GraftClassifier(seed=7))).seed == 7
    with pytest.raises(TypeError, match=r"keep it with save\(path\), and read it with graftage\.load"):
        pickle.dumps(fitted)
