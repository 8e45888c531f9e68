"""Every family of networks in timm gives one vector for a picture, and pictures are made square as timm does it."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.preprocess import Preprocess
from graftage.features.repositories import timms_preprocess
from graftage.features.weights import read_weights

# A member of each of timm's modules: small ones are run with weights, of the others the shapes are followed
# fmt: off
SMALL = [
    "botnet26t_256", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "test_convnext", "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "cspnext_tiny",
    "deit_tiny_distilled_patch16_224", "densenet121", "edgenext_x_small", "efficientformer_l1", "efficientformerv2_s0",
    "test_efficientnet", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_224",
    "fasternet_t0", "fastvit_t8", "gcvit_xxtiny", "ghostnet_050", "hardcorenas_b",
    "hgnetv2_b0", "hrnet_w18_small", "iformer_t", "inception_next_atto", "lcnetv2_small",
    "levit_128s", "lowformer_b0", "test_mambaout", "test_coatnet", "gmixer_12_224",
    "lcnet_035", "mobilevit_xxs", "test_nfnet", "pit_ti_224", "pvt_v2_b0",
    "regnetx_002", "repghostnet_050", "repvit_m0_9", "test_resnet", "resnetv2_18",
    "rexnet_100", "legacy_seresnet18", "shvit_s1", "skresnet18", "starnet_s100",
    "swiftformer_xs", "tiny_vit_5m_224", "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224",
    "test_vit_relpos", "xcit_nano_12_p8_224",
]
LARGE = [
    "beit_base_patch16_224", "convmixer_1024_20_ks9_p14", "csatv2", "davit_tiny", "deepseek_vit_412m",
    "dla102x", "dpn107", "focalnet_tiny_srf", "gemma4_vit_167m", "hiera_tiny_224",
    "hieradet_small", "inception_resnet_v2", "inception_v3", "inception_v4", "caformer_s18",
    "mobilenetv5_base", "mvitv2_tiny", "naflexvit_base_patch16_gap", "nasnetalarge", "nest_tiny",
    "nextvit_small", "pnasnet5large", "qwen3_vit_88m", "rdnet_tiny", "res2net101_26w_4s",
    "resnest101e", "selecsls42", "sequencer2d_s", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11",
    "samvit_base_patch16", "vitamin_small_224", "volo_d1_224", "vovnet39a", "legacy_xception",
    "xception41",
]
# fmt: on


def test_no_family_of_timm_is_forgotten() -> None:
    tried = {timm.models.model_entrypoint(name).__module__.rsplit(".", 1)[1] for name in [*SMALL, *LARGE]}
    assert tried == set(timm.list_modules())


@pytest.mark.parametrize("architecture", SMALL)
def test_a_small_member_gives_one_vector_of_the_width_that_is_told(architecture: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model(architecture, num_classes=3).state_dict()
    # CoaT has some tensors under several names
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / f"{architecture}.safetensors")
    found = find(str(tmp_path / f"{architecture}.safetensors"))
    network = build(architecture, read_weights(found))
    size = found.preprocess.size
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = network(pictures)
    assert features.shape == (2, found.info.features)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("architecture", LARGE)
def test_a_large_member_gives_one_vector(architecture: str) -> None:
    with torch.device("meta"), torch.inference_mode():
        network = timm.create_model(architecture, num_classes=0).eval()
        size = network.pretrained_cfg["input_size"][-1]
        assert network(torch.zeros(2, 3, size, size)).shape == (2, network.head_hidden_size)


# Pictures


def grainy(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(width + height)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def slope(width: int, height: int) -> np.ndarray:
    """Every pixel tells where it lies, from 0 to 255: red across, green down."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([255 * columns / width, 255 * rows / height, 0 * rows], -1).round().astype(np.uint8)


def both_ways(name: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, Preprocess]:
    """(ours, timm's own) input of a network for a picture, float32 (S, S, 3) each."""
    config = timm.get_pretrained_cfg(name).to_dict()
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config))(Image.fromarray(pixels))
    preprocess = timms_preprocess(config, name).with_fit("crop")
    scale, shift = preprocess.scale_and_shift()
    return preprocess.square(pixels) * scale + shift, theirs.permute(1, 2, 0).numpy(), preprocess


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "convnext_tiny.fb_in1k", "efficientnet_b0.ra_in1k"])
@pytest.mark.parametrize("shape", [(512, 512), (640, 512), (512, 640), (320, 400), (384, 256), (224, 224), (100, 80)])
def test_where_nothing_is_rounded_the_square_is_timms(name: str, shape: tuple[int, int]) -> None:
    ours, theirs, _ = both_ways(name, grainy(*shape))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "resnet50.a1_in1k"])
@pytest.mark.parametrize("shape", [(500, 375), (427, 640), (1023, 777), (250, 250), (3000, 2000)])
def test_elsewhere_it_lies_about_a_pixel_beside_timms_at_most(name: str, shape: tuple[int, int]) -> None:
    """timm resizes to whole pixels and crops at whole pixels; here the part is taken from the picture as it is."""
    ours, theirs, preprocess = both_ways(name, slope(*shape))
    levels = (ours - theirs) * np.asarray(preprocess.std) * 255  # (S, S, 3), gray levels
    blocks = levels.reshape(-1, 16, preprocess.size // 16, 16, 3).mean((1, 3))  # in which roundings level out
    pixel = preprocess.crop_pct * min(shape) / preprocess.size  # of the square, in pixels of the picture
    red, green = np.abs(blocks[..., :2]).max((0, 1)) / (255 * pixel / np.asarray(shape))  # in pixels of the square
    assert red < 1.25  # where to crop, and how large the whole is, are rounded once each
    assert green < 1.25
