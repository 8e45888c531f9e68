"""Records as they travel between processes: Arrow tables of JSON and bytes, which give back every bit (P)."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from graftage.data.inputs import Input
from graftage.features.embed import Embedded
from graftage.serve.predict import Answered, Prediction

_TUPLES = ("probabilities", "prediction_set")


def table(records: Sequence[dict[str, object]], data: Sequence[bytes | None]) -> Any:
    """Rows of two columns: `record`, JSON in ASCII, so that also undecodable file names pass; and `data`."""
    texts = [json.dumps(record) for record in records]
    return pyarrow.table({"record": pyarrow.array(texts, pyarrow.string()),
                          "data": pyarrow.array(data, pyarrow.large_binary())})  # fmt: skip


def _rows(block: Any) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    texts, data = block.column("record").to_pylist(), block.column("data").to_pylist()
    return ((json.loads(text), held) for text, held in zip(texts, data, strict=True))


def of_inputs(inputs: Sequence[Input]) -> Any:
    """Inputs on their way to a worker."""
    records: list[dict[str, object]] = [
        {"name": one.name, "path": None if one.path is None else str(one.path), "reason": one.reason, "id": one.id,
         "broken": one.broken}
        for one in inputs
    ]  # fmt: skip
    return table(records, [one.data for one in inputs])


def to_inputs(block: Any) -> Iterator[Input]:
    """The inputs again."""
    for record, data in _rows(block):
        path = record.pop("path")
        yield Input(path=None if path is None else Path(path), data=data, **record)


def of_answers(answers: Iterable[Answered], *, features: bool = False) -> Any:
    """A model's answers on their way back, with their features only if these are asked for."""
    held = list(answers)
    records: list[dict[str, object]] = [
        {"prediction": vars(one.prediction), "id": one.input.id, "broken": one.input.broken,
         "trace": one.trace.hex()}
        for one in held
    ]  # fmt: skip
    return table(records, [_bytes(one.features) if features else None for one in held])


def to_answers(block: Any) -> Iterator[Answered]:
    """The answers again; of the inputs only name, id and whether they broke off."""
    for record, data in _rows(block):
        told = record["prediction"]
        prediction = Prediction(**{**told, **{name: tuple(told[name]) for name in _TUPLES}})
        of = Input(prediction.path, id=record["id"], broken=record["broken"])
        yield Answered(of, prediction, _vector(data), bytes.fromhex(record["trace"]))


def of_vectors(rows: Iterable[Embedded]) -> Any:
    """Feature vectors on their way back."""
    held = list(rows)
    records = [{key: value for key, value in vars(row).items() if key != "vector"} for row in held]
    return table(records, [_bytes(row.vector) for row in held])


def to_vectors(block: Any) -> Iterator[Embedded]:
    """The vectors again."""
    return (Embedded(vector=_vector(data), **record) for record, data in _rows(block))


def _bytes(vector: NDArray[np.float32] | None) -> bytes | None:
    return None if vector is None else vector.astype("<f4").tobytes()


def _vector(data: bytes | None) -> NDArray[np.float32] | None:
    return None if data is None else np.frombuffer(data, "<f4").astype(np.float32)


def fault_of(block: Any) -> str:
    """What a worker says is wrong with it, "" if it has answered."""
    first: dict[str, Any] = json.loads(block.column("record")[0].as_py())
    return str(first.get("fault", ""))


def packed(block: Any) -> Any:
    """A block as one row of bytes: Ray Data cuts and joins rows as it likes."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, block.schema) as stream:
        stream.write_table(block)
    return pyarrow.table({"pack": pyarrow.array([sink.getvalue().to_pybytes()], pyarrow.large_binary())})


def unpacked(pack: Any) -> Any:
    """The block again, of a cell of the column `pack`."""
    return pyarrow.ipc.open_stream(pack.as_buffer()).read_all()
