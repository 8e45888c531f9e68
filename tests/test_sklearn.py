"""graftage as a scikit-learn classifier."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

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
