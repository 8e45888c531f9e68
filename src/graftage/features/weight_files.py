"""Files of weights as they lie on a disk: tensors by name, read without running any code from the file.

`.safetensors` by safetensors; everything else as PyTorch's own format with `weights_only=True`, which builds tensors,
numbers, text and containers and nothing else. What a training script wrapped around the tensors is taken off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from graftage.errors import BackboneError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

# Scripts put the tensors of a network under one of these: Lightning and others, then torchvision's references
_NESTED = ("state_dict", "model")
# and their names behind one of these: torch.compile, transformers' wrapper around timm, Lightning
_WRAPPERS = ("_orig_mod.", "timm_model.", "model.")


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        tensors: by name, without the prefixes of wrappers.
        architecture: timm's name of the network where the file says it itself, else "".
    """

    tensors: "Tensors"
    architecture: str


def read_file(path: Path, *, outline: bool = False) -> WeightFile:
    """The tensors of a file of weights.

    Args:
        path: a .safetensors file, or one of PyTorch's.
        outline: shapes alone, as tensors on PyTorch's "meta" device; of a .safetensors only the head is read.

    Raises:
        BackboneError: the file is damaged, or holds something other than tensors by name.
    """
    try:
        tensors, said = _read_safe(path, outline) if path.suffix == ".safetensors" else _read_pickled(path, outline)
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path}: these weights cannot be read ({reason}); get the file again") from error
    return WeightFile(_unwrapped(tensors), said)


def _read_safe(path: Path, outline: bool) -> tuple["Tensors", str]:
    import torch
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:  # NumPy's form of it knows no bfloat16
        said = (file.metadata() or {}).get("architecture", "")
        if outline:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, said
        return {name: file.get_tensor(name) for name in file.keys()}, said  # noqa: SIM118


def _read_pickled(path: Path, outline: bool) -> tuple["Tensors", str]:
    import torch

    try:
        state: Any = torch.load(path, map_location="meta" if outline else "cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # hostile or damaged bytes make the reader raise nearly anything
        raise ValueError("it is damaged or holds more than tensors, and graftage runs no code from a file") from error
    said = next((state[k] for k in ("arch", "architecture") if isinstance(state, dict) and k in state), "")
    for nested in _NESTED:
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("it holds no tensors by name")
    for value in state.values():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"a {type(value).__name__} lies among its tensors")
    return state, said if isinstance(said, str) else ""


def _unwrapped(tensors: "Tensors") -> "Tensors":
    """Names as the network itself has them; other prefixes are left, since they may be the network's."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
