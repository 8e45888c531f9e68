"""Keras' networks against Keras itself: the same file, the same pictures, the same numbers."""

import json
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
import torch

from graftage.errors import BackboneError
from graftage.features.backbone import find
from graftage.features.building import build, random_weights
from graftage.features.engine import open_forward
from graftage.features.facts import Backbone, file_hash
from graftage.features.keras_cache import wanted_file
from graftage.features.keras_itself import keras_model, keras_names, keras_package, keras_pixels
from graftage.features.keras_module import variables_of
from graftage.features.keras_networks import LICENCES, preprocess_keras
from graftage.features.prepare import prepare_elsewhere
from graftage.features.weights import read_weights, with_flat_output

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")

Save = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty cache of Keras."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield Path(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Such small networks are slower on many threads wherever something else runs, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def keras(home: Path) -> Any:
    return keras_package()


@pytest.fixture(scope="session")
def model(keras: Any) -> Callable[[str], Any]:
    """Keras' own model without classifier, with random weights and, where there are any, random statistics."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            keras.utils.set_random_seed(3)
            application = getattr(keras.applications, name)
            made[name] = application(weights=None, include_top=False, input_shape=(224, 224, 3))
            rng = np.random.default_rng(3)
            for variable in made[name].non_trainable_variables:
                if variable.dtype == "float32":
                    variable.assign(rng.uniform(0.5, 1.5, variable.shape))
            finalize(made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def save(model: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Save:
    """A file that Keras saved, named by the network: ".weights.h5", ".keras" or the older ".h5"."""
    folder = tmp_path_factory.mktemp("saved")

    def make(name: str, kind: str = ".weights.h5") -> Path:
        path = folder / f"{name}{kind}"
        if not path.exists():
            written(model(name), path)
        return path

    return make


def finalize(network: Any) -> None:
    for layer in network.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def written(network: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' saving is not quite at home with NumPy 2
        network.save_weights(path) if path.name.endswith(".weights.h5") else network.save(path)


def own_preprocessing(keras: Any, name: str) -> Callable[[np.ndarray], np.ndarray]:
    return sys.modules[getattr(keras.applications, name).__module__].preprocess_input


def pictures(photograph: Callable[[str], np.ndarray]) -> np.ndarray:
    """Two real pictures, (2, 224, 224, 3)."""
    preprocess = preprocess_keras("VGG16")
    return np.stack([preprocess.square(photograph(name)) for name in ("china.jpg", "flower.jpg")])


def features(backbone: Backbone, squares: np.ndarray) -> np.ndarray:
    """What our module makes of squares, normalised as the engine does it."""
    scale, shift = backbone.preprocess.scale_and_shift()
    network = build(backbone.info.architecture, read_weights(backbone), output=backbone.info.output)
    with torch.inference_mode():
        return network(torch.from_numpy((squares * scale + shift).transpose(0, 3, 1, 2))).numpy()


def last_map(keras: Any, network: Any, name: str, squares: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        x = own_preprocessing(keras, name)(squares.astype(np.float32))
        return network(torch.from_numpy(np.ascontiguousarray(x)), training=False).numpy()


def gap(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


# The same numbers as Keras


def test_vgg16_gives_what_keras_gives_pooled_and_flat(
    keras: Any, model: Callable[[str], Any], save: Save, photograph: Callable[[str], np.ndarray]
) -> None:
    found = find(str(save("VGG16")))
    squares = pictures(photograph)
    wanted = last_map(keras, model("VGG16"), "VGG16", squares)
    assert wanted.shape == (2, 7, 7, 512)
    assert gap(features(found, squares), wanted.mean((1, 2))) < 1e-4
    flat, weights = with_flat_output(found)
    assert (flat.info.output, flat.info.features, found.info.features) == ("flat", 7 * 7 * 512, 512)
    assert set(weights) == set(read_weights(found))
    assert gap(features(flat, squares), np.asarray(keras.layers.Flatten()(wanted))) < 1e-4


def test_a_network_with_statistics_gives_what_keras_gives(
    keras: Any, model: Callable[[str], Any], save: Save, photograph: Callable[[str], np.ndarray]
) -> None:
    squares = pictures(photograph)
    wanted = last_map(keras, model("MobileNetV2"), "MobileNetV2", squares).mean((1, 2))
    assert gap(features(find(str(save("MobileNetV2"))), squares), wanted) < 1e-4


@pytest.mark.parametrize("name", ["ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0"])  # a mode each
def test_pixels_reach_the_network_as_keras_prepares_them(name: str, keras: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    scale, shift = preprocess_keras(name).scale_and_shift()
    ours = pixels * scale + shift
    if keras_pixels(name)[2]:
        ours = ours[..., ::-1]
    np.testing.assert_allclose(ours, own_preprocessing(keras, name)(pixels.astype(np.float32)), atol=2e-5)
    assert keras_pixels(name)[2] == (name == "ResNet50")


def test_efficientnets_own_imagenet_file_means_what_keras_means_by_it(
    keras: Any, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photograph: Callable[[str], np.ndarray]
) -> None:
    """Built for it, Keras' network has a second rescaling, which undoes that the file has deviations for variances."""
    from keras.src.utils import file_utils

    own = save("EfficientNetB0")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(own))
    network = keras.applications.EfficientNetB0(weights="imagenet", include_top=False)
    variance = next(v for v in network.variables if v.path.startswith("normalization") and v.name == "variance")
    variance.assign(np.array([0.229, 0.224, 0.225]))
    finalize(network)
    written(network, path := tmp_path / "EfficientNetB0.weights.h5")
    squares = pictures(photograph)
    wanted = last_map(keras, network, "EfficientNetB0", squares).mean((1, 2))
    assert gap(features(find(str(path)), squares), wanted) < 1e-4


# Files


@pytest.mark.parametrize("kind", [".keras", ".h5"])
def test_every_kind_of_file_holds_the_same_weights(kind: str, save: Save) -> None:
    wanted, found = (read_weights(find(str(save("MobileNetV2", k)))) for k in (".weights.h5", kind))
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert "Conv1/kernel" in wanted


def test_names_do_not_depend_on_what_was_built_before(keras: Any) -> None:
    """InceptionV3 and LayerScale leave names to Keras, which counts through the whole process."""
    for name in ("InceptionV3", "ConvNeXtTiny"):
        first, second = (variables_of(keras_model(name, device="meta")) for _ in range(2))
        assert list(first) == list(second)
        assert len(first) == len(keras_model(name, device="meta").variables)


@pytest.mark.parametrize("kind", [".weights.h5", ".h5"])
def test_a_classifier_in_the_file_is_left_out(kind: str, keras: Any, tmp_path: Path) -> None:
    whole = keras.applications.MobileNetV2(weights=None, classes=7)
    written(whole, path := tmp_path / f"mobilenetv2{kind}")
    weights = read_weights(find(str(path)))
    kernel = next(v for v in whole.variables if v.path == "Conv1/kernel")
    np.testing.assert_array_equal(weights["Conv1/kernel"], kernel.value.detach().numpy())
    assert not [name for name in weights if "predictions" in name]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (".weights.h5", r"layers/conv2d/vars/0 is \(3, 3, 3, 32\), expected \(3, 3, 3, 64\)"),
        (".keras", r"layers/conv2d/vars/0 is \(3, 3, 3, 32\), expected \(3, 3, 3, 64\)"),
        (".h5", r"block1_conv1\[0\] \(3, 3, 3, 64\) is missing"),
    ],
)
def test_weights_of_another_network_are_told_by_name(kind: str, told: str, save: Save) -> None:
    with pytest.raises(BackboneError, match=rf"do not fit the network; \d+ tensors differ, first {told}"):
        read_weights(find(str(save("MobileNetV2", kind)), architecture="keras/VGG16"))


@pytest.mark.parametrize("kind", [".weights.h5", ".keras", ".h5"])
def test_a_damaged_file_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"VGG16{kind}"
    path.write_bytes(b"no weights" * 100)
    with pytest.raises(BackboneError, match=r"these weights cannot be read .* get the file again"):
        read_weights(find(str(path)))


def test_the_configuration_in_an_archive_is_never_opened(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "MobileNetV2.keras"
    with zipfile.ZipFile(save("MobileNetV2", ".keras")) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
        new.writestr("config.json", json.dumps({"class_name": "Lambda", "module": "os", "config": "no code runs"}))
    assert len(read_weights(find(str(path)))) == 260


def test_a_file_that_points_out_of_itself_is_refused(save: Save, tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "MobileNetV2.weights.h5"
    path.write_bytes(save("MobileNetV2").read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink(str(save("MobileNetV2")), "layers/conv2d/vars/0")
    with pytest.raises(BackboneError):
        read_weights(find(str(path)))


# Where they come from


def test_the_cache_of_keras_is_used(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    wanted = wanted_file("MobileNetV2")
    assert wanted.file == "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / wanted.file).write_bytes(save("MobileNetV2", ".h5").read_bytes())
    found = find("keras/MobileNetV2")
    assert (found.info.architecture, found.info.features, found.info.input_size) == ("keras/MobileNetV2", 1280, 224)
    assert (found.info.licence, found.info.pretraining) == ("Apache-2.0", "ImageNet-1k")
    assert found.info.weights_sha256 == file_hash(found.file)
    own = read_weights(find(str(save("MobileNetV2"))))
    assert all(np.array_equal(own[name], array) for name, array in read_weights(found).items())


def test_a_file_in_the_cache_that_keras_would_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").write_bytes(b"half of it")
    with pytest.raises(BackboneError, match=r"Keras expects 6d6bbae143d83200…; delete it and get it again from https"):
        find("keras/VGG16")


def test_what_cannot_be_had_offline_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(
        BackboneError, match=r"HF_HUB_OFFLINE is set\. Bring https://\S+_notop\.h5 to \S+/models/vgg16_"
    ):
        find("keras/VGG16")

    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror("this test must not reach the network")

    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(BackboneError, match=r"not on this machine and could not be fetched \(URLError\)"):
        find("keras/VGG16")
    assert not (tmp_path / "keras" / "models").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("keras/vgg16", "Close to it: keras/VGG16"),
        ("keras/ResNet", "Keras has no image classifier of this name. Close to it: .*keras/ResNet"),
        ("keras/NASNetMobile", "cannot build the network NASNetMobile on PyTorch"),
        ("nowhere.weights.h5", "no such weights file"),
    ],
)
def test_an_unknown_network_is_told_with_what_is_near(asked: str, told: str) -> None:
    with pytest.raises(BackboneError, match=told):
        find(asked)


def test_a_file_whose_name_does_not_tell_its_network_needs_the_architecture(tmp_path: Path) -> None:
    (tmp_path / "best.weights.h5").touch()
    with pytest.raises(BackboneError, match="--architecture keras/NAME"):
        find(str(tmp_path / "best.weights.h5"))


def test_all_of_keras_classifiers_are_known() -> None:
    names = keras_names()
    assert len(names) >= 40
    assert {"VGG16", "ResNet50", "ResNet152V2", "ConvNeXtXLarge", "EfficientNetV2B0", "MobileNetV3Small"} <= set(names)
    assert set(LICENCES) <= set(names)


def test_without_keras_or_with_another_backend_the_error_says_what_to_do() -> None:
    code = (
        "import sys, types\n"
        "from graftage.errors import BackboneError\n"
        "from graftage.features import keras_itself as k\n"
        "from graftage.features.keras_module import build_keras\n"
        "k.find_spec = lambda _: None\n"
        "try: build_keras('keras/VGG16', {}, 'pooled')\n"
        "except BackboneError as error: print(error)\n"
        "backend = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "sys.modules['keras'] = fake = types.ModuleType('keras')\n"
        "fake.device, fake.backend = None, backend\n"
        "try: k.keras_names()\n"
        "except BackboneError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "pip install 'graftage[keras]'" in said
    assert "set KERAS_BACKEND=torch" in said


# The module


def test_the_module_is_frozen_and_can_be_tuned_without_its_statistics(save: Save) -> None:
    backbone = find(str(save("MobileNetV2")))
    weights = read_weights(backbone)
    network = build("keras/MobileNetV2", weights)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert set(network.state_dict()) == set(weights)
    assert {n for n, _ in network.named_buffers()} == {n for n in weights if n.rpartition("/")[2].startswith("moving_")}
    assert sum(p.numel() for p in network.parameters()) == backbone.info.parameters
    network.train().requires_grad_(True)
    network(torch.rand(2, 3, 224, 224)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(np.array_equal(b.numpy(), weights[n]) for n, b in network.named_buffers())


def test_statistics_move_with_the_module_and_a_loaded_state_is_used(save: Save) -> None:
    import copy

    network = build("keras/MobileNetV2", read_weights(find(str(save("MobileNetV2")))))
    x = torch.rand(1, 3, 224, 224)
    with torch.inference_mode(False), torch.no_grad():
        before = network(x)
        other = copy.deepcopy(network)
        other.to(torch.float64).to(torch.float32)
        assert torch.equal(other(x), before)
        other.load_state_dict({n: torch.zeros_like(t) for n, t in other.state_dict().items()})
        assert not torch.equal(other(x), before)
        assert torch.equal(network(x), before)


def test_a_users_own_settings_of_keras_change_nothing_and_stay(keras: Any, save: Save) -> None:
    backbone = find(str(save("MobileNetV2")))
    wanted = read_weights(backbone)
    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_floatx("float16")
        found = read_weights(backbone)
        network = build("keras/MobileNetV2", found)
        assert (keras.config.image_data_format(), keras.config.floatx()) == ("channels_first", "float16")
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).dtype == torch.float32


def test_a_keras_network_cannot_start_anew() -> None:
    with pytest.raises(BackboneError, match="from scratch"):
        random_weights("keras/VGG16", seed=0)


# The whole way


def test_the_graph_is_made_elsewhere_and_agrees(save: Save, own_cache: Path) -> None:
    from graftage.features.engine import is_prepared, probe_squares

    backbone = find(str(save("MobileNetV2")))
    prepare_elsewhere(backbone, "keras/MobileNetV2", lambda: probe_squares(224)[:1])
    assert is_prepared(backbone, backbone.preprocess)
    forward = open_forward(backbone, backbone.preprocess, device="cpu", precision="float32")
    assert (forward.name, forward.notices) == ("openvino-float32", ())
    squares = probe_squares(224)
    assert gap(forward(squares), features(backbone, squares)) < 1e-4


def test_a_model_trained_on_it_predicts_the_same_from_its_file(
    save: Save, class_folders: Path, tmp_path: Path, own_cache: Path
) -> None:
    import graftage

    run = graftage.train(
        class_folders,
        output=tmp_path / "run",
        backbone=str(save("MobileNetV2")),
        architecture="keras/MobileNetV2",
        test="none",
        fit="squash",
        device="cpu",
    )
    files = sorted(class_folders.rglob("*.*"))[::8]
    bundle = graftage.load(run.folder / "model.safetensors")
    here, there = run.predict(files), bundle.predict(files)
    assert [p.probability for p in here] == [p.probability for p in there]
