"""What both peers share: their arguments, the same pretrained network, and how the test side is scored."""

import argparse
import json
import math
import os
import platform
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch

ARCHITECTURE = "tf_efficientnet_lite0"
SIZE = 224
HALF = (0.5, 0.5, 0.5)  # mean and standard deviation that the network was trained with
WORKERS = 2


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="train/CLASS/... and test/CLASS/...")
    parser.add_argument("--weights", type=Path, required=True, help="the bundled EfficientNet-Lite0 file")
    parser.add_argument("--seconds", type=float, required=True, help="wall time for training")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def prepare(seed: int) -> None:
    """All cores (or as many threads as OMP_NUM_THREADS says), and every random number from the seed."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - fastai's augmentation draws from it
    torch.manual_seed(seed)


def load(model: torch.nn.Module, weights: Path) -> None:
    """Loads the bundled ImageNet weights, which keep timm's order under their own names, all but the classifier."""
    full = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1000).state_dict()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    named = dict(zip(full, state.values(), strict=True))
    assert all(named[name].shape == tensor.shape for name, tensor in full.items())
    missing, extra = model.load_state_dict(
        {name: tensor for name, tensor in named.items() if not name.startswith("classifier.")}, strict=False
    )
    assert not extra, extra
    assert all(name.startswith("classifier.") for name in missing), missing


def classes_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())


def files_of(side: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Files of one side with the numbers of their classes; a class that train does not have cannot be scored."""
    rows = [(path, i) for i, name in enumerate(classes) for path in sorted((side / name).glob("*"))]
    return [path for path, _ in rows], [i for _, i in rows]


def scored(logits: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Accuracy and log-loss of (n, K) logits."""
    loss = torch.nn.functional.cross_entropy(logits.float(), truth).item()
    assert math.isfinite(loss)
    return {"accuracy": (logits.argmax(1) == truth).float().mean().item(), "log_loss": loss, "n_test": len(truth)}


def report(found: dict[str, object], *packages: str) -> None:
    """Prints the result, the last line of the output."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    print(json.dumps({**found, "versions": versions}))
