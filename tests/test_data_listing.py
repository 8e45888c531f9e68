"""Tables of pictures: columns by usual names or by flags, every row told, and faults that say which line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftage.data.catalog import scan
from graftage.data.listing import Columns, read, title_of
from graftage.data.sources import Sources, labelled
from graftage.errors import DataError, OptionError


def written(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(sources: Sources) -> list[tuple[str, str, str, str, str]]:
    return [(row.id, row.label, row.split, row.group, row.reason) for row in sources.rows]


# ---------------------------------------------------------------- what is read


def test_rows_stay_in_order_with_paths_as_written_relative_to_the_table(tmp_path: Path) -> None:
    table = written(tmp_path, "file_name,label\nx/b.jpg,10\n./a.jpg,9\n/abs/c.jpg,1.0\n")
    found = labelled(table)
    assert rows(found) == [
        ("x/b.jpg", "10", "", "", ""),
        ("./a.jpg", "9", "", "", ""),
        ("/abs/c.jpg", "1.0", "", "", ""),
    ]
    assert [row.path for row in found.rows] == [tmp_path / "x/b.jpg", tmp_path / "a.jpg", Path("/abs/c.jpg")]
    assert (found.classes, found.layout, found.root) == (("1.0", "9", "10"), "table", table)


def test_a_label_never_comes_from_a_folder(tmp_path: Path) -> None:
    found = labelled(written(tmp_path, "path,label\ncat/1.jpg,dog\ntrain/cat/2.jpg,owl\n"))
    assert [(row.label, row.split, row.group) for row in found.rows] == [("dog", "", ""), ("owl", "", "")]


def test_a_folder_with_metadata_is_a_table_and_its_folders_are_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    written(tmp_path, "file_name,label\n1.png,cat\n", "metadata.csv")
    found = labelled(tmp_path)
    assert rows(found) == [("1.png", "cat", "", "", "")]
    assert (found.root, found.rows[0].path) == (tmp_path, tmp_path / "1.png")


def test_metadata_inside_a_train_folder_is_no_class_called_train(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    written(tmp_path / "train", "file_name,label\n1.png,cat\n", "metadata.csv")
    with pytest.raises(DataError, match=r"train/metadata\.csv: a table inside a split's folder is not read; make one"):
        labelled(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("file_name", "label"),
        ("Image Path", "CLASS"),
        ("filename", "target"),
        ("file", "Category"),
        (" image ", "label"),
    ],
)
def test_usual_names_are_found_whatever_their_case(tmp_path: Path, names: tuple[str, str]) -> None:
    found = labelled(written(tmp_path, f"{names[1]},other,{names[0]}\ncat,x,1.jpg\n"))
    assert rows(found) == [("1.jpg", "cat", "", "", "")]


def test_columns_named_outright_go_before_usual_ones(tmp_path: Path) -> None:
    table = written(tmp_path, "path,image,label,patient,split,set\na.jpg,b.jpg,cat,p1,train,q\n")
    asked = Columns(path="image", label="patient", split="none")
    assert rows(labelled(table, asked)) == [("b.jpg", "p1", "", "", "")]  # a label is no group as well


@pytest.mark.parametrize(
    ("split", "part"), [("Train", "train"), ("val", "val"), ("VALID", "val"), ("validation", "val")]
)
def test_splits_are_named_as_folders_are(tmp_path: Path, split: str, part: str) -> None:
    found = labelled(written(tmp_path, f"path,label,split\na,cat,train\nb,cat,{split}\n"))
    assert [row.split for row in found.rows] == ["train", part]


def test_a_class_that_train_lacks_is_none(tmp_path: Path) -> None:
    found = labelled(written(tmp_path, "path,label,split\na,cat,train\nb,dog,train\nc,owl,test\nd,cat,test\n"))
    assert found.classes == ("cat", "dog")
    assert [(row.label, row.reason) for row in found.rows[2:]] == [("owl", "class not in train"), ("cat", "")]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath,label,group\r\na.jpg,caf\xc3\xa9,g\r\n\r\nb.jpg,dog,\r\n",
        "path;label;group\na.jpg;café;g\nb.jpg;dog;\n".encode(),
        "path\tlabel\tgroup\na.jpg\t café\tg \nb.jpg\tdog\t\n".encode(),
        "path|label|group\ra.jpg|café|g\rb.jpg|dog|\r".encode(),
        "path,label,group\na.jpg,café,g\nb.jpg,dog,\n".encode("utf-16"),
        b'path,label,group\n"a.jpg","caf\xc3\xa9",g,,\nb.jpg,"dog",',
    ],
)
def test_marks_line_ends_and_separators_of_spreadsheets(tmp_path: Path, content: bytes) -> None:
    found = labelled(written(tmp_path, content))
    assert rows(found) == [("a.jpg", "café", "", "g", ""), ("b.jpg", "dog", "", "", "")]


def test_bytes_of_a_file_name_stay_as_they_are(tmp_path: Path) -> None:
    table = written(tmp_path, b"path,label\ncaf\xe9.jpg,cat\n")
    written(tmp_path, b"x", b"caf\xe9.jpg".decode("utf-8", "surrogateescape"))
    (row,) = labelled(table).rows
    assert row.path.read_bytes() == b"x"


def test_slashes_of_the_other_system_and_blanks_around_a_path(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    written(tmp_path / "cat", "x", "1.jpg")
    found = labelled(written(tmp_path, "path,label\ncat\\1.jpg ,cat\n"))
    assert (found.rows[0].id, found.rows[0].path) == ("cat\\1.jpg ", tmp_path / "cat/1.jpg")


def as_jsonl(folder: Path, records: Sequence[Mapping[str, object]]) -> Path:
    return written(folder, "\n".join(json.dumps(each) for each in records) + "\n\n", "labels.jsonl")


def as_parquet(folder: Path, records: Sequence[Mapping[str, object]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(records)), folder / "labels.parquet")
    return folder / "labels.parquet"


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_records_of_other_formats(tmp_path: Path, write: object) -> None:
    records = [
        {"image": "a.jpg", "label": 3, "patient": "x", "extra": {"deep": 1}},
        {"image": "b.jpg", "label": 12, "patient": None, "extra": None},
        {"image": None, "label": 3, "patient": "x", "extra": None},
    ]
    found = labelled(write(tmp_path, records))  # type: ignore[operator]
    assert found.classes == ("3", "12")
    place = "line" if write is as_jsonl else "row"
    assert rows(found) == [
        ("a.jpg", "3", "", "x", ""),
        ("b.jpg", "12", "", "", ""),
        ("", "3", "", "x", f"no path in the table: {place} 3"),
    ]


def test_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    table = written(
        tmp_path, '{"path": "a", "label": 1.0}\n{"path": "b", "label": 1}\n{"path": "c", "label": true}\n', "t.jsonl"
    )
    assert labelled(table).classes == ("1", "1.0", "true")


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=3)), max_size=8))
def test_every_row_is_a_row(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str]]) -> None:
    """Whatever the cells hold, quotes, line ends and nothing included, a written table is read row for row."""
    import csv
    import io

    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("path", "label", "group"), *cells])
    table = written(
        tmp_path_factory.mktemp("t"), stream.getvalue().encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    )
    assert [(r.path, r.label, r.group) for r in read(table).records] == [
        (p, la.strip(), g.strip()) for p, la, g in cells
    ]


# ---------------------------------------------------------------- rows that cannot be used keep their place


def test_what_is_wrong_with_a_row_is_its_reason(tmp_path: Path) -> None:
    text = (
        "path,label,group,split\n"
        "a.jpg,cat,g,train\n"
        "b.jpg,,g,train\n"
        ",cat,g,train\n"
        "c.jpg,cat\n"
        "d.jpg,cat,g,train,more\n"
        "e.jpg,cat,g,\n"
        "f.jpg,cat,g,odd\n"
        "./a.jpg,cat,g,Train\n"
        "h.jpg,cat,g,train\n"
        "h.jpg,dog,g,train\n"
        "i.jpg,cat,g,train\n"
        "i.jpg,cat,g,test\n"
        "j.jpg,cat,g,test\n"
    )
    assert [row.reason for row in labelled(written(tmp_path, text)).rows] == [
        "",
        "no label in the table",
        "no path in the table: line 4",
        "cells are missing: line 5 has 2 of 4",
        "too many cells: line 6 has 5, the first line 4",
        "no split in the table",
        "split is none of train, val, test: 'odd'",
        "listed twice: as in line 2",
        "listed with different labels: 'cat' in line 10, 'dog' in line 11",
        "listed with different labels: 'cat' in line 10, 'dog' in line 11",
        "listed with different groups or splits: line 12, line 13",
        "listed with different groups or splits: line 12, line 13",
        "",
    ]


def test_the_catalog_has_a_row_for_every_row_and_numbers_the_groups(tmp_path: Path) -> None:
    written(tmp_path, "no picture", "a.jpg")
    table = written(tmp_path, "path,label,group\na.jpg,cat,x\nmissing.jpg,dog,\nb.jpg,,y\nc.jpg,dog,x\n")
    catalog = scan(labelled(table), workers=2)
    assert [(e.status, e.reason.partition(":")[0]) for e in catalog.entries] == [
        ("rejected", "not an image"),
        ("rejected", "missing"),
        ("rejected", "no label in the table"),
        ("rejected", "missing"),
    ]
    assert [e.group for e in catalog.entries] == [0, -1, 1, 0]
    assert catalog.table


# ---------------------------------------------------------------- a column of 0 and 1 for each class

ISIC = """image,MEL,NV,BCC
ISIC_1,1.0,0.0,0.0
ISIC_2,0.0,1.0,0.0
ISIC_3,0.0,0.0,0.0
ISIC_4,1.0,1.0,0.0
ISIC_5,0.0,,1
ISIC_6,0.4,0.0,0.6
"""
TOLD = [
    ("ISIC_1", "MEL", "", "", ""),
    ("ISIC_2", "NV", "", "", ""),
    ("ISIC_3", "", "", "", "no label in the table"),
    ("ISIC_4", "", "", "", "no one class: both 'MEL' and 'NV' are marked"),
    ("ISIC_5", "BCC", "", "", ""),
    ("ISIC_6", "", "", "", "no one class: 'MEL' holds '0.4', neither 0 nor 1"),
]


def test_columns_of_0_and_1_named_together_tell_the_class(tmp_path: Path) -> None:
    found = labelled(written(tmp_path, ISIC), Columns(label="MEL, nv,BCC"))
    assert rows(found) == TOLD
    assert (found.classes, found.notes) == (
        ("BCC", "MEL", "NV"),
        ("labels.csv: files from the column 'image', labels from 'MEL,NV,BCC'",),
    )


def test_they_do_so_in_json_lines_and_parquet(tmp_path: Path) -> None:
    """As numbers or as true and false; a column that is not there is a 0."""
    objects = [{"image": "1", "a": 1, "b": 0}, {"image": "2", "a": False, "b": True}, {"image": "3", "b": 1.0}]
    lines = written(tmp_path, "\n".join(map(json.dumps, objects)), "t.jsonl")
    assert [row.label for row in labelled(lines, Columns(label="a,b")).rows] == ["a", "b", "b"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = __import__("pyarrow").table({"image": ["1", "2", "3"], "a": [1, 0, None], "b": [0.0, 1.0, 1.0]})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert [row.label for row in labelled(tmp_path / "t.parquet", Columns(label="a,b")).rows] == ["a", "b", "b"]


def test_a_column_whose_name_has_a_comma_is_one_column(tmp_path: Path) -> None:
    assert labelled(written(tmp_path, 'path,"a,b",a,b\nx,cat,1,0\n'), Columns(label="a,b")).classes == ("cat",)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30), st.sampled_from([("1", "0"), ("1.0", "0.0"), ("true", "")])
)
def test_every_row_gets_the_class_that_it_marks(
    tmp_path_factory: pytest.TempPathFactory, marks: list[int], written_as: tuple[str, str]
) -> None:
    lines = [",".join([f"{i}.jpg", *(written_as[mark != k] for k in range(3))]) for i, mark in enumerate(marks)]
    table = written(tmp_path_factory.mktemp("marks"), "\n".join(["path,x,y,z", *lines]))
    assert [row.label for row in labelled(table, Columns(label="x,y,z")).rows] == ["xyz"[mark] for mark in marks]


# ---------------------------------------------------------------- tables that cannot be read as meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv is empty"),
        (b"\xef\xbb\xbf \n", "labels.csv is empty"),
        ("path,label\n", "lists no picture"),
        ("path,label\na.jpg,\n", "the column 'label' is empty in every row"),
        (
            "cat/1.jpg,cat\n",
            r"no column is known to hold the pictures' files.*names 'cat/1\.jpg', 'cat'.*--path-col NAME",
        ),
        ("path,kind\na,b\n", "no column is known to hold the labels.*names 'path', 'kind'.*--label-col NAME"),
        (ISIC, "no column is known to hold the labels.*if each class has a column of 0 and 1, --label-col A,B"),
        ("path,image,label\n", "the pictures' files may be in 'path' or 'image'; say which with --path-col NAME"),
        ("path,label,label\n", "the labels may be in 'label' or 'label'"),
        ("path,label,group,patient\n", r"--group-col NAME \(or --group-col none\)"),
        ("path,label,set\na,b,one\n", "line 2: the column 'set' says 'one', and nowhere train, val or test"),
        ('path,label\na,b\n"c,d\ne,f\n', "line 3: the row that begins here is broken"),
        (b"path,label\na.jpg,cat\nb.jpg,caf\xe9\n", "line 3: the label .* is no UTF-8 text: save the table as UTF-8"),
        (b"\xff\xfep\x00a", "no valid UTF-16"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a", "label": "b"}\n{"path"\n', "line 2: no JSON"),
        ('{"path": "a", "label": "b"}\n[1]\n', "line 2: a list, but"),
        ('{"path": "a", "label": ["b"]}\n', "line 1: the column of the labels holds a list"),
    ],
)
def test_lines_that_are_no_objects(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled(written(tmp_path, text, "labels.jsonl"))


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = written(tmp_path, "path,Label,species,grp\na,b,c,\n")
    with pytest.raises(
        DataError, match=r"has no column 'specie' \(did you mean 'species'\?\): --label-col can be one of"
    ):
        labelled(table, Columns(label="specie"))
    with pytest.raises(DataError, match=r"column 'grp' \(--group-col\) is empty in every row"):
        labelled(table, Columns(group="grp"))
    assert labelled(table, Columns(label="LABEL")).classes == ("b",)
    with pytest.raises(DataError, match="has no column 'x': --label-col can be one of"):
        labelled(table, Columns(label="species,x"))
    with pytest.raises(DataError, match="--label-col species,Species names a column twice: name each class once"):
        labelled(table, Columns(label="species,Species"))


def test_columns_of_a_folder_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    with pytest.raises(DataError, match="holds no table with columns, so --label-col x cannot be obeyed"):
        labelled(tmp_path, Columns(label="x"))


def test_a_table_that_is_not_there_or_no_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        labelled(tmp_path / "none.csv")
    table = written(tmp_path, "path,label", "t.parquet")
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="is no Parquet file"):
        labelled(table)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"pip install 'graftage\[parquet\]'"):
        labelled(table)


def test_titles(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "odd.csv").mkdir()
    assert [title_of(tmp_path / name) for name in ("birds", "birds/metadata.csv", "of/birds.jsonl", "odd.csv")] == [
        "birds",
        "birds",
        "birds",
        "odd.csv",
    ]


@pytest.mark.parametrize(
    "content", [bytes(range(256)) * 600, b"a" * 140_000 + b",b\nc,d\n", b"\x00,\x00\n1,2\n", b'"\n']
)
def test_what_is_no_table_at_all_is_an_error_of_one_screen(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError) as told:
        labelled(written(tmp_path, content))
    assert len(str(told.value)) < 2000
