"""Time and peak memory of the head search on many pictures and classes: made-up features, as `learn` sees them.

python bench/scale.py [PICTURES CLASSES]        default 20,000 and 100; the largest supported are 100,000 and 1,000
"""

import resource
import sys
import time

import numpy as np

from graftage.data.split import folds
from graftage.learn.defaults import plan
from graftage.learn.search import fit_head, search

WIDTH = 1280


def main() -> None:
    n, k = (int(arg) for arg in sys.argv[1:3]) if len(sys.argv) > 2 else (20_000, 100)
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n) % k)
    centres = rng.normal(size=(k, WIDTH)).astype(np.float32)
    X = np.empty((n, WIDTH), np.float32)
    for start in range(0, n, 10_000):
        part = slice(start, start + 10_000)
        X[part] = np.maximum(centres[y[part]] + rng.normal(0, 4, (len(y[part]), WIDTH)).astype(np.float32), 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    usual, start = plan(n), time.perf_counter()
    held = folds(y, np.arange(n), k=usual.folds, repeats=usual.repeats, rng=rng)
    found = search(X, y, held, fit="squash", seed=0)
    fit_head(X, y, found.chosen().candidate, seed=0)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for family, trial in ((family, found.trials[i]) for family, i in found.best.items()):
        print(f"  {family:<10} log-loss {trial.log_loss:.4f}, {100 * trial.accuracy(y):.1f} % right")
    print(f"{n:,} pictures, {k:,} classes: {seconds:.0f} s, peak {peak:,.0f} MiB, of which before {before:,.0f} MiB")


if __name__ == "__main__":
    main()
