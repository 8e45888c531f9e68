"""`graftage export`: a model becomes a file for another runtime, checked on the user's own pictures."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.errors import OptionError
from graftage.progress import Silent, Watcher

if TYPE_CHECKING:
    from graftage.serve.export import Exported

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_FORMATS = ("onnx", "openvino", "torch", "web")
_LEDGER = "ledger.csv"
_MOST = 500  # pictures that are checked on, unless --check names more
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
"""
_END = """\
examples:
  graftage export runs/birds/model.safetensors --to onnx
  graftage export model.safetensors --to openvino --check photos/ -o birds-openvino
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
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors")
    parser.add_argument("--to", required=True, choices=_FORMATS, help="for which runtime")
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        metavar="PHOTOS",
        help=f"pictures, or folders of them, to check it on (default: up to {_MOST} of the run beside MODEL)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="a new folder (default: MODEL's folder/TO)")
    parser.add_argument("--runtime", type=Path, metavar="PACKAGE", help="for web: what `npm pack onnxruntime-web` left")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        made = export(
            arguments.model,
            to=arguments.to,
            check=arguments.check,
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
    check: Sequence[str | Path] | None = None,
    output: str | Path | None = None,
    runtime: str | Path | None = None,
    watcher: Watcher | None = None,
) -> "Exported":
    """Exports a model file; see `graftage export --help`.

    Args:
        model: a model.safetensors.
        to: "onnx", "openvino", "torch" or "web".
        check: pictures or folders to check on; None for those of the run that the model file lies in.
        output: a new folder; None for one named after `to` beside the model file.
        runtime: for "web", the package onnxruntime-web: a folder, or the file that `npm pack` leaves.
        watcher: told how it goes on.

    Raises:
        OptionError: an unknown format, an output that exists, nothing to check on, a missing package.
        BundleError: no model file.
        ExportError: the network has no graph, or the export gives other answers; nothing is left.
    """
    from graftage.serve import export as work
    from graftage.serve.predict import load
    from graftage.serve.webfolder import require_runtime

    model, watcher = Path(model), watcher or Silent()
    if to not in _FORMATS:
        raise OptionError(f"to must be one of {', '.join(_FORMATS)}, got {to!r}")
    folder = Path(output) if output is not None else model.parent / to
    if folder.exists():
        raise OptionError(f"{folder} exists already; name another folder with -o")
    found = None if runtime is None else Path(runtime)
    if to == "web":
        require_runtime(found)
    predictor = load(model, device="cpu", precision="float32")
    pictures = _pictures(model, check)
    watcher.stage(f"export to {to}")
    if len(pictures) < work.LEAST:
        watcher.note(f"the export is checked on all the {len(pictures):,} pictures there are; {work.LEAST} are better")
    return work.export(predictor, pictures, to=to, output=folder, runtime=found, progress=watcher.progress)


def _pictures(model: Path, check: Sequence[str | Path] | None) -> list[Path]:
    """What to check on, evenly from all there are."""
    from graftage.data.sources import unlabelled

    if check is not None:
        named = [Path(name) for name in check]
        if missing := [name for name in named if not name.exists()]:
            raise OptionError(f"{missing[0]}: there is no such picture or folder to check the export on")
        return [source.path for source in unlabelled(named)]
    found = _of_run(model.parent)
    if not found:
        raise OptionError(
            f"an export is checked on pictures before it is kept, and beside {model} lies no {_LEDGER} that names "
            "pictures which are still there: name some with --check PHOTOS"
        )
    return [found[i * len(found) // min(_MOST, len(found))] for i in range(min(_MOST, len(found)))]


def _of_run(folder: Path) -> list[Path]:
    """Pictures that the run in this folder used, as far as they are where they were."""
    try:
        with (folder / _LEDGER).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("status") == "used"]
    except (OSError, csv.Error):
        return []
    return [path for row in rows if (path := Path(row.get("path") or "")).is_file()]
