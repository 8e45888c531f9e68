"""What is known of a pretrained network without building it, and how weights are held against what a network wants."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BackboneError
from graftage.features.preprocess import Preprocess
from graftage.features.zoo import use_words

Weights = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a pretrained network without building it; part of the model file.

    Attributes:
        id: as the user typed it.
        architecture: timm's name, or "keras/NAME", from which the module is built; of several, joined by +.
        features: width D of the feature vector.
        input_size: side of the square it was pretrained on, pixels.
        weights_sha256: hash of the file that the weights came from, 64 hex digits.
        licence: of the weights, an SPDX name where known, else "unknown".
        pretraining: the data the weights were learnt from, as far as known.
        parameters: number of parameters without the original classifier.
        precision: "float32" or "bfloat16": how features were computed for the head that goes with it.
        output: "pooled", the network's own feature vector; "flat", its last map or tokens, flattened; or "layersN", its
            own vector beside the means of N − 1 earlier maps, each of length 1.
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
    output: str = "pooled"

    @property
    def commercial_use(self) -> str:
        """“yes”, “no” or “unknown”: whether the licence of the weights allows use in a product."""
        return use_words(self.licence)


@dataclass(frozen=True)
class Backbone:
    """A pretrained network that is at hand.

    Attributes:
        info: its facts.
        preprocess: how pictures become its squares.
        file: with its weights; of several networks, that of the first.
        parts: the networks as they were pretrained, where this one is used otherwise or beside another (see
            `variants`); else empty.
    """

    info: BackboneInfo
    preprocess: Preprocess
    file: Path
    parts: "tuple[Backbone, ...]" = ()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_same(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raises BackboneError, naming the first tensors that differ, unless names and shapes are the same."""
    if wanted == found:
        return
    missing = [f"{n} {s} is missing" for n, s in wanted.items() if n not in found]
    extra = [f"{n} {s} is not expected" for n, s in found.items() if n not in wanted]
    shapes = [f"{n} is {found[n]}, expected {s}" for n, s in wanted.items() if n in found and found[n] != s]
    faults = shapes + missing + extra
    raise BackboneError(
        f"{what}: the weights do not fit the network; {len(faults)} tensors differ, first {'; '.join(faults[:3])}"
    )
