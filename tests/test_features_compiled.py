"""Compiled graphs that are kept: the same bits, never from a damaged file or another graph's, and never a fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset8 as ops

from graftage.features import compiled as module
from graftage.features.graph import Damaged, Requests

SQUARES = np.random.default_rng(3).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def write(path: Path, *, seed: int = 0) -> Path:
    """Two convolutions of random weights, and the mean."""
    rng = np.random.default_rng(seed)
    picture = ops.parameter([1, 16, 16, 3], np.uint8)
    x = ops.transpose(ops.convert(picture, "f32"), [0, 3, 1, 2])
    for shape in ((8, 3, 3, 3), (12, 8, 3, 3)):
        kernel = rng.normal(size=shape).astype(np.float32)
        x = ops.relu(ops.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
    mean = ops.reduce_mean(x, np.array([2, 3]), False)
    openvino.save_model(openvino.Model([mean], [picture]), path, compress_to_fp16=False)
    return path


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.compiled"))


def answers(graph: Path, *, streams: int = 1) -> np.ndarray:
    return Requests(graph, "float32", streams=streams)(SQUARES)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that were compiled, not taken up."""
    made: list[str] = []
    compile_model = openvino.Core.compile_model

    def told(core: openvino.Core, graph: str, *others: Any) -> Any:
        made.append(graph)
        return compile_model(core, graph, *others)

    monkeypatch.setattr(openvino.Core, "compile_model", told)
    return made


def test_a_graph_is_compiled_once_and_gives_the_same_bits(tmp_path: Path, compiling: list[str]) -> None:
    graph = write(tmp_path / "network.xml")
    first = answers(graph)
    for _ in range(2):
        np.testing.assert_array_equal(answers(graph), first)
    assert compiling == [str(graph)]
    assert len(kept(tmp_path)) == 1
    assert str(tmp_path).encode() not in kept(tmp_path)[0].read_bytes()
    moved = tmp_path.rename(tmp_path.with_name("elsewhere"))  # as a folder that appears whole is renamed
    np.testing.assert_array_equal(answers(moved / "network.xml"), first)
    assert len(compiling) == 1


def test_another_graph_in_its_place_or_other_options_are_compiled(tmp_path: Path, compiling: list[str]) -> None:
    first = answers(write(tmp_path / "network.xml"))
    assert not np.array_equal(answers(write(tmp_path / "network.xml", seed=1)), first)
    answers(tmp_path / "network.xml", streams=2)
    assert len(compiling) == len(kept(tmp_path)) == 3


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "a flipped bit": flipped,
    "its hash alone": lambda content: content[:32],
    "more": lambda content: content + b"x",
    "another hash": lambda content: bytes(32) + content[32:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_made_anew(tmp_path: Path, compiling: list[str], damage: str) -> None:
    graph = write(tmp_path / "network.xml")
    first = answers(graph)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage](whole))
    np.testing.assert_array_equal(answers(graph), first)
    assert len(compiling) == 2
    np.testing.assert_array_equal(answers(graph), first)
    assert len(compiling) == 2


def test_what_openvino_does_not_take_is_compiled(
    tmp_path: Path, compiling: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("made by another build")

    graph = write(tmp_path / "network.xml")
    first = answers(graph)
    monkeypatch.setattr(openvino.Core, "import_model", refuse)
    np.testing.assert_array_equal(answers(graph), first)
    assert len(compiling) == 2


def test_a_large_graph_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 100)
    answers(write(tmp_path / "network.xml"))
    assert not kept(tmp_path)


def test_a_place_that_cannot_be_written_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    graph = write(tmp_path / "network.xml")
    np.testing.assert_array_equal(answers(graph), answers(graph))
    assert not kept(tmp_path)


def test_a_graph_that_is_not_there_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        answers(tmp_path / "no.xml")
