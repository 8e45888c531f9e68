"""Does the interval hold what it promises? Many small trainings, each held against the many pictures left over.

    python bench/honesty.py [--sizes 60 120 250] [--draws 200] [--duplicates 0.2] FOLDER_OR_NAME...

A draw takes n pictures of a set at random (60 to 1,000), runs what `graftage train --recipe linear` runs on them
(crop, squash or pad, head and penalty chosen, bias-corrected cross-validation), and asks the model that it ships about
all pictures that were not drawn. Printed are the share of draws whose 95 % interval holds the accuracy on the rest, the
mean difference between the two, and the root mean square of that difference over the standard error that a score of n
pictures and a truth of the rest have by themselves: 1 if nothing else moves it. With --duplicates that share of the n
pictures are exact copies of others, as they slip into real sets; the rest has none. FOLDER_OR_NAME as in splits.py; a
set's own split is put together.

The features of every picture are computed once and kept; only what is learnt from them is learnt anew.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from graftage import choosing, looking, measuring, parting, steps
from graftage.data.catalog import Catalog
from graftage.data.grouping import groups_of
from graftage.learn import defaults
from graftage.learn.temperature import softmax
from graftage.measure.interval import wilson
from graftage.progress import Journal, Silent
from graftage.settings import Settings
from splits import SOLAR, link, name_of, own_split

SIZES = (60, 120, 250, 500, 1000)
LEAST_REST = 300  # pictures left over, below which their accuracy is no truth to be held against


@dataclass(frozen=True)
class Draw:
    """One small training: what it said of itself, and the truth."""

    set: str
    n: int
    seed: int
    value: float
    low: float
    high: float
    truth: float
    rest: int

    @property
    def held(self) -> bool:
        """Whether the interval holds the accuracy on the rest."""
        return self.low <= self.truth <= self.high


@dataclass(frozen=True)
class Opened:
    """A set with its network: everything but the pictures that a draw takes."""

    name: str
    looked: looking.Looked
    catalog: Catalog

    def sizes(self, asked: Sequence[int]) -> list[int]:
        """How many pictures may be drawn so that enough are left over."""
        return [n for n in asked if n + LEAST_REST <= len(self.catalog.usable)]


def opened(data: str, work: Path) -> Opened:
    """Every file looked at once, and the bundled network ready."""
    from graftage.demo import _class_folders, _dataset_folder

    root = _class_folders(_dataset_folder(), work / "solar-cells") if data == SOLAR else Path(data)
    train, test = own_split(root)
    folder = work / f"{name_of(data)}-all"
    link([*train, *test], folder)
    settings, journal = Settings(str(folder), recipe="linear"), Journal(Silent())
    catalog = looking.look_at_files(settings, journal)
    backbone, forward = looking.open_network(settings, catalog, np.array(catalog.usable), journal)
    looked = looking.Looked(settings, backbone, forward, journal)
    catalog, _ = looked.gate(catalog)
    return Opened(name_of(data), looked, catalog)


def draw(opened: Opened, n: int, seed: int, duplicates: float) -> Draw:
    """n pictures, class by class as in the whole set; the same training as `graftage train`; all others ask it."""
    rng = np.random.default_rng([seed, n])
    usable = np.array(opened.catalog.usable)
    rows = stratified(opened.catalog.labels()[usable], round(n * (1 - duplicates)), rng)
    own = usable[rows]
    groups = groups_of(opened.catalog)
    rest = usable[~np.isin(groups[usable], groups[own])]
    catalog, copies = with_copies(opened.catalog, rng.choice(own, round(n * duplicates)))
    looked = replace(opened.looked, settings=replace(opened.looked.settings, seed=seed))
    usual = defaults.plan(n)
    split = parting.Partition(np.concatenate([own, copies]), own[:0], "cross-validation", usual.folds, usual.repeats)
    catalog, fit, others = choosing.choose_fit(looked, catalog, split)
    catalog, table = steps.tabulate(looked, catalog, split, fit)
    learnt = steps.learn(table, fit, split, seed, looked.journal)
    said = measuring.measure(table, learnt, others, seed, looked.journal).scores.accuracy
    _, rest, (X,) = looked.features(catalog, rest, [fit])
    p = softmax(learnt.head.logits(X) / learnt.trial.temperature)
    truth = float((p.argmax(axis=1) == catalog.labels()[rest]).mean())
    return Draw(opened.name, n, seed, said.value, said.low, said.high, truth, len(rest))


def stratified(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of n of the pictures, of each class its share, two at least."""
    classes, counts = np.unique(y, return_counts=True)
    wanted = np.maximum(2, np.round(counts * n / len(y)).astype(int))
    return np.concatenate([rng.permutation(np.flatnonzero(y == c))[:m] for c, m in zip(classes, wanted, strict=True)])


def with_copies(catalog: Catalog, which: np.ndarray) -> tuple[Catalog, np.ndarray]:
    """The catalog with these entries once more, at its end: the same files under other names."""
    n = len(catalog.entries)
    copies = [
        replace(catalog.entries[i], index=n + j, id=f"{catalog.entries[i].id}.copy{j}") for j, i in enumerate(which)
    ]
    return replace(catalog, entries=(*catalog.entries, *copies)), np.arange(n, n + len(copies))


def draws(sets: list[Opened], count: int, sizes: Sequence[int], duplicates: float) -> Iterator[Draw]:
    """`count` draws, turn by turn over sets and sizes."""
    cells = [(each, n) for each in sets for n in each.sizes(sizes)]
    for i in range(count):
        each, n = cells[i % len(cells)]
        yield draw(each, n, i // len(cells), duplicates)


def show(name: str, found: list[Draw]) -> None:
    held, n = sum(d.held for d in found), len(found)
    bias = 100 * np.array([d.value - d.truth for d in found])
    share = wilson(held / n, n)
    width = 100 * np.mean([d.high - d.low for d in found])
    error = bias.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    own = np.array([d.truth * (1 - d.truth) * (1 / d.n + 1 / d.rest) for d in found])
    beside = np.sqrt(np.mean(np.square(bias / 100) / own))
    print(
        f"{name:<16} {held:>4} of {n:>4} intervals hold the truth: {share.percent()}; "
        f"bias {np.mean(bias):+.2f} points (± {1.96 * error:.2f}), mean width {width:.1f}; "
        f"error {beside:.2f} times its own"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pictures that are drawn")
    parser.add_argument("--duplicates", type=float, default=0.0, help="share of the n pictures that are copies")
    args = parser.parse_args()
    with TemporaryDirectory() as work:
        sets = [opened(data, Path(work)) for data in args.data]
        found = []
        for each in draws(sets, args.draws, args.sizes, args.duplicates):
            found.append(each)
            if len(found) % 20 == 0:
                print(f"{len(found)} of {args.draws}", file=sys.stderr, flush=True)
    kind = f", {args.duplicates:.0%} of them copies" if args.duplicates else ""
    print(f"{len(found)} draws of n pictures{kind}; the truth is the accuracy on the rest of the set")
    for name in dict.fromkeys(d.set for d in found):
        own = [d for d in found if d.set == name]
        show(f"{name} ({min(d.rest for d in own):,}+)", own)
    for n in args.sizes:
        if own := [d for d in found if d.n == n]:
            show(f"n = {n}", own)
    show("all", found)


if __name__ == "__main__":
    main()
