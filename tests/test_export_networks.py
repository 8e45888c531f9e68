"""Exports of transformers, of networks with earlier maps beside their own vector, and of several side by side."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graftage as gr
from graftage.features.backbone import find
from graftage.features.weights import read_weights
from graftage.learn.head import Head
from graftage.serve.bundle import Bundle
from graftage.serve.bundle import save as save_bundle

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("onnx_once")


@pytest.fixture(scope="module", params=["test_vit", "test_resnet#2", "test_resnet+test_efficientnet#2"])
def model(
    request: pytest.FixtureRequest, weights_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model file of random weights and a head of large random weights: three classes, none of them sure."""
    names, _, layers = request.param.partition("#")
    spec = "+".join(str(weights_file(name)) for name in names.split("+")) + (f"#{layers}" if layers else "")
    backbone, rng = find(spec), np.random.default_rng(5)
    path = tmp_path_factory.mktemp("networks") / "model.safetensors"
    head = Head.linear("unit", 8 * rng.normal(size=(3, backbone.info.features)), np.zeros(3))
    facts = (backbone.preprocess, backbone.info, read_weights(backbone), head)
    save_bundle(Bundle(("1", "2", "10"), *facts, 1.0, scores={}, data={}, settings={}, versions={}), path)
    return path


def test_each_answers_as_the_model_does(model: Path, class_folders: Path, tmp_path: Path) -> None:
    made = gr.export(model, to="onnx", check=[class_folders / "1"], output=tmp_path / "made")
    assert (made.checked.n, made.checked.same) == (16, 16)
    assert made.checked.worst < 1e-3


def test_each_becomes_smaller(model: Path, class_folders: Path, tmp_path: Path) -> None:
    made = gr.export(
        model,
        to="onnx",
        precision="int8",
        check=[class_folders / "1"],
        calibrate=[class_folders / "2" / f"{i}.jpg" for i in range(4)],
        max_loss=100,
        output=tmp_path / "made",
    )
    assert made.before is not None
    assert made.files["model.onnx"] < 0.8 * made.before[0]
    assert made.checked.n == 16
