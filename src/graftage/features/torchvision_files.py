"""torchvision's published weights: the file's name tells the network, and its tensors are brought into timm's layout.

Both libraries build the same networks under other names. Where the layers come in the same order, the tensors are
paired in that order and their shapes compared; elsewhere names are rewritten. `tests/test_features_torchvision.py`
holds the features of each kind against torchvision's own. Those of AlexNet, SqueezeNet, ShuffleNet, GoogLeNet, MNASNet
and MaxViT are not taken.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftage.errors import BackboneError
from graftage.features.facts import Origin
from graftage.features.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

Shapes = Mapping[str, tuple[int, ...]]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_REGNETS = {
    "400mf": "004", "800mf": "008", "1_6gf": "016", "3_2gf": "032", "8gf": "080", "16gf": "160", "32gf": "320",
}  # fmt: skip
_RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
_VGGS = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))

# torchvision's name → timm's
ARCHITECTURES: dict[str, str] = {
    **{name: name for name in (*_RESNETS, *_VGGS, "inception_v3")},
    **{f"densenet{depth}": f"densenet{depth}" for depth in (121, 161, 169, 201)},
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"efficientnet_v2_{size}": f"efficientnetv2_{size}" for size in "sml"},
    **{f"regnet_{kind}_{size}": f"regnet{kind}_{number}" for kind in "xy" for size, number in _REGNETS.items()},
    "regnet_x_400mf": "regnetx_004_tv",  # its widths are rounded otherwise than in the paper, as are those of the next
    "regnet_y_8gf": "regnety_080_tv",
    "regnet_y_128gf": "regnety_1280",
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_v2_t": "swinv2_tiny_window8_256",
    "swin_v2_s": "swinv2_small_window8_256",
    "swin_v2_b": "swinv2_base_window8_256",
}
# Networks whose positions are as many as the picture's size asks: other sizes of published weights
_LARGER = {("vit_b_16", 384): "vit_base_patch16_384", ("vit_l_16", 512): "vit_large_patch16_512"}
_WIDE_EPS = 1e-3  # of batch normalisation in some of torchvision's networks, where timm has the usual one
_WIDE = re.compile(r"mobilenet_v3_|efficientnet_v2_|efficientnet_b[567]")
_IN_ORDER = re.compile(r"mobilenet_v[23]|efficientnet_")
_HASHED = re.compile(r"(?P<name>.+)-[0-9a-f]{8,10}")
_AUXILIARY = re.compile(r"^AuxLogits\.|relative_position_index$|relative_coords_table$")


def published(path: Path, sha256: str) -> Origin | None:
    """What torchvision publishes under this file's name, or None.

    Licence and name of the weights are told only if the file is the very one: its name has the beginning of its hash.

    Raises:
        BackboneError: weights of a network that timm does not have.
    """
    if not _HASHED.fullmatch(path.stem):
        return None
    from torchvision import models

    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            if Path(weights.url).stem == path.stem:
                if name not in ARCHITECTURES or weights.name == "IMAGENET1K_FEATURES":  # whose classifier is no numbers
                    raise BackboneError(
                        f"{path}: these are torchvision's weights {weights}, which timm has no network for; graftage "
                        f"takes those of {', '.join(ARCHITECTURES)}"
                    )
                origin = _origin(name, weights)
                same = sha256.startswith(path.stem.rsplit("-", 1)[1])
                return origin if same else replace(origin, licence="unknown", pretraining="unknown")
    return None


def usual(name: str) -> Origin:
    """The preprocessing of torchvision's first weights for its network `name`, where no file name tells which."""
    from torchvision.models import get_model_weights

    return replace(_origin(name, next(iter(get_model_weights(name)))), licence="unknown", pretraining="unknown")


def _origin(name: str, weights: Any) -> Origin:
    recipe = weights.transforms()
    size, resize = int(recipe.crop_size[0]), int(recipe.resize_size[0])
    # torchvision's Inception brings ImageNet's normalisation to this one inside the network
    half = name == "inception_v3"
    mean, std = ((0.5,) * 3,) * 2 if half else (tuple(recipe.mean), tuple(recipe.std))
    return Origin(
        architecture=_LARGER.get((name, size), ARCHITECTURES[name]),
        preprocess=Preprocess("squash", size, size / resize, recipe.interpolation.value, _three(mean), _three(std)),
        licence="CC-BY-NC-4.0" if "SWAG" in weights.name else "BSD-3-Clause",
        pretraining=f"torchvision {weights.name}",
    )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def from_torchvision(tensors: "Tensors", architecture: str, wanted: Shapes) -> "Tensors":
    """Tensors of one of torchvision's networks under timm's names; others as they are.

    Args:
        tensors: under torchvision's names, or anything else.
        architecture: timm's name of the network, with or without a tag.
        wanted: the shapes that it has, in its own order.
    """
    base = architecture.split(".")[0]
    known = {timm: name for name, timm in ARCHITECTURES.items()} | {timm: n for (n, _), timm in _LARGER.items()}
    name = known.get(base, "")
    if not name or wanted.keys() <= tensors.keys():
        return {n: t for n, t in tensors.items() if n in wanted or not _AUXILIARY.search(n)} if name else tensors
    tensors = {n: t for n, t in tensors.items() if not _AUXILIARY.search(n)}
    if _IN_ORDER.match(name):
        return _in_order(tensors, wanted, _WIDE_EPS - 1e-5 if _WIDE.match(name) else 0.0)
    renamed = _renamed(tensors, _RULES.get(re.split(r"[\d_]", name)[0], ()))
    if name.startswith("swin_v2"):
        renamed = _with_two_biases(renamed)
    return {n: _reshaped(t, wanted.get(n, tuple(t.shape))) for n, t in renamed.items()}


def _in_order(tensors: "Tensors", wanted: Shapes, more_variance: float) -> "Tensors":
    """Pairs two lists of layers one by one; returns the tensors as they are where the lists do not go together.

    A larger epsilon in batch normalisation is the same as a larger variance: √(v + ε) = √((v + ε − ε') + ε').
    """
    if "features.0.0.weight" not in tensors:
        return tensors
    names = [n for n in sorted(tensors, key=_place) if not n.endswith("num_batches_tracked")]
    targets = [n for n in wanted if not n.endswith("num_batches_tracked")]
    paired = {new: _reshaped(tensors[old], wanted[new]) for new, old in zip(targets, names, strict=False)}
    if len(names) < len(targets) or any(tuple(t.shape) != wanted[n] for n, t in paired.items()):
        return tensors
    return {n: t + more_variance if n.endswith("running_var") else t for n, t in paired.items()}


_WITHIN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _place(name: str) -> tuple[object, ...]:
    """Sorts names as the layers come: features before the classifier, numbers as numbers."""
    *path, last = name.split(".")
    return name.startswith("classifier"), *((p.isdigit(), int(p) if p.isdigit() else p) for p in path), _rank(last)


def _rank(last: str) -> tuple[bool, int]:
    return False, _WITHIN.index(last) if last in _WITHIN else len(_WITHIN)


def _reshaped(tensor: "torch.Tensor", shape: tuple[int, ...]) -> "torch.Tensor":
    """The same numbers: a linear layer as a convolution, a scale of (C, 1, 1) as (C,)."""
    return tensor.reshape(shape) if tensor.numel() == _product(shape) else tensor


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _renamed(tensors: "Tensors", rules: tuple[Rule, ...]) -> "Tensors":
    def new(name: str) -> str:
        for pattern, by in rules:
            name = re.sub(pattern, by, name)
        return name

    return {new(name): tensor for name, tensor in tensors.items()}


def _with_two_biases(tensors: "Tensors") -> "Tensors":
    """Swin V2 gives its keys no bias: torchvision keeps one and sets it to zero, timm keeps the other two."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(".qkv.bias"):
            width = len(tensor) // 3
            front = name.removesuffix("qkv.bias")
            found |= {f"{front}q_bias": tensor[:width], f"{front}v_bias": tensor[2 * width :]}
        else:
            found[name] = tensor
    return found


def _stage(match: re.Match[str]) -> str:
    """ConvNeXt and Swin: odd entries of `features` are stages, even ones what makes the picture smaller before them."""
    return f"stage.{(int(match[1]) - 1) // 2}." if int(match[1]) % 2 else f"shrink.{int(match[1]) // 2}."


_SWIN: tuple[Rule, ...] = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.(\d)\.", _stage),
    (r"^stage\.(\d)\.(\d+)\.", r"layers.\1.blocks.\2."),
    (r"^shrink\.(\d)\.", r"layers.\1.downsample."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_RULES: dict[str, tuple[Rule, ...]] = {
    "vgg": (
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    ),
    # the published files still have the dots that PyTorch forbids today
    "densenet": ((r"\.(norm|conv)\.([12])\.", r".\1\2."),),
    "regnet": (
        (r"^stem\.0\.", "stem.conv."),
        (r"^stem\.1\.", "stem.bn."),
        (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", lambda m: f"s{m[1]}.b{int(m[2]) + 1}."),
        (r"\.proj\.0\.", ".downsample.conv."),
        (r"\.proj\.1\.", ".downsample.bn."),
        (r"\.f\.([abc])\.([01])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}.{('conv', 'bn')[int(m[2])]}."),
        (r"\.f\.se\.", ".se."),
        (r"^fc\.", "head.fc."),
    ),
    "convnext": (
        (r"^features\.0\.0\.", "stem.0."),
        (r"^features\.0\.1\.", "stem.1."),
        (r"^features\.(\d)\.", _stage),
        (r"^shrink\.(\d)\.", r"stages.\1.downsample."),
        (r"^stage\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.block\.0\.", ".conv_dw."),
        (r"\.block\.2\.", ".norm."),
        (r"\.block\.3\.", ".mlp.fc1."),
        (r"\.block\.5\.", ".mlp.fc2."),
        (r"\.layer_scale$", ".gamma"),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ),
    "vit": (
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"^encoder\.ln\.", "norm."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.self_attention\.in_proj_", ".attn.qkv."),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),  # the published files have the second name
        (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        (r"^heads\.head\.", "head."),
    ),
    "swin": (*_SWIN, (r"^head\.", "head.fc.")),
}
