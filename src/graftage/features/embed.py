"""Inputs become feature vectors, one by one and in order, however many there are; what the store holds is not computed.

The same decoder, the same squares and the same network as in training, under the same names in the same store.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import DEFAULT_LIMITS, Limits
from graftage.data.inputs import Input
from graftage.data.sources import read
from graftage.errors import OptionError, PictureError
from graftage.features.engine import Forward
from graftage.features.extract import Job, store_key, stream
from graftage.features.preprocess import Preprocess
from graftage.features.store import FeatureStore, Kept

_TOGETHER = 256  # inputs that share a question to the store; files are read once for their digest, once to be decoded


@dataclass(frozen=True, eq=False)
class Embedded:
    """What became of one input.

    Attributes:
        id: what a table's id column says, else the input's name.
        status: "ok", "repaired" (damaged, as far as it decodes) or "rejected".
        reason: why it was rejected, or what decoding did to it; may be empty.
        vector: float32 (D,); None if it was rejected.
        broken: what it comes from could not be read to the end.
    """

    id: str
    status: Literal["ok", "repaired", "rejected"]
    reason: str
    vector: NDArray[np.float32] | None
    broken: bool = False


@dataclass(frozen=True, eq=False)
class Embedder:
    """A frozen network that embeds.

    Attributes:
        forward: the network.
        preprocess: how pictures become its squares.
        limits: largest file and picture.
        repair: use damaged pictures as far as they decode.
        folder: of the feature store; None takes the cache.
    """

    forward: Forward
    preprocess: Preprocess
    limits: Limits = DEFAULT_LIMITS
    repair: bool = False
    folder: Path | None = None

    @property
    def width(self) -> int:
        """D, numbers in a vector."""
        return self.forward.features

    def embed(self, inputs: Iterable[Input], *, workers: int = 0) -> Iterator[Embedded]:
        """One answer per input, in order; inputs are taken some hundred at a time.

        Args:
            inputs: pictures; may be endless.
            workers: threads; 0 means two more than there are cores.

        Raises:
            OptionError: fewer than no workers.
            StoreError: the feature store cannot be read or written.
        """
        if workers < 0:
            raise OptionError(f"workers must be 0 or more, got {workers}")
        return self._embedded(iter(inputs), workers)

    def _embedded(self, source: Iterator[Input], workers: int) -> Iterator[Embedded]:
        with FeatureStore(store_key(self.forward, self.preprocess), width=self.width, folder=self.folder) as store:
            while chunk := list(islice(source, _TOGETHER)):
                yield from self._chunk(chunk, store, workers)

    def _chunk(self, chunk: Sequence[Input], store: FeatureStore, workers: int) -> Iterator[Embedded]:
        digests = [_digest(one, self.limits) for one in chunk]
        asked = list(dict.fromkeys(digest.text for digest in digests if not digest.reason))
        known = {d: kept for d, kept in store.get(asked).items() if self.repair or not kept.repaired}
        reasons: dict[str, str] = {}
        first = {digest.text: one for one, digest in reversed([*zip(chunk, digests, strict=True)])}
        jobs = [Job(0, first[text].path or Path(), text, data=first[text].data) for text in asked if text not in known]
        fresh = []
        for seen in stream(
            jobs,
            forward=self.forward,
            preprocesses=[self.preprocess],
            limits=self.limits,
            repair=self.repair,
            workers=workers,
        ):
            if seen.reason:
                reasons[seen.job.digest] = seen.reason
            else:
                known[seen.job.digest] = Kept(seen.vectors[0], seen.notes, seen.repaired)
                fresh.append((seen.job.digest, known[seen.job.digest]))
        store.put(fresh)
        for one, digest in zip(chunk, digests, strict=True):
            yield _answer(one, digest.reason or reasons.get(digest.text, ""), known.get(digest.text))


@dataclass(frozen=True)
class _Digest:
    text: str
    reason: str = ""


def _digest(one: Input, limits: Limits) -> _Digest:
    """SHA-256 of a picture's bytes, or why there are none."""
    if one.reason:
        return _Digest("", one.reason)
    try:
        data = read(one.path or Path(one.name), limits=limits) if one.data is None else one.data
    except PictureError as error:
        return _Digest("", str(error))
    return _Digest(hashlib.sha256(data).hexdigest())


def _answer(one: Input, reason: str, kept: Kept | None) -> Embedded:
    name = one.id or one.name
    if kept is None or reason:
        return Embedded(name, "rejected", reason, None, one.broken)
    return Embedded(name, "repaired" if kept.repaired else "ok", kept.notes, kept.vector, one.broken)
