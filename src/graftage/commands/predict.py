"""`graftage predict`: a model and pictures, however many and wherever they lie, become a row per picture."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.commands.models import add_engine, loaded_by
from graftage.commands.naming import add_naming, named_by
from graftage.commands.raying import add_ray, workers_of
from graftage.commands.saying import Commands, add_command, say
from graftage.errors import OptionError

if TYPE_CHECKING:
    from graftage.data.gathering import Named
    from graftage.data.inputs import Input
    from graftage.fleet.workers import Fleet
    from graftage.measure.drift import Watch
    from graftage.serve.batch import Tally
    from graftage.serve.outputs import Sink
    from graftage.serve.predict import Answered, Predictor
    from graftage.serve.tables import Format
    from graftage.terminal import Terminal

_MOST = 1000  # pictures proposed for labelling, at most
_TEXT = """\
A row per picture, in the order given: label, calibrated probability, runner-up, the set of classes that holds the true
one, whether the model is sure enough, whether the picture is unlike those trained on.
A picture that cannot be used has its row too, with the reason.

PATH is any of these, and any number of them; memory does not grow with the number of pictures:

  a.jpg                        a picture
  photos/                      a folder, searched for pictures and tar shards
  shard-000.tar  'shard-{000..099}.tar.gz'     tar shards (WebDataset), read as they stand; rows are named SHARD/MEMBER
  new.csv .tsv .jsonl .parquet a table with a column of paths; in Parquet also of pictures' bytes, or {bytes, path}
  -                            a list of these on standard input, as --list FILE reads one from a file

Exit status: 0 if every input has its row, pictures that could not be used included; 2 if a shard or table broke off, so
that inputs may be missing (a row says which), or if something else is to be mended; 1 a fault of graftage.
"""
_END = """\
examples:
  graftage predict model.safetensors a.jpg b.jpg
  graftage predict model.safetensors photos/ -o predictions.csv
  graftage predict model.safetensors photos/ -o predictions.csv --resume    goes on after a kill, loses no row
  find . -name '*.jpg' -print0 | graftage predict model.safetensors - --null --format jsonl
  graftage predict model.safetensors new.csv --path-col file --id-col sku -o labels.parquet
  graftage predict model.safetensors 'shard-{000..099}.tar' -o predictions/ --format parquet
  graftage predict model.safetensors photos-of-june/ -o june.csv --drift     is the model still right? what to label?
  graftage predict model.safetensors 's-{000..999}.tar' -o june.csv --ray auto --resume     by a cluster
"""


def add_predict(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(commands, "predict", "model and pictures → a row per picture", text=_TEXT, end=_END)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a model.safetensors, or the folder of a run")
    add_naming(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of the terminal")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet", "table"), help="default: by the name of FILE")
    parser.add_argument(
        "--rows-per-part", type=int, metavar="N", help="with -o FOLDER --format parquet: rows a file (default: 100000)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted run of the same command")
    parser.add_argument("--all", action="store_true", help="the probability of every class, not of two")
    add_ray(parser)
    parser.add_argument("--drift", action="store_true", help="then tell how right, how strange, what to label")
    parser.add_argument("--drift-report", type=Path, metavar="FILE", help="write that as JSON, too")
    parser.add_argument("--most-worth", type=int, metavar="N", help="pictures to propose for labelling (default: 20)")
    add_engine(parser)
    parser.set_defaults(run=_predict)


@contextmanager
def _answering(
    arguments: argparse.Namespace, named: "Named", predictor: "Predictor", workers: int
) -> "Iterator[tuple[Predictor | Fleet, Iterable[Input]]]":
    """Who answers, the model here or the workers of a cluster, and the inputs that this process reads."""
    if arguments.ray is None:
        yield predictor, _some(named, predictor)
        return
    from graftage.fleet.spread import cluster
    from graftage.fleet.units import Walked, units
    from graftage.fleet.workers import Fleet

    with cluster(arguments.ray, workers=workers) as count:
        pieces = tuple(units(named))
        if not pieces:
            raise OptionError(f"{named.list}: the list names no picture")
        walked = Walked(pieces, limits=predictor.limits) if arguments.resume else None
        yield (
            Fleet(predictor, pieces, count, arguments.device or "auto", features=_drift(arguments), walked=walked),
            walked or (),
        )


def _drift(arguments: argparse.Namespace) -> bool:
    return bool(arguments.drift or arguments.drift_report)


def _predict(arguments: argparse.Namespace) -> int:
    try:
        return _rows(arguments)
    except KeyboardInterrupt as stop:
        say("\ngraftage: interrupted", *getattr(stop, "__notes__", ()), to=sys.stderr)
        if arguments.output is not None:
            print("the same command with --resume goes on from there", file=sys.stderr)
        return 130


def _rows(arguments: argparse.Namespace) -> int:
    from graftage.serve.batch import Counting, predict_all
    from graftage.serve.outputs import open_writer
    from graftage.terminal import Terminal

    workers = workers_of(arguments)
    named = named_by(arguments, "predict")
    named.check()
    predictor = loaded_by(arguments, arguments.model)
    watch = _watch(arguments, predictor)
    quiet = arguments.output is None
    with (
        Terminal(quiet=quiet) as terminal,
        _answering(arguments, named, predictor, workers) as (answering, inputs),
        open_writer(
            arguments.output,
            format=_format(arguments),
            classes=predictor.classes,
            all_probabilities=arguments.all,
            ids=bool(arguments.id_col),
            per_part=_per_part(arguments),
            made_by=_made_by(arguments, predictor) if arguments.output else None,
            resume=arguments.resume,
        ) as sink,
    ):
        if sink.resumed:
            terminal.stage("look at what is there")
        counting = None if quiet else Counting(named.count)
        tally = predict_all(
            answering,
            inputs,
            sink,
            workers=arguments.workers or 0,
            progress=terminal.progress,
            total=lambda: counting.total if counting else 0,
            begun=partial(_begun, arguments, terminal, sink, watch),
            listen=None if watch is None else partial(_listen, watch),
            keep=dict if watch is None else lambda: {"drift": watch.to_json()},
        )
    if watch is not None:
        _tell(arguments, watch)
    return _closed(arguments, tally)


def _watch(arguments: argparse.Namespace, predictor: "Predictor") -> "Watch | None":
    most = 20 if arguments.most_worth is None else arguments.most_worth
    if not _drift(arguments):
        if arguments.most_worth is not None:
            raise OptionError("--most-worth belongs to --drift: say that, too")
        return None
    if not 0 <= most <= _MOST:
        raise OptionError(f"--most-worth must be 0 to {_MOST:,}, got {most}")
    from graftage.driftstory import known_of
    from graftage.measure.drift import Watch

    return Watch(known_of(predictor.bundle), most=most)


def _listen(watch: "Watch", answered: "Answered") -> None:
    said = answered.prediction
    if answered.features is not None:
        name, own = said.path, answered.input.id
        watch.add(name, said.probabilities, answered.features, id=own, unlike_p=said.unlike_p)


def _tell(arguments: argparse.Namespace, watch: "Watch") -> None:
    """Where rows go to standard output, standard error is for people."""
    from graftage import driftstory

    found = watch.result()
    if arguments.drift_report is not None:
        driftstory.write(found, arguments.drift_report)
    say(*driftstory.summary(found), to=sys.stdout if arguments.output else sys.stderr)


def _some(named: "Named", predictor: "Predictor") -> Iterator["Input"]:
    """The inputs. Raises OptionError where there is none."""
    inputs = named.inputs(limits=predictor.limits)
    first = next(inputs, None)
    if first is None:
        what = f"{named.list}: the list names" if named.list else f"{', '.join(named.paths)}: there is"
        raise OptionError(f"{what} no picture")
    return chain([first], inputs)


def _format(arguments: argparse.Namespace) -> "Format":
    if arguments.output is None:
        usual: Format = "table" if sys.stdout.isatty() else "csv"
    else:
        endings: dict[str, Format] = {".jsonl": "jsonl", ".parquet": "parquet"}
        usual = endings.get(arguments.output.suffix.lower(), "csv")
    chosen: Format = arguments.format or usual
    return chosen


def _per_part(arguments: argparse.Namespace) -> int:
    """Rows of a part where parts are asked for, else 0."""
    from graftage.serve.outputs import ROWS_PER_PART

    asked: int | None = arguments.rows_per_part
    if asked is not None and asked < 1:
        raise OptionError(f"--rows-per-part must be 1 or more, got {asked}")
    target: Path | None = arguments.output
    if target is None or _format(arguments) != "parquet":
        if asked is not None:
            raise OptionError("--rows-per-part is for Parquet in a folder: say -o FOLDER --format parquet")
        return 0
    if asked is not None or target.is_dir() or not target.suffix:
        return asked or ROWS_PER_PART
    return 0


def _made_by(arguments: argparse.Namespace, predictor: "Predictor") -> dict[str, str]:
    """What an interrupted run must share with the one that goes on with it, by the name that a person is told."""
    from graftage import __version__

    with Path(predictor.source).open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    columns = [predictor.classes if arguments.all else [], arguments.id_col or "", _per_part(arguments)]
    return {
        "model file": model,
        "engine or precision": predictor.forward.key,
        "version of graftage": __version__,
        "format or set of columns (--format, --all, --id-col, --rows-per-part)": json.dumps(
            [_format(arguments), *columns]
        ),
        "way with damaged pictures (--repair)": str(bool(arguments.repair)),
        "wish about drift (--drift, --most-worth)": str((_drift(arguments), arguments.most_worth)),
    }


def _begun(arguments: argparse.Namespace, terminal: "Terminal", sink: "Sink", watch: "Watch | None") -> None:
    """Once it is seen which rows are there."""
    if arguments.resume:
        terminal.note(_goes_on(sink.resumed, sink.changed))
    if watch is not None and sink.resumed:
        watch.go_on(sink.kept["drift"])
    terminal.stage("predict")


def _goes_on(rows: int, changed: str) -> str:
    if changed:
        return f"{changed}: it and what comes after it is predicted anew, {rows:,} rows stay"
    return f"goes on after {rows:,} rows" if rows else "there is nothing to go on with: begins at the first input"


def _closed(arguments: argparse.Namespace, tally: "Tally") -> int:
    """What a person is told in the end, and the exit status."""
    if arguments.output is not None:
        say(f"{tally.rows - tally.left:,} pictures predicted, {tally.left:,} could not be used; {arguments.output}")
    elif tally.left:
        print(f"{tally.left:,} of {tally.rows:,} could not be used", file=sys.stderr)
    if tally.broken:
        print(
            f"graftage: {tally.broken:,} shards, tables or folders could not be read to their end, so pictures may be "
            "missing; their rows say why",
            file=sys.stderr,
        )
    return 2 if tally.broken else 0
