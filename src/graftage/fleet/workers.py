"""What workers make of blocks of inputs: the Predictor of a model, or the vectors of a network (C)."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graftage.data.inputs import Input
from graftage.errors import OptionError
from graftage.features.embed import Embedded, Embedder
from graftage.fleet import blocks
from graftage.fleet.spread import Answer, Block, spread
from graftage.fleet.units import Unit, Walked
from graftage.serve.predict import Answered, Predictor, load

_THREADS = 2  # of a worker with one core: while one waits for its inference, the other decodes


@dataclass(frozen=True, eq=False)
class Fleet:
    """A model that answers by the workers of a cluster; where a Predictor is asked, it may be asked.

    Attributes:
        predictor: the same model here; its engine is that which workers must have.
        units: what is to be answered.
        workers: processes.
        device: "auto", "cpu" or "cuda", of the workers.
        features: whether answers come with theirs, which are some kilobytes each.
        walked: the inputs as this process reads them, where a run goes on; else None.
    """

    predictor: Predictor
    units: tuple[Unit, ...]
    workers: int
    device: str = "auto"
    features: bool = False
    walked: Walked | None = None

    def answers(self, inputs: Iterable[Input] = (), *, workers: int = 0) -> Generator[Answered, None, None]:
        """An answer for every input of the units, in order; workers read their own.

        Args:
            inputs: where a run goes on, those of `walked` that are left: the first tells where the workers begin. Else
                they are left alone.
            workers: threads of each worker, 0 for the usual number.

        Raises:
            OptionError: a worker's engine is not that of this machine, so that its answers may differ.
        """
        units, skip = self.units, 0
        if self.walked is not None:
            if next(iter(inputs), None) is None:
                return
            units, skip = self.walked.left()
        one = self.predictor
        precision = "bfloat16" if one.forward.name.endswith("bfloat16") else "float32"
        make = partial(
            predicting,
            Path(one.source).read_bytes(),
            one.forward.key,
            partial(load, device=self.device, precision=precision, limits=one.limits, repair=one.repair),
            workers or _THREADS,
            features=self.features,
        )
        found = spread(units, make, workers=self.workers, limits=one.limits, gpu=self.device == "cuda", skip=skip)
        for block in _checked(found):
            yield from blocks.to_answers(block)


def predicting(
    model: bytes, key: str, opened: Callable[[Path], Predictor], threads: int, *, features: bool = False
) -> Answer:
    """Opens the model in a worker, from its bytes: workers need not see its file."""
    with tempfile.TemporaryDirectory(prefix="graftage-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(model)
        predictor = opened(path)
    return _same(key, predictor.forward.key, predictor.forward.name, partial(_predict, predictor, threads, features))


def _predict(predictor: Predictor, threads: int, features: bool, block: Block) -> Block:
    return blocks.of_answers(predictor.answers(blocks.to_inputs(block), workers=threads), features=features)


def embedded(
    units: tuple[Unit, ...], embedder: Embedder, opened: Callable[[], Embedder], *, workers: int, gpu: bool = False
) -> Iterator[Embedded]:
    """A vector for every input of the units, in order, by the workers of a cluster.

    Args:
        units: what is to be embedded.
        embedder: the same network here.
        opened: opens it in a worker.
        workers: processes.
        gpu: each has one of its own.

    Raises:
        OptionError: a worker's engine is not that of this machine.
    """
    make = partial(embedding, embedder.forward.key, opened)
    for block in _checked(spread(units, make, workers=workers, limits=embedder.limits, gpu=gpu)):
        yield from blocks.to_vectors(block)


def embedding(key: str, opened: Callable[[], Embedder]) -> Answer:
    """Opens the network in a worker."""
    embedder = opened()
    return _same(key, embedder.forward.key, embedder.forward.name, partial(_embed, embedder))


def _embed(embedder: Embedder, block: Block) -> Block:
    return blocks.of_vectors(embedder.embed(blocks.to_inputs(block), workers=_THREADS))


def _same(wanted: str, found: str, name: str, answer: Answer) -> Answer:
    """The answers, or in their place what is wrong with the worker: an error in it would be tried again for ever."""
    fault = f"a worker's engine ({name}) is not that of this machine, so its answers may differ in their last digits"
    return answer if wanted == found else partial(_fault, f"{fault}: say --precision float32, or use machines alike")


def _fault(text: str, _: Block) -> Block:
    return blocks.table([{"fault": text}], [None])


def _checked(found: Iterator[Any]) -> Iterator[Block]:
    for block in found:
        if fault := blocks.fault_of(block):
            raise OptionError(fault)
        yield block
