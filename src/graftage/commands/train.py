"""`graftage train`, the demonstration of it, and the look at its augmented pictures before."""

import argparse
from pathlib import Path

from graftage import world
from graftage.commands.saying import Commands, add_command, say
from graftage.errors import OptionError
from graftage.flags import ALL, PREVIEWED, add_flags, given_flags
from graftage.settings import Settings, read_config

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


def add_train(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(commands, "train", "pictures → classifier, scores and report", text=_TRAIN, end=_TRAIN_END)
    parser.add_argument("data", nargs="?", metavar="PHOTOS", help="folder or table of labelled pictures")
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="options from a config.toml; flags override it"
    )
    add_flags(parser, ALL)
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    from graftage.pipeline import train
    from graftage.terminal import Terminal

    given = given_flags(arguments, ("data", *ALL))
    known = read_config(arguments.config) if arguments.config else {}
    if arguments.config and "output" not in given:
        known = {**known, "output": ""}  # a repeated run never lands on the one that it repeats
    if not known and "data" not in given:
        raise OptionError("train needs a folder of pictures, or -c with a config.toml that names one")
    settings = Settings.from_mapping({**known, **given}, source=str(arguments.config or "train"))
    with Terminal() as terminal:
        run = train(settings, watcher=terminal)
    if not world.rank():  # of several processes, one speaks
        say(*run.summary)
    return 0


def add_augment_preview(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
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
    from graftage.terminal import Terminal

    given = given_flags(arguments, PREVIEWED)
    with Terminal() as terminal:
        made = augment_preview(
            arguments.data, output=arguments.output, count=arguments.count, watcher=terminal, **given
        )
    say(*made.summary)
    return 0


def add_demo(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(
        commands,
        "demo",
        "the whole job on 2,624 real pictures of solar cells",
        text="From the pictures of the elpv-dataset package (CC BY-NC-SA 4.0) to a model, a report and predictions.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), metavar="FOLDER", help="default: demo/")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from graftage.demo import run_demo
    from graftage.terminal import Terminal

    with Terminal() as terminal:
        lines = run_demo(arguments.output, watcher=terminal)
    say(*lines)
    return 0
