"""`graftage embed` and `graftage.embed`: pictures become the feature vectors of a pretrained network or of a model."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from graftage.data.decode import Limits
from graftage.data.inputs import Input
from graftage.data.sources import unlabelled
from graftage.errors import OptionError
from graftage.features.preprocess import FITS, Fit
from graftage.flags import add_flags, given_flags
from graftage.raying import add_ray, workers_of
from graftage.settings import Settings

if TYPE_CHECKING:
    from graftage.data.gathering import Named
    from graftage.features.embed import Embedded, Embedder
    from graftage.progress import Watcher

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_TEXT = """\
The feature vector of every picture, for searching, clustering, or models of your own: float32, by the same decoder,
squares and engine as in training, and kept in the same store, so that nothing is computed twice.

A row per picture, in the order given: id, status, reason, vector. A picture that cannot be used has its row too, with
the reason and no vector (NaN in an npz).
"""
_END = """\
examples:
  graftage embed photos/ -o features.parquet
  graftage embed photos/ -o features.npz --backbone timm/resnet50.a1_in1k --fit crop
  graftage embed photos/ -o features.parquet --backbone runs/birds      the network of a model, tuned or not
"""
# flags that say which network; a model brings its own
_NETWORK = ("architecture", "img_size", "layers", "licence")
_ENGINE = ("device", "precision", "workers", "repair")
_TELL = 100  # rows between two words about progress


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
    rows = list(_told(embedder.embed(_inputs(paths), workers=workers), None, watcher))
    vectors = np.full((len(rows), embedder.width), np.nan, np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            vectors[i] = row.vector
    ids, statuses, reasons = (tuple(getattr(row, name) for row in rows) for name in ("id", "status", "reason"))
    return Embeddings(ids, statuses, reasons, vectors, about)


def opened(
    backbone: str, fit: str, options: dict[str, object], watcher: "Watcher | None"
) -> "tuple[Embedder, dict[str, object], int]":
    """The network, what is said of it beside its vectors, and the number of threads asked for. Raises GraftageError."""
    from graftage.looking import limits_of
    from graftage.serve.bundle import is_model

    unknown = sorted(options.keys() - {*_NETWORK, *_ENGINE, "max_bytes", "max_pixels"})
    if unknown:
        raise OptionError(f"embed knows no option {', '.join(unknown)}; it knows {', '.join((*_NETWORK, *_ENGINE))}")
    settings = Settings.from_mapping({"data": ".", "backbone": backbone, **options}, source="embed")
    if fit and fit not in FITS:
        raise OptionError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    if watcher is not None:
        watcher.stage("prepare the network")
    if is_model(backbone):
        if fit or any(name in options for name in _NETWORK):
            raise OptionError(f"{backbone} is a model, which brings its network and how it squares pictures: leave out "
                              "--fit, --architecture, --img-size, --layers and --licence")  # fmt: skip
        embedder, source = _of_model(backbone, settings, limits_of(settings))
    else:
        embedder, source = _of_network(settings, fit, limits_of(settings))
    for notice in embedder.forward.notices if watcher is not None else ():
        watcher.note(notice)  # type: ignore[union-attr]
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


def _told(rows: "Iterable[Embedded]", total: int | None, watcher: "Watcher | None") -> "Iterator[Embedded]":
    if watcher is not None:
        watcher.stage("embed")
    for done, row in enumerate(rows, start=1):
        if watcher is not None and total:
            watcher.progress(done, total)
        yield row


# ---------------------------------------------------------------- the command


def add_embed(commands: "Commands") -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "embed",
        help="pictures → feature vectors of a network",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="pictures, folders, shards, tables, or -")
    parser.add_argument("--list", metavar="FILE", help="also take the paths in FILE, one a line; - is standard input")
    parser.add_argument("-0", "--null", action="store_true", help="lists are separated by zero bytes, not by lines")
    parser.add_argument("--path-col", metavar="NAME", help="of a table: column of the pictures (default: a usual name)")
    parser.add_argument("--id-col", metavar="NAME", help="of a table: column that becomes the id")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="of a table: its paths begin here, not beside it")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .parquet or .npz file")
    parser.add_argument(
        "--backbone",
        default=Settings.backbone,
        metavar="ID|MODEL",
        help=f"pretrained network, or a model or run whose network it is (default: {Settings.backbone})",
    )
    parser.add_argument("--fit", choices=FITS, default="", help="how a picture is made square (default: squash)")
    add_flags(parser, (*_NETWORK, *_ENGINE))
    add_ray(parser)
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace) -> int:
    from graftage.serve.batch import Counting
    from graftage.serve.vectors import open_vectors, require_target
    from graftage.terminal import Terminal

    require_target(arguments.output)
    named = _named(arguments)
    named.check()
    rows = left = broken = 0
    with Terminal() as terminal:
        given = given_flags(arguments, (*_NETWORK, *_ENGINE))
        embedder, about, _ = opened(arguments.backbone, arguments.fit, given, terminal)
        counting = Counting(named.count)
        with (
            _rows(arguments, named, embedder, given) as found,
            open_vectors(arguments.output, width=embedder.width, about=about) as writer,
        ):
            terminal.stage("embed")
            for row in found:
                writer.write(row)
                rows, left, broken = rows + 1, left + (row.vector is None), broken + row.broken
                if rows % _TELL == 0:
                    terminal.progress(rows, counting.total)
    print(f"{rows - left:,} pictures embedded, {left:,} could not be used; {arguments.output}")
    if broken:
        print(
            f"graftage: {broken:,} shards, tables or folders could not be read to their end, so pictures may be "
            "missing; their rows say why",
            file=sys.stderr,
        )
    return 2 if broken else 0


def _named(arguments: argparse.Namespace) -> "Named":
    from graftage.data.gathering import Named
    from graftage.data.rows import Asked

    if not arguments.paths and not arguments.list:
        raise OptionError("embed needs pictures: name files or folders, or --list FILE")
    asked = Asked(arguments.path_col or "", arguments.id_col or "", arguments.root)
    return Named(tuple(arguments.paths), arguments.list or "", arguments.null, asked)


@contextmanager
def _rows(
    arguments: argparse.Namespace, named: "Named", embedder: "Embedder", given: dict[str, Any]
) -> "Iterator[Iterator[Embedded]]":
    """The vectors, computed here or by the workers of a cluster."""
    workers = workers_of(arguments)
    if arguments.ray is None:
        yield embedder.embed(named.inputs(limits=embedder.limits), workers=arguments.workers or 0)
        return
    from graftage.fleet.spread import cluster
    from graftage.fleet.units import units
    from graftage.fleet.workers import embedded

    precision = "bfloat16" if embedder.forward.name.endswith("bfloat16") else "float32"
    there = partial(_opened_there, arguments.backbone, arguments.fit, {**given, "precision": precision})
    with cluster(arguments.ray, workers=workers) as count:
        yield embedded(tuple(units(named)), embedder, there, workers=count, gpu=arguments.device == "cuda")


def _opened_there(backbone: str, fit: str, options: dict[str, object]) -> "Embedder":
    return opened(backbone, fit, options, None)[0]
