"""The crew that answers and its bounded queue; pictures of several threads in one forward pass."""

import threading
import time

import numpy as np
import pytest

from graftage.features.engine import Forward
from graftage.serve.batching import Crew, Full, _Together, gathering


def test_all_of_a_request_are_taken_or_none() -> None:
    go, crew = threading.Event(), Crew(capacity=3, workers=1)
    first = crew.submit([go.wait, go.wait])
    with pytest.raises(Full, match="try again in 1 s"):
        crew.submit([lambda: 1, lambda: 2])
    (third,) = crew.submit([lambda: 3])
    go.set()
    assert third.result(60) == 3
    assert all(future.result(60) for future in first)
    crew.close()
    assert crew.held == 0


def test_what_is_cancelled_makes_room_and_is_not_done() -> None:
    go, done, crew = threading.Event(), [], Crew(capacity=2, workers=1)
    crew.submit([go.wait])
    (waiting,) = crew.submit([lambda: done.append(1)])
    assert waiting.cancel()
    assert crew.held == 1
    crew.submit([lambda: done.append(2)])
    go.set()
    crew.close()
    assert done == [2]


def test_a_fault_is_its_own_pictures_and_the_crew_goes_on() -> None:
    crew = Crew(capacity=4, workers=2)
    bad, good = crew.submit([lambda: 1 // 0, lambda: 1])
    with pytest.raises(ZeroDivisionError):
        bad.result(60)
    assert good.result(60) == 1
    crew.close()


def test_closing_answers_what_waits() -> None:
    crew = Crew(capacity=50, workers=2)
    futures = crew.submit([lambda i=i: (time.sleep(0.002), i)[1] for i in range(50)])
    crew.close()
    assert [future.result(0) for future in futures] == list(range(50))


def sums(sizes: list[int], *, fail: bool = False, go: threading.Event | None = None) -> Forward:
    """A network that sums pixels, may be inside but once, and does not answer before `go`."""
    inside = threading.Lock()

    def run(squares: np.ndarray) -> np.ndarray:
        assert inside.acquire(blocking=False), "two forward passes at once"
        try:
            assert go is None or go.wait(60)
            if fail:
                raise RuntimeError("out of memory")
            sizes.append(len(squares))
            return squares.reshape(len(squares), -1).sum(1, keepdims=True).astype(np.float32)
        finally:
            inside.release()

    return Forward("sums", "0" * 24, 1, 4, run)


def wait_for(forward: Forward, *, waiting: int) -> None:
    """Until so many pictures wait for the pass that is under way."""
    together = forward.run
    assert isinstance(together, _Together)
    until = time.monotonic() + 60
    while together.waiting < waiting:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_pictures_of_several_threads_share_a_forward_pass() -> None:
    sizes, go = [], threading.Event()
    forward = gathering(sums(sizes, go=go))
    squares = np.random.default_rng(0).integers(0, 256, (60, 1, 2, 2, 3), dtype=np.uint8)
    found: dict[int, np.ndarray] = {}

    def ask(i: int) -> None:
        found[i] = forward(squares[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    wait_for(forward, waiting=59)
    go.set()
    for thread in threads:
        thread.join(60)
    assert [float(found[i][0, 0]) for i in range(60)] == [float(square.sum()) for square in squares]
    assert sizes == [1, *[4] * 14, 3]  # who came first was alone, then full batches and what was left


def test_a_fault_of_the_network_reaches_all_who_wait() -> None:
    go = threading.Event()
    forward = gathering(sums([], fail=True, go=go))
    faults = []

    def ask() -> None:
        try:
            forward(np.zeros((1, 2, 2, 3), np.uint8))
        except RuntimeError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    wait_for(forward, waiting=8)
    go.set()
    for thread in threads:
        thread.join(60)
    assert faults == ["out of memory"] * 9


def test_more_squares_than_a_batch_come_back_in_order() -> None:
    forward = gathering(sums([]))
    squares = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    assert forward(squares)[:, 0].tolist() == [3.0 * i for i in range(10)]


def test_a_network_of_single_pictures_is_left_alone() -> None:
    alone = Forward("sums", "0" * 24, 1, 1, lambda squares: squares)
    assert gathering(alone) is alone
