"""`graftage embed`: pictures become feature vectors, in a file."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftage.commands.naming import add_naming, named_by
from graftage.commands.raying import add_ray, workers_of
from graftage.commands.saying import Commands, add_command
from graftage.flags import add_flags, given_flags
from graftage.settings import FITS, Settings

if TYPE_CHECKING:
    from graftage.data.gathering import Named
    from graftage.features.embed import Embedded, Embedder

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
_FLAGS = ("architecture", "img_size", "layers", "licence", "device", "precision", "workers", "repair")
_TELL = 100  # rows between two words about progress


def add_embed(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(commands, "embed", "pictures → feature vectors of a network", text=_TEXT, end=_END)
    add_naming(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .parquet or .npz file")
    parser.add_argument(
        "--backbone",
        default=Settings.backbone,
        metavar="ID|MODEL",
        help=f"pretrained network, or a model or run whose network it is (default: {Settings.backbone})",
    )
    parser.add_argument("--fit", choices=FITS[1:], default="", help="how a picture is made square (default: squash)")
    add_flags(parser, _FLAGS)
    add_ray(parser)
    parser.set_defaults(run=_embed)


def _embed(arguments: argparse.Namespace) -> int:
    from graftage.embeddings import opened
    from graftage.serve.batch import Counting
    from graftage.serve.vectors import open_vectors, require_target
    from graftage.terminal import Terminal

    require_target(arguments.output)
    workers = workers_of(arguments)
    named = named_by(arguments, "embed")
    named.check()
    rows = left = broken = 0
    with Terminal() as terminal:
        given = given_flags(arguments, _FLAGS)
        embedder, about, _ = opened(arguments.backbone, arguments.fit, given, terminal)
        counting = Counting(named.count)
        with (
            _rows(arguments, named, embedder, given, workers) as found,
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


@contextmanager
def _rows(
    arguments: argparse.Namespace, named: "Named", embedder: "Embedder", given: dict[str, Any], workers: int
) -> "Iterator[Iterator[Embedded]]":
    """The vectors, computed here or by the workers of a cluster."""
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
    from graftage.embeddings import opened

    return opened(backbone, fit, options, None)[0]
