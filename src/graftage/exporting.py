"""`graftage export`: a model becomes a file for another runtime, checked on the user's own pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.errors import OptionError
from graftage.progress import Silent, Watcher

if TYPE_CHECKING:
    from graftage.serve.export import Exported

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_FORMATS = ("onnx", "openvino", "torch", "web")
_PRECISIONS = ("float32", "fp16", "int8")
_MOST = 500  # pictures of a run that are checked on
_TEXT = """\
One file that gives the model's whole answer to an upright RGB picture of any size: it holds resize, crop,
normalisation, network, head and calibration; classes, thresholds and a model card are its metadata.

  onnx        model.onnx for onnxruntime
  openvino    model.xml and model.bin for OpenVINO
  torch       model.pt2 for torch.export.load
  web         a folder for any static web server: the page of graftage serve, running in the browser

Beside it lies example.py, which uses it without graftage. Before an export is kept, it answers for pictures from their
raw bytes in its own runtime: the labels must be those of the model in float32, and no probability may be off by more
than 1e-3. Else nothing is left, and the worst pictures are named.

--precision fp16 or int8 makes onnx, openvino and web files smaller. Their answers change a little, so the change is
measured on the same pictures, printed and written into the file: labels that differ, and where classes are known
accuracy before and after. Such a file is refused where accuracy falls by more than --max-loss, or, where no classes
are known, where fewer than 98 % of the labels agree. The run's test pictures serve to check, never to calibrate.
"""
_END = """\
examples:
  graftage export runs/birds/model.safetensors --to onnx
  graftage export model.safetensors --to openvino --check photos/ -o birds-openvino
  graftage export runs/birds/model.safetensors --to onnx --precision int8
  npm pack onnxruntime-web@1.30.0
  graftage export model.safetensors --to web --check photos/ --runtime onnxruntime-web-1.30.0.tgz"""


def add_export(commands: "Commands") -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "export",
        help="model → onnx, openvino, torch or a page for the browser, checked before it is kept",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of its run")
    parser.add_argument("--to", required=True, choices=_FORMATS, help="for which runtime")
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        metavar="PHOTOS",
        help=f"pictures, or folders of them, to check it on (default: up to {_MOST} of the run beside MODEL)",
    )
    parser.add_argument(
        "--precision",
        choices=_PRECISIONS,
        default="float32",
        help="fp16: weights in 16 bits, half the size; int8: the network in 8 bits, a quarter (default: float32)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        type=Path,
        metavar="PHOTOS",
        help="for int8: pictures to take ranges from, none of them checked on (default: training pictures of the run)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="POINTS",
        help="for fp16 and int8: points of accuracy that may be lost (default: 1)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="a new folder (default: TO beside MODEL)")
    parser.add_argument("--runtime", type=Path, metavar="PACKAGE", help="for web: what `npm pack onnxruntime-web` left")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        made = export(
            arguments.model,
            to=arguments.to,
            precision=arguments.precision,
            check=arguments.check,
            calibrate=arguments.calibrate,
            max_loss=arguments.max_loss,
            output=arguments.output,
            runtime=arguments.runtime,
            watcher=terminal,
        )
    print(*made.summary, sep="\n")
    return 0


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
    if to not in _FORMATS:
        raise OptionError(f"to must be one of {', '.join(_FORMATS)}, got {to!r}")
    work.require_precision(TARGETS[to], precision)
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
    made = work.Made(to, folder, precision, (MAX_LOSS if max_loss is None else max_loss) / 100, found)  # type: ignore[arg-type]
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
