"""graftage against fastai's fine_tune and a timm-style script: the same pictures, weights and wall time, one by one.

    python bench/peers.py [--budget 300s] [--seeds 3] [--save FILE] [--reuse FILE] [--share-torch] FOLDER_OR_NAME...

The peers run in an environment of their own, made once in --env from bench/peers/requirements.txt. With --share-torch
it takes what it can from the environment that graftage runs in (PyTorch, timm) and installs only the rest.
FOLDER_OR_NAME, seeds and --save as in finetune.py; --reuse takes graftage's runs from a file that finetune.py saved.

The seconds of graftage are the whole of `train`, with decoding, choice and measurement; those of the peers are training
alone: without imports, without measuring their speed beforehand, without the test.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from finetune import PACKAGES, line, mean, measured, minus, span, table
from graftage.features.backbone import find
from graftage.features.bundled import DEFAULT
from saved import Record, Saved, machine, seconds_of
from splits import count, name_of, split, with_budget

HERE = Path(__file__).resolve().parent / "peers"
SCRIPTS = {"fastai": HERE / "fastai_fine_tune.py", "timm": HERE / "timm_fine_tune.py"}
OURS = "auto"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}  # glibc's, as graftage does


def environment(folder: Path, *, share: bool) -> Path:
    """The Python of the peers' environment, which is made if it is not there as the requirements ask."""
    requirements = HERE / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + str(share).encode()).hexdigest()
    python, mark = folder / "bin" / "python", folder / ".ready"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making the peers' environment in {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    shared = Path(place) / "shared.pth"
    if share:
        shared.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    else:
        shared.unlink(missing_ok=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    subprocess.run(install, check=True)
    mark.write_text(wanted, encoding="utf-8")
    return python


def peer(name: str, data: str, python: Path, *, seed: int, budget: str, limit: int | None, saved: Saved) -> Record:
    """One run of a peer, from the saved ones or made now."""
    key: Record = {"set": name_of(data), "seed": seed, "recipe": name, "budget": budget, "limit": limit}
    if (known := saved.get(**key)) is not None:
        return known
    with tempfile.TemporaryDirectory() as work:
        folder = split(data, Path(work), seed=seed, limit=limit)
        command = [python, SCRIPTS[name], folder, "--weights", find(DEFAULT).file]
        command += ["--seconds", str(seconds_of(budget)), "--seed", str(seed), *known_plan(key, saved)]
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, env={**os.environ, **KEEP_MEMORY}
        )
        if done.returncode:
            raise SystemExit(f"{name} on {name_of(data)} failed:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        record = {**key, **found, "n_train": count(folder / "train"), "machine": machine(*PACKAGES)}
    saved.add(record)
    return record


def known_plan(key: Record, saved: Saved) -> list[str]:
    """fastai's epochs, where another seed of the same set has measured how many fit."""
    if key["recipe"] != "fastai" or (first := saved.get(**{**key, "seed": 0})) is None:
        return []
    return ["--epochs", first["shipped"].split()[0]]


def show(rows: dict[str, dict[str, list[float]]], names: list[str]) -> None:
    for name, by in rows.items():
        means = "  ".join(f"{recipe} {mean(by[recipe]):.2f} %" for recipe in names)
        print(f"{name:<16} {len(by[OURS])} seeds  {means}")
        for other in names[1:]:
            print(f"{'':<16} {OURS} - {other:<7} {span(minus(by[OURS], by[other]))}")
    for other in names[1:] if rows else []:
        gains = [mean(minus(by[OURS], by[other])) for by in rows.values()]
        print(f"mean over {len(gains)} sets: {OURS} - {other:<7} {mean(gains):+.2f} points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="folders, or solar; none only makes the environment")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 (default 3)")
    parser.add_argument("--budget", default="300s", help="wall time of each run (default 300s)")
    parser.add_argument("--peers", default="fastai,timm", help="which of them")
    parser.add_argument("--only-peers", action="store_true", help="without graftage")
    parser.add_argument("--limit", type=int, help="keep this many pictures of each class, to try the script")
    parser.add_argument("--save", type=Path, help="file of JSON lines to add to and to go on from")
    parser.add_argument("--reuse", type=Path, action="append", default=[], help="file that finetune.py saved")
    parser.add_argument("--env", type=Path, default=HERE / ".venv", help="the peers' environment (bench/peers/.venv)")
    parser.add_argument("--share-torch", action="store_true", help="take PyTorch from the environment of graftage")
    args = parser.parse_args()
    python = environment(args.env, share=args.share_torch)
    saved, records = Saved(args.save, also=args.reuse), []
    peers = args.peers.split(",")
    print(machine(*PACKAGES))
    versions: set[str] = set()
    for data, budget in (with_budget(each, args.budget) for each in args.data):
        for seed in range(args.seeds):
            common = {"seed": seed, "budget": budget, "limit": args.limit, "saved": saved}
            if not args.only_peers:
                records.append(measured(data, OURS, **common))
                print(line(records[-1]), flush=True)
            for name in peers:
                records.append(peer(name, data, python, **common))
                print(line(records[-1]), flush=True)
                versions.add(", ".join(f"{package} {v}" for package, v in records[-1]["versions"].items()))
    for each in sorted(versions):
        print(f"peers: {each}")
    if not args.only_peers and args.data:
        print(f"\nwall time {args.budget} where none is named; mean accuracy over the seeds, differences in points")
        names = [OURS, *peers]
        show(table(records, names), names)


if __name__ == "__main__":
    sys.exit(main())
