"""Tar shards (WebDataset) as inputs: read as a stream from front to back, nothing of them is ever unpacked to disk.

A member's name is a name and nothing else: `../../etc/passwd` in a shard is called that in its row, and no file of that
name is looked at. Labels and descriptions that lie beside the pictures (`.cls`, `.json`, `.txt`, …) are no inputs.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Self

from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.inputs import Input
from graftage.data.sources import ignored

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Endings of what WebDataset keeps beside a picture; everything else is taken for one.
BESIDE: Final = frozenset(
    (*("cls", "cls2", "csv", "html", "id", "index", "json", "jsonl", "key", "len", "md", "npy", "npz", "pickle"),
     *("pkl", "pth", "pyd", "ten", "text", "transcript", "tsv", "txt", "url", "xml", "yaml", "yml"))
)  # fmt: skip
_OPENERS: Final[dict[bytes, Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_HEADER: Final = 2**20  # bytes that a member's name and attributes may take
_FAULTS: Final = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


def is_shard(path: Path) -> bool:
    """Whether a file is one, by its ending."""
    return path.name.lower().endswith(SUFFIXES)


def members(shard: Path, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[Input]:
    """The pictures in a shard, in its order, as SHARD/MEMBER; links and devices are inputs without a picture.

    A shard that cannot be opened, is damaged or breaks off gives what comes before, and then an input that says so and
    is marked as broken.

    Args:
        shard: the file; .gz, .bz2 and .xz are known by their content.
        limits: a member with more bytes is not read.
    """
    name = str(shard)
    try:
        with shard.open("rb") as raw, _plain(raw) as plain, _opened(plain) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                name = f"{shard}/{member.name}"
                if not member.isdir() and not _beside(member.name):
                    yield _member(tar, member, name, limits)
    except _FAULTS as error:
        inside = f" after {name.removeprefix(f'{shard}/')!r}" if name != str(shard) else ""
        yield Input(str(shard), reason=f"shard cannot be read further{inside}: {_why(error)}", broken=True)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, limits: Limits) -> Input:
    if not member.isfile():
        return Input(name, reason="not a file: a link or device in a shard")
    if member.size > limits.max_bytes:
        return Input(name, reason=f"too many bytes: {member.size:,}, the limit is {limits.max_bytes:,}")
    file = tar.extractfile(member)
    assert file is not None, "regular members can be read"
    return Input(name, data=file.read())


def _beside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix[1:].lower() in BESIDE or any(ignored(part) for part in path.parts if part not in (".", ".."))


def _plain(raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    plain: IO[bytes] = opener(raw) if opener else raw
    return plain


def _opened(plain: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=plain, mode="r|", tarinfo=_Strict, bufsize=2**18)


class _Strict(tarfile.TarInfo):
    """Headers that end an archive early are errors: tarfile takes what it cannot read for the end of it."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        """The next header. Raises ReadError where there is neither one nor the mark of the end."""
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it breaks off: there is no mark of its end") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header is damaged ({error})") from error

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _LONG and self.size > _HEADER:
            raise tarfile.ReadError(f"a header claims {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


_LONG: Final = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
)  # fmt: skip


def _why(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__
