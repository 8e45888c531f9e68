"""graftage for those who live in scikit-learn: a classifier whose X is a sequence of picture files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graftage.errors import DataError, OptionError
from graftage.pipeline import fit
from graftage.serve.bundle import save
from graftage.settings import Settings

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise OptionError("GraftClassifier needs scikit-learn: pip install 'graftage[sklearn]'") from error

Paths = Sequence[str | Path] | NDArray[Any]


class GraftClassifier(ClassifierMixin, BaseEstimator):
    """Transfer learning as a scikit-learn classifier; `cross_val_score`, `GridSearchCV` and the like take it.

    Features are kept between fits, so cross-validation passes each picture through the network once.

    Args:
        backbone: id of the pretrained network.
        squaring: "auto", "crop", "squash" or "pad".
        seed: of everything random.
        workers: threads that decode; 0 means two more than there are cores.

    Attributes:
        classes_: the labels, sorted (K,); columns of `predict_proba` are in this order.
        predictor_: the model, see `graftage.Predictor`.
    """

    def __init__(
        self, *, backbone: str = Settings.backbone, squaring: str = "auto", seed: int = 42, workers: int = 0
    ) -> None:
        self.backbone = backbone
        self.squaring = squaring
        self.seed = seed
        self.workers = workers

    def fit(self, X: Paths, y: Sequence[Any] | NDArray[Any]) -> Self:
        """Learns from picture files X (n,) and labels y (n,) of any sortable type.

        Raises:
            DataError: fewer than two classes, or a class with fewer than two usable pictures.
        """
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        names = [str(label) for label in self.classes_]
        self.predictor_ = fit(
            list(X),
            [names[code] for code in codes],
            classes=names,
            backbone=self.backbone,
            fit=self.squaring,
            seed=self.seed,
            workers=self.workers,
        )
        return self

    def predict_proba(self, X: Paths) -> NDArray[np.float64]:
        """Calibrated probabilities (n, K) for picture files X (n,).

        Raises:
            DataError: a picture cannot be used; names the first ones. `predictor_.predict` reports them row by row.
        """
        check_is_fitted(self)
        answers = self.predictor_.predict(list(X), workers=self.workers)
        bad = [answer for answer in answers if answer.status == "rejected"]
        if bad:
            named = "; ".join(f"{answer.path}: {answer.reason}" for answer in bad[:3])
            raise DataError(f"{len(bad)} of {len(answers)} pictures cannot be used, first {named}")
        return np.array([answer.probabilities for answer in answers]).reshape(len(answers), len(self.classes_))

    def predict(self, X: Paths) -> NDArray[Any]:
        """The most probable label of each picture file (n,). Raises DataError as `predict_proba` does."""
        p = self.predict_proba(X)  # first, because it also checks that there was a fit
        chosen: NDArray[Any] = self.classes_[p.argmax(axis=1)]
        return chosen

    def save(self, path: str | Path) -> None:
        """Writes the model file; its class names are the labels as text. Read it with `graftage.load`."""
        check_is_fitted(self)
        save(self.predictor_.bundle, Path(path))
