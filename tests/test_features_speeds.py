"""How fast a network is here: measured with the real engine, kept by machine, never guessed; and whether it is here."""

import json
from pathlib import Path

import pytest

from graftage.features import bundled, speeds
from graftage.features.athand import at_hand
from graftage.features.backbone import find
from graftage.features.bundled import DEFAULT
from graftage.features.cache import cache_root
from graftage.features.engine import open_forward
from graftage.features.speeds import Speed, machine, measure_speed, note_speed, speed_from, speed_of
from graftage.features.zoo import Facts, facts_of

SLOW, FAST = Speed(10.0, 20, "torch-cpu-float32", "a" * 24), Speed(30.0, 60, "openvino-float32", "b" * 24)


def known_fact(name: str) -> Facts:
    found = facts_of(name)
    assert found is not None
    return found


def test_what_was_noted_is_known_the_fastest_engine_first(fresh_cache: Path) -> None:
    assert speed_of("x") is None
    note_speed("x", SLOW)
    note_speed("x", FAST)
    note_speed("y", SLOW)
    assert speed_of("x") == FAST
    assert speed_of("y") == SLOW
    assert speed_of("x", key=SLOW.key) == SLOW
    assert speed_of("x", key="c" * 24) is None
    note_speed("x", Speed(5.0, 10, FAST.engine, FAST.key))  # the newest of an engine counts
    assert speed_of("x") == SLOW


def test_another_machine_knows_nothing_of_it(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_speed("x", SLOW)
    monkeypatch.setattr(speeds, "machine", lambda: "another processor, 64 cores")
    assert speed_of("x") is None
    note_speed("x", FAST)
    monkeypatch.undo()
    monkeypatch.setenv("GRAFTAGE_CACHE", str(fresh_cache))
    assert speed_of("x") == SLOW


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"m": 3}', b"\xff\xfe", b'{"MACHINE": {"x": {"e": {"key": 1}}}}']
)
def test_a_file_that_somebody_has_changed_is_no_fault(fresh_cache: Path, content: bytes) -> None:
    fresh_cache.mkdir()
    (fresh_cache / "speeds.json").write_bytes(content.replace(b"MACHINE", machine().encode()))
    assert speed_of("x") is None
    note_speed("x", SLOW)
    assert speed_of("x") == SLOW


def test_the_real_engine_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_SECONDS", 0.2)
    network = find(DEFAULT)
    speed = measure_speed(network, precision="float32")
    forward = open_forward(network, network.preprocess, precision="float32")
    assert (speed.engine, speed.key) == (forward.name, forward.key)
    assert 1 < speed.per_second < 1e5
    assert speed.pictures >= 0.2 * speed.per_second * 0.9
    assert speed_of(DEFAULT, key=forward.key) == speed
    assert machine() in json.loads((cache_root() / "speeds.json").read_text(encoding="utf-8"))
    timed = speed_from(forward, 30, 1.5)
    assert (timed.per_second, timed.pictures, timed.key) == (20.0, 30, forward.key)


def test_bundled_networks_are_here_if_their_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = known_fact(DEFAULT)
    assert at_hand(facts)
    monkeypatch.setattr(bundled.importlib.util, "find_spec", lambda _: None)
    assert not at_hand(facts)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "README.md"])
def test_weights_in_the_hubs_cache_are_here(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    facts = known_fact("timm/resnet10t.c3_in1k")
    assert not at_hand(facts)
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / file).write_bytes(b"weights")
    assert at_hand(facts) is (file != "README.md")


def test_a_network_that_no_hub_has_is_not_here() -> None:
    assert not at_hand(known_fact("timm/gcvit_tiny.in1k"))


def test_weights_in_keras_cache_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    facts = known_fact("keras/VGG16")
    assert not at_hand(facts)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / facts.hub).write_bytes(b"weights")
    assert at_hand(facts)
