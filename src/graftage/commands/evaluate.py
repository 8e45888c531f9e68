"""`graftage evaluate`, `compare` and `explain`: what is asked of a finished model."""

import argparse
from pathlib import Path

from graftage.commands.models import add_engine, loaded_by
from graftage.commands.naming import LABELLED
from graftage.commands.saying import Commands, add_command, say
from graftage.flags import add_flags, given_flags
from graftage.settings import COLUMNS


def add_evaluate(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "evaluate",
        "model and another labelled folder → scores",
        text="Scores of a model on pictures it was not trained on; those it was trained on are left out and counted.",
        end="examples:\n  graftage evaluate model.safetensors photos-of-next-month/ -o evaluation/\n"
        "  graftage evaluate model.safetensors photos-of-next-month/ --against older.safetensors",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of a run")
    parser.add_argument("data", type=Path, metavar="PHOTOS", help=LABELLED)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write report.html and tables here")
    parser.add_argument("--against", type=Path, metavar="MODEL2", help="compare with this model on the same pictures")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the bootstrap (default: 42)")
    add_engine(parser)
    add_flags(parser, COLUMNS)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from graftage.asking import evaluate
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        found = evaluate(
            loaded_by(arguments, arguments.model),
            arguments.data,
            output=arguments.output,
            against=loaded_by(arguments, arguments.against) if arguments.against else None,
            watcher=terminal,
            workers=arguments.workers or 0,
            seed=arguments.seed,
            **given_flags(arguments, COLUMNS),
        )
    say(*found.summary)
    return 0


def add_compare(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "compare",
        "two runs or models on the same held-out pictures → which is better",
        text="Two runs are compared on the pictures held out in both, by the answers that they have left.\n"
        "Model files, or two runs with --data, answer for PHOTOS; pictures that either was trained on are left out.",
        end="examples:\n  graftage compare runs/birds runs/birds-2\n"
        "  graftage compare runs/birds older.safetensors --data photos-of-next-month/ -o comparison.json",
    )
    for name, letter in (("a", "A"), ("b", "B")):
        parser.add_argument(name, type=Path, metavar=f"RUN_{letter}", help="folder of a run, or a model.safetensors")
    parser.add_argument("--data", type=Path, metavar="PHOTOS", help="pictures that both models shall answer for")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write what was found here, too")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the bootstrap (default: 42)")
    add_flags(parser, ("device", "workers", *COLUMNS))
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from graftage.asking import compare
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        found = compare(
            arguments.a,
            arguments.b,
            arguments.data,
            output=arguments.output,
            watcher=terminal,
            workers=arguments.workers or 0,
            seed=arguments.seed,
            device=arguments.device or "auto",
            **given_flags(arguments, COLUMNS),
        )
    say(*found.summary)
    return 0


def add_explain(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "explain",
        "model and pictures → a page of heat maps and the most similar training pictures",
        text="Where in each picture the answer comes from, and which training pictures are most like it.\n"
        "A picture that cannot be used has its place on the page too, with the reason.",
        end="examples:\n  graftage explain runs/birds/model.safetensors a.jpg b.jpg\n"
        "  graftage explain model.safetensors photos/new/ --photos photos/train -o explained.html\n"
        "  graftage explain model.safetensors a.jpg --class robin -o explained/    the heat map as PNG, too",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of a run")
    parser.add_argument("paths", nargs="+", type=Path, metavar="IMAGE", help="pictures, or folders searched for them")
    page = Path("explain.html")
    parser.add_argument(
        "-o", "--output", type=Path, default=page, metavar="PLACE", help=f"PAGE.html, or a folder (default: {page})"
    )
    parser.add_argument("--class", dest="label", metavar="NAME", help="explain this class, not the predicted one")
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="training pictures to show (default: as the run beside MODEL says)",
    )
    parser.add_argument("--similar", type=int, default=5, metavar="N", help="of them for each picture (default: 5)")
    add_flags(parser, ("device", "precision", "repair"))
    parser.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    from graftage.asking import explain
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        made = explain(
            loaded_by(arguments, arguments.model),
            arguments.paths,
            output=arguments.output,
            label=arguments.label,
            photos=arguments.photos,
            similar=arguments.similar,
            watcher=terminal,
        )
    say(*made.summary)
    return 0
