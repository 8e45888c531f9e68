"""Seconds per epoch: fine-tuning the network's tail from kept activations against fine-tuning all of it.

    python bench/tail.py [--limit 600] [--tail-share 0.37] [FOLDER_OR_NAME]        default: the solar cells

With the tail of the recipe's default, or of another share of the network's multiplications. Both on the same pictures,
one after the other. The first pass over the pictures, whose activations the tail keeps, is in the wall time and not in
the epochs.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import graftage
from saved import empty_cache, machine, mean
from splits import SOLAR, count, folders, own_split, split

GOAL = 4.0


def per_class(data: str, pictures: int) -> int:
    """How many pictures of each class make about `pictures` in all."""
    classes = 2 if data == SOLAR else len({label for label, _ in own_split(Path(data))[0]})
    return max(2, pictures // classes)


def epochs(folder: Path, recipe: str, *, number: int, work: Path, share: float | None) -> tuple[list[float], float]:
    """(seconds of each epoch, seconds of the whole run)."""
    start = time.perf_counter()
    with empty_cache(work / f"cache-{recipe}"):
        run = graftage.train(
            str(folder), output=str(work / recipe), seed=0, recipe=recipe, epochs=number, tail_share=share
        )
    wall = time.perf_counter() - start
    records = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8")).get("epochs") or []
    found = [float(record["seconds"]) for record in records]
    if not found:
        raise SystemExit(f"metrics.json of recipe {recipe} tells no seconds of its epochs")
    return found, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=SOLAR, help="a folder, or solar")
    parser.add_argument("--limit", type=int, default=600, help="pictures in all, about (default 600)")
    parser.add_argument("--tail-share", type=float, help="of the tail, 0 to 1 (default: the recipe's own)")
    args = parser.parse_args()
    print(machine("graftage", "torch", "timm"))
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = split(args.data, work, seed=0, limit=per_class(args.data, args.limit))
        n = count(folder / "train")
        print(f"{n:,} pictures of {len(folders(folder / 'train'))} classes to learn from")
        for recipe, number in (("tail", 2), ("full", 1)):
            found, wall = epochs(folder, recipe, number=number, work=work, share=args.tail_share)
            seconds[recipe] = mean(found)
            each = ", ".join(f"{one:.2f}" for one in found)
            print(f"{recipe:<5} {seconds[recipe]:7.2f} s per epoch ({each}); {wall:.0f} s for the whole run")
    ratio = seconds["full"] / seconds["tail"]
    print(
        f"{'pass' if ratio >= GOAL else 'FAIL'}  the tail's epoch is {ratio:.1f} times as fast, goal {GOAL:.0f} times"
    )
    if ratio < GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
