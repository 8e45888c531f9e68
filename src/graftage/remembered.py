"""What a model file remembers of its run: the pictures it learnt from, the settings, the versions. Reads no picture."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from graftage.data.catalog import Catalog
from graftage.data.twins import COPY, level_known
from graftage.gate import Gate
from graftage.serve.bundle import Bundle
from graftage.settings import COLUMNS, Settings

Ints = NDArray[np.int64]

# settings that say where pictures, labels and results lie and how many threads ran: nothing of the model
_WHERE = frozenset({"data", *COLUMNS, "output", "workers", "overwrite", "resume", "track"})
_SIGNED = 10_000  # pictures whose thumbnails the model file keeps: 1 kB each
_SHORT = 16  # hex digits of a picture's SHA-256 that the model file keeps, to know the pictures it was trained on


def fingerprint(catalog: Catalog, train: Ints) -> dict[str, object]:
    """What the model file remembers of the pictures it was trained on: counts, and shortened digests."""
    entries = [catalog.entries[i] for i in train]
    counts = np.bincount([entry.label for entry in entries], minlength=len(catalog.classes))
    digests = sorted({short(entry.digest) for entry in entries})
    return {
        "n": len(entries),
        "class_counts": [int(count) for count in counts],
        "digest": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "pictures": digests,
    }


@dataclass(frozen=True, eq=False)
class Signed:
    """By what the model file knows the pictures that it was trained on again, also as copies.

    Attributes:
        tensors: "pixels" uint8 (m, 8), the beginnings of the digests of their pixels; and, up to `_SIGNED` pictures,
            "thumbnails" uint8 (m, 32, 32), grey.
        level: likeness from which on a picture is a copy of one of them.
    """

    tensors: Mapping[str, NDArray[np.uint8]]
    level: float


def signed(catalog: Catalog, train: Ints, closed: Gate, *, thumbnails: bool) -> Signed:
    """The signatures of the training pictures `train`, catalog indices (m,); without thumbnails where not wanted."""
    place = {int(row): i for i, row in enumerate(closed.rows)}
    chosen = [place[int(row)] for row in train]
    pixels = np.array([list(bytes.fromhex(short(catalog.entries[row].pixels))) for row in train], dtype=np.uint8)
    if len(chosen) > _SIGNED or not thumbnails:
        return Signed({"pixels": pixels}, COPY)
    small = closed.signatures[chosen]
    return Signed({"pixels": pixels, "thumbnails": small}, level_known(small, closed.twins.groups[chosen]))


def known_level(bundle: Bundle) -> float:
    """Likeness from which on a picture is a copy of one that the model was trained on."""
    level = bundle.data.get("copy_level")
    return float(level) if isinstance(level, float | int) else COPY


def short(digest: str) -> str:
    """The part of a picture's SHA-256 that the model file keeps."""
    return digest[:_SHORT]


def known_digests(bundle: Bundle) -> frozenset[str]:
    """Shortened digests of the pictures that a model was trained on."""
    pictures = bundle.data.get("pictures")
    return frozenset(str(d) for d in pictures) if isinstance(pictures, list) else frozenset()


def portable(settings: Settings) -> dict[str, object]:
    """Settings for the model file: without where things lay and how many threads ran."""
    return {name: value for name, value in vars(settings).items() if name not in _WHERE and value is not None}


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {name: version(name) for name in ("graftage", "numpy", "openvino", "pillow", "timm", "torch")}
