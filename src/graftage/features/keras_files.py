"""Files of weights that Keras saved: `.weights.h5`, `.keras`, and the older `.h5` that its own cache still holds.

Arrays are read and nothing else. A `.keras` archive has the network's configuration beside them, in which code could
hide: it is not opened. Keras refuses files whose links lead out of them.
"""

import contextlib
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

from graftage.errors import BackboneError
from graftage.features.facts import require_same

_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, zipfile.BadZipFile)


def load_into(model: Any, path: Path) -> None:
    """Fills a Keras model without classifier from a file that Keras saved, with or without one.

    Raises:
        BackboneError: the file is damaged or its tensors do not fit the model (the first that differ are named).
    """
    by_name = {"by_name": True} if _is_older(path) and _has_classifier(model, path) else {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Skipping")  # a part of the network would stay as it was
            model.load_weights(str(path), **by_name)
    except Exception as error:  # hostile or damaged bytes make the reader raise nearly anything
        with contextlib.suppress(*_UNREADABLE):
            require_same(_layout_of(model, path), _layout(path), str(path))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path}: these weights cannot be read ({reason}); get the file again") from error


def _has_classifier(model: Any, path: Path) -> bool:
    """Whether an older file holds all that the network wants and more, which does not fit when read in order."""
    try:
        wanted, found = _layout_of(model, path), _layout(path)
    except _UNREADABLE:
        return False
    return wanted.items() < found.items()


def _is_older(path: Path) -> bool:
    return path.suffix != ".keras" and not path.name.endswith(".weights.h5")


def _layout(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in a file that Keras saved: by place in it, in older files by layer and number."""
    import h5py

    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as stream, h5py.File(stream) as file:
            return _arrays_in(file)
    with h5py.File(path) as file:
        return _layers_in(file.get("model_weights", file)) if _is_older(path) else _arrays_in(file)


def _arrays_in(file: Any) -> dict[str, tuple[int, ...]]:
    import h5py

    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            found[name] = tuple(item.shape)

    file.visititems(note)  # follows no link out of the file
    return found


def _layers_in(group: Any) -> dict[str, tuple[int, ...]]:
    from keras.src.legacy.saving.legacy_h5_format import load_attributes_from_hdf5_group as texts

    return {
        f"{layer}[{i}]": tuple(group[layer][name].shape)
        for layer in texts(group, "layer_names")
        for i, name in enumerate(texts(group[layer], "weight_names"))
    }


def _layout_of(model: Any, path: Path) -> dict[str, tuple[int, ...]]:
    """What `_layout` would find in a file of the same kind saved from this very model."""
    if _is_older(path):
        return {
            f"{layer.name}[{i}]": tuple(variable.shape)
            for layer in model.layers
            for i, variable in enumerate(layer.trainable_weights + layer.non_trainable_weights)
        }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with NumPy 2 it warns of itself
        model.save_weights(saved := Path(folder) / "it.weights.h5")
        return _layout(saved)
