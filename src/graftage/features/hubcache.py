"""The hub's cache on this machine: how its files are named, held against their hashes, and put where all find them.

```
models--ORG--NAME/blobs/HASH              a file by the hash that the hub names: SHA-256 of a large one, else git's
models--ORG--NAME/snapshots/COMMIT/FILE   a link to the blob, or the file itself where there are no links
models--ORG--NAME/refs/main               the commit that the branch stood at
```

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError
from graftage.features import cache

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
_MOVES = "HF_HOME moves the hub's cache"


class DamagedError(BackboneError):
    """A file that has not the hash that the hub names."""


def repository_folder(repository: str) -> Path:
    """The folder of a repository in the hub's cache, there or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def blob_name(path: Path) -> str:
    """The hash by which the cache names the file behind `path`, "" where it holds a copy without such a name.

    One step only: the file of that name may itself be a link into a store that several caches share.
    """
    try:
        name = path.readlink().name
    except OSError:  # no link: the cache of a file system without them
        return ""
    return name if HASH.fullmatch(name) else ""


def remember_whole(path: Path) -> None:
    """Notes that this file, of this size and time, has the right hash. Where nothing can be noted, it is forgotten."""
    with suppress(OSError):
        stamp = _stamp(path)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


def put(blob: Path, repository: str, name: str, commit: str, ref: str | None) -> Path:
    """Shows a finished file of the cache under its name, as the hub's own client does, and says which commit `ref` is.

    Returns:
        Its path below snapshots/. Where there are no links, the file itself is moved there.
    """
    from huggingface_hub import constants

    top = repository_folder(repository)
    pointer = top / "snapshots" / commit / name
    pointer.parent.mkdir(parents=True, exist_ok=True)
    if not pointer.exists():
        pointer.unlink(missing_ok=True)  # a link to what has gone
        try:
            if constants.HF_HUB_DISABLE_SYMLINKS:
                raise OSError(errno.ENOTSUP, "links are switched off")
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            if not pointer.exists():  # another process may have been faster
                blob.replace(pointer)
    if ref is not None and ref != commit:
        place = top / "refs" / ref
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        temporary.write_text(commit)
        temporary.replace(place)
    return pointer


@contextmanager
def locked(repository: str, blob: str) -> Iterator[None]:
    """The lock that the hub's own client takes before it writes this file."""
    from huggingface_hub import utils

    client: Any = utils  # its names are documented, but not declared to be there for others
    lock = repository_folder(repository).parent / ".locks" / repository_folder(repository).name / f"{blob}.lock"
    with ExitStack() as stack:
        with writing(lock.parent):
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(client.WeakFileLock(lock))
        yield


@contextmanager
def writing(folder: Path, advice: str = _MOVES, partial: Path | None = None) -> Iterator[None]:
    """Turns what a disk has to complain of into a sentence. On a full disk `partial` is given back."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full and partial is not None:
            partial.unlink(missing_ok=True)
        what = "the disk is full" if full else f"it cannot be written ({error.strerror or error})"
        raise BackboneError(f"{folder}: {what}; {'free some space' if full else 'change that'}; {advice}") from error


def require_space(folder: Path, needed: int, advice: str = _MOVES) -> None:
    """Raises BackboneError unless the disk that will hold `folder` has so many bytes left."""
    cache.require_space(folder, needed, advice, BackboneError)


def digest(path: Path, like: str) -> str:
    """SHA-256, or git's hash of a file's content where `like` has 40 digits."""
    with path.open("rb") as stream:
        if len(like) == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while block := stream.read(1 << 20):
            state.update(block)
        return state.hexdigest()


def find(repository: str, name: str, revision: str | None) -> Path | None:
    """Where the cache has this file of this branch, tag or commit (None: of main). Only names are looked at."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, name, cache_dir=constants.HF_HUB_CACHE, revision=revision)
    except HFValidationError:  # no name that a repository can have
        return None
    return Path(found) if isinstance(found, str) else None


def _stamp(path: Path) -> Path:
    real = path.resolve()
    facts = real.stat()
    key = hashlib.sha256(f"{real}\n{facts.st_size}\n{facts.st_mtime_ns}".encode(errors="surrogateescape")).hexdigest()
    return cache.cache_root() / "checked" / key


def require_whole(path: Path) -> None:
    """Holds a file of the cache against the hash in its name, unless that was done since it last changed.

    Raises:
        DamagedError: they differ; the file has been removed.
    """
    wanted = blob_name(path)
    if not wanted or _stamp(path).exists():
        return
    if (found := digest(path, wanted)) != wanted:
        blob = path.parent / path.readlink()
        with suppress(OSError):
            path.unlink()
            blob.unlink()
        gone = "remove it" if path.exists() else "it has been removed"
        raise DamagedError(
            f"{path}: this file is damaged (its hash is {found[:16]}…, the hub's {wanted[:16]}…); {gone}, and the same "
            "command gets it again"
        )
    remember_whole(path)
