"""`graftage check`: one small set with one of each fault, the page in a real browser, and hard cases."""

import csv
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import graftage as gr
import photos
from graftage import checkstory
from graftage.checkstory import _shares
from graftage.data.catalog import Catalog, Entry
from graftage.data.findings import FINDING_COLUMNS, KINDS, Finding, structural, worst_first
from graftage.errors import DataError, OptionError
from graftage.report.check import SHOWN, Card, CheckPage, Group, render
from photos import graftage, read_json, table


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Path:
    """Palaces and dahlias with faults; what is wrong is in the files' names."""
    root = photos.two_classes(tmp_path_factory.mktemp("faulty") / "photos", 24)
    for folder, of in (("palace", "flower.jpg"), ("dahlia", "china.jpg")):
        photos.save(root / folder, photos.crops(of, 1, seed=5), prefix="wrong")
    one = photos.crops("china.jpg", 1, seed=9)[0]
    grey = Image.new("RGB", one.size, (120, 120, 120))
    photos.save(root / "palace", [one.point(lambda v: v // 16)], prefix="dark")
    photos.save(root / "palace", [Image.blend(one.filter(ImageFilter.GaussianBlur(15)), grey, 0.8)], prefix="blurred")
    photos.save(root / "dahlia", photos.crops("flower.jpg", 1, seed=7, size=(300, 70)), prefix="long")
    shutil.copy(root / "palace" / "0.jpg", root / "palace" / "copy.jpg")
    shutil.copy(root / "palace" / "1.jpg", root / "dahlia" / "conflict.jpg")
    (root / "palace" / "text.jpg").write_text("not a picture")
    (root / "palace" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    photos.broken_late(photos.save(root / "dahlia", [one], prefix="late")[0])
    (root / "tulip").mkdir()
    photos.save(root / "rose", photos.crops("flower.jpg", 1, seed=11))
    return root


@pytest.fixture(scope="module")
def checked(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Said]:
    folder = tmp_path_factory.mktemp("checked") / "check"
    return folder, graftage("check", faulty, "-o", folder)


@pytest.fixture(scope="module")
def by_kind(checked: tuple[Path, photos.Said]) -> dict[str, list[dict[str, str]]]:
    found = defaultdict(list)
    for row in table(checked[0] / "problems.csv"):
        found[row["kind"]].append(row)
    return found


# ---------------------------------------------------------------- what it finds


def test_exit_status_3_tells_of_something_serious(checked: tuple[Path, photos.Said]) -> None:
    folder, said = checked
    assert said.status == 3, said.err
    assert "something serious was found" in said.out
    assert sorted(path.name for path in folder.iterdir()) == ["check.json", "problems.csv", "report.html"]
    assert read_json(folder / "check.json")["serious"] is True


def test_every_fault_is_found(by_kind: dict[str, list[dict[str, str]]]) -> None:
    def paths(kind: str) -> set[str]:
        return {row["path"] for row in by_kind[kind]}

    assert paths("likely wrong label") >= {"palace/wrong0.jpg", "dahlia/wrong0.jpg"}
    assert paths("conflicting labels") == {"palace/1.jpg", "dahlia/conflict.jpg"}
    assert paths("duplicates") == {"palace/copy.jpg"}
    assert "palace/dark0.jpg" in paths("too dark")  # some corners of the dahlia are dark, too
    assert "palace/blurred0.jpg" in paths("blurred")
    assert paths("odd shape") == {"dahlia/long0.jpg"}
    assert paths("unreadable") == {"palace/text.jpg", "palace/gone.jpg", "dahlia/late0.jpg"}
    assert {row["label"] for row in by_kind["missing class"]} == {"rose"}
    assert {row["label"] for row in by_kind["empty class"]} == {"tulip"}


def test_likely_wrong_labels_come_with_the_other_label(by_kind: dict[str, list[dict[str, str]]]) -> None:
    named = {row["path"]: (row["label"], row["suggested label"]) for row in by_kind["likely wrong label"]}
    assert named["palace/wrong0.jpg"] == ("palace", "dahlia")
    assert named["dahlia/wrong0.jpg"] == ("dahlia", "palace")


def test_the_other_path_of_copies_is_the_copy(by_kind: dict[str, list[dict[str, str]]]) -> None:
    assert [(r["path"], r["other path"]) for r in by_kind["duplicates"]] == [("palace/copy.jpg", "palace/0.jpg")]


def test_the_only_action_written_is_to_move_what_is_no_picture(checked: tuple[Path, photos.Said]) -> None:
    rows = table(checked[0] / "problems.csv")
    assert tuple(rows[0]) == FINDING_COLUMNS
    acting = {row["path"]: row["action"] for row in rows if row["action"]}
    assert acting == {"palace/text.jpg": "move", "dahlia/late0.jpg": "move"}  # a broken link is left to the user


def test_rows_are_worst_first(checked: tuple[Path, photos.Said]) -> None:
    severities = [row["severity"] for row in table(checked[0] / "problems.csv")]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}


def test_the_table_as_it_is_can_be_cleaned_and_taken_back(faulty: Path, checked: tuple[Path, photos.Said]) -> None:
    before = sorted(faulty.rglob("*"))
    said = graftage("clean", faulty, checked[0] / "problems.csv")
    assert said.status == 0, said.err
    assert not (faulty / "palace" / "text.jpg").exists()
    assert graftage("clean", faulty, "--undo").status == 0
    assert sorted(faulty.rglob("*")) == before


def test_the_same_command_gives_the_same_bytes(faulty: Path, checked: tuple[Path, photos.Said], tmp_path: Path) -> None:
    found = gr.check(faulty, output=tmp_path / "again")
    assert found.serious
    for name in ("problems.csv", "report.html", "check.json"):
        assert (tmp_path / "again" / name).read_bytes() == (checked[0] / name).read_bytes()


def test_numbers_carry_intervals(checked: tuple[Path, photos.Said]) -> None:
    numbers = read_json(checked[0] / "check.json")
    wrong = numbers["expected_wrong_labels"]
    assert wrong["low"] <= wrong["value"] <= wrong["high"]
    assert "bootstrap" in wrong["method"]
    assert all(each["accuracy"]["low"] <= each["accuracy"]["high"] for each in numbers["shortcuts"])
    assert re.search(r"likely wrong label +\d+; about \d+ \(\d+ to \d+\) of \d+ expected", checked[1].out)


def test_a_clean_set_is_not_serious(class_folders: Path, own_cache: Path) -> None:
    found = gr.check(class_folders)
    assert not found.serious
    assert found.folder is None
    assert not {finding.kind for finding in found.findings} & {"unreadable", "duplicates", "missing class"}


# ---------------------------------------------------------------- hard cases


def test_identical_pictures_are_copies_and_nothing_is_learnt(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photos.save(tmp_path / "same" / name, photos.crops("china.jpg", 1) * 6)
    found = gr.check(tmp_path / "same", output=tmp_path / "out")
    assert found.serious
    assert Counter(f.kind for f in found.findings)["conflicting labels"] == 12
    assert found.asked is None
    assert any("not examined" in note for note in found.notes)


def test_one_class_and_no_usable_picture_are_told(tmp_path: Path) -> None:
    photos.save(tmp_path / "one" / "a", photos.crops("china.jpg", 4))
    kinds = Counter(f.kind for f in gr.check(tmp_path / "one").findings)
    assert kinds["missing class"] == 1
    (tmp_path / "none" / "a").mkdir(parents=True)
    (tmp_path / "none" / "a" / "x.jpg").write_text("no")
    found = gr.check(tmp_path / "none", output=tmp_path / "page")
    assert found.serious
    assert (tmp_path / "page" / "report.html").exists()
    with pytest.raises(DataError, match="no class folders"):
        gr.check(tmp_path / "page")


def test_one_picture_per_class_is_told(tmp_path: Path) -> None:
    for name, of in (("a", "china.jpg"), ("b", "flower.jpg")):
        photos.save(tmp_path / "few" / name, photos.crops(of, 1))
    found = gr.check(tmp_path / "few")
    assert Counter(f.kind for f in found.findings)["missing class"] == 2


def test_noise_is_not_called_wrong_labels_by_many_signals(tmp_path: Path) -> None:
    found = gr.check(photos.noise(tmp_path / "noise", 30))
    assert found.asked is not None
    assert found.asked.suspects.wrong.low >= 0


def test_a_class_that_only_the_test_folder_has_is_missing(tmp_path: Path) -> None:
    root = tmp_path / "split"
    photos.two_classes(root / "train", 6)
    photos.save(root / "test" / "palace", photos.crops("china.jpg", 3, seed=2))
    photos.save(root / "test" / "rose", photos.crops("flower.jpg", 3, seed=2))
    shutil.copy(root / "train" / "palace" / "0.jpg", root / "test" / "palace" / "again.jpg")
    found = {(f.kind, f.severity, f.label, f.path) for f in gr.check(root).findings}
    assert ("missing class", "error", "rose", "") in found
    assert ("missing class", "warning", "dahlia", "") in found
    assert ("train and test share", "error", "palace", "test/palace/again.jpg") in found


def test_a_shortcut_is_told_and_serious(tmp_path: Path) -> None:
    root = tmp_path / "cut"
    photos.save(root / "palace", photos.crops("china.jpg", 20), suffix=".png")
    photos.save(root / "dahlia", photos.crops("flower.jpg", 20))
    found = [f for f in gr.check(root).findings if f.kind == "shortcut"]
    assert any(f.severity == "error" and f.evidence.startswith("file format: alone it names 100.0 %") for f in found)


def test_folders_that_hold_something_better_kept_are_refused(faulty: Path, checked: tuple[Path, photos.Said]) -> None:
    with pytest.raises(OptionError, match="actions that you have written"):
        gr.check(faulty, output=checked[0])
    with pytest.raises(OptionError, match="among the pictures"):
        gr.check(faulty, output=faulty / "check")
    said = graftage("check", faulty, "-o", faulty / "palace" / "0.jpg")
    assert said.status == 2


def test_without_a_folder_named_the_next_free_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos.save(tmp_path / "mine" / "a", photos.crops("china.jpg", 3))
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mine-2"):
        graftage("check", "mine")
        assert (tmp_path / "checks" / name / "problems.csv").exists()


# ---------------------------------------------------------------- lists and pages, without pictures


def entry(index: int, digest: str, label: int, split: str = "") -> Entry:
    return Entry(index, f"{label}/{index}.jpg", Path(f"{index}.jpg"), "used", "", label, split, -1, 9, 9, digest)


def test_groups_from_elsewhere_make_near_duplicates() -> None:
    labels = [0, 0, 0, 1, 1, 1]
    catalog = Catalog("", ("a", "b"), tuple(entry(i, str(i), label) for i, label in enumerate(labels)))
    found = [f for f in structural(catalog, np.array([0, 0, 2, 3, 2, 5])) if f.path]
    assert [(f.kind, f.path, f.other) for f in found] == [
        ("near-duplicates", "0/1.jpg", "0/0.jpg"),
        ("conflicting labels", "0/2.jpg", "1/4.jpg"),
        ("conflicting labels", "1/4.jpg", "0/2.jpg"),
    ]


def test_the_order_is_by_severity_then_kind() -> None:
    found = [Finding("empty class", "note"), Finding("shortcut", "note"), Finding("too dark", "warning", "x")]
    assert [f.kind for f in worst_first(found)] == ["too dark", "shortcut", "empty class"]
    assert set(KINDS) >= {f.kind for f in found}


def test_room_on_the_page_is_shared() -> None:
    assert _shares({"a": 3, "b": 100, "c": 5000}, 120) == {"a": 3, "b": 58, "c": 59}
    assert _shares({"a": 3}, 120) == {"a": 3}
    assert _shares({}, 120) == {}


def test_what_users_wrote_is_escaped() -> None:
    evil = '<script>alert(1)</script>"{{style}}'
    page = render(
        CheckPage(evil, evil, (evil,), {evil: evil}, (Group("blurred", evil, "note", 3, (), evil),), (), evil, (), evil)
    )
    assert "<script>alert" not in page
    assert "3 more in problems.csv" in page


def test_a_full_page_stays_under_five_megabytes() -> None:
    image = "data:image/jpeg;base64," + "A" * (checkstory._THUMBNAIL_BYTES // checkstory._THUMBNAILS)
    name = "train/some class/" + "x" * 60 + ".jpg"
    cards = [Card("warning", name, "", "some class", "other class", "e" * 70, (image,))] * checkstory._THUMBNAILS
    cards += [Card("warning", name, "", "some class", "other class", "e" * 70, ("",))] * (SHOWN - len(cards))
    group = Group("likely wrong label", "m", "warning", 3000, tuple(cards))
    assert len(render(CheckPage("t", "v", (), {}, (group,), (), "", (), "h")).encode()) < 5_000_000


# ---------------------------------------------------------------- the page in a browser


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_filters_by_kind_with_mouse_and_keyboard(
    browser: Any, checked: tuple[Path, photos.Said], width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((checked[0] / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sections = page.locator(".kind-of-problem")
    everything = sections.count()
    assert everything == len({row["kind"] for row in table(checked[0] / "problems.csv")})
    page.locator('[data-show="kind-likely-wrong-label"]').click()
    assert page.locator(".kind-of-problem:visible").count() == 1
    assert page.locator(".kind-of-problem:visible h2").inner_text().startswith("Likely wrong label")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator('[aria-pressed="true"]').count() == 1
    assert page.locator(".kind-of-problem:visible").get_attribute("id") != "kind-likely-wrong-label"
    page.locator('[data-show=""]').click()
    assert page.locator(".kind-of-problem:visible").count() == everything
    loaded = page.evaluate("[...document.images].filter((i) => i.src.startsWith('data:')).length")
    assert loaded == page.locator("img").count() > 10
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_the_page_holds_no_address_and_shows_all_without_its_script(checked: tuple[Path, photos.Said]) -> None:
    text = (checked[0] / "report.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert "{{" not in text
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert " hidden" not in text.split("<main")[1].split("<script>")[0]


def test_actions_in_the_table_survive_a_spreadsheets_quotes(checked: tuple[Path, photos.Said]) -> None:
    with (checked[0] / "problems.csv").open(encoding="utf-8", newline="") as file:
        assert all(len(row) == len(FINDING_COLUMNS) for row in csv.reader(file))


def test_pictures_far_from_all_others_are_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = photos.two_classes(tmp_path / "set", 30)
    odd = Image.fromarray(rng.integers(0, 256, (110, 110, 3), dtype=np.uint8))
    photos.save(root / "palace", [odd], prefix="noise")
    found = [f.path for f in gr.check(root).findings if f.kind == "unlike the rest"]
    assert "palace/noise0.jpg" in found
