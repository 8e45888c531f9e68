import html
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.measure.interval import Estimate
from graftage.report import markup

# any code point at all, lone surrogates and controls included
anything = st.lists(
    st.sampled_from(list("<>&\"'\r\n\t\u202e\udcff")) | st.characters(min_codepoint=0, exclude_categories=()),
    max_size=20,
).map("".join)


@given(anything)
@settings(deadline=None, max_examples=200)
def test_any_text_becomes_something_that_utf8_and_html_can_hold(words: str) -> None:
    shown = markup.text(words)
    shown.encode("utf-8")
    assert not set(shown) & set("<>\"'\n\r\t\x00\u202e")
    assert html.unescape(shown) == markup.clean(words) == markup.clean(markup.clean(words))


@pytest.mark.parametrize("name", ["向日葵", "naïve café", "زهرة", "🌻 flower", "a  b"])
def test_ordinary_names_of_any_script_stay_as_they_are(name: str) -> None:
    assert markup.text(name) == name


def test_what_cannot_be_shown_is_marked() -> None:
    assert markup.clean("bees/\udcff.jpg") == "bees/�.jpg"
    assert markup.clean("\ud800\udfff\x00\x9f\ufffe") == "�����"
    assert markup.clean("two\nlines\r\nor three") == "two ↵ lines ↵ or three"
    assert markup.clean("gpj.\u202eexe") == "gpj.�exe"


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.05, "better"), (-0.05, -0.01, "worse"), (-0.01, 0.05, "no difference shown")]
)
def test_a_difference_says_what_it_shows(low: float, high: float, verdict: str) -> None:
    shown = markup.points(Estimate((low + high) / 2, low, high, "bootstrap"))
    assert verdict in shown
    assert "points" in shown


def test_a_difference_is_written_in_points_with_signs() -> None:
    shown = markup.points(Estimate(0.008, -0.011, 0.027, "bootstrap"))
    assert "<b>+0.8 points</b>" in shown
    assert "(−1.1 to +2.7)" in shown


def test_where_there_is_no_number_stands_a_dash() -> None:
    assert markup.points(None) == markup.points(Estimate(math.nan, -1, 1, "not measurable")) == "–"
    assert markup.number(None, ".1f") == markup.number(math.nan, ".1f") == markup.number(math.inf, ".1f") == "–"
    assert markup.p_value(None) == markup.p_value(math.nan) == "–"


def test_small_p_values_are_not_written_as_zero() -> None:
    assert html.unescape(markup.p_value(1e-9)) == "<\N{NO-BREAK SPACE}0.001"
    assert markup.p_value(0.0654) == "0.065"


def test_a_method_is_explained_once() -> None:
    notes = markup.footnotes(["wilson", "BBC + wilson", "wilson (jaccard)", "wilson, again", "by <b>hand</b>"])
    assert notes.count("Wilson&#x27;s interval") + notes.count("Wilson's interval") == 1
    assert notes.count("Tsamardinos") == 1
    assert "<b>wilson, again</b>: as above." in notes
    assert "<b>by &lt;b&gt;hand&lt;/b&gt;</b></li>" in notes
    assert [f'id="method{i}"' in notes for i in range(1, 7)] == [True] * 5 + [False]


def test_code_keeps_its_lines() -> None:
    block = markup.code("From Python", "for x in a:\n    print(x < 3)")
    assert "<code>for x in a:\n    print(x &lt; 3)</code>" in block


def test_a_long_list_is_cut_and_says_so() -> None:
    rows = [markup.cells(i) for i in range(markup.TABLE_ROWS + 7)]
    shown = markup.listing("Files", ["File"], rows, file="ledger.csv")
    assert shown.count("<td>") == markup.TABLE_ROWS
    assert '<p class="quiet screen-only">7 more in ledger.csv.</p>' in shown
    assert f"{len(rows) - markup.PAPER_ROWS} more in ledger.csv" in shown
    assert "more in" not in markup.listing("Files", ["File"], rows[:5], file="ledger.csv")


@pytest.mark.parametrize("path", ["a/b/c.jpg", "a\\b\\c.jpg", "c.jpg"])
def test_a_file_name_keeps_its_path_as_title(path: str) -> None:
    assert markup.file_name(path) == f'<span class="file" title="{path}">c.jpg</span>'


def test_paragraphs_are_separated_by_blank_lines() -> None:
    assert markup.paragraphs("one\n\n two & three \n\n\n") == "<p>one</p><p>two &amp; three</p>"


@given(anything.map("".join))
def test_prose_is_the_same_text_with_its_flags_kept_whole(words: str) -> None:
    made = markup.prose(f"{words} --budget-s 5m")
    assert made.endswith('<span class="nowrap">--budget-s</span> 5m')
    assert made.replace('<span class="nowrap">', "").replace("</span>", "") == markup.text(f"{words} --budget-s 5m")
