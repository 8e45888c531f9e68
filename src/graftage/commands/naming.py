"""The flags by which pictures are named for prediction and embedding: files, folders, shards, tables and lists."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.errors import OptionError

if TYPE_CHECKING:
    from graftage.data.gathering import Named


LABELLED = "class folders, train/val/test folders of them, or a table"  # where labels are needed, too


def add_naming(parser: argparse.ArgumentParser) -> None:
    """The paths, and the flags that say how lists and tables are read."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="pictures, folders, shards, tables, or -")
    parser.add_argument("--list", metavar="FILE", help="also take the paths in FILE, one a line; - is standard input")
    parser.add_argument("-0", "--null", action="store_true", help="lists are separated by zero bytes, not by lines")
    parser.add_argument("--path-col", metavar="NAME", help="of a table: column of the pictures (default: a usual name)")
    parser.add_argument("--id-col", metavar="NAME", help="of a table: column that is carried to the output as id")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="of a table: its paths begin here, not beside it")


def named_by(arguments: argparse.Namespace, command: str) -> "Named":
    """What was named. Raises OptionError where nothing was."""
    from graftage.data.gathering import Named
    from graftage.data.rows import Asked

    if not arguments.paths and not arguments.list:
        raise OptionError(f"{command} needs pictures: name files or folders, or --list FILE")
    asked = Asked(arguments.path_col or "", arguments.id_col or "", arguments.root)
    return Named(tuple(arguments.paths), arguments.list or "", arguments.null, asked)
