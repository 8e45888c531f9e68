"""What makes training faster changes nothing that is computed."""

import copy
import platform

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from graftage.learn.faster import QuickDepthwise, fold_frozen_norms, steady_memory

EXAMPLE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(architecture: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = timm.create_model(architecture, num_classes=0)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.5, 0.5)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return module.eval()


def gradients(module: nn.Module, x: torch.Tensor = EXAMPLE) -> dict[str, torch.Tensor]:
    module.zero_grad()
    weights = torch.linspace(-1, 1, 2 * module.num_features).reshape(2, -1)
    (module(x) * weights).mean().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> bool:
    return all((a[n] - b[n]).norm() <= tolerance * max(float(a[n].norm()), 1e-6) for n in a)


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_efficientnet", "tf_efficientnet_lite0", "mobilenetv2_050", "regnety_002"]
)
def test_folded_norms_learn_as_they_would_apart(architecture: str) -> None:
    """In float64: in float32 an activation that is zero but for rounding turns whole gradients on or off."""
    plain, x = network(architecture).double(), EXAMPLE.double()
    folded = copy.deepcopy(plain)
    assert fold_frozen_norms(folded, x) > 5
    torch.testing.assert_close(folded(x), plain(x), rtol=1e-9, atol=1e-9)
    assert close(gradients(plain, x), gradients(folded, x), 1e-7)
    assert list(folded.state_dict()) == list(plain.state_dict())


def test_a_network_without_such_pairs_is_left_alone() -> None:
    module = network("test_vit2") if "test_vit2" in timm.list_models("test_*") else network("test_convnext")
    size = 160 if module.default_cfg["input_size"][-1] == 160 else 64
    assert fold_frozen_norms(module, torch.randn(2, 3, size, size)) == 0
    assert not any("forward" in m.__dict__ for m in module.modules())


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).eval()
            self.norm.running_mean += 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(x)
            return self.norm(out) + out

    module = Twice()
    before = module(EXAMPLE)
    assert fold_frozen_norms(module, EXAMPLE) == 0
    torch.testing.assert_close(module(EXAMPLE), before)


def test_an_output_that_is_changed_before_the_norm_is_not_folded() -> None:
    """As an adapter might that starts at nothing: only the state of the tensor tells."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).eval()
            self.extra = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.conv(x)
            out += self.extra
            return self.norm(out)

    assert fold_frozen_norms(Added(), EXAMPLE) == 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (5, 2), (5, 0), (7, 3)])
@pytest.mark.parametrize("size", [11, 12])
def test_depthwise_gradients_are_those_of_float32(kernel: int, padding: int, stride: int, size: int) -> None:
    generator = torch.Generator().manual_seed(kernel * 100 + stride)
    conv = nn.Conv2d(8, 8, kernel, stride, padding, groups=8)
    x = torch.randn(4, 8, size, size, generator=generator).contiguous(memory_format=torch.channels_last)

    def way_back(quick: bool) -> list[torch.Tensor]:
        own, module = x.clone().requires_grad_(True), copy.deepcopy(conv)
        if quick:
            with torch.autocast("cpu", torch.bfloat16), QuickDepthwise():
                out = module(own)
            assert out.grad_fn is not None
            assert "_Depthwise" in type(out.grad_fn).__name__
        else:
            out = module(own)
        (out.float() * torch.linspace(-1, 1, out.shape[-1])).sum().backward()
        return [own.grad, module.weight.grad, module.bias.grad]

    for a, b in zip(way_back(True), way_back(False), strict=True):
        assert (a - b).norm() < 0.02 * b.norm() + 1e-3


def test_other_convolutions_and_float32_are_handed_on() -> None:
    x = torch.randn(2, 8, 6, 6)
    with QuickDepthwise():
        plain = functional.conv2d(x, torch.randn(8, 1, 3, 3, requires_grad=True), groups=8)
        with torch.autocast("cpu", torch.bfloat16):
            dense = functional.conv2d(x, torch.randn(4, 8, 3, 3, requires_grad=True))
            grouped = functional.conv2d(x, torch.randn(8, 4, 3, 3, requires_grad=True), groups=2)
    assert not any("_Depthwise" in type(out.grad_fn).__name__ for out in (plain, dense, grouped))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")
def test_large_tensors_get_the_memory_of_freed_ones_meanwhile() -> None:
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            np.ones(2**24, np.float32)  # 64 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with steady_memory():
        faults()
        kept = faults()
    assert kept < 2**14  # pages of 4 KiB: one such array has 2**14 of them
