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
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import graftage as gr
from graftage.serve.flagging import made_strange
from graftage.serve.predict import Predictor, load
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
def page(browser: Any, package: Path, run: Path, class_folders: Path) -> Iterator[Any]:
    made = gr.export(run / "model.safetensors", to="web", check=[class_folders], runtime=package)
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
