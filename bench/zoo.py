"""Makes the table of pretrained networks in the package: `python bench/zoo.py results-imagenet.csv`.

Parameters, multiplications and width come from each network itself, built on PyTorch's device "meta", where it takes
neither memory nor time: one picture goes through, and PyTorch's own counter of floating-point operations (convolutions
and matrix products, attention among them) gives two for each multiplication. Input size, licence and hub repository are
timm's own; what a network learnt from is read off timm's tag.

Accuracy on ImageNet-1k is not measured here. For timm's networks it is timm's (results/results-imagenet.csv of
https://github.com/huggingface/pytorch-image-models, Apache-2.0, at commit 7479d451, November 2024), at the input size
that graftage gives them; a model that came later has none. For Keras' it is that of https://keras.io/api/applications.
The bundled networks hold the weights of the timm networks of the same name.
"""

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from graftage.errors import BackboneError
from graftage.features import zoo
from graftage.features.bundled import BUNDLED
from graftage.features.keras_cache import wanted_file
from graftage.features.keras_itself import keras_facts, keras_model, keras_names, keras_settings
from graftage.features.keras_networks import LICENCES
from graftage.features.zoo import Facts, regressors, spdx

HERE = Path(zoo.__file__).parent
COLUMNS = "id,family,parameters,macs,input_size,any_size,features,pretraining,top1,licence,hub"
HEAD = f"""\
# Pretrained networks, made by bench/zoo.py with timm {timm.__version__}; columns as in graftage.features.zoo.Facts.
# top1: results/results-imagenet.csv of https://github.com/huggingface/pytorch-image-models (Apache-2.0, copyright Ross
# Wightman), commit 7479d451; of the networks of Keras: https://keras.io/api/applications. hub: "=" is the id itself.
"""
SLOPE = 0.5  # an assumption, until bench/choose.py has measured enough networks: half a point for a point

# https://keras.io/api/applications, "Available models"
KERAS_TOP1 = {
    "Xception": 79.0,
    "VGG16": 71.3,
    "VGG19": 71.3,
    "ResNet50": 74.9,
    "ResNet101": 76.4,
    "ResNet152": 76.6,
    "ResNet50V2": 76.0,
    "ResNet101V2": 77.2,
    "ResNet152V2": 78.0,
    "InceptionV3": 77.9,
    "InceptionResNetV2": 80.3,
    "MobileNet": 70.4,
    "MobileNetV2": 71.3,
    "DenseNet121": 75.0,
    "DenseNet169": 76.2,
    "DenseNet201": 77.3,
    "NASNetMobile": 74.4,
    "NASNetLarge": 82.5,
}
KERAS_21K = ("ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge")  # as Keras' documentation says of them

# timm's modules whose name is not what people call the family
PLAIN = {
    "beit": "beit",
    "cspnext": "cspnet",
    "efficientformer_v2": "efficientformer",
    "efficientvit_mit": "efficientvit",
    "efficientvit_msra": "efficientvit-m",
    "hieradet_sam2": "hiera",
    "inception_next": "inception-next",
    "mlp_mixer": "mixer",
    "swin_transformer": "swin",
    "swin_transformer_v2": "swinv2",
    "swin_transformer_v2_cr": "swinv2",
    "vision_transformer": "vit",
    "vision_transformer_hybrid": "vit-hybrid",
    "vision_transformer_relpos": "vit",
    "vision_transformer_sam": "vit",
    "xception_aligned": "xception",
}
# names by which people call a family that timm builds in a module of another name; the first that fits
BY_NAME = (
    (r"(tf_|gc_)?efficientnetv2", "efficientnetv2"),
    (r"(tf_)?efficientnet_lite", "efficientnet-lite"),
    (r"(se)?mnasnet|spnasnet", "mnasnet"),
    (r"(tf_)?mixnet", "mixnet"),
    (r"(tf_)?mobilenet_?(v[1-5]|edgetpu)", "mobilenet"),
    (r"tinynet", "tinynet"),
    (r"fbnet", "fbnet"),
    (r"lcnet", "lcnet"),
    (r"convnextv2", "convnextv2"),
    (r"caformer", "caformer"),
    (r"convformer", "convformer"),
    (r"poolformer", "poolformer"),
    (r"maxx?vit", "maxvit"),
    (r"coatne?x?t", "coatnet"),
    (r"repvgg", "repvgg"),
    (r"mobileone", "mobileone"),
    (r"gernet", "gernet"),
    (r"deit3", "deit3"),
    (r"flexivit", "flexivit"),
    (r"(legacy_)?(se|ec?a|sk)?_?resnext|wide_resnet|(legacy_)?(se|ec?a|sk)?_?resnet(?!v2)", "resnet"),
)
KERAS_FAMILY = (
    ("ConvNeXt", "convnext"),
    ("DenseNet", "densenet"),
    ("EfficientNetV2", "efficientnetv2"),
    ("EfficientNet", "efficientnet"),
    ("InceptionResNet", "inception_resnet_v2"),
    ("Inception", "inception_v3"),
    ("MobileNet", "mobilenet"),
    ("NASNet", "nasnet"),
    (r"ResNet\d+V2", "resnetv2"),
    ("ResNet", "resnet"),
    ("VGG", "vgg"),
    ("Xception", "xception"),
)

# what a part of timm's tag says was learnt from
DATA = re.compile(
    r"in1k|in12k|in21k|in22k|inw21k|laion2b|laiona|laion400m|lvd142m|lvd1689m|sat493m|webli|dfn2b|dfn5b|dfndr2b|"
    r"datacompxl|datacomp1b|jft|ig1b|yfcc100m|yfcc15m|cc12m|m30m|m38m|merged2b|sa1b|bamboo|openai|2pt5b|400m|6m"
)
NAMED = {"2pt5b": "metaclip2.5b", "400m": "metaclip400m", "laiona": "laion-a", "6m": "ssld6m", "m30m": "merged30m"}
NAMED |= {"m38m": "merged38m", "jft": "jft300m", "openai": "openai-clip"}
WHOLE = {
    "mae": "mae:in1k",
    "fcmae": "fcmae:in1k",
    "dino": "dino:in1k",
    "fb_dino": "dino:in1k",
    "in1k_ijepa": "ijepa:in1k",
    "in22k_ijepa": "ijepa:in22k",
    "seer": "seer:ig1b",
    "seer_ft_in1k": "seer:ig1b→in1k",
    "swag_ft_in1k": "ig3.6b→in1k",
    "swag_lc_in1k": "ig3.6b→in1k",
    "clip_ft_in1k": "openai-clip→in1k",
    "mim_in22k": "mim:in22k",
    "mim_m38m": "mim:merged38m",
    "metaclip2_worldwide": "metaclip2",
    "metaclip_altogether": "metaclip-altogether",
}
METHODS = ("mae", "fcmae", "mim")  # at the front of a tag: filling in masked pictures came first
NC_GCVIT = "CC-BY-NC-SA-4.0"  # of the weights, as the top of timm's gcvit.py says; its configurations do not


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="timm's results-imagenet.csv, with model, img_size and top1")
    arguments = parser.parse_args()
    top1 = read_top1(arguments.results)
    rows = [*bundled(top1), *of_timm(top1), *of_keras()]
    (HERE / "zoo.csv").write_text(HEAD + COLUMNS + "\n" + "".join(map(line, rows)), encoding="utf-8")
    measured = json.loads((HERE / "prior.json").read_text(encoding="utf-8"))["measured"]  # by bench/prior.py
    weights, spread = fit_top1(rows)
    prior = {"top1": weights, "points_per_point": SLOPE, "measured": measured}
    (HERE / "prior.json").write_text(json.dumps(prior, indent=1) + "\n", encoding="utf-8")
    known = sum(f.top1 is not None for f in rows)
    print(f"{len(rows):,} networks, accuracy known of {known:,}; zoo.csv {(HERE / 'zoo.csv').stat().st_size:,} bytes")
    print(f"expected top-1: off by {spread:.2f} points (root mean square over those known)")


def read_top1(path: Path) -> dict[tuple[str, int], float]:
    """Accuracy in percent by model and input size."""
    with path.open(encoding="utf-8", newline="") as stream:
        return {(row["model"], int(row["img_size"])): float(row["top1"]) for row in csv.DictReader(stream)}


def bundled(top1: dict[tuple[str, int], float]) -> Iterator[Facts]:
    for name, b in BUNDLED.items():
        parameters, macs, width = measure(b.architecture, b.input_size)
        assert parameters == b.parameters
        accuracy = top1.get((f"{b.architecture}.in1k", b.input_size))
        yield Facts(
            name, "efficientnet-lite", parameters, macs, b.input_size, True, width, "in1k", accuracy, "Apache-2.0", ""
        )


def of_timm(top1: dict[tuple[str, int], float]) -> Iterator[Facts]:
    done: dict[tuple[str, int], tuple[int, int, int]] = {}
    for name in timm.list_pretrained():
        config, architecture = timm.get_pretrained_cfg(name), name.split(".")[0]
        size = int(config.input_size[-1])
        if (architecture, size) not in done:
            done[architecture, size] = measure(name, size)
            print(f"\r{len(done):,} {name:<70}", end="", file=sys.stderr)
        parameters, macs, width = done[architecture, size]
        family = family_of(architecture)
        licence = NC_GCVIT if family == "gcvit" else spdx(config.license)
        hub = f"timm/{name}" if config.hf_hub_id == f"timm/{name}" else config.hf_hub_id or ""
        said = pretraining(config.tag or "")
        accuracy = top1.get((name, size))
        any_size = not config.fixed_input_size
        yield Facts(f"timm/{name}", family, parameters, macs, size, any_size, width, said, accuracy, licence, hub)
    print(file=sys.stderr)


def measure(name: str, size: int) -> tuple[int, int, int]:
    """Parameters, multiplications of one picture, width of the feature vector (0 if there is none)."""
    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False, num_classes=0).eval()
    shape = (3, size, size)
    try:
        macs, found = through(module, torch.zeros(1, *shape, device="meta"))
    except Exception:  # a network that takes only the shape, not square, of its pretraining
        macs, found = through(module, torch.zeros(1, *module.pretrained_cfg["input_size"], device="meta"))
    return sum(p.numel() for p in module.parameters()), macs, found[1] if len(found) == 2 else 0


def through(module: Any, picture: torch.Tensor) -> tuple[int, tuple[int, ...]]:
    with FlopCounterMode(display=False) as counter:
        found = module(picture)
    return counter.get_total_flops() // 2, tuple(found.shape)


def of_keras() -> Iterator[Facts]:
    for name in keras_names():
        try:
            model, facts = keras_model(name, device="meta"), keras_facts(name)
        except BackboneError as error:  # NASNet does not run on PyTorch
            print(error, file=sys.stderr)
            continue
        with keras_settings("meta"):
            picture = torch.zeros(1, facts.size, facts.size, 3, device="meta")
            macs, _ = through(partial(model, training=False), picture)
        family = next(family for pattern, family in KERAS_FAMILY if re.match(pattern, name))
        yield Facts(
            f"keras/{name}",
            family,
            facts.parameters,
            macs,
            facts.size,
            False,  # graftage runs them at their own size only
            facts.map[-1],
            "in21k→in1k" if name in KERAS_21K else "in1k",
            KERAS_TOP1.get(name),
            LICENCES.get(name, "unknown"),
            wanted_file(name).file,
        )


def family_of(architecture: str) -> str:
    for pattern, family in BY_NAME:
        if re.match(pattern, architecture):
            return family
    module = timm.models._registry._model_to_module[architecture]
    if module == "eva" and architecture.startswith("vit"):  # vision transformers that share EVA's code
        return "vit"
    return PLAIN.get(module, module)


def pretraining(tag: str) -> str:
    """The data sets in a tag of timm's, in order; "unknown" where it names none."""
    if tag in WHOLE:
        return WHOLE[tag]
    method, _, rest = tag.partition("_")
    if method not in METHODS:
        method, rest = "", tag
    parts = [part for part in rest.split("_") if DATA.fullmatch(part)]
    steps = [NAMED.get(part, part) for part in parts]
    if method in ("mae", "fcmae"):
        steps.insert(0, f"{method}:in1k")
    elif method:
        steps[0] = f"{method}:{steps[0]}"
    steps = [step for i, step in enumerate(steps) if not i or step != steps[i - 1]]
    return "→".join(steps) or "unknown"


def fit_top1(rows: list[Facts]) -> tuple[dict[str, float], float]:
    """Least squares of the logarithm of the error on what is known of every network."""
    seen = [f for f in rows if f.top1 is not None and f.macs > 1e8]  # timm's tiny networks for tests are no networks
    X = np.array([list(regressors(f).values()) for f in seen])
    y = np.log(100 - np.array([f.top1 for f in seen], float))
    weights = np.linalg.lstsq(X, y, rcond=None)[0]
    off = np.exp(X @ weights) - np.exp(y)
    names = regressors(seen[0])
    return {name: round(float(w), 4) for name, w in zip(names, weights, strict=True)}, float(np.sqrt((off**2).mean()))


def line(f: Facts) -> str:
    text = io.StringIO()
    top1 = "" if f.top1 is None else f"{f.top1:g}"
    hub = "=" if f.hub == f.id else f.hub
    counts = (f.parameters, f.macs, f.input_size, int(f.any_size), f.features)
    csv.writer(text, lineterminator="\n").writerow([f.id, f.family, *counts, f.pretraining, top1, f.licence, hub])
    return text.getvalue()


if __name__ == "__main__":
    main()
