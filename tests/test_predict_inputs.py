"""What a prediction is asked for: folders, lists, tables and shards, one input each, none lost and none doubled."""

import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftage.data.decode import Limits
from graftage.data.gathering import Named, braced
from graftage.data.inputs import Input, walk
from graftage.data.rows import Asked
from graftage.data.shards import members
from graftage.data.sources import natural_key, sorting_text
from graftage.errors import DataError, OptionError


def names(inputs: Iterator[Input]) -> list[str]:
    return [each.name for each in inputs]


def told(inputs: Iterator[Input]) -> list[tuple[str, str, bool]]:
    return [(each.name, each.reason.split(":")[0], each.broken) for each in inputs]


def named(*paths: object, **options: object) -> list[Input]:
    found = Named(tuple(map(str, paths)), **options)
    found.check()
    return list(found.inputs())


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(os.fsencode(file))
    return folder


# ---------------------------------------------------------------- folders


def test_a_folder_is_walked_in_natural_order_without_what_is_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "10.jpg", "9.jpg", "b/2.jpg", "b/.x/3.jpg", "A.jpg", ".DS_Store", "Thumbs.db", "c.txt")
    assert [Path(name).relative_to(tmp_path).as_posix() for name in names(walk(tmp_path))] == [
        "9.jpg", "10.jpg", "A.jpg", "b/2.jpg", "c.txt",
    ]  # fmt: skip


def test_more_names_than_are_sorted_at_a_time_are_in_order_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftage.data.inputs._RUN", 3)
    files = [f"{i}.jpg" for i in range(20)] + ["5/a.jpg", "12.b/1.jpg", os.fsdecode(b"caf\xe9.jpg"), "鸟.jpg"]
    touch(tmp_path, *files)
    expected = sorted(files, key=lambda file: [natural_key(part) for part in file.split("/")])
    assert names(walk(tmp_path)) == [str(tmp_path / file) for file in expected]


@given(st.lists(st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=12), max_size=12))
def test_the_lean_sort_key_sorts_as_the_natural_one(found: list[str]) -> None:
    assert sorted(found, key=sorting_text) == sorted(found, key=natural_key)


@given(st.lists(st.text("0123a.-B", min_size=1, max_size=6), max_size=12))
def test_the_lean_sort_key_knows_numbers(found: list[str]) -> None:
    assert sorted(found, key=sorting_text) == sorted(found, key=natural_key)


def test_loops_end_and_an_empty_folder_is_an_input_that_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert names(walk(tmp_path)) == [str(tmp_path / "a" / "1.jpg")]
    (tmp_path / "empty").mkdir()
    assert told(walk(tmp_path / "empty")) == [(str(tmp_path / "empty"), "not a file", False)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_is_an_input_that_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "closed/1.jpg", "open.jpg")
    (tmp_path / "closed").chmod(0)
    assert ("folder cannot be listed", True) in [each[1:] for each in told(walk(tmp_path))]


# ---------------------------------------------------------------- lists


def test_a_list_may_name_anything_that_a_command_may(tmp_path: Path) -> None:
    touch(tmp_path, "in/1.jpg", "in/2.jpg")
    shard(tmp_path / "s.tar", "x.jpg")
    (tmp_path / "list").write_text(f"{tmp_path}/in\r\n\n{tmp_path}/s.tar\n{tmp_path}/gone.jpg")
    found = named(list=str(tmp_path / "list"))
    assert [each.name for each in found] == [
        f"{tmp_path}/{n}" for n in ("in/1.jpg", "in/2.jpg", "s.tar/x.jpg", "gone.jpg")
    ]


def test_names_with_line_ends_come_through_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a\nb.jpg\0caf\xe9.jpg\0")
    assert [each.name for each in named(list=str(tmp_path / "list"), null=True)] == ["a\nb.jpg", "caf\udce9.jpg"]


def test_a_long_list_is_read_in_blocks(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("".join(f"{i:06}.jpg\n" for i in range(30_000)))
    found = named(list=str(tmp_path / "list"))
    assert [each.name for each in found[::9999]] == ["000000.jpg", "009999.jpg", "019998.jpg", "029997.jpg"]
    assert len(found) == 30_000


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.jpg\nb.jpg\n")
    os.close(writing)
    with os.fdopen(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert [each.name for each in named("c.jpg", "-")] == ["c.jpg", "a.jpg", "b.jpg"]
    with pytest.raises(OptionError, match="standard input is named twice"):
        named("-", list="-")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("s-{9..11}", ["s-9", "s-10", "s-11"]),
        ("s-{2..1}", ["s-2", "s-1"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{a}.jpg", ["{a}.jpg"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_names(pattern: str, expected: list[str]) -> None:
    assert list(braced(pattern)) == expected


def test_braces_that_are_a_name_and_braces_without_end(tmp_path: Path) -> None:
    touch(tmp_path, "{a,b}.jpg")
    assert [each.name for each in named(tmp_path / "{a,b}.jpg")] == [str(tmp_path / "{a,b}.jpg")]
    with pytest.raises(OptionError, match="more than a million names"):
        named("s-{0..9999999}.tar")


# ---------------------------------------------------------------- tables


def test_a_table_gives_paths_beside_it_and_its_ids(tmp_path: Path) -> None:
    touch(tmp_path, "in/1.jpg")
    (tmp_path / "t.csv").write_text('sku,file_name\n7,in/1.jpg\n8,\n\n9\n"x"y,z\n10,gone.jpg,extra\n11,gone.jpg\n')
    found = named(tmp_path / "t.csv", asked=Asked(id_col="sku"))
    table = str(tmp_path / "t.csv")
    assert [(each.name, each.id, each.reason.split(":")[0]) for each in found] == [
        ("in/1.jpg", "7", ""),
        (f"{table}, line 3", "8", "no path in the table"),
        (f"{table}, line 5", "", "cells are missing"),
        (f"{table}, line 6", "", "the row is broken"),
        (f"{table}, line 7", "", "too many cells"),
        ("gone.jpg", "11", ""),
    ]
    assert found[0].path == tmp_path / "in" / "1.jpg"


def test_paths_may_begin_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("n\tpicture\n1\ta.jpg\n")
    (each,) = named(tmp_path / "t.tsv", asked=Asked(path_col="picture", root=Path("/data")))
    assert each.path == Path("/data/a.jpg")


def test_an_unclosed_quote_takes_rows_along_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path\na.jpg\n"b.jpg\nc.jpg\nd.jpg\n')
    assert told(iter(named(tmp_path / "t.csv"))) == [
        ("a.jpg", "", False),
        (f"{tmp_path / 't.csv'}, lines 3 to 5", "the row is broken", True),
    ]


def test_json_lines_are_rows(tmp_path: Path) -> None:
    lines = ['{"path": "a.jpg", "id": 3}', "{", "", "[1]", '{"id": true}', '{"path": 5, "id": null}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = named(tmp_path / "t.jsonl", asked=Asked(id_col="id"))
    assert [each.id for each in found] == ["3", "", "", "true", ""]
    assert [each.reason.split(":")[0] for each in found] == [
        "", "the row is broken", "the row is broken", "no path in the table", "no path in the table",
    ]  # fmt: skip


def test_parquet_holds_paths_or_pictures(tmp_path: Path) -> None:
    image = pa.array(
        [{"bytes": b"one", "path": "1.jpg"}, {"bytes": b"two", "path": None}, {"bytes": None, "path": "3.jpg"}, None]
    )
    pq.write_table(pa.table({"image": image, "label": [0, 1, 0, 1]}), tmp_path / "t.parquet", row_group_size=2)
    found = named(tmp_path / "t.parquet", asked=Asked(id_col="label"))
    assert [(each.name, each.data, each.id) for each in found[:2]] == [
        ("1.jpg", b"one", "0"),
        (f"{tmp_path / 't.parquet'}, row 2", b"two", "1"),
    ]
    assert found[2].path == tmp_path / "3.jpg"
    assert found[3].reason == "no path in the table"
    pq.write_table(pa.table({"jpeg": [b"x" * 50], "n": [1]}), tmp_path / "b.parquet")
    (each,) = Named((str(tmp_path / "b.parquet"),)).inputs(limits=Limits(max_bytes=10))
    assert each.reason == "too many bytes: 50, the limit is 10"


def test_rows_of_a_damaged_row_group_are_still_rows(tmp_path: Path) -> None:
    table, plain = pa.table({"path": [f"{i}.jpg" for i in range(9)]}), {"compression": "none", "use_dictionary": False}
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3, **plain)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    start = pq.read_metadata(tmp_path / "t.parquet").row_group(1).column(0).data_page_offset
    data[start : start + 20] = b"\xff" * 20
    (tmp_path / "t.parquet").write_bytes(data)
    found = told(iter(named(tmp_path / "t.parquet")))
    assert [name for name, reason, _ in found if not reason] == [f"{i}.jpg" for i in (0, 1, 2, 6, 7, 8)]
    assert [reason for *_, reason, _ in found[3:6]] == ["table is damaged here"] * 3


@pytest.mark.parametrize(
    ("content", "asked", "message"),
    [
        ("a,b\n1,2\n", Asked(), r"t\.csv: no column is known to hold the pictures' files.*--path-col NAME"),
        ("path,b\n1,2\n", Asked(id_col="c"), r"t\.csv has no column 'c'.*--id-col can be one of 'path', 'b'"),
        ("", Asked(), r"t\.csv is empty"),
    ],
)
def test_a_table_that_cannot_be_is_told_before_anything_is_done(
    tmp_path: Path, content: str, asked: Asked, message: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        Named((str(tmp_path / "t.csv"),), asked=asked).check()


def test_what_is_missing_is_told_before_or_as_an_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        named(tmp_path / "gone.csv")
    (tmp_path / "list").write_text(f"{tmp_path}/gone.csv\n{tmp_path}/gone.tar\n{tmp_path}/gone.jpg\n")
    assert [each[1:] for each in told(iter(named(list=str(tmp_path / "list"))))] == [
        ("table cannot be read", True), ("shard cannot be read further", True), ("", False),
    ]  # fmt: skip
    with pytest.raises(OptionError, match="--id-col names a column, but no table is named"):
        named("a.jpg", asked=Asked(id_col="x"))


# ---------------------------------------------------------------- shards


def shard(path: Path, *files: str, kind: str = "w", size: int = 1000, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, kind, format=format) as tar:
        for file in files:
            member = tarfile.TarInfo(file)
            member.size = size
            tar.addfile(member, io.BytesIO(os.fsencode(file).ljust(size)))
    return path


@pytest.mark.parametrize(
    ("ending", "kind"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")]
)
def test_pictures_in_a_shard_are_inputs_and_what_describes_them_is_none(tmp_path: Path, ending: str, kind: str) -> None:
    path = shard(
        tmp_path / f"s{ending}",
        "a/1.jpg",
        "a/1.cls",
        "a/1.json",
        "a/2.PNG",
        "._a.jpg",
        "__MACOSX/b.jpg",
        "c",
        kind=kind,
    )
    found = list(members(path))
    assert [each.name for each in found] == [f"{path}/{name}" for name in ("a/1.jpg", "a/2.PNG", "c")]
    assert found[0].data == b"a/1.jpg".ljust(1000)


def test_names_in_a_shard_are_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    awkward = ["../../evil.jpg", "/etc/passwd", "x" * 300 + ".jpg", "caf\udce9.jpg", "new\nline.jpg"]
    path = shard(tmp_path / "deep" / "s.tar", *awkward, format=tarfile.GNU_FORMAT)
    assert [each.name for each in members(path)] == [f"{path}/{name}" for name in awkward]
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["deep", "s.tar"]


def test_links_and_large_members_are_inputs_with_a_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        big = tarfile.TarInfo("big.jpg")
        big.size = 5000
        tar.addfile(big, io.BytesIO(bytes(5000)))
    found = list(members(tmp_path / "s.tar", limits=Limits(max_bytes=100)))
    assert [each.reason for each in found] == [
        "not a file: a link or device in a shard", "too many bytes: 5,000, the limit is 100",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_shard_cut_anywhere_gives_what_is_whole_and_says_that_it_breaks_off(tmp_path: Path, kind: str) -> None:
    whole = shard(tmp_path / "whole.tar", *(f"{i}.jpg" for i in range(4)), kind=kind).read_bytes()
    end = len(whole) if kind == "w:gz" else 4 * 1536 + 512  # of the first block that marks the end
    cut = tmp_path / "cut.tar"
    for length in range(0, end, 97 if kind == "w" else 11):
        cut.write_bytes(whole[:length])
        *good, last = members(cut)
        assert last.broken, length
        assert last.reason.startswith("shard cannot be read further")
        assert [each.data for each in good] == [f"{i}.jpg".encode().ljust(1000) for i in range(len(good))]
        assert kind != "w" or len(good) == max((length - 1512) // 1536 + 1, 0)


def test_damage_inside_a_shard_is_not_taken_for_its_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", "1.jpg", "2.jpg", "3.jpg")
    data = bytearray(path.read_bytes())
    data[1536:1600] = b"\xaa" * 64  # the second header
    path.write_bytes(data)
    assert told(members(path)) == [
        (f"{path}/1.jpg", "", False),
        (str(path), "shard cannot be read further after '1.jpg'", True),
    ]
    assert "after '1.jpg': a header is damaged" in list(members(path))[1].reason


def test_a_header_cannot_claim_all_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    (tmp_path / "s.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    (only,) = members(tmp_path / "s.tar")
    assert "a header claims 8,589,934,592 bytes" in only.reason


def test_shards_in_a_folder_are_opened_and_tables_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "t.csv")
    shard(tmp_path / "s-0.tar", "x.jpg")
    assert [Path(each.name).relative_to(tmp_path).as_posix() for each in named(tmp_path)] == [
        "a.jpg", "s-0.tar/x.jpg", "t.csv",
    ]  # fmt: skip


# ---------------------------------------------------------------- counting


def count(*paths: object, **options: object) -> int | None:
    return Named(tuple(map(str, paths)), **options).count()


def test_what_is_cheap_to_count_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "in/1.jpg", "in/b/2.jpg", "in/.x", "in/.y/3.jpg")
    (tmp_path / "t.csv").write_text("path\na\nb\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"path": "a"}) + "\n" for _ in range(3)))
    (tmp_path / "list").write_text("a\nb\nc")
    pq.write_table(pa.table({"path": ["a"] * 5}), tmp_path / "t.parquet")
    shard(tmp_path / "s.tar", "x.jpg")
    counted: Sequence[tuple[int | None, int]] = [
        (count(tmp_path / "in"), 2), (count(tmp_path / "t.csv"), 2), (count(tmp_path / "t.jsonl"), 3),
        (count(tmp_path / "t.parquet"), 5), (count("x.jpg", tmp_path / "in", list=str(tmp_path / "list")), 6),
    ]  # fmt: skip
    assert all(found == expected for found, expected in counted), counted
    assert count(tmp_path / "s.tar") is count("-") is count(tmp_path / "gone.csv") is None
