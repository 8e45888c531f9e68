"""What an interrupted run leaves: whole or not at all, its own, and told when it cannot be kept."""

from pathlib import Path

import numpy as np
import pytest

from graftage import states
from graftage.errors import OptionError, StoreError
from graftage.learn.task import State
from graftage.states import States, folder_of

FACTS = {"settings": {"seed": 1}, "pictures": ["a", "b"]}


def state(value: float) -> State:
    return State({"w": np.full(3, value, np.float32), "n": np.array(2)}, {"epoch": 1, "step": 4, "scaler": {}})


@pytest.fixture
def begun(tmp_path: Path) -> States:
    own = States(folder_of(tmp_path / "run"))
    assert own.begin(FACTS, resume=False) is None
    own.keep_plan(FACTS, {"plans": [1]})
    return own


def test_what_is_saved_comes_back(begun: States) -> None:
    begun.save("tail", state(0.5), done=False)
    found = begun.load("tail")
    assert found is not None
    assert found.facts == {"epoch": 1, "step": 4, "scaler": {}, "done": False}
    np.testing.assert_array_equal(found.tensors["w"], np.full(3, 0.5, np.float32))
    assert begun.load("full") is None


def test_a_run_goes_on_with_its_plan_only_when_asked_to(begun: States) -> None:
    assert begun.begin(FACTS, resume=True) == {"plans": [1]}
    with pytest.raises(OptionError, match=r"run\.resume holds the state of an interrupted run: go on with it by --res"):
        begun.begin(FACTS, resume=False)


def test_other_pictures_make_another_run(begun: States) -> None:
    with pytest.raises(OptionError, match=r"belongs to another run \(different: pictures\)"):
        begun.begin({**FACTS, "pictures": ["a", "c"]}, resume=True)


def test_a_full_disk_is_told_and_the_state_before_stays(begun: States, monkeypatch: pytest.MonkeyPatch) -> None:
    begun.save("tail", state(1), done=False)

    def full(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "save_file", full)
    with pytest.raises(
        StoreError, match=r"written \(No space left on device\); free some space and go on with --resume"
    ):
        begun.save("tail", state(2), done=False)
    found = begun.load("tail")
    assert found is not None
    assert found.tensors["w"][0] == 1
    assert sorted(path.name for path in begun.folder.iterdir()) == ["plan.json", "tail.safetensors"]


@pytest.mark.parametrize("content", [b"", b"no state", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_state_is_named(begun: States, content: bytes) -> None:
    (begun.folder / "tail.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"tail\.safetensors: this state cannot be read .* remove it to begin"):
        begun.load("tail")


def test_a_damaged_plan_is_named(begun: States) -> None:
    (begun.folder / "plan.json").write_text("{")
    with pytest.raises(StoreError, match=r"plan\.json: cannot be read .* remove the folder"):
        begun.begin(FACTS, resume=True)


def test_a_finished_run_leaves_nothing(begun: States) -> None:
    begun.save("tail", state(1), done=True)
    begun.remove()
    assert not begun.folder.exists()
