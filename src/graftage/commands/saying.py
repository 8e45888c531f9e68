"""What every command has: a place on the command line, and lines for a person."""

import argparse
import sys
from typing import TextIO, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, summary: str, *, text: str = "", end: str = ""
) -> argparse.ArgumentParser:
    """Adds a command; its text and the examples at the end are shown as they are written."""
    return commands.add_parser(
        name,
        help=summary,
        description=text or summary,
        epilog=end,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def say(*lines: str, to: TextIO | None = None) -> None:
    """Prints lines, to standard output or where it is said.

    What the encoding of the terminal cannot hold, such as undecodable file names, is written escaped.
    """
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=to)
