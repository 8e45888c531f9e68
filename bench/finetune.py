"""Does fine-tuning pay? Every recipe on the same splits in the same time, against the goals.

    python bench/finetune.py [--seeds 3] [--budget 300s] [--recipes linear,auto,full] [--save FILE] FOLDER_OR_NAME...

FOLDER_OR_NAME as in splits.py: a folder, or `solar`; FOLDER@60s has a budget of its own. A quarter of the pictures is
test, drawn anew for every seed, unless the set has its own split. Every run starts from an empty cache, so its seconds
are all there is. With --save a run that is already in the file (same set, seed, recipe, budget) is taken from there.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import graftage
from graftage.errors import GraftageError
from saved import NO_BUDGET, Record, Saved, empty_cache, machine, mean
from splits import SOLAR, count, name_of, split, with_budget

PACKAGES = ("graftage", "torch", "timm", "openvino", "numpy")
UNTIMED = frozenset({"linear"})  # recipes that take the time they need
# In points of accuracy, means over the seeds.
BEHIND_BEST, BEHIND_LINEAR, MEAN_GAIN, SOLAR_ACCURACY = -0.3, -0.5, 2.0, 88.5


def measured(data: str, recipe: str, *, seed: int, budget: str, limit: int | None, saved: Saved) -> Record:
    """One run, from the saved ones or made now.

    Raises:
        GraftageError: the run failed.
    """
    key: Record = {
        "set": name_of(data),
        "seed": seed,
        "recipe": recipe,
        "budget": NO_BUDGET if recipe in UNTIMED else budget,
        "limit": limit,
    }
    if (known := saved.get(**key)) is not None:
        return known
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = split(data, work, seed=seed, limit=limit)
        record = {**key, **trained(folder, recipe, seed=seed, budget=budget, work=work)}
        record |= {"n_train": count(folder / "train"), "machine": machine(*PACKAGES)}
    saved.add(record)
    return record


def trained(folder: Path, recipe: str, *, seed: int, budget: str, work: Path) -> Record:
    """What `graftage.train` makes of a split, from an empty cache."""
    options: dict[str, object] = {"recipe": recipe, "seed": seed}
    if recipe not in UNTIMED:
        options["budget"] = budget
    with empty_cache(work / "cache"):
        start = time.perf_counter()
        run = graftage.train(str(folder), output=str(work / "run"), **options)
        seconds = time.perf_counter() - start
    return {
        "accuracy": run.scores.accuracy.value,
        "log_loss": run.scores.log_loss.value,
        "n_test": run.scores.n,
        "seconds": round(seconds, 1),
        "shipped": shipped(run.folder),
    }


def shipped(run: Path) -> str:
    """What the run chose to keep, as metrics.json has it; "" where it does not say."""
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8")).get("recipe", "")
    if isinstance(found, dict):
        found = found.get("shipped") or found.get("name") or json.dumps(found, ensure_ascii=False)
    return str(found)


def line(record: Record) -> str:
    text = (
        f"{record['set']:<16} seed {record['seed']}  {record['recipe']:<9} {100 * record['accuracy']:5.1f} %  "
        f"log-loss {record['log_loss']:.3f}  {record['seconds']:6.0f} s"
    )
    return f"{text}  {record['shipped']}".rstrip()


def table(records: list[Record], recipes: list[str]) -> dict[str, dict[str, list[float]]]:
    """Set → recipe → accuracy in percent, one for each seed; only the seeds that every recipe has."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        row = found.setdefault(record["set"], {}).setdefault(record["seed"], {})
        row[record["recipe"]] = 100 * record["accuracy"]
    complete = {
        name: [row for _, row in sorted(seeds.items()) if set(row) >= set(recipes)] for name, seeds in found.items()
    }
    return {name: {r: [row[r] for row in rows] for r in recipes} for name, rows in complete.items() if rows}


def span(values: list[float]) -> str:
    """Mean of the differences with the smallest and the largest."""
    return f"{mean(values):+.2f} ({min(values):+.1f} to {max(values):+.1f})"


def show(rows: dict[str, dict[str, list[float]]], recipes: list[str]) -> None:
    for name, by in rows.items():
        means = "  ".join(f"{recipe} {mean(by[recipe]):.2f} %" for recipe in recipes)
        print(f"{name:<16} {len(by[recipes[0]])} seeds  {means}")
        if "auto" in by and "linear" in by:
            print(f"{'':<16} auto - linear             {span(minus(by['auto'], by['linear']))}")
        if {"auto", "linear", "full"} <= set(by):
            print(f"{'':<16} auto - max(linear, full)  {mean(by['auto']) - best_of(by):+.2f}")


def minus(ours: list[float], theirs: list[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def best_of(by: dict[str, list[float]]) -> float:
    """The better of the two means, which nobody knows beforehand."""
    return max(mean(by["linear"]), mean(by["full"]))


def judge(rows: dict[str, dict[str, list[float]]]) -> bool:
    """Prints each goal with what was reached; whether all are met."""
    met = []

    def goal(what: str, value: float, least: float, unit: str = "points") -> None:
        sign = "+" if unit == "points" else ""
        met.append(value >= least - 1e-9)
        print(f"{'pass' if met[-1] else 'FAIL'}  {what:<46} {value:{sign}.2f}, goal {least:{sign}.1f} {unit}")

    for name, by in rows.items():
        if {"auto", "linear", "full"} <= set(by):
            goal(f"{name}: auto - max(linear, full)", mean(by["auto"]) - best_of(by), BEHIND_BEST)
        if {"auto", "linear"} <= set(by):
            goal(f"{name}: auto - linear", mean(minus(by["auto"], by["linear"])), BEHIND_LINEAR)
    gains = [mean(minus(by["auto"], by["linear"])) for by in rows.values() if {"auto", "linear"} <= set(by)]
    if gains:
        goal(f"mean gain over linear, {len(gains)} sets", mean(gains), MEAN_GAIN)
    if SOLAR in rows and "auto" in rows[SOLAR]:
        goal("solar: accuracy of auto", mean(rows[SOLAR]["auto"]), SOLAR_ACCURACY, "%")
    return all(met)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default 3)")
    parser.add_argument("--budget", default="300s", help="time for each run but linear (default 300s)")
    parser.add_argument("--recipes", default="linear,auto,full")
    parser.add_argument("--limit", type=int, help="keep this many pictures of each class, to try the script")
    parser.add_argument("--save", type=Path, help="file of JSON lines to add to and to go on from")
    args = parser.parse_args()
    recipes, saved = args.recipes.split(","), Saved(args.save)
    print(machine(*PACKAGES))
    records, failed = [], 0
    for data, budget in (with_budget(each, args.budget) for each in args.data):
        for seed in range(args.seeds):
            for recipe in recipes:
                try:
                    found = measured(data, recipe, seed=seed, budget=budget, limit=args.limit, saved=saved)
                except GraftageError as error:  # the other runs are worth having; this one is made when asked again
                    failed += 1
                    print(f"{name_of(data):<16} seed {seed}  {recipe:<9} failed: {error}", flush=True)
                    continue
                records.append(found)
                print(line(found), flush=True)
    print(f"\nbudget {args.budget} where none is named; mean accuracy over the seeds, differences in points")
    rows = table(records, recipes)
    show(rows, recipes)
    print()
    if not judge(rows) or failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
