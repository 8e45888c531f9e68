"""Features of 1,000 real 300 × 300 pictures: graftage against a plain timm loop, and against its own engine alone.

The plain loop is what a good tutorial writes: timm's model and eval transform, a DataLoader with two workers, batches
of 32, eager float32 in PyTorch's default layout. Both sides read the same files and use the same weights.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from graftage.data.decode import decode
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.bundled import DEFAULT
from graftage.features.engine import Forward, agreement, cores, has_bfloat16, open_forward
from graftage.features.extract import extract
from graftage.features.facts import Backbone
from graftage.features.preprocess import Preprocess
from graftage.features.weights import read_weights
from pictures import solar_cells

N, ROUNDS = 1000, 3


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """Pictures by timm's own transform."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self._paths[i]) as image:
            return self._transform(image.convert("RGB"))


def plain_loop(paths: list[Path], backbone: Backbone) -> NDArray[np.float32]:
    module = build(backbone.info.architecture, read_weights(backbone))
    p = backbone.preprocess
    transform = create_transform(
        (3, p.size, p.size), interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop_pct
    )
    loader = torch.utils.data.DataLoader(Files(paths, transform), batch_size=32, num_workers=2)
    with torch.inference_mode():
        return torch.cat([module(batch) for batch in loader]).numpy()


def graftage(paths: list[Path], forward: Forward, preprocess: Preprocess) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        found = extract(paths, digests, forward=forward, preprocesses=[preprocess], folder=Path(folder))
        assert found.computed == len(set(digests)), found.computed
        return found.features[0]


def engine_alone(squares: NDArray[np.uint8], forward: Forward) -> float:
    """Pictures per second on squares that lie in memory, from as many threads as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        start = time.perf_counter()
        list(pool.map(forward, np.split(squares, len(squares) // forward.batch)))
        return len(squares) / (time.perf_counter() - start)


def exact(paths: list[Path], backbone: Backbone, preprocess: Preprocess) -> NDArray[np.float32]:
    """PyTorch float32 on the very squares that graftage sees."""
    module = build(backbone.info.architecture, read_weights(backbone))
    scale, shift = (torch.from_numpy(v).view(1, 3, 1, 1) for v in preprocess.scale_and_shift())
    squares = torch.from_numpy(np.stack([square(path, preprocess) for path in paths])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return module(squares.float() * scale + shift).numpy()


def square(path: Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    return preprocess.square(decode(path.read_bytes(), cover=preprocess.cover).pixels)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    paths = [path for path, _, _ in solar_cells()[:N]]
    backbone = find(DEFAULT)
    crop = backbone.preprocess.with_fit("crop")  # the same square as timm's transform makes
    reference, squares = exact(paths[:100], backbone, crop), np.stack([square(path, crop) for path in paths])
    for precision in ("float32", "bfloat16"):
        if precision == "bfloat16" and not has_bfloat16():
            print("bfloat16: this processor has none; not measured")
        else:
            measure(precision, paths, squares, reference)


def measure(precision: str, paths: list[Path], squares: NDArray[np.uint8], reference: NDArray[np.float32]) -> None:
    backbone = find(DEFAULT)
    crop = backbone.preprocess.with_fit("crop")
    forward = open_forward(backbone, crop, precision=precision)
    assert precision in forward.name, forward.notices
    graftage(paths[:64], forward, crop)  # threads and files warm on both sides
    rows = []
    for _ in range(ROUNDS):
        rows.append(
            (
                timed(lambda: plain_loop(paths, backbone)),
                timed(lambda: graftage(paths, forward, crop)),
                N / engine_alone(squares, forward),
            )
        )
    loop, ours, engine = (float(np.median(column)) for column in zip(*rows, strict=True))
    agreed = agreement(graftage(paths[:100], forward, crop), reference)
    print(f"{precision}, {N:,} pictures of 300 × 300, medians of {ROUNDS} rounds")
    print(f"  plain timm loop   {loop:7.2f} s  {N / loop:6.0f}/s")
    print(f"  graftage          {ours:7.2f} s  {N / ours:6.0f}/s   {loop / ours:.1f} times as fast")
    print(f"  engine alone      {engine:7.2f} s  {N / engine:6.0f}/s   {100 * engine / ours:.0f} % of it reached")
    print(f"  against PyTorch   relative error {agreed.relative_error:.1e}, mean cosine {agreed.cosine:.6f}")


if __name__ == "__main__":
    main()
