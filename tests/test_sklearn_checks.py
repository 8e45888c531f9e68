"""GraftClassifier among scikit-learn's own checks of an estimator.

Most of these checks feed a matrix of numbers, which is none of pictures: scikit-learn leaves them out for an estimator
that says so by its tags. `OfRows` paints a picture for each row, so that they reach what the classifier makes of
labels, parameters, repeated fits and parts of X.
"""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

from graftage.sklearn import GraftClassifier

SIDE = 32  # pixels
NOT_FOR_US = {
    "check_array_api_input": "X of another array library; it asks that SCIPY_ARRAY_API was set before Python began",
    "check_classifiers_train": "twelve fits of 300 pictures; asks for accuracy, which painted rows do not promise",
}
REFUSED = {
    "check_estimators_pickle": (TypeError, "is not pickled, because reading a pickle can run code"),
}


class OfRows(GraftClassifier):
    """X is a matrix of numbers."""

    def __init__(self, *, backbone: str = "none", squaring: str = "squash") -> None:
        super().__init__(backbone=backbone, squaring=squaring)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = False
        tags.input_tags.two_d_array = tags.classifier_tags.poor_score = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        if y is None:
            return super().fit([], y)
        X, y = validate_data(self, X, y, dtype=np.float64)
        return super().fit(painted(X), y)

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(painted(validate_data(self, X, dtype=np.float64, reset=False)))


def painted(X: np.ndarray) -> list[np.ndarray]:
    """A picture for each row: stripes of its numbers, below noise without which like rows would be copies."""
    pictures = []
    for row in X:
        shades = np.resize(255 / (1 + np.exp(-row)), (-(-len(row) // 3), 3)).astype(np.uint8)
        noise = np.random.default_rng(np.frombuffer(row.tobytes(), np.uint32)).integers(0, 256, (SIDE // 2, SIDE, 3))
        stripes = np.broadcast_to(shades[np.arange(SIDE) * len(shades) // SIDE], (SIDE // 2, SIDE, 3))
        pictures.append(np.concatenate([noise, stripes]).astype(np.uint8))
    return pictures


def checks_of(estimator: GraftClassifier) -> dict[str, Callable[[Any], None]]:
    """scikit-learn's checks of an estimator, by their names and what they are told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # said of those that need a matrix
        found = [check for _, check in estimator_checks_generator(estimator)]
    named = {}
    for check in found:
        assert isinstance(check, functools.partial)
        told = ", ".join(f"{key}={value}" for key, value in check.keywords.items())
        named[f"{check.func.__name__}({told})"] = check
    return named


ON_PICTURES, ON_ROWS = checks_of(GraftClassifier()), checks_of(OfRows())


def own_name(name: str) -> str:
    return name.partition("(")[0]


@pytest.mark.parametrize("name", ON_PICTURES)
def test_a_check_that_needs_no_pictures_passes(name: str) -> None:
    ON_PICTURES[name](GraftClassifier())


@pytest.mark.parametrize("name", [name for name in ON_ROWS if own_name(name) not in {*NOT_FOR_US, *REFUSED}])
def test_a_check_that_feeds_rows_passes(name: str, weights_file: Callable[[str], Path]) -> None:
    ON_ROWS[name](OfRows(backbone=f"{weights_file('test_efficientnet')}@{SIDE}"))


@pytest.mark.parametrize("name", [name for name in ON_ROWS if own_name(name) in REFUSED])
def test_a_check_of_what_we_refuse_meets_the_refusal(name: str, weights_file: Callable[[str], Path]) -> None:
    error, message = REFUSED[own_name(name)]
    with pytest.raises(error, match=message):
        ON_ROWS[name](OfRows(backbone=f"{weights_file('test_efficientnet')}@{SIDE}"))


def test_what_is_left_out_are_checks_of_this_scikit_learn() -> None:
    names = {own_name(name) for name in ON_ROWS}
    assert len(names) > 40
    assert {*NOT_FOR_US, *REFUSED} <= names
