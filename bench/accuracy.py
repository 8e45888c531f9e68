"""Accuracy of the head on frozen features, on folders of labelled pictures, as `graftage train` measures it.

python bench/accuracy.py FOLDER...           each with its own split rule
python bench/accuracy.py --folds FOLDER...   5-fold cross-validation on all pictures (folders without a test set)
"""

import sys
import tempfile
import time
from pathlib import Path

import graftage


def main() -> None:
    folds = "--folds" in sys.argv
    for folder in [arg for arg in sys.argv[1:] if not arg.startswith("--")]:
        options: dict[str, object] = {"recipe": "linear", **({"test": "none", "folds": "5x1"} if folds else {})}
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            run = graftage.train(folder, output=Path(name) / "run", **options)
            seconds = time.perf_counter() - start
        s = run.scores
        print(
            f"{Path(folder).name:<16} n {s.n:>5,}  accuracy {s.accuracy.percent()}  macro F1 {s.macro_f1.percent()}  ",
            end="",
        )
        print(f"log-loss {s.log_loss.number()}  {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
