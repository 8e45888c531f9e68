"""A model as an ONNX graph in fewer bits: the network changes, what makes the square and the head stay as they are (C).

`fp16` keeps weights in 16 bits and computes as before: each goes through a Cast, which runtimes carry out once, when
they open the file. `int8` lets onnxruntime's own static quantisation put the network in whole numbers of 8 bits
(Jacob et al. 2018): a scale for each output channel of a weight, one for each map, from its range in calibration
pictures. Weights keep within 7 bits: on processors without VNNI a sum of two products of 8 bits does not fit where it
is put, and the same file would answer differently from machine to machine.

The head keeps float32 in both: in fp16 it made three times the change that the whole network made.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftage.errors import ExportError

Precision = Literal["float32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "fp16", "int8")

_BODY = "body"  # of `WholeGraph`: nodes are named after the part they lie in, as "body/node_Conv_7"
_LEAST = 256  # numbers: smaller tensors stay as they are
_LARGEST = 65_504.0  # of fp16
_QUANTISED = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "GlobalAveragePool", "AveragePool", "MaxPool")
_Model = Any  # onnx.ModelProto, which has no types


def halved(model: _Model) -> None:
    """Puts the large float32 tensors of the network into fp16, each with a Cast to float32 behind it.

    Tensors with numbers beyond fp16's range stay in float32.
    """
    onnx: Any = import_module("onnx")
    used = {name for node in model.graph.node if _part(node) == _BODY for name in node.input}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in used or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < _LEAST or not float(np.abs(values).max()) <= _LARGEST:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], f"cast/{name}", to=onnx.TensorProto.FLOAT))
    _put_first(model, casts)


def quantised(model: _Model, inputs: Iterable[NDArray[np.float32]]) -> None:
    """Puts the network into int8, calibrated on what it is given, (1, 3, S, S) each.

    Raises:
        ExportError: the network is not one piece of the graph, or onnxruntime cannot quantise it.
    """
    onnx: Any = import_module("onnx")
    body = [node for node in model.graph.node if _part(node) == _BODY]
    entry, exit_ = _ends(model, body)
    calibration = _Reader(entry, iter(inputs))
    with tempfile.TemporaryDirectory() as folder, _silent():
        network, result = Path(folder) / "network.onnx", Path(folder) / "int8.onnx"
        onnx.save(_alone(model, entry, exit_, calibration.shape), network)
        _quantise(network, result, calibration)
        made = onnx.load(result)
    first = next(i for i, node in enumerate(model.graph.node) if _part(node) == _BODY)
    rest = [node for node in model.graph.node if _part(node) != _BODY]
    before = sum(_part(node) != _BODY for node in model.graph.node[:first])
    nodes = [*rest[:before], *made.graph.node, *rest[before:]]
    held = {tensor.name: tensor for tensor in (*model.graph.initializer, *made.graph.initializer)}
    needed = {name for node in nodes for name in node.input} - {name for node in nodes for name in node.output}
    _replace(model.graph.node, nodes)
    _replace(model.graph.initializer, [tensor for name, tensor in held.items() if name in needed])
    del model.graph.value_info[:]
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in made.opset_import if entry.domain not in known)


def _quantise(network: Path, result: Path, calibration: "_Reader") -> None:
    tool: Any = import_module("onnxruntime.quantization")
    try:
        tool.quantize_static(
            network,
            result,
            calibration,
            quant_format=tool.QuantFormat.QDQ,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            reduce_range=True,
            calibrate_method=tool.CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True},  # of the pictures' ranges: one odd picture does not decide
        )
    except Exception as error:  # what its graph surgery raises shares no other class
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ExportError(f"onnxruntime cannot quantise this network ({line}); try --precision fp16") from error


class _Reader:
    """Calibration pictures as onnxruntime's quantisation asks for them."""

    def __init__(self, name: str, inputs: Iterator[NDArray[np.float32]]) -> None:
        self._name, self._first, self._inputs = name, next(inputs), inputs
        self.shape = self._first.shape
        self._started = False

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next picture, None after the last."""
        found = next(self._inputs, None) if self._started else self._first
        self._started = True
        return None if found is None else {self._name: found}


def _ends(model: _Model, body: list[Any]) -> tuple[str, str]:
    """Names of what goes into the network and of what comes out."""
    made = {name for node in body for name in node.output}
    elsewhere = {name for node in model.graph.node if _part(node) != _BODY for name in node.output}
    entries = {name for node in body for name in node.input} & elsewhere
    exits = made & {name for node in model.graph.node if _part(node) != _BODY for name in node.input}
    if len(entries) != 1 or len(exits) != 1:
        raise ExportError(
            f"the network cannot be taken out of the graph to quantise it: {len(entries)} tensors go in and "
            f"{len(exits)} come out; try --precision fp16"
        )
    return entries.pop(), exits.pop()


def _alone(model: _Model, entry: str, exit_: str, shape: tuple[int, ...]) -> _Model:
    """The network as a model of its own, with all shapes known."""
    onnx: Any = import_module("onnx")
    network = onnx.utils.Extractor(model).extract_model([entry], [exit_])
    del network.graph.value_info[:]
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape)
    network.graph.input[0].type.CopyFrom(kind)
    return onnx.shape_inference.infer_shapes(network)


def _part(node: Any) -> str:
    return str(node.name.partition("/")[0])


def _put_first(model: _Model, nodes: list[Any]) -> None:
    _replace(model.graph.node, [*nodes, *model.graph.node])


def _replace(field: Any, entries: list[Any]) -> None:
    """Gives a repeated field these entries, some of which may be its own."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)


@contextmanager
def _silent() -> Iterator[None]:
    """Leaves the quantiser's advice to programmers out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
