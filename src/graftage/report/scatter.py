"""Held-out pictures as dots on a flat map, to be explored: alike ones lie side by side, mistakes stand out."""

from collections.abc import Sequence
from dataclasses import dataclass

from graftage.report.markup import text

_SIDE = 600  # units of the drawing
_RADIUS = 7


@dataclass(frozen=True)
class Dot:
    """One picture on the map.

    Attributes:
        x, y: its place, -1 to 1.
        id: of the picture.
        true: its class, as an index; predicted: what it was taken for.
        confidence: of that answer, 0 to 1.
        image: data URI of its thumbnail, or "".
    """

    x: float
    y: float
    id: str
    true: int
    predicted: int
    confidence: float
    image: str


def scatter(dots: Sequence[Dot], classes: Sequence[str]) -> str:
    """The map as SVG, mistakes drawn last, with a choice of the class to show and a place for the picture looked at."""
    if not dots:
        return ""
    tall = min(1.0, max(abs(dot.y) for dot in dots) + 0.02)  # half of the height, where the map is flat
    order = sorted(range(len(dots)), key=lambda i: dots[i].true != dots[i].predicted)
    marks = "".join(_mark(dots[i], i, classes) for i in order)
    wrong = sum(dot.true != dot.predicted for dot in dots)
    title = f"Map of {len(dots)} held-out pictures, {wrong} of them wrong"
    names = "".join(f'<option value="{k}">{text(name)}</option>' for k, name in enumerate(classes))
    choice = f'<label>Show <select class="of-class"><option value="">all classes</option>{names}</select></label>'
    box = f"0 {_SIDE * (1 - tall) / 2:.0f} {_SIDE} {_SIDE * tall:.0f}"
    head = f'<svg class="map" role="group" viewBox="{box}" aria-label="{title}"><title>{title}</title>'
    hint = '<p class="quiet screen-only">Point at a dot, or move with the arrow keys.</p>'
    looked = f'<div class="looked" aria-live="polite">{hint}</div>'
    return f'<div class="chart"><p class="choice screen-only">{choice}</p>{head}{marks}</svg></div>{looked}'


def _mark(dot: Dot, number: int, classes: Sequence[str]) -> str:
    x, y = (_RADIUS + (_SIDE - 2 * _RADIUS) * (1 + v) / 2 for v in (dot.x, -dot.y))
    right = dot.true == dot.predicted
    words = f"{classes[dot.true]}, recognised" if right else f"{classes[dot.true]}, taken for {classes[dot.predicted]}"
    label = f"{text(words)}: {text(dot.id)}"
    return (
        f'<circle class="{"right" if right else "wrong"}" data-dot="{number}" data-true="{dot.true}" '
        f'cx="{x:.0f}" cy="{y:.0f}" r="{_RADIUS}" role="img" aria-label="{label}"/>'
    )
