"""A million rows through a Ray cluster of two workers on this machine, at constant memory.

    python bench/fleet.py [ROWS]

Pictures are 200 tiny PNGs, repeated in Parquet tables of 50,000 rows that hold their bytes. Everything is as in
`graftage predict --ray`, reading, packing, shipping, ordering and writing a csv, but for one thing: a worker looks at
each of the 200 pictures once and remembers its answer, so that what is measured is the way and not the network. Every
row is compared with the answer of one process. Memory is resident memory of the command and of its largest worker.
"""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from graftage import Settings, train
from graftage.data.decode import DEFAULT_LIMITS
from graftage.data.gathering import Named
from graftage.data.inputs import Input
from graftage.data.rows import Asked
from graftage.fleet import blocks
from graftage.fleet.spread import LOCAL, cluster, spread
from graftage.fleet.units import units
from graftage.progress import Silent
from graftage.serve.outputs import open_writer
from graftage.serve.predict import Answered, load
from graftage.serve.tables import row_of
from saved import machine

PER_TABLE, DISTINCT, WORKERS = 50_000, 200, 2


def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(DISTINCT):
        tint = np.array([200, 90, 40] if i % 2 else [40, 90, 200])
        stream = BytesIO()
        Image.fromarray((rng.integers(0, 56, (16, 16, 3)) + tint).astype(np.uint8)).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def picture_of(row: int) -> int:
    return row * 2_654_435_761 % 2**32 * DISTINCT >> 32  # Knuth's multiplicative hash: no order that repeats


def model_of(folder: Path, found: list[bytes]) -> Path:
    for i, data in enumerate(found[:60]):
        path = folder / "photos" / ("warm" if i % 2 else "cold") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    run = folder / "run"
    train(Settings(str(folder / "photos"), output=str(run), recipe="linear", fit="squash"), watcher=Silent())
    return run / "model.safetensors"


def tables(folder: Path, found: list[bytes], rows: int) -> list[Path]:
    paths = []
    for start in range(0, rows, PER_TABLE):
        numbers = range(start, min(start + PER_TABLE, rows))
        chosen = [found[picture_of(i)] for i in numbers]
        table = pyarrow.table({"image": chosen, "number": [str(i) for i in numbers]})
        paths.append(folder / f"{start // PER_TABLE:03}.parquet")
        parquet.write_table(table, paths[-1], row_group_size=5000)
    return paths


def remembering(model: Path) -> Callable[[Any], Any]:
    """In a worker: a Predictor that answers at once for bytes that it has seen."""
    predictor, known = load(model), dict[str, Answered]()

    def answer(block: Any) -> Any:
        found = []
        for one in blocks.to_inputs(block):
            assert one.data is not None
            digest = hashlib.sha256(one.data).hexdigest()
            if digest not in known:
                (known[digest],) = predictor.answers([one], workers=1)
            prediction = replace(known[digest].prediction, path=one.name)
            found.append(Answered(Input(one.name, id=one.id), prediction, None))
        return blocks.of_answers(found)

    return answer


def resident() -> tuple[float, float]:
    """(this process, the largest worker), MiB."""
    largest = 0.0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::" in (place / "cmdline").read_bytes()[:5]:
                largest = max(largest, private(place))
        except OSError:
            continue
    return private(Path(f"/proc/{os.getpid()}")), largest


def private(place: Path) -> float:
    """Memory of a process but for what it shares with others, as the object store, MiB."""
    lines = (place / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) / 1024


def answered(paths: list[Path], model: Path) -> Iterator[Answered]:
    named = Named([str(path) for path in paths], asked=Asked(path_col="image", id_col="number"))
    with cluster(LOCAL, workers=WORKERS) as count:
        make = partial(remembering, model)
        for block in spread([*units(named)], make, workers=count, limits=DEFAULT_LIMITS):
            yield from blocks.to_answers(block)


def main(rows: int) -> None:
    print(machine("graftage", "ray", "pyarrow", "openvino"))
    found = pictures()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_of(folder, found)
        paths = tables(folder, found, rows)
        predictor = load(model)
        expected = [predictor.predict_bytes(data) for data in found]
        readings, wrong, started = [], 0, time.perf_counter()
        with open_writer(folder / "out.csv", format="csv", classes=predictor.classes, all_probabilities=True) as sink:
            for number, one in enumerate(answered(paths, model)):
                if not number:
                    print(f"first row after {time.perf_counter() - started:.0f} s", flush=True)
                    started = time.perf_counter()
                right = expected[picture_of(number)]
                same = one.prediction.probabilities == right.probabilities and one.input.id == str(number)
                wrong += not same
                sink.write(row_of(one.prediction, id=one.input.id))
                if (number + 1) % (rows // 10) == 0:
                    readings.append(resident())
                    rate = (number + 1) / (time.perf_counter() - started)
                    here, worker = readings[-1]
                    line = f"command {here:.0f} MiB, largest worker {worker:.0f} MiB"
                    print(f"{number + 1:>10,} rows   {line}   {rate:,.0f} rows/s", flush=True)
        lines = sum(1 for _ in (folder / "out.csv").open(encoding="utf-8")) - 1
    for who, values in zip(("command", "largest worker"), zip(*readings, strict=True), strict=True):
        print(f"{who}: {values[-1] / values[0] - 1:+.1%} from a tenth of the rows to all of them (goal within 10 %)")
    print(f"{lines:,} rows written for {rows:,} inputs; {wrong} missing, doubled, out of order or wrong")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
