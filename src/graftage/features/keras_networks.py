"""Keras' own pretrained image classifiers, run by Keras 3 on PyTorch: `keras/VGG16`, `keras/ResNet50` and the others.

The weights come from Keras' cache (`KERAS_HOME`, else `~/.keras`) or from a file that Keras saved: `.weights.h5`,
`.keras`, or the older `.h5`. Of a file only arrays are read, never the configuration in which code could hide. What
Keras does with pixels, which file it wants and how wide its maps are is asked of Keras itself, not kept in tables here.

`keras` and `torch` are imported when they are needed: they take seconds.
"""

import contextlib
import difflib
import hashlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BackboneError
from graftage.features.facts import Backbone, BackboneInfo, Weights, file_hash, require_same
from graftage.features.keras_files import load_into
from graftage.features.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

PREFIX = "keras/"
SUFFIXES = (".h5", ".hdf5", ".keras")
_INSTALL = "Keras networks need Keras 3: pip install 'graftage[keras]'"
_WAIT = 10  # seconds that the server with Keras' weights has for its first answer

# As the documentation of Keras 2 stated for its own weights, network by network; today's no longer says.
_LICENCES = {
    "VGG16": "CC-BY-4.0",
    "VGG19": "CC-BY-4.0",
    "ResNet50": "MIT",
    "Xception": "MIT",
    "InceptionV3": "Apache-2.0",
    "InceptionResNetV2": "Apache-2.0",
    "MobileNet": "Apache-2.0",
    "MobileNetV2": "Apache-2.0",
    "NASNetLarge": "Apache-2.0",
    "NASNetMobile": "Apache-2.0",
    "DenseNet121": "BSD-3-Clause",
    "DenseNet169": "BSD-3-Clause",
    "DenseNet201": "BSD-3-Clause",
}
# Keras' files of EfficientNet B0 to B7 hold these standard deviations where the layer expects variances.
_DEVIATIONS = (0.229, 0.224, 0.225)


def is_keras(name: str) -> bool:
    """Whether an id or architecture names one of Keras' networks."""
    return name.startswith(PREFIX)


def keras_names() -> tuple[str, ...]:
    """Names of all of Keras' image classifiers, in alphabetical order. Raises BackboneError without Keras."""
    applications = vars(_keras().applications).items()
    return tuple(sorted(n for n, v in applications if callable(v) and not isinstance(v, ModuleType) and n[0] != "_"))


def find_keras(backbone_id: str, architecture: str | None) -> Backbone:
    """The Keras network with this id, its weights on this machine.

    Args:
        backbone_id: "keras/NAME", or the path of a file that Keras saved.
        architecture: "keras/NAME", for a path whose own name does not tell it.

    Raises:
        BackboneError: no Keras, an unknown network, or weights that are neither here nor to be had.
    """
    if is_keras(backbone_id):
        name = _known(backbone_id.removeprefix(PREFIX), backbone_id)
        path, licence, pretraining = _cached(name), _LICENCES.get(name, "unknown"), "ImageNet-1k"
    else:
        path, licence, pretraining = Path(backbone_id), "unknown", "unknown"
        if not path.is_file():
            raise BackboneError(f"{path}: no such weights file")
        name = _named_by(path, architecture)
    facts = _facts(name)
    info = BackboneInfo(
        id=backbone_id,
        architecture=f"{PREFIX}{name}",
        features=facts.map[-1],
        input_size=facts.size,
        weights_sha256=file_hash(path),
        licence=licence,
        pretraining=pretraining,
        parameters=facts.parameters,
    )
    return Backbone(info, preprocess_keras(name), path)


def preprocess_keras(name: str) -> Preprocess:
    """Keras' own treatment of pixels for this network, except for the order of channels: that is the module's.

    Keras' function is asked what it makes of black and of the three pure colours: it is linear in each channel.
    """
    scale, shift, _ = _pixels(name)
    mean, std = [float(-b / (255 * a)) + 0.0 for a, b in zip(scale, shift, strict=True)], 1 / (255 * scale)
    return Preprocess("squash", _facts(name).size, 0.875, "bilinear", _three(mean), _three(std))


def read_keras_weights(backbone: Backbone) -> Weights:
    """The weights of `backbone` by the names that `build_keras` wants.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the architecture (the first that differ are named).
    """
    model = _model(_known(backbone.info.architecture.removeprefix(PREFIX), backbone.info.id))
    with _settings("cpu"):
        load_into(model, backbone.file)
    weights = {name: np.array(variable.value.detach().numpy()) for name, variable in _variables(model).items()}
    return _with_variances(weights) if "/EfficientNetB" in backbone.info.architecture else weights


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
    name = _known(architecture.removeprefix(PREFIX), architecture)
    model = _model(name)
    variables = _variables(model)
    wanted = {n: tuple(variable.shape) for n, variable in variables.items()}
    require_same(wanted, {n: tuple(array.shape) for n, array in weights.items()}, architecture)
    with _settings("cpu"):
        for n, variable in variables.items():
            variable.assign(np.array(weights[n], dtype=np.float32))
        for layer in model.layers:
            if hasattr(layer, "finalize_state"):  # a Normalization derives what it computes with from its variables
                layer.finalize_state()
    network: torch.nn.Module = _module_class()(model, variables, name, output)
    return network.eval().requires_grad_(False)


def keras_version() -> str:
    """Of the Keras that is installed, "" without one. Imports nothing of it."""
    try:
        return version("keras")
    except PackageNotFoundError:
        return ""


def flat_width(architecture: str) -> int:
    """Numbers in the last map of a Keras network."""
    return prod(_facts(_known(architecture.removeprefix(PREFIX), architecture)).map)


# ---------------------------------------------------------------- Keras itself


def _keras() -> Any:
    """The package, on PyTorch."""
    if "keras" not in sys.modules:
        if find_spec("keras") is None:
            raise BackboneError(_INSTALL)
        os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
    except ImportError as error:  # also a Keras 2 without its TensorFlow
        raise BackboneError(f"{_INSTALL} ({error})") from error
    if not hasattr(keras, "device"):
        raise BackboneError(f"{_INSTALL} (here is Keras {keras.__version__})")
    if (found := keras.backend.backend()) != "torch":
        raise BackboneError(
            f"Keras runs on {found} in this process, graftage needs it on PyTorch: set KERAS_BACKEND=torch before "
            "Keras is first imported"
        )
    return keras


@contextlib.contextmanager
def _settings(device: str) -> Iterator[None]:
    """Keras' settings as its own files expect them, whatever the user's keras.json says; put back afterwards."""
    config = _keras().config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    try:
        config.set_image_data_format("channels_last")
        config.set_floatx("float32")
        config.set_dtype_policy("float32")
        with _keras().device(device):
            yield
    finally:
        config.set_image_data_format(before[0])
        config.set_floatx(before[1])
        config.set_dtype_policy(before[2])


def _model(name: str, *, device: str = "cpu", weights: str | None = None, top: bool = False) -> Any:
    """Keras' model; on the device "meta" it takes neither memory nor the time for random numbers."""
    shape = {} if top else {"input_shape": (_size(name), _size(name), 3)}
    try:
        with _settings(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at inputs other than 224 pixels it says so
            return getattr(_keras().applications, name)(weights=weights, include_top=top, **shape)
    except ValueError as error:
        raise BackboneError(f"Keras cannot build the network {name} on PyTorch: {error}") from error


@dataclass(frozen=True)
class _Facts:
    size: int
    map: tuple[int, int, int]  # of one picture: height, width, channels
    parameters: int


@cache
def _facts(name: str) -> _Facts:
    model = _model(name, device="meta")
    height, width, channels = model.output_shape[1:]
    parameters = sum(prod(variable.shape) for variable in model.trainable_variables)
    return _Facts(_size(name), (int(height), int(width), int(channels)), parameters)


@cache
def _size(name: str) -> int:
    """The side of the square that the whole network takes; where that is left open Keras means 224."""
    return int(_model(name, device="meta", top=True).input_shape[1] or 224)


@cache
def _pixels(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Scale and shift of each channel in RGB order, and whether Keras then turns RGB into BGR."""
    with _settings("cpu"):
        module = sys.modules[getattr(_keras().applications, name).__module__]
        colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])  # float64: Keras keeps it
        made = np.array(module.preprocess_input(colours.reshape(1, 2, 2, 3))).reshape(4, 3)  # black, red, green, blue
    flip = bool(made[1, 2] != made[0, 2])
    made = made[:, ::-1] if flip else made
    return np.diag(made[1:] - made[0]) / 255, made[0], flip


def _three(values: Any) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _known(name: str, asked: str) -> str:
    names = keras_names()
    if name in names:
        return name
    by_lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    hint = f" Close to it: {', '.join(PREFIX + by_lower[n] for n in near)}." if near else ""
    raise BackboneError(f"backbone {asked}: Keras has no image classifier of this name.{hint}")


def _named_by(path: Path, architecture: str | None) -> str:
    """The network that a file belongs to: as told, or as the file's own name begins."""
    if architecture is not None:
        return _known(architecture.removeprefix(PREFIX), architecture)
    by_lower = {n.lower(): n for n in keras_names()}
    if (name := by_lower.get(path.name.split(".")[0].lower())) is None:
        raise BackboneError(
            f"{path}: say which network these weights belong to with --architecture {PREFIX}NAME, for example "
            f"{PREFIX}VGG16"
        )
    return name


# ---------------------------------------------------------------- Keras' cache


@dataclass(frozen=True)
class _Wanted:
    """The file that Keras looks for: its name in the cache, its address, its MD5 or SHA-256 where Keras knows one."""

    file: str
    url: str
    hash: str | None


class _Asked(Exception):
    pass


@cache
def _wanted(name: str) -> _Wanted:
    """What Keras would fetch for this network: it is built, and when it asks for its file the question is noted."""
    _keras()
    from keras.src.utils import file_utils

    def note(fname: str, origin: str, file_hash: str | None = None, **_: object) -> None:
        raise _Asked(fname, origin, file_hash)

    fetch = file_utils.get_file
    file_utils.get_file = note
    try:
        _model(name, device="meta", weights="imagenet")
    except _Asked as asked:
        return _Wanted(*asked.args)
    finally:
        file_utils.get_file = fetch
    raise BackboneError(f"Keras has no ImageNet weights for {name}; pass a file with --architecture {PREFIX}{name}")


def _cached(name: str) -> Path:
    """Keras' own weights file, fetched if it is not here and can be had."""
    wanted, home = _wanted(name), Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / wanted.file
    if not path.is_file():
        _fetch(name, wanted, home)
    if wanted.hash and (found := _hash(path, wanted.hash)) != wanted.hash:
        raise BackboneError(
            f"backbone {PREFIX}{name}: {path} has the hash {found[:16]}…, Keras expects {wanted.hash[:16]}…; "
            f"delete it and get it again from {wanted.url}"
        )
    return path


def _hash(path: Path, like: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5" if len(like) == 32 else "sha256").hexdigest()


def _fetch(name: str, wanted: _Wanted, home: Path) -> None:
    """Keras' own download, unless a first knock at the door gets no answer."""
    from urllib.request import Request, urlopen

    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        if HF_HUB_OFFLINE:  # the one switch for “no network” that graftage knows
            raise ConnectionError
        urlopen(Request(wanted.url, method="HEAD"), timeout=_WAIT).close()
        home.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            _keras().utils.get_file(
                wanted.file, wanted.url, cache_dir=str(home), cache_subdir="models", file_hash=wanted.hash
            )
    except Exception as error:  # no network, proxy, certificate, full disk, another file than expected
        offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else f"could not be fetched ({type(error).__name__})"
        raise BackboneError(
            f"backbone {PREFIX}{name}: its weights are not on this machine and {offline}. Bring {wanted.url} to "
            f"{home / 'models' / wanted.file} (KERAS_HOME moves it), or pass the path of a file that Keras saved with "
            f"--architecture {PREFIX}{name}"
        ) from error


# ---------------------------------------------------------------- weights


def _variables(model: Any) -> dict[str, Any]:
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


def _with_variances(weights: Weights) -> Weights:
    """EfficientNet B0 to B7 with true variances.

    Built for its ImageNet weights, Keras puts a second rescaling by 1/√deviation behind the layer to make up for the
    deviations that the file gives it as variances (tensorflow issue 49930). Deviation · deviation says the same within
    the network that is built for anyone's weights; a file that was not pretrained so holds other numbers.
    """
    (name,) = (n for n in weights if n.startswith("normalization") and n.endswith("/variance"))
    variance = np.asarray(weights[name], dtype=np.float32)
    if np.allclose(variance.ravel(), _DEVIATIONS, rtol=1e-3):
        weights[name] = variance * np.asarray(_DEVIATIONS, dtype=np.float32)
    return weights


# ---------------------------------------------------------------- the module


@cache
def _module_class() -> Any:
    """The class of the modules, made when PyTorch is first needed."""
    import torch

    keras = _keras()

    class KerasNetwork(torch.nn.Module):
        """A Keras model as a PyTorch module whose state dict has the names of `read_keras_weights`."""

        def __init__(self, model: Any, variables: Mapping[str, Any], network: str, output: str) -> None:
            super().__init__()
            self._kept = (model,)  # in a tuple, so that its own modules and their many names stay out of sight
            self._statistics = {name: variable for name, variable in variables.items() if not variable.trainable}
            self._network, self._flip, self._output = network, _pixels(network)[2], output
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
