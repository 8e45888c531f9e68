"""What a picture was when it was answered for, in 24 bytes: whether it has changed is seen without decoding it (W).

The first 8 tell the file's size, times and place on its disk, so that a look at the folder is enough for most; the
other 16 are of its content, which is read again only where those differ: a file that was touched, or copied back, is
the same as before.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.inputs import Input
from graftage.data.sources import read
from graftage.errors import PictureError

SIZE: Final = 24  # bytes of a trace
_NO_FILE: Final = bytes(8)
UNKNOWN: Final = bytes(SIZE)
_GONE: Final = ("missing", "broken link")


def stamp(path: Path) -> bytes:
    """8 bytes of a file's size, times and number; zeros where it cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return _NO_FILE
    told = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return hashlib.blake2b(struct.pack("<4Q", *(each % 2**64 for each in told)), digest_size=8).digest()


def trace(data: bytes | None, reason: str = "", *, stamped: bytes | None = None) -> bytes:
    """The trace of a picture.

    Args:
        data: its bytes, None where there are none.
        reason: then why.
        stamped: of its file, taken before it was read; None where it has none of its own.
    """
    content = b"\0" + reason.encode(errors="surrogatepass") if data is None else data
    return (stamped or _NO_FILE) + hashlib.sha256(content).digest()[: SIZE - len(_NO_FILE)]


@dataclass(frozen=True, eq=False)
class Taken:
    """A picture's bytes as they were taken.

    Attributes:
        data: None where there are none.
        fault: then why.
        trace: what it was; `UNKNOWN` where it was not asked for.
    """

    data: bytes | None
    fault: PictureError | None
    trace: bytes

    def bytes(self) -> bytes:
        """The bytes. Raises PictureError where there are none."""
        if self.data is None:
            assert self.fault is not None, "there is one or the other"
            raise self.fault
        return self.data


def take(path: Path, data: bytes | None, reason: str, *, limits: Limits, traced: bool) -> Taken:
    """A picture's bytes: those of its file, or `data`; none, and what is wrong, where there is a `reason`.

    Args:
        path: its file, if there is neither of the others.
        data: its bytes.
        reason: why there is none.
        limits: largest file.
        traced: whether to take its trace.
    """
    own = data is None and not reason
    stamped = stamp(path) if own and traced else None  # before it is read, so that a change meanwhile is seen later
    fault = PictureError(reason) if reason else None
    if own:
        try:
            data = read(path, limits=limits)
        except PictureError as error:
            fault = error
    return Taken(data, fault, trace(data, str(fault or ""), stamped=stamped) if traced else UNKNOWN)


def has_changed(now: Input, held: bytes, *, limits: Limits = DEFAULT_LIMITS) -> bool:
    """Whether an input is no longer what it was when `held` was taken. A file that is gone has not changed.

    Args:
        now: the input of the same name.
        held: its trace; of one that is not known nothing can be said.
        limits: largest file.
    """
    if held == UNKNOWN:
        return False
    if now.path is None or now.data is not None or now.reason:
        return trace(now.data, now.reason) != held
    stamped = stamp(now.path)
    if stamped == held[: len(stamped)]:
        return False
    found = take(now.path, None, "", limits=limits, traced=True)
    if found.fault is not None and found.fault.reason in _GONE:
        return False
    return found.trace[len(stamped) :] != held[len(stamped) :]
