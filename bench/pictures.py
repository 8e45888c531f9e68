"""Real pictures for the benchmarks, from the packages that `pip install -e '.[dev]'` brings."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image


def solar_cells() -> list[tuple[Path, float, str]]:
    """(file, defect probability, "mono" or "poly") of the 2,624 pictures of elpv-dataset, 300 × 300, gray."""
    spec = find_spec("elpv_dataset")
    assert spec is not None, "pip install elpv-dataset"
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    return [(folder / name, float(probability), kind) for name, probability, kind in rows]


def class_folders(target: Path, n: int) -> Path:
    """n solar cells in two class folders; beyond 2,624 they are quarter turns of the first ones."""
    cells = solar_cells()
    for i in range(n):
        path, probability, _ = cells[i % len(cells)]
        folder = target / ("defective" if probability > 0.5 else "functional")
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.rotate(90 * (i // len(cells)), expand=True).save(folder / f"{i:05}.png", compress_level=1)
    return target


def camera_photos(target: Path, n: int, *, size: tuple[int, int] = (4000, 3000)) -> list[Path]:
    """n JPEGs of camera size from scikit-learn's two sample photographs: enlarged crops with sensor-like grain."""
    from sklearn.datasets import load_sample_images

    target.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        photo = Image.fromarray(load_sample_images().images[i % 2])
        left, top = (int(rng.integers(0, photo.width // 4)), int(rng.integers(0, photo.height // 4)))
        crop = photo.crop((left, top, left + photo.width * 3 // 4, top + photo.height * 3 // 4))
        big = np.asarray(crop.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
        grainy = np.clip(big + rng.normal(0, 6, big.shape), 0, 255).astype(np.uint8)
        paths.append(target / f"{i}.jpg")
        Image.fromarray(grainy).save(paths[-1], quality=90)
    return paths
