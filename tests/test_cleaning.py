"""`graftage clean`: what it moves, what it refuses, and that no interruption loses, doubles or changes a file."""

import contextlib
import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graftage as gr
from graftage import moves
from graftage.data.findings import FINDING_COLUMNS
from graftage.errors import DataError, OptionError, StoreError
from photos import graftage

Row = tuple[str, str, str]  # path, suggested label, action


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return filled(tmp_path / "photos")


def filled(root: Path) -> Path:
    """Classes cat, dog and owl of four files each; 0.jpg to 3.jpg in all of them. The content is never looked at."""
    for name in ("cat", "dog", "owl"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.jpg").write_bytes(f"{name} {i}".encode())
    return root


def problems(root: Path, rows: Sequence[Row], name: str = "problems.csv") -> Path:
    path = root.parent / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FINDING_COLUMNS)
        writer.writerows(("likely wrong label", "warning", p, "", "", label, "", action) for p, label, action in rows)
    return path


def contents(root: Path) -> dict[str, bytes]:
    """Every picture below the folder of `root`, by path; journals and tables are none."""
    return {p.relative_to(root.parent).as_posix(): p.read_bytes() for p in root.parent.rglob("*.jpg") if p.is_file()}


def nothing_lost(root: Path, before: dict[str, bytes]) -> None:
    assert sorted(contents(root).values()) == sorted(before.values())


# ---------------------------------------------------------------- what it does


def test_it_moves_aside_relabels_and_leaves_the_rest(pictures: Path) -> None:
    before = contents(pictures)
    rows = [("cat/0.jpg", "dog", "move"), ("cat/1.jpg", "dog", ""), ("owl/2.jpg", "cat", "keep")]
    done = gr.clean(pictures, problems(pictures, rows))
    assert (done.moved, done.already) == (1, 0)
    assert contents(pictures)["photos-aside/cat/0.jpg"] == b"cat 0"
    assert not (pictures / "cat" / "0.jpg").exists()
    nothing_lost(pictures, before)


def test_a_relabelled_file_whose_name_is_taken_gets_its_old_class_in_front(pictures: Path) -> None:
    (pictures / "cat" / "only.jpg").write_bytes(b"only")
    before = contents(pictures)
    gr.clean(pictures, problems(pictures, [("cat/0.jpg", "dog", "relabel"), ("cat/only.jpg", "dog", " Relabel ")]))
    assert (pictures / "dog" / "cat-0.jpg").read_bytes() == b"cat 0"
    assert (pictures / "dog" / "0.jpg").read_bytes() == b"dog 0"
    assert (pictures / "dog" / "only.jpg").read_bytes() == b"only"
    nothing_lost(pictures, before)


def test_a_split_folder_stays_the_split(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part in ("train", "test"):
        filled(root / part)
    shutil.rmtree(root / "test" / "owl")
    gr.clean(root, problems(root, [("test/cat/3.jpg", "owl", "relabel"), ("train/cat/3.jpg", "owl", "relabel")]))
    assert (root / "test" / "owl" / "3.jpg").read_bytes() == b"cat 3"
    assert (root / "train" / "owl" / "cat-3.jpg").read_bytes() == b"cat 3"


def test_a_dry_run_moves_nothing_and_leaves_nothing(pictures: Path) -> None:
    before, entries = contents(pictures), sorted(pictures.parent.rglob("*"))
    table = problems(pictures, [("cat/0.jpg", "", "move"), ("dog/0.jpg", "owl", "relabel")])
    done = gr.clean(pictures, table, dry_run=True)
    assert done.moved == 0
    assert [m.target for m in done.moves] == ["photos-aside/cat/0.jpg", "photos/owl/dog-0.jpg"]
    assert contents(pictures) == before
    assert sorted(pictures.parent.rglob("*")) == sorted([*entries, table])


def test_undo_takes_cleans_back_one_by_one(pictures: Path) -> None:
    before = contents(pictures)
    gr.clean(pictures, problems(pictures, [("cat/0.jpg", "", "move"), ("cat/1.jpg", "owl", "relabel")]))
    between = contents(pictures)
    gr.clean(pictures, problems(pictures, [("owl/cat-1.jpg", "dog", "relabel")], "second.csv"))
    assert gr.clean(pictures, undo=True).moved == 1
    assert contents(pictures) == between
    assert gr.clean(pictures, undo=True, dry_run=True).moved == 0
    assert contents(pictures) == between
    assert gr.clean(pictures, undo=True).moved == 2
    assert contents(pictures) == before
    with pytest.raises(DataError, match=r"there is no clean of .* to take back"):
        gr.clean(pictures, undo=True)


def test_the_same_command_again_finds_all_done(pictures: Path) -> None:
    table = problems(pictures, [("cat/0.jpg", "", "move"), ("cat/1.jpg", "owl", "relabel")])
    gr.clean(pictures, table)
    after = contents(pictures)
    again = gr.clean(pictures, table)
    assert (again.moved, again.already) == (0, 2)
    assert contents(pictures) == after


def test_a_file_on_two_rows_that_agree_is_moved_once(pictures: Path) -> None:
    assert gr.clean(pictures, problems(pictures, [("cat/0.jpg", "", "move")] * 2)).moved == 1
    assert gr.clean(pictures, problems(pictures, [("cat/1.jpg", "dog", "relabel")] * 2)).moved == 1


def test_what_a_spreadsheet_makes_of_the_table_is_read(pictures: Path) -> None:
    table = pictures.parent / "problems.csv"
    table.write_text("\ufeffkind;path;suggested label;action\nx;cat/0.jpg;;MOVE\n", encoding="utf-8")
    assert gr.clean(pictures, table).moved == 1


def test_names_that_are_no_utf8_are_found_by_what_the_table_says(pictures: Path) -> None:
    name = os.fsdecode(b"sch\xf6n.jpg")
    try:
        (pictures / "cat" / name).write_bytes(b"beautiful")
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    before = contents(pictures)
    gr.clean(pictures, problems(pictures, [("cat/sch\\xf6n.jpg", "", "move")]))
    assert (pictures.parent / "photos-aside" / "cat" / name).read_bytes() == b"beautiful"
    gr.clean(pictures, undo=True)
    assert contents(pictures) == before


# ---------------------------------------------------------------- what it refuses, before anything is moved


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("cat/9.jpg", "", "move"), "there is no file 'cat/9.jpg'.*did you mean"),
        (("../other.jpg", "", "move"), "outside"),
        (("/etc/passwd", "", "move"), "outside"),
        (("cat/../dog/0.jpg", "", "move"), "outside"),
        (("", "", "move"), "names no picture"),
        (("cat", "", "move"), "there is no file"),
        (("cat/1.jpg", "bird", "relabel"), "'bird' is no class"),
        (("cat/1.jpg", "dgo", "relabel"), "did you mean 'dog'"),
        (("cat/1.jpg", "", "relabel"), "there is no suggested label"),
        (("cat/1.jpg", "../..", "relabel"), "is no class"),
        (("cat/1.jpg", "cat", "relabel"), "labelled 'cat' already"),
        (("loose.jpg", "cat", "relabel"), "no class folder"),
        (("cat/link.jpg", "", "move"), "symbolic link"),
        (("linked/0.jpg", "", "move"), "symbolic link"),
        (("cat/1.jpg", "", "remove"), "action 'remove' is none of.*did you mean move"),
        (("cat/0.jpg", "owl", "relabel"), "line 3: cat/0.jpg is to go elsewhere by line 2"),
        (("cat/2.jpg", "", "move"), "photos-aside/cat/2.jpg exists already"),
        (("cat/3.jpg", "dog", "relabel"), "exist already; rename"),
    ],
)
def test_a_row_that_cannot_be_carried_out_stops_all(pictures: Path, row: Row, message: str) -> None:
    (pictures / "loose.jpg").write_bytes(b"loose")
    (pictures.parent / "other.jpg").write_bytes(b"other")
    (pictures / "cat" / "link.jpg").symlink_to(pictures / "dog" / "0.jpg")
    (pictures / "linked").symlink_to(pictures / "dog")
    (pictures / "dog" / "cat-3.jpg").write_bytes(b"taken")
    aside = pictures.parent / "photos-aside" / "cat"
    aside.mkdir(parents=True)
    (aside / "2.jpg").write_bytes(b"older")
    before = contents(pictures)
    with pytest.raises(DataError, match=f"(?s){message}"):
        gr.clean(pictures, problems(pictures, [("cat/0.jpg", "", "move"), row]))
    assert contents(pictures) == before


def test_a_link_in_the_way_to_the_target_stops_all(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "photos-aside").mkdir()
    (tmp_path / "photos-aside" / "cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link or a file"):
        gr.clean(pictures, problems(pictures, [("cat/0.jpg", "", "move")]))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_all_faults_are_named_and_the_command_line_says_2(pictures: Path) -> None:
    said = graftage("clean", pictures, problems(pictures, [("a", "", "move"), ("b", "", "move")]))
    assert said.status == 2
    assert "nothing was moved" in said.err
    assert "line 2: there is no file 'a'" in said.err
    assert "line 3: there is no file 'b'" in said.err


def test_tables_that_are_none_are_refused(pictures: Path, tmp_path: Path) -> None:
    for content, message in (
        (b"a,b\n1,2\n", "no column 'path'"),
        (b"\xff\xfe\x00", "no csv file in UTF-8"),
        (b"", "no column"),
    ):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(OptionError, match=message):
            gr.clean(pictures, tmp_path / "x.csv")
    with pytest.raises(OptionError, match="cannot be read"):
        gr.clean(pictures, tmp_path / "none.csv")
    with pytest.raises(DataError, match="does not exist"):
        gr.clean(tmp_path / "none", tmp_path / "x.csv")
    with pytest.raises(OptionError, match="either"):
        gr.clean(pictures)
    with pytest.raises(OptionError, match="either"):
        gr.clean(pictures, tmp_path / "x.csv", undo=True)


def test_undo_refuses_where_files_are_not_where_they_were_put(pictures: Path) -> None:
    gr.clean(pictures, problems(pictures, [("cat/0.jpg", "", "move"), ("cat/1.jpg", "", "move")]))
    (pictures / "cat" / "0.jpg").write_bytes(b"another")
    before = contents(pictures)
    with pytest.raises(DataError, match="both exist"):
        gr.clean(pictures, undo=True)
    assert contents(pictures) == before
    (pictures / "cat" / "0.jpg").unlink()
    (pictures.parent / "photos-aside" / "cat" / "1.jpg").unlink()
    with pytest.raises(DataError, match="is gone"):
        gr.clean(pictures, undo=True)


def test_a_journal_that_points_elsewhere_is_not_obeyed(pictures: Path) -> None:
    aside = pictures.parent / "photos-aside"
    aside.mkdir()
    line = '{"source": "photos/../../x", "target": "photos-aside/x", "label": ""}\n'
    (aside / "clean-0001.jsonl").write_text(line)
    with pytest.raises(StoreError, match="damaged"):
        gr.clean(pictures, undo=True)


def test_two_at_a_time_are_one_too_many(pictures: Path) -> None:
    table = problems(pictures, [("cat/0.jpg", "", "move")])
    with moves.alone(pictures.resolve(), dry=False), pytest.raises(OptionError, match="another clean"):
        gr.clean(pictures, table)


# ---------------------------------------------------------------- interruptions


class Interrupted(BaseException):
    """Stands for the end of the process."""


ALL: list[Row] = [
    ("cat/0.jpg", "", "move"),
    ("cat/1.jpg", "dog", "relabel"),
    ("dog/0.jpg", "owl", "relabel"),
    ("dog/1.jpg", "", "move"),
    ("owl/3.jpg", "cat", "relabel"),
]


@given(steps=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["clean", "undo"])), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_after_any_interruptions_every_file_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    root = filled(tmp_path_factory.mktemp("cut") / "photos")
    table, before = problems(root, ALL), contents(root)
    for stop_at, what in steps:
        with pytest.MonkeyPatch.context() as patch:
            count = iter(range(1000))

            def tick(
                after: object, *args: object, _count: object = count, _stop: int = stop_at, **named: object
            ) -> None:
                if next(_count) == _stop:  # before this line or this rename
                    raise Interrupted
                after(*args, **named)

            add, rename = moves.Journal.add, Path.rename
            patch.setattr(moves.Journal, "add", lambda self, _t=tick, _a=add, **r: _t(_a, self, **r))
            patch.setattr(Path, "rename", lambda self, to, _t=tick, _r=rename: _t(_r, self, to))
            with contextlib.suppress(Interrupted, DataError):  # DataError: nothing to take back yet
                gr.clean(root, table) if what == "clean" else gr.clean(root, undo=True)
        nothing_lost(root, before)
    gr.clean(root, table)
    nothing_lost(root, before)
    assert (root.parent / "photos-aside" / "cat" / "0.jpg").exists()
    assert not any((root / path).exists() for path, _, _ in ALL)
    for _ in range(6):
        try:
            gr.clean(root, undo=True)
        except DataError:
            break
    assert contents(root) == before


def test_a_line_cut_off_by_a_kill_does_not_count(pictures: Path) -> None:
    table, before = problems(pictures, ALL), contents(pictures)
    gr.clean(pictures, table)
    (journal,) = (pictures.parent / "photos-aside").glob("clean-*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    gr.clean(pictures, undo=True)
    journal.write_bytes(lines[0] + lines[1][:20])  # as if killed while writing the second line, after one move
    (pictures.parent / "photos-aside" / "cat").mkdir(exist_ok=True)
    (pictures / "cat" / "0.jpg").rename(pictures.parent / "photos-aside" / "cat" / "0.jpg")
    assert gr.clean(pictures, table).already == 1
    gr.clean(pictures, undo=True)
    assert contents(pictures) == before


SLOW = """
import sys, time
from graftage import moves
before = moves.rename
def rename(*places):
    time.sleep(0.005)
    before(*places)
moves.rename = rename
from graftage.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("then", ["again", "undo"])
def test_killed_in_the_middle_it_goes_on_or_back(tmp_path: Path, then: str) -> None:
    root, n = tmp_path / "photos", 400
    for i in range(n):
        path = root / ("cat" if i % 2 else "dog") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(str(i).encode()).digest())
    before = contents(root)
    rows = [
        (f"{'cat' if i % 2 else 'dog'}/{i}.jpg", "dog" if i % 2 else "cat", "relabel" if i % 3 else "move")
        for i in range(n)
        if i % 5
    ]
    command = [sys.executable, "-c", SLOW, "clean", str(root), str(problems(root, rows))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    aside = tmp_path / "photos-aside"
    while process.poll() is None and sum(1 for _ in aside.glob("*/*.jpg")) < 20:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL, "it ended before it could be killed"
    nothing_lost(root, before)
    assert contents(root) != before
    if then == "undo":
        assert graftage("clean", root, "--undo").status == 0
        assert contents(root) == before
    else:
        assert graftage("clean", root, problems(root, rows)).status == 0
        nothing_lost(root, before)
        assert not any((root / path).exists() for path, _, _ in rows)
        assert graftage("clean", root, "--undo").status == 0
        assert contents(root) == before
