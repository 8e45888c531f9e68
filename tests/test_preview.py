import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import photos
from graftage import preview
from graftage.data.sources import labelled
from graftage.errors import DataError, OptionError, PictureError
from graftage.learn.augment import Augment
from graftage.report.preview import Preview, Strip, render
from graftage.settings import Settings
from graftage.surveying import augment_preview

DOT = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.two_classes(tmp_path_factory.mktemp("preview") / "photos", 5)


def squares(page: str) -> list[list[np.ndarray]]:
    """The pictures on a page, row by row, uint8 (S, S, 3) each."""
    rows = re.findall(r'<figure class="strip">.*?</figure>', page, flags=re.DOTALL)
    sources = [re.findall(r'src="data:image/jpeg;base64,([^"]+)"', row) for row in rows]
    return [[np.asarray(Image.open(io.BytesIO(base64.b64decode(s)))) for s in row] for row in sources]


def shown_names(page: str) -> list[str]:
    return re.findall(r'<figcaption><b>(.*?)</b><span class="file" title="(.*?)">', page)


# The command


def test_the_page_holds_plain_squares_and_seven_views_of_each_class(pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    said = photos.graftage("augment-preview", pictures, "-o", page, "--count", "4")
    assert said.status == 0, said.err
    assert said.out == f"4 pictures of 2 classes, 7 views of each; {page}\n"
    text = page.read_text(encoding="utf-8")
    rows = squares(text)
    assert [len(row) for row in rows] == [8, 8, 8, 8]
    assert {square.shape for row in rows for square in row} == {(224, 224, 3)}
    assert [name for name, _ in shown_names(text)] == ["dahlia", "dahlia", "palace", "palace"]
    assert all((pictures / file).is_file() for _, file in shown_names(text))
    for row in rows:
        assert len({view.tobytes() for view in row}) == 8
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]  # no temporary file is left


def test_the_page_loads_nothing_and_says_what_is_in_use(pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("--aa", "trivial", "--fit", "pad", "--hflip", "0.25", "--reprob", "0.1", "--crop-scale", "0.4")
    assert photos.graftage("augment-preview", pictures, "-o", page, *options).status == 0
    text = page.read_text(encoding="utf-8")
    assert "://" not in text
    assert "default-src 'none'" in text
    assert "{{" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    cells = dict(re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', text))
    assert cells == {
        "Network": "bundled/efficientnet_lite0",
        "Fit (--fit)": "pad",
        "Augmentation (--aa)": "trivial",
        "Crop (--crop-scale)": "40 % to 100 %",
        "Left-right flip (--hflip)": "25 %",
        "Upside-down flip (--vflip)": "0 %",
        "Erasing (--reprob)": "10 %",
        "Seed (--seed)": "42",
    }


def test_without_augmentation_every_view_is_the_plain_square(pictures: Path, tmp_path: Path) -> None:
    page = augment_preview(pictures, output=tmp_path / "page.html", aa="none", hflip=1, count=2).path
    for plain, *views in squares(page.read_text(encoding="utf-8")):
        for view in views:
            np.testing.assert_array_equal(view, plain)
    assert "flip (--hflip)" not in page.read_text(encoding="utf-8")


def test_certain_flips_show_mirror_images(pictures: Path, tmp_path: Path) -> None:
    page = augment_preview(pictures, output=tmp_path / "page.html", aa="crop", crop_scale=1.0, hflip=1, count=2).path
    for plain, *views in squares(page.read_text(encoding="utf-8")):
        for view in views:
            mirrored, upright = (np.abs(plain[:, ::step].astype(int) - view).mean() for step in (-1, 1))
            assert mirrored < upright / 2  # not 0: JPEG's blocks lie otherwise on a mirror image


def test_the_seed_decides_which_pictures_and_which_views(pictures: Path, tmp_path: Path) -> None:
    pages = [
        augment_preview(pictures, output=tmp_path / f"{i}.html", seed=seed, count=2).path.read_bytes()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert pages[0] == pages[1] != pages[2]


def test_what_cannot_be_read_is_skipped_and_told(tmp_path: Path) -> None:
    folder = photos.two_classes(tmp_path / "photos", 2)
    for i in (5, 6):
        (folder / "dahlia" / f"{i}.jpg").write_bytes(b"")
    photos.broken_late(folder / "palace" / "0.jpg")
    said = photos.graftage("augment-preview", folder, "-o", tmp_path / "page.html")
    assert said.status == 0
    assert said.out.startswith("3 pictures of 2 classes")
    note = "3 pictures skipped, which could not be read: 2 empty file, 1 corrupt"
    assert f"note: {note}" in said.err
    assert f"<li>{note}</li>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_pictures_set_apart_for_testing_are_not_shown(tmp_path: Path) -> None:
    for part in ("train", "test", "val"):
        photos.two_classes(tmp_path / "photos" / part, 2, seed=len(part))
    page = augment_preview(tmp_path / "photos", output=tmp_path / "page.html", count=24).path
    files = [file for _, file in shown_names(page.read_text(encoding="utf-8"))]
    assert sorted(files) == ["train/dahlia/0.jpg", "train/dahlia/1.jpg", "train/palace/0.jpg", "train/palace/1.jpg"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hflip", "2"), "hflip must be 0 to 1, got 2.0"),
        (("--aa", "crap"), "did you mean crop?"),
        (("--fit", "stretch"), "fit must be one of auto, crop, squash, pad"),
        (("--count", "0"), "count must be 1 to 96 pictures, got 0"),
        (("--backbone", "resnet"), "backbone 'resnet' is none of the kinds"),
        (("-o", "."), ". is a folder; name a file with -o"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_2(options: tuple[str, str], said: str, pictures: Path) -> None:
    answer = photos.graftage("augment-preview", pictures, *options)
    assert answer.status == 2
    assert said in answer.err


def test_a_page_among_the_pictures_is_refused(pictures: Path) -> None:
    with pytest.raises(OptionError, match="would lie among the pictures"):
        augment_preview(pictures, output=pictures / "page.html")


def test_a_page_that_cannot_be_written_is_a_sentence(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = photos.graftage("augment-preview", pictures, "--count", "1", "-o", tmp_path / "file" / "page.html")
    assert said.status == 2
    assert "cannot be written" in said.err


# The choice


def folder_of(tmp_path: Path, classes: int, each: int) -> Path:
    for k in range(classes):
        (tmp_path / f"{k}").mkdir()
        for i in range(each):
            (tmp_path / f"{k}" / f"{i}.jpg").write_bytes(b"")
    return tmp_path


def strip_of(row: preview.Source) -> Strip:
    return Strip(row.id, row.label, DOT, (DOT,))


@pytest.mark.parametrize(("count", "shown"), [(12, 12), (14, 12), (7, 4), (4, 4), (3, 3), (1, 1), (96, 20)])
def test_the_pictures_are_spread_evenly_over_the_classes(count: int, shown: int, tmp_path: Path) -> None:
    found = labelled(folder_of(tmp_path, classes=4, each=5))
    chosen = preview.choose(found, strip_of, count=count, seed=0)
    per_class = [sum(strip.label == name for strip in chosen.strips) for name in found.classes]
    assert len(chosen.strips) == shown == len({strip.id for strip in chosen.strips})
    assert len(set(per_class) - {0}) == 1
    told = f"{count} of 4 classes, drawn at random; a larger --count shows more"
    assert chosen.notes == ((told,) if count < 4 else ())


def test_every_picture_may_be_drawn(tmp_path: Path) -> None:
    found = labelled(folder_of(tmp_path, classes=2, each=6))
    drawn = {strip.id for seed in range(40) for strip in preview.choose(found, strip_of, count=2, seed=seed).strips}
    assert drawn == {row.id for row in found.rows}


def test_a_folder_of_unreadable_pictures_is_an_error(tmp_path: Path) -> None:
    def refuse(row: preview.Source) -> Strip:
        raise PictureError("truncated")

    with pytest.raises(DataError, match=r"no picture can be shown; 4 pictures skipped, .*: 4 truncated"):
        preview.choose(labelled(folder_of(tmp_path, 2, 2)), refuse, count=4, seed=0)


def test_what_was_not_asked_for_is_the_usual() -> None:
    assert preview.augment_of(Settings("photos")) == Augment()
    asked = Settings("photos", aa="classic", crop_scale=0.3, hflip=0.0, vflip=0.2, reprob=0.4)
    assert preview.augment_of(asked) == Augment("classic", scale=(0.3, 1.0), hflip=0.0, vflip=0.2, erase=0.4)
    assert [preview.preprocess_of(Settings("photos", fit=fit)).fit for fit in ("auto", "pad")] == ["squash", "pad"]


# The page


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_names_are_shown_as_text_whatever_they_hold(label: str, name: str) -> None:
    hostile = f"{label}<script>{{{{style}}}}\"'\udcff"
    page = render(Preview(hostile, name, ((name, hostile, label),), (Strip(hostile, hostile, DOT, (DOT,)),), (name,)))
    page.encode("utf-8")
    assert "<script" not in page
    assert page.count("<img") == 2
    assert page.count("<style>") == 1


def test_notices_appear_only_where_there_are_some() -> None:
    bare = Preview("a", "b", (), (Strip("c", "d", DOT, (DOT, DOT)),))
    assert 'class="notices"' not in render(bare)
    assert "and then 2 random views" in render(bare)


def test_a_picture_from_elsewhere_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="data URIs"):
        Strip("a", "b", DOT, ("https://example.org/a.png",))
