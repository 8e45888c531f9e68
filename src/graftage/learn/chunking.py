"""Rows taken some at a time, so that temporary arrays stay small."""

from collections.abc import Iterator

_BYTES = 1 << 25  # 32 MiB: size of a temporary array when rows are streamed


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices over the rows, each of so many that `width` float64 numbers for every one of them make 32 MiB."""
    step = max(1, _BYTES // (8 * max(width, 1)))
    return (slice(start, start + step) for start in range(0, rows, step))
