"""Networks before their weights: nothing is drawn that a file overwrites, the rest is as timm makes it."""

import pytest
import timm
import torch

from graftage.features.building import build, create, random_weights
from graftage.features.unfilled import Unfilled

NETWORKS = ("vgg11", "test_resnet", "test_vit", "test_convnext", "efficientnet_lite0", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("architecture", NETWORKS)
def test_buffers_are_timms_and_no_random_number_is_drawn(architecture: str) -> None:
    state = torch.random.get_rng_state()
    made = create(architecture, num_classes=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    wanted = timm.create_model(architecture, num_classes=0)
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in wanted.named_parameters()]
    for name, buffer in wanted.named_buffers():
        assert torch.equal(made.get_buffer(name), buffer), name
    assert made.training


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_random_weights_are_those_of_timm(architecture: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        wanted = timm.create_model(architecture, num_classes=0)
    weights = random_weights(architecture, seed=7)
    assert {name: torch.from_numpy(array) for name, array in weights.items()}.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(torch.from_numpy(weights[name]), tensor), name
    built = build(architecture, weights)
    x = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(built(x), wanted.eval()(x))


def test_only_new_parameters_are_left_as_they_are() -> None:
    with Unfilled():
        plain = torch.zeros(3).normal_()
        torch.nn.init.ones_(buffer := torch.zeros(2))
        frozen = torch.nn.Parameter(torch.zeros(2)).requires_grad_(False)
    assert plain.abs().sum() > 0
    assert buffer.tolist() == [1, 1]
    assert not frozen.requires_grad
