"""What a model says of a picture, as the server's answers hold it (P)."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graftage.report.overlay import overlay
from graftage.report.pictures import jpeg_uri, png_uri
from graftage.serve.bundle import Bundle
from graftage.serve.predict import Explanation, Prediction, Predictor
from graftage.serve.uploads import Upload

_HEAT, _SHOWN = 256, 640  # pixels of the longer side


def explained(
    predictor: Predictor, upload: Upload, *, label: str | None, similar: int, picture: bool, thumbnails: bool
) -> dict[str, Any] | Prediction:
    """Why a picture gets its class; of one that cannot be used, its row.

    Args:
        predictor: the model.
        upload: the picture.
        label: the class to explain; None for the predicted.
        similar: training pictures, at most.
        picture: whether to send it back, upright and in small: not every browser shows every format.
        thumbnails: whether to show the training pictures, where the model file holds them.
    """
    found = predictor.explain(upload.data, label=label, similar=similar)
    prediction = replace(found.prediction, path=upload.name)
    if found.heat is None or found.pixels is None:
        return prediction
    height, width = found.pixels.shape[:2]
    return {
        "label": found.label,
        "prediction": vars(prediction),
        "heat": {
            "png": png_uri(overlay(found.heat.picture, longest=_HEAT)),
            "width": width,
            "height": height,
            "log_odds": found.heat.end,
            "empty_log_odds": found.heat.start,
            "method": found.heat.method,
        },
        "similar": _similar(predictor, found, shown_pictures(predictor.bundle) if thumbnails else {}),
        "picture": jpeg_uri(found.pixels, longest=_SHOWN) if picture else None,
    }


def shown_pictures(bundle: Bundle) -> dict[str, NDArray[np.uint8]]:
    """Thumbnails uint8 (32, 32), grey, of training pictures by their names; empty where the model file cannot tell.

    Names and thumbnails are kept for different ends, in the order of the training pictures; where there are as many of
    both, they are of the same pictures.
    """
    thumbnails, known = bundle.pictures.get("thumbnails"), bundle.neighbours
    if thumbnails is None or known is None or len(thumbnails) != len(known.names):
        return {}
    return dict(zip(known.names, np.asarray(thumbnails, np.uint8), strict=True))


def _similar(predictor: Predictor, found: Explanation, shown: dict[str, NDArray[np.uint8]]) -> list[dict[str, Any]]:
    return [
        {
            "id": near.id,
            "label": predictor.classes[near.label],
            "similarity": near.similarity,
            "thumbnail": png_uri(Image.fromarray(shown[near.id])) if near.id in shown else None,
        }
        for near in found.similar
    ]
