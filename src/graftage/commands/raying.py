"""The flags of work that is spread over the workers of a Ray cluster, for the commands that can be."""

import argparse

from graftage.errors import OptionError


def add_ray(parser: argparse.ArgumentParser) -> None:
    """The flags of work that is spread over the workers of a Ray cluster."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="spread the work over a Ray cluster: auto, HOST:PORT; without ADDRESS processes on this machine",
    )
    parser.add_argument("--ray-workers", type=int, metavar="N", help="processes that answer (default: one per core)")


def workers_of(arguments: argparse.Namespace) -> int:
    """Processes asked for, 0 for one per core. Raises OptionError."""
    count: int | None = arguments.ray_workers
    if count is not None and (count < 1 or arguments.ray is None):
        raise OptionError("--ray-workers is the number of processes of --ray, 1 or more")
    return count or 0
