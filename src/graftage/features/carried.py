"""Networks carried from a machine with network to one without: out of the hub's cache into a folder, and back in.

```
FOLDER/timm--resnet50.a1_in1k/model.safetensors    the files as the hub has them
FOLDER/timm--resnet50.a1_in1k/config.json            and, of hf-hub:ORG/NAME, what else says what the tensors are
FOLDER/timm--resnet50.a1_in1k/graftage.json        id, repository, revision, licence; name, size and hashes of each file
```

A network appears in FOLDER, and in the cache, when all of it is there and has the right hashes; until then nothing of
it shows. What graftage.json says is a stranger's word: names that lead elsewhere, links and wrong hashes are refused.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError, GraftageError
from graftage.features import hub
from graftage.features.facts import file_hash
from graftage.features.hubcache import (
    COMMIT,
    HASH,
    blob_name,
    digest,
    find,
    locked,
    put,
    remember_whole,
    repository_folder,
    require_space,
    writing,
)

MANIFEST = "graftage.json"
_COMPANIONS = (hub.CONFIG, "preprocessor_config.json", "README.md")  # without them nobody knows what the tensors are
_FORMAT = 1
_LARGEST = 1_000_000  # bytes of graftage.json
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_REF = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern}){{0,9}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"(?!.*--)([A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_ELSEWHERE = "choose another folder"


@dataclass(frozen=True)
class CarriedFile:
    """One file of a network that is carried.

    Attributes:
        name: its name in the repository; no folders.
        size: bytes.
        sha256: 64 hex digits.
        blob: the hash by which the hub names it: the SHA-256, or git's of 40 digits.
    """

    name: str
    size: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class Carried:
    """A network that is carried.

    Attributes:
        id: as the user types it.
        repository: ORG/NAME on the hub.
        revision: the commit, 40 hex digits.
        ref: the branch or tag that stood there.
        licence: as timm or the hub's model card knows it, else "unknown".
        files: the weights first.
        place: the folder with the files: written to, or brought into the cache.
    """

    id: str
    repository: str
    revision: str
    ref: str
    licence: str
    files: tuple[CarriedFile, ...]
    place: Path


def carry_out(backbone_id: str, to: Path, progress: hub.Progress | None = None) -> Carried:
    """Writes a network of the hub into a folder of its own below `to`, downloading what is not in the cache.

    Args:
        backbone_id: timm/NAME.TAG or hf-hub:ORG/NAME.
        to: a folder, made if missing; may hold others.
        progress: told how downloads and copies go on.

    Raises:
        BackboneError: an id that needs no carrying, weights that cannot be had, a folder that cannot be written or that
            holds another network of this name.
    """
    source = hub.source_of(backbone_id)
    if source is None:
        raise BackboneError(_no_source(backbone_id))
    weights = hub.fetch(
        source.repository, hub.WEIGHTS, backbone_id=backbone_id, revision=source.revision, progress=progress
    )
    commit = weights.parent.name
    if backbone_id.startswith("timm/"):  # timm knows its own networks without
        companions = [hub.fetch_optional(source.repository, hub.CONFIG, revision=commit)]
    else:
        companions = [_companion(backbone_id, source.repository, name, commit) for name in _COMPANIONS]
    paths = [weights, *(path for path in companions if path is not None)]
    carried = Carried(
        id=backbone_id,
        repository=source.repository,
        revision=commit,
        ref=source.revision or "main",
        licence=source.licence if source.licence != "unknown" else hub.licence_of(source.repository, commit),
        files=tuple(_described(path) for path in paths),
        place=to / source.repository.replace("/", "--"),
    )
    _write(carried, paths, progress)
    return carried


def carry_in(folder: Path, progress: hub.Progress | None = None) -> tuple[Carried, ...]:
    """Brings every network that lies in `folder`, or is `folder`, into the hub's cache on this machine.

    Everything is copied and held against its hashes before any of it shows.

    Raises:
        BackboneError: no network there; a graftage.json that is damaged or says what it may not; a file that is missing
            or has the wrong hash; a cache that cannot be written or is full.
    """
    if not folder.is_dir():
        raise BackboneError(f"{folder}: no such folder; name the one that `graftage backbones --download` wrote")
    found = [_read(place) for place in (folder, *sorted(folder.iterdir())) if (place / MANIFEST).is_file()]
    if not found:
        raise BackboneError(
            f"{folder}: no network lies here (no {MANIFEST}); `graftage backbones --download ID --to FOLDER` writes one"
        )
    for carried in found:
        _require_files(carried)
        _require_its_repository(carried)
    cache = repository_folder(found[0].repository).parent
    require_space(cache, sum(file.size for carried in found for file in carried.files if not _is_there(carried, file)))
    with ExitStack() as stack:
        staged = [(carried, stack.enter_context(_staged(carried, progress))) for carried in found]
        return tuple(_settle(carried, temporary) for carried, temporary in staged)


def _companion(backbone_id: str, repository: str, name: str, commit: str) -> Path | None:
    try:
        return hub.fetch(repository, (name,), backbone_id=backbone_id, revision=commit)
    except hub.AbsentError as error:
        if not error.certain:
            raise
        return None


def _no_source(backbone_id: str) -> str:
    if backbone_id.startswith("bundled/"):
        return f"backbone {backbone_id} comes with the package: it needs no download, and is wherever graftage is"
    if backbone_id.startswith("keras/"):
        return (
            f"backbone {backbone_id}: Keras keeps its weights in a cache of its own; use it once on a machine with "
            "network and copy the file from ~/.keras/models there to the same folder here (KERAS_HOME moves it)"
        )
    if Path(backbone_id).exists():
        return f"{backbone_id} is a file already: copy it, and pass its path with --architecture NAME"
    return (
        f"backbone {backbone_id}: only timm/NAME.TAG and hf-hub:ORG/NAME are fetched from the hub, and timm has no "
        "pretrained model of this name there; `graftage backbones TEXT` lists those that it has"
    )


def _described(path: Path) -> CarriedFile:
    sha256 = file_hash(path)
    return CarriedFile(path.name, path.stat().st_size, sha256, blob_name(path) or sha256)


# ---------------------------------------------------------------- out


def _write(carried: Carried, paths: list[Path], progress: hub.Progress | None) -> None:
    place = carried.place
    if place.exists():
        if (place / MANIFEST).is_file() and _same(_read(place), carried):
            return
        raise BackboneError(f"{place}: something else is here already; {_ELSEWHERE}")
    require_space(place.parent, sum(file.size for file in carried.files), _ELSEWHERE)
    with writing(place.parent, _ELSEWHERE):
        temporary = _fresh(place.parent, f".{place.name}")
        try:
            for path, file in zip(paths, carried.files, strict=True):
                _copy(path, temporary / file.name, file, progress)
            listed = {"format": _FORMAT, **asdict(replace(carried, place=Path()))}
            del listed["place"]
            (temporary / MANIFEST).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
            temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _same(there: Carried, carried: Carried) -> bool:
    """Whether a folder holds this very network, every byte of it."""
    if replace(there, place=carried.place) != carried:
        return False
    return all(
        _is_plain(there.place / f.name, f.size) and file_hash(there.place / f.name) == f.sha256 for f in there.files
    )


def _fresh(folder: Path, name: str) -> Path:
    """A new folder, open to the same people as others: tempfile's is for its owner alone."""
    temporary = folder / f"{name}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    return temporary


def _copy(source: Path, target: Path, file: CarriedFile, progress: hub.Progress | None) -> None:
    """Copies a file, new at its target, and holds what was copied against its hash."""
    state = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as written:
        while block := read.read(1 << 20):
            state.update(block)
            written.write(block)
            if progress is not None:
                progress(f"copy {file.name}", written.tell(), file.size)
        size = written.tell()
    if (size, state.hexdigest()) != (file.size, file.sha256):
        raise BackboneError(
            f"{source}: this file is damaged (SHA-256 {state.hexdigest()[:16]}…, expected {file.sha256[:16]}…); "
            "bring it again"
        )


# ---------------------------------------------------------------- in


def _read(place: Path) -> Carried:
    """What the graftage.json in `place` says, each field held against what it may be."""
    path = place / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST:
            raise ValueError("it is a link or far too long")
        return _parsed(json.loads(path.read_text(encoding="utf-8")), place)
    except GraftageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise BackboneError(f"{path}: this is not what graftage wrote ({reason}); bring the folder again") from error


def _parsed(listed: Any, place: Path) -> Carried:
    if (number := listed["format"]) != _FORMAT:
        raise BackboneError(
            f"{place / MANIFEST}: format {number!r} is not known; a newer graftage wrote it, update this one"
        )
    files = tuple(
        CarriedFile(
            name=_text(each, "name", _NAME),
            size=_count(each, "size"),
            sha256=_text(each, "sha256", _SHA256),
            blob=_text(each, "blob", HASH),
        )
        for each in listed["files"]
    )
    names = [file.name for file in files]
    if not files or len({*names, MANIFEST}) != len(names) + 1:
        raise ValueError("files must be listed, each once")
    return Carried(
        id=_text(listed, "id", re.compile(r"[!-~]{1,300}")),
        repository=_text(listed, "repository", _REPOSITORY),
        revision=_text(listed, "revision", COMMIT),
        ref=_text(listed, "ref", _REF),
        licence=_text(listed, "licence", re.compile(r"[ -~]{1,100}")),
        files=files,
        place=place,
    )


def _text(listed: Any, key: str, pattern: re.Pattern[str]) -> str:
    value = listed[key]
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{key} may not be {value!r:.80}")
    return value


def _count(listed: Any, key: str) -> int:
    value = listed[key]
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ValueError(f"{key} may not be {value!r:.80}")
    return value


def _is_plain(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _require_files(carried: Carried) -> None:
    for file in carried.files:
        path = carried.place / file.name
        if path.is_symlink() or not path.is_file():
            raise BackboneError(f"{path}: this file is missing, or a link; bring the folder again")
        if (size := path.stat().st_size) != file.size:
            raise BackboneError(
                f"{path}: this file is damaged ({size:,} bytes, expected {file.size:,}); bring it again"
            )


def _require_its_repository(carried: Carried) -> None:
    """Raises BackboneError unless the weights go to where this id is looked for: they could be anyone's otherwise."""
    path, source = carried.place / MANIFEST, hub.source_of(carried.id)
    if source is None:
        raise BackboneError(f"{path}: no network {carried.id} is known here; bring the other machine's version of timm")
    if (source.repository, source.revision or "main") != (carried.repository, carried.ref):
        raise BackboneError(
            f"{path}: {carried.id} is not {carried.ref} of {carried.repository} but {source.revision or 'main'} of "
            f"{source.repository}; bring the folder again"
        )


def _is_there(carried: Carried, file: CarriedFile) -> bool:
    path = find(carried.repository, file.name, carried.revision)
    return path is not None and blob_name(path) == file.blob


@contextmanager
def _staged(carried: Carried, progress: hub.Progress | None) -> Iterator[Path]:
    """A folder in the cache with copies of the files that have the right hashes; it goes when the block ends."""
    top = repository_folder(carried.repository)
    with writing(top):
        (top / "blobs").mkdir(parents=True, exist_ok=True)
        temporary = _fresh(top, ".carried")
    try:
        for file in carried.files:
            with writing(top):
                _copy(carried.place / file.name, temporary / file.name, file, progress)
                named = digest(temporary / file.name, file.blob)
            if named != file.blob:
                path = carried.place / MANIFEST
                raise BackboneError(f"{path}: {file.name} has not the hash {file.blob} that it names; bring it again")
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # not empty: the cache had something of this network, or has it now
            (top / "blobs").rmdir()
            top.rmdir()


def _settle(carried: Carried, temporary: Path) -> Carried:
    """Moves checked files to their places in the cache. Renames only; the branch is set when all of them are there."""
    top = repository_folder(carried.repository)
    last = carried.files[-1].name
    for file in carried.files:
        blob = top / "blobs" / file.blob
        with locked(carried.repository, file.blob), writing(top):
            (temporary / file.name).replace(blob)  # over one of this name, which may be damaged
            ref = carried.ref if file.name == last else None
            pointer = put(blob, carried.repository, file.name, carried.revision, ref)
            if blob_name(pointer) == file.blob:  # else there was one before, of another name
                remember_whole(pointer)
    return replace(carried, place=top / "snapshots" / carried.revision)
