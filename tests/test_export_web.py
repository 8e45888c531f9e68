"""The page without a server: a folder behind a plain static web server answers in the browser itself.

Runs where there are a Chromium and onnxruntime-web: what `npm pack onnxruntime-web` leaves, named by the environment
variable GRAFTAGE_ORT_WEB or lying in the folder that the tests are started from.
"""

import functools
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import graftage as gr
from graftage.data.decode import DEFAULT_LIMITS
from graftage.serve import browsing
from graftage.serve.browser import find_browser
from graftage.serve.browsing import Seen, judged_in_browser
from graftage.serve.checking import Answer
from graftage.serve.export import Exported
from graftage.serve.flagging import made_strange
from graftage.serve.predict import Predictor, load
from graftage.serve.targets import read_onnx
from graftage.serve.webfolder import RUNTIME, require_runtime
from photos import graftage
from test_export import with_detector
from test_serve_page import put, shown


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def package() -> Path:
    named = os.environ.get("GRAFTAGE_ORT_WEB")
    found = [Path(named)] if named else sorted(Path.cwd().glob("onnxruntime-web-*.tgz"))
    if not found:
        pytest.skip("there is no onnxruntime-web here: npm pack onnxruntime-web")
    return found[-1]


@pytest.fixture(scope="module")
def run(class_folders: Path, weights_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "run"
    options = ("--recipe", "linear", "--folds", "3", "--backbone", weights_file("test_efficientnet"))
    said = graftage("train", class_folders, "-o", folder, *options)
    assert said.status == 0, said.err
    with_detector(folder / "model.safetensors", class_folders)
    return folder


@pytest.fixture(scope="module")
def made(package: Path, run: Path, class_folders: Path) -> Exported:
    return gr.export(run / "model.safetensors", to="web", check=[class_folders], runtime=package)


@pytest.fixture(scope="module")
def page(browser: Any, made: Exported) -> Iterator[Any]:
    handler = functools.partial(Quiet, directory=str(made.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        context = browser.new_context(locale="en-US")
        page, heard, asked = context.new_page(), [], []
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("#about").wait_for(timeout=60_000)
        yield page
        assert heard == []
        assert [url for url in asked if not url.startswith((address, "blob:", "data:"))] == []
        context.close()
        server.shutdown()


@pytest.fixture(scope="module")
def model(run: Path) -> Predictor:
    return load(run / "model.safetensors", device="cpu", precision="float32")


def test_the_page_has_answered_in_a_browser_before_it_was_kept(made: Exported) -> None:
    if find_browser() is None:
        pytest.skip("there is no Chromium on this machine")
    browsed = made.browsed
    assert browsed is not None
    assert browsed.browser.startswith("Chrome ")
    assert (browsed.n, browsed.undecoded, browsed.flags) == (48, 0, 48)
    assert browsed.same_as_model >= 47
    assert browsed.median < 1e-3
    line = f"which decodes by itself: {browsed.same_as_model} of 48 got the model's label"
    assert line in "\n".join(made.summary)
    assert read_onnx(made.folder / "model.onnx")["browser"] == asdict(browsed)
    assert not list(made.folder.glob("check*"))  # what asked it stays here


def test_in_fewer_bits_the_page_answers_as_the_file_does_in_onnxruntime(
    package: Path, run: Path, class_folders: Path, tmp_path: Path
) -> None:
    if find_browser() is None:
        pytest.skip("there is no Chromium on this machine")
    check = [class_folders / "2"]
    options: dict[str, Any] = {
        "precision": "int8",
        "max_loss": 100,
        "runtime": package,
        "calibrate": [class_folders / "1"],
    }
    made = gr.export(run, to="web", check=check, output=tmp_path / "light", **options)
    assert made.browsed is not None
    assert made.browsed.n == 16
    assert made.browsed.same_as_file >= 15


def test_without_a_browser_output_and_file_say_so_and_what_to_do(
    package: Path, run: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "find_browser", lambda: None)
    made = gr.export(run, to="web", check=[class_folders / "2" / "0.jpg"], runtime=package, output=tmp_path / "made")
    said = "the page has NOT been tried in a browser: there is no Chromium on this machine; install Chromium or Chrome"
    assert said in "\n".join(made.summary)
    assert read_onnx(made.folder / "model.onnx")["browser"]["reason"] == "there is no Chromium on this machine"


def test_a_browser_that_does_not_start_is_none_and_its_own_words_say_why(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken-browser"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(browsing, "find_browser", lambda: str(broken))
    asked = [Answer(str(class_folders / "2" / "0.jpg"), "a", "a", 0.5, 0.0)]
    found = browsing.browse(tmp_path, asked, limits=DEFAULT_LIMITS, light=False)
    assert (found.browser, found.reason) == ("", "the browser ended with status 3: no display")
    monkeypatch.setattr(browsing, "find_browser", lambda: str(tmp_path / "nowhere"))
    assert (
        "nowhere cannot be started (No such file"
        in browsing.browse(tmp_path, asked, limits=DEFAULT_LIMITS, light=False).reason
    )


def seen(label: str, *, margin: float = 0.5, other: str = "a", status: str = "ok") -> Seen:
    """The model says a, the file in onnxruntime `other`, the page `label`."""
    row = {"status": status, "label": label, "unlike": None}
    return Seen(Answer("a.jpg", "a", other, margin, 0.0), row, 0.3)


def test_in_the_browser_995_of_1000_labels_must_be_the_models() -> None:
    few = [seen("b")] * 5 + [seen("b", margin=1e-3)] * 3 + [seen("a")] * 992 + [seen("", status="rejected")]
    found = judged_in_browser(few, browser="Chrome 1", light=False)
    assert (found.n, found.undecoded, found.same_as_model) == (1000, 1, 992)
    with pytest.raises(
        gr.ExportError, match=r"in Chrome 1 .* other labels than the model for 6 of 1,000 .*a\.jpg: a → b"
    ):
        judged_in_browser([seen("b")] * 6 + [seen("a")] * 994, browser="Chrome 1", light=False)


def test_of_a_file_in_fewer_bits_its_own_labels_must_come() -> None:
    rows = [seen("b", other="b")] * 10
    found = judged_in_browser(rows, browser="Chrome 1", light=True)
    assert (found.same_as_file, found.same_as_model) == (10, 0)
    with pytest.raises(gr.ExportError, match="other labels than the same file in onnxruntime for 2 of 12"):
        judged_in_browser([*rows, seen("a", other="b"), seen("a", other="b")], browser="Chrome 1", light=True)


def test_a_browser_that_playwright_has_downloaded_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    assert find_browser() is None
    program = tmp_path / "chromium-1187" / "chrome-linux" / "chrome"
    program.parent.mkdir(parents=True)
    program.touch()
    assert find_browser() == str(program)


def test_pictures_are_answered_in_the_browser_as_by_the_model(
    page: Any, model: Predictor, class_folders: Path, tmp_path: Path
) -> None:
    """PNGs, which every decoder decodes alike: the answers are the model's to a tenth of a percent."""
    some = sorted(class_folders.rglob("*.jpg"))[::11]
    paths = [tmp_path / f"{i}.png" for i in range(len(some))]
    for path, source in zip(paths, some, strict=True):
        Image.open(source).save(path)
    page.locator("#clear").evaluate("button => button.click()")
    put(page, "drop", paths)
    cards = page.locator(".card-of")
    assert cards.count() == len(paths)
    for i, answer in enumerate(model.predict(paths)):
        assert cards.nth(i).locator(".verdict-of").inner_text() == f"{answer.label} {shown(answer.probability)}"
        assert cards.nth(i).locator(".where").count() == 0  # no heat maps without a server
    assert page.locator("[data-w=staysHere]").inner_text() == "Pictures stay in this browser: nothing is sent."


def test_a_large_turned_jpeg_gets_nearly_the_models_answer(
    page: Any, model: Predictor, class_folders: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "large.jpg"
    Image.open(class_folders / "2" / "1.jpg").resize((1900, 1500)).save(path, exif=exif, quality=90)
    page.locator("#clear").evaluate("button => button.click()")
    put(page, "drop", [path])
    found = page.evaluate("items[0].row")
    (answer,) = model.predict([path])
    assert found["label"] == answer.label
    assert found["probabilities"] == pytest.approx(answer.probabilities, abs=0.02)
    assert tuple(found["prediction_set"]) == answer.prediction_set


def test_a_picture_unlike_those_trained_on_is_flagged_as_the_served_page_flags_it(
    page: Any, model: Predictor, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.png" for name in made_strange()]
    for path, data in zip(paths, made_strange().values(), strict=True):
        path.write_bytes(data)
    page.locator("#clear").evaluate("button => button.click()")
    put(page, "drop", paths)
    answers = model.predict(paths)
    rows = page.evaluate("items.map((item) => item.row)")
    assert [row["unlike"] for row in rows] == [answer.unlike for answer in answers]
    assert [row["unlike_p"] for row in rows] == pytest.approx([answer.unlike_p for answer in answers], abs=1e-6)
    place = next(i for i, answer in enumerate(answers) if answer.unlike)
    warning = page.locator(".card-of").nth(place).locator(".warnings").inner_text()
    assert f"Unlike anything seen in training (p = {answers[place].unlike_p:#.2g})" in warning
    assert "Pictures unlike anything seen in training are flagged; so are 5 %" in page.locator("#promises").inner_text()


def test_what_the_browser_cannot_decode_is_a_row_with_its_reason(page: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "empty.png").write_text("")
    page.locator("#clear").evaluate("button => button.click()")
    put(page, "drop", [tmp_path / "bad.png", tmp_path / "empty.png"])
    reasons = page.evaluate("items.map((item) => [item.row.status, item.row.reason])")
    assert reasons == [
        ["rejected", "unsupported format: this browser cannot decode it"],
        ["rejected", "empty file"],
    ]


def test_the_runtime_is_read_from_a_folder_or_from_what_npm_packs(tmp_path: Path) -> None:
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (folder / "dist" / name).write_bytes(name.encode())
    require_runtime(folder)
    require_runtime(folder / "dist")
    archive = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for name in RUNTIME:
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            packed.addfile(entry, io.BytesIO(name.encode()))
    require_runtime(archive)
    (folder / "dist" / RUNTIME[2]).unlink()
    with pytest.raises(gr.OptionError, match=r"it lacks ort-wasm-simd-threaded\.wasm"):
        require_runtime(folder)
