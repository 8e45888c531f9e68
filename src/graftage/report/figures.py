"""Numbers become pictures: hand-made SVG inside a little HTML, with colours left to the page's style sheet.

Horizontal positions are percentages, so that a figure fits any width without scaling its text. Words stand outside the
SVG wherever they may be long, so that they wrap on a phone, can be selected, and are read aloud.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graftage.measure.interval import Estimate
from graftage.report.markup import text

ROWED_CLASSES = 12  # up to so many classes the counts get a named row each; above, a skyline
CURVE_POINTS = 120  # of the risk-coverage curve: more cannot be told apart at its width
RISK_TOPS = (0.01, 0.02, 0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8, 1.0)  # where its scale may end
HEAT_LEVELS = 6  # shades of the compact heat map; more cannot be told apart at a few pixels


class Bins(Protocol):
    """What `reliability_diagram` needs of a reliability table: arrays of equal length (B,), one entry per bin."""

    @property
    def confidence(self) -> NDArray[Any]:
        """Mean confidence of the bin, 0 to 1."""

    @property
    def accuracy(self) -> NDArray[Any]:
        """Share of right answers in the bin, 0 to 1."""

    @property
    def count(self) -> NDArray[Any]:
        """Pictures in the bin."""

    @property
    def low(self) -> NDArray[Any]:
        """Lower end of the band in which a well-calibrated model's accuracy falls."""

    @property
    def high(self) -> NDArray[Any]:
        """Upper end of that band."""


class Curve(Protocol):
    """What `risk_coverage_figure` needs: arrays of equal length (m,), by rising coverage."""

    @property
    def coverage(self) -> NDArray[Any]:
        """Share of pictures answered, 0 to 1."""

    @property
    def risk(self) -> NDArray[Any]:
        """Share of wrong answers among them, 0 to 1."""


def axis_start(estimates: Sequence[Estimate]) -> float:
    """Where the accuracy axis begins: the largest of 0, 0.5, 0.8, 0.9 that hides no interval. It always ends at 1."""
    lows = [e.low for e in estimates if math.isfinite(e.low)]
    return max((start for start in (0.0, 0.5, 0.8, 0.9) if all(low >= start for low in lows)), default=0.0)


def interval_bar(estimate: Estimate, *, start: float = 0.0, marker: str = "") -> str:
    """One interval drawn to scale as SVG.

    Args:
        estimate: value and interval, in the unit range; with a value that is not finite only the scale is drawn.
        start: the value at the left end of the scale; the right end is 1.
        marker: a further CSS class, such as "ours".
    """
    marks = '<line class="track" x1="0" x2="100%" y1="7" y2="7"/>'
    if math.isfinite(estimate.value):
        at, low, high = (_at(v, start) for v in (estimate.value, estimate.low, estimate.high))
        marks += f'<line class="span" x1="{low}" x2="{high}" y1="7" y2="7"/><circle cx="{at}" cy="7" r="4"/>'
    return _svg(estimate.percent(), marks, css=f"interval {marker}".strip(), height=14)


def baselines_chart(ours: tuple[str, Estimate], others: Sequence[tuple[str, Estimate]]) -> str:
    """Our accuracy and that of the baselines on one scale, best last; our interval runs through all rows as a band."""
    start = axis_start([ours[1], *(estimate for _, estimate in others)])
    low, high = _fraction(ours[1].low, start), _fraction(ours[1].high, start)
    band = f'<rect class="band" x="{_pct(low)}" width="{_pct(high - low)}" y="-4" height="22"/>'
    rows = []
    for (name, estimate), marker in [(ours, "ours"), *((other, "") for other in others)]:
        bar = interval_bar(estimate, start=start, marker=marker).replace("</title>", f"</title>{band}", 1)
        rows.append(_row(name, estimate.percent(), bar, css=marker))
    return f'<ul class="rows beats">{"".join(rows)}</ul>{_axis(start)}'


def class_bars(counts: Sequence[tuple[str, int, int]]) -> str:
    """Pictures per class, learnt from and held out: a row per class, or a skyline when there are many.

    Args:
        counts: (class, pictures learnt from, pictures held out) in class order.
    """
    most = max((train + held for _, train, held in counts), default=0) or 1
    if len(counts) > ROWED_CLASSES:
        return _skyline(counts, most)
    rows = []
    for name, train, held in counts:
        bar = _rect("train", 0, train / most) + _rect("held", train / most, held / most)
        title = f"{name}: {train} learnt from, {held} held out"
        rows.append(_row(name, f"{train} + {held}", _svg(title, bar, css="bar", height=10)))
    return f'<ul class="rows">{"".join(rows)}</ul>'


def timing_bars(stages: Sequence[tuple[str, float]]) -> str:
    """Seconds per stage, drawn one after the other on the scale of the whole run."""
    total = sum(seconds for _, seconds in stages) or 1.0
    rows, passed = [], 0.0
    for name, seconds in stages:
        bar = _svg(f"{name}: {duration(seconds)}", _rect("held", passed / total, seconds / total), css="bar", height=10)
        rows.append(_row(name, duration(seconds), bar))
        passed += seconds
    return f'<ul class="rows">{"".join(rows)}</ul>'


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.42), duration(12.3), duration(200), duration(7260)
    ('0.4 s', '12 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def shade(count: int, row_total: int) -> float:
    """How strongly a cell is coloured, 0 to 1: the square root of its share of the row, to show rare errors."""
    return math.sqrt(count / row_total) if row_total > 0 else 0.0


def heat_map(confusion: NDArray[np.int64]) -> str:
    """A confusion matrix (K, K), rows true, without words, for when K is too large to read.

    Cells of one shade share one path, and empty cells are not drawn, so that the size follows the pictures, not K².
    """
    size = len(confusion)
    paths: dict[str, list[str]] = {}
    for row, column in np.argwhere(confusion > 0):
        level = math.ceil(HEAT_LEVELS * shade(int(confusion[row, column]), int(confusion[row].sum())))
        kind = "right" if row == column else "wrong"
        paths.setdefault(f'{kind}" style="--s:{level / HEAT_LEVELS:.2f}', []).append(f"M{column} {row}h1v1h-1z")
    body = "".join(f'<path class="{css}" d="{"".join(cells)}"/>' for css, cells in sorted(paths.items()))
    title = f"Confusion matrix of {size} classes: rows are the true classes, columns the predicted ones"
    frame = f'<rect class="frame" width="{size}" height="{size}"/>'
    return f'<svg class="heat" role="img" viewBox="0 0 {size} {size}"><title>{title}</title>{frame}{body}</svg>'


def reliability_diagram(bins: Bins) -> str:
    """Accuracy against confidence, bin by bin, with the band in which a well-calibrated model falls 95 times in 100.

    The dots' areas follow the bins' counts; a dot outside its band is marked.
    """
    columns = zip(bins.confidence, bins.accuracy, bins.count, bins.low, bins.high, strict=True)
    points = sorted(tuple(float(v) for v in c) for c in columns if c[2] > 0 and all(math.isfinite(v) for v in c))
    top, left = _polyline([(p[0], p[4]) for p in points]), _polyline([(p[0], p[3]) for p in reversed(points)])
    most = max((p[2] for p in points), default=1.0)
    dots = "".join(_dot(p, radius=2.5 + 5 * math.sqrt(p[2] / most)) for p in points)
    outside = sum(_is_outside(p) for p in points)
    title = f"Reliability: {len(points)} bins of confidence, {outside} of them outside the 95 % band"
    band = f'<polygon class="band" points="{top} {left}"/>' if len(points) > 1 else ""
    grid = "".join(_grid_line(i / 4) for i in range(5))
    frame = f'{grid}<line class="ideal" x1="40" y1="300" x2="340" y2="0"/>'
    names = '<text x="190" y="338" text-anchor="middle">confidence</text>'
    names += '<text transform="translate(-16 150) rotate(-90)" text-anchor="middle" y="2">accuracy</text>'
    view = 'viewBox="-26 -10 380 352"'
    return f'<svg class="reliability" role="img" {view}><title>{title}</title>{frame}{band}{dots}{names}</svg>'


def risk_coverage_figure(curve: Curve) -> str:
    """The share of wrong answers against the share of pictures answered, surest first; the scale ends above the line.

    The first tenth of the pictures, where a single mistake is a large share, does not stretch the scale.
    """
    coverage, risk = (np.asarray(a, dtype=np.float64) for a in (curve.coverage, curve.risk))
    calm = coverage >= min(0.1, float(coverage[-1]))
    top = next((t for t in RISK_TOPS if t >= float(risk[calm].max())), 1.0)
    wanted = np.unique(np.searchsorted(coverage, np.linspace(0, 1, CURVE_POINTS + 1)[1:] - 1e-12))
    places = wanted[wanted < len(coverage)]
    points = " ".join(f"{40 + 300 * coverage[i]:.1f},{200 - 200 * min(risk[i] / top, 1):.1f}" for i in places)
    title = f"Of all answers {100 * risk[-1]:.1f} % are wrong, of the surer half {100 * _at_half(coverage, risk):.1f} %"
    ticks = "".join(_risk_tick(i / 4, top) for i in range(5))
    names = '<text x="190" y="238" text-anchor="middle">share of pictures answered, surest first</text>'
    names += '<text transform="translate(-24 100) rotate(-90)" text-anchor="middle" y="2">wrong among them</text>'
    line = f'<polyline class="line" points="{points}"/>'
    view = 'viewBox="-34 -10 388 262"'
    return f'<svg class="curve" role="img" {view}><title>{title}</title>{ticks}{line}{names}</svg>'


def _at_half(coverage: NDArray[np.float64], risk: NDArray[np.float64]) -> float:
    return float(risk[min(int(np.searchsorted(coverage, 0.5 - 1e-12)), len(risk) - 1)])


def _risk_tick(part: float, top: float) -> str:
    x, y = 40 + 300 * part, 200 - 200 * part
    lines = f'<path class="grid" d="M40 {y:g}H340M{x:g} 0V200"/>'
    across = f'<text x="{x:g}" y="218" text-anchor="middle">{100 * part:g} %</text>'
    return f'{lines}{across}<text x="34" y="{y + 4:g}" text-anchor="end">{100 * part * top:g} %</text>'


def _svg(title: str, body: str, *, css: str, height: int) -> str:
    return f'<svg class="{css}" role="img" height="{height}"><title>{text(title)}</title>{body}</svg>'


def _row(name: str, value: str, svg: str, *, css: str = "") -> str:
    name_and_value = f'<span class="name">{text(name)}</span><span class="value">{text(value)}</span>'
    return f'<li class="{css}">{name_and_value}{svg}</li>' if css else f"<li>{name_and_value}{svg}</li>"


def _rect(css: str, start: float, width: float) -> str:
    return f'<rect class="{css}" x="{_pct(start)}" width="{_pct(width)}" height="10"/>'


def _skyline(counts: Sequence[tuple[str, int, int]], most: int) -> str:
    width, columns = 1 / len(counts), []
    for i, (name, train, held) in enumerate(counts):
        box = f'x="{_pct(i * width)}" width="{_pct(width * 0.8)}"'
        total, part = 100 * (train + held) / most, 100 * held / most
        bars = f'<rect class="train" {box} y="{100 - total:.1f}%" height="{total - part:.1f}%"/>'
        bars += f'<rect class="held" {box} y="{100 - part:.1f}%" height="{part:.1f}%"/>'
        columns.append(f"<g><title>{text(name)}: {train} learnt from, {held} held out</title>{bars}</g>")
    least = min(train + held for _, train, held in counts)
    title = f"Pictures in each of the {len(counts)} classes: between {least} and {most}"
    return _svg(title, "".join(columns), css="skyline", height=120)


def _axis(start: float) -> str:
    ticks = []
    for i, anchor in enumerate(("start", "middle", "middle", "middle", "end")):
        value = start + (1 - start) * i / 4
        ticks.append(f'<text x="{25 * i}%" y="12" text-anchor="{anchor}">{100 * value:.4g} %</text>')
    return f'<svg class="axis" height="16" aria-hidden="true">{"".join(ticks)}</svg>'


def _fraction(value: float, start: float) -> float:
    return min(max((value - start) / (1 - start), 0.0), 1.0) if math.isfinite(value) else 0.0


def _at(value: float, start: float) -> str:
    return _pct(_fraction(value, start))


def _pct(fraction: float) -> str:
    return f"{100 * fraction:.2f}".rstrip("0").rstrip(".") + "%"


def _xy(confidence: float, accuracy: float) -> tuple[float, float]:
    return 40 + 300 * confidence, 300 - 300 * accuracy


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (_xy(*point) for point in points))


def _is_outside(point: tuple[float, ...]) -> bool:
    return not point[3] <= point[1] <= point[4]


def _dot(point: tuple[float, ...], *, radius: float) -> str:
    confidence, accuracy, count, low, high = point
    x, y = _xy(confidence, accuracy)
    words = f"{count:.0f} pictures: confidence {100 * confidence:.1f} %, right {100 * accuracy:.1f} %"
    words += f" (expected {100 * low:.1f} to {100 * high:.1f})"
    css = "dot outside" if _is_outside(point) else "dot"
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{words}</title></circle>'


def _grid_line(value: float) -> str:
    x, y = _xy(value, value)
    lines = f'<path class="grid" d="M40 {y:g}H340M{x:g} 0V300"/>'
    across = f'<text x="{x:g}" y="318" text-anchor="middle">{100 * value:g} %</text>'
    return f'{lines}{across}<text x="34" y="{y + 4:g}" text-anchor="end">{100 * value:g} %</text>'
