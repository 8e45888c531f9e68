"""Keras' own pretrained image classifiers, run by Keras 3 on PyTorch: `keras/VGG16`, `keras/ResNet50` and the others.

The weights come from Keras' cache (`KERAS_HOME`, else `~/.keras`) or from a file that Keras saved: `.weights.h5`,
`.keras`, or the older `.h5`. Of a file only arrays are read, never the configuration in which code could hide. What
Keras does with pixels, which file it wants and how wide its maps are is asked of Keras itself, not kept in tables here.
"""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from graftage.errors import BackboneError
from graftage.features.facts import Backbone, BackboneInfo, Weights, file_hash
from graftage.features.keras_cache import cached_file
from graftage.features.keras_files import load_into
from graftage.features.keras_itself import (
    PREFIX,
    is_keras,
    keras_facts,
    keras_model,
    keras_names,
    keras_pixels,
    keras_settings,
    known_keras,
)
from graftage.features.keras_module import variables_of
from graftage.features.preprocess import Preprocess

SUFFIXES = (".h5", ".hdf5", ".keras")

# As the documentation of Keras 2 stated for its own weights, network by network; today's no longer says.
LICENCES = {
    "VGG16": "CC-BY-4.0",
    "VGG19": "CC-BY-4.0",
    "ResNet50": "MIT",
    "Xception": "MIT",
    "InceptionV3": "Apache-2.0",
    "InceptionResNetV2": "Apache-2.0",
    "MobileNet": "Apache-2.0",
    "MobileNetV2": "Apache-2.0",
    "NASNetLarge": "Apache-2.0",
    "NASNetMobile": "Apache-2.0",
    "DenseNet121": "BSD-3-Clause",
    "DenseNet169": "BSD-3-Clause",
    "DenseNet201": "BSD-3-Clause",
}
# Keras' files of EfficientNet B0 to B7 hold these standard deviations where the layer expects variances.
_DEVIATIONS = (0.229, 0.224, 0.225)


def find_keras(backbone_id: str, architecture: str | None) -> Backbone:
    """The Keras network with this id, its weights on this machine.

    Args:
        backbone_id: "keras/NAME", or the path of a file that Keras saved.
        architecture: "keras/NAME", for a path whose own name does not tell it.

    Raises:
        BackboneError: no Keras, an unknown network, or weights that are neither here nor to be had.
    """
    if is_keras(backbone_id):
        name = known_keras(backbone_id.removeprefix(PREFIX), backbone_id)
        path, licence, pretraining = cached_file(name), LICENCES.get(name, "unknown"), "ImageNet-1k"
    else:
        path, licence, pretraining = Path(backbone_id), "unknown", "unknown"
        if not path.is_file():
            raise BackboneError(f"{path}: no such weights file")
        name = _named_by(path, architecture)
    facts = keras_facts(name)
    info = BackboneInfo(
        id=backbone_id,
        architecture=f"{PREFIX}{name}",
        features=facts.map[-1],
        input_size=facts.size,
        weights_sha256=file_hash(path),
        licence=licence,
        pretraining=pretraining,
        parameters=facts.parameters,
    )
    return Backbone(info, preprocess_keras(name), path)


def preprocess_keras(name: str) -> Preprocess:
    """Keras' own treatment of pixels for this network, except for the order of channels: that is the module's.

    Keras' function is asked what it makes of black and of the three pure colours: it is linear in each channel.
    """
    scale, shift, _ = keras_pixels(name)
    mean, std = [float(-b / (255 * a)) + 0.0 for a, b in zip(scale, shift, strict=True)], 1 / (255 * scale)
    return Preprocess("squash", keras_facts(name).size, 0.875, "bilinear", _three(mean), _three(std))


def read_keras_weights(backbone: Backbone) -> Weights:
    """The weights of `backbone` by the names that `build_keras` wants.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the architecture (the first that differ are named).
    """
    model = keras_model(known_keras(backbone.info.architecture.removeprefix(PREFIX), backbone.info.id))
    with keras_settings("cpu"):
        load_into(model, backbone.file)
    weights = {name: np.array(variable.value.detach().numpy()) for name, variable in variables_of(model).items()}
    return _with_variances(weights) if "/EfficientNetB" in backbone.info.architecture else weights


def flat_width(architecture: str) -> int:
    """Numbers in the last map of a Keras network."""
    return prod(keras_facts(known_keras(architecture.removeprefix(PREFIX), architecture)).map)


def _three(values: Any) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _named_by(path: Path, architecture: str | None) -> str:
    """The network that a file belongs to: as told, or as the file's own name begins."""
    if architecture is not None:
        return known_keras(architecture.removeprefix(PREFIX), architecture)
    by_lower = {n.lower(): n for n in keras_names()}
    if (name := by_lower.get(path.name.split(".")[0].lower())) is None:
        raise BackboneError(
            f"{path}: say which network these weights belong to with --architecture {PREFIX}NAME, for example "
            f"{PREFIX}VGG16"
        )
    return name


def _with_variances(weights: Weights) -> Weights:
    """EfficientNet B0 to B7 with true variances.

    Built for its ImageNet weights, Keras puts a second rescaling by 1/√deviation behind the layer to make up for the
    deviations that the file gives it as variances (tensorflow issue 49930). Deviation · deviation says the same within
    the network that is built for anyone's weights; a file that was not pretrained so holds other numbers.
    """
    (name,) = (n for n in weights if n.startswith("normalization") and n.endswith("/variance"))
    variance = np.asarray(weights[name], dtype=np.float32)
    if np.allclose(variance.ravel(), _DEVIATIONS, rtol=1e-3):
        weights[name] = variance * np.asarray(_DEVIATIONS, dtype=np.float32)
    return weights
