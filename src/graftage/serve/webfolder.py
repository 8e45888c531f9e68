"""The page of the server as a folder for any static web server: the model answers in the browser itself (W)."""

import json
import tarfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from graftage.errors import OptionError
from graftage.report.frame import template

PACKAGE = "onnxruntime-web@1.30.0"  # the version that was tested
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_SHARED = ("words.js", "show.js", "app.js", "style.css", "icon.svg")
_ABOUT = "about.json"


def require_runtime(runtime: Path | None) -> None:
    """Raises OptionError where the files of onnxruntime-web are not to be had, saying how to get them."""
    _runtime_files(runtime)


def add_page(folder: Path, about: Mapping[str, Any], short_side: float, runtime: Path | None) -> None:
    """Puts page, scripts and runtime beside `model.onnx`.

    Args:
        folder: of the export.
        about: what the page says of the model, as `about.about` gives it.
        short_side: pixels that the short side of a scaled JPEG must still have.
        runtime: onnxruntime-web, a folder or the file that `npm pack` leaves.

    Raises:
        OptionError: the runtime lacks a file.
    """
    for name, content in _runtime_files(runtime).items():
        (folder / name).write_bytes(content)
    web = resources.files("graftage.serve") / "web"
    for name in _SHARED:
        (folder / name).write_bytes((web / name).read_bytes())
    (folder / "local.js").write_bytes((web / "local.js").read_bytes())
    (folder / "base.css").write_text(template("style.css"), encoding="utf-8")
    text = json.dumps({**about, "short_side": short_side}, ensure_ascii=True, allow_nan=False)
    (folder / _ABOUT).write_text(text, encoding="ascii")
    page = (web / "index.html").read_text("utf-8").replace("{{keyed}}", "no")
    page = page.replace(
        '<script src="ask.js" defer></script>',
        f'<script src="{RUNTIME[0]}" defer></script>\n<script src="local.js" defer></script>',
    )
    page = page.replace('data-w="stays">Pictures go to this server only, and are not kept.', 'data-w="staysHere">')
    page = page.replace(" The server also answers programs: POST /v1/predict.", "")
    (folder / "index.html").write_text(page, encoding="utf-8")


def _runtime_files(runtime: Path | None) -> dict[str, bytes]:
    how = f"run `npm pack {PACKAGE}` and give --runtime onnxruntime-web-{PACKAGE.partition('@')[2]}.tgz"
    if runtime is None:
        raise OptionError(f"an export to web needs the files of onnxruntime-web (MIT): {how}")
    try:
        found = _from_folder(runtime) if runtime.is_dir() else _from_archive(runtime)
    except (OSError, tarfile.TarError) as error:
        raise OptionError(f"{runtime}: onnxruntime-web cannot be read from it ({error}); {how}") from error
    if missing := [name for name in RUNTIME if name not in found]:
        raise OptionError(f"{runtime}: it lacks {missing[0]} of onnxruntime-web; {how}")
    return found


def _from_folder(folder: Path) -> dict[str, bytes]:
    places = (folder, folder / "dist", folder / "package" / "dist")
    home = next((place for place in places if (place / RUNTIME[0]).is_file()), folder)
    return {name: (home / name).read_bytes() for name in RUNTIME if (home / name).is_file()}


def _from_archive(path: Path) -> dict[str, bytes]:
    """The files by name, read without unpacking anything."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            if name in RUNTIME and member.isfile() and (stream := archive.extractfile(member)) is not None:
                found[name] = stream.read()
    return found
