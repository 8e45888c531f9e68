"""Rows on their way into a file: whatever is killed when, the bytes in the end are those of a run that was not."""

import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from graftage.data.inputs import Input
from graftage.data.traces import trace
from graftage.errors import OptionError, StoreError
from graftage.serve import outputs, places
from graftage.serve.outputs import open_writer
from graftage.serve.tables import Row, arrow_schema, arrow_table, shape_of

CLASSES = ("cat", "狗")
N = 7
FORMS: dict[str, dict[str, Any]] = {
    "out.csv": {"format": "csv"},
    "out.jsonl": {"format": "jsonl"},
    "out.parquet": {"format": "parquet"},
    "parts": {"format": "parquet", "per_part": 3},
    "even": {"format": "parquet", "per_part": N},
}


@pytest.fixture(autouse=True)
def each_row_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_SECONDS", 0.0)


def inputs(n: int = N) -> list[Input]:
    return [Input(f"a, {i}\n.jpg" if i % 3 else f"caf\udce9 {i}.jpg", id=f"n°{i}") for i in range(n)]


def pictured(changed: int = -1) -> list[Input]:
    """Inputs with bytes, one of which may have changed."""
    return [replace(each, data=b"new" if i == changed else b"old") for i, each in enumerate(inputs())]


def row(each: Input, i: int) -> Row:
    if each.data == b"new":
        return Row(each.name, "rejected", "it is new", id=each.id)
    if i % 4 == 3:
        return Row(each.name, "rejected", "missing", id=each.id)
    p = (i + 1) / (N + 2)
    return Row(
        each.name, "ok", label="cat", probability=p, probabilities=(p, 1 - p), prediction_set=CLASSES, id=each.id
    )


def run(target: Path, some: list[Input] | None = None, *, resume: bool = False, **options: Any) -> int:
    """Writes a row for each input; returns how many were there already."""
    some = inputs() if some is None else some
    given = {"made_by": {"model": "m1"}, "classes": CLASSES, "all_probabilities": True, "ids": True, **options}
    with open_writer(target, resume=resume, **given) as sink:
        sink.keep = lambda: {"rows": "kept"}
        assert sink.kept in ({"rows": "kept"}, {}) if sink.resumed else sink.kept == {}
        left = sink.past(some)
        done = count(sink.resumed)
        for each in left:
            sink.write(row(each, next(done)), trace(each.data, each.reason))
    return sink.resumed


def content(target: Path) -> dict[str, bytes]:
    files = sorted(target.rglob("*")) if target.is_dir() else [target]
    return {path.name: path.read_bytes() for path in files}


class Killer:
    """Kills this process at the n-th call that changes the disk, before or after it is done."""

    def __init__(self, at: int) -> None:
        self.left = at

    def wrap(self, call: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self._count()
            found = call(*arguments, **options)
            self._count()
            return found

        return wrapped

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(target: Path, at: int, **options: Any) -> bool:
    """Runs in a process that is killed at its step `at`; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forking where there are threads
        child = os.fork()
    if not child:
        killer = Killer(at)
        os.fsync = killer.wrap(lambda _: None)  # what a process has written outlives it
        for name in ("replace", "unlink", "open"):
            setattr(Path, name, killer.wrap(getattr(Path, name)))
        places.lines_to_parquet = killer.wrap(places.lines_to_parquet)
        try:
            run(target, **options)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("name", FORMS)
def test_killed_at_any_step_it_goes_on_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as small:  # the tests' own process takes long to fork
        small.apply(kill_at_every_step, (tmp_path, name))


def kill_at_every_step(tmp_path: Path, name: str) -> None:
    outputs._SECONDS = 0.0
    run(tmp_path / name, **FORMS[name])
    whole = content(tmp_path / name)
    resumed = set()
    for at in count():
        target = tmp_path / str(at) / name
        target.parent.mkdir()
        if not killed(target, at, **FORMS[name]):
            break
        note = target / ".resume" if target.is_dir() else Path(f"{target}.resume")
        if not note.exists() and target.exists() and content(target) == whole:
            continue  # it was killed after its last step
        resumed.add(run(target, resume=True, **FORMS[name]))
        assert content(target) == whole, at
        assert [path.name for path in target.parent.iterdir()] == [name], at
    assert resumed >= set(range(N + 1)) - {0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_killed_again_and_again_it_comes_to_an_end(tmp_path: Path) -> None:
    run(tmp_path / "whole", **FORMS["parts"])
    target, times = tmp_path / "parts", 0
    while killed(target, 9 + times, resume=True, **FORMS["parts"]):
        times += 1
    assert times > 3
    assert content(target) == content(tmp_path / "whole")


def test_a_torn_tail_is_cut_off(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    run(target, **FORMS["out.csv"])
    whole = target.read_bytes()
    stopped(target, 4, **FORMS["out.csv"])
    with Path(f"{target}.part").open("ab") as part:
        part.write(b'"half a r')
    assert run(target, resume=True, **FORMS["out.csv"]) == 4
    assert target.read_bytes() == whole


def stopped(target: Path, after: int, named: list[Input] | None = None, **options: Any) -> None:
    """A run that is interrupted after some rows."""

    def some() -> Iterator[Input]:
        yield from (named or inputs())[:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(target, some(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [0, 2, 3, 4])
@pytest.mark.parametrize("name", FORMS)
def test_from_a_picture_that_has_changed_rows_are_made_anew(tmp_path: Path, name: str, changed: int) -> None:
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole" / name, pictured(changed), **FORMS[name])
    stopped(tmp_path / name, 5, pictured(), **FORMS[name])
    assert run(tmp_path / name, pictured(changed), resume=True, **FORMS[name]) == changed
    assert content(tmp_path / name) == content(tmp_path / "whole" / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("name", ["out.csv", "parts"])
def test_killed_while_rows_are_taken_back_no_old_one_stays(tmp_path: Path, name: str) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as small:
        small.apply(kill_while_taking_back, (tmp_path, name))


def kill_while_taking_back(tmp_path: Path, name: str) -> None:
    outputs._SECONDS = 0.0
    run(tmp_path / name, pictured(1), **FORMS[name])
    whole = content(tmp_path / name)
    (tmp_path / "first").mkdir()
    stopped(tmp_path / "first" / name, 5, pictured(), **FORMS[name])
    for at in count():
        target = tmp_path / str(at) / name
        shutil.copytree(tmp_path / "first", target.parent)
        if not killed(target, at, some=pictured(1), resume=True, **FORMS[name]):
            break
        note = target / ".resume" if target.is_dir() else Path(f"{target}.resume")
        if note.exists() or not target.exists() or content(target) != whole:
            run(target, pictured(1), resume=True, **FORMS[name])
        assert content(target) == whole, at
        assert [path.name for path in target.parent.iterdir()] == [name], at
    assert at > 10


def test_where_rows_may_not_be_taken_back_a_changed_picture_is_named(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    stopped(target, 5, pictured(), **FORMS["out.csv"])
    told: list[tuple[str, str]] = []
    given = {"made_by": {"model": "m1"}, "classes": CLASSES, "all_probabilities": True, "ids": True}
    with (
        pytest.raises(OptionError, match=r"row 3 is of a, 2\n\.jpg, which has changed since, and what --drift"),
        open_writer(target, resume=True, format="csv", **given) as sink,
    ):
        sink.past(pictured(2), lambda each, status: told.append((each.id, status)), divisible=False)
    assert told == [("n°0", "ok"), ("n°1", "ok")]
    assert run(target, pictured(), resume=True, **FORMS["out.csv"]) == 5  # being refused has cost nothing


def test_an_interrupted_run_says_where_its_rows_are(tmp_path: Path) -> None:
    stopped(tmp_path / "out.jsonl", 4, **FORMS["out.jsonl"])
    assert len((tmp_path / "out.jsonl.part").read_text().splitlines()) == 4
    assert not (tmp_path / "out.jsonl").exists()


def counted(target: Path, stop: int, *, resume: bool = False) -> int:
    """Counts each input before its row is written, is interrupted in between at row `stop`; rows there before."""
    with open_writer(target, format="csv", classes=CLASSES, all_probabilities=False, resume=resume) as sink:
        so_far = sink.kept.get("counted", 0)
        assert so_far == sink.resumed
        sink.keep = lambda: {"counted": so_far}
        for i, each in enumerate(sink.past(inputs()), start=sink.resumed):
            so_far += 1
            if i == stop:
                raise KeyboardInterrupt
            sink.write(row(each, i))
    return sink.resumed


def test_what_the_caller_counts_belongs_to_the_rows_noted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        counted(tmp_path / "out.csv", 3)
    assert counted(tmp_path / "out.csv", N, resume=True) == 3


@pytest.mark.parametrize("name", FORMS)
def test_other_inputs_are_refused_and_named(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    stopped(target, 4, **FORMS[name])
    other = inputs()
    other[2] = Input("other.jpg")
    with pytest.raises(OptionError, match=r"row 3 is of a, 2\n\.jpg n°2, but input 3 is other\.jpg"):
        run(target, other, resume=True, **FORMS[name])
    with pytest.raises(OptionError, match=r"row 4 is of caf\\udce9 3\.jpg, but the inputs end before it"):
        run(target, inputs(3), resume=True, **FORMS[name])
    assert run(target, resume=True, **FORMS[name]) == 4  # being refused has cost nothing


def test_another_model_is_refused_and_named(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    stopped(target, 4, **FORMS["out.csv"])
    with pytest.raises(OptionError, match="the interrupted run had another model; give the same"):
        run(target, resume=True, made_by={"model": "m2"}, **FORMS["out.csv"])


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    stopped(target, 4, **FORMS["out.csv"])
    assert run(target, **FORMS["out.csv"]) == 0
    assert run(target, resume=True, **FORMS["out.csv"]) == 0  # a finished run leaves nothing to go on with
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_rows_that_are_gone_and_notes_that_are_damaged_are_told(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    stopped(target, 4, **FORMS["out.csv"])
    note = (tmp_path / "out.csv.resume").read_bytes()
    (tmp_path / "out.csv.resume").write_bytes(note[:20])
    with pytest.raises(StoreError, match=r"out\.csv\.resume: is damaged"):
        run(target, resume=True, **FORMS["out.csv"])
    (tmp_path / "out.csv.resume").write_bytes(note)
    os.truncate(f"{target}.part", 30)
    with pytest.raises(StoreError, match="rows of the interrupted run are missing"):
        run(target, resume=True, **FORMS["out.csv"])


def test_parts_hold_all_rows_in_order(tmp_path: Path) -> None:
    run(tmp_path / "parts", **FORMS["parts"])
    files = sorted((tmp_path / "parts").iterdir())
    assert [file.name for file in files] == [f"part-0000{i}.parquet" for i in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [3, 3, 1]
    ids = [value for file in files for value in pq.read_table(file)["id"].to_pylist()]
    assert ids == [each.id for each in inputs()]
    with pytest.raises(OptionError, match=r"holds parts of another run \(part-00000\.parquet\)"):
        run(tmp_path / "parts", **FORMS["parts"])


def test_one_file_and_parts_hold_the_same(tmp_path: Path) -> None:
    run(tmp_path / "out.parquet", **FORMS["out.parquet"])
    run(tmp_path / "parts", **FORMS["parts"])
    assert pq.read_table(tmp_path / "parts").to_pylist() == pq.read_table(tmp_path / "out.parquet").to_pylist()


def test_rows_as_an_arrow_table_are_what_parquet_holds(tmp_path: Path) -> None:
    run(tmp_path / "out.parquet", **FORMS["out.parquet"])
    shape = shape_of(CLASSES, all_probabilities=True, ids=True)
    made = arrow_table([row(each, i) for i, each in enumerate(inputs())], shape)
    assert made.schema == arrow_schema(shape)
    assert made.equals(pq.read_table(tmp_path / "out.parquet"))


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (None, {"format": "csv", "resume": True}, "only a file of csv, jsonl or parquet can be resumed"),
        ("x", {"format": "table", "resume": True}, "only a file of csv, jsonl or parquet can be resumed"),
        ("x", {"format": "csv", "per_part": 3}, "only Parquet is written in parts"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, target: str | None, options: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(OptionError, match=message),
        open_writer(tmp_path / target if target else None, classes=CLASSES, all_probabilities=False, **options),
    ):
        pass


def test_row_groups_are_whole_though_few_rows_are_held_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftage.serve.tables.ROW_GROUP", 10)
    monkeypatch.setattr("graftage.serve.tables._AT_ONCE", 4)
    run(tmp_path / "out.parquet", inputs(25), **FORMS["out.parquet"])
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [10, 10, 5]
    assert file.read()["id"].to_pylist() == [each.id for each in inputs(25)]
