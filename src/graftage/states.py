"""What an interrupted run left: the plan and one file per training, each written whole or not at all."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from graftage import world
from graftage.errors import OptionError, StoreError

if TYPE_CHECKING:
    from graftage.learn.task import State

_PLAN = "plan.json"


def folder_of(final: Path) -> Path:
    """Where the state of the run that will become `final` is kept."""
    return final.with_name(f"{final.name}.resume")


@dataclass(frozen=True)
class States:
    """The states of one run, in a folder beside it."""

    folder: Path

    def begin(self, facts: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """Opens the folder for a run known by `facts`; returns the plan kept there, if it goes on with one.

        Raises:
            OptionError: there is a state and `resume` is off, or it belongs to other settings or pictures.
            StoreError: the folder cannot be written.
        """
        kept = self._plan()
        if kept is None:
            self._write_plan({"facts": facts})
            return None
        if not resume:
            raise OptionError(
                f"{self.folder} holds the state of an interrupted run: go on with it by --resume, or remove the folder"
            )
        if others := [name for name, value in facts.items() if kept["facts"].get(name) != value]:
            raise OptionError(
                f"{self.folder} belongs to another run (different: {', '.join(others)}); repeat its very command with "
                "--resume, or remove the folder"
            )
        plan: dict[str, Any] | None = kept.get("plan")
        return plan

    def keep_plan(self, facts: dict[str, Any], plan: dict[str, Any]) -> None:
        """Keeps what was planned, so that a resumed run does not plan anew."""
        self._write_plan({"facts": facts, "plan": plan})

    def save(self, name: str, state: "State", *, done: bool) -> None:
        """Keeps the state of one training. Raises StoreError; the state kept before stays."""
        if world.rank():
            return
        temporary = self.folder / f".{name}.tmp"
        facts = json.dumps({**state.facts, "done": done})
        try:
            save_file({n: _contiguous(a) for n, a in state.tensors.items()}, temporary, metadata={"facts": facts})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise self._full(error) from error

    def load(self, name: str) -> "State | None":
        """The state of one training, or None if it has not begun; `facts["done"]` says whether it has ended.

        Raises:
            StoreError: it cannot be read.
        """
        from graftage.learn.task import State

        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                facts = json.loads(file.metadata()["facts"])
                return State({key: file.get_tensor(key) for key in file.keys()}, facts)  # noqa: SIM118  not a dict
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}: this state cannot be read ({error}); remove it to begin that part anew"
            ) from error

    def remove(self) -> None:
        """The run is whole: its states are needed no more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _plan(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder / _PLAN}: cannot be read ({error}); remove the folder") from error
        return found

    def _write_plan(self, content: dict[str, Any]) -> None:
        if world.rank():
            return
        temporary = self.folder / f".{_PLAN}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self.folder / _PLAN)
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: Exception) -> StoreError:
        reason = getattr(error, "strerror", None) or str(error)
        return StoreError(
            f"{self.folder}: the state cannot be written ({reason}); free some space and go on with --resume"
        )


def _contiguous(array: Any) -> Any:
    import numpy as np

    return np.asarray(array, order="C")
