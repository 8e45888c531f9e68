"""A file of weights whose name tells nothing: its network is known by what is in it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from graftage.errors import BackboneError
from graftage.features import recognise
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.recognise import SKETCH, fingerprint, layout_of, nearest, recognised, sketch
from graftage.features.weights import read_weights

MakeFile = Callable[[str], Path]
SHAPES = {f"layers.{i}.{name}": (8, i) for i in range(30) for name in ("weight", "bias")}


def shapes_of(architecture: str, **options: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = timm.create_model(architecture, **options).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


# Fingerprints and sketches


@given(st.permutations(list(SHAPES)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_tensors_does_not_matter(names: list[str]) -> None:
    mixed = {name: SHAPES[name] for name in names}
    assert fingerprint(mixed) == fingerprint(SHAPES)
    np.testing.assert_array_equal(sketch(mixed), sketch(SHAPES))


def test_every_name_and_shape_matters() -> None:
    prints = {fingerprint({**SHAPES, name: (*shape, 1)}) for name, shape in SHAPES.items()}
    prints |= {fingerprint({n: s for n, s in SHAPES.items() if n != name}) for name in SHAPES}
    assert len(prints | {fingerprint(SHAPES)}) == 2 * len(SHAPES) + 1


def test_a_sketch_tells_how_much_two_networks_share() -> None:
    half = dict(list(SHAPES.items())[: len(SHAPES) // 2])
    shared = np.intersect1d(sketch(SHAPES), sketch(half)).size / SKETCH
    assert 0.2 < shared < 0.8
    assert sketch({}).tolist() == [2**32 - 1] * SKETCH


# Networks by their tensors


@pytest.mark.parametrize(
    ("architecture", "others"),
    [
        ("convnext_tiny", []),
        ("regnety_004", []),
        ("vit_base_patch16_clip_224", ["vit_base_patch16_clip_quickgelu_224"]),
        ("deit_tiny_distilled_patch16_224", []),
        ("resnet50", ["resnetaa50", "resnetblur50"]),
        ("efficientnet_b0", ["efficientnet_blur_b0", "tf_efficientnet_b0"]),
    ],
)
def test_a_network_is_known_with_any_classifier_or_none(architecture: str, others: list[str]) -> None:
    for classes in (0, 7, 1000):
        found = recognised(shapes_of(architecture, num_classes=classes))
        assert set(found) == {architecture, *others}


def test_the_table_is_of_the_installed_timm() -> None:
    names = {name for row in recognise._table().names for name in row.split()}
    assert len(names) > 1300
    for architecture in ("test_vit", "convnext_atto", "swin_tiny_patch4_window7_224", "hrnet_w18_small"):
        assert recognised(layout_of(architecture)[0]) == [architecture]
    table = Path(recognise.__file__).with_name("architectures.npz")
    assert table.stat().st_size < 200_000


def test_the_nearest_network_is_found_and_measured() -> None:
    shapes = shapes_of("resnet18", num_classes=0)
    shapes["layer1.0.conv1.weight"] = (1, 2, 3, 3)
    near = nearest(shapes)
    assert near is not None
    assert near.architecture == "resnet18"
    kept = len([n for n in shapes if not n.endswith("num_batches_tracked")])
    assert near.share == pytest.approx((kept - 1) / (kept + 1))
    assert nearest({"nothing.of.this": (3,)}) is None


# Files


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth"])
def test_a_file_without_a_telling_name_is_recognised(name: str, weights_file: MakeFile, tmp_path: Path) -> None:
    state = load_file(weights_file("test_vit"))
    (torch.save if name.endswith(".pth") else save_file)(state, tmp_path / name)
    found = find(str(tmp_path / name))
    assert (found.info.architecture, found.info.licence) == ("test_vit", "unknown")
    build("test_vit", read_weights(found))


def test_a_file_of_transformers_is_recognised(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    found = find(str(tmp_path / "model.safetensors"))
    assert found.info.architecture == "vit_tiny_patch16_224"
    build(found.info.architecture, read_weights(found))


def test_the_file_itself_may_tell_its_network(weights_file: MakeFile, tmp_path: Path) -> None:
    """resnet50, resnetaa50 and resnetblur50 have the same tensors: what the file says decides."""
    state = timm.create_model("resnet50", num_classes=3).state_dict()
    save_file(state, tmp_path / "a.safetensors", metadata={"architecture": "resnetblur50"})
    assert find(str(tmp_path / "a.safetensors")).info.architecture == "resnetblur50"
    torch.save({"arch": "resnetaa50", "state_dict": state}, tmp_path / "b.pth")
    assert find(str(tmp_path / "b.pth")).info.architecture == "resnetaa50"
    torch.save({"arch": "MyOwnNet", "state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(BackboneError, match=r"c.pth: these tensors fit networks that differ in what"):
        find(str(tmp_path / "c.pth"))


def test_where_several_fit_all_are_named(tmp_path: Path) -> None:
    save_file(timm.create_model("efficientnet_b0").state_dict(), tmp_path / "mine.safetensors")
    every = "efficientnet_b0, efficientnet_blur_b0, tf_efficientnet_b0"
    with pytest.raises(BackboneError, match=rf"say which with --architecture NAME: {every}$"):
        find(str(tmp_path / "mine.safetensors"))
    assert find(str(tmp_path / "mine.safetensors"), architecture="tf_efficientnet_b0").info.features == 1280


def test_an_unknown_network_is_told_the_nearest(weights_file: MakeFile, tmp_path: Path) -> None:
    state = load_file(weights_file("test_vit"))
    save_file({**state, "norm.weight": torch.ones(65)}, tmp_path / "mine.safetensors")
    with pytest.raises(
        BackboneError,
        match=r"mine.safetensors: say which network .* 'mine' is no timm name, and no network known has just these "
        r"tensors. Nearest is test_vit, with 9\d% of the tensors in common; .* norm.weight is \(65,\), expected",
    ):
        find(str(tmp_path / "mine.safetensors"))
    save_file({"a": torch.zeros(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(BackboneError, match=r"no network known has just these tensors$"):
        find(str(tmp_path / "mine.safetensors"))


def test_a_telling_name_is_believed_before_the_tensors(weights_file: MakeFile, tmp_path: Path) -> None:
    shutil.copy(weights_file("test_resnet"), tmp_path / "test_vit.safetensors")
    found = find(str(tmp_path / "test_vit.safetensors"))
    with pytest.raises(BackboneError, match=r"do not fit the network; .*; these tensors look like test_resnet$"):
        read_weights(found)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "timm_model.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str, weights_file: MakeFile, tmp_path: Path) -> None:
    state = load_file(weights_file("test_vit"))
    save_file({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "mine.safetensors")
    weights = read_weights(find(str(tmp_path / "mine.safetensors")))
    np.testing.assert_array_equal(weights["cls_token"], state["cls_token"].numpy())


def test_counters_that_old_files_lack_are_not_missed(weights_file: MakeFile, tmp_path: Path) -> None:
    state = load_file(weights_file("test_resnet"))
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    save_file({n: t for n, t in state.items() if n not in counters}, tmp_path / "mine.safetensors")
    found = find(str(tmp_path / "mine.safetensors"))
    assert found.info.architecture == "test_resnet"
    build("test_resnet", read_weights(found))
