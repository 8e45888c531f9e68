import numpy as np
import pytest

from graftage.features.backbone import find
from graftage.features.building import random_weights
from graftage.features.bundled import BUNDLED
from graftage.features.untrained import LEAST, untrained_share
from graftage.features.weights import read_weights


@pytest.mark.parametrize("spec", list(BUNDLED))
def test_pretrained_weights_show_no_layer_as_training_begins_with_it(spec: str) -> None:
    assert untrained_share(read_weights(find(spec))) == 0


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "regnety_002"]
)
def test_weights_that_were_never_trained_show_nothing_else(architecture: str) -> None:
    assert untrained_share(random_weights(architecture, seed=0)) == 1


def test_weights_loaded_for_the_first_half_alone_are_seen() -> None:
    trained = read_weights(find("bundled/efficientnet_lite0"))
    begun = random_weights("tf_efficientnet_lite0", seed=0)
    names = list(begun)
    half = begun | {name: trained[name] for name in names[: len(names) // 2]}
    assert LEAST < untrained_share(half) < 0.75


def test_one_training_step_wipes_it_out() -> None:
    weights = random_weights("test_vit", seed=0)
    moved = {name: array + np.float32(1e-6) if array.ndim == 1 else array for name, array in weights.items()}
    assert untrained_share(moved) == 0


def test_a_network_without_normalisation_says_nothing() -> None:
    assert untrained_share({"fc.weight": np.ones((2, 2)), "fc.bias": np.zeros(2)}) == 0
