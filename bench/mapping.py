"""Do the bundled weights sit where they belong? Asks the networks, with their own ImageNet heads, for ants and bees.

    python bench/mapping.py FOLDER

FOLDER holds pictures in folders named ants and bees (at any depth: train/ants, val/bees, ...), as in the hymenoptera
pictures of PyTorch's transfer learning tutorial. Prints, per network, how often its best of all 1,000 classes is the
right one (bee 309, ant 310), how often the right one is among its five best, and how often the better of these two
classes alone is right; each with n and a 95 % Wilson interval.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graftage.data.decode import decode
from graftage.data.sources import read, unlabelled
from graftage.errors import PictureError
from graftage.features.backbone import find
from graftage.features.bundled import BUNDLED
from graftage.features.preprocess import Preprocess
from graftage.features.weights import imagenet_classifier
from graftage.measure.interval import wilson

CLASSES = {"bees": 309, "ants": 310}  # ImageNet-1k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pictures in folders named ants and bees")
    folder = parser.parse_args().folder
    for backbone_id in BUNDLED:
        logits, truth = answers(backbone_id, folder)
        print(f"{backbone_id}, {logits.shape[1]} classes")
        for what, right in judged(logits, truth).items():
            print(f"  {what:28} {wilson(right.mean(), right.size).percent()}, n = {right.size}")


def answers(backbone_id: str, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (n, 1000) and right classes (n,) of all pictures of ants and bees."""
    network, preprocess = imagenet_classifier(backbone_id), find(backbone_id).preprocess.with_fit("crop")
    rows, truth = [], []
    for path, label in labelled(folder):
        try:
            rows.append(logits_of(network, preprocess, read(path)))
            truth.append(label)
        except PictureError as error:
            print(f"  left out {path.name}: {error}")
    if not rows:
        raise SystemExit(f"no pictures in folders named {' or '.join(CLASSES)} under {folder}")
    return np.stack(rows), np.array(truth, np.int64)


def labelled(folder: Path) -> Iterator[tuple[Path, int]]:
    for source in unlabelled([folder]):
        if source.path.parent.name in CLASSES:
            yield source.path, CLASSES[source.path.parent.name]


def logits_of(network: torch.nn.Module, preprocess: Preprocess, data: bytes) -> NDArray[np.float32]:
    """One picture, in float32 PyTorch: (1000,)."""
    scale, shift = preprocess.scale_and_shift()
    square = preprocess.square(decode(data, cover=preprocess.cover).pixels)
    nhwc = torch.from_numpy(square * scale + shift)[None]  # (1, S, S, 3)
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(nhwc.permute(0, 3, 1, 2))[0].numpy()
    return logits


def judged(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Right or wrong, (n,), in three ways."""
    best = np.argsort(-logits, axis=1)[:, :5]
    two = np.array(sorted(CLASSES.values()))
    return {
        "best of all": best[:, 0] == truth,
        "among the five best": (best == truth[:, None]).any(1),
        "better of the two classes": two[logits[:, two].argmax(1)] == truth,
    }


if __name__ == "__main__":
    main()
