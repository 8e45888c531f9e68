"""Keras' cache of weights (`KERAS_HOME`, else `~/.keras`): which file Keras wants for a network, found or fetched."""

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graftage.errors import BackboneError
from graftage.features.keras_itself import PREFIX, keras_model, keras_package

_WAIT = 10  # seconds that the server with Keras' weights has for its first answer


@dataclass(frozen=True)
class WantedFile:
    """The file that Keras looks for: its name in the cache, its address, its MD5 or SHA-256 where Keras knows one."""

    file: str
    url: str
    hash: str | None


class _Asked(Exception):
    pass


@cache
def wanted_file(name: str) -> WantedFile:
    """What Keras would fetch for this network: it is built, and when it asks for its file the question is noted."""
    keras_package()
    from keras.src.utils import file_utils

    def note(fname: str, origin: str, file_hash: str | None = None, **_: object) -> None:
        raise _Asked(fname, origin, file_hash)

    fetch = file_utils.get_file
    file_utils.get_file = note
    try:
        keras_model(name, device="meta", weights="imagenet")
    except _Asked as asked:
        return WantedFile(*asked.args)
    finally:
        file_utils.get_file = fetch
    raise BackboneError(f"Keras has no ImageNet weights for {name}; pass a file with --architecture {PREFIX}{name}")


def cached_file(name: str) -> Path:
    """Keras' own weights file, fetched if it is not here and can be had."""
    wanted, home = wanted_file(name), Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / wanted.file
    if not path.is_file():
        _fetch(name, wanted, home)
    if wanted.hash and (found := _hash(path, wanted.hash)) != wanted.hash:
        raise BackboneError(
            f"backbone {PREFIX}{name}: {path} has the hash {found[:16]}…, Keras expects {wanted.hash[:16]}…; "
            f"delete it and get it again from {wanted.url}"
        )
    return path


def _hash(path: Path, like: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5" if len(like) == 32 else "sha256").hexdigest()


def _fetch(name: str, wanted: WantedFile, home: Path) -> None:
    """Keras' own download, unless a first knock at the door gets no answer."""
    from urllib.request import Request, urlopen

    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        if HF_HUB_OFFLINE:  # the one switch for “no network” that graftage knows
            raise ConnectionError
        urlopen(Request(wanted.url, method="HEAD"), timeout=_WAIT).close()
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            keras_package().utils.get_file(
                wanted.file, wanted.url, cache_dir=str(home), cache_subdir="models", file_hash=wanted.hash
            )
    except Exception as error:  # no network, proxy, certificate, full disk, another file than expected
        offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"could not be fetched ({type(error).__name__})"
        raise BackboneError(
            f"backbone {PREFIX}{name}: its weights are not on this machine and {offline}. Bring {wanted.url} to "
            f"{home / 'models' / wanted.file} (KERAS_HOME moves it), or pass the path of a file that Keras saved with "
            f"--architecture {PREFIX}{name}"
        ) from error
