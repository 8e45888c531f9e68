"""Networks as the transformers library saves them, brought into timm's layout, so that transformers is not needed.

Some families are the same functions in both libraries under other names: the names are rewritten, and the separate
matrices of queries, keys and values are joined. What the tensors do not tell (heads, activation, stride) is held
against `config.json`. `tests/test_features_transformers.py` compares the features of each with transformers' own.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graftage.errors import BackboneError
from graftage.features.recognise import recognised

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

Settings = dict[str, tuple[object, Collection[object]]]  # see `Family.settings`
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Family:
    """Networks that transformers and timm both build.

    Attributes:
        model_types: transformers' names of it.
        marker: a tensor that is in every file of the family, as a pattern, prefix taken off.
        rules: patterns and what they become, one after the other.
        architectures: timm's networks that compute the same, as a pattern.
        stem: side of the first convolution's kernel where that tells the family, else 0.
        settings: what config.json must say for that, with transformers' own default where it says nothing:
            key → (default, values allowed).
    """

    model_types: tuple[str, ...]
    marker: str
    rules: tuple[Rule, ...]
    architectures: str
    stem: int = 0
    settings: Settings = field(default_factory=dict)


_GELU: Settings = {"hidden_act": ("gelu", ("gelu",))}
# timm has 1e-6 where transformers writes 1e-12; it is what these networks were trained with, and a difference of the
# fifth digit at most
_VIT_EPS: Settings = {"layer_norm_eps": (1e-12, (1e-12, 1e-6))}
_RELU: Settings = {"hidden_act": ("relu", ("relu",))}
# transformers' names of activations, and the classes in timm's networks
_ACTIVATIONS = {"gelu": "GELU", "quick_gelu": "QuickGELU", "gelu_pytorch_tanh": "GELUTanh"}
_BLOCK: tuple[Rule, ...] = (
    (r"^encoder\.layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
_VIT: tuple[Rule, ...] = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),  # transformers' spelling
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    *_BLOCK,
)
_CONVNEXT: tuple[Rule, ...] = (
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.grn\.", ".mlp.grn."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^layernorm\.", "head.norm."),
)
_RESNET: tuple[Rule, ...] = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
)
_REGNET: tuple[Rule, ...] = (
    (r"^embedder\.embedder\.", "stem."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda m: f"s{int(m[1]) + 1}.b{int(m[2]) + 1}."),
    (r"\.shortcut\.", ".downsample."),
    (r"\.layer\.2\.attention\.0\.", ".se.fc1."),
    (r"\.layer\.2\.attention\.2\.", ".se.fc2."),
    (r"\.layer\.([0123])\.", lambda m: f".conv{min(3, int(m[1]) + 1)}."),  # with attention the last one is number 3
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
)
_SWIN: tuple[Rule, ...] = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    # transformers makes the map smaller at the end of a stage, timm at the beginning of the next
    (r"^encoder\.layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.attention\.self\.(query|key|value)\.", lambda m: f".attn.{m[1][0]}."),
    (r"\.attention\.self\.", ".attn."),
    (r"^layernorm\.", "norm."),
    *_BLOCK[3:],
)
_QKV = r"encoder\.layer\.0\.attention\.attention\.query\.weight"
FAMILIES = (
    Family(
        ("deit",),
        r"embeddings\.distillation_token",
        _VIT,
        r"deit_\w+_distilled_patch\d+_\d+",
        settings=_GELU | _VIT_EPS,
    ),
    Family(
        ("dinov2", "dinov2_with_registers"),
        r"encoder\.layer\.0\.layer_scale1\.lambda1",
        _VIT,
        r"vit_\w+_patch14(_reg4)?_dinov2",
        settings=_GELU | {"layer_norm_eps": (1e-6, (1e-6,)), "num_register_tokens": (4, (4,))},
    ),
    Family(
        ("vit", "vit_mae", "vit_msn"),
        _QKV,
        _VIT,
        r"vit_(tiny|small|base|large|huge)_patch\d+_\d+",
        settings=_GELU | _VIT_EPS,
    ),
    Family(
        ("clip", "clip_vision_model"),
        r"pre_layrnorm\.weight",
        _VIT,
        r"vit_\w+_patch\d+_clip_(quickgelu_)?\d+",
        settings={"hidden_act": ("quick_gelu", ("gelu", "quick_gelu")), "layer_norm_eps": (1e-5, (1e-5,))},
    ),
    Family(
        ("siglip", "siglip_vision_model"),
        r"head\.probe",
        _VIT,
        r"vit_\w+_patch\d+_siglip_\d+",
        settings={"hidden_act": ("gelu_pytorch_tanh", _ACTIVATIONS), "layer_norm_eps": (1e-6, (1e-6,))},
    ),
    Family(
        ("convnext", "convnextv2"),
        r"encoder\.stages\.0\.layers\.0\.dwconv\.weight",
        _CONVNEXT,
        r"convnext(v2)?_(atto|femto|pico|nano|tiny|small|base|large|xlarge|huge)",
        settings=_GELU | _VIT_EPS,
    ),
    Family(
        ("regnet",),
        r"embedder\.embedder\.convolution\.weight",
        _REGNET,
        r"regnet[xy]_\d+(_tv)?",
        stem=3,
        settings=_RELU,
    ),
    Family(
        ("resnet",),
        r"embedder\.embedder\.convolution\.weight",
        _RESNET,
        r"resnet\d+",
        stem=7,
        settings=_RELU
        | {"downsample_in_first_stage": (False, (False,)), "downsample_in_bottleneck": (False, (False,))},
    ),
    Family(
        ("swin",),
        r"encoder\.layers\.0\.blocks\.0\.attention\.self\.relative_position_bias_table",
        _SWIN,
        r"swin_\w+_patch4_window\d+_\d+",
        settings=_GELU | {"layer_norm_eps": (1e-5, (1e-5,))},
    ),
)
_SIZES = (  # what tells one network of a family from another
    "hidden_act", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size",
    "hidden_sizes", "embed_dim", "depths", "window_size",
)  # fmt: skip
MODEL_TYPES = tuple(sorted(name for family in FAMILIES for name in family.model_types))
_PREFIX = re.compile(
    r"^(vit|deit|dinov2|dinov2_with_registers|convnext|convnextv2|resnet|regnet|swin|clip|siglip)\.(?=emb|enc|lay|pool|vis)"
)
# classifiers, poolers that only pretraining used, decoders of masked pretraining, and the half that reads text
_LEFT_OUT = re.compile(
    r"^(classifier|cls_classifier|distillation_classifier|pooler|decoder|text_model|text_projection|visual_projection)\b"
    r"|^logit_(scale|bias)$|mask_token$|position_ids$|relative_position_index$"
)


def family_of(tensors: "Tensors") -> Family | None:
    """The family whose marker is among these tensors, or None: they are not transformers' or of no known family."""
    by_name = dict(zip(_short(tensors), tensors.values(), strict=True))
    for family in FAMILIES:  # the narrower before the wider: DeiT and DINOv2 have all that a ViT has
        for name in (n for n in by_name if re.fullmatch(family.marker, n)):
            if family.stem in (0, by_name[name].shape[-1]):
                return family
    return None


def from_transformers(tensors: "Tensors") -> "Tensors":
    """Tensors under transformers' names, under timm's, without classifier; others as they are."""
    family = family_of(tensors)
    if family is None:
        return tensors
    renamed: Tensors = {}
    for name, tensor in zip(_short(tensors), tensors.values(), strict=True):
        if not _LEFT_OUT.search(name):
            for pattern, by in family.rules:
                name = re.sub(pattern, by, name)
            renamed[name] = tensor.flatten() if ".grn." in name else tensor
    return _with_positions(_joined(renamed))


def _short(names: Mapping[str, object]) -> list[str]:
    return [_PREFIX.sub("", name).removeprefix("vision_model.") for name in names]


def _joined(tensors: "Tensors") -> "Tensors":
    """Queries, keys and values in one matrix, as timm has them; in SigLIP's pooling, queries apart."""
    import torch

    found: Tensors = {}
    for name, tensor in tensors.items():
        if part := re.fullmatch(r"(.+\.attn)\.([qkv])\.(weight|bias)", name):
            if part[2] == "q":
                parts = [tensors.get(f"{part[1]}.{p}.{part[3]}") for p in "qkv"]
                found[f"{part[1]}.qkv.{part[3]}"] = torch.cat([p for p in parts if p is not None])
        elif name.startswith("attn_pool.qkv."):
            width = len(tensor) // 3
            last = name.removeprefix("attn_pool.qkv.")
            found |= {f"attn_pool.q.{last}": tensor[:width], f"attn_pool.kv.{last}": tensor[width:]}
        else:
            found[name] = tensor
    return found


def _with_positions(tensors: "Tensors") -> "Tensors":
    """Tokens and positions in timm's shapes; with registers, timm adds the class token's position to the token."""
    found = dict(tensors)
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found and found["pos_embed"].ndim == 2:
        found["pos_embed"] = found["pos_embed"][None]
    if "reg_token" in found and "pos_embed" in found and "cls_token" in found:
        positions = found["pos_embed"]
        found |= {"cls_token": found["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return found


def architecture_of(config: Mapping[str, Any], tensors: "Tensors", what: str) -> str:
    """timm's name of the network that transformers' `config.json` and these tensors, under timm's names, describe.

    Raises:
        BackboneError: a model_type that is not known, a setting that timm's network does not have, or a size that timm
            does not build.
    """
    config = _vision(config)
    kind = str(config.get("model_type", ""))
    family = next((f for f in FAMILIES if kind in f.model_types), None)
    if family is None:
        raise BackboneError(
            f"{what}: transformers' model_type {kind!r} is none that graftage can bring into timm's layout; it knows "
            f"{', '.join(MODEL_TYPES)}. timm may have this network itself: see `graftage backbones`"
        )
    for key, (default, allowed) in family.settings.items():
        if (value := config.get(key, default)) not in allowed:
            raise BackboneError(f"{what}: its config.json has {key} = {value!r}, which timm's network does not have")
    shapes = {n: tuple(t.shape) for n, t in tensors.items()}
    found = [n for n in recognised(shapes) if re.fullmatch(family.architectures, n)]
    if family.rules is _VIT:
        activation = config.get("hidden_act", family.settings["hidden_act"][0])
        found = [n for n in found if _same_blocks(n, int(config.get("num_attention_heads", 12)), str(activation))]
    if not found:
        raise BackboneError(
            f"{what}: timm has no {kind} that computes the same ({_size(config)}), and graftage builds timm's networks"
        )
    return found[0]


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The half of a network for pictures and text that sees the pictures."""
    if isinstance(inner := config.get("vision_config"), Mapping):
        return {**inner, "model_type": config.get("model_type", "")}
    return config


def _same_blocks(architecture: str, heads: int, activation: str) -> bool:
    """Whether timm's transformer has this many heads and this activation: the tensors do not tell."""
    import timm
    import torch

    with torch.device("meta"):
        network: Any = timm.create_model(architecture, pretrained=False, num_classes=0)
    block = network.blocks[0]
    gated = type(block.mlp).__name__ != "Mlp"  # has an activation of its own kind, which the tensors tell
    same = gated or type(block.mlp.act).__name__ == _ACTIVATIONS[activation]
    return bool(block.attn.num_heads == heads and same)


def _size(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {config[key]}" for key in _SIZES if key in config) or "config.json does not tell it"
