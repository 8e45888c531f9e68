"""graftage for those who live in scikit-learn: a classifier whose X is a sequence of pictures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftage.errors import DataError, OptionError
from graftage.pipeline import fit
from graftage.serve.bundle import save
from graftage.settings import Settings

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import assert_all_finite, check_is_fitted
except ImportError as error:
    raise OptionError("GraftClassifier needs scikit-learn: pip install 'graftage[sklearn]'") from error

Pictures = Sequence[str | Path | Image.Image | NDArray[Any]] | NDArray[Any]

_IN_PNG = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})  # Pillow's modes that PNG holds as they are


class UnfitError(DataError, ValueError):
    """Pictures or labels that a classifier cannot take; scikit-learn's own tools know it as a ValueError."""


class GraftClassifier(ClassifierMixin, BaseEstimator):
    """Transfer learning as a scikit-learn classifier; `cross_val_score`, `GridSearchCV` and the like take it.

    X is a sequence of n pictures: paths (str or Path), PIL pictures, or arrays, uint8 (H, W) or (H, W, 3); or one array
    of paths (n,) or (n, 1), of grey pictures (n, H, W) or coloured ones (n, H, W, 3); or a data frame with one column.
    Pictures in memory go through the same decoder as files: they are written, without loss, to a folder that is removed
    afterwards. Features are kept between fits, so cross-validation passes each picture through the network once.

    A fitted classifier is not pickled, because reading a pickle can run code: `save` writes a model file.

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

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator: pictures are no rows of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __getstate__(self) -> Any:
        """For copying and for other processes, as long as there is no model in it."""
        if hasattr(self, "predictor_"):
            raise TypeError(
                "a fitted GraftClassifier is not pickled, because reading a pickle can run code: keep it with "
                "save(path), and read it with graftage.load(path)"
            )
        return super().__getstate__()

    def fit(self, X: Pictures, y: Sequence[Any] | NDArray[Any]) -> Self:
        """Learns from pictures X (n,) and labels y (n,) of any sortable type.

        Raises:
            UnfitError: X holds something else than pictures, or not as many as y; or y has fewer than two classes.
            DataError: a class with fewer than two usable pictures.
            ValueError: y is no vector of class labels, or holds NaN.
        """
        classes, codes = np.unique(_labels(y), return_inverse=True)
        pictures, names = _listed(X), [str(label) for label in classes]
        if len(pictures) != len(codes):
            raise UnfitError(f"{len(pictures)} pictures but {len(codes)} labels; give one label for each picture")
        if len(classes) < 2:
            raise UnfitError(f"one class only, {names[0]!r}: a classifier tells two or more classes apart")
        with _files(pictures) as paths:
            predictor = fit(
                paths,
                [names[code] for code in codes],
                classes=names,
                backbone=self.backbone,
                fit=self.squaring,
                seed=self.seed,
                workers=self.workers,
            )
        self.classes_, self.predictor_ = classes, predictor
        return self

    def predict_proba(self, X: Pictures) -> NDArray[np.float64]:
        """Calibrated probabilities (n, K) for pictures X (n,).

        Raises:
            DataError: a picture cannot be used; names the first ones. `predictor_.predict` reports them row by row.
            UnfitError: X holds something else than pictures.
        """
        check_is_fitted(self)
        with _files(_listed(X)) as paths:
            answers = self.predictor_.predict(paths, workers=self.workers)
        bad = [answer for answer in answers if answer.status == "rejected"]
        if bad:
            named = "; ".join(f"{answer.path}: {answer.reason}" for answer in bad[:3])
            raise DataError(f"{len(bad)} of {len(answers)} pictures cannot be used, first {named}")
        return np.array([answer.probabilities for answer in answers]).reshape(len(answers), len(self.classes_))

    def predict(self, X: Pictures) -> NDArray[Any]:
        """The most probable label of each picture (n,). Raises as `predict_proba` does."""
        p = self.predict_proba(X)  # first, because it also checks that there was a fit
        chosen: NDArray[Any] = self.classes_[p.argmax(axis=1)]
        return chosen

    def save(self, path: str | Path) -> None:
        """Writes the model file; its class names are the labels as text. Read it with `graftage.load`."""
        check_is_fitted(self)
        save(self.predictor_.bundle, Path(path))


def _labels(y: Any) -> NDArray[Any]:
    """Class labels (n,), checked as scikit-learn's own classifiers check them."""
    if y is None:
        raise UnfitError("GraftClassifier requires y to be passed, but the target y is None: give a label per picture")
    vector: NDArray[Any] = column_or_1d(y, warn=True)
    assert_all_finite(vector, input_name="y")
    check_classification_targets(vector)
    if not len(vector):
        raise UnfitError("there are no pictures to learn from: y is empty")
    return vector


# ---------------------------------------------------------------- pictures in memory


@contextmanager
def _files(pictures: Sequence[Any]) -> Iterator[list[Path]]:
    """Pictures as files; those that were in memory are removed at the end. Raises UnfitError."""
    if all(isinstance(one, str | Path) for one in pictures):
        yield [Path(one) for one in pictures]
        return
    with TemporaryDirectory(prefix="graftage-") as folder:
        yield [_file(one, f"X[{i}]", Path(folder)) for i, one in enumerate(pictures)]


def _listed(X: Any) -> list[Any]:
    """The pictures of X, each as it was given. Raises UnfitError."""
    if hasattr(X, "columns"):
        X = X.to_numpy()
    if isinstance(X, str | Path | Image.Image):
        raise UnfitError("X is one picture: give a sequence of them, such as [picture]")
    if not isinstance(X, np.ndarray):
        return list(X)
    paths = X.dtype.kind in "UOT"
    if paths and (X.ndim == 1 or X.shape[1:] == (1,)):
        return X.ravel().tolist()
    if not paths and X.ndim == 3 and X.shape[2] in (3, 4):
        raise UnfitError(f"X {X.shape} may be one coloured picture or narrow grey ones: give [picture], or a list")
    if paths or X.ndim not in (3, 4):
        raise UnfitError(
            f"X is an array {X.shape} of {X.dtype}, but must hold pictures: paths (n,), uint8 (n, H, W) or (n, H, W, 3)"
        )
    return list(X)


def _file(picture: Any, name: str, folder: Path) -> Path:
    """The file of a picture, written to `folder` under its name if it was in memory."""
    if isinstance(picture, str | Path):
        return Path(picture)
    image = picture if isinstance(picture, Image.Image) else _image(picture, name)
    path = folder / f"{name}.{'png' if image.mode in _IN_PNG else 'tif'}"
    options: dict[str, Any] = {"compress_level": 1} if path.suffix == ".png" else {}
    options |= {"exif": image.getexif(), "icc_profile": image.info.get("icc_profile")}  # upright, and sRGB, by these
    try:
        image.save(path, **options)
    except (OSError, ValueError) as error:
        raise UnfitError(f"{name}: a PIL picture of mode {image.mode} that cannot be written: {error}") from error
    return path


def _image(picture: Any, name: str) -> Image.Image:
    shown = f"an array {picture.shape} of {picture.dtype}" if isinstance(picture, np.ndarray) else repr(type(picture))
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        raise UnfitError(f"{name} is {shown}, but must be a path, a PIL picture, or uint8 (H, W) or (H, W, 3)")
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)) or not picture.size:
        raise UnfitError(f"{name} is {shown}: a picture is uint8 (H, W) or (H, W, 3)")
    return Image.fromarray(np.ascontiguousarray(picture))
