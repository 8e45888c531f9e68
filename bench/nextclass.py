"""Which class to photograph next: do pictures of an advised class do more than as many at random?

    python bench/nextclass.py [--first 0] [--seeds 20] [--save FILE] FOLDER...

A draw sets a quarter of every class apart as a test, and of the rest gives most classes 60 pictures and three classes,
drawn at random, 12 (starved). The curve of balanced accuracy is made of these alone, as `graftage curve --metric
balanced-accuracy` makes it. Then 40 pictures are added, in ten ways drawn anew, and the balanced accuracy on the test
set is measured before and after, by the ridge head of the curve:

    slope      of the class whose own power law foretells the most for its share of the metric and a picture of it: what
               graftage named "photograph next" until these draws were made; nothing where the curve is not carried on
    weakest    of the class that the curve finds least often right, which graftage tells, without advising it
    rarest     of the class with the fewest pictures, the first of them
    spread     of all classes alike
    random     as they come, in the shares that the pictures left over have
    best       of the class that turns out best on this very test set: no rule can know it, the most there is to have

Features are computed once and kept. Differences are paired by draw; intervals are 95 %, t over draws.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from curve import features
from graftage.learn.refits import answers_of, refit
from graftage.measure.curve import REPLICATES, Curve, Refits, curve_sizes, learning_curve
from saved import machine
from splits import name_of

PLENTY, STARVED, STARVED_CLASSES = 60, 12, 3
ADDED, WAYS, TEST = 40, 10, 0.25
RULES = ("slope", "weakest", "rarest", "spread", "random", "best")
Record = dict[str, Any]


def draw(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Record:
    """One draw: gains in points of balanced accuracy by where the added pictures come from."""
    rng = np.random.default_rng([seed, 1])
    K = int(y.max()) + 1
    starved = set(rng.permutation(K)[:STARVED_CLASSES].tolist())
    test, own, pool = [], [], []
    for k in range(K):
        order = rng.permutation(np.flatnonzero(y == k))
        size = round(TEST * len(order))
        kept = size + (STARVED if k in starved else min(PLENTY, len(order) - size - ADDED))
        test.append(order[:size])
        own.append(order[size:kept])
        pool.append(order[kept:])
    base, asked, rest = (np.sort(np.concatenate(part)) for part in (own, test, pool))
    curve = curve_of(X[base], y[base], groups[base], seed)
    more = {k: [rng.permutation(pool[k])[:ADDED] for _ in range(WAYS)] for k in range(K)}
    more[K] = [rng.permutation(rest)[:ADDED] for _ in range(WAYS)]
    each = -(-ADDED // K)
    more[K + 1] = [np.concatenate([rng.permutation(part)[:each] for part in pool])[:ADDED] for _ in range(WAYS)]
    parts = [np.concatenate([base, some]) for k in range(K + 2) for some in more[k]]
    answers = answers_of(X, y, groups, [base, *parts], asked)
    scores = np.array([100 * np.mean([(a[y[asked] == k] == k).mean() for k in range(K)]) for a in answers])
    gains = (scores[1:].reshape(K + 2, WAYS).mean(axis=1) - scores[0]).tolist()
    weakest = curve.weakest
    slopes = np.array([c.gain.value / c.pictures for c in curve.classes])
    chosen = {"rarest": int(np.argmin([len(part) for part in own])), "random": K, "spread": K + 1}
    chosen |= {} if weakest is None else {"weakest": weakest.label}
    chosen |= {} if not np.isfinite(slopes).any() else {"slope": int(np.nanargmax(slopes))}
    told = {"starved": {name: k in starved for name, k in chosen.items() if k < K}, "best": max(gains[:K])}
    return {"before": float(scores[0]), **told, **{name: gains[k] for name, k in chosen.items()}}


def curve_of(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> Curve:
    sizes = curve_sizes(len(y), int(y.max()) + 1)
    right = refit(X, y, groups, sizes, replicates=REPLICATES, seed=seed)
    rng = np.random.default_rng([seed, 9])
    return learning_curve(Refits(sizes, right, y, groups), metric="balanced_accuracy", rng=rng)


def show(name: str, records: list[Record]) -> None:
    before = np.mean([r["before"] for r in records])
    print(f"\n{name}: {len(records)} draws, balanced accuracy before {before:.1f} %; {ADDED} more pictures, in points")
    print(f"{'of the class':<10} {'draws':>5} {'starved':>8} {'gain':>7} {'more than random':>26} {'better in':>12}")
    for rule in RULES:
        told = [r for r in records if rule in r]
        starved = [r["starved"][rule] for r in told if rule in r["starved"]]
        gain = np.mean([r[rule] for r in told]) if told else float("nan")
        hit = f"{sum(starved)}" if starved else "-"
        print(f"{rule:<10} {len(told):>5} {hit:>8} {gain:>+7.2f} {against_random(told, rule)}")


def against_random(records: list[Record], rule: str) -> str:
    if rule == "random" or len(records) < 2:
        return ""
    gaps = np.array([r[rule] - r["random"] for r in records])
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    words = f"{gaps.mean():+.2f} ({gaps.mean() - half:+.2f} to {gaps.mean() + half:+.2f})"
    return f"{words:>26} {f'{(gaps > 0).sum()} of {len(gaps)}':>12}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders of class folders, or as in curve.py")
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw of each set")
    parser.add_argument("--seeds", type=int, default=20, help="draws of each set (default 20)")
    parser.add_argument("--save", type=Path, help="file of JSON lines to write the single draws to")
    args = parser.parse_args()
    print(machine("graftage", "numpy", "scipy"))
    records = []
    for data in args.data:
        X, y, groups = features(data)
        seeds = range(args.first, args.first + args.seeds)
        records += [{"set": name_of(data), "seed": seed, **draw(X, y, groups, seed)} for seed in seeds]
    if args.save:
        args.save.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    for name in dict.fromkeys(r["set"] for r in records):
        show(name, [r for r in records if r["set"] == name])
    show("all", records)


if __name__ == "__main__":
    main()
