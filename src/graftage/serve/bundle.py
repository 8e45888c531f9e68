"""The model file: one safetensors file holds all that a prediction needs, and nothing that runs (W).

`Bundle` is a trained classifier at rest. Its JSON part lies in the header, the backbone's weights are the tensors
`backbone.NAME`, the head's are `head.NAME`, those of the detector of strange pictures `unlike.NAME`, training pictures
in small are `neighbours.NAME`; how the file itself is written and read safely is in `tensorfile`. Here is what the
parts mean and how they must fit each other. Every fault is a `BundleError` that names the file.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from graftage.errors import BundleError
from graftage.features.building import OUTPUTS
from graftage.features.facts import BackboneInfo
from graftage.features.preprocess import Preprocess
from graftage.learn.head import Head
from graftage.measure.decide import Decisions
from graftage.serve.neighbours import Neighbours
from graftage.serve.tensorfile import (
    Array,
    Damaged,
    Header,
    Json,
    check_fields,
    encode_header,
    in_order,
    layout,
    naming,
    newer,
    opened,
    parse_header,
    read_header,
    read_tensors,
    write,
)

# To change what a bundle holds:
#   1. raise FORMAT by one and say in the changelog what changed;
#   2. keep a file saved by the old version as tests/files/format-N.safetensors, with a test that loads it;
#   3. give the old fields their new form in _check_info right after _check_format, so that one reader serves all;
#   4. leave the refusal of newer formats as it is: an old graftage must not guess at a new file.
# Format 2 added the backbone's `output`, the head's hidden layer and its transform "plain".
# Format 3 added `decisions` (prediction sets, abstention, and the detector of pictures unlike those trained on), the
# tensors `pictures.NAME`, by which training pictures are known again, and `neighbours.NAME`, which show them in small.
# Format 4 knows networks at another input size, with earlier maps (`output` "layersN") or side by side (joined by +).
FORMAT = 4

MODEL = "model.safetensors"  # its name in the folder of a run

MAX_CLASSES = 100_000
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained classifier at rest.

    Attributes:
        classes: names in the order of the logits; K = 2 to 100,000 of them, unique, not empty.
        preprocess: how a picture becomes the network's input.
        backbone: what is known of the network.
        weights: the network's state dict, names, types and shapes as in the module.
        head: turns feature vectors (n, D) into logits (n, K).
        temperature: divides the logits before the softmax; finite, above 0.
        scores: how well it did on held-out pictures. Here and in the next two: text keys, values that JSON knows;
            tuples come back as lists.
        data: fingerprint of the training pictures: how many, per class, a digest of their digests.
        settings: enough to train it again.
        versions: package name to version.
        created: time of training, or "" so that the same command gives the same bytes.
        decisions: what it promises beyond probabilities.
        pictures: by what the training pictures are known again: "pixels" uint8 (m, 8), the beginnings of their pixels'
            digests, and, where there are not too many, "thumbnails" uint8 (m, 32, 32), grey. Either may be missing.
        neighbours: the training pictures in small, or None.
    """

    classes: tuple[str, ...]
    preprocess: Preprocess
    backbone: BackboneInfo
    weights: Mapping[str, Array]
    head: Head
    temperature: float
    scores: Mapping[str, object]
    data: Mapping[str, object]
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    created: str = ""
    decisions: Decisions = field(default_factory=Decisions)
    pictures: Mapping[str, Array] = field(default_factory=dict)
    neighbours: Neighbours | None = None


# Exactly these fields, exactly these types: the JSON part of format 4.
_INFO: Mapping[str, object] = {
    "format": int,
    "classes": list,
    "preprocess": dict,
    "backbone": dict,
    "head": dict,
    "temperature": float,
    "scores": dict,
    "data": dict,
    "settings": dict,
    "versions": dict,
    "created": str,
    "decisions": dict,
}
_BACKBONE: Mapping[str, object] = {field.name: field.type for field in fields(BackboneInfo)}
# What a record's own check may raise at values it does not like, however odd.
_MISFITS = (ValueError, TypeError, KeyError, IndexError, OverflowError)


def save(bundle: Bundle, path: Path) -> None:
    """Write the model file; the same bundle always gives the same bytes.

    What is written has first passed the very checks of `load`, so a file that cannot be loaded is never made. It goes
    to a temporary name in the same folder, is forced to disk, then renamed: `path` holds the old file or the new one.

    Args:
        bundle: what to write.
        path: where to, usually RUN/model.safetensors; an existing file is replaced.

    Raises:
        BundleError: a field is out of range, a text is no valid Unicode, a value is unknown to JSON, parts do not fit
            each other, a tensor has a type that the format does not know, or the disk refuses.
    """
    with naming(path, saving=True):
        tensors = in_order(_named(bundle))
        raw = encode_header(_info(bundle), tensors)
        _assemble(_checked(parse_header(raw, sum(tensor.nbytes for tensor in tensors.values()))), tensors)
        write(path, raw, tensors)


def model_file(path: str | Path) -> Path:
    """The model file that a path means: the file itself, or the one in the folder of a run.

    Raises:
        BundleError: a folder without a model file.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / MODEL).is_file():
        raise BundleError(
            f"{path}: there is no {MODEL} in this folder; give the folder that graftage train has left, or a model file"
        )
    return path / MODEL


def is_model(path: str | Path) -> bool:
    """Whether a path means a model: a folder, or a file that is one, or was until it was damaged. Weights are none."""
    path = Path(path)
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            read_header(file)
    except (Damaged, OSError) as error:
        return isinstance(error, Damaged)
    except BundleError:
        return False
    return True


def load(path: Path) -> Bundle:
    """Read a model file without trusting it: no code from it runs, and it allocates no more than its own size.

    Args:
        path: a file that `save` wrote, in this format or an older one.

    Returns:
        The bundle, every field and every bit of every tensor as saved. Its arrays own their memory.

    Raises:
        BundleError: there is no such file, it is none of ours, damaged, or made by a newer graftage.
    """
    with naming(path), opened(path) as file:
        header = read_header(file)  # as it is in the file: the checksum is over its very text
        renewed = _checked(header)
        return _assemble(renewed, read_tensors(file, header))


def describe(path: Path) -> dict[str, Any]:
    """Read the header only, which is quick whatever the size of the file.

    Args:
        path: a model file.

    Returns:
        The JSON part (format, classes, preprocess, backbone, head, temperature, scores, data, settings, versions,
        created, decisions), with `bytes`, the size of the file, and `tensors`, from name to {"dtype", "shape"}.

    Raises:
        BundleError: as `load`, but damage inside the tensors is not seen.
    """
    with naming(path), opened(path) as file:
        header = _checked(read_header(file))
        tensors = {entry.name: {"dtype": entry.dtype, "shape": list(entry.shape)} for entry in layout(header)}
        return {**header.text, "bytes": os.fstat(file.fileno()).st_size, "tensors": tensors}


# ---------------------------------------------------------------- out


def _named(bundle: Bundle) -> dict[str, Array]:
    tensors: dict[str, Array] = {f"backbone.{name}": tensor for name, tensor in bundle.weights.items()}
    tensors |= {f"pictures.{name}": tensor for name, tensor in bundle.pictures.items()}
    tensors |= {f"head.{name}": tensor for name, tensor in bundle.head.to_tensors().items()}
    known = {} if bundle.neighbours is None else bundle.neighbours.to_tensors()
    tensors |= {f"neighbours.{name}": tensor for name, tensor in known.items()}
    return tensors | {f"unlike.{name}": tensor for name, tensor in bundle.decisions.to_tensors().items()}


def _info(bundle: Bundle) -> Json:
    return {
        "format": FORMAT,
        "classes": list(bundle.classes),
        "preprocess": bundle.preprocess.to_json(),
        "backbone": asdict(bundle.backbone),
        "head": _plain(bundle.head.to_json()),
        "temperature": float(bundle.temperature),
        **{name: _plain(getattr(bundle, name)) for name in ("scores", "data", "settings", "versions")},
        "created": bundle.created,
        "decisions": bundle.decisions.to_json(),
    }


def _plain(value: object) -> object:
    """Any mapping as a dict, any tuple as a list; refuses keys that JSON would turn into text in silence."""
    if isinstance(value, Mapping):
        if unfit := [key for key in value if not isinstance(key, str)]:
            raise BundleError(f"the key {unfit[0]!r} is no text, as JSON wants it: use str(key)")
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------- in


def _checked(header: Header) -> Header:
    """The header, once all has been checked that can be checked without the tensors."""
    header = replace(header, text=_renewed(_check_format(header.text)))
    info = check_fields(header.text, _INFO, "its description")
    _check_classes(info["classes"])
    _backbone(info["backbone"])
    _preprocess(info["preprocess"])
    if info["temperature"] <= 0:
        raise Damaged(f"the temperature is {info['temperature']}, but must be above 0")
    if not all(isinstance(version, str) for version in info["versions"].values()):
        raise Damaged("versions are no texts")
    return header


def _renewed(info: Json) -> Json:
    """The JSON part of an older format in today's form."""
    backbone = info.get("backbone")
    if info["format"] == 1 and isinstance(backbone, dict):
        info = {**info, "backbone": {**backbone, "output": "pooled"}}
    if info["format"] <= 2 and "decisions" not in info:
        reason = "the model file is of an older format; train it anew"
        reasons = dict.fromkeys(("sets", "answers", "unlike"), reason)
        info = {**info, "decisions": Decisions(reasons=reasons).to_json()}
    return info


def _check_format(info: Json) -> Json:
    number = info.get("format")
    if type(number) is not int or number < 1:
        raise Damaged("its format number is no whole number from 1")
    if number > FORMAT:
        raise newer(f"format {str(number)[:20]}, this one reads {FORMAT}")
    return info


def _check_classes(classes: list[object]) -> None:
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise Damaged(f"it has {len(classes):,} classes, but 2 to {MAX_CLASSES:,} are allowed")
    if not all(isinstance(name, str) and name for name in classes):
        raise Damaged("a class name is empty or no text")
    if len(set(classes)) < len(classes):
        raise Damaged("a class name appears twice")


def _backbone(record: Json) -> BackboneInfo:
    info = BackboneInfo(**check_fields(record, _BACKBONE, "the description of its backbone"))
    if not (info.id and info.architecture):
        raise Damaged("its backbone has no name")
    if info.features < 1 or info.input_size < 1 or info.parameters < 0:
        raise Damaged("its backbone has no features, no input or fewer than no parameters")
    if len(info.weights_sha256) != 64 or not set(info.weights_sha256) <= set("0123456789abcdef"):
        raise Damaged("the hash of its weights is not 64 hexadecimal digits")
    if info.precision not in PRECISIONS:
        raise Damaged(f"the precision of its features is none of {', '.join(PRECISIONS)}")
    if info.output not in OUTPUTS:
        raise Damaged(f"the output of its backbone is none of {', '.join(OUTPUTS)}")
    return info


def _preprocess(record: Json) -> Preprocess:
    try:
        return Preprocess.from_json(record)
    except _MISFITS as fault:
        raise Damaged(f"its preprocessing: {str(fault)[:200]}") from fault


def _assemble(header: Header, tensors: Mapping[str, Array]) -> Bundle:
    info = header.text
    parts = _parted(tensors)
    bundle = Bundle(
        classes=tuple(info["classes"]),
        preprocess=_preprocess(info["preprocess"]),
        backbone=_backbone(info["backbone"]),
        weights=parts["backbone"],
        head=_head(info["head"], parts["head"]),
        pictures=_pictures(parts["pictures"]),
        neighbours=_neighbours(parts["neighbours"], info),
        **{name: info[name] for name in ("temperature", "scores", "data", "settings", "versions", "created")},
        decisions=_decisions(info["decisions"], parts["unlike"]),
    )
    _check_fit(bundle)
    return bundle


def _parted(tensors: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """The tensors by what they belong to."""
    parts: dict[str, dict[str, Array]] = {"backbone": {}, "head": {}, "unlike": {}, "pictures": {}, "neighbours": {}}
    for name, tensor in tensors.items():
        owner, _, rest = name.partition(".")
        if owner not in parts or not rest:
            raise newer(f"it has the unknown tensor {name[:80]!a}")
        parts[owner][rest] = tensor
    return parts


def _pictures(tensors: dict[str, Array]) -> dict[str, Array]:
    shapes = {"pixels": (8,), "thumbnails": (32, 32)}
    for name, tensor in tensors.items():
        if name not in shapes:
            raise newer(f"it has the unknown tensor {f'pictures.{name}'[:80]!a}")
        if tensor.dtype != np.uint8 or tensor.shape[1:] != shapes[name] or tensor.ndim != len(shapes[name]) + 1:
            raise Damaged(f"tensor 'pictures.{name}' is {tensor.dtype} {tensor.shape}, not what it should be")
    return tensors


def _neighbours(tensors: Mapping[str, Array], info: Json) -> Neighbours | None:
    if not tensors:
        return None
    width, classes = _backbone(info["backbone"]).features, len(info["classes"])
    try:
        return Neighbours.from_tensors(tensors, features=width, n_classes=classes)
    except _MISFITS as fault:
        raise Damaged(f"its training pictures in small: {str(fault)[:200]}") from fault


def _head(record: Json, tensors: Mapping[str, Array]) -> Head:
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise Damaged(f"tensor 'head.{name[:80]}' has values that are no finite numbers")
    try:
        return Head.from_parts(record, dict(tensors))
    except _MISFITS as fault:
        raise Damaged(f"its head: {str(fault)[:200]}") from fault


def _decisions(record: Json, tensors: Mapping[str, Array]) -> Decisions:
    try:
        return Decisions.from_parts(record, dict(tensors))
    except _MISFITS as fault:
        raise Damaged(f"its decisions: {str(fault)[:200]}") from fault


def _check_fit(bundle: Bundle) -> None:
    """The parts belong together: widths and numbers of classes agree."""
    head, features = bundle.head, bundle.backbone.features
    if head.features != features:
        raise Damaged(f"its head takes {head.features} features, but its backbone gives {features}")
    if head.n_classes != len(bundle.classes):
        raise Damaged(f"its head knows {head.n_classes} classes, but {len(bundle.classes)} have names")
    if not bundle.weights:
        raise Damaged("it has no backbone weights")
    unlike = bundle.decisions.unlike
    if unlike is not None and unlike.geometry.features != features:
        raise Damaged(f"its detector takes {unlike.geometry.features} features, but its backbone gives {features}")
