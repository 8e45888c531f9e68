import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graftage.errors import OptionError, StoreError
from graftage.features import engine as module
from graftage.features.backbone import find
from graftage.features.batches import TorchBatches
from graftage.features.building import build
from graftage.features.bundled import DEFAULT
from graftage.features.engine import (
    FLOAT32_TOLERANCE,
    Agreement,
    agreement,
    choose_device,
    choose_precision,
    content_hash,
    has_bfloat16,
    open_forward,
    prepared_weights,
    probe_squares,
)
from graftage.features.facts import Backbone
from graftage.features.graph import Refused, Requests, convert
from graftage.features.preprocess import Preprocess
from graftage.features.weights import read_weights

Make = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def network(weights_file: Callable[[str], Path]) -> Make:
    return lambda architecture: find(str(weights_file(architecture)))


@pytest.fixture(scope="module")
def resnet(network: Make) -> Backbone:
    """A small network at a small size, random weights: quick to convert."""
    return shrunk(network("test_resnet"))


def shrunk(backbone: Backbone) -> Backbone:
    return replace(backbone, preprocess=replace(backbone.preprocess, size=64))


def squares_of(backbone: Backbone, count: int) -> np.ndarray:
    size = backbone.preprocess.size
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def reference(backbone: Backbone, squares: np.ndarray) -> np.ndarray:
    """Plain timm and the textbook normalisation, float32."""
    module = timm.create_model(backbone.info.architecture, num_classes=0).eval()
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in read_weights(backbone).items()})
    mean, std = (np.array(v, np.float32) for v in (backbone.preprocess.mean, backbone.preprocess.std))
    normal = ((squares.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)  # (b, S, S, 3) → (b, 3, S, S)
    with torch.inference_mode():
        return module(torch.from_numpy(np.ascontiguousarray(normal))).numpy()


def opened(backbone: Backbone, **options: object) -> module.Forward:
    return open_forward(backbone, backbone.preprocess, **{"device": "cpu", "precision": "float32", **options})


def kept_folder(cache: Path) -> Path:
    return next(path for path in (cache / "networks").iterdir() if path.name != "files")


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail(f"{name} must not be needed")

    monkeypatch.setattr(module, name, fail)


# The numbers


@pytest.mark.parametrize("architecture", [DEFAULT, "test_resnet", "test_vit"])
def test_openvino_gives_what_pytorch_gives(architecture: str, network: Make) -> None:
    backbone = find(DEFAULT) if architecture == DEFAULT else network(architecture)
    forward = opened(backbone)
    squares = squares_of(backbone, 3)
    found = forward(squares)
    assert (forward.name, forward.notices) == ("openvino-float32", ())
    assert (found.shape, found.dtype) == ((3, backbone.info.features), np.float32)
    apart = agreement(found, reference(backbone, squares))
    assert apart.relative_error < FLOAT32_TOLERANCE
    assert apart.cosine > 0.999999


def test_features_do_not_depend_on_company_or_thread(resnet: Backbone) -> None:
    forward, squares = opened(resnet), squares_of(resnet, 12)
    alone = np.concatenate([forward(square[None]) for square in squares])
    np.testing.assert_array_equal(forward(squares), alone)
    np.testing.assert_array_equal(forward(squares[::-1]), alone[::-1])
    together = threading.Barrier(2)

    def walk(order: range) -> dict[int, np.ndarray]:
        together.wait()
        return {i: forward(squares[i : i + 1])[0] for i in order}

    with ThreadPoolExecutor(2) as pool:
        for walked in pool.map(walk, [range(12), range(11, -1, -1)]):
            for i, row in walked.items():
                np.testing.assert_array_equal(row, alone[i])


def test_answers_stay_what_they_are_when_the_next_picture_comes(resnet: Backbone) -> None:
    forward, squares = opened(resnet), squares_of(resnet, 2)
    first = forward(squares[:1])
    before = first.copy()
    forward(squares[1:])
    np.testing.assert_array_equal(first, before)


def test_no_pictures_give_no_rows(resnet: Backbone) -> None:
    assert opened(resnet)(squares_of(resnet, 0)).shape == (0, resnet.info.features)


def test_agreement_is_the_worst_picture_and_the_mean_direction() -> None:
    right = np.array([[3, 4], [0, 2]], np.float32)
    assert agreement(right, right) == Agreement(0.0, 1.0)
    off = agreement(right + np.array([[0, 0], [0, 1]], np.float32), right)
    assert off.relative_error == pytest.approx(0.5)
    turned = agreement(np.array([[3, 4], [2, 0]], np.float32), right)
    assert turned.cosine == pytest.approx(0.5)
    assert not agreement(np.array([[3, np.nan], [0, 2]], np.float32), right).accepted("float32")
    assert not agreement(np.array([[3, np.inf], [0, 2]], np.float32), right).accepted("bfloat16")


def test_probe_pictures_are_the_same_everywhere_and_full_of_contrast() -> None:
    squares = probe_squares(32)
    assert (squares.shape, squares.dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(squares, probe_squares(32))
    assert squares.std(axis=(1, 2)).min() > 20


# What is kept


def test_the_kept_graph_is_loaded_and_gives_the_same_bits(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares, first = squares_of(resnet, 3), opened(resnet)
    wanted = first(squares)
    for name in ("convert", "read_weights", "build"):
        forbid(monkeypatch, name)
    again = opened(resnet)
    assert again.key == first.key
    np.testing.assert_array_equal(again(squares), wanted)


def cut(name: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return work


def other_answers(folder: Path) -> None:
    probe = load_file(folder / "probe.safetensors")
    save_file({**probe, "features": probe["features"] + 1}, folder / "probe.safetensors")


DAMAGE = {
    "half the graph's weights": cut("network.bin"),
    "half the graph": cut("network.xml"),
    "half the answers": cut("probe.safetensors"),
    "no answers": lambda folder: (folder / "probe.safetensors").unlink(),
    "no graph": lambda folder: (folder / "network.xml").unlink(),
    "other answers": other_answers,
    "answers to nothing": lambda folder: save_file({"a": np.zeros(1)}, folder / "probe.safetensors"),
    "other weights": lambda folder: (folder / "network.bin").write_bytes(
        bytes((folder / "network.bin").stat().st_size)
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_graph_is_made_anew(
    damage: str, resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares, first = squares_of(resnet, 2), opened(resnet)
    wanted, made = first(squares), []
    monkeypatch.setattr(module, "convert", lambda *a: made.append(convert(*a)))
    DAMAGE[damage](kept_folder(fresh_cache))
    for _ in range(2):  # the second time there is nothing to mend
        again = opened(resnet)
        assert (again.key, again.notices) == (first.key, ())
        np.testing.assert_array_equal(again(squares), wanted)
        assert len(made) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe damaged", b"x" * 64])
def test_a_damaged_note_of_a_networks_hash_is_made_anew(content: bytes, resnet: Backbone, fresh_cache: Path) -> None:
    first = opened(resnet)
    (note,) = (fresh_cache / "networks" / "files").iterdir()
    whole = note.read_bytes()
    note.write_bytes(content)
    assert opened(resnet).key == first.key
    assert note.read_bytes() == whole == content_hash(read_weights(resnet)).encode()


def test_prepared_weights_are_the_files_weights_and_fit(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_file = prepared_weights(resnet, resnet.preprocess)
    opened(resnet)
    forbid(monkeypatch, "read_weights")
    beside_graph = prepared_weights(resnet, resnet.preprocess)
    assert content_hash(beside_graph) == content_hash(from_file)
    assert {k: v.shape for k, v in beside_graph.items()} == {k: v.shape for k, v in from_file.items()}
    build(resnet.info.architecture, beside_graph)


@pytest.mark.parametrize("flip", [True, False])
def test_damaged_prepared_weights_are_not_given_out(flip: bool, resnet: Backbone, fresh_cache: Path) -> None:
    opened(resnet)
    path = kept_folder(fresh_cache) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content if flip else content[:-100])
    assert content_hash(prepared_weights(resnet, resnet.preprocess)) == content_hash(read_weights(resnet))


def test_weights_that_claim_another_files_hash_do_not_get_its_graph(resnet: Backbone, fresh_cache: Path) -> None:
    squares, honest = squares_of(resnet, 2), opened(resnet)
    name = next(name for name in read_weights(resnet) if name.endswith("weight"))
    changed = {**read_weights(resnet), name: read_weights(resnet)[name] * 1.5}
    other = opened(resnet, weights=changed)
    assert other.key != honest.key
    expected = reference(resnet, squares)
    assert agreement(honest(squares), expected).accepted("float32")
    assert not agreement(other(squares), expected).accepted("float32")
    assert opened(resnet).key == honest.key  # nor do they take its place
    assert opened(resnet, weights=read_weights(resnet)).key == honest.key


def test_the_key_changes_with_whatever_changes_the_bits(resnet: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resnet.preprocess
    keys = [opened(resnet).key]
    for other in (
        replace(recipe, size=72),
        replace(recipe, mean=(0.4, 0.5, 0.6)),
        replace(recipe, std=(0.3, 0.2, 0.2)),
    ):
        keys.append(open_forward(resnet, other, device="cpu", precision="float32").key)
    monkeypatch.setattr(module, "version", lambda name: "99" if name == "openvino" else "1")
    keys.append(opened(resnet).key)
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 24 for key in keys)


def test_the_fit_does_not_ask_for_another_graph(resnet: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    key = opened(resnet).key
    forbid(monkeypatch, "convert")
    assert open_forward(resnet, resnet.preprocess.with_fit("pad"), device="cpu", precision="float32").key == key


def test_content_hash_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": np.arange(6, dtype=np.float32), "b": np.array(3)}
    others = [
        {"c": base["a"], "b": base["b"]},
        {**base, "a": base["a"].astype(np.float64)},
        {**base, "a": base["a"].reshape(2, 3)},
        {**base, "a": base["a"][::-1]},
        {**base, "b": np.array([3])},
        {"a": base["a"]},
    ]
    assert len({content_hash(w) for w in [base, *others]}) == 7
    assert content_hash(dict(reversed(base.items()))) == content_hash(base)
    assert content_hash({"a": np.asfortranarray(np.eye(3)[:, :2])}) == content_hash({"a": np.eye(3)[:, :2].copy()})


def test_a_cache_that_cannot_be_written_is_said(
    resnet: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="set GRAFTAGE_CACHE to another place"):
        opened(resnet)


def test_a_full_disk_is_said_and_nothing_half_made_is_left(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StoreError, match=r"cannot be written .*No space left"):
        opened(resnet)
    assert [path.name for path in (fresh_cache / "networks").iterdir()] == ["files"]


def test_a_disk_without_room_for_the_graph_is_said_before_it_is_made(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would only speak of a stream's error, and the network run slower on plain PyTorch."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(StoreError, match=r"MB are needed and 1\.0 MB are free; free some space or set GRAFTAGE_CACHE"):
        opened(resnet)


# Falling back


def test_a_graph_that_differs_gives_way_to_pytorch_and_says_so(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLOAT32_TOLERANCE", -1.0)
    forward, squares = opened(resnet), squares_of(resnet, 3)
    assert forward.name == "torch-cpu-float32"
    assert len(forward.notices) == 1
    assert "plain PyTorch, several times slower: OpenVINO in float32 differs from PyTorch" in forward.notices[0]
    alone = np.concatenate([forward(square[None]) for square in squares])
    np.testing.assert_array_equal(forward(squares), alone)
    assert agreement(alone, reference(resnet, squares)).relative_error < 1e-4
    monkeypatch.undo()
    assert forward.key != opened(resnet).key


def test_a_network_that_openvino_cannot_take_runs_on_pytorch(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(torch.nn.Module):
        def forward(self, squares: torch.Tensor) -> torch.Tensor:
            chw = squares.permute(0, 3, 1, 2).float()
            return torch.linalg.eigvalsh(chw[:, 0]) + torch.special.bessel_j0(chw[:, 1, 0])

    monkeypatch.setattr(module._Network, "module", lambda _: Strange())
    forward = opened(resnet)
    assert forward.name == "torch-cpu-float32"
    assert "OpenVINO cannot take this network (No conversion rule found for operations: aten::" in forward.notices[0]
    assert list((fresh_cache / "networks").glob(".*")) == []  # nothing half-made is left


def test_the_users_pictures_are_asked_for_only_if_a_graph_is_made(resnet: Backbone, fresh_cache: Path) -> None:
    asked: list[int] = []

    def sample() -> np.ndarray:
        asked.append(1)
        return squares_of(resnet, 3)

    for _ in range(2):
        assert opened(resnet, sample=sample).name == "openvino-float32"
    assert asked == [1]


def test_an_empty_sample_does_no_harm(resnet: Backbone, fresh_cache: Path) -> None:
    assert opened(resnet, sample=lambda: squares_of(resnet, 0)).name == "openvino-float32"


def test_a_graph_that_differs_on_the_users_pictures_is_not_kept(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(found: np.ndarray, right: np.ndarray) -> Agreement:
        return Agreement(1.0, 0.0) if len(found) == 3 else agreement(found, right)

    monkeypatch.setattr(module, "agreement", strict)
    forward = opened(resnet, sample=lambda: squares_of(resnet, 3))
    assert forward.name == "torch-cpu-float32"
    assert "differs from PyTorch on the first pictures" in forward.notices[0]
    assert [path.name for path in (fresh_cache / "networks").iterdir()] == ["files"]


# Precision and device


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_the_processor_has_it(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: native)
    assert choose_precision("auto") == chosen
    assert [choose_precision(p) for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("flags", "native"), [("avx2 avx512f", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_the_processor_says_whether_it_has_bfloat16(flags: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : fpu {flags}\n")
    assert has_bfloat16() is native


def test_a_machine_without_cpuinfo_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert not has_bfloat16()


def test_unknown_precisions_and_devices_are_refused(resnet: Backbone) -> None:
    with pytest.raises(OptionError, match="precision must be auto, float32 or bfloat16, got 'fp16'"):
        choose_precision("fp16")
    with pytest.raises(OptionError, match="device must be auto, cpu, cuda or mps, got 'tpu'"):
        choose_device("tpu")
    with pytest.raises(OptionError, match="precision must be"):
        opened(resnet, precision="half")
    with pytest.raises(OptionError, match="device must be"):
        opened(resnet, device="tpu")


def test_cuda_is_taken_if_it_is_there_and_refused_if_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [choose_device(d) for d in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(OptionError, match="PyTorch sees no CUDA device here; use --device cpu or auto"):
        choose_device("cuda")


def test_without_a_driver_auto_does_not_ask_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_nvidia_driver", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("PyTorch was asked"))
    assert choose_device("auto") == "cpu"


def test_bfloat16_is_what_the_processor_says_it_is(resnet: Backbone) -> None:
    """Asked for where it is native or not, the name, the key and the notice tell what really ran."""
    import openvino

    forward, plain = opened(resnet, precision="bfloat16"), opened(resnet)
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert forward.name == "openvino-bfloat16"
        assert forward.key != plain.key
        assert not forward.notices
    else:
        assert (forward.name, forward.key) == (plain.name, plain.key)
        assert forward.notices == ("features are computed in float32: this processor does not compute in bfloat16",)


class Rough:
    """A graph whose bfloat16 is float32 with this much noise."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __call__(self, graph: Path, precision: str, *, streams: int) -> Callable[[np.ndarray], np.ndarray]:
        exact = Requests(graph, "float32", streams=streams)
        if precision == "float32":
            return exact
        rng = np.random.default_rng(1)
        return lambda squares: (f := exact(squares)) + (self.noise * f.std() * rng.normal(size=f.shape)).astype("f4")


def test_a_good_bfloat16_is_used_and_has_its_own_key(resnet: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Requests", Rough(0.01))
    forward = opened(resnet, precision="bfloat16")
    assert (forward.name, forward.notices) == ("openvino-bfloat16", ())
    assert forward.key != opened(resnet).key


def test_a_poor_bfloat16_gives_way_to_float32_and_says_so(resnet: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = opened(resnet)
    monkeypatch.setattr(module, "Requests", Rough(1.0))
    forbid(monkeypatch, "convert")  # the graph is good: it is not made anew
    forward = opened(resnet, precision="bfloat16")
    assert (forward.name, forward.key) == (plain.name, plain.key)
    assert "computed in float32: OpenVINO in bfloat16 differs from PyTorch" in forward.notices[0]


def test_no_bfloat16_and_no_float32_graph_ends_on_pytorch(
    resnet: Backbone, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Refused("not today")

    monkeypatch.setattr(module, "Requests", refuse)
    forward = opened(resnet, precision="bfloat16")
    assert forward.name == "torch-cpu-float32"
    assert [notice.split(": ")[1] for notice in forward.notices] == ["not today", "not today"]


def test_pytorch_batches_are_filled_up_so_that_company_does_not_matter(resnet: Backbone) -> None:
    network = module._network(resnet, resnet.preprocess, None)
    run = TorchBatches(network.module(), 4, "cpu")
    squares = squares_of(resnet, 6)
    wanted = reference(resnet, squares)
    for count in (1, 4, 5, 6):
        assert agreement(run(squares[:count]), wanted[:count]).relative_error < 1e-4
    np.testing.assert_array_equal(run(squares[:1]), run(squares[:4])[:1])

    class Company(torch.nn.Module):
        def forward(self, squares: torch.Tensor) -> torch.Tensor:
            return torch.full((len(squares), 1), float(len(squares)))

    assert TorchBatches(Company(), 4, "cpu")(squares).tolist() == [[4.0]] * 6


def test_preprocess_is_part_of_the_graph(network: Make) -> None:
    """The graph takes plain uint8 pixels: another mean gives other features of the same pixels."""
    vit = network("test_vit")
    recipe: Preprocess = replace(vit.preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    changed = replace(vit, preprocess=recipe)
    squares = squares_of(vit, 2)
    assert agreement(opened(changed)(squares), reference(changed, squares)).accepted("float32")
    assert not agreement(opened(changed)(squares), reference(vit, squares)).accepted("float32")


def test_the_graph_is_kept_without_names_of_files(resnet: Backbone, fresh_cache: Path) -> None:
    opened(resnet)
    folder = kept_folder(fresh_cache)
    (compiled,) = folder.glob("*.compiled")
    assert {path.name for path in folder.iterdir()} == {
        compiled.name,
        "network.xml",
        "network.bin",
        "probe.safetensors",
        "weights.safetensors",
    }
    assert str(resnet.file.parent) not in (folder / "network.xml").read_text(encoding="utf-8")
    assert str(fresh_cache).encode() not in compiled.read_bytes()
