"""`graftage export`: a model becomes a file for another runtime."""

import argparse
from pathlib import Path

from graftage.commands.saying import Commands, add_command, say
from graftage.exporting import FORMATS, MOST, PRECISIONS, export

_TEXT = """\
One file that gives the model's whole answer to an upright RGB picture of any size: it holds resize, crop,
normalisation, network, head, calibration and the flag for pictures unlike those trained on; classes, thresholds and a
model card are its metadata.

  onnx        model.onnx for onnxruntime
  openvino    model.xml and model.bin for OpenVINO
  torch       model.pt2 for torch.export.load
  web         a folder for any static web server: the page of graftage serve, running in the browser

Beside it lies example.py, which uses it without graftage. Before an export is kept, it answers for pictures from their
raw bytes in its own runtime: the labels must be those of the model in float32, and no probability may be off by more
than 1e-3; the flag must be the model's. Else nothing is left, and the worst pictures are named.

--precision fp16 or int8 makes onnx, openvino and web files smaller. Their answers change a little, so the change is
measured on the same pictures, printed and written into the file: labels that differ, and where classes are known
accuracy before and after. Such a file is refused where accuracy falls by more than --max-loss, or, where no classes
are known, where fewer than 98 % of the labels agree; one whose flags change too much is left without them.
The run's test pictures serve to check, never to calibrate.

The page of web is tried in a headless Chromium, too, if there is one: 99.5 % of the labels must be the same. If there
is none, the output says so.
"""
_END = """\
examples:
  graftage export runs/birds/model.safetensors --to onnx
  graftage export model.safetensors --to openvino --check photos/ -o birds-openvino
  graftage export runs/birds/model.safetensors --to onnx --precision int8
  npm pack onnxruntime-web@1.30.0
  graftage export model.safetensors --to web --check photos/ --runtime onnxruntime-web-1.30.0.tgz"""


def add_export(commands: Commands) -> None:
    """Adds the command to the command line."""
    summary = "model → onnx, openvino, torch or a page for the browser, checked before it is kept"
    parser = add_command(commands, "export", summary, text=_TEXT, end=_END)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of its run")
    parser.add_argument("--to", required=True, choices=FORMATS, help="for which runtime")
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        metavar="PHOTOS",
        help=f"pictures, or folders of them, to check it on (default: up to {MOST} of the run beside MODEL)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
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
    say(*made.summary)
    return 0
