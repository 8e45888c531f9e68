"""Wall time of `graftage demo` from an empty cache, and of the same command again."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        environment = {**os.environ, "GRAFTAGE_CACHE": str(Path(name) / "cache")}
        for run in ("cold", "again"):
            start = time.perf_counter()
            command = [sys.executable, "-m", "graftage", "demo", "-o", str(Path(name) / "demo")]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            print(f"{run}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
