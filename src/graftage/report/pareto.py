"""Score against time for a picture: each network a dot, and the front of those that no other beats in both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graftage.measure.interval import Estimate
from graftage.report.markup import text

_HEIGHT = 300  # pixels
_LEFT, _BELOW = 3.2, 44  # rem for the scale on the left; pixels for the one below
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)  # between lines of the grid
_TICKS = tuple(m * 10.0**e for e in range(-2, 6) for m in (1, 2, 5))  # milliseconds


@dataclass(frozen=True)
class Spot:
    """One network: its name, milliseconds for a picture, its score, and whether it is the one recommended."""

    name: str
    milliseconds: float
    score: Estimate
    chosen: bool = False


def front(spots: Sequence[Spot]) -> list[Spot]:
    """Those that no other is both at least as fast and at least as good as, fastest first."""
    kept = list[Spot]()
    for spot in sorted(spots, key=lambda s: (s.milliseconds, -s.score.value, s.name)):
        if not kept or spot.score.value > kept[-1].score.value:
            kept.append(spot)
    return kept


def pareto_chart(spots: Sequence[Spot]) -> str:
    """The figure, time on a scale on which each doubling is as wide; empty where nothing was measured."""
    if not spots:
        return ""
    low, high, step = _scores(spots)
    first, last = _times(spots)

    def x(milliseconds: float) -> str:
        return f"{100 * math.log(milliseconds / first) / math.log(last / first):.2f}%"

    def y(score: float) -> float:
        return _HEIGHT * min(max((high - score) / (high - low), 0.0), 1.0)

    lines = "".join(_across(low + i * step, y) for i in range(round((high - low) / step) + 1))
    named = [t for t in _TICKS if first < t < last] or [float(f"{spots[0].milliseconds:.2g}")]
    ticks = "".join(f'<text x="{x(t)}" y="{_HEIGHT + 20}" text-anchor="middle">{t:g}</text>' for t in named)
    name = f'<text x="50%" y="{_HEIGHT + 40}" text-anchor="middle">milliseconds for a picture</text>'
    best = front(spots)
    steps = "".join(
        f'<line class="front" x1="{x(a.milliseconds)}" y1="{y(a.score.value):.1f}" '
        f'x2="{x(b.milliseconds)}" y2="{y(b.score.value):.1f}"/>'
        for a, b in pairwise(best)
    )
    dots = "".join(_dot(spot, x(spot.milliseconds), y, spot in best) for spot in spots)
    words = f"Score against time; not beaten in both by any other: {', '.join(spot.name for spot in best)}"
    title = f"<title>{text(words)}</title>"
    body = f'<svg class="plot" height="{_HEIGHT + _BELOW}" role="img">{title}{lines}{ticks}{name}{steps}{dots}</svg>'
    return f'<div class="pareto" style="padding-left:{_LEFT}rem">{body}</div>'


def _scores(spots: Sequence[Spot]) -> tuple[float, float, float]:
    """Lowest and highest score of the scale, and the step between its lines."""
    lows, highs = [s.score.low for s in spots], [s.score.high for s in spots]
    low, high = min(lows), max(highs)
    step = next((s for s in _STEPS if (high - low) / s <= 6), _STEPS[-1])
    low, high = math.floor(low / step + 1e-9) * step, min(1.0, math.ceil(high / step - 1e-9) * step)
    return (high - step if high - low < step else low), high, step


def _times(spots: Sequence[Spot]) -> tuple[float, float]:
    return min(s.milliseconds for s in spots) / 1.25, max(s.milliseconds for s in spots) * 1.25


def _across(value: float, y: Callable[[float], float]) -> str:
    at = y(value)
    label = f'<text x="-.5rem" y="{at + 4:.1f}" text-anchor="end">{100 * value:.4g} %</text>'
    return f'<line class="grid" x1="0" x2="100%" y1="{at:.1f}" y2="{at:.1f}"/>{label}'


def _dot(spot: Spot, x: str, y: Callable[[float], float], on_front: bool) -> str:
    words = f"{spot.name}: {spot.score.percent()}, {spot.milliseconds:.1f} ms"
    css = "chosen" if spot.chosen else "fore" if on_front else "aft"
    bar = f'<line x1="{x}" x2="{x}" y1="{y(spot.score.low):.1f}" y2="{y(spot.score.high):.1f}"/>'
    dot = f'<circle cx="{x}" cy="{y(spot.score.value):.1f}" r="{6 if spot.chosen else 4.5}"/>'
    return f'<g class="{css}"><title>{text(words)}</title>{bar}{dot}</g>'
