import math
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graftage.measure.decide import risk_coverage
from graftage.measure.interval import Estimate
from graftage.report import figures

UNIT = st.floats(0, 1)


@dataclass(frozen=True, eq=False)
class Bins:
    confidence: NDArray[Any]
    accuracy: NDArray[Any]
    count: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]


def tree(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<figure>{figure}</figure>")


def percents(figure: str, name: str) -> list[float]:
    return [float(v) for v in re.findall(rf' {name}="([\d.]+)%"', figure)]


@given(st.tuples(UNIT, UNIT, UNIT).map(sorted))
@settings(deadline=None, max_examples=50)
def test_an_interval_is_drawn_to_scale(ends: list[float]) -> None:
    low, value, high = ends
    bar = figures.interval_bar(Estimate(value, low, high, "wilson"))
    span = re.search(r'"span" x1="([\d.]+)%" x2="([\d.]+)%"', bar)
    assert span is not None
    drawn = [float(span[1]), *percents(bar, "cx"), float(span[2])]
    assert drawn == pytest.approx([100 * low, 100 * value, 100 * high], abs=0.006)


def test_a_scale_may_start_later() -> None:
    bar = figures.interval_bar(Estimate(0.9, 0.85, 1.0, "wilson"), start=0.8)
    assert 'x1="25%" x2="100%"' in bar
    assert percents(bar, "cx") == [50]


def test_nothing_measured_draws_nothing_but_the_scale() -> None:
    bar = figures.interval_bar(Estimate(math.nan, 0, 1, "not measurable"))
    assert "circle" not in bar
    assert "not measurable" in bar


@pytest.mark.parametrize(("low", "start"), [(0.2, 0.0), (0.5, 0.5), (0.79, 0.5), (0.8, 0.8), (0.97, 0.9)])
def test_the_axis_starts_where_it_hides_no_interval(low: float, start: float) -> None:
    assert figures.axis_start([Estimate(0.99, low, 1, "wilson"), Estimate(0.99, 0.98, 1, "wilson")]) == start


def test_baselines_stand_on_one_scale_with_us_marked() -> None:
    chart = figures.baselines_chart(
        ("this model", Estimate(0.9, 0.85, 0.95, "wilson")), [("guess", Estimate(0.6, 0.5, 0.7, "wilson"))]
    )
    assert percents(chart, "cx") == [80, 20]
    assert [li.get("class") for li in tree(chart).iter("li")] == ["ours", None]
    bands = re.findall(r'"band" x="([\d.]+)%" width="([\d.]+)%"', chart)
    assert bands == [("70", "20"), ("70", "20")]
    assert [t.text for t in tree(chart).iter("text")] == ["50 %", "62.5 %", "75 %", "87.5 %", "100 %"]


def test_a_few_classes_get_named_bars() -> None:
    bars = figures.class_bars([("ants", 60, 20), ("bees", 120, 40)])
    assert percents(bars, "x") == [0, 37.5, 0, 75]
    assert percents(bars, "width") == [37.5, 12.5, 75, 25]
    assert [e.text for e in tree(bars).iter("span")] == ["ants", "60 + 20", "bees", "120 + 40"]


def test_many_classes_get_a_skyline_whose_columns_are_named() -> None:
    bars = figures.class_bars([(f"class {i}", i, 1) for i in range(100)])
    columns = list(tree(bars).iter("g"))
    assert len(columns) == 100
    assert columns[7][0].text == "class 7: 7 learnt from, 1 held out"
    heights = [sum(float(str(r.get("height"))[:-1]) for r in g.iter("rect")) for g in columns]
    assert heights == pytest.approx([i + 1 for i in range(100)], abs=0.11)


def test_no_pictures_at_all_draw_empty_bars() -> None:
    assert percents(figures.class_bars([("ants", 0, 0)]), "width") == [0, 0]


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_time_bars_follow_each_other_and_fill_the_width(seconds: list[float]) -> None:
    bars = figures.timing_bars([("stage", s) for s in seconds])
    starts, widths = percents(bars, "x"), percents(bars, "width")
    assert [a + b for a, b in zip(starts, widths, strict=True)] == pytest.approx([*starts[1:], 100], abs=0.03)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7260, "2 h 1 min")],
)
def test_durations_read_as_said(seconds: float, words: str) -> None:
    assert figures.duration(seconds) == words


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_shades_grow_from_nothing_to_full(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert 0 <= figures.shade(low, 1000) <= figures.shade(high, 1000) <= 1
    assert figures.shade(low, low) == (1 if low else 0)


def test_the_heat_map_draws_every_filled_cell_once() -> None:
    confusion = np.random.default_rng(0).poisson(0.3, (40, 40)).astype(np.int64)
    figure = figures.heat_map(confusion)
    drawn = {(int(y), int(x)) for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", figure)}
    assert drawn == set(map(tuple, np.argwhere(confusion > 0).tolist()))
    right = "".join(re.findall(r'class="right" style="--s:[\d.]+" d="(.*?)"', figure))
    assert {(x, y) for x, y in re.findall(r"M(\d+) (\d+)h", right) if x != y} == set()
    assert len(re.findall("<path", figure)) <= 2 * figures.HEAT_LEVELS


def test_the_reliability_diagram_places_its_dots() -> None:
    nan = math.nan
    bins = Bins(*(np.array(v) for v in ([0.5, 1.0, nan], [0.5, 0.8, nan], [10, 40, 0], [0.3, 0.9, nan], [0.7, 1, nan])))
    dots = list(tree(figures.reliability_diagram(bins)).iter("circle"))
    assert [(d.get("class"), d.get("cx"), d.get("cy")) for d in dots] == [
        ("dot", "190.0", "150.0"),
        ("dot outside", "340.0", "60.0"),
    ]
    assert dots[1][0].text == "40 pictures: confidence 100.0 %, right 80.0 % (expected 90.0 to 100.0)"
    assert float(str(dots[0].get("r"))) < float(str(dots[1].get("r")))


@pytest.mark.parametrize(
    "figure",
    [
        figures.interval_bar(Estimate(0.5, 0.4, 0.6, "wilson")),
        figures.baselines_chart(("us & ours", Estimate(0.5, 0.4, 0.6, "wilson")), []),
        figures.class_bars([("<b>", 1, 2)]),
        figures.class_bars([("<b>", 1, 2)] * 20),
        figures.timing_bars([("<b>", 1.0)]),
        figures.heat_map(np.eye(3, dtype=np.int64)),
        figures.reliability_diagram(Bins(*(np.array([0.5]) for _ in range(5)))),
    ],
)
def test_every_figure_says_what_it_shows(figure: str) -> None:
    for svg in tree(figure).iter("svg"):
        if svg.get("aria-hidden") != "true":
            assert svg.get("role") == "img"
            assert svg[0].tag == "title"
            assert svg[0].text


def test_the_risk_coverage_curve_is_drawn_to_scale() -> None:
    p = np.stack([np.linspace(0.99, 0.6, 200), np.linspace(0.01, 0.4, 200)], axis=1)
    y = (np.arange(200) >= 190).astype(np.int64)  # the ten least sure are wrong
    drawn = figures.risk_coverage_figure(risk_coverage(p, y))
    svg = tree(drawn)[0]
    assert svg[0].text == "Of all answers 5.0 % are wrong, of the surer half 0.0 %"
    line = next(element for element in svg if element.get("class") == "line")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert points[-1] == pytest.approx((340, 200 - 200 * 0.05 / 0.08))  # the scale ends at 8 %
    assert [y for x, y in points if x <= 40 + 300 * 0.95] == [200] * len([x for x, _ in points if x <= 325])
    assert len(points) == 120


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_curve_of_few_or_only_wrong_answers_stays_inside(n: int) -> None:
    p = np.tile([0.7, 0.3], (n, 1)) + np.arange(n)[:, None] * [0.001, -0.001]
    svg = tree(figures.risk_coverage_figure(risk_coverage(p, np.ones(n, np.int64))))[0]
    line = next(element for element in svg if element.get("class") == "line")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert {y for _, y in points} == {0}
    assert points[-1][0] == 340
