"""What the tests of the whole job share: small real pictures, the command line in this process, tables as rows.

The pictures are crops of the two photographs that come with scikit-learn: the left and the right part of a palace, hard
to tell apart, and a dahlia.
"""

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from graftage.cli import main

SIDE = 110  # pixels of a crop
BROKEN = b"\xff\xc0\x00\x08" * 50  # a second frame header amid the data: found only when the picture is decoded


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str


def graftage(*arguments: object) -> Said:
    """Runs the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = int(left.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


@cache
def _photograph(name: str) -> np.ndarray:
    return load_sample_image(name)


def crops(name: str, count: int, *, seed: int = 0, part: str = "all", size: tuple[int, int] = (SIDE, SIDE)) -> list:
    """`count` pictures of `size` (width, height) from a photograph, or from a part of it, no two of them near-copies.

    Places are drawn at random, and so is the angle by which each is turned: upright ones that overlap would be copies.
    """
    pixels, rng = _photograph(name), np.random.default_rng([seed, len(name), len(part)])
    left = 200 if part == "right" else 0
    right = 440 if part == "left" else 640
    found = []
    around = math.ceil(math.hypot(*size)) + 2
    for _ in range(count):
        x, y = rng.integers(left, right - around), rng.integers(0, 427 - around)
        whole = Image.fromarray(pixels[y : y + around, x : x + around])
        turned = whole.rotate(float(rng.uniform(0, 360)), Image.Resampling.BICUBIC)
        corner = (around - size[0]) // 2, (around - size[1]) // 2
        found.append(turned.crop((*corner, corner[0] + size[0], corner[1] + size[1])))
    return found


def save(folder: Path, pictures: Sequence[Image.Image], *, suffix: str = ".jpg", prefix: str = "") -> list[Path]:
    """Writes pictures as 0.jpg, 1.jpg, …; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{i}{suffix}" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path, **({"quality": 90} if suffix == ".jpg" else {}))
    return paths


def three_classes(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Class folders 1, 2 and 10 of `count` pictures each; 1 and 10 are hard to tell apart."""
    save(folder / "1", crops("china.jpg", count, seed=seed, part="left"))
    save(folder / "2", crops("flower.jpg", count, seed=seed))
    save(folder / "10", crops("china.jpg", count, seed=seed, part="right"))
    return folder


def two_classes(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Class folders palace and dahlia of `count` pictures each, easy to tell apart."""
    save(folder / "palace", crops("china.jpg", count, seed=seed))
    save(folder / "dahlia", crops("flower.jpg", count, seed=seed))
    return folder


def noise(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Two class folders of pictures that hold nothing to learn: grey noise."""
    rng = np.random.default_rng(seed)
    for name in ("even", "odd"):
        save(folder / name, [Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(count)])
    return folder


def broken_late(path: Path) -> Path:
    """Spoils the middle of a JPEG: its header and its end are right, but it cannot be decoded."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + BROKEN + data[middle + len(BROKEN) :])
    return path


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def by_id(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a csv file by their id."""
    return {row["id"]: row for row in table(path)}


def read_json(path: Path) -> Any:
    """The content of a JSON file; NaN and infinity are refused."""

    def refuse(text: str) -> float:
        raise AssertionError(f"{path}: {text} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@contextlib.contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """The file with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
