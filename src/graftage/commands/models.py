"""The flags by which a model file is opened."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.flags import add_flags

if TYPE_CHECKING:
    from graftage.serve.predict import Predictor


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Where and in what precision the network runs, by how many threads, and what becomes of damaged pictures."""
    add_flags(parser, ("device", "precision", "workers", "repair"))


def loaded_by(arguments: argparse.Namespace, model: Path) -> "Predictor":
    """A model file, opened as the flags say. Raises BundleError if it is none."""
    from graftage.serve.predict import load

    device, precision = arguments.device or "auto", arguments.precision or "auto"
    return load(model, device=device, precision=precision, repair=bool(arguments.repair))
