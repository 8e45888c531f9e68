"""Peak memory of `graftage train` at 1,000 and 4,000 pictures, each in its own process with an empty cache.

What may grow is the features: 3,000 × 1,280 × 4 bytes = 15 MB for each way of making the square that is kept.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pictures import class_folders

SMALL, LARGE, WIDTH = 1000, 4000, 1280


def peak(photos: Path, work: Path) -> float:
    """Largest resident set of the command in MiB."""
    command = [sys.executable, "-m", "graftage", "train", str(photos), "-o", str(work / f"run-{photos.name}")]
    environment = {**os.environ, "GRAFTAGE_CACHE": str(work / f"cache-{photos.name}")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return usage.ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found = {n: peak(class_folders(work / str(n), n), work) for n in (SMALL, LARGE)}
    growth, features = found[LARGE] - found[SMALL], (LARGE - SMALL) * WIDTH * 4 / 2**20
    for n, mebibytes in found.items():
        print(f"{n:,} pictures: peak {mebibytes:,.0f} MiB")
    print(f"growth {growth:,.0f} MiB; features of {LARGE - SMALL:,} pictures, one view: {features:.0f} MiB")


if __name__ == "__main__":
    main()
