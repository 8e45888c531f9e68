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
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError
from graftage.features import hub
from graftage.features.building import create, outline
from graftage.features.bundled import BUNDLED, find_bundled
from graftage.features.facts import Backbone, BackboneInfo, Origin, file_hash
from graftage.features.keras_itself import is_keras
from graftage.features.keras_networks import SUFFIXES, find_keras
from graftage.features.local_files import origin_of_file
from graftage.features.preprocess import Preprocess
from graftage.features.repositories import origin_of, timms_preprocess
from graftage.features.variants import Variant, joined, output_of, parse
from graftage.features.zoo import facts_of, nearest, spdx

_PICKLED = (".pth", ".pt", ".bin")


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
        return find_bundled(backbone_id, BUNDLED[backbone_id])
    if backbone_id.startswith("timm/"):
        return _from_hub(backbone_id)
    if backbone_id.startswith("hf-hub:"):
        return _from_repository(backbone_id)
    if is_keras(backbone_id) or is_keras(architecture or "") or Path(backbone_id).suffix in SUFFIXES:
        return find_keras(backbone_id, architecture)
    if Path(backbone_id).suffix in (*_PICKLED, ".safetensors") or Path(backbone_id).exists():
        return _local(backbone_id, architecture)
    near = nearest(backbone_id)
    hint = f" Did you mean {' or '.join(near)}?" if near else " See `graftage backbones` for the names known."
    raise BackboneError(
        f"backbone {backbone_id!r} is none of the kinds graftage knows: {', '.join(BUNDLED)}, timm/NAME.TAG, "
        f"hf-hub:ORG/NAME, keras/NAME, or a path to a .safetensors, .pth, .h5 or .keras file.{hint}"
    )


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
    module = outline(architecture)
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
        vector = module(torch.zeros(1, 3, size, size, device="meta"))
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
    from graftage.features.layers import Shallow

    try:
        if layers > 1:
            return _layers_width(info.architecture, size, layers)
        return _vector_width(outline(info.architecture, size=size), size, info.architecture)
    except Shallow as reason:
        raise BackboneError(f"backbone {info.id}: {layers} of its layers cannot be had: {reason}") from reason
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneError(f"backbone {info.id} does not take squares of {size} pixels: {error}") from error


@cache
def _layers_width(architecture: str, size: int, layers: int) -> int:
    """Width of several layers together. The network is run for it, with random weights: once in a process is enough."""
    from graftage.features.layers import Layered, check

    module = create(architecture, num_classes=0, size=size, random=True).eval()
    return sum(check(Layered(module, layers), module, size))
