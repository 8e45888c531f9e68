"""The processes of a run that `torchrun` started: who is who, and how they agree. One process is a world of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")


def size() -> int:
    """Number of processes, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes, through gloo on a CPU and NCCL on CUDA devices, and leaves them at the end."""
    if size() == 1:
        yield
        return
    import torch

    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """Process 0 goes through the block before the others do: what it computes and keeps, they find."""
    if size() == 1:
        yield
        return
    import torch

    if rank():
        torch.distributed.barrier()
    yield
    if not rank():
        torch.distributed.barrier()


def agreed(value: Value) -> Value:
    """What process 0 holds, in all of them."""
    if size() == 1:
        return value
    import torch

    box: list[Any] = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    agreed_on: Value = box[0]
    return agreed_on


def together() -> None:
    """Waits until all have come here."""
    if size() > 1:
        import torch

        torch.distributed.barrier()
