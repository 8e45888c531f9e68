"""Repositories of weights on the Hugging Face hub: `config.json` and its companions say what the tensors are.

Two layouts are known: timm's (`architecture`, `pretrained_cfg`), and transformers' (`model_type`, with
`preprocessor_config.json`), of which the tensors are brought into timm's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError
from graftage.features.facts import Origin
from graftage.features.preprocess import Preprocess
from graftage.features.transformers_files import architecture_of, from_transformers
from graftage.features.weight_files import read_file

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# what timm may be asked for beside the name of a network without changing what it computes up to the classifier
_HARMLESS = {"num_classes", "drop_rate", "drop_path_rate", "pretrained", "checkpoint_path", "scriptable"}
_CONVNEXT_CROP, _CONVNEXT_WHOLE = 224 / 256, 384  # of transformers' ConvNextImageProcessor: from this size on, no crop


def read_json(path: Path) -> dict[str, Any]:
    """The object in a configuration file. Raises BackboneError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: this configuration cannot be read ({error}); get the file again") from error
    if not isinstance(found, dict):
        raise BackboneError(f"{path}: this configuration is no object; get the file again")
    return found


def origin_of(config: Path, preprocessor: Path | None, card: Path | None, weights: Path) -> Origin:
    """What a repository's files tell of its weights.

    Args:
        config: config.json.
        preprocessor: preprocessor_config.json, if there is one.
        card: README.md, if there is one: its head has the licence.
        weights: the file of weights, of which only names and shapes are looked at.

    Raises:
        BackboneError: the layout is not known, or what it describes is not one of timm's networks.
    """
    said = read_json(config)
    if "architecture" in said:
        return _timms(said, card, str(config))
    if "model_type" in said:
        tensors = from_transformers(read_file(weights, outline=True).tensors)
        architecture = architecture_of(said, tensors, str(config))
        recipe = preprocess_of(read_json(preprocessor), architecture, str(preprocessor)) if preprocessor else None
        return Origin(architecture, recipe, licence_on(card))
    raise BackboneError(
        f"{config}: neither timm's layout (a key architecture) nor transformers' (a key model_type); "
        "take the weights alone, with --architecture NAME"
    )


def _timms(said: Mapping[str, Any], card: Path | None, what: str) -> Origin:
    import timm

    name = str(said["architecture"])
    if not timm.is_model(name):
        raise BackboneError(
            f"{what}: the installed timm ({timm.__version__}) has no network {name!r}; try another timm"
        )
    arguments = said.get("model_args") or {}
    if changed := sorted(set(arguments) - _HARMLESS):
        raise BackboneError(
            f"{what}: it asks for {name} with {', '.join(f'{k}={arguments[k]!r}' for k in changed)}, and graftage "
            "builds timm's networks as they are"
        )
    own = said.get("pretrained_cfg") or said  # older repositories have it all in one
    tag = str(own.get("tag") or "")
    known = {**_known_cfg(name), **{k: v for k, v in own.items() if v is not None}}
    tagged = f"{name}.{tag}" if tag and timm.is_model_pretrained(f"{name}.{tag}") else name
    licence = str(own.get("license") or "") or licence_on(card)
    return Origin(tagged, timms_preprocess(known, what), licence, tag or "unknown")


def _known_cfg(name: str) -> dict[str, Any]:
    import timm

    found: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {k: v for k, v in found.to_dict().items() if v is not None} if found else {}


def timms_preprocess(config: Mapping[str, Any], what: str) -> Preprocess:
    """The preprocessing that timm's `pretrained_cfg` describes.

    Raises:
        BackboneError: it is not a square, or a value is outside what graftage does.
    """
    try:
        *_, height, width = config["input_size"]
        if height != width:
            raise ValueError(f"a picture of {height} × {width} is no square")
        return Preprocess(
            "squash",
            int(height),
            float(config.get("crop_pct") or 0.875),
            str(config.get("interpolation") or "bicubic"),
            _three(config["mean"]),
            _three(config["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(f"{what}: its preprocessing cannot be followed ({error})") from error


def preprocess_of(said: Mapping[str, Any], architecture: str, what: str) -> Preprocess:
    """The preprocessing that transformers' `preprocessor_config.json` describes; what it leaves out is as timm has it.

    Raises:
        BackboneError: it asks for something that graftage does not do.
    """
    own = _known_cfg(architecture)
    try:
        if abs(float(said.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3 or said.get("do_rescale") is False:
            raise ValueError(f"rescale_factor {said.get('rescale_factor')}: pixels must be brought to 0..1")
        plain = said.get("do_normalize") is False
        side, share = _side_and_share(said, int(own["input_size"][-1]))
        return Preprocess(
            "squash",
            side,
            share,
            _RESAMPLE.get(said.get("resample", -1), str(own.get("interpolation") or "bicubic")),
            (0.0, 0.0, 0.0) if plain else _three(said.get("image_mean") or own["mean"]),
            (1.0, 1.0, 1.0) if plain else _three(said.get("image_std") or own["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BackboneError(f"{what}: its preprocessing cannot be followed ({error})") from error


def _side_and_share(said: Mapping[str, Any], own: int) -> tuple[int, float]:
    """Side of the square in pixels, and what share of the short side it is."""
    edge = _edge(said.get("size"), own)
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    if "crop_pct" in said or kind.startswith("ConvNext"):
        return edge, 1.0 if edge >= _CONVNEXT_WHOLE else float(said.get("crop_pct") or _CONVNEXT_CROP)
    if said.get("do_center_crop"):
        crop = _edge(said.get("crop_size"), own)
        return crop, min(1.0, crop / edge)
    return edge, 1.0


def _edge(size: object, own: int) -> int:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list | tuple):
        size = size[0]
    if size is None:
        return own
    if not isinstance(size, int):
        raise ValueError(f"size {size!r}")
    return size


def licence_on(card: Path | None) -> str:
    """The licence in the front matter of a repository's README.md, else "unknown"."""
    if card is None:
        return "unknown"
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    lines = re.findall(r"^(license|license_name):[ \t]*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else []
    said: dict[str, str] = dict(lines)
    licence = said.get("license", "unknown")
    return said.get("license_name", licence) if licence == "other" else licence


def _three(values: Any) -> tuple[float, float, float]:
    one, two, three = (float(v) for v in values)
    return one, two, three
