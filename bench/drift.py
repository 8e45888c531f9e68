"""Do the estimates of `graftage predict --drift` hold, on pictures held out and on the same ones made worse?

    python bench/drift.py RUN...

Each RUN is a folder that `graftage train` left; its test pictures, which it never learnt from, are predicted as they
are, blurred, darkened, grainy and as coarse JPEGs. Beside the true accuracy stand both estimates with their 95 %
intervals, how many pictures are flagged as unlike anything seen, and whether the interval holds the truth.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from graftage.data.inputs import Input
from graftage.driftstory import known_of
from graftage.measure.drift import Drift, Watch
from graftage.measure.interval import Estimate
from graftage.serve.predict import Predictor, load
from saved import machine


def grainy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 25, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


WORSE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they are": lambda image: image,
    "blurred, 1/100": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 100)),
    "blurred, 1/40": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 40)),
    "darkened to 50 %": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
    "darkened to 25 %": lambda image: ImageEnhance.Brightness(image).enhance(0.25),
    "grain of 25": grainy,
    "JPEG quality 10": lambda image: image,
}


def made(path: Path, how: str) -> bytes:
    with Image.open(path) as image:
        worse, file = WORSE[how](image.convert("RGB")), io.BytesIO()
    worse.save(file, "JPEG" if how.startswith("JPEG") else "PNG", **({"quality": 10} if how.startswith("JPEG") else {}))
    return file.getvalue()


def test_rows(run: Path) -> list[tuple[Path, str]]:
    """(file, label) of the locked pictures."""
    with (run / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return [(Path(r["path"]), r["label"]) for r in csv.DictReader(file) if r["split"] == "test" and not r["reason"]]


def found(predictor: Predictor, rows: list[tuple[Path, str]], how: str) -> tuple[Drift, float]:
    watch, right = Watch(known_of(predictor.bundle), most=0), []

    def inputs() -> Iterator[Input]:
        for path, _ in rows:
            yield Input(str(path), data=path.read_bytes() if how == "as they are" else made(path, how))

    for answered, (_, label) in zip(predictor.answers(inputs()), rows, strict=True):
        said = answered.prediction
        if answered.features is not None:
            right.append(said.label == label)
            watch.add(said.path, said.probabilities, answered.features, unlike_p=said.unlike_p)
    return watch.result(), float(np.mean(right))


def told(estimate: Estimate, truth: float) -> str:
    return f"{estimate.percent():>22} {'holds' if estimate.low <= truth <= estimate.high else 'MISSES'}"


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(machine("graftage", "openvino"))
    for name in sys.argv[1:]:
        run = Path(name)
        predictor, rows = load(run / "model.safetensors"), test_rows(run)
        print(f"\n{run.name}: {len(rows)} test pictures of {len(predictor.classes)} classes")
        print(f"  {'':<18} {'right':>6}   {'mean confidence':>22}        {'thresholded':>22}        unlike")
        for how in WORSE:
            drift, truth = found(predictor, rows, how)
            print(f"  {how:<18} {truth:6.1%}   {told(drift.accuracy, truth):<29} {told(drift.thresholded, truth):<29} "
                  f"{drift.unlike.percent()}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
