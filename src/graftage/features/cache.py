"""Where computed things are kept between runs, and how they get there whole."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graftage.errors import GraftageError, StoreError

_ELSEWHERE = "free some space or set GRAFTAGE_CACHE to another place"


def cache_root() -> Path:
    """The folder for features and prepared networks: `GRAFTAGE_CACHE`, else the platform's cache folder."""
    if named := os.environ.get("GRAFTAGE_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "graftage"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "graftage" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graftage"


def ready(folder: Path) -> Path:
    """`folder`, made if missing. Raises StoreError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot make this cache folder ({error.strerror}); set GRAFTAGE_CACHE to another place"
        ) from error
    return folder


def require_space(folder: Path, needed: int, advice: str = _ELSEWHERE, error: type[GraftageError] = StoreError) -> None:
    """Raises `error` unless the disk that holds `folder`, or will hold it, has so many bytes left."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise error(f"{folder}: {size_text(needed)} are needed and {size_text(free)} are free; {advice}")


def size_text(size: int) -> str:
    """Bytes for people: "97.8 MB"."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at once if the block succeeds, and vanishes if it does not.

    If another process made `folder` meanwhile, theirs stays: both hold the same thing.
    """
    ready(folder.parent)
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield temporary
        _settle(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _settle(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary name and renames it: a reader sees all of it or nothing."""
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(f"{path}: cannot be written ({reason}); {_ELSEWHERE}")
