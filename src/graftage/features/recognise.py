"""Which network do these tensors belong to? Told from their names and shapes, against a table of timm's and others.

The table (`architectures.npz`, made by `bench/architectures.py`) keeps of every network a fingerprint, by which the
same set of tensors is found, and a sketch: its smallest hashes, by which those that share most are found (bottom-k
sketches, Broder 1997). What the sketch proposes is built without memory and compared in full. Classifiers do not count.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Shapes = Mapping[str, tuple[int, ...]]

SKETCH = 24  # hashes kept of each network
_PROPOSED = 6  # networks that are built to find the nearest
_UNCOUNTED = re.compile(
    r"^AuxLogits\.|(^|\.)(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask)$"
)


@dataclass(frozen=True)
class Nearest:
    """The known network that shares most tensors with some others.

    Attributes:
        architecture: timm's name.
        share: of all tensors in either, how many are in both, 0 to 1.
        wanted: its tensors without classifier, by name.
    """

    architecture: str
    share: float
    wanted: Shapes


@dataclass(frozen=True)
class _Table:
    names: tuple[str, ...]  # the networks with this fingerprint, apart by spaces
    prints: NDArray[np.uint64]  # (N,)
    sketches: NDArray[np.uint32]  # (N, SKETCH)
    classifiers: tuple[tuple[str, ...], ...]  # every set of layers that is the classifier of some network


def without(shapes: Shapes, classifier: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The tensors that are not the classifier's, nor counters and tables that some versions keep and others do not."""
    prefixes = tuple(f"{layer}." for layer in classifier)
    return {n: tuple(s) for n, s in shapes.items() if not n.startswith(prefixes) and is_counted(n)}


def is_counted(name: str) -> bool:
    """Whether a tensor is one of those that tell a network: no counter, and no table that its size alone gives."""
    return not _UNCOUNTED.search(name)


def fingerprint(shapes: Shapes) -> int:
    """64 bits of the names and shapes, in whatever order they come."""
    return int.from_bytes(hashlib.blake2b(_hashes(shapes).tobytes(), digest_size=8).digest(), "little")


def sketch(shapes: Shapes) -> NDArray[np.uint32]:
    """The smallest hashes, ascending: uint32 (SKETCH,); a network of fewer tensors ends in the largest number."""
    smallest = np.unique((_hashes(shapes) >> np.uint64(32)).astype(np.uint32))[:SKETCH]
    return np.pad(smallest, (0, SKETCH - len(smallest)), constant_values=np.iinfo(np.uint32).max)


def recognised(shapes: Shapes) -> list[str]:
    """The networks, in name order, that have just these tensors, with or without a classifier beside them.

    timm's names, or torchvision/NAME where torchvision has other names for the tensors than timm.
    """
    table = _table()
    prints = {fingerprint(without(shapes, classifier)) for classifier in ((), *table.classifiers)}
    found = np.flatnonzero(np.isin(table.prints, np.array(sorted(prints), np.uint64)))
    return sorted({name for row in found for name in table.names[row].split()})


def nearest(shapes: Shapes) -> Nearest | None:
    """The timm network that shares most tensors with these, or None if none shares any."""
    table, asked = _table(), sketch(without(shapes, ()))
    common = np.array([np.intersect1d(asked, row).size for row in table.sketches])
    best: Nearest | None = None
    for row in np.argsort(-common, kind="stable")[:_PROPOSED]:
        name = table.names[row].split()[0]
        if "/" in name:
            continue
        wanted, classifier = layout_of(name)
        one, other = set(wanted.items()), set(without(shapes, classifier).items())
        share = len(one & other) / max(1, len(one | other))
        if share > (best.share if best else 0.0):
            best = Nearest(name, share, wanted)
    return best


def layout_of(architecture: str) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """A timm network's tensors without classifier, and the names of its classifier's layers; takes no memory."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            module = timm.create_model(architecture, pretrained=False, num_classes=0)
    except (NotImplementedError, RuntimeError):  # a few look at numbers while they are built
        module = timm.create_model(architecture, pretrained=False, num_classes=0)
    heads = classifier_of(module)
    return without({n: tuple(t.shape) for n, t in module.state_dict().items()}, heads), heads


def classifier_of(module: object) -> tuple[str, ...]:
    """The names of a timm network's classifier layers.

    In LeViT and its kin a classifier is a normalisation and a linear layer, of which timm names the second alone.
    """
    heads = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(re.sub(r"\.(l|linear)$", "", name) for name in ((heads,) if isinstance(heads, str) else heads))


def _hashes(shapes: Shapes) -> NDArray[np.uint64]:
    """Ascending uint64 (T,), one for each tensor."""
    texts = (f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.sort(np.frombuffer(digests, "<u8"))


@functools.cache
def _table() -> _Table:
    with files("graftage.features").joinpath("architectures.npz").open("rb") as stream, np.load(stream) as stored:
        names = stored["names"].tobytes().decode().split("\n")
        heads = stored["classifiers"].tobytes().decode().split("\n")
        return _Table(tuple(names), stored["prints"], stored["sketches"], tuple(tuple(h.split()) for h in heads))
