"""Are copies found, and nothing else? Copies of 200 pictures of each set, among the pictures of the set.

    python bench/duplicates.py [--limit 1000] [--copies 200] [--seed 0] FOLDER_OR_NAME ...

FOLDER_OR_NAME is a folder of class folders (or of train, val and test folders of them), or `solar`. Of each set up to
`--limit` pictures are drawn, and of these `--copies`, each of which is written again in four ways: JPEG of quality 75,
enlarged 1.3 times, cut to 95 % of each side at a random place, mirrored. All of them are then looked at as `graftage
train` does. A copy is grouped if it is in the group of its original. A false pair is two pictures in one group that
come from different originals; pictures that the set holds twice count as false, too.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from graftage.data.split import exact_groups
from graftage.data.twins import find_twins
from graftage.features.backbone import find
from graftage.features.engine import Forward, open_forward
from graftage.features.extract import extract
from graftage.features.looks import colours_of, digests_of, thumbnails_of
from graftage.features.preprocess import Preprocess
from pictures import solar_cells
from splits import SOLAR, name_of, own_split

KINDS = ("jpeg 75", "1.3 x", "5 % cut", "mirror")


def set_of(data: str) -> list[tuple[str, Path]]:
    if data == SOLAR:
        return [("defective" if probability > 0.5 else "functional", path) for path, probability, _ in solar_cells()]
    train, test = own_split(Path(data))
    return train + test


def copies(path: Path, target: Path, rng: np.random.Generator) -> list[Path]:
    """The four copies of a picture, in the order of KINDS."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    width, height = image.size
    w, h = round(0.95 * width), round(0.95 * height)
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    made = [target / f"{kind}{end}" for kind, end in zip("jrcm", (".jpg", ".png", ".png", ".png"), strict=True)]
    target.mkdir(parents=True)
    image.save(made[0], quality=75)
    image.resize((round(1.3 * width), round(1.3 * height)), Image.Resampling.BICUBIC).save(made[1])
    image.crop((left, top, left + w, top + h)).save(made[2])
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(made[3])
    return made


def measure(data: str, forward: Forward, preprocess: Preprocess, args: argparse.Namespace) -> None:
    rng, rows = np.random.default_rng(args.seed), set_of(data)
    rows = [rows[i] for i in sorted(rng.permutation(len(rows))[: args.limit])]
    chosen = np.sort(rng.permutation(len(rows))[: args.copies])
    with tempfile.TemporaryDirectory() as work:
        made = [copies(rows[i][1], Path(work) / str(i), rng) for i in chosen]
        paths = [path for _, path in rows] + [path for own in made for path in own]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        found = extract(
            paths, digests, forward=forward, preprocesses=[preprocess], looks=True, folder=Path(work) / "store"
        )
    assert found.looks is not None
    assert not found.failed
    origin = np.concatenate([np.arange(len(rows)), np.repeat(chosen, len(KINDS))])
    labels = np.unique([label for label, _ in rows], return_inverse=True)[1].astype(np.int64)
    started = time.perf_counter()
    exact = exact_groups(digests_of(found.looks))
    colours = colours_of(found.looks)
    twins = find_twins(thumbnails_of(found.looks), exact, X=found.features[0], y=labels[origin], colours=colours)
    seconds = time.perf_counter() - started
    groups = twins.groups
    grouped = (groups[len(rows) :] == groups[origin[len(rows) :]]).reshape(-1, len(KINDS))
    same_group, same_origin = pairs(groups), pairs(origin)
    false = same_group - pairs(groups * (len(rows) + 1) + origin)
    of = len(origin) * (len(origin) - 1) // 2 - same_origin
    kinds = "  ".join(f"{kind} {n}/{len(chosen)}" for kind, n in zip(KINDS, grouped.sum(axis=0), strict=True))
    print(
        f"{name_of(data):<15} {len(rows):>5} pictures  {kinds}  all {grouped.mean():.2%} of {grouped.size}  "
        f"false pairs {false:,}/{of:,} = {false / of:.4%}  largest group {np.bincount(groups).max()}  "
        f"likeness asked for {twins.level:.3f}  {seconds:.1f} s",
        flush=True,
    )
    for pair in twins.pairs if args.show else ():
        if origin[pair.one] != origin[pair.other] and max(pair.one, pair.other) < len(rows):
            print(f"    {pair.likeness:.3f} {rows[pair.one][1]} {rows[pair.other][1]}")


def pairs(groups: np.ndarray) -> int:
    """Pairs of rows that share a number."""
    sizes = np.unique(groups, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--limit", type=int, default=1000, help="pictures of each set")
    parser.add_argument("--copies", type=int, default=200, help="pictures of each set that are copied")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="name the pictures of the set that were found to be copies")
    args = parser.parse_args()
    backbone = find("bundled/efficientnet_lite0")
    preprocess = backbone.preprocess.with_fit("squash")

    def sample() -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (8, preprocess.size, preprocess.size, 3), dtype=np.uint8)

    forward = open_forward(backbone, backbone.preprocess, device="cpu", precision="auto", sample=sample)
    for data in args.data:
        measure(data, forward, preprocess, args)


if __name__ == "__main__":
    main()
