"""A learning curve as a figure: what was measured, and the fan of what is foretold.

Lines and areas lie in an inner drawing that is stretched to the width there is; dots and words stand at percentages
outside of it, so that they keep their shape on a phone and on paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graftage.measure.interval import Estimate
from graftage.report.markup import text

Points = Sequence[tuple[int, Estimate]]

_HEIGHT = 300  # pixels
_LEFT, _BELOW = 3.2, 28  # rem for the scale on the left; pixels for the one below
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)  # between lines of the grid


@dataclass(frozen=True)
class Fan:
    """What is drawn.

    Attributes:
        measured: (pictures, score) of the refits, rising.
        foretold: (pictures, score) along the curve, rising; empty where nothing is foretold.
        expected: (pictures, score) at the multiples that the text speaks of.
        now: pictures that there are.
        target: score wanted, or None.
        other: (pictures, score) measured of something else to compare with, rising; other_foretold: along its curve.
    """

    measured: Points
    foretold: Points
    expected: Points
    now: int
    target: float | None = None
    other: Points = ()
    other_foretold: Points = ()


def fan_chart(fan: Fan) -> str:
    """The figure: score against pictures, these on a scale on which each doubling is as wide."""
    scale = _Scale.of(fan)
    grid = "".join(_across(scale, value) for value in scale.lines())
    marks = "".join(_below(scale, m, m == fan.now) for m in scale.ticks(fan))
    inner = f'<svg x="0" y="0" width="100%" height="{_HEIGHT}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
    inner += f"{_areas(scale, fan)}</svg>"
    dots = "".join(_dot(scale, m, score, "measured") for m, score in fan.measured)
    dots += "".join(_dot(scale, m, score, "expected") for m, score in fan.expected)
    dots += "".join(_dot(scale, m, score, "other") for m, score in fan.other)
    title = f"<title>{text(_words(fan))}</title>"
    body = f'<svg class="plot" height="{_HEIGHT + _BELOW}" role="img">{title}{grid}{inner}{marks}{dots}</svg>'
    return f'<div class="fan" style="padding-left:{_LEFT}rem">{body}</div>'


@dataclass(frozen=True)
class _Scale:
    first: float
    last: float
    low: float
    high: float
    step: float

    @classmethod
    def of(cls, fan: Fan) -> "_Scale":
        every = [*fan.measured, *fan.foretold, *fan.expected, *fan.other, *fan.other_foretold]
        lows, highs = [e.low for _, e in every], [e.high for _, e in every]
        ends = [fan.target] if fan.target is not None else []
        low, high = min([*lows, *ends]), max([*highs, *ends])
        step = next((s for s in _STEPS if (high - low) / s <= 6), _STEPS[-1])
        low, high = math.floor(low / step + 1e-9) * step, min(1.0, math.ceil(high / step - 1e-9) * step)
        if high - low < step:
            low = high - step
        first, last = min(m for m, _ in every), max(*(m for m, _ in every), fan.now)
        return cls(first / 1.12, last * 1.12, low, high, step)

    def x(self, pictures: float) -> float:
        """0 to 1 from left to right."""
        return math.log(pictures / self.first) / math.log(self.last / self.first)

    def y(self, score: float) -> float:
        """0 to 1 from top to bottom."""
        return min(max((self.high - score) / (self.high - self.low), 0.0), 1.0)

    def lines(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def ticks(self, fan: Fan) -> list[int]:
        """Pictures that are named below: those that there are, and other sizes where their names find room."""
        chosen = [fan.now]
        sizes = [m for m, _ in fan.other_foretold[-1:]] + [m for m, _ in fan.expected]
        sizes += [m for m, _ in fan.other][::-1] + [m for m, _ in fan.measured][::-1]
        for m in sizes:
            if all(abs(self.x(m) - self.x(other)) > 0.13 for other in chosen):
                chosen.append(m)
        return sorted(chosen)


def _across(scale: _Scale, value: float) -> str:
    y = _HEIGHT * scale.y(value)
    words = f"{100 * value:.4g} %"
    label = f'<text x="-.5rem" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
    return f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>{label}'


def _below(scale: _Scale, pictures: int, now: bool) -> str:
    x, anchor = scale.x(pictures), "middle"
    if x > 0.94:
        anchor = "end"
    line = f'<line class="now" x1="{_pct(x)}" x2="{_pct(x)}" y1="0" y2="{_HEIGHT}"/>' if now else ""
    css = ' class="now"' if now else ""
    place = "100%" if anchor == "end" else _pct(x)
    return f'{line}<text{css} x="{place}" y="{_HEIGHT + 20}" text-anchor="{anchor}">{pictures:,}</text>'


def _areas(scale: _Scale, fan: Fan) -> str:
    parts = ""
    if fan.other_foretold:
        parts += _fan(scale, fan.other_foretold, fan.other[-1][0], "other ")
    if fan.foretold:
        parts += _fan(scale, fan.foretold, fan.now, "")
    if fan.target is not None:
        y = 1000 * scale.y(fan.target)
        parts += f'<line class="target" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>'
    return parts


def _fan(scale: _Scale, foretold: Points, now: int, css: str) -> str:
    """Band and line of one curve; past `now` the line is broken."""
    top = [(m, e.high) for m, e in foretold]
    bottom = [(m, e.low) for m, e in reversed(foretold)]
    parts = f'<polygon class="{css}band" points="{_path(scale, [*top, *bottom])}"/>'
    for part, some in (("fitted", [p for p in foretold if p[0] <= now]), ("ahead", _ahead(foretold, now))):
        parts += f'<polyline class="{css}{part}" points="{_path(scale, [(m, e.value) for m, e in some])}"/>'
    return parts


def _ahead(foretold: Points, now: int) -> list[tuple[int, Estimate]]:
    """From the last point before what there is on, so that both parts of the line meet."""
    before = [p for p in foretold if p[0] <= now][-1:]
    return [*before, *(p for p in foretold if p[0] > now)]


def _path(scale: _Scale, points: Sequence[tuple[int, float]]) -> str:
    return " ".join(f"{1000 * scale.x(m):.1f},{1000 * scale.y(score):.1f}" for m, score in points)


def _dot(scale: _Scale, pictures: int, score: Estimate, css: str) -> str:
    x = _pct(scale.x(pictures))
    low, high, at = (_HEIGHT * scale.y(v) for v in (score.low, score.high, score.value))
    words = f"{pictures:,} pictures, {css}: {score.percent()}"
    bar = f'<line x1="{x}" x2="{x}" y1="{low:.1f}" y2="{high:.1f}"/>'
    dot = f'<circle cx="{x}" cy="{at:.1f}" r="4"/>'
    return f'<g class="{css}"><title>{text(words)}</title>{bar}{dot}</g>'


def _words(fan: Fan) -> str:
    (first, low), (last, high) = fan.measured[0], fan.measured[-1]
    words = f"Score against pictures: {low.percent()} with {first:,}, {high.percent()} with {last:,}"
    if fan.expected:
        most, score = fan.expected[-1]
        words += f"; expected {score.percent()} with {most:,}"
    if fan.other:
        (first, low), (last, high) = fan.other[0], fan.other[-1]
        words += f"; to compare with {low.percent()} with {first:,}, {high.percent()} with {last:,}"
    return words


def _pct(fraction: float) -> str:
    return f"{100 * fraction:.2f}%"
