"""The flags of work that is spread over the workers of a Ray cluster, for the commands that can be."""

import argparse
import re
from pathlib import Path
from typing import Final

from graftage.errors import OptionError

_ADDRESS: Final = re.compile(r"auto|local|\w+://.+|[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
_HOST: Final = re.compile(r"\w[\w-]*")
_ADDRESSES: Final = "auto, local, HOST:PORT or ray://HOST:PORT"


def add_ray(parser: argparse.ArgumentParser) -> None:
    """The flags of work that is spread over the workers of a Ray cluster."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        type=_address,
        metavar="ADDRESS",
        help="spread the work over a Ray cluster: auto, HOST:PORT; without ADDRESS processes on this machine",
    )
    parser.add_argument("--ray-workers", type=int, metavar="N", help="processes that answer (default: one per core)")


def _address(word: str) -> str:
    """The word, if it is an address, or may have been meant as one; another one is an input, see `KindParser`."""
    if _ADDRESS.fullmatch(word) or (_HOST.fullmatch(word) and not Path(word).exists()):
        return word
    raise argparse.ArgumentTypeError(f"{word!r} is no address: {_ADDRESSES}")


def workers_of(arguments: argparse.Namespace) -> int:
    """Processes asked for, 0 for one per core. Raises OptionError, for an address that is none, too."""
    address: str | None = arguments.ray
    if address is not None and not _ADDRESS.fullmatch(address):
        raise OptionError(f"--ray {address}: neither a file or folder that is there nor an address: {_ADDRESSES}")
    count: int | None = arguments.ray_workers
    if count is not None and (count < 1 or arguments.ray is None):
        raise OptionError("--ray-workers is the number of processes of --ray, 1 or more")
    return count or 0
