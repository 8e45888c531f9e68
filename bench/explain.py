"""Do heat maps point at what the answer rests on, and are the pictures called similar the similar ones?

    python bench/explain.py [--count 60] FOLDER_OR_NAME ... [-o bench/results/explain.txt]

For each set a linear model is trained on one side of a split; heat maps are of pictures from the other side.

The kind of map was chosen, mainly because its shares add up, after a look at 14 held-out pictures of each set under
split seed 0. Sets with a split of their own have the same test pictures under every seed: some may be scored again.

- Deletion: the hottest 20 % of a picture are covered with its mean colour; so are 20 % of the same shape, shifted to
  places drawn at random (three draws, averaged). Shown is how much of the class's probability is lost, and the paired
  difference with a 95 % bootstrap interval over pictures. Beside it the same for Grad-CAM's map (Selvaraju and others
  2017) and for plain occlusion, which covers 49 places one after the other and so measures nearly what is scored here.
- Completeness: the largest gap between a map's sum and the log-odds that it shares out, in nats.
- Mirror: correlation of a mirrored picture's map, mirrored back, with the picture's own.
- Neighbours: of the five training pictures nearest by the cosine of whole features, the share among the five found by
  the projection in the model file; and the mean distance of the two cosines.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import graftage as gr
from graftage.data.decode import decode
from graftage.features.extract import extract
from graftage.serve.explain import Explainer
from graftage.serve.predict import Predictor
from splits import name_of, pictures, split

HOT = 0.2
SHIFTS = 3
NEAREST = 5


@dataclass(frozen=True)
class Loss:
    """Probability lost by covering the hottest places, and by covering as many elsewhere, one of each per picture."""

    hot: np.ndarray
    elsewhere: np.ndarray

    def __str__(self) -> str:
        d, rng = self.hot - self.elsewhere, np.random.default_rng(0)
        means = d[rng.integers(0, len(d), (5000, len(d)))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return (
            f"hottest {100 * self.hot.mean():5.1f}, elsewhere {100 * self.elsewhere.mean():5.1f}, difference "
            f"{100 * d.mean():+5.1f} points ({100 * low:+.1f} to {100 * high:+.1f}); "
            f"more in {(d > 0).sum()} of {len(d)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--count", type=int, default=60, help="pictures explained of each set")
    parser.add_argument("--limit", type=int, help="pictures kept of each class")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="add the lines to this file, too")
    args = parser.parse_args()
    for data in args.data:
        lines = [*measure(data, args), ""]
        print("\n".join(lines), flush=True)
        if args.output:
            with args.output.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")


def measure(data: str, args: argparse.Namespace) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = split(data, Path(name), seed=args.seed, limit=args.limit)
        run = gr.train(folder, output=Path(name) / "run", recipe="linear")
        test = [path for _, path in pictures(folder / "test")]
        rng = np.random.default_rng(args.seed)
        chosen = [test[i] for i in rng.permutation(len(test))[: args.count]]
        predictor, head = run.model, run.model.bundle.head
        known = predictor.bundle.neighbours
        return [
            f"{name_of(data)}: {len(chosen)} of {len(test)} test pictures; accuracy {run.scores.accuracy.percent()}; "
            f"head {head.kernel or 'linear'} on {head.transform} features",
            *maps(predictor, chosen, rng),
            *neighbours(predictor, folder, chosen, len(known.names)),
        ]


def maps(predictor: Predictor, chosen: list[Path], rng: np.random.Generator) -> list[str]:
    found: dict[str, list[tuple[float, float]]] = {"integrated gradients": [], "Grad-CAM": [], "occlusion": []}
    gaps, mirrors, seconds = [], [], []
    occluder = Explainer(predictor.bundle, predictor.forward)
    occluder.__dict__["_seam"] = None
    for path in chosen:
        start = time.perf_counter()
        seen = predictor.explain(path)
        seconds.append(time.perf_counter() - start)
        heat, k = seen.heat, predictor.classes.index(seen.label)
        gaps.append(abs(float(heat.cells.sum()) + heat.elsewhere - heat.end + heat.start))
        mirrored = predictor.explain(png(np.asarray(seen.pixels)[:, ::-1]), label=seen.label).heat.cells[:, ::-1]
        mirrors.append(np.corrcoef(mirrored.ravel(), heat.cells.ravel())[0, 1])
        square = predictor.bundle.preprocess.square(seen.pixels)
        for method, cells in (
            ("integrated gradients", heat.cells),
            ("Grad-CAM", grad_cam(predictor, square, k)),
            ("occlusion", occluder.heat(seen.pixels, k).cells),
        ):
            found[method].append(lost(predictor, square, cells, k, rng))
    lines = [f"  {method:<21} {Loss(*np.array(rows).T)}" for method, rows in found.items()]
    lines.append(f"  completeness          largest gap {max(gaps):.3f} nats, median {np.median(gaps):.4f}")
    lines.append(f"  mirror                correlation median {np.median(mirrors):.3f}, lowest {min(mirrors):.3f}")
    return [*lines, f"  time                  {1000 * np.median(seconds):.0f} ms a picture (median)"]


def lost(predictor: Predictor, square: np.ndarray, cells: np.ndarray, k: int, rng: np.random.Generator) -> tuple:
    """Probability lost by covering the hottest fifth of the square, and by covering fifths of its shape elsewhere."""
    side = len(square)
    hot = np.asarray(Image.fromarray(cells.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
    mask = np.zeros(side * side, bool)
    mask[np.argsort(-hot.ravel(), kind="stable")[: round(HOT * side * side)]] = True
    mask = mask.reshape(side, side)
    masks = [mask, *(np.roll(mask, rng.integers(side, size=2), (0, 1)) for _ in range(SHIFTS))]
    fill = square.mean((0, 1)).astype(np.uint8)
    views = [square, *(np.where(m[..., None], fill, square) for m in masks)]
    p = predictor.probabilities(np.concatenate([predictor.forward(v[None]) for v in views]))[:, k]
    return p[0] - p[1], p[0] - p[2:].mean()


def grad_cam(predictor: Predictor, square: np.ndarray, k: int) -> np.ndarray:
    explainer = predictor._heats()
    seam, odds = explainer._seam, explainer._odds
    scale, shift = (torch.from_numpy(v).view(1, 3, 1, 1) for v in predictor.bundle.preprocess.scale_and_shift())
    at = seam.before(torch.from_numpy(square[None].transpose(0, 3, 1, 2).astype(np.float32)) * scale + shift)
    at = at.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(odds(seam.after(at), k).sum(), at)
    return torch.relu((slopes.mean((2, 3), keepdim=True) * at).sum(1))[0].detach().numpy()


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def neighbours(predictor: Predictor, folder: Path, chosen: list[Path], kept: int) -> list[str]:
    known, preprocess = predictor.bundle.neighbours, predictor.bundle.preprocess
    paths = [folder / name for name in known.names]
    import hashlib

    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    X = extract(paths, digests, forward=predictor.forward, preprocesses=[preprocess]).features[0]
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    hits, apart = [], []
    for path in chosen:
        pixels = decode(path.read_bytes(), cover=preprocess.cover).pixels
        x = predictor.forward(preprocess.square(pixels)[None])[0]
        cosines = X @ (x / np.linalg.norm(x))
        true = {known.names[i] for i in np.argsort(-cosines, kind="stable")[:NEAREST]}
        near = known.nearest(x, NEAREST)
        hits.append(len(true & {n.id for n in near}) / NEAREST)
        apart += [abs(n.similarity - cosines[known.names.index(n.id)]) for n in near]
    hits, rng = np.array(hits), np.random.default_rng(0)
    low, high = np.percentile(hits[rng.integers(0, len(hits), (5000, len(hits)))].mean(1), [2.5, 97.5])
    size = sum(t.nbytes for t in known.to_tensors().values())
    return [
        f"  neighbours            recall@{NEAREST} {100 * hits.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f}) of "
        f"{kept:,} kept, cosines {np.mean(apart):.3f} apart; {size / 2**20:.2f} MiB in the model file"
    ]


if __name__ == "__main__":
    main()
