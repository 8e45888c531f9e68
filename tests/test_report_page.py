import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.measure.calibration import reliability
from graftage.measure.decide import risk_coverage
from graftage.measure.interval import Estimate
from graftage.measure.scores import Scores, score
from graftage.report import markup
from graftage.report.contents import Baseline, Left, Promised, Report, Shot
from graftage.report.mistakes import GALLERY
from graftage.report.page import render
from graftage.report.scatter import Dot

VOID = {"meta", "link", "br", "img", "hr", "input"}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


@dataclass
class Page(HTMLParser):
    """A page as a browser's parser sees it: tags in order, attributes, and the text that a person reads."""

    tags: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def seen(self) -> str:
        """What a person reads, titles and labels included."""
        labels = [value for _, name, value in self.attributes if name in ("title", "alt", "aria-label")]
        return " ".join(self.words + labels)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def outcome(k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    y = rng.integers(0, k, n)
    y[:k] = np.arange(k)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += 2
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), y


def scored(names: Sequence[str], n: int = 120) -> Scores:
    p, y = outcome(len(names), n)
    return score(p, y, classes=names, rng=np.random.default_rng(1), draws=50)


def shots(
    scores: Scores, n: int, image: str = PIXEL
) -> tuple[tuple[Shot, ...], dict[tuple[int, int], tuple[Shot, ...]]]:
    """Mistakes, most confident first, and all pictures by cell."""
    names = scores.classes
    p, y = outcome(len(names), n)
    cells: dict[tuple[int, int], list[Shot]] = {}
    for i, (true, said) in enumerate(zip(y.tolist(), p.argmax(1).tolist(), strict=True)):
        unique = image.replace(";base64", f";n={i};base64")
        shot = Shot(f"{names[true]}/{i}.jpg", names[true], names[said], float(p[i].max()), names[0], unique)
        cells.setdefault((true, said), []).append(shot)
    wrong = [s for (true, said), group in cells.items() if true != said for s in group]
    wrong.sort(key=lambda s: -s.confidence)
    return tuple(wrong), {key: tuple(group) for key, group in cells.items()}


def dots(cells: dict[tuple[int, int], tuple[Shot, ...]]) -> tuple[Dot, ...]:
    """Every picture of the cells on the map."""
    return tuple(
        Dot(math.sin(i), math.cos(i), shot.id, true, said, shot.confidence, shot.image)
        for (true, said), group in cells.items()
        for i, shot in enumerate(group)
    )


def full(names: Sequence[str], n: int = 120, *, word: str = "word", scores: Scores | None = None) -> Report:
    """A report with something in every section; `word` stands wherever a user's text may."""
    scores = scored(names, n) if scores is None else replace(scores, classes=tuple(names))
    scores = replace(scores, per_class=tuple(map(lambda c, m: replace(c, name=m), scores.per_class, names)))
    mistakes, cells = shots(scores, n)
    half = Estimate(0.5, 0.41, 0.59, "wilson")
    return Report(
        title=word,
        verdict=word,
        scores=scores,
        how_measured="A locked test set, opened once.",
        data={"Folder": word, "Classes": str(len(names))},
        class_counts=tuple((name, 9, 3) for name in names),
        baselines=(
            Baseline(word, half, half, Estimate(0.2, 0.1, 0.3, "bootstrap"), 1e-5),
            Baseline("none", half, half),
        ),
        mistakes=mistakes,
        cells=cells,
        left_out=(Left(word, "rejected", "truncated"),),
        problems=(("error", "duplicate", word, word),),
        reliability=reliability(*outcome(len(names), n)),
        calibration=word,
        promised=(
            Promised("share", word, half),
            Promised("size", word, Estimate(1.25, 1.2, 1.3, "bootstrap"), share=False),
            Promised(word, None, None, why=word),
        ),
        how_decided=word,
        curve=risk_coverage(*outcome(len(names), n)),
        trials=((word, 0.4, 0.9, True), ("other", 0.5, 0.8, False)),
        timing=(("features", 3.0), ("head", 1.0)),
        model={"Backbone": word},
        usage=((word, "graftage predict model.safetensors a.jpg"),),
        notes=(word,),
        card=(("Intended use", word),),
        dots=dots(cells),
    )


@pytest.mark.parametrize("k", [2, 10, 30, 40, 260])
def test_the_page_is_well_formed_whatever_the_number_of_classes(k: int) -> None:
    page = parsed(render(full([f"class {i}" for i in range(k)], max(120, 2 * k))))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)


def test_the_page_asks_nothing_of_any_network() -> None:
    html = render(full(["ants", "bees"], word="http://example.org/"))
    page = parsed(html)
    loading = ("src", "href", "action", "srcset", "poster", "data", "background", "formaction", "ping", "xlink:href")
    targets = [value for _, name, value in page.attributes if name in loading]
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|expression", style)
    assert not re.search(r"fetch|XMLHttpRequest|WebSocket|import\(|innerHTML|eval|https?:", page.scripts[1])
    assert ("meta", "content", CSP) in page.attributes


CSP = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
dangerous = [
    "<",
    ">",
    "&",
    '"',
    "'",
    "</script>",
    "<!--<script>",
    "{{script}}",
    "\n",
    "\\",
    "\udcff",
    "\x00",
    "&lt",
    "]]>",
]
anything = st.lists(
    st.sampled_from(dangerous) | st.characters(min_codepoint=0, exclude_categories=()), min_size=1, max_size=6
).map("".join)
SCORES = scored(["a", "b"])


@given(st.lists(anything, min_size=2, max_size=2, unique=True), anything)
@settings(deadline=None, max_examples=60)
def test_no_name_changes_the_structure_of_the_page(names: list[str], word: str) -> None:
    html = render(full(names, word=word, scores=SCORES))
    html.encode("utf-8")
    page, plain = parsed(html), parsed(render(full(["ants", "bees"], scores=SCORES)))
    assert page.tags == plain.tags
    assert page.scripts[1] == plain.scripts[1]
    assert not set("<>&") & set(page.scripts[0])
    assert json.loads(page.scripts[0])["classes"] == [markup.clean(name) for name in names]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "</script><b>", "<!--<script>", '" onload="x', "向日葵", "{{script}}", "&lt;"]
)
def test_names_read_as_they_were_given(name: str) -> None:
    page = parsed(render(full([name, "bees"], word=name, scores=SCORES)))
    assert name in page.words
    assert name in page.values("title")
    assert not set("<>&") & set(page.scripts[0])


def test_every_interval_shown_is_the_estimate_given() -> None:
    report = full([f"class {i}" for i in range(8)])
    shown = estimates(render(report))
    scores, per_class = report.scores, report.scores.per_class
    assert shown[0] == scores.accuracy.percent()
    beside = [scores.macro_f1, scores.balanced_accuracy, scores.top_k[3], scores.top_k[5]]
    assert scores.auroc is not None
    plain = [scores.auroc.number(), scores.log_loss.number(), scores.brier.number()]
    assert shown[1:8] == [e.percent() for e in beside] + plain
    assert (
        shown[8:13] == ["50.0 % (41.0 to 59.0)"] * 2 + ["+20.0 points (+10.0 to +30.0)"] + ["50.0 % (41.0 to 59.0)"] * 2
    )
    rows = [e.percent() for c in per_class for e in (c.recall, c.precision, c.f1)]
    assert shown[13:] == [*rows, "50.0 % (41.0 to 59.0)", "1.25 (1.20 to 1.30)"]


def estimates(html: str) -> list[str]:
    found = re.findall(r'<span class="est"><b>(.*?)</b>(?: <span class="ci">(.*?)</span>)?</span>', html)
    return [f"{value} {interval}".strip() for value, interval in found]


def test_every_method_is_marked_and_explained() -> None:
    report = full(["ants", "bees"])
    html = render(report)
    methods = {report.scores.accuracy.method, report.scores.macro_f1.method, report.scores.per_class[0].f1.method}
    notes = dict(re.findall(r'<li id="(method\d+)"><b>(.*?)</b>', html))
    assert methods <= set(notes.values())
    marked = re.search(r'class="headline">.*?href="#(method\d+)"', html)
    assert marked is not None
    assert notes[marked[1]] == report.scores.accuracy.method


def pictures(html: str) -> dict[str, dict[str, object]]:
    cells: dict[str, dict[str, object]] = json.loads(parsed(html).scripts[0])["cells"]
    return cells


def test_cells_hold_the_pictures_that_the_matrix_counts() -> None:
    report = full(["a", "b", "c"])
    html, confusion = render(report), report.scores.confusion
    cells = pictures(html)
    assert {key: cell["n"] for key, cell in cells.items()} == {
        f"{i},{j}": confusion[i, j] for i, j in np.argwhere(confusion > 0).tolist()
    }
    assert all(len(cell["shots"]) == cell["n"] for cell in cells.values())
    buttons = re.findall(r'data-cell="(\d),(\d)" aria-label="(.*?)">(\d+)<', html)
    assert [(i, j, int(n)) for i, j, _, n in buttons] == [
        (str(i), str(j), confusion[i, j]) for i, j in np.argwhere(confusion > 0).tolist()
    ]
    colours = re.findall(r'<td class="(right|wrong)[^>]*><button type="button" data-cell="(\d),(\d)"', html)
    assert [colour for colour, _, _ in colours] == ["right" if i == j else "wrong" for i, j, _, _ in buttons]
    assert all(f"{confusion[int(i), int(j)]} of {confusion[int(i)].sum()}" in label for i, j, label, _ in buttons)


def test_a_cell_may_hold_fewer_pictures_than_were_counted() -> None:
    report = full(["a", "b"])
    cut = {key: group[:1] for key, group in report.cells.items()}
    cells = pictures(render(replace(report, cells=cut)))
    assert [len(cell["shots"]) for cell in cells.values()] == [1] * len(cut)
    assert sum(cell["n"] for cell in cells.values()) == report.scores.n


def test_more_pictures_than_were_counted_is_our_mistake() -> None:
    report = full(["a", "b"])
    group = report.cells[(0, 1)]
    with pytest.raises(AssertionError, match=r"cell \(0, 1\) has more pictures"):
        render(replace(report, cells={(0, 1): group + group[:1]}))


def test_a_thumbnail_is_sent_once() -> None:
    report = full(["a", "b", "c"])
    html = render(report)
    images = {shot.image for group in report.cells.values() for shot in group}
    assert all(html.count(f'"{image}"') == 1 for image in images)
    sources = [s[3] for cell in pictures(html).values() for s in cell["shots"] if s[3].startswith("#")]
    assert len(sources) == min(GALLERY, len(report.mistakes))
    assert {source[1:] for source in sources} <= set(parsed(html).values("id"))


def test_the_map_shows_each_picture_where_it_was_put() -> None:
    report = full(["a", "b", "c"])
    html = render(report)
    told = json.loads(parsed(html).scripts[0])["dots"]
    assert [(d.id, d.true, d.predicted) for d in report.dots] == [(i, t, p) for i, _, t, p, _ in told]
    marks = re.findall(r'<circle class="(right|wrong)" data-dot="(\d+)" data-true="(\d)" cx="(\d+)" cy="(\d+)"', html)
    assert {int(number) for _, number, *_ in marks} == set(range(len(report.dots)))
    for kind, number, true, x, y in marks:
        dot = report.dots[int(number)]
        assert (kind == "right") == (dot.true == dot.predicted)
        assert dot.true == int(true)
        assert (int(x) / 300 - 1, 1 - int(y) / 300) == pytest.approx((dot.x, dot.y), abs=0.03)


def test_a_thumbnail_of_the_map_that_the_page_has_is_named() -> None:
    report = full(["a", "b", "c"])
    cells = pictures(html := render(report))
    for source, dot in zip([d[4] for d in json.loads(parsed(html).scripts[0])["dots"]], report.dots, strict=True):
        if source.startswith("@"):
            key, number = source[1:].split(":")
            assert cells[key]["shots"][int(number)][3] == dot.image
        else:
            assert report.mistakes[int(source.removeprefix("#mistake"))].image == dot.image
    alone = render(replace(report, cells={}, mistakes=()))
    assert [d[4] for d in json.loads(parsed(alone).scripts[0])["dots"]] == [dot.image for dot in report.dots]


def test_pictures_without_thumbnail_are_still_listed() -> None:
    report = full(["a", "b"])
    bare = tuple(replace(shot, image="") for shot in report.mistakes)
    page = parsed(render(replace(report, mistakes=bare, cells={})))
    assert "img" not in [tag for tag, _ in page.tags]
    assert bare[0].id in page.values("title")


@pytest.mark.parametrize("image", ["http://example.org/a.jpg", "a.jpg", "javascript:alert(1)"])
def test_a_thumbnail_is_a_data_uri(image: str) -> None:
    with pytest.raises(AssertionError, match="data URIs"):
        Shot("a", "b", "c", 0.5, "", image)


def test_a_confidence_is_a_probability() -> None:
    with pytest.raises(AssertionError, match="nan is no probability"):
        Shot("a", "b", "c", math.nan, "", "")


def test_many_classes_get_a_heat_map_and_the_most_confused_pairs() -> None:
    html = render(full([f"class {i}" for i in range(40)], 400))
    assert 'class="heat"' in html
    assert 'aria-label="Confusion matrix"' not in html
    table = html[html.index('aria-label="Most confused pairs"') :]
    counts = [int(n) for n in re.findall(r"<td>(\d+) of \d+</td>", table)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0


def test_a_class_of_few_pictures_is_marked() -> None:
    report = full(["a", "b"])
    few = replace(report.scores.per_class[0], measurable=False)
    marked = replace(report, scores=replace(report.scores, per_class=(few, report.scores.per_class[1])))
    assert render(marked).count("too few to measure") == 1
    assert "too few to measure" not in render(report)


def test_very_many_classes_show_those_of_lowest_f1() -> None:
    report = full([f"class {i}" for i in range(260)], 600)
    html = render(report)
    rows = re.findall(r'<th scope="row" data-v="(.*?)">', html)
    lowest = sorted(report.scores.per_class, key=lambda c: c.f1.value)[:200]
    assert rows == [c.name for c in lowest]
    assert "The 60 classes of higher F1 are in metrics.json." in html


def test_nothing_reads_nan() -> None:
    report = full(["a", "b"])
    nothing = Estimate(math.nan, 0.0, 1.0, "not measurable")
    empty = replace(report.scores.per_class[0], n=0, precision=nothing, recall=nothing, f1=nothing, measurable=False)
    scores = replace(report.scores, per_class=(empty, report.scores.per_class[1]), auroc=nothing, macro_f1=nothing)
    worst = replace(
        report,
        scores=scores,
        baselines=(Baseline("x", nothing, nothing, nothing, math.nan),),
        trials=(("diverged", math.nan, math.nan, False), ("other", math.inf, 0.5, True)),
    )
    html = render(worst)
    page = parsed(html)
    assert not re.search(r"\b(nan|inf|None)\b", page.seen)
    assert not re.search(r'="[^"]*\bnan\b', html)
    assert html.count('data-v="-1.000000"') == 3


def test_sections_without_content_are_left_out() -> None:
    bare = parsed(render(Report(title="t", verdict="v", scores=SCORES)))
    sections = [value for tag, name, value in bare.attributes if tag == "section" and name == "id"]
    assert sections == ["classes", "confusion", "method"]
    whole = parsed(render(full(["a", "b"])))
    linked = {link[1:] for link in whole.values("href") if link.startswith("#")}
    assert {
        "data",
        "baselines",
        "mistakes",
        "map",
        "card",
        "calibration",
        "tried",
        "left",
        "problems",
        "time",
        "use",
        "model",
    } <= linked


def test_no_placeholder_is_left_standing() -> None:
    assert not re.search(r"\{\{\w+\}\}", render(full(["a", "b"])))


def test_grouped_pictures_are_said_to_be() -> None:
    grouped = replace(SCORES, groups=60)
    assert "on 120 pictures (in 60 independent groups) it" in render(Report(title="t", verdict="v", scores=grouped))
    assert "groups)" not in render(Report(title="t", verdict="v", scores=SCORES))


def test_reasons_for_leaving_out_are_counted() -> None:
    left = tuple(Left(f"{i}.jpg", "rejected", "truncated" if i % 3 else "empty file") for i in range(300))
    html = render(Report(title="t", verdict="v", scores=SCORES, left_out=left))
    assert "<li>200 rejected: truncated</li><li>100 rejected: empty file</li>" in html
    assert "100 more in ledger.csv" in html


def test_the_page_stays_small() -> None:
    names = [f"class {i}" for i in range(10)]
    thumbnail = "data:image/jpeg;base64," + "A" * 2720  # 2 kB of JPEG
    scores = scored(names, 525)
    mistakes, cells = shots(scores, 525, thumbnail)
    kept = {key: group[:10] for key, group in cells.items()}
    assert sum(map(len, kept.values())) > 200
    html = render(replace(full(names, 525), mistakes=mistakes, cells=kept))
    assert len(html.encode()) < 1_500_000


def test_the_page_stays_small_with_very_many_classes() -> None:
    rng = np.random.default_rng(0)
    y, said = rng.integers(0, 1000, 20_000), rng.integers(0, 1000, 20_000)
    names = tuple(f"class {i}" for i in range(1000))
    confusion = np.bincount(y * 1000 + said, minlength=1_000_000).reshape(1000, 1000)
    classes = tuple(replace(SCORES.per_class[0], name=name) for name in names)
    scores = replace(SCORES, classes=names, confusion=confusion, per_class=classes)
    assert len(render(Report(title="t", verdict="v", scores=scores)).encode()) < 1_500_000


def test_promises_stand_beside_what_came_of_them() -> None:
    seen = " ".join(parsed(render(full(["a", "b"], word="asked"))).seen.split())
    assert "share asked 50.0 % (41.0 to 59.0)" in seen
    assert "size asked 1.25 (1.20 to 1.30)" in seen
    assert "asked not promised: asked" in seen
