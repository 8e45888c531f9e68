"""Pictures become the feature vectors of a pretrained network or of a model: `graftage.embed`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import Limits
from graftage.data.inputs import Input
from graftage.data.sources import unlabelled
from graftage.errors import OptionError
from graftage.features.preprocess import FITS, Fit
from graftage.settings import Settings

if TYPE_CHECKING:
    from graftage.features.embed import Embedder
    from graftage.progress import Watcher

# flags that say which network; a model brings its own
NETWORK = ("architecture", "img_size", "layers", "licence")
ENGINE = ("device", "precision", "workers", "repair")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Feature vectors of n pictures.

    Attributes:
        ids: the pictures as they were named.
        statuses: "ok", "repaired" or "rejected", each.
        reasons: why it was rejected, or what decoding did to it; may be empty.
        vectors: float32 (n, D); NaN for those that were rejected.
        about: what made them: network, engine, preprocessing.
    """

    ids: tuple[str, ...]
    statuses: tuple[str, ...]
    reasons: tuple[str, ...]
    vectors: NDArray[np.float32]
    about: dict[str, object]


def embed(
    pictures: Sequence[str | Path],
    *,
    backbone: str | Path = Settings.backbone,
    fit: str = "",
    watcher: "Watcher | None" = None,
    **options: object,
) -> Embeddings:
    """Feature vectors of pictures, computed once and kept by the pictures' content.

    Args:
        pictures: files, or folders searched for them.
        backbone: id of a pretrained network; or a model file or the folder of a run, whose network it is then.
        fit: "squash" (the default), "crop" or "pad"; "" for a model, which has its own.
        watcher: told how it goes on.
        options: fields of `Settings`: architecture, img_size, layers, licence, device, precision, workers, repair.

    Raises:
        GraftageError: something that the user can mend. A picture that cannot be used is none: it has its row.
    """
    paths = [Path(path) for path in pictures]
    embedder, about, workers = opened(str(backbone), fit, dict(options), watcher)
    if watcher is not None:
        watcher.stage("embed")
    rows = list(embedder.embed(_inputs(paths), workers=workers))
    vectors = np.full((len(rows), embedder.width), np.nan, np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            vectors[i] = row.vector
    ids, statuses, reasons = (tuple(getattr(row, name) for row in rows) for name in ("id", "status", "reason"))
    return Embeddings(ids, statuses, reasons, vectors, about)


def opened(
    backbone: str, fit: str, options: dict[str, object], watcher: "Watcher | None"
) -> "tuple[Embedder, dict[str, object], int]":
    """The network that embeds, opened.

    Args:
        backbone: id of a network, or a model file or run whose network it is.
        fit: how a picture is made square; "" for "squash", or as the model does it.
        options: fields of `Settings` that decide what the network sees and how it runs.
        watcher: told how it goes on.

    Returns:
        The network, what is said of it beside its vectors, and the number of threads asked for.

    Raises:
        OptionError: an unknown option, or one that a model decides itself.
        BackboneError: the network cannot be had.
        BundleError: the model file is damaged.
    """
    from graftage.looking import limits_of
    from graftage.serve.bundle import is_model

    unknown = sorted(options.keys() - {*NETWORK, *ENGINE, "max_bytes", "max_pixels"})
    if unknown:
        raise OptionError(f"embed knows no option {', '.join(unknown)}; it knows {', '.join((*NETWORK, *ENGINE))}")
    settings = Settings.from_mapping({"data": ".", "backbone": backbone, **options}, source="embed")
    if fit and fit not in FITS:
        raise OptionError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    if watcher is not None:
        watcher.stage("prepare the network")
    if is_model(backbone):
        if fit or any(name in options for name in NETWORK):
            raise OptionError(f"{backbone} is a model, which brings its network and how it squares pictures: leave out "
                              "--fit, --architecture, --img-size, --layers and --licence")  # fmt: skip
        embedder, source = _of_model(backbone, settings, limits_of(settings))
    else:
        embedder, source = _of_network(settings, fit, limits_of(settings))
    if watcher is not None:
        for notice in embedder.forward.notices:
            watcher.note(notice)
    about: dict[str, object] = {
        "backbone": source,
        "engine": embedder.forward.name,
        "features": embedder.forward.key,
        "preprocess": embedder.preprocess.to_json(),
    }
    return embedder, about, settings.workers


def _of_model(path: str, settings: Settings, limits: Limits) -> "tuple[Embedder, str]":
    from graftage.features.embed import Embedder
    from graftage.serve.predict import load

    model = load(path, device=settings.device, precision=settings.precision)
    embedder = Embedder(model.forward, model.bundle.preprocess, limits, settings.repair)
    return embedder, model.bundle.backbone.id


def _of_network(settings: Settings, fit: str, limits: Limits) -> "tuple[Embedder, str]":
    from graftage.features.embed import Embedder
    from graftage.features.engine import open_forward
    from graftage.looking import network_of

    network = network_of(settings)
    preprocess = network.preprocess.with_fit(cast("Fit", fit or "squash"))
    forward = open_forward(network, preprocess, device=settings.device, precision=settings.precision)
    return Embedder(forward, preprocess, limits, settings.repair), network.info.id


def _inputs(paths: Sequence[Path]) -> Iterator[Input]:
    return (Input(str(source.path), source.path) for source in unlabelled(paths))
