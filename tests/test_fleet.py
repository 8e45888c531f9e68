"""Work that is spread over a Ray cluster: the rows of one process, whatever dies."""

import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

import photos
from graftage.data.decode import DEFAULT_LIMITS
from graftage.data.gathering import Named
from graftage.data.inputs import Input
from graftage.data.rows import Asked
from graftage.fleet import blocks, workers
from graftage.fleet.spread import PACK, PACK_BYTES, cluster, spread, together
from graftage.fleet.units import Unit, Walked, units
from graftage.fleet.workers import Fleet, predicting
from graftage.serve import outputs
from graftage.serve.batch import predict_all
from graftage.serve.outputs import open_writer
from graftage.serve.predict import Predictor, load

# Ray opens pipes and sockets that it leaves to the collector, and warns of its own defaults
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def run(weights_file: Callable[[str], Path], class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    network = f"{weights_file('test_efficientnet')}@32"
    options = ("--backbone", network, "--fit", "squash", "--recipe", "linear", "--test", "none")
    said = photos.graftage("train", class_folders, "-o", folder, *options)
    assert said.status == 0, said.err
    return folder


@pytest.fixture(scope="module")
def mixed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    """A folder, two shards by braces, a table of bytes, a file that is not there."""
    folder = tmp_path_factory.mktemp("mixed")
    paths = sorted(class_folders.rglob("*.jpg"))
    for number, some in enumerate((paths[:9], paths[9:20])):
        with tarfile.open(folder / f"s-{number}.tar", "w") as shard:
            for path in some:
                shard.add(path, path.name)
            info = tarfile.TarInfo("../bad.jpg")
            info.size = 5
            shard.addfile(info, io.BytesIO(b"noise"))
    held = [{"bytes": path.read_bytes(), "path": path.name} for path in paths[:7]]
    parquet.write_table(pyarrow.table({"image": held, "sku": [f"n{i}" for i in range(7)]}), folder / "t.parquet")
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in [*paths, folder / "{x,y}.jpg"]))
    return [class_folders, folder / "s-{0..1}.tar", folder / "t.parquet", folder / "gone.jpg"]


def listing(mixed: list[Path | str]) -> Path:
    return Path(mixed[2]).with_name("list.txt")


def named(mixed: list[Path | str]) -> Named:
    return Named([str(path) for path in mixed], str(listing(mixed)), asked=Asked(id_col="sku"))


def told(inputs: list[Input]) -> list[tuple[object, ...]]:
    return [(one.name, one.path, one.data, one.reason, one.id, one.broken) for one in inputs]


# ---------------------------------------------------------------- without Ray


def test_the_pieces_together_are_the_inputs_of_one_process(mixed: list[Path | str]) -> None:
    whole = [*named(mixed).inputs(limits=DEFAULT_LIMITS)]
    pieces = [*units(named(mixed))]
    assert told(whole) == told([one for piece in pieces for one in piece.inputs(limits=DEFAULT_LIMITS)])
    assert len(whole) == 48 + 10 + 12 + 7 + 1 + 49
    assert len(pieces) == 6  # each shard is one of its own


def test_inputs_and_answers_travel_bit_by_bit(run: Path, class_folders: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xf0\x9f\x90\xa6.jpg")
    inputs = [Input(odd, Path(odd), id="7"), Input("s/m", data=b"\0\xff"), Input("x", reason="no path", broken=True)]
    block = blocks.packed(blocks.of_inputs(inputs))
    assert told([*blocks.to_inputs(blocks.unpacked(block.column("pack")[0]))]) == told(inputs)
    model = load(run)
    paths = [*sorted(class_folders.rglob("*.jpg"))[:5], Path(odd)]
    answers = [*model.answers(Input(str(path), path) for path in paths)]
    back = [*blocks.to_answers(blocks.of_answers(answers))]
    assert [one.prediction for one in back] == [one.prediction for one in answers]
    assert [one.trace for one in back] == [one.trace for one in answers]
    assert len({one.trace for one in answers}) == 6


def test_features_travel_where_they_are_asked_for(run: Path, class_folders: Path) -> None:
    paths = [*sorted(class_folders.rglob("*.jpg"))[:3], Path("gone.jpg")]
    answers = [*load(run).answers(Input(str(path), path) for path in paths)]
    back = [*blocks.to_answers(blocks.of_answers(answers, features=True))]
    assert [one.features is None for one in back] == [False, False, False, True]
    for one, other in zip(back[:3], answers[:3], strict=True):
        assert one.features is not None
        assert one.features.tobytes() == other.features.tobytes()
    assert [one.features for one in blocks.to_answers(blocks.of_answers(answers))] == [None] * 4


@pytest.mark.parametrize("done", [1, 47, 48, 49, 58, 59, 60, 126])
def test_what_is_left_after_some_inputs_is_found_again(mixed: list[Path | str], done: int) -> None:
    pieces = [*units(named(mixed))]
    walked = Walked(pieces, limits=DEFAULT_LIMITS)
    taken = [*islice(walked, done + 1)]
    left, skip = walked.left()
    rest = [one for number, unit in enumerate(left) for one in islice(unit.inputs(limits=DEFAULT_LIMITS),
                                                                      0 if number else skip, None)]  # fmt: skip
    whole = [*named(mixed).inputs(limits=DEFAULT_LIMITS)]
    assert told(taken) == told(whole[: done + 1])
    assert told(rest) == told(whole[done:])  # the input taken last is the first to be answered


@pytest.mark.parametrize("changed", ["b0.jpg", ""])
def test_workers_begin_where_rows_are_missing_or_a_picture_has_changed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The way of `--ray --resume`, with one worker in this process in the place of a cluster."""
    monkeypatch.setattr(workers, "spread", here)
    monkeypatch.setattr(outputs, "_SECONDS", 0.0)
    photos.save(tmp_path / "x", photos.crops("flower.jpg", 3), prefix="a")
    photos.save(tmp_path / "y", photos.crops("china.jpg", 3), prefix="b")
    model, pieces = load(run), tuple(Unit((str(tmp_path / name),)) for name in "xy")

    def rows(file: str, stop: int = 99) -> tuple[int, str]:
        number = count(1)

        def stopping(_: object) -> None:
            if next(number) > stop:
                raise KeyboardInterrupt

        walked = Walked(pieces, limits=DEFAULT_LIMITS)
        with open_writer(
            tmp_path / file, format="csv", classes=model.classes, all_probabilities=True, resume=True
        ) as sink:
            predict_all(Fleet(model, pieces, 1, walked=walked), walked, sink, listen=stopping if stop < 99 else None)
        return sink.resumed, sink.changed

    with pytest.raises(KeyboardInterrupt):
        rows("p.csv", stop=5)
    if changed:
        shutil.copy(tmp_path / "x" / "a0.jpg", tmp_path / "y" / changed)
    resumed, said = rows("p.csv")
    assert resumed == (3 if changed else 5)
    assert ("which has changed" in said) == bool(said) == bool(changed)
    assert rows("whole.csv") == (0, "")
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def here(
    pieces: tuple[Unit, ...], make: Callable[[], Callable[[object], object]], *, skip: int, **_: object
) -> Iterator[object]:
    answer = make()
    for number, piece in enumerate(pieces):
        inputs = piece.inputs(limits=DEFAULT_LIMITS)
        yield from (answer(blocks.of_inputs(some)) for some in together(inputs if number else islice(inputs, skip, 99)))


def test_packs_are_closed_by_number_and_by_bytes() -> None:
    small = [*together(Input(str(i)) for i in range(2 * PACK + 1))]
    assert [len(pack) for pack in small] == [PACK, PACK, 1]
    large = [*together(Input(str(i), data=bytes(PACK_BYTES // 2)) for i in range(5))]
    assert [len(pack) for pack in large] == [2, 2, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ray-workers", "2"), "--ray-workers is the number of processes of --ray"),
        (("--ray", "--ray-workers", "0"), "--ray-workers is the number of processes of --ray, 1 or more"),
    ],
)
def test_what_cannot_be_is_said(flags: tuple[str, ...], message: str, run: Path, mixed: list, tmp_path: Path) -> None:
    said = photos.graftage("predict", run, mixed[0], *(flag.format(tmp_path) for flag in flags))
    assert (said.status, re.search(message, said.err) is not None) == (2, True), said.err


# ---------------------------------------------------------------- with a cluster of two workers


@pytest.fixture(scope="module", autouse=True)
def own_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clusters of these tests ask for a token made for them alone; else Ray keeps one in the user's home."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        yield


@pytest.fixture(scope="module")
def address(own_cache: Path) -> Iterator[str]:
    """HOST:PORT of a cluster for all tests below but the first: starting one takes longer than what is asked of it."""
    pytest.importorskip("ray.data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    alone = ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    ray = subprocess.Popen(
        [*start, *alone, "--num-cpus=2", f"--object-store-memory={2**28}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "RAY_worker_niceness": "0"},
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(ray.pid, signal.SIGKILL)  # all that it has started; asked kindly, it takes half a minute
        ray.wait()


def test_predict_writes_the_bytes_of_one_process(run: Path, mixed: list[Path | str], tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    words = ("predict", run, *mixed, "--list", listing(mixed), "--id-col", "sku", "--all")
    told = "--most-worth", 5, "--drift-report"
    alone = photos.graftage(*words, "-o", tmp_path / "alone.csv", *told, tmp_path / "alone.json")
    spread = photos.graftage(
        "predict", "--ray", *words[1:], "-o", tmp_path / "spread.csv", *told, tmp_path / "spread.json",
        "--ray-workers", 2,
    )  # fmt: skip
    assert spread.status == alone.status == 0, spread.err
    assert (tmp_path / "spread.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert (tmp_path / "spread.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert photos.read_json(tmp_path / "spread.json")["pictures"] == 48 + 9 + 11 + 7 + 48
    assert spread.out == alone.out.replace("alone.csv", "spread.csv")


def test_a_killed_command_goes_on_with_a_cluster_or_without(
    run: Path, mixed: list[Path | str], address: str, tmp_path: Path
) -> None:
    """No row is lost or doubled, parts are whole, and what drift says is that of a run that was not killed."""
    paths = listing(mixed).read_text()
    (tmp_path / "list").write_text(paths * 120)
    words = ("predict", run, *mixed[:3], "--list", tmp_path / "list", "--id-col", "sku", "--format", "parquet",
             "--rows-per-part", 2000)  # fmt: skip
    target, note = tmp_path / "parts", tmp_path / "parts" / ".resume"
    noted = 0
    for ray in (("--ray", address), ()):
        killed = killed_after(noted + 400, note, *words, "-o", target, "--drift", "--resume", *ray)
        assert killed > noted
        noted = killed
    report = "--drift-report", tmp_path / "parts.json"
    last = photos.graftage(*words, "-o", target, *report, "--resume", "--ray", address)
    assert last.status == 0, last.err
    assert f"goes on after {noted:,} rows" in last.err
    whole = photos.graftage(*words, "-o", tmp_path / "whole", "--drift-report", tmp_path / "whole.json")
    assert last.out == whole.out.replace(str(tmp_path / "whole"), str(target))
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    files = sorted(path.name for path in target.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == 3
    assert all((target / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)


def killed_after(rows: int, note: Path, *words: object) -> int:
    """Runs a command in a process that is killed once it has noted so many rows; how many it had noted then."""
    command = [sys.executable, "-m", "graftage", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and rows_of(note) < rows:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was through before it could be killed"
    return rows_of(note)


def rows_of(note: Path) -> int:
    return int(photos.read_json(note)["rows"]) if note.exists() else 0


def test_embed_writes_the_bytes_of_one_process(
    weights_file: Callable[[str], Path], mixed: list[Path | str], address: str, tmp_path: Path
) -> None:
    words = ("embed", *mixed[:3], "--id-col", "sku", "--backbone", f"{weights_file('test_efficientnet')}@32")
    alone = photos.graftage(*words, "-o", tmp_path / "alone.parquet")
    spread = photos.graftage("embed", "--ray", address, *words[1:], "-o", tmp_path / "spread.parquet")
    assert spread.status == alone.status == 0, spread.err
    assert (tmp_path / "spread.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_a_killed_worker_loses_and_doubles_nothing(
    run: Path, class_folders: Path, address: str, tmp_path: Path
) -> None:
    paths = [str(path) for path in sorted(class_folders.rglob("*.jpg"))[::2]]
    model = load(run)
    expected = model.predict(paths)
    pieces = [Unit((path,)) for path in paths]  # a pack of one each
    opened = partial(predicting, (run / "model.safetensors").read_bytes(), model.forward.key, load, 1)

    def make() -> Callable[[object], object]:  # within the test: workers do not see this file
        answer = opened()

        def slowly(block: object) -> object:
            (tmp_path / f"{os.getpid()}").touch()
            time.sleep(0.2)
            return answer(block)

        return slowly

    found, killed = [], 0
    with cluster(address) as count:
        assert count == 2
        for block in spread(pieces, make, workers=count, limits=DEFAULT_LIMITS):
            found += [one.prediction for one in blocks.to_answers(block)]
            if len(found) in (5, 14):
                os.kill(int(max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime).name), signal.SIGKILL)
                killed += 1
    assert killed == 2
    assert found == expected
    assert len([*tmp_path.iterdir()]) >= 3  # at least one was started anew


def test_a_worker_with_another_engine_is_refused(run: Path) -> None:
    model: Predictor = load(run)
    answer = predicting((run / "model.safetensors").read_bytes(), "another", load, 1)
    assert "engine" in blocks.fault_of(answer(blocks.of_inputs([Input("a")])))
    assert not blocks.fault_of(blocks.of_answers([*model.answers([Input("a", reason="nothing")])]))
