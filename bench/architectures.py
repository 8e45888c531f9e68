"""Makes `src/graftage/features/architectures.npz`, the table by which `features/recognise.py` knows networks.

    python bench/architectures.py

Builds every network of the installed timm without memory for its weights, and those of torchvision that have other
names for their tensors; keeps fingerprints and sketches. Prints what was left out, how many share a fingerprint, and
the size. Run it again when timm is raised.
"""

import warnings
from pathlib import Path

import numpy as np

from graftage.features import recognise
from graftage.features.torchvision_files import ARCHITECTURES

TABLE = Path(recognise.__file__).with_name("architectures.npz")
# what of torchvision's networks is classifier, under its own names
HEADS = ("fc", "classifier", "classifier.1", "classifier.2", "classifier.3", "classifier.6", "heads.head", "head")


def timms() -> tuple[dict[int, list[str]], dict[int, np.ndarray], set[tuple[str, ...]]]:
    import timm

    names: dict[int, list[str]] = {}
    sketches: dict[int, np.ndarray] = {}
    classifiers: set[tuple[str, ...]] = set()
    for name in timm.list_models():
        try:
            shapes, heads = recognise.layout_of(name)
        except Exception as error:
            print(f"left out: {name}: {type(error).__name__}: {error}")
            continue
        key = recognise.fingerprint(shapes)
        names.setdefault(key, []).append(name)
        sketches[key] = recognise.sketch(shapes)
        classifiers.add(heads)
    return names, sketches, classifiers


def torchvisions() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of torchvision's networks under its own names, without classifier."""
    import torch
    import torchvision

    found = {}
    for name in ARCHITECTURES:
        build = getattr(torchvision.models, name)
        options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
        if name.startswith("regnet"):  # looks at numbers while it is built
            module = build(**options)
        else:
            with torch.device("meta"):
                module = build(**options)
        shapes = {n: tuple(t.shape) for n, t in module.state_dict().items()}
        # the last linear layer is the classifier
        last = next(n for n in reversed([n.rsplit(".", 1)[0] for n in shapes]) if n in HEADS)
        found[name] = recognise.without(shapes, (last,))
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    names, sketches, classifiers = timms()
    for name, shapes in torchvisions().items():
        key = recognise.fingerprint(shapes)
        if key not in names:
            names[key] = [f"torchvision/{name}"]
            sketches[key] = recognise.sketch(shapes)
    classifiers |= {("classifier.1",), ("classifier.2",), ("classifier.3",), ("classifier.6",), ("heads.head",)}
    keys = sorted(names)
    np.savez_compressed(
        TABLE,
        names=np.frombuffer("\n".join(" ".join(names[k]) for k in keys).encode(), np.uint8),
        prints=np.array(keys, np.uint64),
        sketches=np.stack([sketches[k] for k in keys]),
        classifiers=np.frombuffer("\n".join(" ".join(c) for c in sorted(classifiers)).encode(), np.uint8),
    )
    total = sum(len(n) for n in names.values())
    alone = sum(len(n) == 1 for n in names.values())
    print(f"{total} networks, {len(keys)} fingerprints, {alone} of them of one network alone")
    print(f"{TABLE.name}: {TABLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
