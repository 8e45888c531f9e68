"""The report in a real browser, wide as a desk and narrow as a phone: it moves, asks nobody, complains of nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftage.report.page import render
from test_report_page import full

NAMES = ["ants", "bees", "<wasps> & more"]


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desk", "phone"])
def page(browser: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = request.param
    (tmp_path / "report.html").write_text(render(full(NAMES)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, heard, asked = context.new_page(), [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    yield page
    assert heard == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_a_cell_opens_its_pictures_and_escape_closes_them(page: Any) -> None:
    cell = page.locator(".matrix [data-cell='0,1']")
    cell.focus()
    page.keyboard.press("Enter")
    viewer = page.locator(".viewer")
    assert viewer.is_visible()
    assert viewer.locator("h2").inner_text() == "ants, taken for bees"
    assert viewer.locator("figure").count() == int(cell.inner_text())
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.cell") == "0,2"


def test_the_map_is_walked_by_arrow_keys_and_shows_what_it_stands_on(page: Any) -> None:
    report, looked = full(NAMES), page.locator(".looked")
    assert page.locator(".map [tabindex='0']").count() == 1  # one stop of the Tab key
    page.locator(".map [tabindex='0']").focus()
    seen = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
        dot = report.dots[int(page.evaluate("document.activeElement.dataset.dot"))]
        seen.add(dot.id)
        assert looked.locator(".said").inner_text() == NAMES[dot.predicted]
        assert looked.locator(".file").get_attribute("title") == dot.id
        assert looked.locator("img").get_attribute("alt") == dot.id
        assert ("truly" in looked.inner_text()) is (dot.true != dot.predicted)
        assert page.locator(".map .now").count() == 1
    assert len(seen) > 1


def test_the_map_shows_one_class_where_asked(page: Any) -> None:
    dots = full(NAMES).dots
    choice = page.locator(".of-class")
    assert choice.locator("option").all_inner_texts() == ["all classes", *NAMES]
    choice.select_option("2")
    assert page.locator(".map .faint").count() == sum(dot.true != 2 for dot in dots)
    choice.select_option("")
    assert page.locator(".map .faint").count() == 0


def test_a_table_is_sorted_by_a_click_on_its_heading(page: Any) -> None:
    heading = page.locator(".sortable thead button", has_text="Recall")
    column = ".sortable tbody tr td:nth-child(4)"
    for order in (1, -1):
        heading.click()
        values = [float(v) for v in page.eval_on_selector_all(column, "cells => cells.map(c => c.dataset.v)")]
        assert values == sorted(values, reverse=order < 0)
