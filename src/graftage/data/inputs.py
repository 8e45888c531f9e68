"""What a prediction is asked for, one record at a time: a file, or bytes out of a shard or a table.

Records are made as they are needed and forgotten once answered: nothing here holds a list of the inputs.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, eq=False)
class Input:
    """One picture to be answered for.

    Attributes:
        name: what its row calls it: the path as given, SHARD/MEMBER, or as written in a table.
        path: its file; None where `data` or `reason` stands for it.
        data: its bytes, where they are at hand.
        reason: why there is nothing to decode, "" if there is.
        id: what a table's id column says, "" if there is none.
        broken: what it comes from could not be read to the end: there may have been more inputs than there are rows.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    reason: str = ""
    id: str = ""
    broken: bool = False
