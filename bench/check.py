"""Time of `graftage check`, stage by stage, with features cached.

    python bench/check.py [FOLDER]      default: 4,000 solar cells, made from the pictures of elpv-dataset

The command runs twice, each in a process of its own: once to fill the cache, once to be timed.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pictures import class_folders
from saved import machine

N = 4000
GOAL = 20  # seconds


def main() -> None:
    print(machine("graftage", "numpy", "openvino"))
    with tempfile.TemporaryDirectory() as work:
        given = len(sys.argv) > 1
        photos = Path(sys.argv[1]) if given else class_folders(Path(work) / "cells", N)
        for turn in ("features computed", "features cached"):
            start = time.perf_counter()
            command = [sys.executable, "-m", "graftage", "check", str(photos), "-o", f"{work}/{turn.split()[1]}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start
            assert done.returncode in (0, 3), done.stderr
            page = (Path(work) / turn.split()[1] / "report.html").stat().st_size
            print(f"{turn}: {seconds:.1f} s in all on {len(os.sched_getaffinity(0))} cores; page {page / 1e6:.2f} MB")
        print(done.stderr.rstrip())
        print(done.stdout.rstrip().replace(work, "WORK"))
        print(f"{'pass' if seconds < GOAL else 'FAIL'}  {seconds:.1f} s with features cached, goal {GOAL} s")


if __name__ == "__main__":
    main()
