"""How many cores there are for this process: fewer than the machine has, where it is told to keep to some of them."""

import os


def cores() -> int:
    """Cores that this process may use, 1 or more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
