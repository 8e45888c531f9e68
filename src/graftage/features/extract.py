"""Pictures become features: decode, forward pass and store overlap, and what is stored is not computed again.

Each worker thread takes a picture from bytes to features on its own, so that with as many workers as cores every core
is always busy with one or the other. The same `stream` serves training, evaluation and prediction.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import DECODER, DEFAULT_LIMITS, Limits, Picture, decode
from graftage.data.traces import UNKNOWN, Taken, take
from graftage.errors import PictureError
from graftage.features.engine import Forward, cores
from graftage.features.looks import WIDTH, look_key, look_of
from graftage.features.preprocess import Preprocess
from graftage.features.store import FeatureStore, Kept

Progress = Callable[[int, int], None]
Opener = Callable[[], FeatureStore]

_AHEAD = 4  # chunks under way or waiting, per worker: enough to keep all busy, little enough to hold
# Threads beyond the cores: while one waits for its inference another decodes. Timed on two cores with nothing
# between the rounds: 80 % of the engine's own speed without, 86 % with one, 88 % with two.
_SPARE = 2
_STORE_EVERY = 64  # pictures; what a kill can cost


@dataclass(frozen=True)
class Job:
    """A picture to be seen.

    Attributes:
        index: the caller's number for it.
        path: its file.
        digest: SHA-256 that its bytes must have, or "" if any will do.
        wanted: which of the preprocessings to compute, by position; the number after the last asks for the look.
        data: its bytes, where they are at hand; then the file is not read.
        reason: why there is no picture, where that is known already; then nothing is read.
    """

    index: int
    path: Path
    digest: str = ""
    wanted: tuple[int, ...] = (0,)
    data: bytes | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of one picture.

    Attributes:
        job: the job it answers, without its bytes.
        vectors: float32 (D,) for each of `job.wanted`, of the look uint8; empty if the picture was rejected.
        reason: why it was rejected, else "".
        notes: what decoding did to it ("rotated by EXIF (6)").
        repaired: whether it was damaged and decoded as far as it went.
        trace: what it was, see `data.traces`; not taken where the job has a digest.
    """

    job: Job
    vectors: tuple[NDArray[Any], ...] = ()
    reason: str = ""
    notes: str = ""
    repaired: bool = False
    trace: bytes = UNKNOWN


@dataclass(frozen=True, eq=False)
class Extracted:
    """Features of n pictures under each of the preprocessings asked for.

    Attributes:
        features: per preprocessing, float32 (n, D); rows of rejected pictures are NaN.
        seen: per picture, in the order asked for; `vectors` are left empty here.
        computed: how many (picture, preprocessing) pairs were computed rather than found in the store.
        looks: uint8 (n, WIDTH) where they were asked for, see `looks`; rows of rejected pictures are 0.
    """

    features: tuple[NDArray[np.float32], ...]
    seen: tuple[Seen, ...]
    computed: int
    looks: NDArray[np.uint8] | None = None

    @property
    def failed(self) -> tuple[int, ...]:
        """Positions of the pictures that were rejected."""
        return tuple(i for i, seen in enumerate(self.seen) if seen.reason)


def stream(
    jobs: Iterable[Job],
    *,
    forward: Forward,
    preprocesses: Sequence[Preprocess],
    limits: Limits = DEFAULT_LIMITS,
    repair: bool = False,
    workers: int = 0,
) -> Generator[Seen, None, None]:
    """One `Seen` per job, in the order of the jobs, holding few pictures at a time however many jobs there are.

    Args:
        jobs: may be endless; taken as needed.
        forward: the network.
        preprocesses: those that jobs refer to by position; all with `forward`'s size and the same `cover`.
        limits: largest file and picture.
        repair: use damaged pictures as far as they decode.
        workers: threads; 0 means two more than there are cores.
    """
    assert len({p.cover for p in preprocesses}) == 1, "files are decoded once, at one scale"
    seer = _Seer(forward, tuple(preprocesses), limits, repair)
    workers = workers or cores() + _SPARE
    source = iter(jobs)
    waiting: deque[Future[list[Seen]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="graftage")
    try:
        while True:
            while len(waiting) < _AHEAD * workers and (chunk := list(islice(source, forward.batch))):
                waiting.append(pool.submit(seer.see, chunk))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def extract(
    paths: Sequence[Path],
    digests: Sequence[str],
    *,
    forward: Forward,
    preprocesses: Sequence[Preprocess],
    limits: Limits = DEFAULT_LIMITS,
    repair: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
    folder: Path | None = None,
    looks: bool = False,
) -> Extracted:
    """Features of the pictures at `paths`, from the store where they are, computed and stored where they are not.

    Args:
        paths: n files.
        digests: SHA-256 of each file's bytes, hex; the store's key. Equal pictures are computed once.
        forward: the network.
        preprocesses: one or more ways of making the square.
        limits: largest file and picture.
        repair: use damaged pictures as far as they decode.
        workers: threads; 0 means two more than there are cores.
        progress: called with (done, total) distinct pictures, in this thread.
        folder: of the store; default: the cache.
        looks: also what each picture looks like; it costs a hundredth of the features, from the same decode.

    Raises:
        StoreError: the store cannot be read or written. What was computed before stays.
    """
    stores: dict[int, Opener] = {
        k: partial(FeatureStore, store_key(forward, p), width=forward.features, folder=folder)
        for k, p in enumerate(preprocesses)
    }
    if looks:
        stores[len(preprocesses)] = _look_store(preprocesses[0], folder)
    return _from_stores(
        stores,
        paths,
        digests,
        forward=forward,
        preprocesses=preprocesses,
        limits=limits,
        repair=repair,
        workers=workers,
        progress=progress,
    )


def extract_looks(
    paths: Sequence[Path],
    digests: Sequence[str],
    *,
    forward: Forward,
    preprocess: Preprocess,
    limits: Limits = DEFAULT_LIMITS,
    repair: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Extracted:
    """As `extract`, but only what the pictures look like: they are decoded as for the network, which does not run."""
    return _from_stores(
        {1: _look_store(preprocess, folder)},
        paths,
        digests,
        forward=forward,
        preprocesses=[preprocess],
        limits=limits,
        repair=repair,
        workers=workers,
        progress=progress,
    )


def _look_store(preprocess: Preprocess, folder: Path | None) -> Opener:
    return partial(FeatureStore, look_key(preprocess), width=WIDTH, dtype=np.uint8, folder=folder)


def _from_stores(
    openers: Mapping[int, Opener],
    paths: Sequence[Path],
    digests: Sequence[str],
    *,
    forward: Forward,
    preprocesses: Sequence[Preprocess],
    limits: Limits,
    repair: bool,
    workers: int,
    progress: Progress | None,
) -> Extracted:
    """What the stores, by view, hold of the pictures; what they lack is computed."""
    assert len(paths) == len(digests), "a digest for every picture"
    assert all(digests), "pictures without a digest would pass for equal ones"
    with ExitStack() as stack:
        stores = {view: stack.enter_context(opened()) for view, opened in openers.items()}
        gathered = _Gathered(digests, forward.features, stores, n_features=len(preprocesses))
        jobs = gathered.missing(paths, stores, repair=repair)
        if progress is not None:
            progress(gathered.known, gathered.known + len(jobs))
        seen = stream(jobs, forward=forward, preprocesses=preprocesses, limits=limits, repair=repair, workers=workers)
        with closing(seen):  # no worker outlives an interrupt
            _collect(seen, gathered, stores, progress)
    return gathered.result(paths)


def store_key(forward: Forward, preprocess: Preprocess) -> str:
    """Name under which features of one network, one preprocessing and one decoder are kept."""
    return f"{forward.key}-{preprocess.key}-{DECODER}"


def see(
    data: bytes, *, forward: Forward, preprocess: Preprocess, limits: Limits = DEFAULT_LIMITS, repair: bool = False
) -> tuple[NDArray[np.float32], Picture]:
    """One picture's features from its bytes: float32 (D,), and the decoded picture. Raises PictureError."""
    picture = decode(data, cover=preprocess.cover, limits=limits, repair=repair)
    return forward(preprocess.square_of(picture.image)[None])[0], picture


@dataclass(frozen=True, eq=False)
class _Seer:
    forward: Forward
    preprocesses: tuple[Preprocess, ...]
    limits: Limits
    repair: bool

    def see(self, chunk: list[Job]) -> list[Seen]:
        """A chunk of jobs, from files to features, in this thread; only squares of it are held, not pictures."""
        looked = [self._look(job) for job in chunk]
        vectors = self._vectors([squares for _, squares in looked])
        return [_answer(seen, found) for (seen, _), found in zip(looked, vectors, strict=True)]

    def _look(self, job: Job) -> tuple[Seen, list[NDArray[np.uint8]]]:
        taken = take(job.path, job.data, job.reason, limits=self.limits, traced=not job.digest)
        try:
            picture = self._decode(job, taken)
        except PictureError as error:
            return Seen(_light(job), reason=str(error), trace=taken.trace), []
        shown = len(self.preprocesses)
        squares = [self.preprocesses[k].square_of(picture.image) for k in job.wanted if k < shown]
        looks = (look_of(picture),) if shown in job.wanted else ()
        notes = "; ".join(picture.notes)
        return Seen(_light(job), looks, notes=notes, repaired=picture.repaired, trace=taken.trace), squares

    def _decode(self, job: Job, taken: Taken) -> Picture:
        if job.digest and taken.data is not None and hashlib.sha256(taken.data).hexdigest() != job.digest:
            raise PictureError("changed while running", "the file is not what it was when it was first read")
        return decode(taken.bytes(), cover=self.preprocesses[0].cover, limits=self.limits, repair=self.repair)

    def _vectors(self, squares: list[list[NDArray[np.uint8]]]) -> list[tuple[NDArray[np.float32], ...]]:
        flat = [square for own in squares for square in own]
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(flat), self.forward.batch):
            some = flat[start : start + self.forward.batch]
            rows += list(self.forward(some[0][None] if len(some) == 1 else np.stack(some)))
        left = iter(rows)
        return [tuple(islice(left, len(own))) for own in squares]


def _light(job: Job) -> Job:
    return job if job.data is None else replace(job, data=None)


def _answer(seen: Seen, vectors: tuple[NDArray[np.float32], ...]) -> Seen:
    if not all(np.isfinite(vector).all() for vector in vectors):
        return Seen(seen.job, reason="the network's answer is not finite", trace=seen.trace)
    return replace(seen, vectors=(*vectors, *seen.vectors))  # the look, which is there already, comes last


class _Gathered:
    """Collects rows by digest, so that equal files share one computation."""

    def __init__(self, digests: Sequence[str], width: int, views: Iterable[int], *, n_features: int) -> None:
        self._rows: dict[str, list[int]] = {}
        for row, digest in enumerate(digests):
            self._rows.setdefault(digest, []).append(row)
        self._digests = tuple(digests)
        self._views: dict[int, NDArray[Any]] = {
            view: np.full((len(digests), width), np.nan, np.float32)
            if view < n_features
            else np.zeros((len(digests), WIDTH), np.uint8)
            for view in views
        }
        self._n_features = n_features
        self._seen: dict[str, Seen] = {}
        self.total = len(self._rows)
        self.known = 0
        self.computed = 0

    def missing(self, paths: Sequence[Path], stores: Mapping[int, FeatureStore], *, repair: bool) -> list[Job]:
        wanted: dict[str, list[int]] = {digest: [] for digest in self._rows}
        for view, store in stores.items():
            kept = store.get(list(self._rows))
            for digest in self._rows:
                if digest in kept and (repair or not kept[digest].repaired):
                    self._place(digest, view, kept[digest])
                else:
                    wanted[digest].append(view)
        jobs = [Job(self._rows[d][0], paths[self._rows[d][0]], d, tuple(views)) for d, views in wanted.items() if views]
        self.known = len(self._rows) - len(jobs)
        return jobs

    def add(self, seen: Seen) -> list[tuple[int, str, Kept]]:
        """Takes a computed picture in; returns what belongs into which store."""
        digest = seen.job.digest
        self._seen[digest] = Seen(seen.job, reason=seen.reason, notes=seen.notes, repaired=seen.repaired)
        if seen.reason:  # also what an earlier run stored of it does not count
            for view, values in self._views.items():
                values[self._rows[digest]] = np.nan if view < self._n_features else 0
        self.computed += len(seen.vectors)
        kept = [
            (v, digest, Kept(x, seen.notes, seen.repaired)) for v, x in zip(seen.job.wanted, seen.vectors, strict=False)
        ]
        for view, _, row in kept:
            self._place(digest, view, row)
        return kept

    def _place(self, digest: str, view: int, kept: Kept) -> None:
        self._views[view][self._rows[digest]] = kept.vector
        row = self._rows[digest][0]
        self._seen.setdefault(digest, Seen(Job(row, Path(), digest), notes=kept.notes, repaired=kept.repaired))

    def result(self, paths: Sequence[Path]) -> Extracted:
        seen = []
        for row, digest in enumerate(self._digests):
            found = self._seen[digest]
            job = Job(row, paths[row], digest)
            seen.append(Seen(job, reason=found.reason, notes=found.notes, repaired=found.repaired))
        features = tuple(values for view, values in self._views.items() if view < self._n_features)
        return Extracted(features, tuple(seen), self.computed, self._views.get(self._n_features))


def _collect(
    seen: Iterator[Seen], gathered: _Gathered, stores: Mapping[int, FeatureStore], progress: Progress | None
) -> None:
    """Moves answers into the arrays and, batch by batch, into the stores; an interrupt stores what is done first."""
    pending: list[tuple[int, str, Kept]] = []
    done, last = gathered.known, time.monotonic()
    total = gathered.total
    try:
        for answer in seen:
            pending += gathered.add(answer)
            done += 1
            if len(pending) >= _STORE_EVERY:
                _flush(pending, stores)
            if progress is not None and (time.monotonic() - last > 0.1 or done == total):
                progress(done, total)
                last = time.monotonic()
    finally:
        _flush(pending, stores)


def _flush(pending: list[tuple[int, str, Kept]], stores: Mapping[int, FeatureStore]) -> None:
    for view, store in stores.items():
        rows = [(digest, kept) for v, digest, kept in pending if v == view]
        if rows:
            store.put(rows)
    pending.clear()
