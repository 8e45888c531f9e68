"""A backbone's file of weights becomes arrays under the names of its module without classifier."""

import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graftage.errors import BackboneError
from graftage.features.building import array_of, create, outline, tensors_of
from graftage.features.bundled import BUNDLED, find_bundled
from graftage.features.facts import Backbone, Weights, require_same
from graftage.features.keras_itself import is_keras
from graftage.features.keras_networks import flat_width, read_keras_weights
from graftage.features.recognise import classifier_of, is_counted, recognised
from graftage.features.torchvision_files import from_torchvision
from graftage.features.transformers_files import from_transformers
from graftage.features.weight_files import read_file

if TYPE_CHECKING:
    import torch


def read_weights(backbone: Backbone) -> Weights:
    """The weights of `backbone` under the names of its module without classifier, as arrays.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the architecture (the first that differ are named).
    """
    if backbone.parts:
        return _varied_weights(backbone)
    if is_keras(backbone.info.architecture):
        return read_keras_weights(backbone)
    if backbone.info.id in BUNDLED:
        state = _read_state(backbone.file)
        full = create(backbone.info.architecture, num_classes=1000).state_dict()
        state = dict(zip(full, state.values(), strict=True))  # the packages keep timm's order under their own names
        return _without_classifier(state, backbone, outline(backbone.info.architecture))
    module = outline(backbone.info.architecture)
    tensors = from_transformers(read_file(backbone.file).tensors)
    tensors = from_torchvision(tensors, backbone.info.architecture, _shapes(module.state_dict()))
    return _without_classifier({name: array_of(tensor) for name, tensor in tensors.items()}, backbone, module)


def with_flat_output(backbone: Backbone) -> tuple[Backbone, Weights]:
    """The same network up to its last map, and the weights that it still needs."""
    from graftage.features.stages import flattened

    info = backbone.info
    if is_keras(info.architecture):
        flat = replace(info, output="flat", features=flat_width(info.architecture))
        return replace(backbone, info=flat), read_keras_weights(backbone)
    size = backbone.preprocess.size
    module = flattened(create(info.architecture, num_classes=0, size=size).eval(), size)
    kept, weights = list(module.state_dict()), read_weights(backbone)
    import torch

    with torch.inference_mode():
        width = int(module(torch.zeros(1, 3, size, size)).shape[1])
    return (
        replace(backbone, info=replace(info, output="flat", features=width)),
        {name: weights[name] for name in kept},
    )


def imagenet_classifier(backbone_id: str) -> "torch.nn.Module":
    """A bundled network with its original 1,000-class ImageNet head: proof that the weights sit where they belong."""
    bundled = BUNDLED[backbone_id]
    module = create(bundled.architecture, num_classes=1000)
    state = _read_state(find_bundled(backbone_id, bundled).file)
    module.load_state_dict(dict(zip(module.state_dict(), tensors_of(state).values(), strict=True)))
    trained: torch.nn.Module = module.eval()
    return trained


def _varied_weights(backbone: Backbone) -> Weights:
    size = backbone.preprocess.size
    states = [_at_size(part, size) for part in backbone.parts]
    if len(states) == 1:
        return states[0]
    first, whole = backbone.preprocess, Weights()
    mean, std = np.asarray(first.mean), np.asarray(first.std)
    for i, (part, state) in enumerate(zip(backbone.parts, states, strict=True)):
        wanted_mean, wanted_std = np.asarray(part.preprocess.mean), np.asarray(part.preprocess.std)
        whole |= {f"{i}.body.{name}": array for name, array in state.items()}
        whole[f"{i}.scale"] = (std / wanted_std).astype(np.float32)
        whole[f"{i}.shift"] = ((mean - wanted_mean) / wanted_std).astype(np.float32)
    return whole


def _at_size(backbone: Backbone, size: int) -> Weights:
    """The weights of a network for squares of this size: what belongs to places is resampled as timm does it."""
    state = read_weights(backbone)
    if size == backbone.preprocess.size or is_keras(backbone.info.architecture):
        return state
    name = backbone.info.architecture
    module = create(name, num_classes=0, size=size)
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if {key: tuple(array.shape) for key, array in state.items()} == wanted:
        return state
    import timm

    fit = getattr(
        sys.modules[timm.models.model_entrypoint(name.split(".")[0]).__module__], "checkpoint_filter_fn", None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own remarks on timm's interpolation
        resampled = fit(tensors_of(state), module) if fit else tensors_of(state)
    found = {key: array_of(tensor.contiguous()) for key, tensor in resampled.items()}
    require_same(wanted, {key: tuple(a.shape) for key, a in found.items()}, f"{backbone.info.id} at {size} pixels")
    return {key: found[key] for key in wanted}


def _without_classifier(state: Weights, backbone: Backbone, module: Any) -> Weights:
    """The arrays that the module without classifier wants, in its order."""
    wanted = _shapes(module.state_dict())
    prefixes = tuple(f"{layer}." for layer in classifier_of(module))
    kept = {n: a for n, a in state.items() if n in wanted or not (n.startswith(prefixes) or not is_counted(n))}
    for name in wanted:
        if name.endswith(
            "num_batches_tracked"
        ):  # files of old versions of PyTorch have none, and nothing here reads it
            kept.setdefault(name, np.zeros((), np.int64))
    found = {name: tuple(array.shape) for name, array in kept.items()}
    try:
        require_same(wanted, found, str(backbone.file))
    except BackboneError as error:
        names = recognised({name: tuple(array.shape) for name, array in state.items()})
        looks = f"; these tensors look like {', '.join(names)}" if names else ""
        raise BackboneError(f"{error}{looks}") from None
    return {name: kept[name] for name in wanted}


def _read_state(path: Path) -> Weights:
    return {name: array_of(tensor) for name, tensor in read_file(path).tensors.items()}


def _shapes(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
