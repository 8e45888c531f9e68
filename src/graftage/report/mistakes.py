"""The held-out pictures of a page: the most confident mistakes as a gallery, the others for its script."""

import json
from collections.abc import Mapping

from graftage.report import markup
from graftage.report.contents import Beside, Report, Shot
from graftage.report.markup import text

GALLERY = 48  # most confident mistakes shown as pictures

_HEAT_WORDS = (
    f'<p class="lead">{markup.HEAT_KEY} What the model file makes of the picture, over it: where its log-odds for the '
    "answer come from. Beside it the picture that it learnt from that is most like it to the network. A heat map tells "
    'what was looked at, not that it was right to look there.</p><p class="strength screen-only"><label>Heat map '
    '<input type="range" min="0" max="100" value="80"></label></p>'
)


def mistakes(report: Report) -> str:
    """The most confident mistakes, with heat maps where there are some."""
    shots = report.mistakes[:GALLERY]
    if not shots:
        return ""
    figures_ = [_mistake(shot, number) for number, shot in enumerate(shots)]
    pairs = [f for f, shot in zip(figures_, shots, strict=True) if shot.beside and shot.image]
    others = [f for f, shot in zip(figures_, shots, strict=True) if not (shot.beside and shot.image)]
    rest = f'<div class="gallery">{"".join(others)}</div>' if others else ""
    return (_HEAT_WORDS + f'<div class="pairs">{"".join(pairs)}</div>' if pairs else "") + rest


def _mistake(shot: Shot, number: int) -> str:
    alt = f"{text(shot.id)}: {text(shot.true)} taken for {text(shot.predicted)}"
    image = f'<img id="mistake{number}" src="{text(shot.image)}" alt="{alt}" loading="lazy">'
    said = f'<b class="said">{text(shot.predicted)}</b> {markup.number(100 * shot.confidence, ".1f", unit="&nbsp;%")}'
    truth = f"truly <b>{text(shot.true)}</b>{markup.file_name(shot.id)}"
    picture = image if shot.image else '<span class="blank"></span>'
    if shot.beside is not None and shot.image:
        heat = f'<img class="heat-map" src="{text(shot.beside.heat)}" alt="" loading="lazy">'
        return _explained(f'<span class="under">{picture}{heat}</span>', f"{said}<br>{truth}", shot.beside)
    return f"<figure>{picture}<figcaption>{said}<br>{truth}</figcaption></figure>"


def _explained(picture: str, caption: str, beside: Beside) -> str:
    """A mistake with its heat map, and the training picture most like it."""
    like = ""
    if beside.id:
        said = f"most like it <b>{text(beside.label)}</b><br>similarity {beside.similarity:.2f}"
        said += markup.file_name(beside.id)
        alt = f"{text(beside.id)}: {text(beside.label)}, learnt from"
        image = f'<img src="{text(beside.image)}" alt="{alt}" loading="lazy">'
        shown = image if beside.image else '<span class="blank"></span>'
        like = f"<div>{shown}<p>{said}</p></div>"
    return f'<figure class="pair"><div>{picture}<figcaption>{caption}</figcaption></div>{like}</figure>'


def pictures(report: Report) -> str:
    """The cells' pictures as JSON that is safe inside a script element.

    A thumbnail that the page shows already among the mistakes is named by its element instead of being sent twice, and
    one that a cell has by the cell and its number.
    """
    confusion, names = report.scores.confusion, [markup.clean(name) for name in report.scores.classes]
    shown = {"": "", **{shot.image: f"#mistake{i}" for i, shot in enumerate(report.mistakes[:GALLERY]) if shot.image}}
    cells = {}
    for (row, column), shots in report.cells.items():
        assert len(shots) <= confusion[row, column], f"cell {(row, column)} has more pictures than were counted"
        fields = [
            [markup.clean(s.id), round(s.confidence, 5), markup.clean(s.runner_up), shown.get(s.image, s.image)]
            for s in shots
        ]
        cells[f"{row},{column}"] = {"n": int(confusion[row, column]), "shots": fields}
    dots = _dots(report, shown)
    data = json.dumps({"classes": names, "cells": cells, "dots": dots}, separators=(",", ":"), allow_nan=False)
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _dots(report: Report, shown: Mapping[str, str]) -> list[list[object]]:
    """The map's pictures; `shown` names the thumbnails that the page has already."""
    known = {s.image: f"@{i},{j}:{k}" for (i, j), shots in report.cells.items() for k, s in enumerate(shots)}
    known.update(shown)
    return [
        [markup.clean(d.id), round(d.confidence, 5), d.true, d.predicted, known.get(d.image, d.image)]
        for d in report.dots
    ]
