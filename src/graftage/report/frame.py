"""What all pages share: the head that lets nothing in from anywhere, the style, and how a template is filled."""

import re
from collections.abc import Mapping
from importlib import resources

_SCRIPTS = "script-src 'unsafe-inline'; "  # what the policy allows to a page that has a script of its own


def template(name: str) -> str:
    """A file beside this one, as text."""
    return (resources.files("graftage.report") / name).read_text("utf-8")


def framed(page: str, parts: Mapping[str, str]) -> str:
    """A page's template in the common frame, with its placeholders filled.

    Args:
        page: a title and a style, and after them the body; `{{NAME}}` stands for a part, `{{style}}` for the style that
            all pages share.
        parts: HTML by name. Without notices their section is left out.
    """
    if not parts.get("notices"):
        page = re.sub(r'<section class="notes".*?</section>\n', "", page, flags=re.DOTALL)
    head, end, body = page.partition("</style>\n")
    ours = {"head": head + end, "body": body, "scripts": _SCRIPTS if "<script" in body else ""}
    whole = _filled(template("frame.html"), ours)
    # one pass over the template alone: what a user wrote is never searched for placeholders
    return _filled(whole, {**parts, "style": template("style.css").strip()})


def _filled(text: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], text)
