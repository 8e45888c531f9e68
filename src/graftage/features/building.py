"""Weights become a network: timm's and Keras' modules, at any size, with several of their maps, or side by side."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BackboneError
from graftage.features.facts import Weights, require_same
from graftage.features.keras_itself import is_keras
from graftage.features.keras_module import build_keras
from graftage.features.variants import layers_of

if TYPE_CHECKING:
    import torch

OUTPUTS = ("pooled", "flat", "layers2", "layers3", "layers4")


def build(
    architecture: str, weights: Mapping[str, NDArray[np.generic]], *, output: str = "pooled", size: int | None = None
) -> "torch.nn.Module":
    """The network without classifier, in evaluation mode: float32 (n, 3, S, S) → (n, D).

    Args:
        architecture: timm's name, or keras/NAME; of several networks side by side, joined by +.
        weights: by the names of the module.
        output: "pooled" for the network's own feature vector, "flat" for its last map, flattened, "layersN" for its own
            vector beside N − 1 earlier ones.
        size: side of the squares, pixels; None for that of the pretraining.

    Raises:
        BackboneError: `architecture` is not a timm or Keras model, or the weights do not fit it.
    """
    if "+" in architecture:
        return _build_beside(architecture, weights, output, size)
    if is_keras(architecture):
        return build_keras(architecture, weights, output)
    module = create(architecture, num_classes=0, size=size)
    if output == "flat":
        from graftage.features.stages import flattened

        module = flattened(module.eval(), size or int(module.pretrained_cfg["input_size"][-1]))
    elif (layers := layers_of(output)) > 1:
        module = _layered(module, layers, architecture)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    require_same(wanted, {name: tuple(array.shape) for name, array in weights.items()}, architecture)
    module.load_state_dict(tensors_of(weights))
    frozen: torch.nn.Module = module.eval().requires_grad_(False)
    return frozen


def _build_beside(
    architecture: str, weights: Mapping[str, NDArray[np.generic]], output: str, size: int | None
) -> "torch.nn.Module":
    from graftage.features.layers import Beside

    parts: dict[str, dict[str, NDArray[np.generic]]] = {}
    for name, array in weights.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = array
    names = architecture.split("+")
    if set(parts) != {str(i) for i in range(len(names))}:
        raise BackboneError(f"{architecture}: the weights are not those of {len(names)} networks")
    bodies, scales, shifts = [], [], []
    for i, name in enumerate(names):
        own = parts[str(i)]
        shapes = {key: own[key].shape if key in own else None for key in ("scale", "shift")}
        if set(shapes.values()) != {(3,)}:
            raise BackboneError(f"{architecture}: network {i + 1} has no scale and shift of three numbers")
        scales.append(tensors_of({"": own.pop("scale")})[""].float())
        shifts.append(tensors_of({"": own.pop("shift")})[""].float())
        inner = {key.removeprefix("body."): array for key, array in own.items()}
        bodies.append(build(name, inner, output=output, size=size))
    return Beside(bodies, scales, shifts).eval().requires_grad_(False)


def _layered(module: Any, layers: int, architecture: str) -> "torch.nn.Module":
    from graftage.features.layers import Layered, Shallow

    try:
        return Layered(module.eval(), layers).eval()
    except Shallow as reason:
        raise BackboneError(f"{architecture}: {layers} of its layers cannot be had: {reason}") from reason


def random_weights(architecture: str, *, seed: int, size: int | None = None) -> Weights:
    """The weights with which timm starts the training of a network that knows nothing, on squares of `size` pixels.

    Raises:
        BackboneError: a Keras network: its statistics stay as they are (see `build_keras`), so it cannot start anew.
    """
    if is_keras(architecture):
        raise BackboneError(f"{architecture} cannot be trained from scratch here; take the timm network of its kind")
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = create(architecture, num_classes=0, size=size, random=True)
    return {name: array_of(tensor) for name, tensor in module.state_dict().items()}


def create(architecture: str, *, num_classes: int, size: int | None = None, random: bool = False) -> Any:
    """timm's module in training mode.

    Args:
        architecture: timm's name.
        num_classes: of its classifier; 0 for none, the network then gives its feature vector.
        size: side of the squares, pixels; None for that of the pretraining.
        random: whether its parameters are drawn as a training starts with them; else they hold anything.

    Raises:
        BackboneError: timm does not build it, or not at this size.
    """
    import timm

    from graftage.features.unfilled import Unfilled

    def made(**options: Any) -> Any:
        with nullcontext() if random else Unfilled():
            return timm.create_model(architecture, pretrained=False, num_classes=num_classes, **options)

    try:
        module: Any = made()
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"timm cannot build the network {architecture!r}: {error}") from error
    own = module.pretrained_cfg
    if size in (None, own["input_size"][-1]) or not own.get("fixed_input_size"):
        return module
    try:
        return made(img_size=size)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise BackboneError(
            f"{architecture} takes squares of {own['input_size'][-1]} pixels only, not of {size}: {error}"
        ) from error


def outline(architecture: str, *, size: int | None = None) -> Any:
    """timm's module without classifier, in evaluation mode, with shapes but no weights: PyTorch's device "meta".

    It takes neither the memory of the weights nor the time for random ones. See `create` for what it raises.
    """
    import torch

    with torch.device("meta"):
        return create(architecture, num_classes=0, size=size).eval()


def array_of(tensor: "torch.Tensor") -> NDArray[np.generic]:
    """A CPU tensor as an array of the same shape and type, half precision as float32; memory may be shared."""
    import torch

    array: NDArray[np.generic] = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    return array


def tensors_of(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, "torch.Tensor"]:
    """Copies of the arrays as CPU tensors of the same shapes and types."""
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
