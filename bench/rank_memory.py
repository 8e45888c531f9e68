"""Peak memory of `graftage rank` over twenty networks, against that over the largest of them alone.

    python bench/rank_memory.py [--pictures 200] [--keep FOLDER] [--graphs] [ID...]

The candidates are those named, else the three bundled networks and timm architectures with random weights, in local
files. Each command is a process of its own that has seen no picture before; graphs of networks are made by it, or taken
from FOLDER where an earlier run left them, with --graphs. Peaks are the largest resident sets: of the command itself,
and of it or any process that it started (one makes each new graph, and ends). Were weights held from one network to the
next, the sum over all would be seen; what may grow with the number of candidates is features and the record.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from graftage.features.backbone import find
from graftage.features.building import random_weights
from graftage.features.bundled import BUNDLED
from pictures import class_folders
from saved import machine

ARCHITECTURES = (
    "resnet50",
    "resnet34",
    "resnet26",
    "resnet18",
    "convnext_nano",
    "regnety_032",
    "efficientnet_b2",
    "efficientnet_b1",
    "efficientnet_b0",
    "tf_efficientnet_lite3",
    "mobilenetv2_140",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv3_small_100",
    "ghostnet_100",
    "mnasnet_100",
    "regnetx_016",
)


def candidates(folder: Path) -> list[str]:
    """The bundled networks and files of random weights."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.safetensors" for name in ARCHITECTURES]
    for name, file in zip(ARCHITECTURES, files, strict=True):
        if not file.exists():
            save_file(random_weights(name, seed=3), file)
    return [*map(str, files), *BUNDLED]


def peak(photos: Path, named: list[str], work: Path, graphs: Path | None) -> tuple[float, float, float]:
    """(MiB of the command, MiB of it or any process that it started, seconds), with graphs from this folder or none."""
    cache = work / "cache"
    cache.mkdir()
    if graphs is not None:
        graphs.mkdir(parents=True, exist_ok=True)
        (cache / "networks").symlink_to(graphs.resolve())
    command = [sys.executable, "-m", "graftage", "rank", str(photos), "--candidates", ",".join(named)]
    command += ["-o", str(work / "rank.html"), "--fit", "squash"]
    environment = {**os.environ, "GRAFTAGE_CACHE": str(cache)}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = 0.0
    while True:
        own = max(own, resident(process.pid))
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            assert status == 0, status
            return own, usage.ru_maxrss / 1024, time.perf_counter() - start
        time.sleep(0.02)


def resident(process: int) -> float:
    """Largest resident set that a process has had, MiB; 0 once it has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("named", nargs="*", metavar="ID", help="candidates")
    parser.add_argument("--graphs", action="store_true", help="graphs of networks are kept there, too")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--keep", type=Path, default=Path("rank-memory"), metavar="FOLDER")
    args = parser.parse_args()
    print(machine("graftage", "torch", "timm", "openvino"), flush=True)
    named = args.named or candidates(args.keep)
    backbones = {one: find(one) for one in named}
    sizes = {one: b.info.parameters * 4 / 2**20 for one, b in backbones.items()}
    largest = max(named, key=lambda one: (sizes[one], backbones[one].preprocess.size))
    print(f"{len(named)} networks, {sum(sizes.values()):,.0f} MiB of weights, {sizes[largest]:,.0f} the largest")
    with tempfile.TemporaryDirectory() as name:
        photos = class_folders(Path(name) / "photos", args.pictures)
        for what, chosen in (("the largest alone", [largest]), (f"all {len(named)}", named)):
            work = Path(name) / str(len(chosen))
            work.mkdir()
            own, anyone, seconds = peak(photos, chosen, work, args.keep / "graphs" if args.graphs else None)
            print(f"{what}: peak {own:,.0f} MiB of the command, {anyone:,.0f} MiB of any process, {seconds:,.0f} s")


if __name__ == "__main__":
    main()
