"""torchvision's published files: each network computes in timm what it computes in torchvision."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models as published_models

from graftage.errors import BackboneError
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.recognise import layout_of
from graftage.features.torchvision_files import ARCHITECTURES, from_torchvision
from graftage.features.weights import read_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# a small network of each kind: torchvision's name, the published file, side of the picture that is looked at
KINDS = [
    ("resnet18", "resnet18-f37072fd.pth", 64),
    ("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth", 64),
    ("vgg11_bn", "vgg11_bn-6002323d.pth", 224),
    ("densenet121", "densenet121-a639ec97.pth", 64),
    ("inception_v3", "inception_v3_google-0cc3c7bd.pth", 128),
    ("mobilenet_v2", "mobilenet_v2-b0353104.pth", 64),
    ("mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth", 64),
    ("mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", 64),
    ("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth", 64),
    ("efficientnet_b5", "efficientnet_b5_lukemelas-1a07897c.pth", 64),
    ("efficientnet_v2_s", "efficientnet_v2_s-dd5fe13b.pth", 64),
    ("regnet_x_400mf", "regnet_x_400mf-62229a5f.pth", 64),
    ("regnet_y_400mf", "regnet_y_400mf-c65dace8.pth", 64),
    ("convnext_tiny", "convnext_tiny-983f1562.pth", 64),
    ("vit_b_32", "vit_b_32-d86f8d99.pth", 224),
    ("swin_t", "swin_t-704ceda3.pth", 224),
    ("swin_v2_t", "swin_v2_t-b137f0e2.pth", 256),
]


def random_network(name: str) -> torch.nn.Module:
    """A network of torchvision in which every tensor matters: none is zero or one throughout, as they are at first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"init_weights": False} if name == "inception_v3" else {}
        network = getattr(published_models, name)(**options).eval()
        for key, parameter in network.named_parameters():
            if "layer_scale" in key:
                torch.nn.init.uniform_(parameter, 0.5, 1.0)
            elif parameter.ndim == 1 or "class_token" in key or "relative_position" in key:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in network.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network


def as_published(name: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As torchvision's old files are, which its own classes still read: without counters, some names otherwise."""
    found = {}
    for key, tensor in state.items():
        if name.startswith("densenet"):
            key = key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.")
        if name.startswith("vit"):
            key = key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
        if not key.endswith("num_batches_tracked"):
            found[key] = tensor
    return found


def features(network: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """What torchvision's network gives to its last layer, (n, D)."""
    last = [name for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)][-1]
    network.set_submodule(last, torch.nn.Identity())
    return network(pictures)


@pytest.mark.parametrize(("name", "file", "side"), KINDS, ids=[name for name, _, _ in KINDS])
def test_features_are_torchvisions_own(name: str, file: str, side: int, tmp_path: Path) -> None:
    network = random_network(name)
    torch.save(as_published(name, network.state_dict()), tmp_path / file)
    found = find(str(tmp_path / file))
    weights = read_weights(found)
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    # torchvision's Inception takes ImageNet's normalisation and brings it to its own, timm's takes its own
    ours = network._transform_input(pictures) if name == "inception_v3" else pictures
    with torch.inference_mode():
        expected = features(network, pictures)
        np.testing.assert_allclose(build(found.info.architecture, weights)(ours), expected, atol=1e-5, rtol=1e-5)
    assert expected.shape[1] == found.info.features
    assert expected.std() > 1e-3  # something was computed


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if "128gf" not in n and n != "vit_h_14"])
def test_the_tensors_of_every_size_fit(name: str) -> None:
    options = {"init_weights": False} if name == "inception_v3" else {}
    if name.startswith("regnet"):
        pytest.skip("torchvision cannot build it without memory; those are tried below")
    with torch.device("meta"):
        tensors = getattr(published_models, name)(**options).state_dict()
        tensors = {key: tensor.to("meta") for key, tensor in tensors.items()}
    wanted, classifier = layout_of(ARCHITECTURES[name])
    ours = from_torchvision(tensors, ARCHITECTURES[name], wanted)
    assert wanted.items() <= {key: tuple(tensor.shape) for key, tensor in ours.items()}.items()
    rest = {key for key in ours if key not in wanted and not key.endswith("num_batches_tracked")}
    assert all(key.startswith(classifier) for key in rest)


@pytest.mark.parametrize(
    ("file", "size", "crop", "interpolation"),
    [
        ("resnet18-f37072fd.pth", 224, 224 / 256, "bilinear"),
        ("mobilenet_v2-7ebf99e0.pth", 224, 224 / 232, "bilinear"),
        ("efficientnet_b1_rwightman-bac287d4.pth", 240, 240 / 256, "bicubic"),
        ("efficientnet_b1-c27df63c.pth", 240, 240 / 255, "bilinear"),
    ],
)
def test_preprocessing_is_that_of_the_published_weights(
    file: str, size: int, crop: float, interpolation: str, tmp_path: Path
) -> None:
    torch.save({}, tmp_path / file)
    preprocess = find(str(tmp_path / file)).preprocess
    assert (preprocess.size, preprocess.crop_pct, preprocess.interpolation) == (size, crop, interpolation)
    assert (preprocess.mean, preprocess.std) == IMAGENET


def test_inception_sees_what_torchvision_makes_of_imagenets_normalisation(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "inception_v3_google-0cc3c7bd.pth")
    preprocess = find(str(tmp_path / "inception_v3_google-0cc3c7bd.pth")).preprocess
    assert (preprocess.size, preprocess.mean, preprocess.std) == (299, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_licence_and_name_are_told_of_the_very_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save({}, path)
    info = find(str(path)).info
    assert (info.licence, info.pretraining) == ("unknown", "unknown")
    digest = "f37072fd" + hashlib.sha256(path.read_bytes()).hexdigest()[8:]
    monkeypatch.setattr("graftage.features.local_files.file_hash", lambda _: digest)
    info = find(str(path)).info
    assert (info.licence, info.pretraining) == ("BSD-3-Clause", "torchvision IMAGENET1K_V1")


@pytest.mark.parametrize("file", ["alexnet-owt-7be5be79.pth", "vgg16_features-amdegroot-88682ab5.pth"])
def test_a_network_that_timm_lacks_is_refused_by_name(file: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / file)
    with pytest.raises(BackboneError, match=rf"{file}: these are torchvision's weights .*takes those of resnet18"):
        find(str(tmp_path / file))


def test_a_file_of_another_hash_is_read_as_what_its_tensors_are(tmp_path: Path) -> None:
    torch.save(random_network("mobilenet_v2").state_dict(), tmp_path / "mine.pth")
    found = find(str(tmp_path / "mine.pth"))
    assert found.info.architecture == "mobilenetv2_100"
    assert found.preprocess.interpolation == "bilinear"  # torchvision's, where timm's own weights have bicubic
    read_weights(found)
