"""What `graftage check` found becomes one self-contained HTML page, in the look of the report."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graftage.report import markup
from graftage.report.clues import ClueRow, clue_table
from graftage.report.frame import framed, template
from graftage.report.markup import text

SHOWN = 1500  # cards on the page; what is beyond is in the csv alone


@dataclass(frozen=True)
class Card:
    """One problem as it is shown.

    Attributes:
        severity: "error", "warning" or "note".
        path: the picture's id, "" where a class or the whole set is meant.
        other: the other picture's id, or "".
        label: its class, or "".
        suggested: the class that it probably belongs to, or "".
        evidence: what was found.
        images: thumbnails as data URIs: of the picture, and of the other where there is one; "" where none is shown.
    """

    severity: str
    path: str
    other: str
    label: str
    suggested: str
    evidence: str
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(not i or i.startswith("data:image/") for i in self.images), "pictures are data URIs"


@dataclass(frozen=True)
class Group:
    """All problems of one kind.

    Attributes:
        kind: its name.
        meaning: a sentence.
        severity: the worst of its cards.
        count: how many there are, shown or not.
        cards: those that are shown.
        note: a number with its interval, or what else belongs on top of them.
    """

    kind: str
    meaning: str
    severity: str
    count: int
    cards: tuple[Card, ...]
    note: str = ""


@dataclass(frozen=True)
class CheckPage:
    """All that the page shows, as plain values.

    Attributes:
        title: name of the data.
        verdict: one sentence.
        notes: notices that belong on top.
        facts: names and values.
        groups: worst first.
        clues: table of shortcuts.
        compared: what the clues are compared with, in a sentence; "" where nothing could be compared.
        usage: (caption, command) pairs.
        how: paragraphs on how it was found.
    """

    title: str
    verdict: str
    notes: tuple[str, ...]
    facts: Mapping[str, str]
    groups: tuple[Group, ...]
    clues: tuple[ClueRow, ...]
    compared: str
    usage: tuple[tuple[str, str], ...]
    how: str


def render(page: CheckPage) -> str:
    """The whole page as one string that UTF-8 can hold."""
    parts: Mapping[str, str] = {
        "title": text(page.title),
        "script": template("check.js").strip(),
        "verdict": text(page.verdict),
        "notices": "".join(f"<li>{text(note)}</li>" for note in page.notes),
        "facts": markup.facts(page.facts),
        "filters": _filters(page.groups),
        "groups": "".join(map(_group, page.groups)),
        "clues": clue_table(page.clues, page.compared),
        "usage": "".join(markup.code(caption, command) for caption, command in page.usage),
        "how": markup.paragraphs(page.how),
    }
    return framed(template("check.html"), parts)


def _filters(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    everything = sum(group.count for group in groups)
    buttons = [_button("", "all", everything, pressed=True)]
    buttons += [_button(_id(group.kind), group.kind, group.count, error=group.severity == "error") for group in groups]
    return f'<div class="filters" role="group" aria-label="Show only one kind of problem">{"".join(buttons)}</div>'


def _button(target: str, name: str, count: int, *, pressed: bool = False, error: bool = False) -> str:
    css = ' class="error"' if error else ""
    state = "true" if pressed else "false"
    return (
        f'<button type="button" data-show="{target}" aria-pressed="{state}"{css}>{text(name)} '
        f'<span class="count">{count:,}</span></button>'
    )


def _id(kind: str) -> str:
    return "kind-" + re.sub(r"[^a-z]+", "-", kind)


def _group(group: Group) -> str:
    more = group.count - len(group.cards)
    rest = f'<p class="quiet">{more:,} more in problems.csv.</p>' if more > 0 else ""
    note = f'<p class="note">{text(group.note)}</p>' if group.note else ""
    pictures = [card for card in group.cards if card.path]
    plain = [card for card in group.cards if not card.path]
    rows = "".join(f"<li><b>{text(c.label)}</b> {text(c.evidence)}</li>" for c in plain)
    body = f'<ul class="plain">{rows}</ul>' if plain else ""
    body += f'<div class="gallery">{"".join(map(_card, pictures))}</div>' if pictures else ""
    return (
        f'<section class="kind-of-problem" id="{_id(group.kind)}"><h2>{text(group.kind.capitalize())}'
        f'{markup.tag(f"{group.count:,}", group.severity)}</h2><p class="lead">{text(group.meaning)}</p>'
        f"{note}{body}{rest}</section>\n"
    )


def _card(card: Card) -> str:
    names = (card.path, card.other)
    shown = "".join(
        f'<img src="{text(image)}" alt="{text(name)}" loading="lazy">' if image else '<span class="blank"></span>'
        for image, name in zip(card.images, names, strict=False)
    )
    label = f"<b>{text(card.label)}</b>" if card.label else ""
    if card.suggested:
        label += f' → <b class="said">{text(card.suggested)}</b>'
    other = f' <span class="file" title="{text(card.other)}">and {text(card.other)}</span>' if card.other else ""
    return (
        f'<figure class="{"pair" if len(card.images) > 1 else "one"}"><div class="shots">{shown}</div>'
        f'<figcaption>{label}<span class="evidence">{text(card.evidence)}</span>'
        f'<span class="file" title="{text(card.path)}">{text(card.path)}</span>{other}</figcaption></figure>\n'
    )
