"""Shortcuts in the report of a training run: from what is known already, told on top where they are serious."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import photos
from graftage.checking import learnt_shortcuts, shortcut_problems
from graftage.data.catalog import Catalog, Entry
from graftage.data.decode import Limits, decode
from graftage.data.quality import look
from graftage.data.twins import Twins
from graftage.features.looks import look_of, shades_of
from graftage.gate import Gate


@pytest.fixture(scope="module")
def cut(weights_file, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Said]:
    """A run on palaces saved as PNG and dahlias saved as JPEG: (its folder, what the command said)."""
    root = tmp_path_factory.mktemp("cut")
    photos.save(root / "photos" / "palace", photos.crops("china.jpg", 20), suffix=".png")
    photos.save(root / "photos" / "dahlia", photos.crops("flower.jpg", 20))
    options = ("--backbone", weights_file("test_resnet"), "--recipe", "linear", "--fit", "squash", "--folds", "4")
    said = photos.graftage("train", root / "photos", "-o", root / "run", *options)
    assert said.status == 0, said.err
    return root / "run", said


def test_a_serious_shortcut_is_told_on_top_and_in_the_summary(cut: tuple[Path, photos.Said]) -> None:
    folder, said = cut
    told = "Shortcut: file format alone it names 100.0 %"
    assert any(line.startswith("note") and told in line for line in said.out.splitlines())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert told in page.partition('<section id="data">')[0]
    section = page.partition('<section id="shortcuts">')[2].partition("</section>")[0]
    assert '<th scope="row">file format</th>' in section
    assert "nearly as good as the content" in section


def test_metrics_and_problems_hold_them_as_a_check_does(cut: tuple[Path, photos.Said]) -> None:
    known = {each["clue"]: each for each in photos.read_json(cut[0] / "metrics.json")["shortcuts"]}
    assert known["file format"]["accuracy"]["value"] == 1.0
    assert known["file format"]["verdict"] == "nearly as good as the content"
    rows = [row for row in photos.table(cut[0] / "problems.csv") if row["kind"] == "shortcut"]
    assert any(row["severity"] == "error" and row["detail"].startswith("file format: ") for row in rows)
    assert {row["detail"].partition(":")[0] for row in rows} == {c for c, each in known.items() if each["verdict"]}


def test_pictures_alike_in_all_but_content_have_no_notice(finished: tuple[Path, photos.Said]) -> None:
    assert "Shortcut:" not in finished[1].out
    known = photos.read_json(finished[0] / "metrics.json")["shortcuts"]
    assert {"file size", "mean colour", "border"} <= {each["clue"] for each in known}


def gate(shades: np.ndarray) -> Gate:
    n = len(shades)
    twins = Twins(np.arange(n), (), 0.9, np.arange(n), 0.0, 0)
    return Gate(np.arange(n), twins, np.arange(n), np.zeros((n, 32, 32), np.uint8), shades, np.zeros((n, 1)), ())


def catalog(y: np.ndarray, **facts: list) -> Catalog:
    """Entries of files that are not there."""
    plain = {"bytes": 9000, "format": "JPEG", "camera": ""}
    rows = [
        Entry(i, f"{i}.jpg", Path("nowhere") / "a.jpg", "used", "", int(k), "", i, 80, 60, str(i))
        for i, k in enumerate(y)
    ]
    own = [{**plain, **{name: values[i] for name, values in facts.items()}} for i in range(len(y))]
    return Catalog("nowhere", ("a", "b"), tuple(replace(e, **f) for e, f in zip(rows, own, strict=True)))


def asked(known: Catalog, shades: np.ndarray, y: np.ndarray, content: np.ndarray) -> dict[str, tuple[float, bool]]:
    rows = np.arange(len(y))
    found = learnt_shortcuts(known, gate(shades), rows, y, rows, rows // 2 % 4, content, 1)
    assert [p.detail.partition(":")[0] for p in shortcut_problems(found)] == [s.clue for s in found if s.verdict]
    return {each.clue: (each.accuracy.value, each.serious) for each in found}


def test_no_file_is_read_and_each_fact_is_looked_at() -> None:
    y = np.arange(200) % 2
    shades, flat = np.full((200, 9), 0.5), np.full((200, 9), 0.5)
    shades[:, 5] += 0.1 * y  # green
    dark = flat.copy()
    dark[:, 7] += 0.1 * y  # mean of the outermost pixels
    assert asked(catalog(y), flat, y, y) == {}
    assert asked(catalog(y), shades, y, y) == {"mean colour": (1.0, False)}  # a network sees it too
    assert asked(catalog(y), dark, y, y) == {"border": (1.0, False)}
    rough = flat.copy()
    rough[:, 8] += 0.1 * y  # their standard deviation
    assert asked(catalog(y), rough, y, y) == {"border": (1.0, False)}
    for name, values in {"camera (EXIF)": ["Acme", ""], "file format": ["PNG", "JPEG"]}.items():
        field = "camera" if "camera" in name else "format"
        assert asked(catalog(y, **{field: values * 100}), flat, y, y) == {name: (1.0, True)}
    assert asked(catalog(y, bytes=[900, 90_000] * 100), flat, y, y) == {"file size": (1.0, True)}


def test_a_clue_far_below_the_content_is_not_serious() -> None:
    y = np.arange(400) % 2
    wrong = np.random.default_rng(2).random(400) < 0.17
    sizes = [900 if k else 90_000 for k in np.where(wrong, 1 - y, y)]
    ((accuracy, serious),) = asked(catalog(y, bytes=sizes), np.full((400, 9), 0.5), y, y).values()
    assert accuracy == pytest.approx(0.83, abs=0.03)  # two thirds of what the content gains: notable, no more
    assert not serious


def test_one_class_alone_or_one_picture_of_each_is_no_question() -> None:
    rows = np.arange(2)
    assert learnt_shortcuts(catalog(rows), gate(np.zeros((2, 9))), rows, rows, rows, rows, rows, 1) == ()


def test_shades_are_those_of_the_picture() -> None:
    pixels = np.full((96, 128, 3), (200, 100, 50), np.uint8)
    pixels[24:72, 32:96] = (20, 10, 5)
    data = png(pixels)
    own = shades_of(look_of(decode(data, cover=64))[None])[0]
    full = look(data, limits=Limits())
    assert own[4:7] == pytest.approx(full.colour, abs=0.02)
    assert own[3] == pytest.approx(full.contrast, abs=0.02)
    grey = np.array([0.299, 0.587, 0.114]) @ np.array([200, 100, 50]) / 255
    assert own[[2, 7]] == pytest.approx([grey, grey], abs=0.01)  # the lightest, and the border
    assert own[0] == pytest.approx(grey / 10, abs=0.01)  # the darkest
    assert own[8] < 0.01
    assert shades_of(np.zeros((0, 5000), np.uint8)).shape == (0, 9)


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
