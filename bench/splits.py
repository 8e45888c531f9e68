"""One random split of a data set, laid out as train/CLASS/... and test/CLASS/..., the same on every machine.

    python bench/splits.py [--seed 0] [--share 0.25] [--limit N] FOLDER_OR_NAME WORK

FOLDER_OR_NAME is a folder of class folders, split at random, class by class; or a folder that has its own split, which
is kept (train and val make train where there is a test folder, else val is the test); or the name `solar`: the pictures
of elpv-dataset, defect probability above 0.5 against not, as `graftage demo` shows them. Byte-identical pictures stay
on one side. Pictures are linked, not copied.
"""

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from graftage.data.sources import SPLIT_NAMES, natural_key
from graftage.demo import _class_folders, _dataset_folder

SHARE = 0.25
SOLAR = "solar"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})

Rows = list[tuple[str, Path]]  # (class, file)


def name_of(data: str) -> str:
    """What the set is called in tables and saved lines: the folder's name, or "solar"."""
    return data if data == SOLAR else Path(data).resolve().name


def with_budget(data: str, usual: str) -> tuple[str, str]:
    """ "FOLDER@60s" → ("FOLDER", "60s"); without an @ the usual budget."""
    place, _, own = data.partition("@")
    return place, own or usual


def split(data: str, work: Path, *, seed: int, share: float = SHARE, limit: int | None = None) -> Path:
    """Lays the split out in a new folder under `work` and returns it.

    Args:
        data: a folder, or "solar".
        work: where the links are made.
        seed: of the random split; a set that has its own split is the same for every seed.
        share: of each class that goes to the test side.
        limit: pictures that are kept of each class (and side, where the set has its own split); None keeps all.
    """
    root = _class_folders(_dataset_folder(), work / "solar-cells") if data == SOLAR else Path(data)
    if not root.is_dir():
        raise SystemExit(f"{data}: no such folder, and not {SOLAR}")
    train, test = own_split(root)
    if test:
        train, test = limited(train, limit), limited(test, limit)
    else:
        train, test = random_split(limited(train, limit), seed=seed, share=share)
    target = work / f"{name_of(data)}-{seed}"
    for side, rows in (("train", train), ("test", test)):
        link(rows, target / side)
    return target


def own_split(root: Path) -> tuple[Rows, Rows]:
    """(train, test) as the set's folders say; everything is train where they say nothing."""
    parts: dict[str, Rows] = defaultdict(list)
    for folder in folders(root):
        if (part := SPLIT_NAMES.get(folder.name.lower())) is not None:
            parts[part] += pictures(folder)
    if not parts["train"]:
        return pictures(root), []
    return (parts["train"] + parts["val"], parts["test"]) if parts["test"] else (parts["train"], parts["val"])


def random_split(rows: Rows, *, seed: int, share: float) -> tuple[Rows, Rows]:
    """Class by class, whole groups of byte-identical files at a time; a group counts for its first file's class."""
    groups: dict[str, Rows] = defaultdict(list)
    for label, path in rows:
        groups[hashlib.sha256(path.read_bytes()).hexdigest()].append((label, path))
    classes: dict[str, list[Rows]] = defaultdict(list)
    for group in groups.values():
        classes[group[0][0]].append(group)
    rng, train, test = np.random.default_rng(seed), Rows(), Rows()
    for label in sorted(classes, key=natural_key):
        wanted = round(share * sum(len(group) for group in classes[label]))
        for i in rng.permutation(len(classes[label])):
            group = classes[label][i]
            (test if wanted > 0 else train).extend(group)
            wanted -= len(group)
    return train, test


def limited(rows: Rows, limit: int | None) -> Rows:
    """The same `limit` pictures of each class for every seed, drawn at random."""
    if limit is None:
        return rows
    classes: dict[str, Rows] = defaultdict(list)
    for row in rows:
        classes[row[0]].append(row)
    rng = np.random.default_rng(0)
    return [some[i] for some in classes.values() for i in sorted(rng.permutation(len(some))[:limit])]


def pictures(root: Path) -> Rows:
    """All pictures in the class folders of `root`, in natural order."""
    return [
        (folder.name, path)
        for folder in folders(root)
        for path in sorted(folder.rglob("*"), key=lambda path: natural_key(path.as_posix()))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def folders(root: Path) -> list[Path]:
    found = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))


def link(rows: Iterable[tuple[str, Path]], side: Path) -> None:
    """Links the pictures into class folders; of two files with one name the second gets a number."""
    for label, path in rows:
        folder = side / label
        folder.mkdir(parents=True, exist_ok=True)
        number, target = 1, folder / path.name
        while target.is_symlink():
            number += 1
            target = folder / f"{path.stem}-{number}{path.suffix}"
        target.symlink_to(path.resolve())


def count(side: Path) -> int:
    """Pictures in the class folders of one side."""
    return sum(1 for _ in side.glob("*/*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder, or solar")
    parser.add_argument("work", type=Path, help="an empty or new folder for the links")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=SHARE, help="test share of each class (default 0.25)")
    parser.add_argument("--limit", type=int, help="keep this many pictures of each class")
    args = parser.parse_args()
    folder = split(args.data, args.work, seed=args.seed, share=args.share, limit=args.limit)
    print(f"{folder}: {count(folder / 'train'):,} train, {count(folder / 'test'):,} test")


if __name__ == "__main__":
    main()
