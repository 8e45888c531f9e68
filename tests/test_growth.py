import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import graftage
import photos
from graftage import growth
from graftage.errors import DataError, OptionError
from graftage.features import extract
from graftage.growth import Curved
from graftage.measure.curve import Curve, Needed
from graftage.measure.interval import Estimate
from graftage.progress import Journal, Silent
from graftage.report.curve import ClassRow, Growth, render
from graftage.report.fan import Fan, fan_chart


@pytest.fixture(scope="module")
def drawn(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Said]:
    """One curve of 48 pictures: (its page, what the command said)."""
    page = tmp_path_factory.mktemp("curve") / "new" / "page.html"
    said = photos.graftage("curve", class_folders, "-o", page, "--target", "0.9")
    assert said.status == 0, said.err
    return page, said


# The command


def test_the_summary_says_what_more_pictures_bring(drawn: tuple[Path, photos.Said]) -> None:
    page, said = drawn
    lines = said.out.splitlines()
    percent = r"\d+\.\d % \(\d+\.\d to \d+\.\d\)"
    assert re.fullmatch(rf"48 pictures of 3 classes; accuracy with 41 of them: {percent}", lines[0])
    for what, pictures in (("with all", 48), ("with 1.5 ×", 72), ("with 2 ×", 96), ("with 4 ×", 192)):
        assert any(re.fullmatch(rf"expected {what} +{percent}, {pictures} pictures", line) for line in lines), what
    assert any(line.startswith("for 90 %") for line in lines)
    assert any(line.startswith("least often right") for line in lines)
    assert "conditional on new pictures coming from the same source" in said.out
    assert lines[-1] == f"page                {page}"
    assert sorted(path.name for path in page.parent.iterdir()) == ["page.html", "page.json"]


def test_page_and_json_tell_the_same(drawn: tuple[Path, photos.Said]) -> None:
    page, text = drawn[0], drawn[0].read_text(encoding="utf-8")
    record = photos.read_json(page.with_suffix(".json"))
    assert (record["pictures"], record["limit"], record["metric"]) == (48, 384, "accuracy")
    assert [row["pictures"] for row in record["expected"]] == [48, 72, 96, 192]
    shown = re.findall(r'<td class="number">([\d,]+)</td><td>(.*?)</td><td><span class="est"><b>(.*?) %</b>', text)
    told = [(str(row["pictures"]), f"{100 * row['value']:.1f}") for row in (*record["measured"], *record["expected"])]
    assert [(pictures, score) for pictures, _, score in shown] == told
    assert {c["name"] for c in record["classes"]} == {"1", "2", "10"}
    assert all(c["pictures"] == 16 for c in record["classes"])
    assert record["target"]["score"] == 0.9
    assert sum(record["families"].values()) == pytest.approx(1)


def test_the_page_loads_nothing(drawn: tuple[Path, photos.Said]) -> None:
    text = drawn[0].read_text(encoding="utf-8")
    assert "://" not in text
    assert "{{" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert text.count('class="band"') == 2  # the fan, and its name
    assert text.count('<g class="measured">') == len(photos.read_json(drawn[0].with_suffix(".json"))["measured"])


def test_again_gives_the_same_bytes_and_computes_no_features(
    drawn: tuple[Path, photos.Said], class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a picture that is in the store was looked at again")

    monkeypatch.setattr(extract._Seer, "see", never)
    found = graftage.curve(class_folders, target=0.9, output=tmp_path / "again.html")
    assert isinstance(found, Curved)
    for suffix in (".html", ".json"):
        assert found.path.with_suffix(suffix).read_bytes() == drawn[0].with_suffix(suffix).read_bytes()
    twice = found.curve.at(2.0)
    assert twice is not None
    assert twice.level == 0.8


def test_balanced_accuracy_is_another_curve(class_folders: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "photos").mkdir()
    shutil.copytree(class_folders / "2", folder / "2")
    (folder / "1").mkdir()
    for path in sorted((class_folders / "1").iterdir())[:9]:
        shutil.copy(path, folder / "1")
    said = photos.graftage("curve", folder, "-o", tmp_path / "c.html", "--metric", "balanced-accuracy", "--fit", "crop")
    assert said.status == 0, said.err
    assert "balanced accuracy with" in said.out
    assert photos.read_json(tmp_path / "c.json")["metric"] == "balanced_accuracy"
    assert "note: too few pictures to tell what more would do for them (fewer than 10): 1 (9)" in said.err


def test_noise_is_no_signal_and_nothing_is_foretold(tmp_path: Path) -> None:
    folder = photos.noise(tmp_path / "photos", 20, seed=1)
    said = photos.graftage("curve", folder, "-o", tmp_path / "c.html", "--target", "0.9", "--fit", "crop")
    assert said.status == 0, said.err
    assert "not carried on      no signal found" in said.out
    assert "expected" not in said.out
    record = photos.read_json(tmp_path / "c.json")
    assert record["expected"] == []
    assert record["target"] is None
    assert "No signal found" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_a_test_folder_is_left_alone(tmp_path: Path) -> None:
    photos.two_classes(tmp_path / "photos" / "train", 10)
    photos.two_classes(tmp_path / "photos" / "test", 4, seed=1)
    found = graftage.curve(tmp_path / "photos", output=tmp_path / "c.html", fit="crop")
    assert found.curve.n == 20
    assert sum(c.pictures for c in found.curve.classes) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "95"), "target must lie between 0 and 1, such as 0.95 for 95 %, got 95"),
        (("--target", "0"), "target must lie between 0 and 1"),
        (("--metric", "macro-f1"), "metric must be accuracy or balanced-accuracy for a curve, got 'macro-f1'"),
        (("-o", "."), ". is a folder; name a file with -o"),
        (("-o", "curve.csv"), "curve.csv is no name for a page"),
        (("--backbone", "resnet"), "backbone 'resnet' is none of the kinds"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_2(
    options: tuple[str, str], said: str, class_folders: Path
) -> None:
    answer = photos.graftage("curve", class_folders, *options)
    assert answer.status == 2
    assert said in answer.err


def test_a_page_among_the_pictures_is_refused(class_folders: Path) -> None:
    with pytest.raises(OptionError, match="would lie among the pictures"):
        graftage.curve(class_folders, output=class_folders / "page.html")


def test_few_or_equal_pictures_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few for a curve"):
        graftage.curve(photos.two_classes(tmp_path / "few", 3), output=tmp_path / "c.html", fit="crop")
    same = photos.save(tmp_path / "same" / "a", [Image.new("RGB", (50, 50), "red")] * 20)
    shutil.copytree(same[0].parent, tmp_path / "same" / "b")
    with pytest.raises(DataError, match="40 pictures, 1 of them different, are too few for a curve"):
        graftage.curve(tmp_path / "same", output=tmp_path / "c.html", fit="crop")


# The report of a training run


def test_a_training_run_tells_what_more_pictures_would_bring(finished: tuple[Path, photos.Said]) -> None:
    record = photos.read_json(finished[0] / "metrics.json")["curve"]
    assert (record["pictures"], record["limit"]) == (48, 384)
    assert [row["pictures"] for row in record["expected"]] == [48, 72, 96, 192]
    text = (finished[0] / "report.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="growth">.*?</section>', text, flags=re.DOTALL)
    assert section is not None
    assert section[0].count('<g class="measured">') == len(record["measured"])
    assert "Twice the pictures would bring the accuracy" in section[0]


def test_a_large_run_or_a_tiny_one_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(growth, "refit")
    for n in (1001, 10):
        X, y = np.ones((n, 3), np.float32), np.arange(n) % 2
        assert growth.beside_training(X, y, np.arange(n), seed=0, journal=Journal(Silent())) is None


# Words


def curve(needed: Needed | None = None, trouble: str = "") -> Curve:
    score = Estimate(0.8, 0.75, 0.85, "x", 0.8)
    ceiling = Estimate(0.9, 0.88, 0.93, "x", 0.8)
    return Curve("accuracy", 1000, 8000, np.array([850]), (score,), trouble, ceiling=ceiling, needed=needed)


@pytest.mark.parametrize(
    ("needed", "said"),
    [
        (Needed(0.9, 2345.6, 3456.7, 5678.9, True), "about 3,460 pictures in all (2,350 to 5,680, 80 % interval)"),
        (Needed(0.9, 2345.6, 3456.7, math.inf, True), "about 3,460 pictures in all (2,350 to more than 8,000,"),
        (Needed(0.9, 2345.6, math.inf, math.inf, True), "probably more than 8,000 pictures, 2,350 at the least"),
        (Needed(0.9, math.inf, math.inf, math.inf, True), "more than 8,000 pictures; nothing is said past that"),
        (Needed(0.9, math.inf, math.inf, math.inf, False), "not reachable with this backbone by more pictures alone"),
        (Needed(0.7, 300.0, 321.0, 400.0, True), "reached with about 321 pictures, fewer than there are"),
    ],
)
def test_pictures_needed_in_words(needed: Needed, said: str) -> None:
    assert growth.need_words(needed, curve(needed)).startswith(said)


# The page


def estimate(value: float) -> Estimate:
    return Estimate(value, max(0.0, value - 0.02), min(1.0, value + 0.02), "x", 0.8)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_names_are_shown_as_text_whatever_they_hold(label: str, name: str) -> None:
    hostile = f"{label}<script>{{{{style}}}}\"'\udcff"
    fan = Fan(((10, estimate(0.5)),), (), (), 12)
    row = ClassRow(hostile, 3, estimate(0.5), name)
    page = render(
        Growth(hostile, name, (name,), fan, name, ((3, hostile, estimate(0.1)),), {name: hostile}, (row,), name)
    )
    page.encode("utf-8")
    assert "<script" not in page
    assert page.count("<style>") == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), min_size=1, max_size=9, unique_by=lambda p: p[0]),
    st.integers(2, 10**6),
    st.none() | st.floats(0.01, 0.99),
)
def test_the_figure_holds_every_point_within_its_frame(
    points: list[tuple[int, float]], now: int, target: float | None
) -> None:
    points = sorted(points)
    measured = [(m, estimate(v)) for m, v in points]
    figure = fan_chart(Fan(measured, measured, measured[-1:], now, target))
    assert "nan" not in figure
    assert figure.count("<circle") == len(points) + 1
    assert all(0 <= float(x) <= 100 for x in re.findall(r'cx="([-\d.]+)%"', figure))
    assert all(0 <= float(y) <= 300 for y in re.findall(r'cy="([-\d.]+)"', figure))
    heights = [float(y) for path in re.findall(r'points="(.*?)"', figure) for y in re.findall(r",([-\d.]+)", path)]
    assert all(0 <= y <= 1000 for y in heights)
    assert f">{now:,}</text>" in figure
