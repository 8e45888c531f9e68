"""graftage: a folder of labelled pictures becomes an image classifier you can trust, by transfer learning.

The public names are loaded when first used, so that `import graftage` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftage.asking import compare, evaluate, explain
    from graftage.checking import Checked
    from graftage.cleaning import Cleaned
    from graftage.embeddings import Embeddings, embed
    from graftage.errors import (
        BackboneError,
        BundleError,
        DataError,
        ExportError,
        GraftageError,
        OptionError,
        PictureError,
        StoreError,
    )
    from graftage.exporting import export
    from graftage.growth import Curved
    from graftage.measure.interval import Estimate
    from graftage.measure.scores import Scores
    from graftage.pipeline import train
    from graftage.rankstory import Ranked
    from graftage.runs import Run
    from graftage.serve.export import Exported
    from graftage.serve.predict import Explanation, Prediction, Predictor, load
    from graftage.settings import Settings
    from graftage.sklearn import GraftClassifier
    from graftage.surveying import check, clean, curve, rank
    from graftage.versus import Compared

__version__ = "0.1.0"

_HOME = {
    "BackboneError": "graftage.errors",
    "BundleError": "graftage.errors",
    "Checked": "graftage.checking",
    "Cleaned": "graftage.cleaning",
    "Compared": "graftage.versus",
    "Curved": "graftage.growth",
    "DataError": "graftage.errors",
    "Embeddings": "graftage.embeddings",
    "Estimate": "graftage.measure.interval",
    "Explanation": "graftage.serve.predict",
    "ExportError": "graftage.errors",
    "Exported": "graftage.serve.export",
    "GraftClassifier": "graftage.sklearn",
    "GraftageError": "graftage.errors",
    "OptionError": "graftage.errors",
    "PictureError": "graftage.errors",
    "Prediction": "graftage.serve.predict",
    "Predictor": "graftage.serve.predict",
    "Ranked": "graftage.rankstory",
    "Run": "graftage.runs",
    "Scores": "graftage.measure.scores",
    "Settings": "graftage.settings",
    "StoreError": "graftage.errors",
    "check": "graftage.surveying",
    "clean": "graftage.surveying",
    "compare": "graftage.asking",
    "curve": "graftage.surveying",
    "embed": "graftage.embeddings",
    "evaluate": "graftage.asking",
    "explain": "graftage.asking",
    "export": "graftage.exporting",
    "load": "graftage.serve.predict",
    "rank": "graftage.surveying",
    "train": "graftage.pipeline",
}

__all__ = [
    "BackboneError",
    "BundleError",
    "Checked",
    "Cleaned",
    "Compared",
    "Curved",
    "DataError",
    "Embeddings",
    "Estimate",
    "Explanation",
    "ExportError",
    "Exported",
    "GraftClassifier",
    "GraftageError",
    "OptionError",
    "PictureError",
    "Prediction",
    "Predictor",
    "Ranked",
    "Run",
    "Scores",
    "Settings",
    "StoreError",
    "__version__",
    "check",
    "clean",
    "compare",
    "curve",
    "embed",
    "evaluate",
    "explain",
    "export",
    "load",
    "rank",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'graftage' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
