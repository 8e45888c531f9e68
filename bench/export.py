"""Exports against the model, from raw bytes, on real pictures: labels, probabilities, sizes, speed, cold start.

    python bench/export.py [--limit 60] [--pictures 300] FOLDER_OR_solar [...]

For each set a head is trained on frozen EfficientNet-Lite0 (--limit pictures a class), exported to onnx, openvino and
torch in float32, and asked about --pictures others of the set in each runtime; the other side is the Predictor in
float32. The fit goes round: squash, crop, pad. Cold start is that of each example, a process of its own.
onnx and openvino are then made in fp16 and int8, calibrated on the pictures that were learnt from: accuracy on the
others before and after, size, and milliseconds a picture in turns with float32, resize and all. The flag for pictures
unlike those trained on is compared everywhere, also on four pictures made to be like no photograph.
With --runtime onnxruntime-web-1.30.0.tgz (`npm pack onnxruntime-web@1.30.0`) the page answers in Chromium, too, in each
precision. Where a label differs there, its own pixels are held against the decoder's, and given to onnxruntime.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graftage import Settings, load, train
from graftage.errors import ExportError
from graftage.features.preprocess import FITS
from graftage.progress import Silent
from graftage.serve.about import about
from graftage.serve.browser import Page, find_browser, opened
from graftage.serve.browsing import Seen, judged_in_browser, seen_by
from graftage.serve.checking import Answer, compare, judged, short_side, usable
from graftage.serve.export import example, metadata
from graftage.serve.flagging import Flags, flags_of, strange_flags
from graftage.serve.lighter import changed, lighten, timed
from graftage.serve.precision import PRECISIONS
from graftage.serve.predict import Predictor
from graftage.serve.sample import CALIBRATE, Sample
from graftage.serve.targets import TARGETS, Run, open_onnx, write_onnx
from graftage.serve.webfolder import add_page
from graftage.serve.wholegraph import WholeGraph, exported_program
from saved import machine
from splits import SUFFIXES, name_of, split

GOAL, STARTS, TIMED = 1e-3, 5, 40


def trained(data: str, work: Path, limit: int, fit: str) -> tuple[Predictor, list[Path]]:
    """The model, and the pictures that it learnt from."""
    folder = split(data, work / "learn", seed=0, limit=limit)
    output = work / "run" / name_of(data)
    settings = Settings(data=str(folder / "train"), output=str(output), recipe="linear", fit=fit, folds="3")
    train(settings, watcher=Silent())
    predictor = load(output / "model.safetensors", device="cpu", precision="float32")
    return predictor, evenly(pictures_in(folder / "train"), CALIBRATE)


def others(data: str, work: Path, learnt: Path, count: int) -> list[Path]:
    """Pictures of the set that it did not learn from."""
    known = {path.resolve() for path in pictures_in(learnt)}
    found = [path for path in pictures_in(split(data, work / "all", seed=1)) if path.resolve() not in known]
    return evenly(found, count)


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def evenly(items: Sequence[Path], most: int) -> list[Path]:
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def line_of(answers: list[Answer], otherwise: int) -> tuple[str, bool]:
    same = sum(a.label == a.other for a in answers)
    worst = max(a.difference for a in answers)
    held = same == len(answers) and worst <= GOAL
    text = f"{same:>4} of {len(answers)} labels the same, largest difference {worst:.1e}"
    return text + (f", {otherwise} decoded otherwise by the example" if otherwise else ""), held


def flags_between(predictor: Predictor, run: Run, answers: list[Answer]) -> tuple[str, Flags | None]:
    """A part of a line: how the flag for pictures unlike those trained on did; and the record of it."""
    found = flags_of([a.flag for a in answers if a.flag is not None], strange_flags(predictor, run))
    if found is None:
        return "", None
    return (
        f"; flags the same for {found.same} of {found.n} ({found.flagged} by the model, {found.other} by the file) and "
        f"{found.strange_same} of {found.strange} made strange, p off by {found.worst:.1e} at most",
        found,
    )


def cold_start(folder: Path, picture: Path) -> float:
    """Median seconds of a process that imports, opens the model and answers for one picture."""
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", folder / "example.py", picture], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def in_browser(predictor: Predictor, folder: Path, answers: list[Answer], *, light: bool) -> list[str]:
    """How the page in this folder answers in Chromium, decoding by itself; `answers` are those of its file."""
    program = find_browser()
    if program is None:
        return ["  browser    there is none"]
    with opened(folder, program) as page:
        page.row(Path(answers[0].path).read_bytes())
        started = time.perf_counter()
        seen = [seen_by(answer, page.row(Path(answer.path).read_bytes())) for answer in answers]
        seconds = (time.perf_counter() - started) / len(answers)
        apart = [each for each in seen if each.row["label"] != each.answer.other]
        traced = [traced_back(page, predictor, open_onnx(folder / "model.onnx"), each) for each in apart]
        name = page.agent
    try:
        text = judged_in_browser(seen, browser=name, light=light).summary
    except ExportError as error:
        text = f"FAIL {error}"
    return [f"  browser    {text}; {1000 * seconds:.0f} ms a picture", *traced]


def traced_back(page: Page, predictor: Predictor, run: Run, each: Seen) -> str:
    """Why the browser gives another label than its file: its own pixels, and what onnxruntime says of those."""
    path, row = Path(each.answer.path), each.row
    pixels, seen = usable(predictor, path)[1].astype(int), page.pixels(path.read_bytes())
    text = (
        f"             {path.resolve().name}: {each.answer.other} in onnxruntime, surer by {each.answer.margin:.3f} in "
    )
    text += f"the model, in the browser {row['label']} {row['probability']:.3f}; "
    if seen.shape != pixels.shape:
        return (
            text
            + f"it decodes {seen.shape[1]} x {seen.shape[0]} pixels, the decoder {pixels.shape[1]} x {pixels.shape[0]}"
        )
    apart = np.abs(seen - pixels)
    found = predictor.classes[int(run(seen).probabilities.argmax())]
    return text + (
        f"its decoder gives pixels of which {(apart > 0).mean():.1%} differ, by {apart.mean():.2f} "
        f"grey levels in the mean and {apart.max()} at most; onnxruntime says {found} of the browser's pixels"
    )


def measure(
    data: str, work: Path, limit: int, count: int, fit: str, runtime: Path | None, precisions: Sequence[Any]
) -> None:
    predictor, learnt = trained(data, work, limit, fit)
    pictures = others(data, work, work / "learn" / f"{name_of(data)}-0" / "train", count)
    print(f"{name_of(data)}: {len(predictor.classes)} classes, {fit}, {len(pictures)} pictures", flush=True)
    programs = {exact: exported_program(WholeGraph(predictor.bundle, exact=exact)) for exact in (True, False)}
    for name in ("onnx", "openvino", "torch"):
        target, folder = TARGETS[name], work / name
        folder.mkdir()
        graph = folder / target.file
        middle = work / f"{name}.onnx"
        if target.convert is None:
            target.write(programs[target.exact], graph)
        else:
            write_onnx(programs[target.exact], middle)
            target.convert(middle, graph)
        run = target.open(graph)
        answers, rejected, otherwise = compare(predictor, run, pictures)
        text, held = line_of(answers, otherwise)
        flagged, flags = flags_between(predictor, run, answers)
        held = held and (flags is None or (flags.same, flags.strange_same) == (flags.n, flags.strange))
        print(f"  {name:<10} {text}{flagged}   {size_of(folder):.1f} MiB   {'ok' if held else 'FAIL'}", flush=True)
        target.label(graph, metadata(predictor.bundle, name, judged(answers, rejected=rejected, otherwise=0)))
        (folder / "example.py").write_text(example(name), encoding="utf-8")
        seconds = cold_start(folder, pictures[0])
        goal = f" (goal 1) {'ok' if seconds <= 1 else 'FAIL'}" if name == "onnx" else ""
        print(f"  cold start of the {name} example: {seconds:.2f} s{goal}", flush=True)
        if name == "onnx" and runtime is not None:
            add_page(folder, about(predictor.bundle, "bench"), short_side(predictor.bundle), runtime)
            print(*in_browser(predictor, folder, answers, light=False), sep="\n", flush=True)
        for precision in precisions if target.convert is not None else ():
            print(*in_fewer_bits(predictor, name, precision, middle, learnt, pictures, runtime), sep="\n", flush=True)


def in_fewer_bits(
    predictor: Predictor,
    name: str,
    precision: Any,
    middle: Path,
    learnt: list[Path],
    pictures: list[Path],
    runtime: Path | None,
) -> list[str]:
    """A line on a file in fewer bits, against the one in float32; of ONNX with a runtime also one on the page."""
    target, plain = TARGETS[name], middle.parent / name / TARGETS[name].file
    folder = middle.parent / f"{name}-{precision}"
    folder.mkdir()
    model = onnx.load(middle)
    calibrated = lighten(model, precision, predictor, learnt)
    onnx.save(model, folder / "middle.onnx")
    target.convert(folder / "middle.onnx", folder / target.file)
    (folder / "middle.onnx").unlink()
    run = target.open(folder / target.file)
    answers, rejected, otherwise = compare(predictor, run, pictures)
    sample = Sample(tuple(pictures), {path: path.parent.name for path in pictures}, "named")
    counts = (rejected, otherwise, calibrated)
    found = changed(answers, sample, precision=precision, counts=counts, max_loss=1.0)
    before, after = timed(target.open(plain), run, [usable(predictor, path)[1] for path in pictures[:TIMED]])
    page = list[str]()
    if name == "onnx" and runtime is not None:
        add_page(folder, about(predictor.bundle, "bench"), short_side(predictor.bundle), runtime)
        page = in_browser(predictor, folder, answers, light=True)
    line = (
        f"  {name:<10} {precision}: {size_of(folder):.1f} MiB, {1000 * before:.1f} ms a picture in float32 and "
        f"{1000 * after:.1f} ms so ({before / after:.2f} x); {found.same} of {found.n} labels the same, difference "
        f"{found.mean:.1e} in the mean, {found.worst:.1e} at most; accuracy {found.before.percent()} and "
        f"{found.accuracy.percent()}, change {0.0 - 100 * found.loss.value:+.1f} points "
        f"({-100 * found.loss.high:+.1f} to {-100 * found.loss.low:+.1f}), calibrated on {calibrated}"
        f"{flags_between(predictor, run, answers)[0]}"
    )
    return [line, *page]


def size_of(folder: Path) -> float:
    """MiB of the graph in a folder."""
    return sum(file.stat().st_size for file in folder.glob("model.*")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--limit", type=int, default=60, help="pictures of a class to learn from")
    parser.add_argument("--pictures", type=int, default=300, help="to compare on")
    parser.add_argument("--first", type=int, default=0, help="which fit is the first: 0 squash, 1 crop, 2 pad")
    parser.add_argument("--runtime", type=Path, help="onnxruntime-web, for the page in Chromium")
    parser.add_argument("--float32", action="store_true", help="leave fp16 and int8 out")
    given = parser.parse_args()
    precisions = () if given.float32 else PRECISIONS[1:]
    print(machine("graftage", "torch", "onnxruntime", "openvino", "pillow"))
    for i, data in enumerate(given.data, start=given.first):
        with tempfile.TemporaryDirectory() as name:
            measure(data, Path(name), given.limit, given.pictures, FITS[i % len(FITS)], given.runtime, precisions)


if __name__ == "__main__":
    main()
