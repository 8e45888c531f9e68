"""What all tests share: a cache of their own, no network, and pictures made on the fly."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# The same examples every time, however busy the machine: a run tells of the change, not of luck. To look further:
# pytest --hypothesis-profile search
settings.register_profile("search", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

os.environ["HF_HUB_OFFLINE"] = "1"  # the hub's client reads it when it is first imported


# What takes a minute or more, the longest first: begun last, one process would be at it while the others have nothing.
LONG = ("export_precision", "tuning", "fleet", "export", "pipeline", "export_networks", "features_squaring", "explain")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files come first; the others keep their order."""
    long = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: long.index(item.path.stem) if item.path.stem in long else len(long))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Processes that share the tests share the cores, too: more threads than cores would wait for each other."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(max((os.cpu_count() or 1) // len(specs), 1)))


@pytest.fixture(autouse=True, scope="session")
def nothing_left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests shared, networks and their graphs among it, goes with the session, unless a test failed."""
    yield
    if not request.session.testsfailed:
        shutil.rmtree(tmp_path_factory.getbasetemp(), ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def own_cache(nothing_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole session: networks are converted once, and the user's own cache is never touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFTAGE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True, scope="session")
def graphs_made_here() -> Iterator[None]:
    """Networks become graphs in the process of the tests: another one takes 7 s to load PyTorch, which is here already.

    What runs in a process of its own, `test_features_prepare` and `test_features_keras` make them as users' runs do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftage.looking.prepare_elsewhere", lambda *_: None)
        yield


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test that makes or breaks what is kept."""
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """Bytes of a small picture with smooth colours and a little grain, another one for each seed."""

    def make(seed: int, kind: str = "JPEG", size: tuple[int, int] = (80, 60), **options: Any) -> bytes:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(coarse) + rng.normal(0, 4, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def photograph() -> Callable[[str], np.ndarray]:
    """A real photograph, uint8 (427, 640, 3): "china.jpg" (a palace) or "flower.jpg" (a dahlia)."""
    from sklearn.datasets import load_sample_image

    return load_sample_image


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A weights file of a timm network with random weights and ten classes, named so that it tells the network."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("weights")

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.safetensors"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(7)
                save_file(timm.create_model(architecture, num_classes=10).state_dict(), path)
        return path

    return make


@pytest.fixture(scope="session")
def onnx_once() -> Iterator[None]:
    """What PyTorch has once written as ONNX is copied where the very same graph, tensors and all, comes again."""
    from graftage.serve import export, targets

    write, written = targets.write_onnx, dict[str, bytes]()

    def once(program: Any, path: Path) -> None:
        known = hashlib.sha256(program.graph_module.code.encode())
        known.update(f"{program.graph_signature} {program.range_constraints}".encode())
        for name, tensor in sorted({**program.state_dict, **program.constants}.items()):
            known.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            known.update(tensor.detach().numpy().tobytes())
        if (key := known.hexdigest()) not in written:
            write(program, path)
            written[key] = path.read_bytes()
        path.write_bytes(written[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "write_onnx", once)
        patch.setattr(export, "write_onnx", once)
        patch.setitem(targets.TARGETS, "onnx", replace(targets.TARGETS["onnx"], write=once))
        yield


@pytest.fixture
def cold(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without features, but with the converted network, because converting it takes long."""
    cache = tmp_path / "cache"
    (own_cache / "networks").mkdir(exist_ok=True)
    cache.mkdir()
    (cache / "networks").symlink_to(own_cache / "networks")
    monkeypatch.setenv("GRAFTAGE_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 real pictures in the class folders 1, 2 and 10; not to be changed."""
    import photos

    return photos.three_classes(tmp_path_factory.mktemp("pictures") / "photos", 16)


@pytest.fixture(scope="session")
def finished(class_folders: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """One run of `graftage train` with the options as they come: (its folder, what the command said)."""
    import photos

    folder = tmp_path_factory.mktemp("finished") / "run"
    said = photos.graftage("train", class_folders, "-o", folder)
    assert said.status == 0, said.err
    return folder, said


@pytest.fixture(scope="session")
def locked(class_folders: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with 30 % of the pictures locked away."""
    import photos

    folder = tmp_path_factory.mktemp("locked") / "run"
    said = photos.graftage("train", class_folders, "-o", folder, "--test", "0.3", "--folds", "3", "--fit", "crop")
    assert said.status == 0, said.err
    return folder


@pytest.fixture(scope="module")  # what drives it keeps an event loop running, in which other tests cannot run theirs
def browser() -> Iterator[Any]:
    """A headless Chromium; where there is none, tests of pages are skipped."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()
