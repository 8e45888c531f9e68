"""Wrong labels injected at random, and how well `graftage check` finds, flags and counts them.

    python bench/labels.py [--seeds 0,1,2] [--rates 0,5,10,20] [--sheet FOLDER] SET...

SET is a folder of class folders, one with train/val/test folders (all parts are taken together), or `solar`, the
cells of elpv-dataset. RATE percent of the pictures get another class, drawn uniformly. The sets have wrong and doubtful
labels of their own, which count against the precision; the estimated rate is held against injected + what is estimated
at 0. With --sheet the pictures flagged at 0 %, first seed, are laid out for a person to look at.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from graftage.checking import held_out
from graftage.data.split import exact_groups, folds
from graftage.features.backbone import find
from graftage.features.engine import open_forward
from graftage.features.extract import extract
from graftage.learn.head import transform
from graftage.measure.suspects import Suspects, neighbour_votes, suspects
from pictures import solar_cells
from saved import machine
from splits import own_split, pictures

LISTED = 0.05  # share of the pictures that is looked at
TILE = 110


def rows_of(name: str) -> list[tuple[str, Path]]:
    if name == "solar":
        return [("defective" if p > 0.5 else "functional", path) for path, p, _ in solar_cells()]
    train, test = own_split(Path(name))
    return (train + test) or pictures(Path(name))


def features(paths: list[Path], digests: list[str]) -> np.ndarray:
    backbone = find("bundled/efficientnet_lite0")
    sample = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    forward = open_forward(backbone, backbone.preprocess, device="cpu", precision="auto", sample=lambda: sample)
    return extract(paths, digests, forward=forward, preprocesses=[backbone.preprocess.with_fit("squash")]).features[0]


def injected(y: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    n_classes, bad = int(y.max()) + 1, rng.permutation(len(y))[: round(rate * len(y))]
    labels = y.copy()
    labels[bad] = (labels[bad] + rng.integers(1, n_classes, len(bad))) % n_classes
    return labels


def examine(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Suspects:
    """As `graftage check` does it."""
    held = folds(y, groups, k=5, repeats=1, rng=np.random.default_rng([seed, 2]))
    votes, _ = neighbour_votes(transform(X, "root"), y, groups, n_classes=int(y.max()) + 1)
    return suspects(held_out(X, y, held, seed=seed), votes, y, groups, rng=np.random.default_rng([seed, 8]))


def sheet(found: Suspects, y: np.ndarray, classes: list[str], paths: list[Path], target: Path) -> None:
    wide = 12
    shown = found.listed[: wide * 16]
    page = Image.new("RGB", (wide * TILE, -(-len(shown) // wide) * (TILE + 26)), "white")
    pen = ImageDraw.Draw(page)
    for place, i in enumerate(shown):
        x, top = place % wide * TILE, place // wide * (TILE + 26)
        with Image.open(paths[i]) as image:
            tile = image.convert("RGB").resize((TILE - 4, TILE - 4))
        page.paste(tile, (x, top))
        pen.text(
            (x, top + TILE - 4), f"{place} {classes[y[i]][:14]}\n > {classes[found.suggested[i]][:14]}", fill="black"
        )
    page.save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rates", default="0,5,10,20", help="percent; 0 first")
    parser.add_argument("--sheet", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    print(machine("graftage", "numpy", "scipy"))
    for name in args.sets:
        measure(name, [int(s) for s in args.seeds.split(",")], [int(r) for r in args.rates.split(",")], args.sheet)


def measure(name: str, seeds: list[int], rates: list[int], folder: Path | None) -> None:
    rows = rows_of(name)
    paths, digests = [p for _, p in rows], [hashlib.sha256(p.read_bytes()).hexdigest() for _, p in rows]
    X, groups = features(paths, digests), exact_groups(digests)
    classes, true = np.unique([label for label, _ in rows], return_inverse=True)
    n, top = len(rows), round(LISTED * len(rows))
    natural: dict[int, float] = {}
    print(f"\n{Path(name).name}: {n:,} pictures, {len(classes)} classes, seeds {seeds}; the first 5 % are {top}")
    for rate in rates:
        found = []
        for seed in seeds:
            y = injected(true, rate / 100, np.random.default_rng([seed, 10 * rate]))
            each, bad = examine(X, y, groups, seed), y != true
            natural.setdefault(seed, each.wrong.value)
            expected = bad.sum() + natural[seed]
            off = abs(each.wrong.value / expected - 1)
            found.append((each, bad, off))
            hits = bad[each.order[:top]].sum()
            print(
                f"  {rate:2d} %, seed {seed}: {bad.sum():4d} injected; flagged {each.flagged.sum():4d}, "
                f"{(each.flagged & bad).sum():4d} of them injected; of the first {top} listed {hits:4d}; "
                f"estimated {each.wrong.value:4.0f} ({each.wrong.low:.0f} to {each.wrong.high:.0f})"
                + (f" for {expected:.0f}" if rate else ""),
                flush=True,
            )
            if rate == 0 and seed == seeds[0] and folder:
                sheet(each, y, classes.tolist(), paths, folder / f"{Path(name).name}.png")
        if rate:
            verdicts(Path(name).name, rate, top, found)


def verdicts(name: str, rate: int, top: int, found: list[tuple[Suspects, np.ndarray, float]]) -> None:
    """Means over the seeds against the goals."""
    precision = np.mean([bad[each.order[:top]].mean() for each, bad, _ in found])
    recall = np.mean([each.flagged[bad].mean() for each, bad, _ in found])
    off = max(off for _, _, off in found)
    for met, words in (
        (precision >= 0.8, f"precision of the first 5 % listed {100 * precision:.1f} %, goal 80"),
        (recall >= 0.7, f"recall of the flagged {100 * recall:.1f} %, goal 70"),
        (off <= 0.3, f"estimate off by at most {100 * off:.0f} % of injected + estimated at 0, goal 30"),
    ):
        print(f"{'pass' if met else 'FAIL'}  {name}, {rate} % injected: {words}")


if __name__ == "__main__":
    main()
