"""How often each set of test pictures has been opened on this machine: a number chosen among many looks flatters."""

import hashlib
from collections.abc import Sequence

from graftage.features.cache import cache_root, ready, write_whole

MANY = 5  # from here on, whoever chose between the runs should know


def opened(digests: Sequence[str]) -> int:
    """Counts one more look at these test pictures.

    Args:
        digests: SHA-256 of each test picture's file, in any order.

    Returns:
        How often exactly this set has been opened on this machine, with this time; 1 the first time.

    Raises:
        StoreError: the cache folder cannot be written.
    """
    name = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    file = ready(cache_root() / "openings") / name
    try:
        before = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # the first look, or a file that somebody has changed
        before = 0
    write_whole(file, str(before + 1).encode())
    return before + 1


def told(times: int) -> str:
    """The count as a sentence for the report; "" where there is no test set."""
    if times <= 0:
        return ""
    if times == 1:
        return "This is the first time that these test pictures have been opened on this machine."
    warning = (
        " If those runs were compared and the best one was kept, its number is flattered; measure it once more on "
        "pictures that took no part."
        if times >= MANY
        else ""
    )
    return f"These test pictures have now been opened {times:,} times on this machine.{warning}"
