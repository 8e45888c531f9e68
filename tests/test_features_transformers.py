"""Networks as transformers saves them: each family computes in timm what it computes in transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

from graftage.errors import BackboneError
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.transformers_files import FAMILIES, architecture_of, from_transformers
from graftage.features.weights import read_weights

HALF, IMAGENET_MEAN = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TINY_VIT = {**TINY, "intermediate_size": 128, "layer_norm_eps": 1e-6}
TINY_CLIP = {**TINY, "intermediate_size": 128}
TIMMS_TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TIMMS_STAGES = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}


def class_token(output: Any) -> torch.Tensor:
    return output.last_hidden_state[:, 0]


def two_tokens(output: Any) -> torch.Tensor:
    return output.last_hidden_state[:, :2].mean(1)


def pooled(output: Any) -> torch.Tensor:
    return output.pooler_output.flatten(1)


# transformers' class and configuration, what timm's vector is there, timm's network and the same changes of size
KINDS: dict[str, tuple[str, Any, Callable[[Any], torch.Tensor], str, dict[str, Any]]] = {
    "vit": ("ViTModel", transformers.ViTConfig(**TINY_VIT), class_token, "vit_base_patch16_224", TIMMS_TINY),
    "vit_mae": (
        "ViTMAEModel",
        transformers.ViTMAEConfig(**TINY_VIT, mask_ratio=0.0),
        class_token,
        "vit_base_patch16_224",
        TIMMS_TINY,
    ),
    "vit_msn": ("ViTMSNModel", transformers.ViTMSNConfig(**TINY_VIT), class_token, "vit_base_patch16_224", TIMMS_TINY),
    "deit": (
        "DeiTModel",
        transformers.DeiTConfig(**TINY_VIT),
        two_tokens,
        "deit_tiny_distilled_patch16_224",
        TIMMS_TINY,
    ),
    "dinov2": ("Dinov2Model", transformers.Dinov2Config(**TINY), class_token, "vit_small_patch14_dinov2", TIMMS_TINY),
    "dinov2 giant": (
        "Dinov2Model",
        transformers.Dinov2Config(**TINY, use_swiglu_ffn=True),
        class_token,
        "vit_giant_patch14_dinov2",
        {**TIMMS_TINY, "mlp_ratio": 5.5},  # of 32: twice the 88 that transformers rounds to
    ),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        transformers.Dinov2WithRegistersConfig(**TINY),
        class_token,
        "vit_small_patch14_reg4_dinov2",
        TIMMS_TINY,
    ),
    "clip": (
        "CLIPVisionModel",
        transformers.CLIPVisionConfig(**TINY_CLIP),
        pooled,
        "vit_base_patch32_clip_quickgelu_224",
        TIMMS_TINY,
    ),
    "clip with gelu": (
        "CLIPVisionModel",
        transformers.CLIPVisionConfig(**TINY_CLIP, hidden_act="gelu"),
        pooled,
        "vit_base_patch32_clip_224",
        TIMMS_TINY,
    ),
    "siglip": (
        "SiglipVisionModel",
        transformers.SiglipVisionConfig(**TINY_CLIP),
        pooled,
        "vit_base_patch32_siglip_256",
        TIMMS_TINY,
    ),
    "convnext": ("ConvNextModel", transformers.ConvNextConfig(**STAGES), pooled, "convnext_tiny", TIMMS_STAGES),
    "convnextv2": ("ConvNextV2Model", transformers.ConvNextV2Config(**STAGES), pooled, "convnextv2_tiny", TIMMS_STAGES),
    "resnet": (
        "ResNetModel",
        transformers.ResNetConfig(depths=[1, 2, 1, 1]),
        pooled,
        "resnet50",
        {"layers": (1, 2, 1, 1)},
    ),
    "resnet basic": (
        "ResNetModel",
        transformers.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[1, 2, 1, 1]),
        pooled,
        "resnet18",
        {"layers": (1, 2, 1, 1)},
    ),
    "regnet": (
        "RegNetModel",
        transformers.RegNetConfig(
            embedding_size=32, hidden_sizes=[48, 104, 208, 440], depths=[1, 3, 6, 6], groups_width=8
        ),
        pooled,
        "regnety_004",
        {},
    ),
    "swin": (
        "SwinModel",
        transformers.SwinConfig(image_size=56, embed_dim=16, depths=[2, 2], num_heads=[2, 4]),
        pooled,
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
}


def random_network(kind: str, config: Any) -> torch.nn.Module:
    """A network of transformers in which every tensor matters: none is zero or one throughout, as they are at first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(transformers, kind)(config).eval()
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in network.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_transformers_own(kind: str, tmp_path: Path) -> None:
    name, config, vector, architecture, sizes = KINDS[kind]
    network = random_network(name, config)
    network.save_pretrained(tmp_path)
    ours = timm.create_model(architecture, num_classes=0, **sizes).eval()
    tensors = from_transformers(load_file(tmp_path / "model.safetensors"))
    missing, unexpected = ours.load_state_dict(tensors, strict=False)
    assert [n for n in missing if not n.endswith("num_batches_tracked")] == []
    assert unexpected == []
    side = sizes.get("img_size", 64)
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = vector(network(pictures))
        scale = float(expected.abs().max())
        np.testing.assert_allclose(ours(pictures) / scale, expected / scale, atol=1e-5)
    assert expected.std() > 1e-3


def meta(kind: str, config: Any) -> dict[str, torch.Tensor]:
    """The tensors of a network as it is saved, without their numbers."""
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        network = getattr(transformers, kind)(config)
    return from_transformers(revert_weight_conversion(network, dict(network.state_dict())))


# the published sizes: transformers' class and configuration, timm's network
VIT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SIZES = [
    ("ViTForImageClassification", transformers.ViTConfig(**VIT), "vit_base_patch16_224"),
    ("ViTForImageClassification", transformers.ViTConfig(**VIT, image_size=384, patch_size=32), "vit_base_patch32_384"),
    ("ViTModel", transformers.ViTConfig(**LARGE), "vit_large_patch16_224"),
    ("ViTMAEForPreTraining", transformers.ViTMAEConfig(**VIT), "vit_base_patch16_224"),
    ("DeiTForImageClassificationWithTeacher", transformers.DeiTConfig(**VIT), "deit_base_distilled_patch16_224"),
    (
        "Dinov2Model",
        transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14),
        "vit_small_patch14_dinov2",
    ),
    (
        "Dinov2Model",
        transformers.Dinov2Config(
            hidden_size=1536,
            num_attention_heads=24,
            num_hidden_layers=40,
            image_size=518,
            patch_size=14,
            use_swiglu_ffn=True,
        ),
        "vit_giant_patch14_dinov2",
    ),
    (
        "Dinov2WithRegistersModel",
        transformers.Dinov2WithRegistersConfig(image_size=518, patch_size=14),
        "vit_base_patch14_reg4_dinov2",
    ),
    ("CLIPModel", transformers.CLIPConfig(), "vit_base_patch32_clip_quickgelu_224"),
    ("CLIPVisionModel", transformers.CLIPVisionConfig(hidden_act="gelu"), "vit_base_patch32_clip_224"),
    (
        "SiglipVisionModel",
        transformers.SiglipVisionConfig(patch_size=32, image_size=256),
        "vit_base_patch32_siglip_256",
    ),
    ("ConvNextForImageClassification", transformers.ConvNextConfig(), "convnext_tiny"),
    ("ConvNextV2Model", transformers.ConvNextV2Config(), "convnextv2_tiny"),
    ("ResNetForImageClassification", transformers.ResNetConfig(), "resnet50"),
    (
        "ResNetModel",
        transformers.ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]),
        "resnet18",
    ),
    ("SwinForImageClassification", transformers.SwinConfig(), "swin_tiny_patch4_window7_224"),
]


@pytest.mark.parametrize(("kind", "config", "architecture"), SIZES, ids=[f"{k}-{a}" for k, _, a in SIZES])
def test_the_published_sizes_are_timms(kind: str, config: Any, architecture: str) -> None:
    assert architecture_of(config.to_dict(), meta(kind, config), "config.json") == architecture


@pytest.mark.parametrize(
    ("kind", "config", "why"),
    [
        (
            "BeitModel",
            transformers.BeitConfig(),
            "model_type 'beit' is none .* knows clip, clip_vision_model",
        ),
        ("ViTModel", transformers.ViTConfig(hidden_act="relu"), "hidden_act = 'relu', which timm's network does not"),
        ("ResNetModel", transformers.ResNetConfig(downsample_in_bottleneck=True), "downsample_in_bottleneck = True"),
        ("ViTModel", transformers.ViTConfig(hidden_size=48), "timm has no vit that computes the same .*hidden_size 48"),
        ("ViTModel", transformers.ViTConfig(**{**VIT, "num_attention_heads": 6}), "no vit that computes .*heads 6"),
        ("SiglipVisionModel", transformers.SiglipVisionConfig(), "no siglip_vision_model .*gelu_pytorch_tanh"),
    ],
)
def test_what_timm_does_not_compute_is_refused(kind: str, config: Any, why: str) -> None:
    with pytest.raises(BackboneError, match=rf"^config.json: .*{why}"):
        architecture_of(config.to_dict(), meta(kind, config), "config.json")


def test_every_family_is_tried() -> None:
    tried = {config.model_type for _, config, *_ in KINDS.values()}
    types = {name for family in FAMILIES for name in family.model_types}
    assert types - tried == {"clip", "siglip"}  # these hold the networks clip_vision_model and siglip_vision_model


# Repositories of the hub


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lays the files of a folder into an empty cache of the hub, as the hub's own client does."""
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def lay(repository: str, folder: Path, *, revision: str = "main") -> None:
        commit = "0123456789abcdef0123456789abcdef01234567"
        top = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (top / "refs").mkdir(parents=True)
        (top / "refs" / revision).write_text(commit)
        shutil.copytree(folder, top / "snapshots" / commit)

    return lay


def repository(folder: Path, **files: Any) -> Path:
    """A folder of configuration files: `config={…}` becomes config.json, `README="…"` README.md."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, str):
            (folder / f"{name}.md").write_text(content, encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


TINY_REAL = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "layer_norm_eps": 1e-6}


def test_a_repository_of_transformers_is_a_backbone(put: Callable[..., None], tmp_path: Path) -> None:
    network = random_network("ViTForImageClassification", transformers.ViTConfig(**TINY_REAL))
    network.save_pretrained(tmp_path / "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": 224, "image_mean": HALF, "image_std": HALF}
    card = "---\nlicense: apache-2.0\ntags:\n- vision\n---\n# A network\n"
    repository(tmp_path / "vit", preprocessor_config={**processor, "resample": 2}, README=card)
    put("someone/vit", tmp_path / "vit")
    found = find("hf-hub:someone/vit")
    assert (found.info.id, found.info.architecture) == ("hf-hub:someone/vit", "vit_tiny_patch16_224")
    assert (found.info.features, found.info.licence) == (192, "Apache-2.0")
    assert (found.preprocess.size, found.preprocess.crop_pct) == (224, 1.0)
    assert (found.preprocess.interpolation, found.preprocess.mean) == ("bilinear", HALF)
    pictures = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = build(found.info.architecture, read_weights(found))(pictures)
        expected = class_token(network.vit(pictures))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_repository_of_timm_is_a_backbone(put: Callable[..., None], tmp_path: Path) -> None:
    own = {"input_size": [3, 128, 128], "mean": HALF, "std": HALF, "interpolation": "bilinear", "crop_pct": 0.9}
    config = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": {**own, "license": "cc-by-4.0"}}
    folder = repository(tmp_path / "timm", config=config)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    save_file(network.state_dict(), folder / "model.safetensors")
    put("someone/resnet", folder, revision="v1")
    found = find("hf-hub:someone/resnet@v1")
    assert (found.info.architecture, found.info.licence, found.info.input_size) == ("test_resnet", "CC-BY-4.0", 128)
    assert (found.preprocess.crop_pct, found.preprocess.interpolation) == (0.9, "bilinear")
    assert (found.preprocess.mean, found.preprocess.std) == (HALF, HALF)
    network.reset_classifier(0)
    with torch.inference_mode():
        features = build(found.info.architecture, read_weights(found))(torch.ones(1, 3, 128, 128))
        assert torch.equal(features, network(torch.ones(1, 3, 128, 128)))


def test_a_tag_that_timm_knows_goes_with_the_name(put: Callable[..., None], tmp_path: Path) -> None:
    config = {"architecture": "test_resnet", "pretrained_cfg": {"tag": "r160_in1k", "mean": IMAGENET_MEAN}}
    folder = repository(tmp_path / "timm", config=config, README="no front matter")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "pytorch_model.bin")
    put("someone/resnet", folder)
    found = find("hf-hub:someone/resnet")
    assert (found.info.architecture, found.info.pretraining) == ("test_resnet.r160_in1k", "r160_in1k")
    assert (found.info.licence, found.preprocess.mean) == ("unknown", IMAGENET_MEAN)
    read_weights(found)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"architecture": "resnet5000"}, "timm .* has no network 'resnet5000'"),
        ({"architecture": "test_vit", "model_args": {"img_size": 96}}, "asks for test_vit with img_size=96"),
        ({"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 96, 64]}}, "96 × 64 is no square"),
        ({"architecture": "test_vit", "pretrained_cfg": {"interpolation": "random"}}, "interpolation must be one of"),
        ({"model_type": "bert"}, "model_type 'bert' is none that graftage can bring"),
        ({"hidden": 3}, "neither timm's layout .* nor transformers'"),
        ([1], "this configuration is no object"),
    ],
)
def test_a_repository_of_something_else_is_refused(
    config: Any, why: str, put: Callable[..., None], tmp_path: Path
) -> None:
    folder = repository(tmp_path / "odd", config=config)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    put("someone/odd", folder)
    with pytest.raises(BackboneError, match=rf"config.json: .*{why}"):
        find("hf-hub:someone/odd")


def test_a_repository_that_is_not_here_is_named(put: Callable[..., None]) -> None:
    with pytest.raises(BackboneError, match=r"hf-hub:someone/nothing: .*HF_HUB_OFFLINE is set"):
        find("hf-hub:someone/nothing")
    with pytest.raises(BackboneError, match=r"hf-hub:a/b/c: 'a/b/c' is no name of a repository"):
        find("hf-hub:a/b/c")


CLIP = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
DINO = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}


@pytest.mark.parametrize(
    ("said", "size", "crop", "interpolation", "mean"),
    [
        ({"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": HALF}, 224, 1.0, "bicubic", HALF),
        ({**CLIP, "resample": 3, "image_mean": IMAGENET_MEAN}, 224, 1.0, "bicubic", IMAGENET_MEAN),
        ({**DINO, "resample": 3}, 224, 0.875, "bicubic", IMAGENET_MEAN),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2}, 224, 0.875, "bilinear", IMAGENET_MEAN),
        ({"size": 384, "crop_pct": 0.875}, 384, 1.0, "bicubic", IMAGENET_MEAN),
        ({"size": 224, "image_processor_type": "ConvNextImageProcessor"}, 224, 0.875, "bicubic", IMAGENET_MEAN),
        ({"do_normalize": False, "size": 160}, 160, 1.0, "bicubic", (0.0, 0.0, 0.0)),
    ],
)
def test_preprocessing_is_read_as_transformers_means_it(
    said: dict[str, Any], size: int, crop: float, interpolation: str, mean: tuple[float, ...]
) -> None:
    from graftage.features.repositories import preprocess_of

    found = preprocess_of(said, "resnet18", "preprocessor_config.json")
    assert (found.size, found.crop_pct) == (size, pytest.approx(crop))
    assert (found.interpolation, found.mean) == (interpolation, mean)


@pytest.mark.parametrize("said", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"size": "large"}])
def test_preprocessing_that_cannot_be_followed_is_refused(said: dict[str, Any]) -> None:
    from graftage.features.repositories import preprocess_of

    with pytest.raises(BackboneError, match=r"preprocessor_config.json: its preprocessing cannot be followed"):
        preprocess_of(said, "resnet18", "preprocessor_config.json")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ("tags: [a]\nlicense: 'apache-2.0'", "apache-2.0"),
        ("license: other\nlicense_name: dinov3-license", "dinov3-license"),
        ("tags: [a]", "unknown"),
    ],
)
def test_the_licence_is_in_the_head_of_the_card(front: str, licence: str, tmp_path: Path) -> None:
    from graftage.features.repositories import licence_on

    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nlicense: not this\n")
    assert licence_on(tmp_path / "README.md") == licence
