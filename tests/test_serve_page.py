"""The server's page in a real browser, wide as a desk and narrow as a phone: it asks its own server and nobody else."""

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graftage.serve.predict import Prediction, Predictor, load
from test_serving import KEY, Server, running

DROP = """([name, parts]) => {
  const transfer = new DataTransfer();
  for (const [name, data] of parts) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const event = name === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def model(locked: Path) -> Predictor:
    return load(locked / "model.safetensors")


@pytest.fixture(scope="module")
def server(locked: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = locked / "model.safetensors"
    with running(tmp_path_factory.mktemp("page") / "log", f"first={model}", f"second={model}") as server:
        yield server


@pytest.fixture(params=[(1200, "light", "en-US"), (390, "dark", "en-GB")], ids=["desk", "phone"])
def page(browser: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme, locale = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale=locale)
    page, heard, asked = context.new_page(), [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.locator("#about").wait_for()
    yield page
    assert heard == []
    assert [url for url in asked if not url.startswith((server.url, "blob:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.fixture(scope="module")
def some(class_folders: Path) -> list[Path]:
    return sorted(class_folders.rglob("*.jpg"))[::17]


def put(page: Any, how: str, paths: list[Path]) -> None:
    """Drops or pastes files, and waits until all are answered."""
    page.evaluate(DROP, [how, [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]])
    page.locator("#results").wait_for()
    page.locator("#progress").wait_for(state="hidden")


def shown(value: float) -> str:
    return f"{100 * value:.1f} %"


def test_dropped_pictures_get_the_models_answers(page: Any, model: Predictor, some: list[Path]) -> None:
    put(page, "drop", some[:2])
    put(page, "paste", some[2:3])
    cards = page.locator(".card-of")
    assert cards.count() == 3
    for i, answer in enumerate(model.predict(some[:3])):
        card = cards.nth(i)
        assert card.locator("h3").inner_text() == some[i].name
        assert card.locator(".verdict-of").inner_text() == f"{answer.label} {shown(answer.probability)}"
        ranked = sorted(zip(answer.probabilities, model.classes, strict=True), reverse=True)
        assert card.locator(".bars .name").all_inner_texts() == [name for _, name in ranked]
        assert card.locator(".bars .value").all_inner_texts() == [shown(p) for p, _ in ranked]
        assert card.locator(".warnings li").count() == bool(answer.unlike) + bool(answer.abstained)
    assert page.locator("#status").inner_text() == "3 pictures answered"
    assert page.locator("#status").get_attribute("aria-live") == "polite"


def test_where_it_comes_from_is_found_by_keyboard_alone(page: Any, model: Predictor, some: list[Path]) -> None:
    put(page, "drop", some[:1])
    page.locator("#clear").focus()
    page.keyboard.press("Tab")  # to the bar of the first class
    bar = page.locator(".bars button").first
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == bar.get_attribute("aria-label")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".heat-map").wait_for(timeout=90_000)
    second = page.locator(".bars button").nth(1)
    assert second.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.dataset.class") == second.get_attribute("data-class")
    near = model.explain(some[0]).similar
    assert page.locator(".likes .file").all_inner_texts() == [like.id for like in near]
    assert page.locator(".likes img").count() == len(near)
    picture, heat = (page.locator(f".under img:nth-child({n})").bounding_box() for n in (1, 2))
    assert picture == pytest.approx(heat, abs=1)
    page.keyboard.press("Enter")
    assert page.locator(".heat-map").count() == 0


def test_a_folder_becomes_a_table_and_a_csv(page: Any, model: Predictor, class_folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, path in enumerate(sorted(class_folders.rglob("*.jpg"))[:5]):
        (folder / f'{i}, a "quoted".jpg').write_bytes(path.read_bytes())
    (folder / "broken.png").write_text("no picture")
    (folder / "notes.txt").write_text("left out")
    (folder / ".hidden.jpg").write_text("left out")
    page.set_input_files("#folder", folder)
    page.locator("#rows tr").first.wait_for()
    page.locator("#progress").wait_for(state="hidden")
    assert page.locator("#rows tr").count() == 6
    assert page.locator("#status").inner_text() == "6 pictures answered, 1 could not be used"
    with page.expect_download() as coming:
        page.locator("#csv").click()
    text = Path(coming.value.path()).read_text(encoding="utf-8-sig")
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(text))}
    assert set(rows) == {f"photos/{path.name}" for path in folder.iterdir() if path.suffix in (".jpg", ".png")} - {
        "photos/.hidden.jpg"
    }
    for path in folder.glob("[0-9]*.jpg"):
        compare(rows[f"photos/{path.name}"], model.predict([path])[0])
    bad = rows["photos/broken.png"]
    assert (bad["status"], bad["label"], bad["probability"]) == ("rejected", "", "")
    assert bad["reason"].startswith("not an image")


def compare(row: dict[str, str], answer: Prediction) -> None:
    def text(value: bool | None) -> str:
        return "" if value is None else str(value).lower()

    assert (row["status"], row["label"], row["runner_up"]) == ("ok", answer.label, answer.runner_up)
    assert float(row["probability"]) == answer.probability
    assert float(row["runner_up_probability"]) == answer.runner_up_probability
    assert tuple(json.loads(row["prediction_set"] or "[]")) == answer.prediction_set
    assert (row["abstained"], row["unlike"]) == (text(answer.abstained), text(answer.unlike))


def test_a_row_of_the_table_opens_its_picture_and_escape_closes_it(page: Any, some: list[Path]) -> None:
    put(page, "drop", some[:1] * 13)  # more than cards are shown for
    opener = page.locator("#rows button").nth(4)
    opener.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer h2").inner_text() == some[0].name
    assert page.locator("#viewer .bars button").count() == 3
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement === document.querySelectorAll('#rows button')[4]")


def test_the_page_speaks_chinese_and_remembers_it(page: Any, some: list[Path]) -> None:
    put(page, "drop", some[:1])
    page.locator("#language").click()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.locator("#choose").inner_text() == "选择图片"
    assert page.locator(".where").inner_text() == "依据在图中何处？"
    page.reload()
    page.locator("#about").wait_for()
    assert page.locator("#about-title").inner_text() == "关于此模型"
    page.locator("#language").click()
    assert page.locator("#about-title").inner_text() == "About this model"


def test_both_languages_have_the_same_words(page: Any) -> None:
    words = page.evaluate("WORDS")
    assert set(words["en"]) == set(words["zh"])
    for name, text in words["en"].items():
        assert {f"{{{i}}}" for i in range(5) if f"{{{i}}}" in text} == {
            f"{{{i}}}" for i in range(5) if f"{{{i}}}" in words["zh"][name]
        }


def test_what_is_not_to_be_trusted_is_said(page: Any) -> None:
    row = {"status": "repaired", "reason": "", "label": "<b>1</b>", "probability": 0.6, "runner_up": "2"}
    row |= {"probabilities": [0.6, 0.4], "prediction_set": [], "abstained": True, "unlike_p": 0.004, "unlike": True}
    item = {"name": "a.jpg", "url": "icon.svg", "state": "done", "classes": ["<b>1</b>", "2"], "row": row}
    text = page.evaluate("(item) => { $('cards').append(card(item)); $('results').hidden = false;"
                         "return $('cards').innerText }", item)  # fmt: skip
    assert "Unlike anything seen in training (p = 0.0040): no class may be right." in text
    assert "Not sure enough to promise its error: have a person look." in text
    assert "damaged, used as far as it goes" in text
    assert "<b>1</b> 60.0 %" in text  # text, not HTML
    tags = page.evaluate("(item) => tags(item).map((tag) => tag.innerText)", item)
    assert tags == ["unlike anything seen in training", "not sure enough", "damaged, used as far as it goes"]


def test_another_model_answers_anew(page: Any, server: Server, some: list[Path]) -> None:
    put(page, "drop", some[:1])
    with page.expect_response(lambda response: "v1/predict" in response.url) as answered:
        page.locator("#model").select_option("second")
    assert answered.value.json()["model"] == "second"
    page.locator(".verdict-of").wait_for()
    assert page.locator("h1").inner_text() == "second"


def test_without_a_camera_it_says_so(page: Any) -> None:
    page.locator("#camera").click()
    page.locator("#status", has_text="The camera cannot be used").wait_for()


def test_a_chinese_browser_is_met_in_chinese(browser: Any, server: Server) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(server.url)
    assert page.locator("#drop-title").inner_text() == "把图片或文件夹拖到这里，也可以粘贴图片"
    context.close()


def test_a_key_is_asked_for_and_kept_for_the_visit(
    browser: Any, locked: Path, some: list[Path], tmp_path: Path
) -> None:
    with running(tmp_path / "log", locked / "model.safetensors", GRAFTAGE_API_KEY=KEY) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.locator("#key").fill("another key, not this")
        page.keyboard.press("Enter")
        page.locator("#status", has_text="That is not the key.").wait_for()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        page.locator("#about").wait_for()
        put(page, "drop", some[:1])
        assert page.locator(".verdict-of").count() == 1
        page.reload()
        page.locator("#about").wait_for()
        assert not page.locator("#key-form").is_visible()
        context.close()
