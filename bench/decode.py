"""Decode and resize of 12-megapixel JPEGs: the scaled path against full Pillow decode, and what it does to features.

python bench/decode.py [FOLDER]      photographs of your own; default: made from two sample photographs
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from graftage.data.decode import decode
from graftage.features.backbone import find
from graftage.features.bundled import DEFAULT
from graftage.features.engine import open_forward
from pictures import camera_photos

N, ROUNDS = 12, 5


def full(data: bytes, size: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def main() -> None:
    preprocess = find(DEFAULT).preprocess
    with tempfile.TemporaryDirectory() as folder:
        own = sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file()) if len(sys.argv) > 1 else None
        paths = own[:200] if own else camera_photos(Path(folder), N)
        files = [path.read_bytes() for path in paths]
    seconds: dict[str, list[float]] = {"full": [], "scaled": []}
    for _ in range(ROUNDS):
        for name, work in (
            ("full", lambda data: full(data, preprocess.size)),
            ("scaled", lambda data: preprocess.square(decode(data, cover=preprocess.cover).pixels)),
        ):
            start = time.perf_counter()
            squares = [work(data) for data in files]
            seconds[name].append(time.perf_counter() - start)
            if name == "full":
                reference = np.stack(squares)
            else:
                scaled = np.stack(squares)
    slow, fast = (float(np.median(seconds[name])) / len(files) for name in ("full", "scaled"))
    print(f"{len(files)} JPEGs, one thread, medians of {ROUNDS} rounds")
    print(f"  full Pillow decode and resize   {1e3 * slow:7.1f} ms")
    print(f"  graftage's scaled decode        {1e3 * fast:7.1f} ms   {slow / fast:.1f} times as fast")
    forward = open_forward(find(DEFAULT), preprocess)
    a, b = (np.concatenate([forward(square[None]) for square in group]) for group in (reference, scaled))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    print(f"  features: mean cosine {cosine.mean():.5f}, least {cosine.min():.5f}")


if __name__ == "__main__":
    main()
