"""Explained pictures become one self-contained HTML page, in the look of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftage.report import markup
from graftage.report.frame import framed, template
from graftage.report.markup import text


@dataclass(frozen=True)
class Like:
    """A training picture that is like one explained: its file, its class, the cosine, a data URI or ""."""

    id: str
    label: str
    similarity: float
    image: str

    def __post_init__(self) -> None:
        assert not self.image or self.image.startswith("data:image/"), "pictures are data URIs: the page loads nothing"


@dataclass(frozen=True)
class Case:
    """One picture and why it got its class.

    Attributes:
        id: file name or path.
        reason: why it was rejected, or what decoding did to it; may be empty.
        label: the class explained; empty if it was rejected, and then all that follows is.
        probabilities: (class, probability), the most probable first.
        image: the picture as a data URI.
        heat: its heat map, likewise, to lie over it.
        empty: probability of the class for an empty picture.
        full: for this one.
        likes: the training pictures most like it, the most similar first.
    """

    id: str
    reason: str
    label: str = ""
    probabilities: tuple[tuple[str, float], ...] = ()
    image: str = ""
    heat: str = ""
    empty: float = 0.0
    full: float = 0.0
    likes: tuple[Like, ...] = ()

    def __post_init__(self) -> None:
        images = (self.image, self.heat)
        assert all(not i or i.startswith("data:image/") for i in images), (
            "pictures are data URIs: the page loads nothing"
        )


@dataclass(frozen=True)
class ExplainedPage:
    """All that the page shows: the model's name, one sentence, the pictures in order, notices that belong on top."""

    title: str
    verdict: str
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()


def render(page: ExplainedPage) -> str:
    """The whole page as one string that UTF-8 can hold."""
    parts: Mapping[str, str] = {
        "title": text(page.title),
        "verdict": text(page.verdict),
        "notices": "".join(f"<li>{text(note)}</li>" for note in page.notes),
        "key": markup.HEAT_KEY,
        "cases": "".join(map(_case, page.cases)),
    }
    return framed(template("explained.html"), parts)


def _case(case: Case) -> str:
    head = f"<h3>{markup.file_name(case.id)}</h3>"
    if not case.label:
        return f'<section class="case rejected">{head}<p>Could not be used: {text(case.reason)}.</p></section>\n'
    name = text(case.id)
    picture = (
        f'<div class="under"><img src="{text(case.image)}" alt="{name}">'
        f'<img class="heat-map" src="{text(case.heat)}" alt="where {text(case.label)} comes from in {name}"></div>'
    )
    remark = f'<p class="quiet">{text(case.reason)}</p>' if case.reason else ""
    said = (
        f"<p>Where <b>{text(case.label)}</b> comes from. An empty picture of this one’s mean colour would get "
        f"{_percent(case.empty)} for it, this picture gets {_percent(case.full)}: the coloured places are what made "
        "the difference, in log-odds.</p>"
    )
    return (
        f'<section class="case">{head}<div class="columns">{picture}<div>{_bars(case)}{said}{remark}'
        f"{_likes(case)}</div></div></section>\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}&nbsp;%"


def _bars(case: Case) -> str:
    rows = "".join(
        f"<li{' class=chosen' if name == case.label else ''}><span>{text(name)}</span><span>{_percent(p)}</span>"
        f'<i style="width:{100 * p:.1f}%"></i></li>'
        for name, p in case.probabilities
    )
    return f'<ol class="classes">{rows}</ol>'


def _likes(case: Case) -> str:
    if not case.likes:
        return ""
    return f'<h4>Most like it, of what was learnt from</h4><div class="likes">{"".join(map(_like, case.likes))}</div>'


def _like(like: Like) -> str:
    alt = f"{text(like.id)}: {text(like.label)}"
    image = (
        f'<img src="{text(like.image)}" alt="{alt}" loading="lazy">' if like.image else '<span class="blank"></span>'
    )
    return (
        f"<figure>{image}<figcaption><b>{text(like.label)}</b><br>{like.similarity:.2f}{markup.file_name(like.id)}"
        "</figcaption></figure>"
    )
