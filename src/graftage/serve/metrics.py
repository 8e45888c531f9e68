"""What the server counts, as Prometheus reads it (text format 0.0.4). Labels take few values, whatever is sent.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
_HELP = {
    "graftage_requests_total": "Requests answered, by route and status.",
    "graftage_pictures_total": "Pictures answered, by model and status of the answer.",
    "graftage_request_seconds": "Time from a request's header to the end of its answer.",
    "graftage_queue_pictures": "Pictures waiting or under way.",
    "graftage_queue_capacity": "Pictures that may wait or be under way.",
    "graftage_held_bytes": "Bytes of request bodies in memory.",
    "process_resident_memory_bytes": "Resident memory size in bytes.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and times of one server. Safe to use from several threads.

    Args:
        routes: the values that the label `route` may take; any other becomes "other".
    """

    def __init__(self, routes: Sequence[str]) -> None:
        self._routes = frozenset(routes)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request that has been answered."""
        route = route if route in self._routes else "other"
        with self._lock:
            self._counts["graftage_requests_total", (("route", route), ("status", str(status)))] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            self._buckets[route, next((b for b in BUCKETS if seconds <= b), float("inf"))] += 1

    def picture(self, model: str, status: str) -> None:
        """Counts a picture's row."""
        with self._lock:
            self._counts["graftage_pictures_total", (("model", model), ("status", status))] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it, and what is measured at this moment, by name."""
        with self._lock:
            counts, buckets, seconds = self._counts.copy(), self._buckets.copy(), self._seconds.copy()
        lines: list[str] = []
        for name in ("graftage_requests_total", "graftage_pictures_total"):
            lines += [*_head(name, "counter"), *(_line(*key, n) for key, n in sorted(counts.items()) if key[0] == name)]
        lines += _head("graftage_request_seconds", "histogram")
        for route in sorted(seconds):
            lines += _histogram(route, {b: buckets[route, b] for b in (*BUCKETS, float("inf"))}, seconds[route])
        for name, value in gauges.items():
            lines += [*_head(name, "gauge"), _line(name, (), value)]
        return "\n".join(lines) + "\n"


def resident_memory() -> dict[str, float]:
    """Resident bytes of this process, as a gauge, where the system tells them."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return {}
    return {"process_resident_memory_bytes": kilobytes * 1024}


def _head(name: str, kind: str) -> list[str]:
    return [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}"]


def _histogram(route: str, counts: Mapping[float, int], seconds: float) -> list[str]:
    lines, total = [], 0
    for bound, count in counts.items():
        total += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(_line("graftage_request_seconds_bucket", (("route", route), ("le", edge)), total))
    own = (("route", route),)
    return [
        *lines,
        _line("graftage_request_seconds_sum", own, seconds),
        _line("graftage_request_seconds_count", own, total),
    ]


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{inner}}} {value:.9g}" if labels else f"{name} {value:.9g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
