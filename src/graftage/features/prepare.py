"""Makes a network's graph in a process of its own, so that the memory PyTorch takes for it is given back.

    python -m graftage.features.prepare BACKBONE ARCHITECTURE SQUARES.npy

The process leaves the graph in the cache and says nothing; whoever asked opens it from there, or, if that process came
to nothing, makes it in its own memory and meets the same fault itself.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage.features.backbone import find
from graftage.features.engine import is_prepared, open_forward
from graftage.features.facts import Backbone


def prepare_elsewhere(
    backbone: Backbone,
    architecture: str,
    sample: Callable[[], NDArray[np.uint8]],
    meanwhile: Callable[[], object] | None = None,
) -> None:
    """Has the CPU graph of `backbone` made, unless it is there already.

    Args:
        backbone: the network, from `find`.
        architecture: as it was given to `find`; may be empty.
        sample: gives some of the user's own squares, uint8 (m, S, S, 3), to hold the graph against PyTorch.
        meanwhile: done in this process while the other one is at work, on one core.
    """
    if is_prepared(backbone, backbone.preprocess) or not Path(sys.executable or "").name.startswith("python"):
        return
    with tempfile.TemporaryDirectory() as folder:
        squares = Path(folder) / "squares.npy"
        np.save(squares, sample())
        command = [sys.executable, "-m", "graftage.features.prepare", backbone.info.id, architecture, str(squares)]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
            try:
                if meanwhile is not None:
                    meanwhile()
                process.wait()
            except BaseException:
                process.kill()
                raise


def main(backbone_id: str, architecture: str, squares: str) -> None:
    """What the other process does."""
    backbone = find(backbone_id, architecture=architecture or None)
    open_forward(
        backbone,
        backbone.preprocess,
        device="cpu",
        precision="float32",
        sample=lambda: np.load(squares, allow_pickle=False),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
