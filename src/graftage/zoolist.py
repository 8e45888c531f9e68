"""`graftage backbones`: which pretrained networks there are, as a table for people or as JSON."""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftage.errors import OptionError
from graftage.features import zoo
from graftage.features.zoo import Facts, Wish

if TYPE_CHECKING:
    from graftage.features.speeds import Speed
    from graftage.progress import Watcher

SUMMARY = "which pretrained networks there are, and which suits"
TEXT = """\
Networks whose name holds TEXT and that are as asked for, the best first. Without any wish: those that are here.

Nothing is asked of the internet, but for --download: what is known of a network is in a table in the package; “here”
means that its weights are in an installed package, in the hub's cache or in Keras'. Pictures a second are shown where
they were measured on this machine (--measure)."""
END = """\
examples:
  graftage backbones convnext --max-params 30M
  graftage backbones --max-macs 1G --licence commercial --sort top1
  graftage backbones --family vit --pretraining lvd142m --json
  graftage backbones --measure bundled/efficientnet_lite0 timm/resnet18.a1_in1k
  graftage backbones --download timm/resnet50.a1_in1k --to /media/stick     # then, on a machine without network:
  graftage backbones --from /media/stick"""
SORTS = ("top1", "params", "macs", "speed")
_LIMIT = 30
_WIDTH = 100  # columns of the table
_LONGEST = 20  # characters of a word in it, but for ids
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_LARGEST = 10_000  # pixels


@dataclass(frozen=True)
class Listed:
    """A network with what this machine knows of it."""

    facts: Facts
    here: bool
    speed: "Speed | None"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("search", nargs="?", default="", metavar="TEXT", help="part of the name")
    parser.add_argument("--family", default="", metavar="NAME", help="such as resnet, vit, convnext or efficientnet")
    parser.add_argument("--max-params", type=_amount, metavar="N", help="most parameters, such as 10M")
    parser.add_argument("--max-macs", type=_amount, metavar="N", help="most multiplications a picture, such as 1G")
    parser.add_argument("--input-size", type=_pixels, metavar="N", help="side of its square, or it takes any, pixels")
    parser.add_argument("--pretraining", default="", metavar="SET", help="learnt from, such as in21k or lvd142m")
    parser.add_argument("--min-top1", type=_percent, metavar="X", help="least accuracy on ImageNet-1k, percent")
    parser.add_argument("--licence", default="", metavar="GATE", help=f"may be used so: {' or '.join(zoo.GATES[1:])}")
    parser.add_argument("--offline", action="store_true", help="only networks whose weights are here")
    parser.add_argument("--sort", choices=SORTS, default="top1", help="best first (default: top1)")
    parser.add_argument(
        "--limit", type=_count, default=_LIMIT, metavar="N", help=f"rows, 0 for all (default: {_LIMIT})"
    )
    parser.add_argument("--json", action="store_true", help="all that is known of each, as JSON")
    parser.add_argument(
        "--measure", nargs="+", metavar="ID", help="measure how many pictures a second these look at, and keep it"
    )
    parser.add_argument("--download", metavar="ID", help="fetch a network for a machine without network")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="with --download: where it goes, such as a USB stick")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER", help="bring networks from there to this one"
    )


def answer(arguments: argparse.Namespace, watcher: "Watcher") -> list[str]:
    """Lines that the command prints. Raises OptionError, BackboneError for a network that cannot be had or measured."""
    carrying = any(value is not None for value in (arguments.download, arguments.to, arguments.source))
    if arguments.measure and not carrying:
        return measure(arguments.measure, watcher)
    wish = Wish(
        text=arguments.search,
        family=arguments.family,
        max_parameters=arguments.max_params,
        max_macs=arguments.max_macs,
        input_size=arguments.input_size,
        pretraining=arguments.pretraining,
        min_top1=arguments.min_top1,
        licence=arguments.licence,
    )
    if carrying:
        if wish != Wish() or arguments.offline or arguments.json or arguments.measure:
            raise OptionError("--download, --to and --from go with no other flag: they carry networks, and list none")
        from graftage.carrying import carry

        return [*carry(download=arguments.download, to=arguments.to, source=arguments.source, watcher=watcher)]
    everything = wish == Wish() and not arguments.json
    found = listed(zoo.matching(wish), offline=arguments.offline or everything, sort=arguments.sort)
    shown = found[: arguments.limit] if arguments.limit else found
    if arguments.json:
        return [json.dumps([record(one) for one in shown], indent=1, ensure_ascii=False)]
    if not found:
        return [_none(wish, offline=arguments.offline)]
    return [*table(shown), "", *_closing(len(found), len(shown), everything=everything)]


def listed(networks: Iterable[Facts], *, offline: bool, sort: str) -> list[Listed]:
    """Networks with what this machine knows of them, sorted; `offline` leaves out those whose weights are elsewhere."""
    from graftage.features.athand import at_hand
    from graftage.features.speeds import speed_of

    found = [Listed(facts, at_hand(facts), speed_of(facts.id)) for facts in networks]
    return sorted((one for one in found if one.here or not offline), key=_ORDERS[sort])


_ORDERS: Mapping[str, Callable[[Listed], Any]] = {
    "top1": lambda one: (-(one.facts.top1 or -math.inf), one.facts.parameters, one.facts.id),
    "params": lambda one: (one.facts.parameters, one.facts.id),
    "macs": lambda one: (one.facts.macs, one.facts.id),
    "speed": lambda one: (-(one.speed.per_second if one.speed else -math.inf), one.facts.macs, one.facts.id),
}


def measure(backbone_ids: Sequence[str], watcher: "Watcher") -> list[str]:
    """Measures these networks; a line for each."""
    from graftage.features.backbone import find
    from graftage.features.speeds import machine, measure_speed

    lines = []
    for done, name in enumerate(backbone_ids):
        watcher.stage("measure")
        watcher.progress(done, len(backbone_ids))
        speed = measure_speed(find(name))
        lines.append(f"{name}: {speed.per_second:,.1f} pictures a second ({speed.engine}; {machine()})")
    return lines


def record(one: Listed) -> dict[str, object]:
    """A network as JSON has it."""
    facts, speed = one.facts, one.speed
    plain = {key: value for key, value in vars(facts).items() if key != "measured"}
    return {
        **plain,
        "commercial_use": zoo.use_words(facts.licence),
        "expected_top1": round(zoo.expected_top1(facts), 1),
        "measured": [asdict(each) for each in facts.measured],
        "here": one.here,
        "speed": asdict(speed) if speed else None,
    }


def table(rows: Sequence[Listed]) -> list[str]:
    """The table, at most 100 columns wide; an id that leaves no room for the rest has a line of its own."""
    heads = ("family", "params", "MACs", "size", "pretrained", "top-1", "licence", "use", "here", "pics/s")
    columns = [column for column in zip(heads, *map(_cells, rows), strict=True) if _says_something(column)]
    widths = [max(map(len, column)) for column in columns]
    room = max(_WIDTH - sum(widths) - 2 * len(widths), len("id"))
    ids = [one.facts.id for one in rows]
    first = min(max(map(len, ("id", *(name for name in ids if len(name) <= room)))), room)
    lines = []
    for name, row in zip(("id", *ids), zip(*columns, strict=True), strict=True):
        rest = "  ".join(
            cell.rjust(width) if head in _RIGHT else cell.ljust(width)
            for (head, *_), cell, width in zip(columns, row, widths, strict=True)
        )
        if len(name) > first:
            lines.append(name)
            name = ""
        lines.append(f"{name:<{first}}  {rest}".rstrip())
    return lines


def _says_something(column: Sequence[str]) -> bool:
    """Whether a column has anything in it; the family, where there are several."""
    head, *cells = column
    return any(cells) and not (head == "family" and len(cells) > 1 and len(set(cells)) == 1)


_RIGHT = ("params", "MACs", "size", "top-1", "pics/s")


def _cells(one: Listed) -> tuple[str, ...]:
    facts = one.facts
    return (
        _short(facts.family),
        amount(facts.parameters),
        amount(facts.macs),
        f"{facts.input_size}{'+' if facts.any_size else ''}",
        _short(facts.pretraining),
        "" if facts.top1 is None else f"{facts.top1:.1f}",
        _short(facts.licence),
        zoo.use_words(facts.licence).replace(zoo.UNKNOWN, "?"),
        "yes" if one.here else "",
        f"{one.speed.per_second:,.0f}" if one.speed else "",
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def amount(number: float) -> str:
    """A large number in three figures: 23.5M, 4.09G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{unit}"
    return f"{number:g}"


def _closing(found: int, shown: int, *, everything: bool) -> list[str]:
    lines = ["224+: takes other sizes, too; use: whether the licence allows it in a product, ? is not known"]
    if found > shown:
        lines.insert(0, f"{shown:,} of {found:,} networks; --limit 0 shows all")
    if everything:
        lines += [
            "bundled/efficientnet_lite0 is the default.",
            f"{len(zoo.known()):,} networks are known: name a part of an id, or say what it shall be like (--help).",
            "A local file is one, too: PATH.safetensors or PATH.pth, with --architecture NAME for its timm network.",
        ]
    return lines


def _none(wish: Wish, *, offline: bool) -> str:
    if offline:
        return "no network that is as asked for has its weights here; without --offline all are listed"
    return f"none of {len(zoo.matching(Wish(text=wish.text))):,} networks is all that was asked for at once"


# ---------------------------------------------------------------- values


def _amount(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgb]?)", text.strip().lower())
    if match is None or not (number := float(match[1]) * _UNITS[match[2]]):
        raise argparse.ArgumentTypeError(f"a number such as 500k, 10M or 1.5G is wanted, got {text!r}")
    return number


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _LARGEST):
        raise argparse.ArgumentTypeError(f"a number of pixels such as 224 is wanted, got {text!r}")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"a percentage from 0 to 100 is wanted, got {text!r}")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a number of rows is wanted, 0 for all, got {text!r}")
    return int(text)
