"""Batch prediction against its own engine and against a plain timm loop; memory, and the time to the first answer.

    python bench/predict.py MODEL FOLDER [--pictures 1000] [--many 100000]

MODEL is a model file with the bundled EfficientNet-Lite0, FOLDER holds class folders of 300 × 300 JPEGs. Speed is
measured on those, in turns: the engine alone is its forward pass on squares that lie in memory; the plain loop is what
a good tutorial writes (timm's transform, batches of 32, PyTorch eager in float32), with the DataLoader's two workers
and without any, the better of the two. Prediction is the command's own path, from files to rows on disk. Memory is the
peak of `graftage predict` in a process of its own, on 1,000 and on 100,000 tiny pictures, by a list, in one folder of
links (flat, folder), in class folders of 1,000, in a shard, by a csv and as bytes in Parquet, with a small network; of
20 inputs one is a picture and the others are empty files, which have their rows, too: what is held does not depend on
how long each takes.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file
from timm.data import create_transform

from features import Files
from graftage import Settings, train
from graftage.data.decode import decode
from graftage.data.inputs import Input
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.bundled import DEFAULT
from graftage.features.engine import cores
from graftage.features.weights import read_weights
from graftage.progress import Silent
from graftage.serve.batch import predict_all
from graftage.serve.outputs import open_writer
from graftage.serve.predict import Predictor, load
from saved import machine

ROUNDS = 3
MIXED = 20  # of so many inputs one is a picture, the others are empty files: a row each, but no forward pass
SMALL, SIDE, TINY = 1000, 32, "test_efficientnet"
WRITTEN = {
    **{"list": "csv", "shard": "jsonl", "folder": "parquet", "flat": "csv"},
    **{"classes": "csv", "table": "csv", "bytes": "jsonl"},
}
OF_CLASS = 1000
RATE, LOOP, GROWTH, COLD = 0.85, 4.0, 0.10, 4.0


def engine_alone(predictor: Predictor, squares: NDArray[np.uint8]) -> None:
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(predictor.forward, np.split(squares, len(squares))))


def rows(predictor: Predictor, paths: list[Path], target: Path) -> None:
    with open_writer(target, format="csv", classes=predictor.classes, all_probabilities=False) as sink:
        tally = predict_all(predictor, (Input(str(path), path) for path in paths), sink)
    assert (tally.rows, tally.left) == (len(paths), 0), tally


class Plain:
    """timm's network with a linear head of as many classes, its own transform, and softmax."""

    def __init__(self, predictor: Predictor) -> None:
        backbone = find(DEFAULT)
        p = backbone.preprocess
        body = build(backbone.info.architecture, read_weights(backbone))
        head = torch.nn.Linear(backbone.info.features, len(predictor.classes))
        self._module = torch.nn.Sequential(body, head).eval()
        self._transform = create_transform(
            (3, p.size, p.size), interpolation=p.interpolation, mean=p.mean, std=p.std, crop_pct=p.crop_pct
        )

    def run(self, paths: list[Path], workers: int) -> None:
        """Predicts all of them."""
        loader = torch.utils.data.DataLoader(Files(paths, self._transform), batch_size=32, num_workers=workers)
        with torch.inference_mode():
            for batch in loader:
                self._module(batch).softmax(1).topk(2)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor: on a machine that others use, too, the latter tell more."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def kept(held: bool) -> str:
    return "PASS" if held else "FAIL"


def speed(model: Path, paths: list[Path], work: Path) -> None:
    predictor = load(model)
    preprocess = predictor.bundle.preprocess
    squares = np.stack([preprocess.square(decode(p.read_bytes(), cover=preprocess.cover).pixels) for p in paths])
    plain, n = Plain(predictor), len(paths)
    engine_alone(predictor, squares[:64])
    rows(predictor, paths[:64], work / "warm.csv")
    plain.run(paths[:64], 0)
    found, spent = [], []
    for _ in range(ROUNDS):
        engine, ours = (cost(work_of) for work_of in (lambda: engine_alone(predictor, squares),
                                                      lambda: rows(predictor, paths, work / "p.csv")))  # fmt: skip
        found.append([n / engine[0], n / ours[0]])
        spent.append(engine[1] / ours[1])
    half = paths[: n // 2]
    loops = {workers: len(half) / timed(lambda workers=workers: plain.run(half, workers)) for workers in (0, 2)}
    engine, ours = np.median(np.array(found), axis=0)
    share = float(np.median([row[1] / row[0] for row in found]))
    loop, best = max((rate, workers) for workers, rate in loops.items())
    print(f"{n:,} JPEGs of 300 × 300, {predictor.forward.name}, medians of {ROUNDS} rounds in turns")
    print(f"  engine alone       {engine:6.0f}/s")
    print(f"  graftage predict   {ours:6.0f}/s   {share:.0%} of the engine (goal 85 %) {kept(share >= RATE)}")
    print(f"  plain timm loop    {loop:6.0f}/s   ours is {ours / loop:.1f} × (goal 4 ×) {kept(ours >= LOOP * loop)}; "
          f"{best} workers, with {2 - best} {loops[2 - best]:.0f}/s; one round")  # fmt: skip
    print("  each round: " + "; ".join(f"{row[1] / row[0]:.0%}" for row in found)
          + f"; of the processor's time {float(np.median(spent)):.0%} is the engine's", flush=True)  # fmt: skip


LAUNCHER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def peak(*arguments: object) -> tuple[float, float]:
    """Largest resident set of a command, MiB, and the processor's seconds; from a small process, since a child begins
    with its parent's memory.
    """
    command = [sys.executable, "-m", "graftage", "predict", *map(str, arguments)]
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True, check=True)
    kibibytes, seconds = map(float, done.stdout.split())
    return kibibytes / 1024, seconds


def tiny() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


def shard(path: Path, n: int) -> Path:
    data = tiny()
    with tarfile.open(path, "w") as tar:
        for i in range(n):
            member = tarfile.TarInfo(f"{i:07}.jpg")
            member.size = 0 if i % MIXED else len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def small_model(folder: Path, work: Path) -> Path:
    """A network of 0.4 million random weights that sees 32 × 32 pixels, trained on 40 pictures of each class."""
    for child in folder.iterdir():
        (work / "few" / child.name).mkdir(parents=True)
        for path in sorted(child.iterdir())[:40]:
            (work / "few" / child.name / path.name).symlink_to(path.resolve())
    weights = work / "tiny.safetensors"
    save_file(timm.create_model(TINY).state_dict(), weights)
    settings = Settings(
        data=str(work / "few"), output=str(work / "run"), backbone=str(weights), architecture=TINY, img_size=SIDE,
        recipe="linear", fit="squash",
    )  # fmt: skip
    train(settings, watcher=Silent())
    return work / "run" / "model.safetensors"


def memory(model: Path, kind: str, many: int, work: Path) -> None:
    (work / "tiny.jpg").write_bytes(tiny())
    (work / "empty.jpg").touch()
    found = {}
    for n in (SMALL, many):
        named = INPUTS[kind](work, n)
        found[n] = peak(model, *named, "-o", work / f"p.{WRITTEN[kind]}")[0]
        shutil.rmtree(work / "links", ignore_errors=True)
    tell(f"{kind} → {WRITTEN[kind]}", found)


def mixed(work: Path, i: int) -> Path:
    return work / ("empty.jpg" if i % MIXED else "tiny.jpg")


def listed(work: Path, n: int) -> tuple[str, Path]:
    (work / "list.txt").write_text("".join(f"{mixed(work, i)}\n" for i in range(n)))
    return "--list", work / "list.txt"


def table(work: Path, n: int) -> tuple[Path, str, str]:
    """A csv with an id beside each path."""
    (work / "t.csv").write_text("path,sku\n" + "".join(f"{mixed(work, i).name},n{i}\n" for i in range(n)))
    return work / "t.csv", "--id-col", "sku"


def held(work: Path, n: int) -> tuple[Path]:
    """A Parquet table of pictures' bytes."""
    data = tiny()
    with parquet.ParquetWriter(work / "t.parquet", pyarrow.schema([("image", pyarrow.binary())])) as file:
        for start in range(0, n, 1000):
            file.write_table(pyarrow.table({"image": [b"" if i % MIXED else data for i in range(start, start + 1000)]}))
    return (work / "t.parquet",)


def links(work: Path, n: int, each: int = 0) -> tuple[Path]:
    """A folder of n links, or of folders of so many each."""
    for i in range(n):
        path = work / "links" / (f"class {i // each}" if each else "") / f"picture {i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(mixed(work, i))
    return (work / "links",)


INPUTS: dict[str, Callable[[Path, int], tuple[Any, ...]]] = {
    "list": listed, "shard": lambda work, n: (shard(work / f"{n}.tar", n),), "folder": links, "flat": links,
    "classes": partial(links, each=OF_CLASS), "table": table, "bytes": held,
}  # fmt: skip


def tell(what: str, found: dict[int, float]) -> None:
    (small, least), (many, most) = found.items()
    growth = most / least - 1
    print(f"  {what:<20} {small:,}: {least:.0f} MiB; {many:,}: {most:.0f} MiB, {growth:+.1%} (goal 10 %) "
          f"{kept(growth <= GROWTH)}", flush=True)  # fmt: skip


def cold(model: Path, path: Path, times: int = 5) -> None:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        _, processor = peak(model, path)
        found.append((time.perf_counter() - start, processor))
    seconds, processor = np.median(np.array(found), axis=0)
    told = ", ".join(f"{wall:.2f}" for wall, _ in found)
    print(f"graftage predict on one picture, a process each: {seconds:.2f} s (goal 4 s) {kept(seconds <= COLD)}; "
          f"each: {told}; {processor:.2f} s of processor time")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--parts", default=f"cold,speed,{','.join(WRITTEN)}")
    args = parser.parse_args()
    paths = sorted(args.folder.rglob("*.jpg"))[: args.pictures]
    parts = args.parts.split(",")
    print(machine("graftage", "openvino", "torch", "timm", "pillow"))
    with tempfile.TemporaryDirectory() as name:
        if "cold" in parts:
            cold(args.model, paths[0])
        if "speed" in parts:
            speed(args.model, paths, Path(name))
        if kinds := [part for part in parts if part in WRITTEN]:
            print(f"peak memory of graftage predict, pictures and network of {SIDE} × {SIDE}")
            model = small_model(args.folder, Path(name))
            for kind in kinds:
                memory(model, kind, args.many, Path(name))


if __name__ == "__main__":
    main()
