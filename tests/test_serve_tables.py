import csv
import io
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.errors import OptionError, StoreError
from graftage.serve import outputs, tables
from graftage.serve.outputs import open_writer
from graftage.serve.tables import COLUMNS, Row, display_width

CLASSES = ("cat", "狗")
CAT = Row(
    "a/1.jpg",
    "ok",
    label="cat",
    probability=0.9,
    runner_up="狗",
    runner_up_probability=0.1,
    probabilities=(0.9, 0.1),
)
BROKEN = Row("b.jpg", "rejected", reason="truncated")

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def write(
    target: Path | None, rows: list[Row], format: str = "csv", *, classes=CLASSES, all_probabilities=False
) -> None:
    with open_writer(target, format=format, classes=classes, all_probabilities=all_probabilities) as writer:
        for row in rows:
            writer.write(row)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def interrupt_after(writer) -> None:
    writer.write(CAT)
    raise KeyboardInterrupt


def printed(rows: list[Row], capsys, **options) -> list[str]:
    write(None, rows, "table", **options)
    return capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------- CSV


def test_csv_has_one_line_per_row_in_the_documented_columns(tmp_path):
    write(tmp_path / "out.csv", [CAT, BROKEN])
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        ",".join(COLUMNS) + "\na/1.jpg,ok,,cat,0.9,狗,0.1,,,,\nb.jpg,rejected,truncated,,,,,,,,\n"
    )


def test_csv_can_hold_the_probability_of_every_class(tmp_path):
    write(tmp_path / "out.csv", [CAT, BROKEN], all_probabilities=True)
    first, second = read_csv(tmp_path / "out.csv")
    assert (first["p:cat"], first["p:狗"]) == ("0.9", "0.1")
    assert (second["p:cat"], second["p:狗"]) == ("", "")


@given(path=names, label=names)
@settings(max_examples=60, deadline=None)
def test_any_name_survives_csv(tmp_path_factory, path, label):
    target = tmp_path_factory.mktemp("csv") / "out.csv"
    write(target, [Row(path, "ok", label=label)], classes=(label, label + "2"), all_probabilities=True)
    (row,) = read_csv(target)
    assert (row["path"], row["label"]) == (path, label)
    assert list(row)[-2:] == [f"p:{label}", f"p:{label}2"]


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", 'say "hi", twice', "a\r\n", "=1+1", " padded "])
def test_awkward_names_survive_csv_unaltered(tmp_path, name):
    write(tmp_path / "out.csv", [Row(name, "ok")])
    assert read_csv(tmp_path / "out.csv")[0]["path"] == name


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_float32_probabilities_come_back_exactly(tmp_path, format):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.random(500, np.float32), 10 ** rng.uniform(-40, 0, 500)]).astype(np.float32)
    write(tmp_path / "out", [Row("x", "ok", probability=float(value)) for value in values], format)
    lines = (tmp_path / "out").read_text("utf-8").splitlines()
    rows = read_csv(tmp_path / "out") if format == "csv" else [json.loads(line) for line in lines]
    assert [np.float32(row["probability"]) for row in rows] == list(values)


def test_a_class_name_keeps_its_last_blanks(tmp_path):
    write(tmp_path / "out.csv", [], classes=("a", "b \t\r\n"), all_probabilities=True)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file))[-1] == "p:b \t\r\n"
    write(tmp_path / "out.csv", [], classes=("a", "b "), all_probabilities=True)
    assert (tmp_path / "out.csv").read_bytes().endswith(b",p:b \n")


def test_undecodable_bytes_of_a_path_become_backslash_escapes(tmp_path):
    path = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    for format in ("csv", "jsonl", "table"):
        write(tmp_path / format, [Row(path, "ok")], format)
    assert read_csv(tmp_path / "csv")[0]["path"] == "caf\\udce9.jpg"
    assert json.loads((tmp_path / "jsonl").read_text("utf-8"))["path"] == "caf\\udce9.jpg"
    assert "caf\\udce9.jpg" in (tmp_path / "table").read_text("utf-8")


# ---------------------------------------------------------------- JSON lines


def test_jsonl_is_one_readable_object_per_line(tmp_path):
    write(tmp_path / "out.jsonl", [CAT, BROKEN], "jsonl", all_probabilities=True)
    first, second = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert "狗" in first
    assert json.loads(first)["probabilities"] == {"cat": 0.9, "狗": 0.1}
    assert json.loads(second) == {
        "path": "b.jpg",
        "status": "rejected",
        "reason": "truncated",
        "label": "",
        "probability": None,
        "runner_up": "",
        "runner_up_probability": None,
        "prediction_set": [],
        "abstained": None,
        "unlike_p": None,
        "unlike": None,
        "probabilities": {"cat": None, "狗": None},
    }


def test_jsonl_leaves_the_classes_out_unless_asked(tmp_path):
    write(tmp_path / "out.jsonl", [CAT], "jsonl")
    assert tuple(json.loads((tmp_path / "out.jsonl").read_text("utf-8"))) == COLUMNS


def test_a_probability_that_is_no_number_never_becomes_invalid_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "out.jsonl", [Row("x", "ok", probability=math.nan)], "jsonl")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_old_terminal_gets_valid_text_instead_of_a_crash(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline=""))
    write(None, [replace(CAT, runner_up="é狗🐦")], "jsonl")
    write(None, [CAT], "csv")
    record, _, line = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(record)["runner_up"] == "é狗🐦"
    assert ("狗" if encoding == "utf-8" else "\\u72d7") in line


# ---------------------------------------------------------------- Parquet


def test_parquet_holds_typed_columns_and_nulls(tmp_path):
    write(tmp_path / "out.parquet", [CAT, BROKEN], "parquet", all_probabilities=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == [*COLUMNS, "p:cat", "p:狗"]
    assert str(table.schema.field("p:cat").type) == str(table.schema.field("probability").type) == "float"
    assert table["path"].to_pylist() == ["a/1.jpg", "b.jpg"]
    assert table["p:狗"].to_pylist() == [float(np.float32(0.1)), None]
    assert table["probability"][1].as_py() is None


def test_parquet_writes_a_row_group_as_soon_as_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 3)
    write(tmp_path / "out.parquet", [CAT] * 7, "parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 1]


def test_an_empty_parquet_table_still_has_its_columns(tmp_path):
    write(tmp_path / "out.parquet", [], "parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == list(COLUMNS)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"pip install 'graftage\[parquet\]'"):
        write(tmp_path / "out.parquet", [CAT], "parquet")
    assert list(tmp_path.iterdir()) == []


def test_parquet_needs_a_file():
    with pytest.raises(OptionError, match="name a file"):
        write(None, [CAT], "parquet")


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match="format is 'xlsx', but must be one of csv, jsonl, parquet, table"):
        write(tmp_path / "out.xlsx", [CAT], "xlsx")


# ---------------------------------------------------------------- terminal


def test_the_table_aligns_columns_and_shows_percent(capsys):
    assert printed([CAT, BROKEN], capsys) == [
        "path     label          runner-up          note",
        "a/1.jpg  cat     90.0%  狗          10.0%",
        "b.jpg                                      rejected: truncated",
    ]


def test_wide_characters_count_as_two_columns(capsys):
    rows = [Row("图片.jpg", "ok", label="麻雀"), Row("plain.jpg", "repaired", label="owl")]
    lines = printed(rows, capsys)
    assert [
        display_width(line[: line.index(word)]) for line, word in zip(lines, ("label", "麻雀", "owl"), strict=True)
    ] == [
        11,
        11,
        11,
    ]
    assert lines[2].endswith("repaired")


def test_combining_marks_take_no_room():
    assert display_width("e\u0301") == display_width("é") == 1


def test_widths_come_from_the_first_fifty_rows_and_memory_stays_small(capsys):
    long = Row("x" * 200, "ok", label="cat")
    short = replace(CAT, path="a")
    with open_writer(None, format="table", classes=CLASSES, all_probabilities=False) as writer:
        for _ in range(49):
            writer.write(CAT)
        assert capsys.readouterr().out == ""
        writer.write(CAT)
        assert len(capsys.readouterr().out.splitlines()) == 51
        writer.write(long)
        assert capsys.readouterr().out == "x" * 200 + "  cat\n"
        writer.write(short)
        assert capsys.readouterr().out.startswith("a        cat     90.0%")


def test_the_table_adds_all_classes_on_request(capsys):
    head, row = printed([CAT], capsys, all_probabilities=True)
    assert head.split() == ["path", "label", "runner-up", "cat", "狗", "note"]
    assert row.split()[-2:] == ["90.0%", "10.0%"]


def test_names_cannot_move_the_cursor_or_break_the_line(capsys):
    line = printed([Row("a\x1b[2J\n\u202eb.jpg", "ok")], capsys)[1]
    assert line == r"a\x1b[2J\n\u202eb.jpg"


def test_joiners_inside_words_are_no_danger(capsys):
    word = "می\u200cخواهم"
    assert printed([Row(word, "ok")], capsys)[1] == word


# ---------------------------------------------------------------- files


def test_rows_reach_standard_output_at_once(capsys):
    with open_writer(None, format="csv", classes=CLASSES, all_probabilities=False) as writer:
        writer.write(CAT)
        assert "a/1.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "table"])
def test_an_interrupted_run_leaves_the_old_table_and_a_named_part(tmp_path, format):
    target = tmp_path / "out"
    target.write_text("old")
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        open_writer(target, format=format, classes=CLASSES, all_probabilities=False) as writer,
    ):
        interrupt_after(writer)
    assert target.read_text() == "old"
    assert f"finished are in {target}.part" in "".join(caught.value.__notes__)
    part = Path(f"{target}.part")
    assert "a/1.jpg" in part.read_text("utf-8")  # on the way to Parquet rows are JSON lines


def test_a_complete_table_replaces_the_old_one_and_leaves_no_part(tmp_path):
    (tmp_path / "out.csv").write_text("old")
    write(tmp_path / "out.csv", [CAT])
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert read_csv(tmp_path / "out.csv")[0]["label"] == "cat"


def test_the_table_is_complete_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((os.fstat(number).st_size, (tmp_path / "t").exists())))
    write(tmp_path / "t", [CAT])
    assert ((tmp_path / "t").stat().st_size, False) in seen
    assert not any(named for _, named in seen)


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere/out\.csv: cannot be written \(No such file or directory\)"):
        write(tmp_path / "nowhere" / "out.csv", [CAT])
    with pytest.raises(StoreError, match="is a folder: name a file"):
        write(tmp_path, [CAT])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_full_disk_is_a_store_error(tmp_path, format):
    (tmp_path / "out.part").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left on device"):
        write(tmp_path / "out", [CAT] * 500, format)
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_caller_is_not_blamed_on_the_table(tmp_path):
    fault = FileNotFoundError("picture.jpg")
    with (
        pytest.raises(FileNotFoundError, match=r"picture\.jpg"),
        open_writer(tmp_path / "out.csv", format="csv", classes=CLASSES, all_probabilities=False),
    ):
        raise fault


# ---------------------------------------------------------------- decisions

UNSURE = replace(CAT, prediction_set=("cat", "狗"), abstained=True, unlike_p=0.25, unlike=False)
STRANGE = replace(CAT, prediction_set=('a "quoted", name',), abstained=False, unlike_p=0.001, unlike=True)


def test_decisions_are_cells_of_csv(tmp_path):
    write(tmp_path / "out.csv", [UNSURE, STRANGE, BROKEN])
    cells = [[row[name] for name in COLUMNS[-4:]] for row in read_csv(tmp_path / "out.csv")]
    assert cells[0] == ['["cat", "狗"]', "true", "0.25", "false"]
    assert json.loads(cells[1][0]) == ['a "quoted", name']
    assert cells[1][1:] == ["false", "0.001", "true"]
    assert cells[2] == ["", "", "", ""]


def test_decisions_are_values_of_json(tmp_path):
    write(tmp_path / "out", [UNSURE, STRANGE, BROKEN], "jsonl")
    found = [json.loads(line) for line in (tmp_path / "out").read_text("utf-8").splitlines()]
    assert [row["prediction_set"] for row in found] == [["cat", "狗"], ['a "quoted", name'], []]
    assert [row["abstained"] for row in found] == [True, False, None]
    assert [(row["unlike_p"], row["unlike"]) for row in found] == [(0.25, False), (0.001, True), (None, None)]


def test_decisions_have_their_types_in_parquet(tmp_path):
    write(tmp_path / "out.parquet", [UNSURE, STRANGE, BROKEN], "parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["abstained"].to_pylist() == [True, False, None]
    assert found["unlike"].to_pylist() == [False, True, None]
    assert found["unlike_p"].to_pylist() == [0.25, float(np.float32(0.001)), None]
    assert found["prediction_set"].to_pylist() == ['["cat", "狗"]', '["a \\"quoted\\", name"]', ""]


def test_a_person_is_told_of_doubt_in_the_last_column(capsys):
    lines = printed([UNSURE, STRANGE, CAT], capsys)
    assert lines[1].endswith("not sure; or 狗")
    assert lines[2].endswith("unlike anything trained on")
    assert lines[3].endswith("10.0%")
