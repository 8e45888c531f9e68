"""Files for a person, each written under a temporary name and renamed: a reader sees all of it or nothing."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftage.errors import OptionError, StoreError


def page_file(output: str | Path, data: str | Path, *, usual: str, beside: bool = True) -> Path:
    """The file of a page.

    Args:
        output: as the user named it.
        data: the pictures, among which nothing is written.
        usual: a name to propose, such as "curve.html".
        beside: whether a json file of the same name is written beside it.

    Raises:
        OptionError: it is a folder, or lies among the pictures; or it has no name of a page, so that the json file
            beside it could replace it.
    """
    path = Path(output)
    if path.is_dir():
        raise OptionError(f"{path} is a folder; name a file with -o, such as {path / usual}")
    if beside and path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{path} is no name for a page; name one that ends with .html with -o, such as {usual}")
    if path.resolve().is_relative_to(Path(data).resolve()):
        raise OptionError(f"{path} would lie among the pictures of {data}; name a file elsewhere with -o")
    return path


def write_page(page: str, path: Path, *, record: Mapping[str, Any] | None = None) -> None:
    """Writes a page and, where there is a record, a json file of the same name beside it, first.

    Raises:
        StoreError: one of them cannot be written.
    """
    texts = {path: page} if record is None else {path.with_suffix(".json"): json_text(record), path: page}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in texts.items():
            write_text(content, file)
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(record: Mapping[str, Any], path: Path) -> None:
    """Writes a record as a JSON file, in a folder that is made if it is missing. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(json_text(record), path)
    except OSError as error:
        raise unwritable(path, error) from error


def json_text(record: Mapping[str, Any]) -> str:
    """A record as the text of a JSON file. Raises ValueError for a number that is none, or infinite."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: float) -> float | None:
    """The number, or None where it is none or infinite, which JSON cannot say."""
    return float(value) if math.isfinite(value) else None


def write_text(text: str, path: Path, *, errors: str = "backslashreplace") -> None:
    """Writes text as UTF-8, line ends as they are; `errors` is for what UTF-8 cannot hold. Raises OSError."""
    write_bytes(text.encode("utf-8", errors), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Writes a file under a temporary name beside `path`, and renames it. Raises OSError; then nothing is left."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> StoreError:
    """The error that tells a person what could not be written, and why."""
    return StoreError(f"{path}: cannot be written ({error.strerror}); take another -o")


def free_folder(parent: Path, name: str) -> Path:
    """parent/name, or parent/name-2, -3, … whichever is not taken."""
    taken = {path.name for path in parent.iterdir()} if parent.is_dir() else set()
    number = 1
    while (candidate := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return parent / candidate
