"""What pretraining is worth in pictures, as `graftage curve --against scratch` says it: one run, its output as printed.

    python bench/against_scratch.py [--classes 4] [--budget 7m] [--seed 42] FOLDER

FOLDER is a folder of class folders, of which the first --classes are taken (linked, not copied). Trainings from random
weights are real ones of the bundled network, within the budget; what was trained is kept, so the same command prints
the same again in seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import graftage
from graftage.data.sources import natural_key
from graftage.progress import Silent
from saved import machine
from splits import SUFFIXES, link


class Printing(Silent):
    """Prints rows and notes."""

    def row(self, text: str) -> None:  # noqa: D102  as in Silent
        print(text, flush=True)

    def note(self, text: str) -> None:  # noqa: D102
        print(f"note: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of class folders")
    parser.add_argument("--classes", type=int, default=4, help="how many of them (default 4)")
    parser.add_argument("--budget", default="7m", help="for the trainings (default 7m)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--page", type=Path, help="keep the page here")
    args = parser.parse_args()
    names = sorted((p.name for p in args.data.iterdir() if p.is_dir()), key=natural_key)[: args.classes]
    files = [(n, p) for n in names for p in sorted((args.data / n).iterdir()) if p.suffix.lower() in SUFFIXES]
    print(machine("graftage", "numpy", "torch", "timm"))
    print(f"{args.data.name}: classes {', '.join(names)}, {len(files):,} pictures; budget {args.budget}")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        link(files, Path(work) / args.data.name)
        page = args.page or Path(work) / "curve.html"
        found = graftage.curve(
            Path(work) / args.data.name,
            against="scratch",
            budget=args.budget,
            seed=args.seed,
            output=page,
            watcher=Printing(),
        )
    print(f"took {time.perf_counter() - start:.0f} s")
    print("\n".join(line for line in found.summary if not line.startswith("page ")))
    worth = found.worth
    assert worth is not None
    print("\npretrained, on the same held-out pictures")
    for pictures, score in worth.pretrained:
        print(f"{pictures:>6,}  {score.percent()}")


if __name__ == "__main__":
    main()
