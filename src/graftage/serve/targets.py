"""The file formats of an export: how a graph is written, opened by its own runtime, and asked for its metadata (W).

Needs the extra `export`. Every format takes uint8 (H, W, 3) and gives what `wholegraph.WholeGraph` does, by its names.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from graftage.errors import ExportError, OptionError

if TYPE_CHECKING:
    import torch

Card = Mapping[str, Any]
Name = Literal["onnx", "openvino", "torch", "web"]

OPSET = 18  # of ONNX; onnxruntime knows it since 1.14
KEY = "graftage"  # under which the metadata lies
_EXTRA = "graftage.json"  # in a .pt2 file
_PRODUCER = "graftage"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter says which module a node comes from


@dataclass(frozen=True, eq=False)
class Said:
    """What a file says of a picture.

    Attributes:
        probabilities: float32 (K,).
        unlike_p: p-value of a picture like those trained on, 0 to 1; None where the file has no detector.
        unlike: whether it is flagged as unlike them; None likewise.
    """

    probabilities: NDArray[np.float32]
    unlike_p: float | None = None
    unlike: bool | None = None

    @classmethod
    def of(cls, outputs: Sequence[Any]) -> Self:
        """From what a runtime gives, in the order of `wholegraph.OUTPUTS`."""
        probabilities = np.array(outputs[0], np.float32)
        return cls(probabilities, float(outputs[1]), bool(outputs[2])) if len(outputs) > 1 else cls(probabilities)


Run = Callable[[NDArray[np.uint8]], Said]


@dataclass(frozen=True)
class Target:
    """A file format.

    Attributes:
        name: as `--to` has it.
        file: the graph's file.
        modules: what writing and checking it needs.
        write: graph → file.
        convert: ONNX file → file; None where the format has no way there, and so no other precision than float32.
        open: file → something to call.
        label: file and metadata → the file holds them.
        read: file → its metadata.
        exact: whether its runtime computes the resize in float64.
    """

    name: str
    file: str
    modules: tuple[str, ...]
    write: "Callable[[torch.export.ExportedProgram, Path], None]"
    open: Callable[[Path], Run]
    label: Callable[[Path, Card], None]
    read: Callable[[Path], Card]
    convert: Callable[[Path, Path], None] | None
    exact: bool = True

    def require(self) -> None:
        """Raises OptionError where a package is missing."""
        if missing := [name for name in self.modules if find_spec(name) is None]:
            raise OptionError(f"export needs {', '.join(missing)}: run `pip install 'graftage[export]'`")


def _text(card: Card) -> str:
    return json.dumps(card, ensure_ascii=True, allow_nan=False)


# ---------------------------------------------------------------- ONNX


def write_onnx(program: "torch.export.ExportedProgram", path: Path) -> None:
    """Writes an ONNX file in opset `OPSET`, without a trace of where it was made."""
    import torch

    onnx: Any = import_module("onnx")
    from graftage.serve.wholegraph import OUTPUTS, quiet

    try:
        with quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=list(OUTPUTS[: len(program.graph_signature.user_outputs)]),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"the model's network cannot be written as ONNX ({_why(error)}); try --to torch") from error
    assert made is not None, "an exported program always gives an ONNX program"
    model = made.model_proto
    model.producer_name, model.producer_version = _PRODUCER, ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.name = f"{_part(node)}/{node.name}"
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for dimension, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ("height", "width"), strict=False):
        dimension.dim_param = name
    onnx.save(model, path)


def _why(error: BaseException) -> str:
    """The innermost cause in one line: what PyTorch writes around it is advice for its own developers, in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _part(node: Any) -> str:
    """The part of `WholeGraph` that a node comes from: "square", "body", "head", "unlike", or "" between them."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    scopes = ast.literal_eval(text)  # outermost first, the node's own name last
    return str(scopes[1]) if len(scopes) > 2 else ""


def open_onnx(path: Path) -> Run:
    """The file in onnxruntime, on the CPU."""
    ort: Any = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.uint8]) -> Said:
        return Said.of(session.run(None, {"pixels": pixels}))

    return run


def label_onnx(path: Path, card: Card) -> None:
    """Puts the metadata into `metadata_props`."""
    onnx: Any = import_module("onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=_text(card))
    onnx.save(model, path)


def read_onnx(path: Path) -> Card:
    """The metadata."""
    onnx: Any = import_module("onnx")
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return dict(json.loads(found[KEY]))


# ---------------------------------------------------------------- OpenVINO


def write_openvino(program: "torch.export.ExportedProgram", path: Path) -> None:
    """Writes an .xml file, and its weights beside it as .bin: through ONNX, whose front end takes sizes left open."""
    middle = path.with_suffix(".onnx")
    try:
        write_onnx(program, middle)
        convert_openvino(middle, path)
    finally:
        middle.unlink(missing_ok=True)


def convert_openvino(onnx: Path, path: Path) -> None:
    """Writes an ONNX file as .xml and .bin, its numbers as they are."""
    import openvino

    try:
        openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot take this network ({str(error).strip().splitlines()[-1][:120]})") from error


def open_openvino(path: Path) -> Run:
    """The file in OpenVINO, on the CPU, in float32."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f32})
    request = compiled.create_infer_request()

    def run(pixels: NDArray[np.uint8]) -> Said:
        return Said.of(list(request.infer([pixels]).values()))

    return run


def label_openvino(path: Path, card: Card) -> None:
    """Puts the metadata into the model's `rt_info`."""
    import openvino

    weights = path.with_suffix(".bin").read_bytes()  # read whole: the files are written anew under the same names
    model = openvino.Core().read_model(path.read_bytes(), weights)
    model.set_rt_info(_text(card), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def read_openvino(path: Path) -> Card:
    """The metadata."""
    import openvino

    return dict(json.loads(openvino.Core().read_model(path).get_rt_info([KEY]).astype(str)))


# ---------------------------------------------------------------- PyTorch


def write_torch(program: "torch.export.ExportedProgram", path: Path) -> None:
    """Writes a .pt2 file: a graph that torch.export reads back, without Python code of ours."""
    import torch

    torch.export.save(program, path)


def open_torch(path: Path) -> Run:
    """The file in PyTorch, on one thread of the CPU: several would wait for each other at every small step."""
    import torch

    from graftage.serve.wholegraph import quiet

    with quiet():
        module = torch.export.load(path).module()

    def run(pixels: NDArray[np.uint8]) -> Said:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                found = module(torch.from_numpy(np.array(pixels)))
        finally:
            torch.set_num_threads(threads)
        return Said.of([tensor.numpy() for tensor in found])

    return run


def label_torch(path: Path, card: Card) -> None:
    """Puts the metadata beside the graph as an extra file."""
    import torch

    from graftage.serve.wholegraph import quiet

    with quiet():
        program = torch.export.load(path)
        torch.export.save(program, path, extra_files={_EXTRA: _text(card)})


def read_torch(path: Path) -> Card:
    """The metadata."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(f"/{_EXTRA}")]
        return dict(json.loads(archive.read(name)))


def convert_onnx(onnx: Path, path: Path) -> None:
    """Copies the file."""
    path.write_bytes(onnx.read_bytes())


_ONNX = ("onnx", "onnxruntime", "onnxscript")
_AS_ONNX = ("model.onnx", _ONNX, write_onnx, open_onnx, label_onnx, read_onnx, convert_onnx)
_AS_OPENVINO = ("model.xml", _ONNX, write_openvino, open_openvino, label_openvino, read_openvino, convert_openvino)
TARGETS: Mapping[str, Target] = {
    "onnx": Target("onnx", *_AS_ONNX),
    "openvino": Target("openvino", *_AS_OPENVINO, exact=False),
    "torch": Target("torch", "model.pt2", (), write_torch, open_torch, label_torch, read_torch, None),
    "web": Target("web", *_AS_ONNX),
}
