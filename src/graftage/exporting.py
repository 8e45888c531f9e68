"""The verb `export`: a model becomes a file for another runtime, checked on the user's own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.errors import OptionError
from graftage.progress import Silent, Watcher

if TYPE_CHECKING:
    from graftage.serve.export import Exported

FORMATS = ("onnx", "openvino", "torch", "web")
PRECISIONS = ("float32", "fp16", "int8")
MOST = 500  # pictures of a run that are checked on


def export(
    model: str | Path,
    *,
    to: str,
    precision: str = "float32",
    check: Sequence[str | Path] | None = None,
    calibrate: Sequence[str | Path] | None = None,
    max_loss: float | None = None,
    output: str | Path | None = None,
    runtime: str | Path | None = None,
    watcher: Watcher | None = None,
) -> "Exported":
    """Exports a model file; see `graftage export --help`.

    Args:
        model: a model.safetensors, or the folder of a run that holds one.
        to: "onnx", "openvino", "torch" or "web".
        precision: "float32", or "fp16" or "int8" for a smaller file whose change of accuracy is measured.
        check: pictures or folders to check on; None for those of the run that the model file lies in.
        calibrate: likewise to calibrate int8 on; None for training pictures of that run.
        max_loss: of fp16 and int8: points of accuracy that may be lost, 0 to 100; None for 1.
        output: a new folder; None for one named after `to` and the precision beside the model file.
        runtime: for "web", the package onnxruntime-web: a folder, or the file that `npm pack` leaves.
        watcher: told how it goes on.

    Raises:
        OptionError: an unknown format, an output that exists, nothing to check or calibrate on, a missing package.
        BundleError: no model file.
        ExportError: the network has no graph, or the export gives other answers; nothing is left.
    """
    from graftage.serve import export as work
    from graftage.serve.bundle import model_file
    from graftage.serve.lighter import MAX_LOSS
    from graftage.serve.predict import load
    from graftage.serve.sample import LEAST, sample
    from graftage.serve.targets import TARGETS
    from graftage.serve.webfolder import require_runtime

    model, watcher = model_file(model), watcher or Silent()
    if to not in FORMATS:
        raise OptionError(f"to must be one of {', '.join(FORMATS)}, got {to!r}")
    kind = work.require_precision(TARGETS[to], precision)
    _require_sense(precision, calibrate=calibrate, max_loss=max_loss)
    folder = Path(output) if output is not None else model.parent / _folder(to, precision)
    if folder.exists():
        raise OptionError(f"{folder} exists already; name another folder with -o")
    found = None if runtime is None else Path(runtime)
    if to == "web":
        require_runtime(found)
    predictor = load(model, device="cpu", precision="float32")
    chosen = sample(
        model,
        predictor.classes,
        check=check,
        calibrate=calibrate,
        lighter=precision != "float32",
        calibrates=precision == "int8",
    )
    watcher.stage(f"export to {_folder(to, precision)}")
    if (n := len(chosen.check)) < LEAST:
        watcher.note(f"the export is checked on all the {n:,} pictures there are; {LEAST} are better")
    made = work.Made(to, folder, kind, (MAX_LOSS if max_loss is None else max_loss) / 100, found)
    return work.export(predictor, chosen, made, progress=watcher.progress)


def _folder(to: str, precision: str) -> str:
    return to if precision == "float32" else f"{to}-{precision}"


def _require_sense(precision: str, *, calibrate: Sequence[str | Path] | None, max_loss: float | None) -> None:
    """Raises OptionError where an option means nothing here, or is no share of a hundred."""
    if calibrate is not None and precision != "int8":
        raise OptionError(f"--calibrate is for --precision int8; {precision} needs no calibration")
    if max_loss is not None and precision == "float32":
        raise OptionError("--max-loss is for --precision fp16 and int8; float32 must answer as the model does")
    if max_loss is not None and not 0 <= max_loss <= 100:
        raise OptionError(f"--max-loss must be 0 to 100 points of accuracy, got {max_loss:g}")
