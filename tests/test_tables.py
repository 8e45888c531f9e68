"""Labels from a table, through every command: what holds for class folders holds for the same pictures in a table."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import graftage as gr
import photos
from graftage import parting
from graftage.data.catalog import Catalog, Entry, scan
from graftage.data.checks import problems
from graftage.data.findings import FINDING_COLUMNS, structural
from graftage.data.grouping import groups_of
from graftage.data.listing import Columns
from graftage.data.sources import labelled, place
from graftage.data.split import folds
from graftage.settings import Settings
from photos import graftage, read_json, save, table

QUICK = ("--folds", "3", "--fit", "crop", "--recipe", "linear")


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def as_table(root: Path, name: str = "labels.csv", *, extra: Sequence[Sequence[object]] = ()) -> Path:
    """The class folders `root`, listed beside it in the order in which folders are read."""
    rows = [(f"{root.name}/{row.id}", row.label) for row in labelled(root).rows]
    return write_table(root.parent / name, ("file_name", "label"), [*rows, *extra])


# ---------------------------------------------------------------- where the pictures lie


def test_paths_may_begin_elsewhere_and_leave_their_ending_out(tmp_path: Path) -> None:
    pictures = photos.three_classes(tmp_path / "elsewhere", 12)
    files = sorted(pictures.rglob("*.jpg"))
    files[3] = files[3].rename(files[3].with_suffix(".JPG"))
    rows = [(path.relative_to(pictures).with_suffix(""), path.parent.name) for path in files]
    listed = write_table(tmp_path / "labels.csv", ("image", "label"), rows)
    said = graftage("train", listed, "--root", pictures, "-o", tmp_path / "run", *QUICK)
    assert said.status == 0, said.err
    assert {row["status"] for row in table(tmp_path / "run" / "ledger.csv")} == {"used"}
    again = graftage("train", "-c", tmp_path / "run" / "config.toml", "-o", tmp_path / "again")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()
    known = graftage("evaluate", tmp_path / "run", listed, "--root", pictures, "-o", tmp_path / "e")
    assert "the model was trained on" in known.err  # the same pictures, found again
    checked = graftage("check", listed, "--root", pictures, "-o", tmp_path / "check")
    assert f"problems.csv --root {pictures}" in (tmp_path / "check" / "report.html").read_text(encoding="utf-8"), (
        checked.err
    )


def test_an_ending_that_two_files_have_is_not_guessed(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png", "c", "c.jpg"):
        (tmp_path / name).touch()
    assert [place(tmp_path, name).name for name in ("a", "b", "c", "d", "")] == ["a", "b.png", "c", "d", tmp_path.name]


def test_a_root_that_is_none_is_told(tmp_path: Path) -> None:
    listed = write_table(tmp_path / "labels.csv", ("image", "label"), [("a", "x"), ("b", "y")])
    said = graftage("train", listed, "--root", tmp_path / "gone", "-o", tmp_path / "run")
    assert (said.status, "--root" in said.err and "is no folder" in said.err) == (2, True)
    said = graftage("train", photos.two_classes(tmp_path / "p", 4), "--root", tmp_path, "-o", tmp_path / "run")
    assert (said.status, f"--root {tmp_path} cannot be obeyed" in said.err) == (2, True)


# ---------------------------------------------------------------- groups


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g", "h"]), min_size=12, max_size=40),
    seed=st.integers(0, 1000),
    own=st.booleans(),
)
def test_no_group_of_a_column_is_ever_split(groups: list[str], seed: int, own: bool) -> None:
    """Between train and test, own or drawn, and between folds; rows without a group are on their own."""
    parts = np.random.default_rng(seed).choice(["train", "test"], len(groups))
    rows = [
        (f"{i}.jpg", i % 2, group, part if own else "")
        for i, (group, part) in enumerate(zip(groups, parts, strict=True))
    ]
    with TemporaryDirectory() as folder:
        listed = write_table(Path(folder) / "t.csv", ("path", "label", "patient_id", "split"), rows)
        catalog = as_if_read(scan(labelled(listed), workers=1))
    try:
        split = parting.partition(catalog, Settings("t.csv", seed=seed, test="auto" if own else "0.3"))
    except gr.GraftageError:  # nothing to test on is left
        return
    for group in set(groups) - {""}:
        mine = [i for i, each in enumerate(groups) if each == group]
        assert len({bool(np.isin(i, split.train)) for i in mine}) == 1 or set(mine) & set(split.leaked)
        assert not (np.isin(mine, split.train).any() and np.isin(mine, split.test).any())
    known = groups_of(catalog)
    single = [i for i, each in enumerate(groups) if not each]
    assert len({int(known[i]) for i in single}) == len(single)
    if len(np.unique(known)) >= 3:
        for fold in folds(catalog.labels(), known, k=3, repeats=2, rng=np.random.default_rng(seed)):
            assert all(len({fold[i] for i, each in enumerate(groups) if each == g}) == 1 for g in set(groups) - {""})


def as_if_read(catalog: Catalog) -> Catalog:
    """A catalog of files that are not there, each as a picture of its own."""
    changes: dict[int, Entry] = {}
    for e in catalog.entries:
        changes[e.index] = Entry(e.index, e.id, e.path, "used", "", e.label, e.split, e.group, 8, 8, str(e.index))
    return catalog.with_entries(changes)


def test_a_column_and_a_pattern_unite(tmp_path: Path) -> None:
    """Six persons by the column, twelve series by name that lie across them: what either joins is together."""
    rows = []
    for label, name in (("palace", "china.jpg"), ("dahlia", "flower.jpg")):
        for person in range(6):
            files = save(tmp_path / "x", photos.crops(name, 3, seed=person), prefix=f"{label}{person}-")
            rows += [(f.relative_to(tmp_path), label, f"p{person // 2}") for f in files]
    listed = write_table(tmp_path / "labels.csv", ("file", "class", "Subject"), rows)
    said = graftage("train", listed, "-o", tmp_path / "run", *QUICK, "--test", "0.4", "--group-by", "([0-9])-")
    assert said.status == 0, said.err
    assert "groups from 'Subject'" in said.out
    sides = defaultdict(set)
    for row, (_, _, person) in zip(table(tmp_path / "run" / "ledger.csv"), rows, strict=True):
        sides[person].add((row["group"], row["split"]))
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for _, split in side} == {"train", "test"}
    assert len({group for side in sides.values() for group, _ in side}) == 3


# ---------------------------------------------------------------- the same as folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.two_classes(tmp_path_factory.mktemp("tables") / "photos", 12)


@pytest.fixture(scope="module")
def runs(folder: Path) -> tuple[Path, Path]:
    """One run on the folder, one on its table, which also names what cannot be used, and all files twice."""
    again = [(f"photos/{row.id}", row.label) for row in labelled(folder).rows]
    odd = [("photos/none.jpg", "palace"), ("photos/x.jpg", ""), *again]
    listed = as_table(folder, extra=odd)
    for data, name in ((folder, "a"), (listed, "b")):
        said = graftage("train", data, "-o", folder.parent / name, *QUICK, "--test", "0.3", "--no-remember")
        assert said.status == 0, said.err
    return folder.parent / "a", folder.parent / "b"


def test_a_table_gives_the_model_that_its_folder_gives(runs: tuple[Path, Path]) -> None:
    a, b = (read_json(run / "metrics.json") for run in runs)
    assert a["scores"] == b["scores"]
    assert a["tried"] == b["tried"]
    one, other = (load_file(run / "model.safetensors") for run in runs)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()


def test_every_row_of_the_table_is_a_row_of_the_ledger(folder: Path, runs: tuple[Path, Path]) -> None:
    given, ledger = table(folder.parent / "labels.csv"), table(runs[1] / "ledger.csv")
    assert [row["id"] for row in ledger] == [row["file_name"] for row in given]
    assert [(row["status"], row["reason"], row["group"]) for row in ledger[24:]] == [
        ("rejected", "missing", "-1"),
        ("rejected", "no label in the table", "-1"),
        *(("rejected", f"listed twice: as in line {i}", "-1") for i in range(2, 26)),
    ]
    assert all(row["label"] == each["label"] for row, each in zip(ledger, given, strict=True))


def test_the_config_repeats_a_run_of_other_columns(folder: Path, tmp_path: Path) -> None:
    rows = [(tmp_path.name, row.path, row.label) for row in labelled(folder).rows]
    listed = write_table(tmp_path / "t.tsv", ("label", "where", "kind"), rows)
    listed.write_text(listed.read_text(encoding="utf-8").replace(",", "\t"), encoding="utf-8")
    columns = ("--path-col", "where", "--label-col", "kind")
    assert graftage("train", listed, "-o", tmp_path / "one", *QUICK, *columns).status == 0
    said = graftage("train", "-c", tmp_path / "one" / "config.toml", "-o", tmp_path / "two")
    assert said.status == 0, said.err
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert models[0] == models[1]


def test_evaluate_and_compare_take_a_table_and_know_what_was_learnt(
    folder: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    new = photos.two_classes(tmp_path / "new", 4, seed=9)
    rows = [(row.path, row.label, "") for row in labelled(new).rows]
    learnt = [
        row["id"] for row in table(runs[1] / "ledger.csv") if row["split"] == "train" and row["status"] == "used"
    ][:2]
    rows += [(folder.parent / name, name.split("/")[1], "") for name in learnt]
    (owl,) = photos.save(tmp_path / "owls", photos.crops("flower.jpg", 1, seed=77))
    rows += [(tmp_path / "gone.jpg", "palace", ""), (owl, "owl", "")]
    listed = write_table(tmp_path / "new.csv", ("path", "species", "label"), rows)
    said = graftage("evaluate", runs[0] / "model.safetensors", listed, "-o", tmp_path / "e", "--label-col", "species")
    assert said.status == 0, said.err
    assert "8 pictures measured, 4 left out" in said.out
    reasons = [row["reason"] for row in table(tmp_path / "e" / "ledger.csv")]
    assert reasons[8:] == ["the model was trained on it"] * 2 + ["missing", "the model does not know this class"]
    compared = gr.compare(runs[0], runs[1], listed, label_col="species")
    assert compared.summary
    assert gr.compare(*runs).summary  # by the tables that they have left, where files are listed twice
    with pytest.raises(gr.OptionError, match="unknown options label; columns of a table are path_col"):
        gr.evaluate(runs[0] / "model.safetensors", listed, label="species")


def test_groups_of_a_table_widen_the_interval_of_an_evaluation(runs: tuple[Path, Path], tmp_path: Path) -> None:
    new = photos.two_classes(tmp_path / "new", 6, seed=9)
    rows = [(row.path, row.label, i // 3) for i, row in enumerate(labelled(new).rows)]
    listed = write_table(tmp_path / "new.csv", ("path", "label", "patient"), rows)
    groups = {}
    for name, options in (("own", ()), ("none", ("--group-col", "none"))):
        said = graftage("evaluate", runs[0] / "model.safetensors", listed, "-o", tmp_path / name, *options)
        assert said.status == 0, said.err
        groups[name] = len({row["group"] for row in table(tmp_path / name / "ledger.csv")})
    assert groups == {"own": 4, "none": 12}


def test_own_splits_are_honoured(folder: Path, tmp_path: Path) -> None:
    rows = [(row.path, row.label, "test" if i % 4 == 0 else "TRAIN") for i, row in enumerate(labelled(folder).rows)]
    rows.append((tmp_path / "x.jpg", "owl", "test"))
    listed = write_table(tmp_path / "labels.csv", ("path", "label", "subset"), rows)
    said = graftage("train", listed, "-o", tmp_path / "run", *QUICK)
    assert said.status == 0, said.err
    ledger = table(tmp_path / "run" / "ledger.csv")
    assert sum(row["split"] == "test" for row in ledger[:-1]) == 6
    assert ledger[-1]["reason"] == "class not in train"
    assert read_json(tmp_path / "run" / "metrics.json")["scores"]["n"] == 6
    assert "They are the test split as it was given" in read_json(tmp_path / "run" / "metrics.json")["how"]
    said = graftage("train", listed, "-o", tmp_path / "again", *QUICK, "--test", "0.3")
    assert (said.status, "has a test split, which is never learnt from" in said.err) == (2, True)


# ---------------------------------------------------------------- problems


def test_clashing_rows_and_classes_not_in_train_are_errors(tmp_path: Path) -> None:
    rows = [("a.jpg", "cat", "train"), ("a.jpg", "dog", "train"), ("b.jpg", "cat", "train"), ("c.jpg", "owl", "test")]
    catalog = scan(labelled(write_table(tmp_path / "t.csv", ("path", "label", "split"), rows)), workers=1)
    found = list(structural(catalog, groups_of(catalog)))
    clash = [(f.severity, f.path, f.label) for f in found if f.kind == "conflicting labels"]
    assert clash == [("error", "a.jpg", "cat"), ("error", "a.jpg", "dog")]
    assert [f.label for f in found if "none in train" in f.evidence] == ["owl"]
    assert not any(f.action for f in found)
    assert [(p.kind, p.id) for p in problems(catalog, groups_of(catalog))][:2] == [("conflicting labels", "a.jpg")] * 2


def test_one_label_only_speaks_of_columns(tmp_path: Path) -> None:
    listed = write_table(tmp_path / "t.csv", ("path", "label", "kind"), [("a.jpg", "cat", "x"), ("b.jpg", "cat", "y")])
    said = graftage("train", listed, "-o", tmp_path / "run")
    assert said.status == 2
    assert "holds one class only ('cat')" in said.err
    assert "name it with --label-col" in said.err
    assert "folder" not in said.err


def test_check_and_curve_take_a_table_and_the_file_names_still_tell(tmp_path: Path) -> None:
    rows = []
    for label, name in (("palace", "china.jpg"), ("dahlia", "flower.jpg")):
        files = save(tmp_path / "x", photos.crops(name, 20), prefix=f"{'front' if label == 'palace' else 'back'}-")
        rows += [(f.relative_to(tmp_path), label) for f in files]
    listed = write_table(tmp_path / "labels.csv", ("path", "label"), [*rows, ("gone.jpg", "palace")])
    found = gr.check(listed, output=tmp_path / "check")
    assert found.asked is not None
    assert any("pattern of the file name" in f.evidence for f in found.findings if f.kind == "shortcut")
    assert [f.path for f in found.findings if f.kind == "unreadable"] == ["gone.jpg"]
    curve = gr.curve(listed, output=tmp_path / "curve.html", label_col="label")
    assert curve.classes == ("dahlia", "palace")


# ---------------------------------------------------------------- clean


def wants(folder: Path, rows: Sequence[tuple[str, str, str]], name: str = "problems.csv") -> Path:
    lines = [("likely wrong label", "warning", path, "", "", label, "", action) for path, label, action in rows]
    return write_table(folder / name, FINDING_COLUMNS, lines)


TABLE = (
    'path;label;more\r\n1.jpg;cat;"a;b"\r\n\r\n"2.jpg";cat;"two\r\nlines"\r\n3.jpg;dog;x\r\n./1.jpg;cat;\r\n4.jpg;7;'
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    path.chmod(0o640)
    return path


def test_clean_relabels_and_takes_out_rows_and_leaves_the_others_byte_for_byte(labels: Path) -> None:
    before = labels.read_bytes()
    wanted = wants(labels.parent, [("1.jpg", "dog", "relabel"), ("2.jpg", "", "move"), ("3.jpg", "cat", "keep")])
    assert gr.clean(labels, wanted, dry_run=True).summary[2:] == (
        "1.jpg: cat → dog",
        "2.jpg: cat → taken out",
        "./1.jpg: cat → dog",
    )
    assert labels.read_bytes() == before
    assert not (labels.parent / "labels.csv-aside").exists()
    done = gr.clean(labels, wanted)
    assert (done.moved, done.already) == (3, 0)
    after = 'path;label;more\r\n1.jpg;dog;"a;b"\r\n\r\n3.jpg;dog;x\r\n./1.jpg;dog;\r\n4.jpg;7;'
    assert labels.read_bytes() == b"\xef\xbb\xbf" + after.encode()
    assert labels.stat().st_mode & 0o777 == 0o640
    again = gr.clean(labels, wanted)
    assert (again.moved, again.already) == (0, 2)
    assert gr.clean(labels, undo=True, dry_run=True).moved == 0
    assert gr.clean(labels, undo=True).summary == (f"{labels} is as it was before the last clean (4 rows given back)",)
    assert labels.read_bytes() == before
    with pytest.raises(gr.DataError, match="there is no clean of"):
        gr.clean(labels, undo=True)


def test_cleans_of_a_table_are_taken_back_one_by_one(labels: Path) -> None:
    versions = [labels.read_bytes()]
    for i, (path, label) in enumerate([("1.jpg", "dog"), ("1.jpg", "cat"), ("3.jpg", "7")]):
        gr.clean(labels, wants(labels.parent, [(path, label, "relabel")], f"{i}.csv"))
        versions.append(labels.read_bytes())
    assert versions[0] == versions[2]
    for version in versions[-2::-1]:
        gr.clean(labels, undo=True)
        assert labels.read_bytes() == version
    with pytest.raises(gr.DataError, match="there is no clean of"):
        gr.clean(labels, undo=True)


def test_an_undo_never_overwrites_what_was_written_since(labels: Path) -> None:
    gr.clean(labels, wants(labels.parent, [("1.jpg", "dog", "relabel")]))
    labels.write_bytes(labels.read_bytes() + b"\r\n5.jpg;cat;")
    mine = labels.read_bytes()
    with pytest.raises(gr.DataError, match=r"has been changed since .*0001-before-labels\.csv"):
        gr.clean(labels, undo=True)
    assert labels.read_bytes() == mine


def test_a_clean_that_breaks_off_leaves_the_table_whole(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever of its renames it is stopped, the table holds all of the old or all of the new version."""
    before, renamed = labels.read_bytes(), Path.replace
    wanted = wants(labels.parent, [("1.jpg", "dog", "relabel")])
    for stop in range(3):
        count = iter(range(9))

        def replace(self: Path, target: Path) -> Path:
            if next(count) == stop:  # noqa: B023
                raise OSError(28, "No space left on device")
            return renamed(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(gr.StoreError, match="No space left"):
            gr.clean(labels, wanted)
        monkeypatch.undo()
        assert labels.read_bytes() == before
        with pytest.raises(gr.DataError, match="there is no clean of"):
            gr.clean(labels, undo=True)
    gr.clean(labels, wanted)
    gr.clean(labels, undo=True)
    assert labels.read_bytes() == before


def test_lines_of_json_keep_the_kind_of_their_labels(tmp_path: Path) -> None:
    listed = tmp_path / "t.jsonl"
    listed.write_text(
        '{"path": "1", "label": 3, "a": [1.50]}\n{"path":"2","label":4}\n\n{"path": "3", "label": "4"}\n',
        encoding="utf-8",
    )
    gr.clean(listed, wants(tmp_path, [("1", "4", "relabel"), ("3", "", "move")]))
    assert listed.read_text(encoding="utf-8") == '{"path": "1", "label": 4, "a": [1.5]}\n{"path":"2","label":4}\n\n'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("9.jpg", "cat", "relabel"), "there is no row for '9.jpg' in"),
        (("1.jpg", "owl", "relabel"), "the suggested label 'owl' is no class of"),
        (("1.jpg", "", "relabel"), "there is no suggested label for 1.jpg"),
        (("", "cat", "relabel"), "names no picture"),
    ],
)
def test_what_cannot_be_done_to_a_table_changes_nothing(labels: Path, row: tuple[str, str, str], message: str) -> None:
    before = labels.read_bytes()
    with pytest.raises(gr.DataError, match=message):
        gr.clean(labels, wants(labels.parent, [("3.jpg", "cat", "relabel"), row]))
    with pytest.raises(gr.DataError, match="asked for otherwise in line 2"):
        gr.clean(labels, wants(labels.parent, [("3.jpg", "cat", "relabel"), ("3.jpg", "", "move")]))
    assert labels.read_bytes() == before


def test_clean_leaves_parquet_alone_and_takes_other_columns(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").touch()
    with pytest.raises(gr.OptionError, match="not Parquet"):
        gr.clean(tmp_path / "t.parquet", wants(tmp_path, [("1", "4", "relabel")]))
    (tmp_path / "p").mkdir()
    listed = write_table(
        tmp_path / "p" / "metadata.csv", ("file_name", "text", "kind"), [("1", "", "a"), ("2", "", "b")]
    )
    said = graftage("clean", tmp_path / "p", wants(tmp_path, [("1", "b", "relabel")]), "--label-col", "kind")
    assert said.status == 0, said.err
    assert [row["kind"] for row in table(listed)] == ["b", "b"]


# ---------------------------------------------------------------- a column of 0 and 1 for each class


def test_a_run_of_class_columns_is_that_of_labels(folder: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [
        (
            folder.parent / "photos" / row.id,
            ["0.0", "1.0"][row.label == "dahlia"],
            ["0.0", "1.0"][row.label == "palace"],
        )
        for row in labelled(folder).rows
    ]
    listed = write_table(tmp_path / "t.csv", ("image", "dahlia", "palace"), rows)
    options = (*QUICK, "--test", "0.3", "--no-remember", "--label-col", "dahlia,palace")
    said = graftage("train", listed, "-o", tmp_path / "run", *options)
    assert said.status == 0, said.err
    one, other = (read_json(run / "metrics.json") for run in (tmp_path / "run", runs[0]))
    assert (one["scores"], one["tried"]) == (other["scores"], other["tried"])
    again = graftage("train", "-c", tmp_path / "run" / "config.toml", "-o", tmp_path / "again")
    assert again.status == 0, again.err


@pytest.mark.parametrize(
    ("name", "text", "after"),
    [
        ("t.csv", "id,path,a,b\r\n7,1,1.0,0.0\r\n8,2,0.0,1.0\r\n9,3,1.0,0.0\r\n",
         "id,path,a,b\r\n7,1,0.0,1.0\r\n8,2,0.0,1.0\r\n"),
        ("t.jsonl", '{"path": "1", "a": 1, "b": 0}\n{"path": "2", "b": true}\n{"path": "3", "a": 1}\n',
         '{"path": "1", "a": 0, "b": 1}\n{"path": "2", "b": true}\n'),
    ],
)  # fmt: skip
def test_clean_moves_the_1_of_a_row(tmp_path: Path, name: str, text: str, after: str) -> None:
    listed = tmp_path / name
    listed.write_bytes(text.encode())
    wanted = wants(tmp_path, [("1", "b", "relabel"), ("2", "b", "relabel"), ("3", "", "move")])
    said = graftage("clean", listed, wanted, "--label-col", "a,b")
    assert said.status == 0, said.err
    assert listed.read_bytes().decode() == after
    undone = graftage("clean", listed, "--undo")
    assert undone.status == 0, undone.err
    assert listed.read_bytes().decode() == text


@pytest.mark.parametrize(
    ("name", "text", "after"),
    [
        ("t.csv", "path,a,b\n1,0.0,0.0\n2,1,1\n3,0.4,0.6\n4,,\n5,1,0\n6,0,1\n",
         "path,a,b\n1,0.0,1\n2,0,1\n3,0,1\n4,0,1\n5,1,0\n6,0,1\n"),
        ("t.jsonl",
         '{"path": "1"}\n{"path": "2", "a": true, "b": true}\n{"path": "3", "a": 0.4}\n{"path": "4", "b": null}\n'
         '{"path": "5", "a": 1, "b": 0}\n{"path": "6", "b": 1}\n',
         '{"path": "1", "a": 0, "b": 1}\n{"path": "2", "a": 0, "b": true}\n{"path": "3", "a": 0, "b": 1}\n'
         '{"path": "4", "b": 1, "a": 0}\n{"path": "5", "a": 1, "b": 0}\n{"path": "6", "b": 1}\n'),
    ],
)  # fmt: skip
def test_clean_gives_a_class_to_rows_that_mark_none_or_two(tmp_path: Path, name: str, text: str, after: str) -> None:
    listed = tmp_path / name
    listed.write_text(text)
    said = graftage("clean", listed, wants(tmp_path, [(i, "b", "relabel") for i in "1234"]), "--label-col", "a,b")
    assert said.status == 0, said.err
    assert listed.read_text() == after
    assert {row.reason for row in labelled(listed, Columns(label="a,b")).rows} == {""}
