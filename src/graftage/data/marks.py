"""Labels told by one column of 0 and 1 for each class, as ISIC's ground truth tells them.

Such columns are named together, "MEL,NV,BCC"; the class of a row is the name of the column that holds its only 1.
"""

from collections.abc import Mapping, Sequence

UNCLEAR = "no one class"


def class_columns(names: Sequence[str], label: str) -> tuple[str, ...]:
    """The columns named together by `label`, () where it is the name of one.

    >>> class_columns(["image", "MEL", "NV"], "MEL,NV"), class_columns(["a", "b,c"], "b,c")
    (('MEL', 'NV'), ())
    """
    return () if label in names or "," not in label else tuple(label.split(","))


def marked(cells: Mapping[str, str]) -> tuple[str, str]:
    """What the class columns of a row say, by their names: (label, fault), of which one at least is "".

    Both are "" where nothing is marked. Cells are texts; an empty one is a 0.

    >>> marked({"MEL": "0.0", "NV": "1.0"}), marked({"MEL": "1", "NV": "1"}), marked({"MEL": "0", "NV": ""})
    (('NV', ''), ('', "no one class: both 'MEL' and 'NV' are marked"), ('', ''))
    """
    found = []
    for name, text in cells.items():
        mark = is_mark(text)
        if mark is None:
            return "", f"{UNCLEAR}: {name!r} holds {text[:40]!r}, neither 0 nor 1"
        if mark:
            found.append(name)
    if len(found) > 1:
        return "", f"{UNCLEAR}: both {found[0]!r} and {found[1]!r} are marked"
    return (found[0] if found else ""), ""


def is_mark(text: str) -> bool | None:
    """Whether a cell marks its class; None where it is neither 0 nor 1."""
    plain = text.strip().casefold()
    if plain in ("", "false"):
        return False
    if plain == "true":
        return True
    try:
        value = float(plain)
    except ValueError:
        return None
    return bool(value) if value in (0, 1) else None
