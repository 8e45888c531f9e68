"""Exports against the model, from raw bytes, on real pictures: labels, probabilities, sizes, cold start.

    python bench/export.py [--limit 60] [--pictures 300] FOLDER_OR_solar [...]

For each set a head is trained on frozen EfficientNet-Lite0 (--limit pictures a class), exported to onnx, openvino and
torch in float32, and asked about --pictures of the set's pictures in each runtime; the other side is the Predictor in
float32. The fit goes round: squash, crop, pad. Cold start is that of the ONNX example, a process of its own.
With --runtime onnxruntime-web-1.30.0.tgz (`npm pack onnxruntime-web@1.30.0`) the page answers in Chromium, too.
"""

import argparse
import base64
import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from graftage import Settings, load, train
from graftage.features.preprocess import FITS
from graftage.progress import Silent
from graftage.serve.export import Answer, compare, example, judged, metadata, short_side, told
from graftage.serve.predict import Predictor
from graftage.serve.targets import TARGETS
from graftage.serve.webfolder import add_page
from graftage.serve.wholegraph import WholeGraph, exported_program
from saved import machine
from splits import SUFFIXES, name_of, split

GOAL, STARTS = 1e-3, 5
ASK = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return (await predict(new File([bytes], "picture"))).row;
}"""


def trained(data: str, work: Path, limit: int, fit: str) -> Predictor:
    folder = split(data, work / "learn", seed=0, limit=limit)
    output = work / "run" / name_of(data)
    settings = Settings(data=str(folder / "train"), output=str(output), recipe="linear", fit=fit, folds="3")
    train(settings, watcher=Silent())
    return load(output / "model.safetensors", device="cpu", precision="float32")


def pictures_of(data: str, work: Path, count: int) -> list[Path]:
    folder = split(data, work / "all", seed=1)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [found[i * len(found) // min(count, len(found))] for i in range(min(count, len(found)))]


def line_of(answers: list[Answer], otherwise: int) -> tuple[str, bool]:
    same = sum(a.label == a.other for a in answers)
    worst = max(a.difference for a in answers)
    held = same == len(answers) and worst <= GOAL
    text = f"{same:>4} of {len(answers)} labels the same, largest difference {worst:.1e}"
    return text + (f", {otherwise} decoded otherwise by the example" if otherwise else ""), held


def cold_start(folder: Path, picture: Path) -> float:
    """Median seconds of a process that imports, opens the model and answers for one picture."""
    times = []
    for _ in range(STARTS):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", folder / "example.py", picture], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def in_browser(predictor: Predictor, folder: Path, pictures: list[Path]) -> str:
    """How the page in this folder answers in Chromium, decoding by itself."""
    from playwright.sync_api import sync_playwright

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.locator("#about").wait_for(timeout=120_000)
        same, differences = 0, []
        started = time.perf_counter()
        for path, own in zip(pictures, predictor.predict(pictures), strict=True):
            row = page.evaluate(ASK, base64.b64encode(path.read_bytes()).decode())
            same += row["label"] == own.label
            differences.append(float(np.abs(np.subtract(row["probabilities"], own.probabilities)).max()))
        seconds = (time.perf_counter() - started) / len(pictures)
        browser.close()
        server.shutdown()
    share, (median, most) = same / len(pictures), np.quantile(differences, [0.5, 1.0])
    return (
        f"  browser    {same} of {len(pictures)} labels the same ({share:.1%}, goal 99.5 %), difference {median:.1e} "
        f"in the median, {most:.1e} at most; {1000 * seconds:.0f} ms a picture   {'ok' if share >= 0.995 else 'FAIL'}"
    )


def measure(data: str, work: Path, limit: int, count: int, fit: str, runtime: Path | None) -> None:
    predictor, pictures = trained(data, work, limit, fit), pictures_of(data, work, count)
    print(f"{name_of(data)}: {len(predictor.classes)} classes, {fit}, {len(pictures)} pictures", flush=True)
    programs = {exact: exported_program(WholeGraph(predictor.bundle, exact=exact)) for exact in (True, False)}
    for name in ("onnx", "openvino", "torch"):
        target, folder = TARGETS[name], work / name
        folder.mkdir()
        graph = folder / target.file
        target.write(programs[target.exact], graph)
        answers, rejected, otherwise = compare(predictor, target, graph, pictures)
        text, held = line_of(answers, otherwise)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        print(f"  {name:<10} {text}   {size:.1f} MiB   {'ok' if held else 'FAIL'}", flush=True)
        if name == "onnx":
            target.label(graph, metadata(predictor.bundle, name, judged(answers, rejected=rejected, otherwise=0)))
            (folder / "example.py").write_text(example(name), encoding="utf-8")
            seconds = cold_start(folder, pictures[0])
            if runtime is not None:
                add_page(folder, told(predictor.bundle, "bench"), short_side(predictor.bundle), runtime)
                print(in_browser(predictor, folder, pictures), flush=True)
            print(f"  cold start of the onnx example: {seconds:.2f} s (goal 1) {'ok' if seconds <= 1 else 'FAIL'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--limit", type=int, default=60, help="pictures of a class to learn from")
    parser.add_argument("--pictures", type=int, default=300, help="to compare on")
    parser.add_argument("--first", type=int, default=0, help="which fit is the first: 0 squash, 1 crop, 2 pad")
    parser.add_argument("--runtime", type=Path, help="onnxruntime-web, for the page in Chromium")
    given = parser.parse_args()
    print(machine("graftage", "torch", "onnxruntime", "openvino", "pillow"))
    for i, data in enumerate(given.data, start=given.first):
        with tempfile.TemporaryDirectory() as name:
            measure(data, Path(name), given.limit, given.pictures, FITS[i % len(FITS)], given.runtime)


if __name__ == "__main__":
    main()
