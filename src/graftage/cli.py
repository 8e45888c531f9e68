"""The command line: arguments become calls of the pipeline, its answers become text and an exit status.

Exit status: 0 done · 1 a fault of graftage · 2 something the user can mend · 3 `check` found something serious
· 130 interrupted.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import graftage
from graftage import world, zoolist
from graftage.arguments import KindParser
from graftage.embedding import add_embed
from graftage.errors import GraftageError, OptionError
from graftage.exporting import add_export
from graftage.flags import ALL, CHECKED, CURVED, PREVIEWED, RANKED, add_flags, given_flags
from graftage.predicting import add_predict
from graftage.serving import add_serve
from graftage.settings import COLUMNS, Settings, read_config

if TYPE_CHECKING:
    from graftage.serve.predict import Predictor
    from graftage.terminal import Terminal

_TRAIN = """\
Learn a classifier from labelled pictures and say how good it is.

PHOTOS holds one folder per class, or train/ and test/ (and val/) folders of class folders, or is a table:

  PHOTOS/cat/1.jpg  PHOTOS/dog/7.png          classes are the folders' names
  PHOTOS/train/cat/…  PHOTOS/test/cat/…       your own split is honoured; test/ is never learnt from
  labels.csv (.tsv, .jsonl, .parquet)         columns such as file_name, label, and if you have them patient_id, split
  PHOTOS/metadata.csv                         likewise; paths are relative to the table's folder

RUN/ receives model.safetensors, report.html, metrics.json, predictions.csv, ledger.csv, problems.csv, config.toml.
"""
_TRAIN_END = """\
examples:
  graftage train photos/                                   into runs/photos, default backbone, no network needed
  graftage train photos/ -o runs/birds --seed 7
  graftage train photos/ --backbone timm/resnet50.a1_in1k  any timm model, from the hub or its local cache
  graftage train photos/ --test none --folds 5x4           cross-validation on all pictures
  graftage train labels.csv --label-col species            pictures and labels from a table
  graftage train -c runs/birds/config.toml -o runs/again   repeat a run
"""


_LABELLED = "class folders, train/val/test folders of them, or a table"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    try:
        status: int = arguments.run(arguments)
        return status
    except GraftageError as error:
        return _failed(f"graftage: {error}", error, status=2)
    except KeyboardInterrupt:
        print(
            "\ngraftage: interrupted; what was computed is kept, the same command goes on from there", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing to say, nobody to say it to
        sys.stderr.close()
        return 0
    except Exception as error:
        traceback.print_exc()
        return _failed(
            "graftage: this is a fault of graftage, not yours; please report it with the lines above", error, 1
        )


def _say(*lines: str) -> None:
    """Prints lines; what the terminal's encoding cannot hold, such as undecodable file names, is written escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def _failed(text: str, error: BaseException, status: int) -> int:
    for line in (text, *getattr(error, "__notes__", ())):
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = KindParser(
        prog="graftage", description="A folder of labelled pictures becomes an image classifier you can trust."
    )
    parser.add_argument("--version", action="version", version=f"graftage {graftage.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_add_train, add_predict, _add_evaluate, _add_compare, _add_explain, _add_check, _add_clean):
        add(commands)
    for add in (add_export, add_serve, add_embed, _add_rank, _add_curve):
        add(commands)
    for add in (_add_augment_preview, _add_backbones, _add_demo):
        add(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _command(
    commands: "Commands", name: str, summary: str, *, text: str = "", end: str = ""
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=text or summary,
        epilog=end,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_train(commands: "Commands") -> None:
    parser = _command(commands, "train", "pictures → classifier, scores and report", text=_TRAIN, end=_TRAIN_END)
    parser.add_argument("data", nargs="?", metavar="PHOTOS", help="folder or table of labelled pictures")
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="options from a config.toml; flags override it"
    )
    add_flags(parser, ALL)
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from graftage.pipeline import train

    given = given_flags(arguments, ("data", *ALL))
    known = read_config(arguments.config) if arguments.config else {}
    if arguments.config and "output" not in given:
        known = {**known, "output": ""}  # a repeated run never lands on the one that it repeats
    if not known and "data" not in given:
        raise OptionError("train needs a folder of pictures, or -c with a config.toml that names one")
    settings = Settings.from_mapping({**known, **given}, source=str(arguments.config or "train"))
    with _terminal() as terminal:
        run = train(settings, watcher=terminal)
    if not world.rank():  # of several processes, one speaks
        _say(*run.summary)
    return 0


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("device", "precision", "workers", "repair"))


def _load(arguments: argparse.Namespace, model: Path) -> "Predictor":
    from graftage.serve.predict import load

    device, precision = arguments.device or "auto", arguments.precision or "auto"
    return load(model, device=device, precision=precision, repair=bool(arguments.repair))


def _add_evaluate(commands: "Commands") -> None:
    parser = _command(
        commands,
        "evaluate",
        "model and another labelled folder → scores",
        text="Scores of a model on pictures it was not trained on; those it was trained on are left out and counted.",
        end="examples:\n  graftage evaluate model.safetensors photos-of-next-month/ -o evaluation/\n"
        "  graftage evaluate model.safetensors photos-of-next-month/ --against older.safetensors",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of a run")
    parser.add_argument("data", type=Path, metavar="PHOTOS", help=_LABELLED)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write report.html and tables here")
    parser.add_argument("--against", type=Path, metavar="MODEL2", help="compare with this model on the same pictures")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the bootstrap (default: 42)")
    _add_engine_options(parser)
    add_flags(parser, COLUMNS)
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from graftage.asking import evaluate

    with _terminal() as terminal:
        found = evaluate(
            _load(arguments, arguments.model),
            arguments.data,
            output=arguments.output,
            against=_load(arguments, arguments.against) if arguments.against else None,
            watcher=terminal,
            workers=arguments.workers or 0,
            seed=arguments.seed,
            **given_flags(arguments, COLUMNS),
        )
    _say(*found.summary)
    return 0


def _add_compare(commands: "Commands") -> None:
    parser = _command(
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

    with _terminal() as terminal:
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
    _say(*found.summary)
    return 0


def _add_curve(commands: "Commands") -> None:
    parser = _command(
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

    given = given_flags(arguments, ("metric", "budget", "epochs", *CURVED))
    with _terminal() as terminal:
        found = curve(
            arguments.data,
            target=arguments.target,
            against=arguments.against,
            output=arguments.output,
            watcher=terminal,
            **given,
        )
    _say(*found.summary)
    return 0


def _add_rank(commands: "Commands") -> None:
    parser = _command(
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

    own = ("candidates", "max_latency", "max_size", "scores", "output")
    given = {**given_flags(arguments, RANKED), **{name: getattr(arguments, name) for name in own}}
    with _terminal() as terminal:
        found = rank(arguments.data, watcher=terminal, **given)
    _say(*found.summary)
    return 0


def _add_check(commands: "Commands") -> None:
    parser = _command(
        commands,
        "check",
        "what is wrong with pictures and labels, worst first",
        text="Unreadable files, copies, conflicting and likely wrong labels, outliers, dark, bright, blurred and odd\n"
        "pictures, missing classes, and shortcuts: clues beside the content that predict the label.\n"
        "FOLDER receives report.html, problems.csv (for graftage clean) and check.json.\n\n"
        "Exit status: 0 nothing serious, 3 something that makes results wrong, 2 the folder cannot be checked.",
        end="examples:\n  graftage check photos/\n  graftage check photos/ -o checks/photos --seed 7",
    )
    parser.add_argument("data", metavar="PHOTOS", help=_LABELLED)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="default: the next free name under checks/")
    add_flags(parser, CHECKED)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from graftage.checking import free_folder
    from graftage.surveying import check

    given = given_flags(arguments, CHECKED)
    with _terminal() as terminal:
        found = check(arguments.data, output=arguments.output or free_folder(arguments.data), watcher=terminal, **given)
    _say(*found.summary)
    return 3 if found.serious else 0


def _add_clean(commands: "Commands") -> None:
    parser = _command(
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
    _say(*done.summary)
    return 0


def _add_explain(commands: "Commands") -> None:
    parser = _command(
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

    with _terminal() as terminal:
        made = explain(
            _load(arguments, arguments.model),
            arguments.paths,
            output=arguments.output,
            label=arguments.label,
            photos=arguments.photos,
            similar=arguments.similar,
            watcher=terminal,
        )
    _say(*made.summary)
    return 0


def _add_augment_preview(commands: "Commands") -> None:
    parser = _command(
        commands,
        "augment-preview",
        "a page of pictures as the network sees them in training",
        text="For a few pictures of each class the plain square and seven augmented views, as a page for the browser.\n"
        "What is not asked for: --fit squash, --aa crop, --hflip 0.5, no other flips and no erasing.",
        end="examples:\n  graftage augment-preview photos/\n"
        "  graftage augment-preview photos/ --aa trivial --hflip 0 -o preview.html",
    )
    parser.add_argument("data", metavar="PHOTOS", help="folder or table of labelled pictures")
    page = Path("augment-preview.html")
    parser.add_argument("-o", "--output", type=Path, default=page, metavar="FILE", help=f"default: {page}")
    parser.add_argument("--count", type=int, default=24, metavar="N", help="about how many pictures (default: 24)")
    add_flags(parser, PREVIEWED)
    parser.set_defaults(run=_augment_preview)


def _augment_preview(arguments: argparse.Namespace) -> int:
    from graftage.surveying import augment_preview

    given = given_flags(arguments, PREVIEWED)
    with _terminal() as terminal:
        made = augment_preview(
            arguments.data, output=arguments.output, count=arguments.count, watcher=terminal, **given
        )
    _say(*made.summary)
    return 0


def _add_backbones(commands: "Commands") -> None:
    parser = _command(commands, "backbones", zoolist.SUMMARY, text=zoolist.TEXT, end=zoolist.END)
    zoolist.add_arguments(parser)
    parser.set_defaults(run=_backbones)


def _backbones(arguments: argparse.Namespace) -> int:
    with _terminal() as terminal:
        lines = zoolist.answer(arguments, terminal)
    _say(*lines)
    return 0


def _add_demo(commands: "Commands") -> None:
    parser = _command(
        commands,
        "demo",
        "the whole job on 2,624 real pictures of solar cells",
        text="From the pictures of the elpv-dataset package (CC BY-NC-SA 4.0) to a model, a report and predictions.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="FOLDER", help="default: demo/")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from graftage.demo import run_demo

    with _terminal() as terminal:
        lines = run_demo(arguments.output, watcher=terminal)
    _say(*lines)
    return 0


def _terminal(*, quiet: bool = False) -> "Terminal":
    from graftage.terminal import Terminal

    return Terminal(quiet=quiet)


if __name__ == "__main__":
    sys.exit(main())
