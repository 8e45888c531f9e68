"""All heads, penalties and folds at n = 2,500, D = 1,280, six classes, against scikit-learn on the same grid and folds.

graftage: ridge on two transforms, logistic regression, two kernels and their blend, each over 8 penalties and 5 folds.
scikit-learn: `LogisticRegressionCV` alone, over the same 8 penalties of logistic regression and the same 5 folds.
Features are real: solar cells by kind and defect level.
"""

import time
import warnings

import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss

from graftage.data.split import folds
from graftage.features.backbone import find
from graftage.features.bundled import DEFAULT
from graftage.features.engine import open_forward
from graftage.features.extract import extract
from graftage.learn.defaults import logistic_path
from graftage.learn.head import transform
from graftage.learn.logistic import held_out_logits_path
from graftage.learn.search import search
from graftage.learn.temperature import softmax
from pictures import solar_cells

N, CLASSES = 2500, 6


def features() -> tuple[np.ndarray, np.ndarray]:
    import hashlib

    cells = solar_cells()
    names = [f"{kind} {probability:.1f}" for _, probability, kind in cells]
    kept = sorted(set(names), key=names.count, reverse=True)[:CLASSES]
    rows = [i for i, name in enumerate(names) if name in kept][:N]
    backbone = find(DEFAULT)
    paths = [cells[i][0] for i in rows]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    found = extract(
        paths, digests, forward=open_forward(backbone, backbone.preprocess), preprocesses=[backbone.preprocess]
    )
    return found.features[0], np.array([kept.index(names[i]) for i in rows])


def main() -> None:
    X, y = features()
    held = folds(y, np.arange(len(y)), k=5, repeats=1, rng=np.random.default_rng(0))
    print(f"n = {len(y):,}, D = {X.shape[1]:,}, classes {np.bincount(y).tolist()}, 5 folds")

    start = time.perf_counter()
    found = search(X, y, held, fit="squash", seed=0)
    ours = time.perf_counter() - start
    best = found.chosen()
    for family, i in found.best.items():
        print(
            f"  {family:<11} log-loss {found.trials[i].log_loss:.4f}, {100 * found.trials[i].accuracy(y):.1f} % right"
        )
    print(f"graftage, {len(found.trials)} configurations: {ours:.1f} s; {best.candidate.family}, {best.log_loss:.4f}")

    rows = transform(X, best.candidate.transform)
    start = time.perf_counter()
    held_out_logits_path(rows, y, held, logistic_path(), n_classes=CLASSES)
    alone = time.perf_counter() - start
    cv = [(np.flatnonzero(held[0] != f), np.flatnonzero(held[0] == f)) for f in range(5)]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegressionCV(
            Cs=logistic_path(), cv=cv, scoring="neg_log_loss", max_iter=1000, use_legacy_attributes=False
        ).fit(rows, y)
    theirs = time.perf_counter() - start
    losses = -np.mean(np.asarray(model.scores_), axis=0)
    lowest = float(np.min(losses))
    print(f"scikit-learn, {len(logistic_path())} configurations: {theirs:.1f} s; best log-loss {lowest:.4f}")
    print(f"graftage is {theirs / ours:.1f} times as fast with all its heads, log-loss {best.log_loss - lowest:+.4f}")
    gap = found.trials[found.best["logistic"]].log_loss - lowest
    print(f"its logistic regression alone, {alone:.1f} s: {theirs / alone:.1f} times as fast, log-loss {gap:+.4f}")
    p = softmax(found.logits[best.candidate.family] / best.temperature)
    assert abs(log_loss(y, p, labels=range(CLASSES)) - best.log_loss) < 1e-3


if __name__ == "__main__":
    main()
