"""Pictures from many requests share the processor: a bounded queue, a few threads, and full batches where they pay (C).

On a CPU each thread takes one picture from bytes to answer, as `features.extract` does it: an inference there is one
picture on one stream, so nothing is gained by collecting. Where a network runs in batches, as on a GPU, the squares of
pictures that are under way at the same time share a forward pass; nobody waits for company.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from graftage.features.engine import Forward, cores

# Threads beyond the cores: while one waits for its inference another decodes. Timed on two cores with 32 clients, in
# turns: 64 to 67 % of batch prediction without, 70 to 77 % with one, 66 to 73 % with two: they take the interpreter
# from the thread that reads and writes, so that there is one fewer than in `features.extract`.
_SPARE = 1
_LONGEST_WAIT = 60  # seconds that a client is told to stay away, at most

T = TypeVar("T")


class Full(Exception):
    """The queue cannot take so many more.

    Attributes:
        seconds: after which it has probably room, 1 to 60.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full, try again in {seconds} s")
        self.seconds = seconds


class Crew:
    """Threads that answer, and the bounded queue before them. Safe to call from several threads.

    Args:
        capacity: pictures that are waiting or under way, at most.
        workers: threads; 0 means one more than there are cores.
    """

    def __init__(self, *, capacity: int, workers: int = 0) -> None:
        self.capacity = capacity
        self.workers = workers or cores() + _SPARE
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="graftage-serve")
        self._lock = threading.Lock()
        self._held = 0
        self._usual = 0.02  # seconds that one takes, averaged

    @property
    def held(self) -> int:
        """How many are waiting or under way."""
        return self._held

    def require_room(self, count: int = 1) -> None:
        """Raises Full where `count` more would not fit."""
        if self._held + count > self.capacity:
            ahead = self._held + count - self.capacity
            raise Full(min(max(math.ceil(ahead * self._usual / self.workers), 1), _LONGEST_WAIT))

    def submit(self, calls: Sequence[Callable[[], T]]) -> list[Future[T]]:
        """All of them or none: one future per call, in order. Raises Full."""
        with self._lock:
            self.require_room(len(calls))
            self._held += len(calls)
        futures = [self._pool.submit(self._timed, call) for call in calls]
        for future in futures:
            future.add_done_callback(self._left)
        return futures

    def close(self) -> None:
        """Answers what is waiting, and takes nothing more."""
        self._pool.shutdown(wait=True)

    def _timed(self, call: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return call()
        finally:
            self._usual += 0.05 * (time.perf_counter() - started - self._usual)

    def _left(self, _: "Future[T]") -> None:
        with self._lock:
            self._held -= 1


def gathering(forward: Forward) -> Forward:
    """The same network, which runs pictures of several threads together where it runs in batches."""
    return forward if forward.batch == 1 else replace(forward, run=_Together(forward))


class _Together:
    """Who comes while the network runs waits; then one of those runs it for all, up to a full batch."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._turn = threading.Condition()
        self._waiting: list[tuple[NDArray[np.uint8], Future[NDArray[np.float32]]]] = []
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many pictures wait for the pass that is under way to end."""
        return len(self._waiting)

    def __call__(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        own: list[Future[NDArray[np.float32]]] = [Future() for _ in squares]
        with self._turn:
            self._waiting += zip(squares, own, strict=True)
            while not all(future.done() for future in own):
                if self._busy:
                    self._turn.wait()
                else:
                    self._run()
        return np.stack([future.result() for future in own])

    def _run(self) -> None:
        """One forward pass for those who wait, with the lock given up meanwhile."""
        taken, self._waiting = self._waiting[: self._forward.batch], self._waiting[self._forward.batch :]
        self._busy = True
        self._turn.release()
        try:
            rows = self._forward(np.stack([square for square, _ in taken]))
            for (_, future), row in zip(taken, rows, strict=True):
                future.set_result(row)
        except BaseException as error:
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._turn.acquire()
            self._busy = False
            self._turn.notify_all()
