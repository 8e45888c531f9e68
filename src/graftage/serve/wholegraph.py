"""One PyTorch module that gives a model's whole answer: resize, crop, normalisation, network, head, calibration, and
whether the picture is unlike those trained on (C)."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftage.errors import BackboneError, BundleError, ExportError
from graftage.features.building import build
from graftage.features.keras_itself import is_keras
from graftage.features.squaring import KNOWN, Square
from graftage.learn.head import Head, kernel_of_inner
from graftage.serve.bundle import Bundle
from graftage.serve.unlikegraph import UnlikeGraph

LARGEST_SIDE = 65_535  # pixels
OUTPUTS = ("probabilities", "unlike_p", "unlike")  # names; a model without a detector has the first alone
_EXAMPLE = (67, 53)  # height and width of the picture that is traced: any will do
_TINY = 1e-12  # as in `head.transform`
_BLOCK = 16  # kernel values that are added to each other first


class WholeGraph(nn.Module):
    """Upright sRGB pixels, uint8 (H, W, 3), of any size from 2 x 2 → one tensor for each of `outputs`.

    Calibrated probabilities, float32 (K,); and where the model has the detector, the p-value of a picture like those
    trained on, float32, and whether it is flagged as unlike them, bool, both without dimensions.

    Args:
        bundle: the model.
        exact: whether the runtime computes in float64 where the graph says so, see `squaring.Square`.

    Raises:
        ExportError: its network cannot be built here, or its resize is none that a graph can hold.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, bundle: Bundle, *, exact: bool = True) -> None:
        super().__init__()
        preprocess, info = bundle.preprocess, bundle.backbone
        if preprocess.interpolation not in KNOWN:
            raise ExportError(
                f"the model resizes pictures by {preprocess.interpolation!r}, which an export cannot; "
                f"it knows {', '.join(KNOWN)}"
            )
        if is_keras(info.architecture):
            raise ExportError(
                f"the model's network, {info.id}, is run by Keras, whose layers have no graph to write; "
                "train with a bundled or timm network to export, or serve the model with graftage serve"
            )
        scale, shift = preprocess.scale_and_shift()
        self.square = Square(preprocess, exact=exact)
        try:
            self.body = build(info.architecture, bundle.weights, output=info.output, size=preprocess.size)
        except BackboneError as error:
            raise BundleError(f"the model's network cannot be built here: {error}") from error
        self.register_buffer("scale", torch.from_numpy(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.from_numpy(shift).view(3, 1, 1), persistent=False)
        self.head = HeadGraph(bundle.head, bundle.temperature, exact=exact)
        detector = bundle.decisions.unlike
        self.unlike = None if detector is None else UnlikeGraph(detector)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what comes out, in order."""
        return OUTPUTS[:1] if self.unlike is None else OUTPUTS

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The answer."""
        x = self.square(pixels) * self.scale + self.shift  # (3, S, S)
        features = self.body(x[None])  # (1, D)
        probabilities = self.head(features)  # (1, K)
        return (probabilities[0],) if self.unlike is None else (probabilities[0], *self.unlike(features, probabilities))


class HeadGraph(nn.Module):
    """`Head.logits`, divided by the temperature, through the softmax: float32 (b, D) → (b, K).

    The kernel part adds thousands of large numbers of both signs, of which little remains: added one after the other in
    float32 they lose three digits.

    Args:
        head: the head.
        temperature: of the calibration.
        exact: whether to add them in float64; else their distances from a middle value, in blocks, for engines that
            would take float32 anyway.
    """

    weights: torch.Tensor
    coefficients: torch.Tensor
    bias: torch.Tensor
    support: torch.Tensor
    remains: torch.Tensor
    hidden_weights: torch.Tensor
    hidden_bias: torch.Tensor

    def __init__(self, head: Head, temperature: float, *, exact: bool = True) -> None:
        super().__init__()
        self._transform, self._kernel, self._scale = head.transform, head.kernel, head.scale
        self._temperature, self._exact = temperature, exact
        for name in ("weights", "bias", *(("support",) if head.kernel else ())):
            self.register_buffer(name, _tensor(getattr(head, name)), persistent=False)
        if head.kernel:
            self.register_buffer("coefficients", _coefficients(head.coefficients, exact=exact), persistent=False)
        if head.kernel and not exact:
            self._middle = float(kernel_of_inner(_usual(head), head.kernel, head.scale))
            remains = _tensor(self._middle * head.coefficients.sum(axis=1, dtype=np.float64))
            self.register_buffer("remains", remains, persistent=False)
        self._hidden = head.hidden is not None
        if head.hidden is not None:
            self.register_buffer("hidden_weights", _tensor(head.hidden[0]), persistent=False)
            self.register_buffer("hidden_bias", _tensor(head.hidden[1]), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Calibrated probabilities."""
        rows = self._transformed(features)
        hidden = torch.relu(rows @ self.hidden_weights.T + self.hidden_bias) if self._hidden else rows
        logits = hidden @ self.weights.T + self.bias
        if self._kernel:
            logits = logits + self._summed(self._of_inner(rows @ self.support.T))
        return torch.softmax(logits / self._temperature, dim=1)

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """Kernel values (b, m), times the coefficients: (b, K)."""
        if self._exact:
            return (values.to(torch.float64) @ self.coefficients).to(torch.float32)
        blocks, block, _ = self.coefficients.shape
        padded = nn.functional.pad(values - self._middle, (0, blocks * block - values.shape[1]))
        return (padded.reshape(-1, blocks, 1, block) @ self.coefficients).sum((1, 2)) + self.remains

    def _transformed(self, features: torch.Tensor) -> torch.Tensor:
        if self._transform == "plain":
            return features
        if self._transform == "root":
            features = torch.sign(features) * torch.sqrt(torch.abs(features))
        length = torch.sqrt((features * features).sum(1, keepdim=True))
        return features / torch.clamp(length, min=_TINY)

    def _of_inner(self, inner: torch.Tensor) -> torch.Tensor:
        """As `head.kernel_of_inner`."""
        if self._kernel == "gaussian":
            return torch.exp((torch.clamp(inner, max=1.0) - 1.0) * (2.0 / self._scale))
        cosine = torch.clamp((inner + 1.0) / 2.0, -1.0, 1.0)
        return (torch.sqrt(1.0 - cosine * cosine) + torch.acos(-cosine) * cosine) / np.pi


def _usual(head: Head) -> NDArray[np.float64]:
    """() mean inner product of the pictures kept."""
    mean = head.support.mean(axis=0, dtype=np.float64)
    return np.asarray(mean @ mean)


def _coefficients(coefficients: NDArray[np.float32], *, exact: bool) -> torch.Tensor:
    """(K, m) → (m, K) in float64, or (blocks, `_BLOCK`, K) in float32, with zeros at the end."""
    if exact:
        return torch.from_numpy(np.ascontiguousarray(coefficients.T, np.float64))
    classes, m = coefficients.shape
    padded = np.zeros((-(-m // _BLOCK) * _BLOCK, classes), np.float32)
    padded[:m] = coefficients.T
    return torch.from_numpy(padded.reshape(-1, _BLOCK, classes))


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def exported_program(graph: WholeGraph) -> torch.export.ExportedProgram:
    """The module as a graph whose height and width are free, without a trace of where it was made.

    Raises:
        ExportError: PyTorch cannot follow the network.
    """
    height, width = (torch.export.Dim(name, min=2, max=LARGEST_SIDE) for name in ("height", "width"))
    example = torch.zeros(*_EXAMPLE, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(graph.eval(), (example,), dynamic_shapes=({0: height, 1: width},))
    except Exception as error:  # what its tracing raises shares no other class
        raise ExportError(f"the model's network has no graph: PyTorch cannot follow it ({_line(error)})") from error
    for node in program.graph.nodes:
        for name in ("stack_trace", "from_node", "source_fn_stack"):
            node.meta.pop(name, None)
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leaves the exporters' own warnings and progress out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:160]
