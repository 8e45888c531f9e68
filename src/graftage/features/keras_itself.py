"""Keras 3 itself, on PyTorch: its classifiers' names, its models, and what it does with pixels, asked of Keras.

`keras` and `torch` are imported when they are needed: they take seconds.
"""

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BackboneError

PREFIX = "keras/"
_INSTALL = "Keras networks need Keras 3: pip install 'graftage[keras]'"


def is_keras(name: str) -> bool:
    """Whether an id or architecture names one of Keras' networks."""
    return name.startswith(PREFIX)


def keras_names() -> tuple[str, ...]:
    """Names of all of Keras' image classifiers, in alphabetical order. Raises BackboneError without Keras."""
    applications = vars(keras_package().applications).items()
    return tuple(sorted(n for n, v in applications if callable(v) and not isinstance(v, ModuleType) and n[0] != "_"))


def keras_version() -> str:
    """Of the Keras that is installed, "" without one. Imports nothing of it."""
    try:
        return version("keras")
    except PackageNotFoundError:
        return ""


def keras_package() -> Any:
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
def keras_settings(device: str) -> Iterator[None]:
    """Keras' settings as its own files expect them, whatever the user's keras.json says; put back afterwards."""
    config = keras_package().config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    try:
        config.set_image_data_format("channels_last")
        config.set_floatx("float32")
        config.set_dtype_policy("float32")
        with keras_package().device(device):
            yield
    finally:
        config.set_image_data_format(before[0])
        config.set_floatx(before[1])
        config.set_dtype_policy(before[2])


def keras_model(name: str, *, device: str = "cpu", weights: str | None = None, top: bool = False) -> Any:
    """Keras' model; on the device "meta" it takes neither memory nor the time for random numbers."""
    shape = {} if top else {"input_shape": (_size(name), _size(name), 3)}
    try:
        with keras_settings(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at inputs other than 224 pixels it says so
            return getattr(keras_package().applications, name)(weights=weights, include_top=top, **shape)
    except ValueError as error:
        raise BackboneError(f"Keras cannot build the network {name} on PyTorch: {error}") from error


@dataclass(frozen=True)
class KerasFacts:
    """What Keras' model without classifier says of itself.

    Attributes:
        size: side of the square that the whole network takes, pixels.
        map: of its last map for one picture: height, width, channels.
        parameters: how many numbers Keras would train.
    """

    size: int
    map: tuple[int, int, int]
    parameters: int


@cache
def keras_facts(name: str) -> KerasFacts:
    """Asked of Keras' model on the device "meta". Raises BackboneError where Keras cannot build it on PyTorch."""
    model = keras_model(name, device="meta")
    height, width, channels = model.output_shape[1:]
    parameters = sum(prod(variable.shape) for variable in model.trainable_variables)
    return KerasFacts(_size(name), (int(height), int(width), int(channels)), parameters)


@cache
def _size(name: str) -> int:
    """The side of the square that the whole network takes; where that is left open Keras means 224."""
    return int(keras_model(name, device="meta", top=True).input_shape[1] or 224)


@cache
def keras_pixels(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Scale and shift of each channel in RGB order, and whether Keras then turns RGB into BGR."""
    with keras_settings("cpu"):
        module = sys.modules[getattr(keras_package().applications, name).__module__]
        colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])  # float64: Keras keeps it
        made = np.array(module.preprocess_input(colours.reshape(1, 2, 2, 3))).reshape(4, 3)  # black, red, green, blue
    flip = bool(made[1, 2] != made[0, 2])
    made = made[:, ::-1] if flip else made
    return np.diag(made[1:] - made[0]) / 255, made[0], flip


def known_keras(name: str, asked: str) -> str:
    """`name`, if Keras has it. Raises BackboneError, which names the nearest, for the backbone id `asked` if not."""
    names = keras_names()
    if name in names:
        return name
    by_lower = {n.lower(): n for n in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    hint = f" Close to it: {', '.join(PREFIX + by_lower[n] for n in near)}." if near else ""
    raise BackboneError(f"backbone {asked}: Keras has no image classifier of this name.{hint}")
