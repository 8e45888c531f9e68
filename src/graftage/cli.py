"""The command line: one of the commands runs, and whatever comes of it becomes an exit status.

Exit status: 0 done · 1 a fault of graftage · 2 something the user can mend · 3 `check` found something serious
· 130 interrupted.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence

import graftage
from graftage.arguments import KindParser
from graftage.commands.embed import add_embed
from graftage.commands.evaluate import add_compare, add_evaluate, add_explain
from graftage.commands.export import add_export
from graftage.commands.predict import add_predict
from graftage.commands.serve import add_serve
from graftage.commands.survey import add_backbones, add_check, add_clean, add_curve, add_rank
from graftage.commands.train import add_augment_preview, add_demo, add_train
from graftage.errors import GraftageError


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
    for add in (add_train, add_predict, add_evaluate, add_compare, add_explain, add_check, add_clean):
        add(commands)
    for add in (add_export, add_serve, add_embed, add_rank, add_curve):
        add(commands)
    for add in (add_augment_preview, add_backbones, add_demo):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
