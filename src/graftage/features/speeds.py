"""How many pictures a second a network looks at on this machine: measured with the real engine, and kept.

The file `speeds.json` in the cache folder has the newest measurement of every network, engine and machine. What has not
been measured has no number: none is guessed from another network or machine.
"""

import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graftage.features.cache import cache_root, ready, write_whole
from graftage.features.engine import Forward, cores, open_forward, probe_squares
from graftage.features.facts import Backbone

_SECONDS = 2.0  # of a measurement, at the least
_FILE = "speeds.json"


@dataclass(frozen=True)
class Speed:
    """A measurement.

    Attributes:
        per_second: pictures.
        pictures: how many it was measured on.
        engine: name of the engine, with its precision.
        key: `Forward.key`: changes with the weights, the input size and the engine's version.
    """

    per_second: float
    pictures: int
    engine: str
    key: str


@cache
def machine() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # no Linux
        pass
    return f"{name}, {cores()} cores"


def measure_speed(backbone: Backbone, *, device: str = "auto", precision: str = "auto") -> Speed:
    """Runs the engine of a network for two seconds on made-up squares, on all cores, and keeps what came out.

    Raises:
        As `open_forward`, if the network cannot be run.
    """
    forward = open_forward(backbone, backbone.preprocess, device=device, precision=precision)
    squares = np.resize(probe_squares(backbone.preprocess.size), (forward.batch, *_shape(backbone)))
    threads = 1 if forward.batch > 1 else cores()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(forward, [squares] * threads))  # every thread has its request, and memory is warm
        done, start = 0, time.perf_counter()
        while (taken := time.perf_counter() - start) < _SECONDS:
            list(pool.map(forward, [squares] * threads))
            done += threads * len(squares)
    speed = Speed(done / taken, done, forward.name, forward.key)
    note_speed(backbone.info.id, speed)
    return speed


def _shape(backbone: Backbone) -> tuple[int, int, int]:
    return backbone.preprocess.size, backbone.preprocess.size, 3


def speed_from(forward: Forward, pictures: int, seconds: float) -> Speed:
    """What a caller that has timed `forward` itself may note: pictures it looked at, and the time that took."""
    return Speed(pictures / seconds, pictures, forward.name, forward.key)


def note_speed(backbone_id: str, speed: Speed) -> None:
    """Keeps a measurement of this machine; an older one of the same network and engine is replaced.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    kept = _kept()
    kept.setdefault(machine(), {}).setdefault(backbone_id, {})[speed.engine] = asdict(speed)
    write_whole(ready(cache_root()) / _FILE, json.dumps(kept, indent=1).encode())


def speed_of(backbone_id: str, *, key: str | None = None) -> Speed | None:
    """The fastest engine's measurement of a network on this machine; None if there is none.

    Args:
        backbone_id: as it was noted.
        key: only measurements under this `Forward.key`; None takes any.
    """
    found = []
    for entry in _kept().get(machine(), {}).get(backbone_id, {}).values():
        try:
            speed = Speed(float(entry["per_second"]), int(entry["pictures"]), str(entry["engine"]), str(entry["key"]))
        except (KeyError, TypeError, ValueError):  # somebody has changed the file
            continue
        if key in (None, speed.key):
            found.append(speed)
    return max(found, key=lambda speed: speed.per_second, default=None)


def _kept() -> dict[str, dict[str, dict[str, Any]]]:
    """What is in the file; nothing if it is not there, or is not what was written."""
    try:
        read = json.loads((cache_root() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(read, dict):
        return {}
    return {
        where: {name: engines for name, engines in networks.items() if isinstance(engines, dict)}
        for where, networks in read.items()
        if isinstance(networks, dict)
    }
