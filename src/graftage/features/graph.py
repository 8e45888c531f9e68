"""A PyTorch module becomes an OpenVINO graph file, and a graph file becomes something to call."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftage.features.compiled import compiled

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]

_KEPT, _FEW = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0"


class Refused(Exception):
    """An engine that cannot run this network here, or gives other numbers."""


class Damaged(Refused):
    """A kept graph that is not what was kept: made anew, it may serve again."""


def convert(module: "torch.nn.Module", shape: tuple[int, int, int], target: Path) -> None:
    """PyTorch module → OpenVINO graph file, through the frontend itself: its conversion tool would report home.

    Args:
        module: takes uint8 (1, *shape).
        shape: of one picture, (S, S, 3).
        target: the .xml file; its weights go beside it as .bin.

    Raises:
        Refused: OpenVINO does not know an operation of this network.
    """
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(1, *shape, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing is deprecated but is the one route without decompositions
            trace: Any = torch.jit.trace
            traced = trace(module, example, check_trace=False)
            frontend = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must outlive the conversion
            graph = frontend.convert(frontend.load(decoder))
        graph.reshape([1, *shape])
        openvino.save_model(graph, target, compress_to_fp16=False)
    except OSError:
        raise
    except Exception as error:  # its frontends' errors share no other class
        raise Refused(f"OpenVINO cannot take this network ({_line(error)})") from error


class Requests:
    """A compiled graph: uint8 (b, S, S, 3) → float32 (b, D), each picture an inference of its own.

    Every thread that calls has its own request, made when it first calls.

    Args:
        graph: the .xml file.
        precision: what the processor shall compute in.
        streams: how many threads may be inside at once without waiting; each inference runs on one.

    Raises:
        Damaged: the file cannot be loaded.
        Refused: this processor does not compute in `precision`.
    """

    def __init__(self, graph: Path, precision: Precision, *, streams: int) -> None:
        import openvino

        hint = openvino.Type.bf16 if precision == "bfloat16" else openvino.Type.f32
        options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams, "INFERENCE_PRECISION_HINT": hint}
        try:
            with _few_primitives_kept():
                self._compiled = compiled(graph, options, keep=precision == "float32")
        except RuntimeError as error:
            raise Damaged(f"OpenVINO cannot load its graph ({_line(error)})") from error
        if self._compiled.get_property("INFERENCE_PRECISION_HINT") != hint:  # it is only a hint: the answer tells
            raise Refused(f"this processor does not compute in {precision}")
        self._local = threading.local()

    def __call__(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of at least one square picture."""
        request, square = self._own()
        rows = []
        for each in squares:  # its `infer` does the same with a good deal of Python around it
            square[0] = each
            request.start_async()
            request.wait()
            rows.append(request.get_output_tensor().data[0].copy())
        return np.stack(rows)

    def _own(self) -> tuple[Any, NDArray[np.uint8]]:
        """This thread's request, and the memory (1, S, S, 3) that it reads its picture from."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
            self._local.square = self._local.request.get_input_tensor().data
        return self._local.request, self._local.square


@contextmanager
def _few_primitives_kept() -> Iterator[None]:
    """While a graph is compiled, tells oneDNN to keep few compiled primitives of graphs that are gone.

    OpenVINO's oneDNN keeps up to 1,024 for as long as the process lives, some 5 MiB for every network that was ever
    opened. It asks the environment once, at the first; what the user has set stands, and PyTorch's own oneDNN, whose
    speed depends on them, is not to see it.
    """
    if _KEPT in os.environ:
        yield
        return
    os.environ[_KEPT] = _FEW
    try:
        yield
    finally:
        os.environ.pop(_KEPT, None)


def _line(error: Exception) -> str:
    """The one line of OpenVINO's many that tells what is wrong."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if line.startswith("No conversion rule")), lines[-1])[:120]
