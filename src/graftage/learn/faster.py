"""The same gradients, sooner: three things that PyTorch leaves on the table when it trains on a processor.

Frozen batch normalisation is folded into the convolution before it, anew in every step, so that both still learn.
Depthwise convolutions in bfloat16 take the faster of the kernels that there are. Large tensors keep their memory.
None of them changes what is computed, but for the rounding of bfloat16. `bench/training.py` measures each.
"""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_AGREEMENT = 1e-3  # largest relative difference between the folded and the plain network
_LARGE_KERNEL = 5  # from this side on, a strided depthwise convolution is turned round faster by spreading its gradient

# Parameters of mallopt(3) in glibc, and what they are when nobody has set them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28}
_USUAL = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 2**17, _TOP_PAD: 2**17}


@contextmanager
def steady_memory() -> Iterator[None]:
    """Freed memory stays with the process meanwhile, and goes back to the system afterwards.

    glibc gives every tensor above 32 MiB back to the system when it is freed, and the next one of that size meets fresh
    pages, each of which the system has to clear: half of the time of a training step. Elsewhere this does nothing.
    """
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    for option, value in _KEEP.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def fold_frozen_norms(body: nn.Module, example: torch.Tensor) -> int:
    """Makes every convolution and the frozen normalisation behind it one operation; returns how many.

    The convolution's weight is multiplied by γ/σ and gets the bias β − μγ/σ in every forward pass, so that weight, γ
    and β learn as they would apart, and the state dict stays what it was. Only for normalisations in evaluation mode.

    Args:
        body: changed in place, but left alone if it then gave anything else than before.
        example: an input of it, (b, ...).
    """
    body.eval()
    pairs = _pairs(body, example)
    with torch.no_grad():
        plain = body(example)
        for conv, norm in pairs:
            _fold(conv, norm)
        gap = (body(example) - plain).abs().max() if pairs else torch.zeros(())
    if gap <= _AGREEMENT * plain.abs().max().clamp(min=1e-6):
        return len(pairs)
    for conv, norm in pairs:
        del conv.__dict__["forward"], norm.__dict__["forward"]
    return 0


def _pairs(body: nn.Module, example: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose very output, not changed in place meanwhile, a normalisation takes; each used once."""
    made: list[tuple[nn.Conv2d, torch.Tensor, int]] = []
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            made.append((module, output, output._version))

    def before(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.BatchNorm2d):
            x = inputs[0]
            found.extend((conv, module) for conv, output, version in made if output is x and x._version == version)

    convs, norms = ([m for m in body.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.BatchNorm2d))
    handles = [m.register_forward_hook(after) for m in convs] + [m.register_forward_pre_hook(before) for m in norms]
    try:
        with torch.no_grad():
            body(example)
    finally:
        for handle in handles:
            handle.remove()
    runs = [conv for conv, _, _ in made]
    return [(c, n) for c, n in found if runs.count(c) == 1 and _is_plain(c) and n.affine and n.track_running_stats]


def _is_plain(conv: nn.Conv2d) -> bool:
    from timm.layers.conv2d_same import Conv2dSame

    return type(conv) in (nn.Conv2d, Conv2dSame) and conv.padding_mode == "zeros"


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import pad_same

    same = isinstance(conv, Conv2dSame)

    def folded(x: torch.Tensor) -> torch.Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        offset = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        weight, bias = conv.weight * factor[:, None, None, None], norm.bias - offset * factor
        if same:
            x = pad_same(x, list(conv.weight.shape[-2:]), list(conv.stride), list(conv.dilation))
        return functional.conv2d(x, weight, bias, conv.stride, 0 if same else conv.padding, conv.dilation, conv.groups)

    conv.__dict__["forward"] = folded
    norm.__dict__["forward"] = _behind(norm)


def _behind(norm: nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
    """What timm's normalisation does after normalising."""
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)

    def rest(x: torch.Tensor) -> torch.Tensor:
        x = drop(x) if drop is not None else x
        return act(x) if act is not None else x

    return rest


class QuickDepthwise(TorchFunctionMode):
    """While it is on, depthwise convolutions under bfloat16 autocast on a processor go through `_Depthwise`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Takes `conv2d` calls that qualify, and hands on everything else."""
        kwargs = kwargs or {}
        if func is functional.conv2d and (own := _depthwise_call(*args, **kwargs)) is not None:
            return _Depthwise.apply(*own)
        return func(*args, **kwargs)


def _depthwise_call(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...] | None:
    """The arguments for `_Depthwise`, or None for a convolution of another kind."""
    if groups == 1 or weight.shape[:2] != (groups, 1) or isinstance(padding, str) or _both(dilation) != [1, 1]:
        return None
    if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or input.ndim != 4:
        return None
    x, w, b = (None if t is None else t.to(torch.bfloat16) for t in (input, weight, bias))
    return x, w, b, _both(stride), _both(padding)


def _both(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution whose way back avoids oneDNN's slow bfloat16 kernels.

    The gradient of the weights is taken in float32, which is faster there (and adds up finer). That of the input of a
    strided convolution is, for large kernels, a convolution of the gradient spread out with zeros, else taken in
    float32, too.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any, stride: list[int], padding: list[int]) -> Any:
        ctx.save_for_backward(x, w)
        ctx.place, ctx.has_bias = (stride, padding), b is not None
        return torch.ops.aten.convolution(x, w, b, stride, padding, [1, 1], False, [0, 0], len(w))

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        stride, padding = ctx.place
        to_input = _to_input(g, x, w, stride, padding) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = _backward(g.float(), x.float(), w.float(), stride, padding, [False, True, False])[1]
        to_bias = g.float().sum((0, 2, 3)) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return to_input, to_weight, to_bias, None, None


def _backward(g: Any, x: Any, w: Any, stride: list[int], padding: list[int], mask: list[bool]) -> Any:
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, [1, 1], False, [0, 0], len(w), mask
    )  # fmt: skip


def _to_input(g: Any, x: Any, w: Any, stride: list[int], padding: list[int]) -> Any:
    if stride == [1, 1]:
        return _backward(g, x, w, stride, padding, [True, False, False])[0]
    if min(w.shape[2:]) < _LARGE_KERNEL:
        return _backward(g.float(), x.float(), w.float(), stride, padding, [True, False, False])[0].to(x.dtype)
    (down, across), (high, wide) = stride, w.shape[2:]
    spread = g.new_zeros(len(g), g.shape[1], (g.shape[2] - 1) * down + 1, (g.shape[3] - 1) * across + 1)
    spread = spread.contiguous(memory_format=torch.channels_last)
    spread[:, :, ::down, ::across] = g
    whole = functional.conv2d(spread, w.flip(2, 3), None, 1, (high - 1, wide - 1), 1, len(w))
    rest = [x.shape[axis] + 2 * padding[axis - 2] - whole.shape[axis] for axis in (2, 3)]
    padded = functional.pad(whole, (0, rest[1], 0, rest[0]))
    return padded[:, :, padding[0] : padding[0] + x.shape[2], padding[1] : padding[1] + x.shape[3]]
