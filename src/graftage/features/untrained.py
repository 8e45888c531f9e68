"""Whether weights look as if they had never been trained: what training starts from leaves traces that it wipes out.

Normalisation layers start at scale 1 and shift 0, statistics of batch normalisation at mean 0 and variance 1, exactly.
No training step leaves them there. A file in which many layers still hold these values was saved too early, or holds a
network whose weights were not loaded, wholly or from some layer on. Networks without normalisation do not show it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 0.25  # share of the normalisation layers from which on weights are said to look untrained


def untrained_share(weights: Mapping[str, NDArray[Any]]) -> float:
    """Share of a network's normalisation layers that hold the values that training starts from; 0 without any.

    Args:
        weights: arrays by name; a layer's scale is its one-dimensional `weight`, its shift its `bias`.
    """
    layers = [
        name.removesuffix("weight")
        for name, array in weights.items()
        if name.endswith(".weight")
        and array.ndim == 1
        and weights.get(name.removesuffix("weight") + "bias") is not None
    ]
    return sum(_as_begun(weights, layer) for layer in layers) / max(len(layers), 1)


def _as_begun(weights: Mapping[str, NDArray[Any]], layer: str) -> bool:
    scale, shift = weights[layer + "weight"], weights[layer + "bias"]
    mean, variance = weights.get(layer + "running_mean"), weights.get(layer + "running_var")
    begun = bool(np.all(shift == 0) and (np.all(scale == 1) or np.all(scale == 0)))  # 0: the last of a block, at times
    return begun and (mean is None or bool(np.all(mean == 0))) and (variance is None or bool(np.all(variance == 1)))
