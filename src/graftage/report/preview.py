"""A few pictures and their augmented views become one self-contained HTML page, in the look of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftage.report import markup
from graftage.report.frame import framed, template
from graftage.report.markup import text


@dataclass(frozen=True)
class Strip:
    """One picture and its views.

    Attributes:
        id: file name or path.
        label: its class.
        plain: the plain square as a data URI.
        views: augmented squares, likewise.
    """

    id: str
    label: str
    plain: str
    views: tuple[str, ...]

    def __post_init__(self) -> None:
        images = (self.plain, *self.views)
        assert all(i.startswith("data:image/") for i in images), "pictures are data URIs: the page loads nothing"


@dataclass(frozen=True)
class Preview:
    """All that the page shows, as plain values.

    Attributes:
        title: name of the data.
        verdict: one sentence.
        options: (what, how it is set, why), in order.
        strips: class by class.
        notes: notices that belong on top.
    """

    title: str
    verdict: str
    options: tuple[tuple[str, str, str], ...]
    strips: tuple[Strip, ...]
    notes: tuple[str, ...] = ()


def render(preview: Preview) -> str:
    """The whole page as one string that UTF-8 can hold."""
    parts: Mapping[str, str] = {
        "title": text(preview.title),
        "verdict": text(preview.verdict),
        "notices": "".join(f"<li>{text(note)}</li>" for note in preview.notes),
        "options": _options(preview),
        "views": str(max((len(strip.views) for strip in preview.strips), default=0)),
        "strips": "".join(map(_strip, preview.strips)),
    }
    return framed(template("preview.html"), parts)


def _options(preview: Preview) -> str:
    rows = (f'<th scope="row">{text(what)}</th>{markup.cells(how, why)}' for what, how, why in preview.options)
    return markup.table("Options in use", ("Option", "Set to", "Why"), rows, css="options")


def _strip(strip: Strip) -> str:
    name = f"{text(strip.label)}, {text(strip.id)}"
    views = "".join(
        f'<img src="{text(view)}" alt="{name}: view {i}" loading="lazy">' for i, view in enumerate(strip.views, 1)
    )
    plain = f'<img class="plain" src="{text(strip.plain)}" alt="{name}: plain square" loading="lazy">'
    caption = f"<figcaption><b>{text(strip.label)}</b>{markup.file_name(strip.id)}</figcaption>"
    return f'<figure class="strip">{caption}<div class="views">{plain}{views}</div></figure>\n'
