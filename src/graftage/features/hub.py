"""The door to the Hugging Face hub: weights that are in its local cache, else fetched into it, whole or not at all.

The cache is the hub's own (`HF_HOME`, `HF_HUB_CACHE`), so that what one program fetched all others find; `HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `HF_TOKEN` and the hub's two timeouts are honoured, because addresses, headers and connections are
those of `huggingface_hub`. Only the transfer is done here, for two reasons: its client throws a broken download away
(2.4.0: `_download_to_tmp_and_move`), and does not compare a file with its hash. Here a broken download is kept as
`blobs/HASH.incomplete` and goes on by a ranged request, and every file must have the hash that the hub names.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError
from graftage.features.cache import size_text
from graftage.features.hubcache import (
    COMMIT,
    HASH,
    DamagedError,
    digest,
    find,
    locked,
    put,
    remember_whole,
    repository_folder,
    require_space,
    require_whole,
    writing,
)

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them
CONFIG = "config.json"
Progress = Callable[[str, int, int], None]  # name of the file, bytes that are here, bytes in all

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TRIES = 5  # broken off so often, each time further on
_SMALL = 5_000_000  # bytes; smaller files go without a bar
_NO_DOWNLOAD = "bundled/efficientnet_lite0"


@dataclass(frozen=True)
class Source:
    """Where the weights of an id lie on the hub.

    Attributes:
        repository: ORG/NAME.
        revision: branch, tag or commit that the id asks for; None is the hub's main branch.
        licence: as timm knows it, else "unknown".
    """

    repository: str
    revision: str | None
    licence: str


class AbsentError(BackboneError):
    """A file that is not here and cannot be had.

    Attributes:
        certain: the hub itself says that the repository does not hold it.
    """

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain


def source_of(backbone_id: str) -> Source | None:
    """Where the hub keeps the weights of `timm/NAME` or `hf-hub:ORG/NAME[@REVISION]`; None for any other id."""
    if backbone_id.startswith("hf-hub:"):
        repository, _, revision = backbone_id.removeprefix("hf-hub:").partition("@")
        return Source(repository, revision or None, "unknown")
    if not backbone_id.startswith("timm/"):
        return None
    import timm

    name = backbone_id.removeprefix("timm/")
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a known network, but no such tag
        config = None
    if config is None or not config.hf_hub_id:
        return None
    return Source(str(config.hf_hub_id), None, str(config.license or "unknown"))


def cached(repository: str, names: Sequence[str], *, revision: str | None = None) -> Path | None:
    """The first of `names` that is in the hub's cache on this machine, or None. Asks no network.

    A file is read and held against its hash when it is first used, and again only if its size or time has changed.

    Raises:
        DamagedError: it has not the hash that its name in the cache gives; it has been removed.
    """
    for name in names:
        if path := find(repository, name, revision):
            require_whole(path)
            return path
    return None


def fetch(
    repository: str,
    names: Sequence[str],
    *,
    backbone_id: str,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The first of `names` that is in the hub's cache on this machine, else the first that the hub has, fetched.

    Args:
        repository: ORG/NAME.
        names: file names, the best first.
        backbone_id: as the user typed it, for what is said if it cannot be had.
        revision: branch, tag or commit; None is the main branch.
        progress: told how the download goes on; None shows the hub's own bar, with rate and time left, on a terminal.

    Raises:
        AbsentError: neither here nor to be had; says why, what to download elsewhere and how to bring it.
        DamagedError: a file has not the hash that the hub names; it has been removed.
        BackboneError: the cache cannot be written, or is full.
    """
    if path := cached(repository, names, revision=revision):
        return path
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    missing: Exception | None = None
    try:
        for name in names:
            try:
                return _download(repository, name, revision, progress)
            except EntryNotFoundError as error:
                missing = error
    except BackboneError as error:
        raise type(error)(f"backbone {backbone_id}: {error}") from error
    except HFValidationError as error:
        raise BackboneError(f"backbone {backbone_id}: {repository!r} is no name of a repository (ORG/NAME)") from error
    except Exception as error:  # no network, proxy, certificate, gated, full disk: they share no class below this
        raise _absent(backbone_id, repository, names, error) from error
    raise AbsentError(
        f"backbone {backbone_id}: {repository} on the hub holds none of {', '.join(names)}", certain=True
    ) from missing


def fetch_optional(repository: str, name: str, *, revision: str | None = None) -> Path | None:
    """A file such as config.json, from the cache or fetched; None if the hub has none or it cannot be had now.

    Raises:
        DamagedError: it has not the hash that the hub names; it has been removed.
        BackboneError: the cache cannot be written, or is full.
    """
    try:
        return fetch(repository, (name,), backbone_id=repository, revision=revision)
    except AbsentError:
        return None


def licence_of(repository: str, revision: str) -> str:
    """The licence on the hub's model card; "unknown" if it has none or cannot be asked."""
    from huggingface_hub import HfApi, constants

    try:
        client = HfApi(endpoint=constants.ENDPOINT)
        card = client.model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).card_data
        return str((card.get("license") if card else None) or "unknown")
    except Exception:  # no network, gated, a card that cannot be read
        return "unknown"


# ---------------------------------------------------------------- the transfer


class _BrokenOff(Exception):
    """A download that ended before its end."""


def _download(repository: str, name: str, revision: str | None, progress: Progress | None) -> Path:
    """Fetches a file into the cache. Asks once before, so that a machine without network is told at once."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(repository, name, revision=revision), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    commit, blob_id, size = found.commit_hash or "", found.etag or "", found.size
    if not COMMIT.fullmatch(commit) or not _PLAIN.fullmatch(blob_id):
        raise BackboneError(
            f"{constants.ENDPOINT} answers, but not as the hub does; is it a proxy's or a network's login page, or is "
            "HF_ENDPOINT set wrongly?"
        )
    top = repository_folder(repository)
    blob = top / "blobs" / blob_id
    partial = blob.with_name(f"{blob_id}.incomplete")
    with writing(top):
        blob.parent.mkdir(parents=True, exist_ok=True)
    with locked(repository, blob_id):
        if came := not blob.exists():  # else of another commit, or another process was faster
            url = hf_hub_url(repository, name, revision=commit)  # the very file, whatever main is by now
            with _shown(name, size or 0, progress) as tell:
                _bring(url, partial, size, tell)
            _require_hash(partial, blob_id, size, f"{repository}/{name}")
            with writing(top):
                partial.replace(blob)
        with writing(top):
            pointer = put(blob, repository, name, commit, revision or constants.DEFAULT_REVISION)
        (remember_whole if came else require_whole)(pointer)
    return pointer


def _require_hash(partial: Path, blob_id: str, size: int | None, what: str) -> None:
    if HASH.fullmatch(blob_id):
        wrong = digest(partial, blob_id) != blob_id
    else:  # some mirrors name no hash
        wrong = size is not None and partial.stat().st_size != size
    if wrong:
        partial.unlink()
        raise DamagedError(
            f"{what} came with other bytes than the hub says (its hash should be {blob_id[:16]}…); what came has been "
            "removed: try again, and if it happens again, ask who is between you and the hub"
        )


def _bring(url: str, partial: Path, size: int | None, tell: Callable[[int], None]) -> None:
    """Fetches what `partial` lacks; a connection that breaks is taken up again as long as it brings something."""
    from huggingface_hub.errors import HfHubHTTPError

    if size is None:  # nobody could tell whether what is here is its beginning
        partial.unlink(missing_ok=True)
    with writing(partial.parent):
        partial.touch()
    require_space(partial.parent, (size or 0) - _size(partial))
    broken: Exception = EOFError("the hub sent less than it said")
    for _ in range(_TRIES):
        before = _size(partial)
        try:
            if size is None or before != size:
                _append(url, partial, tell)
            if size is None or _size(partial) >= size:
                return
        except (BackboneError, HfHubHTTPError):
            raise
        except Exception as error:  # whatever the client calls a wire that is cut
            if _size(partial) <= before:
                raise (_broken(partial, size, error) if before else error) from error
            broken = error
    raise _broken(partial, size, broken) from broken


def _broken(partial: Path, size: int | None, error: Exception) -> _BrokenOff:
    return _BrokenOff(
        f"the download broke off at {size_text(_size(partial))} of {size_text(size or 0)} ({type(error).__name__}); "
        "the same command goes on from there"
    )


def _append(url: str, partial: Path, tell: Callable[[int], None]) -> None:
    """One request for the bytes that `partial` lacks. Each piece is written as it comes."""
    from huggingface_hub import constants, utils

    client: Any = utils  # its names are documented, but not declared to be there for others
    start = _size(partial)
    headers = {
        **client.build_hf_headers(),
        "Accept-Encoding": "identity",
        **({"Range": f"bytes={start}-"} if start else {}),
    }
    options = {"headers": headers, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT, "follow_redirects": True}
    with client.get_session().stream("GET", url, **options) as response:
        if response.status_code == 416:  # nothing of the file lies behind what is here: it is not the file's beginning
            partial.unlink()
            return
        client.hf_raise_for_status(response)
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        done = start if goes_on else 0
        with writing(partial.parent):
            out = partial.open("ab" if goes_on else "wb", buffering=0)
        with out:
            for piece in response.iter_bytes():
                with writing(partial.parent, partial=partial):
                    if out.write(piece) < len(piece):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += len(piece)
                tell(done)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _shown(name: str, size: int, progress: Progress | None) -> Iterator[Callable[[int], None]]:
    if progress is not None:
        yield lambda done: progress(name, done, size)
        return
    from huggingface_hub import utils

    client: Any = utils
    hidden = True if size < _SMALL else None  # None: shown on a terminal only
    with client.tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=hidden) as bar:
        yield lambda done: bar.update(done - bar.n) and None


# ---------------------------------------------------------------- what is said


def _absent(backbone_id: str, repository: str, names: Sequence[str], error: Exception) -> AbsentError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if refusal := _refusal(repository, error):
        return AbsentError(f"backbone {backbone_id}: {refusal}; {_NO_DOWNLOAD} needs no download", certain=False)
    if isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set"
    elif isinstance(error, _BrokenOff):
        why = str(error)
    elif isinstance(error, HfHubHTTPError):
        why = f"the hub did not give it (HTTP {error.response.status_code})"
    elif "Timeout" in type(error).__name__:
        why = (
            f"the hub did not answer in time ({type(error).__name__}; HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, "
            "in seconds, wait longer)"
        )
    else:
        why = f"the hub did not give it ({type(error).__name__})"
    architecture = backbone_id.removeprefix("timm/") if backbone_id.startswith("timm/") else "NAME"
    file = names[0]
    return AbsentError(
        f"backbone {backbone_id}: {file} of {repository} is not on this machine and {why}. On a machine with network "
        f"run `graftage backbones --download {backbone_id} --to FOLDER`, bring FOLDER here and run `graftage backbones "
        f"--from FOLDER`; or run `hf download {repository} {file}` there and copy the hub's cache to "
        f"{constants.HF_HUB_CACHE} here (HF_HOME moves it); or bring {file} alone and pass its path with "
        f"--architecture {architecture}; {_NO_DOWNLOAD} needs no download",
        certain=False,
    )


def _refusal(repository: str, error: Exception) -> str:
    """What a hub that answered says no to, "" if it did not."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"the hub gives {repository} only to those who accepted its terms: accept them at "
            f"{constants.ENDPOINT}/{repository}, then run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repository} has no such revision on the hub"
    denied = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    if denied or isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {repository}, or shows it to its members only: correct the name, or run "
            "`hf auth login` or set HF_TOKEN"
        )
    return ""
