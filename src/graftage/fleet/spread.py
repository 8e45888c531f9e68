"""Inputs are read, answered and brought back in order by the workers of a Ray cluster, as one Ray Data pipeline (W).

```
units ─ read (tasks) → blocks of inputs ─ answer (actors that hold a network) → blocks of answers ─ in order → here
```

Ray Data keeps only so many blocks under way as its object store holds, so memory does not grow with the inputs. A
worker that dies is started anew, and what it had not answered is answered again; since answers come back to one place,
in order, none is lost or doubled. Ray is told to send no usage statistics.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from typing import Any

from graftage.data.decode import Limits
from graftage.data.inputs import Input
from graftage.errors import OptionError
from graftage.fleet.blocks import of_inputs, packed, unpacked
from graftage.fleet.units import Unit

PACK, PACK_BYTES = 256, 16 * 2**20  # inputs that travel together, at most, and about how many bytes of theirs
LOCAL = "local"  # the address of a cluster of this machine's own, which lives as long as the command
_STORE = 512 * 2**20  # bytes of the object store of such a cluster: blocks under way

Block = Any
Answer = Callable[[Block], Block]


@contextmanager
def cluster(address: str, *, workers: int = 0) -> Iterator[int]:
    """A connection to a Ray cluster, for use in a `with` statement.

    Args:
        address: "local" starts one on this machine and stops it at the end; else as `ray.init` takes it: "auto" for the
            one that this machine belongs to, HOST:PORT, or ray://HOST:PORT.
        workers: processes that answer; 0 means one per core of the cluster.

    Yields:
        The number of workers.

    Raises:
        OptionError: Ray is not installed, or there is no cluster at this address.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise OptionError("--ray needs Ray Data, which is missing: run `pip install 'graftage[ray]'`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry; it is read when Ray starts
    if address == LOCAL:  # they do the command's own work, so they do not stand back behind all else, as Ray has it
        os.environ.setdefault("RAY_worker_niceness", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of its own defaults
        import ray
        import ray.data

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address == LOCAL:
        cores = workers or os.cpu_count() or 1
        quiet |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise OptionError(f"--ray {address}: no Ray cluster answers there ({error})") from error
    try:
        held: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield workers or max(int(held.get("CPU", 1)), 1)
    finally:
        ray.shutdown()


class _Answering:
    """What runs in an actor: makes its network once, then answers block after block."""

    def __init__(self, make: Callable[[], Answer]) -> None:
        self._answer = make()

    def __call__(self, found: Any) -> Iterator[Any]:
        for pack in found.column("pack"):
            yield packed(self._answer(unpacked(pack)))


def spread(
    units: Sequence[Unit],
    make: Callable[[], Answer],
    *,
    workers: int,
    limits: Limits,
    gpu: bool = False,
    skip: int = 0,
) -> Iterator[Block]:
    """Blocks of answers to all inputs of the units, in order. A cluster must be connected, see `cluster`.

    Args:
        units: what is to be read; workers must see the same files under the same names.
        make: called once in each worker; gives what turns a block of inputs into one of answers.
        workers: processes that answer, each on one core.
        limits: largest file and picture.
        gpu: each worker has a GPU of its own.
        skip: inputs of the first unit that are passed over.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns of its own defaults
        import pyarrow
        from ray.data import ActorPoolStrategy, DataContext, from_arrow

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised here all the same
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = 1  # bytes: no two packs in a block, so that all workers get some
        numbers = [pyarrow.table({"unit": [i]}) for i in range(len(units))]
        read = _reading(tuple(units), limits, skip)
        # reading waits for files, so it has no core of its own; a few at once keep all workers busy
        inputs = from_arrow(numbers).map_batches(
            read, batch_size=1, batch_format="pyarrow", num_cpus=0, concurrency=max(2, workers // 4)
        )
        answers = inputs.map_batches(
            _Answering,
            fn_constructor_args=(make,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if gpu else None,
        )
        found: Any
        for found in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from map(unpacked, found.column("pack"))


def _reading(units: Sequence[Unit], limits: Limits, skip: int) -> Callable[[Any], Iterator[Any]]:
    def read(found: Any) -> Iterator[Any]:
        for number in found.column("unit").to_pylist():
            inputs = units[number].inputs(limits=limits)
            for some in together(inputs if number else islice(inputs, skip, None)):
                yield packed(of_inputs(some))

    return read


def together(inputs: Iterable[Input]) -> Iterator[list[Input]]:
    """Inputs in packs, closed by their number or their bytes."""
    held: list[Input] = []
    size = 0
    for one in inputs:
        held.append(one)
        size += len(one.data or b"")
        if len(held) == PACK or size >= PACK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held
