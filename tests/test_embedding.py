"""`graftage embed`: a vector for every picture, the same as in training, computed once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import graftage as gr
import photos
from graftage.data.inputs import Input
from graftage.features import extract as extracting
from graftage.features.embed import Embedder
from graftage.serve.predict import load


@pytest.fixture
def network(weights_file: Callable[[str], Path]) -> str:
    return f"{weights_file('test_efficientnet')}@64"


@pytest.fixture
def some(class_folders: Path, tmp_path: Path) -> list[Path]:
    """Five pictures: a good one, one that is cut off, an empty one, one that is not there, the first again."""
    good = class_folders / "2" / "0.jpg"
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-700])
    (tmp_path / "empty.jpg").touch()
    return [good, tmp_path / "cut.jpg", tmp_path / "empty.jpg", tmp_path / "missing.jpg", good]


def test_both_files_hold_a_row_for_every_picture(network: str, some: list[Path], tmp_path: Path) -> None:
    for name in ("a.parquet", "a.npz"):
        said = photos.graftage("embed", *some, "-o", tmp_path / name, "--backbone", network)
        assert said.status == 0, said.err
        assert f"2 pictures embedded, 3 could not be used; {tmp_path / name}" in said.out
    table = parquet.read_table(tmp_path / "a.parquet")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as held:
        arrays = dict(held)
    assert table.column_names == ["id", "status", "reason", "vector"]
    assert table["id"].to_pylist() == arrays["id"].tolist() == [str(path) for path in some]
    assert table["status"].to_pylist() == arrays["status"].tolist() == ["ok", "rejected", "rejected", "rejected", "ok"]
    assert [reason.partition(":")[0] for reason in arrays["reason"]] == ["", "truncated", "empty file", "missing", ""]
    rows = table["vector"].to_pylist()
    assert (
        [row is None for row in rows] == np.isnan(arrays["vector"]).all(1).tolist() == [False, True, True, True, False]
    )
    assert np.array(rows[0], np.float32).tolist() == arrays["vector"][0].tolist() == arrays["vector"][4].tolist()
    about = json.loads(arrays["about"].item())
    assert about == json.loads(table.schema.metadata[b"graftage"])
    assert about["preprocess"]["fit"] == "squash"


def test_the_vectors_are_those_of_training_and_are_not_computed_again(
    network: str, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gr.train(class_folders, output=tmp_path / "run", backbone=network, fit="crop", recipe="linear", test="none")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(extracting._Seer, "see", never)
    paths = sorted(class_folders.rglob("*.jpg"))
    found = gr.embed(paths, backbone=network, fit="crop")
    of_model = gr.embed(paths, backbone=tmp_path / "run")
    assert found.vectors.tolist() == of_model.vectors.tolist()
    assert set(found.statuses) == {"ok"}
    monkeypatch.undo()
    model = load(tmp_path / "run")
    expected = [list(answer.probabilities) for answer in model.predict(paths)]
    np.testing.assert_array_equal(model.probabilities(found.vectors), expected)


def test_the_same_command_gives_the_same_bytes(network: str, some: list[Path], tmp_path: Path) -> None:
    for suffix in (".parquet", ".npz"):
        for name in "ab":
            assert not photos.graftage("embed", *some, "-o", tmp_path / f"{name}{suffix}", "--backbone", network).status
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {".jpg", ".parquet", ".npz"}  # nothing half made is left


def test_repaired_pictures_have_a_vector_only_where_that_is_asked_for(network: str, some: list[Path]) -> None:
    assert gr.embed(some[:2], backbone=network).statuses == ("ok", "rejected")
    assert gr.embed(some[:2], backbone=network, repair=True).statuses == ("ok", "repaired")
    assert gr.embed(some[:2], backbone=network).statuses == ("ok", "rejected")


def test_bytes_at_hand_and_ids_of_a_table_are_taken(network: str, some: list[Path], tmp_path: Path) -> None:
    run = gr.embed(some[:1], backbone=network)
    embedder = _embedder(network, tmp_path)
    inputs = [
        Input("shard.tar/a.jpg", data=some[0].read_bytes()),
        Input("a.jpg", some[0], id="7"),
        Input("row 3", reason="no path in the table", id="8"),
    ]
    found = list(embedder.embed(iter(inputs)))
    assert [(row.id, row.status, row.reason) for row in found] == [
        ("shard.tar/a.jpg", "ok", ""),
        ("7", "ok", ""),
        ("8", "rejected", "no path in the table"),
    ]
    assert found[0].vector is not None
    assert found[0].vector.tolist() == run.vectors[0].tolist()
    assert found[1].vector is found[0].vector or found[1].vector.tolist() == found[0].vector.tolist()


def test_no_more_inputs_are_taken_than_are_worked_on(network: str, some: list[Path], tmp_path: Path) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield Input("a.jpg", some[0])

    rows = _embedder(network, tmp_path).embed(endless())
    for _ in range(300):
        next(rows)
    assert taken == 512


def _embedder(network: str, folder: Path) -> Embedder:
    from graftage.embeddings import opened

    embedder = opened(network, "", {}, None)[0]
    return Embedder(embedder.forward, embedder.preprocess, folder=folder / "store")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "a.csv"), r"a\.csv: vectors go into a file that ends in \.parquet or \.npz"),
        (("-o", "{}.npz"), r"is a folder: name a file to write"),
        (("-o", "a.npz", "--backbone", "{run}", "--fit", "crop"), "is a model, which brings its network and how it"),
        (("-o", "a.npz", "--backbone", "{run}", "--img-size", "64"), "is a model, which brings its network and how it"),
        (("-o", "a.npz", "--backbone", "nonsense"), "is none of the kinds graftage knows"),
        (("-o", "a.npz", "-j", "-1"), "workers"),
    ],
)
def test_what_cannot_be_is_said(
    words: tuple[str, ...], message: str, locked: Path, class_folders: Path, tmp_path: Path
) -> None:
    Path(f"{tmp_path}.npz").mkdir(exist_ok=True)
    said = photos.graftage("embed", class_folders, *(word.format(tmp_path, run=locked) for word in words))
    assert said.status == 2
    assert re.search(message, said.err), said.err


def test_an_option_that_embed_does_not_know_is_named(some: list[Path]) -> None:
    with pytest.raises(gr.OptionError, match="embed knows no option recipe; it knows architecture"):
        gr.embed(some, recipe="full")
