"""A Keras model as a PyTorch module, its variables under names that are the same in every process."""

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.features.facts import require_same
from graftage.features.keras_itself import PREFIX, keras_model, keras_package, keras_pixels, keras_settings, known_keras

if TYPE_CHECKING:
    import torch


def build_keras(architecture: str, weights: Mapping[str, NDArray[np.generic]], output: str) -> "torch.nn.Module":
    """The network without classifier, in evaluation mode: float32 (n, 3, S, S) in RGB → (n, D).

    Its batch normalisation always uses the statistics of the pretraining, as Keras' guide to transfer learning has it:
    they are buffers. What Keras would train are parameters.

    Args:
        architecture: "keras/NAME".
        weights: by the names of `read_keras_weights`.
        output: "pooled" for the mean of the last map over its places, "flat" for all of it, as Keras' Flatten lays it.

    Raises:
        BackboneError: no Keras, no such network, or the weights do not fit it.
    """
    name = known_keras(architecture.removeprefix(PREFIX), architecture)
    model = keras_model(name)
    variables = variables_of(model)
    wanted = {n: tuple(variable.shape) for n, variable in variables.items()}
    require_same(wanted, {n: tuple(array.shape) for n, array in weights.items()}, architecture)
    with keras_settings("cpu"):
        for n, variable in variables.items():
            variable.assign(np.array(weights[n], dtype=np.float32))
        for layer in model.layers:
            if hasattr(layer, "finalize_state"):  # a Normalization derives what it computes with from its variables
                layer.finalize_state()
    network: torch.nn.Module = _module_class()(model, variables, name, output)
    return network.eval().requires_grad_(False)


def variables_of(model: Any) -> dict[str, Any]:
    """The model's variables of floating point by names that are the same in every process.

    Keras numbers layers and variables that have no name of their own through the whole process; here they are counted
    anew, in each model and in each layer.
    """
    own = _own_names(model)
    named = {}
    for layer in model.layers:
        for i, variable in enumerate(layer.variables):
            if str(variable.dtype).startswith("float"):  # not the counters, which inference never reads
                rest = variable.path.removeprefix(f"{layer.name}/")
                rest = re.sub(r"(^|/)variable(_\d+)?$", rf"\1variable_{i}", rest)
                named[f"{own[layer.name]}/{rest}".replace(".", "_")] = variable  # PyTorch's names hold no dot
    return named


def _own_names(model: Any) -> dict[str, str]:
    counts: dict[str, int] = {}
    names = {}
    for layer in model.layers:
        base = re.sub(r"_\d+$", "", layer.name)
        automatic = base.replace("_", "") == type(layer).__name__.lower()
        names[layer.name] = f"{base}_{counts.get(base, 0)}" if automatic else layer.name
        counts[base] = counts.get(base, 0) + automatic
    return names


@cache
def _module_class() -> Any:
    """The class of the modules, made when PyTorch is first needed."""
    import torch

    keras = keras_package()

    class KerasNetwork(torch.nn.Module):
        """A Keras model as a PyTorch module whose state dict has the names of `read_keras_weights`."""

        def __init__(self, model: Any, variables: Mapping[str, Any], network: str, output: str) -> None:
            super().__init__()
            self._kept = (model,)  # in a tuple, so that its own modules and their many names stay out of sight
            self._statistics = {name: variable for name, variable in variables.items() if not variable.trainable}
            self._network, self._flip, self._output = network, keras_pixels(network)[2], output
            for name, variable in variables.items():
                if variable.trainable:
                    self.register_parameter(name, variable.value)
                else:
                    self.register_buffer(name, variable.value.data)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nhwc = x.permute(0, 2, 3, 1)
            with keras.device(str(x.device)):  # else Keras moves everything to the device that it likes best
                last: torch.Tensor = self._kept[0](nhwc.flip(-1) if self._flip else nhwc, training=False)
            return last.flatten(1) if self._output == "flat" else last.mean((1, 2))  # last: (n, H, W, C)

        def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
            """The call while PyTorch traces: as part of its caller, since only there it gives operations plain names.

            In a part of its own Keras' `aten::subtract` would not become the `aten::sub` that OpenVINO knows.
            """
            return self.forward(*args, **kwargs)

        def _apply(self, fn: Any, recurse: bool = True) -> "KerasNetwork":
            """Moves Keras' statistics along with the buffers, which PyTorch replaces instead of filling."""
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            for name, variable in self._statistics.items():
                variable.value.data = self._buffers[name]
            return self

        def __deepcopy__(self, _: object) -> "torch.nn.Module":
            """Built anew: Keras copies a model by saving it, which parts it from these parameters."""
            arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
            copied = build_keras(f"{PREFIX}{self._network}", arrays, self._output).train(self.training)
            for name, parameter in self.named_parameters():
                copied.get_parameter(name).requires_grad_(parameter.requires_grad)
            return copied.to(next(self.parameters()).device)

    return KerasNetwork
