"""`graftage check`, `clean`, `curve`, `rank` and `backbones`: what is asked before a model is made."""

import argparse
from pathlib import Path

from graftage import zoolist
from graftage.commands.naming import LABELLED
from graftage.commands.saying import Commands, add_command, say
from graftage.data.listing import title_of
from graftage.flags import CHECKED, CURVED, RANKED, add_flags, given_flags
from graftage.settings import COLUMNS


def add_check(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "check",
        "what is wrong with pictures and labels, worst first",
        text="Unreadable files, copies, conflicting and likely wrong labels, outliers, dark, bright, blurred and odd\n"
        "pictures, missing classes, and shortcuts: clues beside the content that predict the label.\n"
        "FOLDER receives report.html, problems.csv (for graftage clean) and check.json.\n\n"
        "Exit status: 0 nothing serious, 3 something that makes results wrong, 2 the folder cannot be checked.",
        end="examples:\n  graftage check photos/\n  graftage check photos/ -o checks/photos --seed 7",
    )
    parser.add_argument("data", metavar="PHOTOS", help=LABELLED)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the next free name under checks/")
    add_flags(parser, CHECKED)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from graftage.surveying import check
    from graftage.terminal import Terminal
    from graftage.writing import free_folder

    given = given_flags(arguments, CHECKED)
    output = arguments.output or free_folder(Path("checks"), title_of(arguments.data))
    with Terminal() as terminal:
        found = check(arguments.data, output=output, watcher=terminal, **given)
    say(*found.summary)
    return 3 if found.serious else 0


def add_clean(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "clean",
        "carry out what is left in a problems.csv: move aside, relabel; or take it back",
        text="The column action of problems.csv says what happens to a picture: move takes it aside into\n"
        "PHOTOS-aside/, relabel moves it into the class folder named under suggested label, keep or nothing leaves\n"
        "it. Nothing is deleted. All rows are checked before anything is moved. A journal in PHOTOS-aside/ makes an\n"
        "interrupted clean safe: give the same command again to go on, or --undo.\n\n"
        "Where PHOTOS is a table, no picture is touched: move takes the picture's row out, relabel changes its label.\n"
        "The table as it was is kept in PHOTOS-aside/.",
        end="examples:\n  graftage clean photos/ checks/photos/problems.csv --dry-run\n"
        "  graftage clean photos/ checks/photos/problems.csv\n  graftage clean photos/ --undo",
    )
    parser.add_argument("data", type=Path, metavar="PHOTOS", help="the folder or table that was checked")
    parser.add_argument("problems", type=Path, nargs="?", metavar="problems.csv", help="what graftage check left")
    parser.add_argument("--undo", action="store_true", help="take the last clean back")
    parser.add_argument("--dry-run", action="store_true", help="say what would be moved, and move nothing")
    add_flags(parser, COLUMNS)
    parser.set_defaults(run=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    from graftage.surveying import clean

    given = given_flags(arguments, COLUMNS)
    done = clean(arguments.data, arguments.problems, undo=arguments.undo, dry_run=arguments.dry_run, **given)
    say(*done.summary)
    return 0


def add_curve(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "curve",
        "how the score grows with the pictures → what more of them would bring",
        text="Classifiers on frozen features are trained on parts of the pictures and tested on the rest; power laws\n"
        "through their scores tell what 1.5, 2 and 4 times the pictures would bring, with 80 % intervals.\n"
        "A test folder is left alone. A page for the browser, and a json file of the same name.\n"
        "With --against scratch the same network is also trained from random weights on several sizes: how many\n"
        "pictures is pretraining worth? That takes minutes; what was trained is kept, the same command goes on.",
        end="examples:\n  graftage curve photos/\n"
        "  graftage curve photos/ --against scratch --budget 30m\n"
        "  graftage curve photos/ --target 0.95 --metric balanced-accuracy -o photos-curve.html",
    )
    parser.add_argument("data", metavar="PHOTOS", help="folder or table of labelled pictures")
    page = Path("curve.html")
    parser.add_argument("-o", "--output", type=Path, default=page, metavar="PAGE.html", help=f"default: {page}")
    parser.add_argument("--target", type=float, metavar="SCORE", help="how many pictures does it take, such as 0.95")
    parser.add_argument("--metric", metavar="NAME", help="accuracy or balanced-accuracy (default: accuracy)")
    parser.add_argument("--against", metavar="WHAT", default="", help="scratch: the same network from random weights")
    parser.add_argument("--budget", metavar="TIME", help="time for the trainings from scratch (default: 10m)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each of them (default: as the budget allows)")
    add_flags(parser, CURVED)
    parser.set_defaults(run=_curve)


def _curve(arguments: argparse.Namespace) -> int:
    from graftage.surveying import curve
    from graftage.terminal import Terminal

    given = given_flags(arguments, ("metric", "budget", "epochs", *CURVED))
    with Terminal() as terminal:
        found = curve(
            arguments.data,
            target=arguments.target,
            against=arguments.against,
            output=arguments.output,
            watcher=terminal,
            **given,
        )
    say(*found.summary)
    return 0


def add_rank(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "rank",
        "which pretrained network fits these pictures, at what cost, under which licence",
        text="Candidates race on the pictures that train would learn from: a cheap head, held out, on ever more of\n"
        "them, until one stands out; then other input sizes, layers and ways of making the square are tried on the\n"
        "best. Test pictures are not looked at. A page for the browser, and a json file of the same name.",
        end="examples:\n  graftage rank photos/\n"
        "  graftage rank photos/ --candidates auto,timm/resnet50.a1_in1k --budget 5m --max-latency 20ms\n"
        "  graftage rank photos/ --max-size 50MB --licence commercial --scores -o photos-rank.html",
    )
    parser.add_argument("data", metavar="PHOTOS", help="folder of labelled pictures")
    page = Path("rank.html")
    parser.add_argument("-o", "--output", type=Path, default=page, metavar="PAGE.html", help=f"default: {page}")
    parser.add_argument(
        "--candidates", default="auto", metavar="A,B,C", help="ids; auto is all that is at hand (default: auto)"
    )
    parser.add_argument("--max-latency", default="", metavar="TIME", help="for a single picture, such as 20ms")
    parser.add_argument("--max-size", default="", metavar="SIZE", help="of the weights, such as 50MB")
    parser.add_argument("--scores", action="store_true", help="also LogME, nearest neighbours and the linear probe")
    add_flags(parser, RANKED)
    parser.set_defaults(run=_rank)


def _rank(arguments: argparse.Namespace) -> int:
    from graftage.surveying import rank
    from graftage.terminal import Terminal

    own = ("candidates", "max_latency", "max_size", "scores", "output")
    given = {**given_flags(arguments, RANKED), **{name: getattr(arguments, name) for name in own}}
    with Terminal() as terminal:
        found = rank(arguments.data, watcher=terminal, **given)
    say(*found.summary)
    return 0


def add_backbones(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(commands, "backbones", zoolist.SUMMARY, text=zoolist.TEXT, end=zoolist.END)
    zoolist.add_arguments(parser)
    parser.set_defaults(run=_backbones)


def _backbones(arguments: argparse.Namespace) -> int:
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        lines = zoolist.answer(arguments, terminal)
    say(*lines)
    return 0
