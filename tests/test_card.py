"""The model card says what the run found, and nothing else."""

import re
from pathlib import Path

import photos


def card_of(folder: Path, run: Path, *options: str) -> str:
    said = photos.graftage("train", folder, "-o", run, "--recipe", "linear", *options)
    assert said.status == 0, said.err
    found = re.search(r'<section id="card">.*?</section>', (run / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return re.sub(r"<[^>]+>", "", found[0])


def test_a_card_names_the_classes_the_data_the_measurement_and_the_licence(tmp_path: Path) -> None:
    folder = photos.three_classes(tmp_path / "photos", 12)
    (folder / "10" / "0.jpg").unlink()
    card = card_of(folder, tmp_path / "run")
    assert "one of 3 classes for a picture: 1, 2, 10." in card
    assert "35 labelled pictures, 11 of the rarest class (10)" in card
    accuracy = photos.read_json(tmp_path / "run" / "metrics.json")["scores"]["accuracy"]["value"]
    assert f"Accuracy {100 * accuracy:.1f} %" in card
    assert "cross-validation" in card
    assert "pretrained weights is Apache-2.0 (commercial use: yes)" in card
    assert "Apache-2.0; commercial use: yes" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "fewer than ten" not in card


def test_a_card_says_which_classes_could_not_be_measured(tmp_path: Path) -> None:
    folder = photos.three_classes(tmp_path / "photos", 12)
    for i in range(5):
        (folder / "2" / f"{i}.jpg").unlink()
    assert "fewer than ten pictures of 2:" in card_of(folder, tmp_path / "run")


def test_a_card_of_a_classifier_that_learnt_nothing_says_so(tmp_path: Path) -> None:
    """The same pictures' labels dealt out at random."""
    everything = photos.crops("flower.jpg", 30)
    for k, name in enumerate(("a", "b")):
        photos.save(tmp_path / "photos" / name, everything[k::2])
    assert "do not use it" in card_of(tmp_path / "photos", tmp_path / "run")
