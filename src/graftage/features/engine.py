"""The fastest way to run a frozen backbone on this hardware, held against float32 PyTorch before it is trusted.

On a CPU the network is converted once to an OpenVINO graph and kept; each picture is its own inference on its own
single-threaded stream, so that a picture's features do not depend on which others happen to share its batch, on the
number of cores, or on whether it is one of a hundred thousand or alone. On a CUDA device it runs as PyTorch batches of
fixed size. Where a graph cannot be made, or differs from PyTorch, plain PyTorch takes over and says so.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from graftage.errors import OptionError
from graftage.features.building import build
from graftage.features.cache import appearing, cache_root, ready, require_space, write_whole
from graftage.features.facts import Backbone, Weights
from graftage.features.graph import Damaged, Precision, Refused, Requests, convert
from graftage.features.keras_itself import is_keras, keras_version
from graftage.features.preprocess import Preprocess
from graftage.features.weights import read_weights

if TYPE_CHECKING:
    import torch

    from graftage.features.stages import Cut

Device = Literal["auto", "cpu", "cuda", "mps"]

FLOAT32_TOLERANCE = 1e-3  # largest relative error ‖engine − torch‖ / ‖torch‖ of a picture's features
BFLOAT16_COSINE = 0.999  # smallest mean cosine between bfloat16 and float32 features
_GRAPH_FORMAT = 1  # raise when the converted graph's form changes: kept graphs are then made anew
_CUDA_BATCH = 64
_PROBES = 4
_BESIDE_WEIGHTS = 4_000_000  # bytes that a kept graph takes beside its weights, which it holds three times


@dataclass(frozen=True, eq=False)
class Forward:
    """A frozen backbone, ready: call it with uint8 (b, S, S, 3), get float32 (b, D). Safe to call from several threads.

    Attributes:
        name: engine and precision, for example "openvino-float32".
        key: 24 hex digits that change with the weights themselves, the network, its input, the engine or its version:
            features under the same key and `Preprocess.key` are the same bits.
        features: D.
        batch: how many pictures one call should hold; the caller need not fill the last.
        notices: what a person should know (a fall-back and its reason); usually empty.
    """

    name: str
    key: str
    features: int
    batch: int
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    notices: tuple[str, ...] = ()

    def __call__(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of square pictures: uint8 (b, S, S, 3) → float32 (b, D), for any b."""
        return self.run(squares) if len(squares) else np.empty((0, self.features), np.float32)

    def let_go(self) -> "Forward":
        """What is known of it without what runs it, whose memory is free once nobody else holds it: never called."""
        return replace(self, run=_gone)


def _gone(_: NDArray[np.uint8]) -> NDArray[np.float32]:
    raise AssertionError("this network was let go; open it again")


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from PyTorch in float32 on the same pictures."""

    relative_error: float
    cosine: float

    def accepted(self, precision: Precision) -> bool:
        """Whether the engine may be used at this precision."""
        if precision == "bfloat16":
            return self.cosine >= BFLOAT16_COSINE
        return self.relative_error <= FLOAT32_TOLERANCE


def agreement(found: NDArray[np.float32], reference: NDArray[np.float32]) -> Agreement:
    """Largest relative error and mean cosine over pictures, both (n, D) float32."""
    if not np.isfinite(found).all():
        return Agreement(float("inf"), 0.0)
    norms = np.linalg.norm(reference, axis=1)
    error = np.linalg.norm(found - reference, axis=1) / np.maximum(norms, 1e-12)
    cosine = (found * reference).sum(1) / np.maximum(np.linalg.norm(found, axis=1) * norms, 1e-12)
    return Agreement(float(error.max()), float(cosine.mean()))


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX-512 BF16 or AMX); emulation would be slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


def choose_precision(wanted: str) -> Precision:
    """“auto” → bfloat16 where the processor has it, else float32. Raises OptionError on anything unknown."""
    if wanted == "auto":
        return "bfloat16" if has_bfloat16() else "float32"
    if wanted == "float32":
        return "float32"
    if wanted == "bfloat16":
        return "bfloat16"
    raise OptionError(f"precision must be auto, float32 or bfloat16, got {wanted!r}")


def choose_device(wanted: str) -> Literal["cpu", "cuda"]:
    """ "auto" → a CUDA device if PyTorch sees one. Raises OptionError if "cuda" is asked for and is not there."""
    if wanted in ("cpu", "mps"):  # frozen networks run faster through OpenVINO than on Apple's GPUs; tuning uses them
        return "cpu"
    if wanted not in ("auto", "cuda"):
        raise OptionError(f"device must be auto, cpu, cuda or mps, got {wanted!r}")
    if wanted == "auto" and not _nvidia_driver():
        return "cpu"  # answered without the seconds that importing PyTorch takes
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise OptionError("device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return "cpu"


def _nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or os.name == "nt"


def open_forward(
    backbone: Backbone,
    preprocess: Preprocess,
    *,
    device: str = "auto",
    precision: str = "auto",
    sample: Callable[[], NDArray[np.uint8]] | None = None,
    weights: Weights | None = None,
    cut: "Cut | None" = None,
) -> Forward:
    """The fastest trusted engine for `backbone` on this machine.

    Args:
        backbone: the network.
        preprocess: its size and normalisation become part of the graph; the fit does not matter here.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16".
        sample: gives some of the user's own squares, uint8 (m, S, S, 3); called only if a new graph must be checked.
        weights: use these instead of reading the backbone's file.
        cut: stop there: the "features" are the flattened activations before the cut.

    Raises:
        OptionError: a device or precision that is not to be had.
        BackboneError: weights that cannot be read or do not fit.
        StoreError: the cache folder cannot be written.
    """
    network = replace(_network(backbone, preprocess, weights), cut=cut)
    if choose_device(device) == "cuda":
        return _torch_forward(network, "cuda")
    kind = choose_precision(precision)
    try:
        return _openvino_forward(network, kind, sample)
    except Refused as refusal:
        reason = str(refusal)
    if kind == "bfloat16":
        plain = open_forward(
            backbone, preprocess, device="cpu", precision="float32", sample=sample, weights=weights, cut=cut
        )
        return replace(plain, notices=(f"features are computed in float32: {reason}", *plain.notices))
    return _torch_forward(network, "cpu", notices=(f"running on plain PyTorch, several times slower: {reason}",))


@dataclass(frozen=True, eq=False)
class _Network:
    backbone: Backbone
    preprocess: Preprocess
    weights: Weights | None
    content: str  # hash of the weights themselves, 64 hex digits
    cut: "Cut | None" = None

    @property
    def width(self) -> int:
        """Numbers that it gives for each picture."""
        return self.cut.width if self.cut else self.backbone.info.features

    @property
    def squares_shape(self) -> tuple[int, int, int]:
        return (self.preprocess.size, self.preprocess.size, 3)

    def module(self) -> "torch.nn.Module":
        """uint8 (b, S, S, 3) → float32 (b, D): normalisation and network in one module."""
        from graftage.features.batches import Normalised

        info = self.backbone.info
        body = build(info.architecture, self.state(), output=info.output, size=self.preprocess.size)
        if self.cut:
            from graftage.features.stages import before_cut

            body = before_cut(body, self.cut)
        return Normalised(body, *self.preprocess.scale_and_shift()).eval()

    def state(self) -> Weights:
        return self.weights if self.weights is not None else read_weights(self.backbone)

    def key(self, engine: str) -> str:
        info = self.backbone.info
        shape: list[object] = [info.architecture, self.content, self.preprocess.size]
        shape += [info.output] if info.output != "pooled" else []
        shape += [self.cut.unit] if self.cut else []
        normal = [self.preprocess.mean, self.preprocess.std]
        made_by = [_GRAPH_FORMAT, engine, version("openvino"), version("timm"), version("torch")]
        made_by += [keras_version()] if is_keras(info.architecture) else []
        return hashlib.sha256(json.dumps([shape, normal, made_by]).encode()).hexdigest()[:24]

    def folder(self) -> Path:
        """Where the prepared graph is kept: named by everything that shapes it."""
        return cache_root() / "networks" / self.key("graph")


def _network(backbone: Backbone, preprocess: Preprocess, weights: Weights | None) -> _Network:
    """Names a network by its tensors, never by what a file says of itself: no model file can pass for another's graph.

    The tensors' hash of a weights file is kept under the file's own hash, so that later runs need not read it again.
    """
    if weights is not None:
        return _Network(backbone, preprocess, weights, content_hash(weights))
    note = _note(backbone)
    if known := _noted(note):
        return _Network(backbone, preprocess, None, known)
    read = read_weights(backbone)
    network = _Network(backbone, preprocess, read, content_hash(read))
    ready(note.parent)
    write_whole(note, network.content.encode())
    return network


def is_prepared(backbone: Backbone, preprocess: Preprocess) -> bool:
    """Whether the graph of a backbone from `find` is kept here, so that opening it needs no PyTorch."""
    known = _noted(_note(backbone))
    return bool(known) and _Network(backbone, preprocess, None, known).folder().is_dir()


def _note(backbone: Backbone) -> Path:
    """Where the tensors' hash of a weights file is kept."""
    info, size = backbone.info, backbone.preprocess.size
    used = "" if not backbone.parts else f" {info.output} {size}"  # a network used otherwise may have other tensors
    name = hashlib.sha256(f"{info.weights_sha256} {info.architecture}{used}".encode()).hexdigest()[:24]
    return cache_root() / "networks" / "files" / name


def _noted(note: Path) -> str:
    """The hash kept in this file, "" if there is none or the file is damaged."""
    try:
        known = note.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    return known if re.fullmatch("[0-9a-f]{64}", known) else ""


def content_hash(weights: Weights) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in name order; 64 hex digits."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name], order="C")
        total.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        total.update(array.data if array.size else b"")
    return total.hexdigest()


def prepared_weights(backbone: Backbone, preprocess: Preprocess) -> Weights:
    """The backbone's weights: beside its prepared graph if there is one (PyTorch is not needed), else from its file."""
    network = _network(backbone, preprocess, None)
    try:
        kept = dict(load_file(network.folder() / "weights.safetensors"))
    except (OSError, SafetensorError):
        return network.state()
    return kept if content_hash(kept) == network.content else network.state()


def probe_squares(size: int) -> NDArray[np.uint8]:
    """Four made-up pictures (4, S, S, 3): smooth colour waves and grain, the same on every machine."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(2 * np.pi * (rng.uniform(1, 6) * x + rng.uniform(1, 6) * y) + rng.uniform(0, 6)) for _ in range(12)]
    smooth = np.stack(waves, -1).reshape(size, size, _PROBES, 3).transpose(2, 0, 1, 3)
    grained = np.clip(127 + 90 * smooth + rng.normal(0, 12, smooth.shape), 0, 255)
    return np.ascontiguousarray(grained, dtype=np.uint8)


def _openvino_forward(
    network: _Network, precision: Precision, sample: Callable[[], NDArray[np.uint8]] | None
) -> Forward:
    folder = network.folder()
    if folder.is_dir():
        try:
            return _checked(network, folder, precision)
        except Damaged:  # whatever happened to what was kept: make it anew before giving up on this engine
            shutil.rmtree(folder, ignore_errors=True)
    _prepare(replace(network, weights=network.state()), folder, sample)
    return _checked(network, folder, precision)


def _checked(network: _Network, folder: Path, precision: Precision) -> Forward:
    """The kept graph, compiled, if it still gives the answers that PyTorch gave; raises Refused if not."""
    forward = _compile(network, folder / "network.xml", precision)
    try:
        probe = load_file(folder / "probe.safetensors")
        squares, features = probe["squares"], probe["features"]
    except (OSError, SafetensorError, KeyError) as error:
        raise Damaged(f"the kept answers cannot be read ({error})") from error
    found = agreement(forward(squares), features)
    if not found.accepted(precision):
        refusal = Damaged if precision == "float32" else Refused
        raise refusal(
            f"OpenVINO in {precision} differs from PyTorch (relative error {found.relative_error:.1e}, "
            f"cosine {found.cosine:.5f})"
        )
    return forward


def _prepare(network: _Network, folder: Path, sample: Callable[[], NDArray[np.uint8]] | None) -> None:
    """Converts the network, and keeps beside it PyTorch's own answers on fixed and on the user's first pictures."""
    import torch

    module, weights = network.module(), network.state()
    require_space(folder, 3 * sum(array.nbytes for array in weights.values()) + _BESIDE_WEIGHTS)
    squares = probe_squares(network.preprocess.size)
    with torch.inference_mode():
        features = module(torch.from_numpy(squares)).numpy()
    with appearing(folder) as temporary:
        convert(module, network.squares_shape, temporary / "network.xml")
        _save({"squares": squares, "features": features}, temporary / "probe.safetensors")
        _save(weights, temporary / "weights.safetensors")
        if sample is not None:
            _check_on_pictures(network, module, temporary / "network.xml", sample())


def _save(arrays: Weights, path: Path) -> None:
    """Saves arrays in C order, since safetensors writes an array's memory as it lies; scalars stay scalars."""
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _check_on_pictures(network: _Network, module: "torch.nn.Module", graph: Path, squares: NDArray[np.uint8]) -> None:
    import torch

    if not len(squares):
        return
    with torch.inference_mode():
        reference = module(torch.from_numpy(squares)).numpy()
    found = agreement(_compile(network, graph, "float32")(squares), reference)
    if not found.accepted("float32"):
        raise Refused(
            f"OpenVINO differs from PyTorch on the first pictures (relative error {found.relative_error:.1e})"
        )


def _compile(network: _Network, graph: Path, precision: Precision) -> Forward:
    name = f"openvino-{precision}"
    run = Requests(graph, precision, streams=cores())
    return Forward(name, network.key(name), network.width, 1, run)


def _torch_forward(network: _Network, device: Literal["cpu", "cuda"], notices: tuple[str, ...] = ()) -> Forward:
    import torch

    from graftage.features.batches import TorchBatches

    module = network.module().to(device=torch.device(device)).to(memory_format=torch.channels_last)
    batch = _CUDA_BATCH if device == "cuda" else 1
    name = f"torch-{device}-float32"
    run = TorchBatches(module, batch, device)
    return Forward(name, network.key(name), network.width, batch, run, notices)
