"""Values become HTML that is safe to show: whatever a user named passes through `text`."""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from graftage.measure.interval import Estimate

# What no browser may receive as it is: lone surrogates (undecodable file names), controls, code points that HTML
# forbids, and the marks that turn the reading direction, with which a file name can pretend to be another.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
_LINE_END = re.compile("\r\n|[\n\r\u2028\u2029]")

TABLE_ROWS = 200  # rows of a list of files that the page shows
PAPER_ROWS = 30  # those of them that get printed; the style sheet hides the rest

# (what the name of a method contains, what the reader is told); several may apply to one method.
METHODS = (
    ("BBC", "Several candidates were tried on the same pictures, so the best one's score flatters it. Bootstrap bias "
     "correction (Tsamardinos and others 2018): again and again the winner is chosen on resampled pictures and scored "
     "on those left over; the number shown is the mean."),
    ("bootstrap", "The held-out pictures are drawn anew with replacement, group by group, and the interval holds the "
     "middle 95 % of the values so found."),
    ("at least wilson", "Where Wilson's interval for as many pictures is wider, it counts."),
    ("all draws equal", "All draws gave the same value, which shows no spread."),
    ("wilson", "Wilson's interval for a proportion (1927), which holds for few pictures and near 100 %."),
    ("clopper-pearson", "Clopper and Pearson's exact interval for a proportion (1934)."),
    ("effective n", "Pictures of one group (duplicates, one patient, one session) are not independent: the interval is "
     "that of the smaller number of independent pictures that would tell as much."),
    ("jaccard", "F1 = 2J / (1 + J) with J = TP / (TP + FP + FN); J is a proportion, and its interval is carried over."),
    ("not measurable", "Nothing to measure it on: the interval spans everything that is possible."),
)  # fmt: skip

HEAT_KEY = '<span class="heat-key"><span class="for">for it</span> <span class="against">against it</span></span>'


def clean(value: object) -> str:
    """Text that any browser can take: line ends become ↵, and what cannot be shown becomes the sign �."""
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", _LINE_END.sub(" ↵ ", str(value).replace("\t", " ")))


def text(value: object) -> str:
    """Cleaned and HTML-escaped text, safe between tags and inside quoted attributes."""
    return html.escape(clean(value), quote=True)


def prose(value: object) -> str:
    """Text between tags in which no flag, such as --budget, is broken over two lines."""
    return re.sub(r"--[a-z][a-z-]*", r'<span class="nowrap">\g<0></span>', text(value))


def estimate(words: str) -> str:
    """What `Estimate.percent` or `Estimate.number` says, with the interval set apart; the words stay the same."""
    value, bracket, interval = words.partition(" (")
    rest = f' <span class="ci">({text(interval)}</span>' if bracket else ""
    return f'<span class="est"><b>{text(value)}</b>{rest}</span>'


def points(difference: Estimate | None) -> str:
    """A difference of two proportions in percentage points, with what it shows; a dash where there is none."""
    if difference is None or not difference.measurable:
        return "–"
    value, low, high = (100 * v for v in (difference.value, difference.low, difference.high))
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    words = f"{value:+.1f} points ({low:+.1f} to {high:+.1f})".replace("-", "\N{MINUS SIGN}")
    return f'{estimate(words)} <span class="quiet nowrap">{verdict}</span>'


def number(value: float | None, form: str, *, unit: str = "") -> str:
    """A number in a format, or a dash where there is none (None, nan, infinite)."""
    return "–" if value is None or not math.isfinite(value) else format(value, form) + unit


def p_value(p: float | None) -> str:
    """A p-value with three decimals."""
    return "&lt;&nbsp;0.001" if p is not None and p < 0.001 else number(p, ".3f")


def footnotes(methods: Sequence[str]) -> str:
    """Ways of measuring as a numbered list (ids method1, method2, ...); what was explained once is not repeated."""
    notes, told = [], set[str]()
    for i, method in enumerate(methods, 1):
        known = [words for part, words in METHODS if part.lower() in method.lower()]
        fresh = [words for words in known if words not in told]
        told.update(known)
        words = " ".join(fresh) or ("as above." if known else "")
        notes.append(f'<li id="method{i}"><b>{text(method)}</b>{": " if words else ""}{words}</li>')
    return f'<ol class="notes">{"".join(notes)}</ol>'


def listing(label: str, heads: Sequence[str], rows: Sequence[str], *, file: str) -> str:
    """A long table cut to what a reader can take in; it says how many more rows `file` has, on screen and on paper."""
    whole = table(label, heads, rows[:TABLE_ROWS], css="long files")
    for limit, css in ((TABLE_ROWS, "screen-only"), (PAPER_ROWS, "paper-only")):
        if len(rows) > limit:
            whole += f'<p class="quiet {css}">{len(rows) - limit} more in {text(file)}.</p>'
    return whole


def tag(words: str, kind: str = "") -> str:
    """A few words in a frame; `kind` colours those that the style sheet knows ("chosen", "error")."""
    css = f"tag {kind}" if kind in ("chosen", "error") else "tag"
    return f' <span class="{css}">{text(words)}</span>'


def paragraphs(words: str) -> str:
    """Text as paragraphs; a blank line starts a new one."""
    return "".join(f"<p>{prose(p.strip())}</p>" for p in re.split(r"\n\s*\n", words) if p.strip())


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values as a definition list; empty where there are none."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{prose(value)}</dd></div>" for name, value in pairs.items())
    return f'<dl class="facts">{items}</dl>' if items else ""


def code(caption: str, source: str) -> str:
    """A block of code with its caption and a button that copies it."""
    lines = "\n".join(text(line) for line in source.split("\n"))
    button = '<button type="button" class="copy">Copy</button>'
    block = f'<pre tabindex="0"><code>{lines}</code></pre>'
    return f'<figure class="code"><figcaption>{text(caption)}</figcaption>{button}{block}</figure>'


def cells(*values: object) -> str:
    """Values as table cells."""
    return "".join(f"<td>{text(value)}</td>" for value in values)


def file_name(path: str) -> str:
    """The last part of a path, with the whole path as the words that appear under the pointer."""
    last = re.split(r"[\\/]", path)[-1]
    return f'<span class="file" title="{text(path)}">{text(last)}</span>'


def table(label: str, heads: Sequence[str], rows: Iterable[str], *, css: str = "") -> str:
    """A table in a box of its own that scrolls sideways where the page is narrow; `heads` and `rows` are HTML."""
    head, body = "".join(f'<th scope="col">{h}</th>' for h in heads), "".join(f"<tr>{row}</tr>" for row in rows)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll {css}" role="region" aria-label="{label}" tabindex="0">{whole}</div>'
