"""The door to the hub: what is fetched whole, resumed, refused, and carried to a machine without network.

The hub is stood in for by a server on this machine that answers as the real one does: the client is the real one.
"""

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from graftage.errors import BackboneError
from graftage.features import hubcache
from graftage.features.backbone import find
from graftage.features.cache import cache_root
from graftage.features.carried import MANIFEST, carry_in, carry_out
from graftage.features.hub import WEIGHTS, AbsentError, fetch, fetch_optional
from graftage.features.hubcache import DamagedError
from graftage.features.weights import read_weights
from photos import graftage

REPOSITORY = "timm/test_resnet.r160_in1k"
ID = "timm/test_resnet.r160_in1k"
OTHER = "someone/else"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = bytes(range(256)) * 4000  # a megabyte
SAFE, OLD = WEIGHTS


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Hub:
    """What the stand-in holds, how it misbehaves, and what it was asked."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: bool = False
    wait: float = 0.0  # seconds before an answer
    over: threading.Event = field(default_factory=threading.Event)
    sent_only: list[int] = field(default_factory=list)  # of the next answers: bytes after which the wire is cut
    spoilt: bool = False  # bytes that are not those of the hash
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    sent: int = 0  # bytes of bodies

    def put(self, name: str, content: bytes, repository: str = REPOSITORY) -> None:
        self.files[repository, name] = content


def handler_of(shelf: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def say(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def answer(self, *, body: bool) -> None:
            shelf.asked.append(f"{self.command} {self.path}")
            shelf.over.wait(shelf.wait)
            if self.path.startswith("/api/models/"):
                repository = self.path.removeprefix("/api/models/").split("/revision/")[0]
                card = {"id": repository, "sha": COMMIT, "tags": [], "cardData": {"license": "mit"}, "siblings": []}
                self.say(200, {"Content-Type": "application/json"}, json.dumps(card).encode())
                return
            organisation, name, _, revision, file = self.path.lstrip("/").split("/", 4)
            repository = f"{organisation}/{name}"
            if repository not in {key[0] for key in shelf.files}:
                self.say(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            elif shelf.gated:
                self.say(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            elif revision not in ("main", COMMIT):
                self.say(404, {"X-Error-Code": "RevisionNotFound"})
            elif (content := shelf.files.get((repository, file))) is None:
                self.say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                self.give(content, large=file in WEIGHTS, body=body)

        def give(self, content: bytes, *, large: bool, body: bool) -> None:
            etag = sha256(content) if large else git_hash(content)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if large:
                headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{etag}"'}
            start, total = 0, len(content)
            if (wanted := self.headers.get("Range")) and shelf.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= total:
                    self.say(416, {"Content-Range": f"bytes */{total}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            if shelf.spoilt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            rest = content[start:]
            if not body:
                self.say(200, headers | {"Content-Length": str(total)})
                return
            self.send_response(206 if "Content-Range" in headers else 200)
            for key, value in (headers | {"Content-Length": str(len(rest))}).items():
                self.send_header(key, value)
            self.end_headers()
            if large and shelf.sent_only:
                rest = rest[: shelf.sent_only.pop(0)]
                self.close_connection = True
            shelf.sent += len(rest)  # before it goes: who asked may be done before this thread comes here again
            self.wfile.write(rest)

    return Handler


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, which the client takes for the real one."""
    held = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(held))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    use(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield held
    held.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A weights file of a tiny network of timm, weights drawn at random, and what is in it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    path = tmp_path_factory.mktemp("network") / SAFE
    save_file(state, path)
    return path.read_bytes(), state


def get(**options: Any) -> Path:
    return fetch(REPOSITORY, WEIGHTS, backbone_id=ID, **options)


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"


# ---------------------------------------------------------------- fetched


def test_a_file_is_fetched_into_the_hubs_own_cache_and_then_no_more(shelf: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    shelf.put(SAFE, CONTENT)
    told: list[tuple[str, int, int]] = []
    path = get(progress=lambda *all_: told.append(all_))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (SAFE, len(CONTENT), len(CONTENT))
    assert path == cache(tmp_path) / "snapshots" / COMMIT / SAFE
    assert path.resolve() == (cache(tmp_path) / "blobs" / sha256(CONTENT)).resolve()
    assert Path(hf_hub_download(REPOSITORY, SAFE, local_files_only=True)) == path  # the hub's own client finds it
    asked = len(shelf.asked)
    assert get() == path
    assert len(shelf.asked) == asked


def test_a_small_file_is_held_against_gits_hash(shelf: Hub, tmp_path: Path) -> None:
    shelf.put("config.json", b"{}")
    path = fetch_optional(REPOSITORY, "config.json")
    assert path is not None
    assert path.resolve().name == git_hash(b"{}")
    assert fetch_optional(REPOSITORY, "README.md") is None
    shelf.put("README.md", b"good")
    shelf.spoilt = True
    with pytest.raises(DamagedError, match="came with other bytes than the hub says"):
        fetch_optional(REPOSITORY, "README.md")


def test_without_safetensors_the_older_file_is_taken(shelf: Hub) -> None:
    shelf.put(OLD, CONTENT)
    assert get().name == OLD
    assert [line.split()[0] for line in shelf.asked] == ["HEAD", "HEAD", "GET"]


def test_a_repository_without_weights_is_said(shelf: Hub) -> None:
    shelf.put("config.json", b"{}")
    with pytest.raises(AbsentError, match=f"{REPOSITORY} on the hub holds none of {SAFE}, {OLD}") as caught:
        get()
    assert caught.value.certain


@pytest.mark.parametrize("typed", ["no spaces", "a/b/c", "a--b"])
def test_a_name_that_no_repository_has(typed: str, shelf: Hub) -> None:
    with pytest.raises(BackboneError, match="is no name of a repository"):
        fetch(typed, WEIGHTS, backbone_id=f"hf-hub:{typed}")
    assert not shelf.asked


def test_a_repository_that_is_not_there(shelf: Hub, tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match=f"the hub has no repository {REPOSITORY}, or shows it to its members only"):
        get()
    assert not everything(tmp_path / "hub")


def test_terms_that_must_be_accepted_first(shelf: Hub) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.gated = True
    with pytest.raises(
        AbsentError, match=rf"accept them at http://127.*/{REPOSITORY}, then run `hf auth login`"
    ) as caught:
        get()
    assert not caught.value.certain


def test_a_revision(shelf: Hub) -> None:
    shelf.put(SAFE, CONTENT)
    assert get(revision=COMMIT).read_bytes() == CONTENT
    with pytest.raises(AbsentError, match="has no such revision"):
        get(revision="v2")


def test_a_login_page_is_no_hub(shelf: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_HEADER_X_REPO_COMMIT", "X-None")  # as any other server answers
    shelf.put(SAFE, CONTENT)
    with pytest.raises(BackboneError, match="answers, but not as the hub does"):
        get()


# ---------------------------------------------------------------- a bad wire


def test_a_slow_hub_is_given_up_in_time(shelf: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    shelf.put(SAFE, CONTENT)
    shelf.wait = 60.0
    began = time.monotonic()
    with pytest.raises(AbsentError, match=r"did not answer in time \(ReadTimeout; HF_HUB_ETAG_TIMEOUT"):
        get()
    assert time.monotonic() - began < 30  # 0.2 s a question, and no long tries again


def test_a_hub_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    use("http://127.0.0.1:9", monkeypatch)  # nobody listens there
    with pytest.raises(
        AbsentError, match=r"is not on this machine and the hub did not give it \(ConnectError\)"
    ) as caught:
        get()
    for part in (
        f"graftage backbones --download {ID} --to FOLDER",
        "--from FOLDER",
        f"hf download {REPOSITORY} {SAFE}",
    ):
        assert part in str(caught.value)


def test_a_broken_wire_is_taken_up_again_by_the_same_call(shelf: Hub) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.sent_only = [300_000, 400_000]
    assert get().read_bytes() == CONTENT
    assert shelf.sent == len(CONTENT)  # nothing twice
    assert sum(line.startswith("GET") for line in shelf.asked) == 3


def test_a_broken_download_is_taken_up_by_the_next_call(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.sent_only = [300_000, 0]
    with pytest.raises(AbsentError, match=r"the download broke off at 0\.3 MB of 1\.0 MB .*; the same command goes on"):
        get()
    assert list(everything(cache(tmp_path) / "blobs")) == [f"{sha256(CONTENT)}.incomplete"]
    assert hubcache.find(REPOSITORY, SAFE, None) is None
    assert get().read_bytes() == CONTENT
    assert shelf.sent == len(CONTENT)


def test_a_hub_that_knows_no_ranges_sends_all_again(shelf: Hub) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.sent_only, shelf.ranges = [300_000], False
    assert get().read_bytes() == CONTENT
    assert shelf.sent == 300_000 + len(CONTENT)


def test_a_beginning_of_something_else_is_not_gone_on_with(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    partial = cache(tmp_path) / "blobs" / f"{sha256(CONTENT)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 500_000)
    with pytest.raises(DamagedError, match="what came has been removed: try again"):
        get()
    assert not everything(tmp_path / "hub")
    partial.write_bytes(b"x" * (len(CONTENT) + 1))  # longer than the file: the hub has nothing behind it
    assert get().read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_nothing_stays(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.spoilt = True
    with pytest.raises(DamagedError, match=rf"{REPOSITORY}/{SAFE} came with other bytes .*{sha256(CONTENT)[:16]}"):
        get()
    assert not everything(tmp_path / "hub")
    shelf.spoilt = False
    assert get().read_bytes() == CONTENT


# ---------------------------------------------------------------- the cache


def test_a_file_that_was_damaged_in_the_cache_is_found_at_its_first_use(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    path = get()
    path.resolve().write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        DamagedError, match=r"this file is damaged .*has been removed, and the same command gets it again"
    ):
        get()
    assert not [name for name in everything(cache(tmp_path)) if name.startswith(("blobs", "snapshots"))]
    assert get().read_bytes() == CONTENT


def test_a_whole_file_is_read_once(shelf: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(SAFE, CONTENT)
    path = get()
    shutil.rmtree(cache_root() / "checked")
    seen: list[Path] = []
    digest = hubcache.digest
    monkeypatch.setattr(hubcache, "digest", lambda file, like: seen.append(file) or digest(file, like))
    assert get() == get() == path
    assert seen == [path]


def test_a_damaged_blob_of_another_commit_is_not_taken(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    blob = cache(tmp_path) / "blobs" / sha256(CONTENT)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x")
    with pytest.raises(DamagedError, match="has been removed"):
        get()
    assert get().read_bytes() == CONTENT


def test_a_file_system_without_links(shelf: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_SYMLINKS", True)
    shelf.put(SAFE, CONTENT)
    path = get()
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT
    assert not everything(cache(tmp_path) / "blobs")


def test_offline_with_and_without_the_file(shelf: Hub, offline: Callable[[], None]) -> None:
    shelf.put(SAFE, CONTENT)
    path = get()
    shelf.asked.clear()
    offline()
    assert get() == path
    with pytest.raises(AbsentError, match=f"{SAFE} of {OTHER} is not on this machine and HF_HUB_OFFLINE is set"):
        fetch(OTHER, WEIGHTS, backbone_id=f"hf-hub:{OTHER}")
    assert fetch_optional(REPOSITORY, "config.json") is None
    assert not shelf.asked


class FullDisk:
    """A file that takes half of what it is given, then nothing."""

    def __init__(self, file: Any) -> None:
        self._file, self._room = file, 200_000

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, piece: bytes) -> int:
        if self._room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= len(piece)
        return int(self._file.write(piece))


def test_a_disk_that_fills_up(shelf: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(SAFE, CONTENT)
    real = Path.open

    def opened(path: Path, *given: Any, **named: Any) -> Any:
        file = real(path, *given, **named)
        return FullDisk(file) if path.suffix == ".incomplete" and "b" in str(given) else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(BackboneError, match=r"blobs: the disk is full; free some space; HF_HOME moves the hub's cache"):
        get()
    assert not everything(tmp_path / "hub")


def test_a_disk_without_room_is_said_before(shelf: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(SAFE, CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(BackboneError, match=r"1\.0 MB are needed and 1\.0 kB are free"):
        get()
    assert not any(line.startswith("GET") for line in shelf.asked)


def test_a_cache_that_cannot_be_written(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(BackboneError, match="it cannot be written"):
        get()


# ---------------------------------------------------------------- carried


@pytest.fixture
def carried(shelf: Hub, network: tuple[bytes, dict], tmp_path: Path) -> Path:
    """A folder that holds the tiny network, written where there is a hub."""
    shelf.put(SAFE, network[0])
    shelf.put("config.json", b'{"architecture": "test_resnet"}')
    carry_out(ID, tmp_path / "stick")
    return tmp_path / "stick"


@pytest.fixture
def away(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: Callable[[], None]) -> Path:
    """The same on another machine, which has an empty cache and no network."""
    offline()
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("GRAFTAGE_CACHE", str(tmp_path / "other-graftage"))
    return carried


def manifest(folder: Path) -> Path:
    return folder / "timm--test_resnet.r160_in1k" / MANIFEST


def test_a_network_is_carried_to_a_machine_without_network(
    away: Path, network: tuple[bytes, dict], shelf: Hub, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set"):
        find(ID)
    shelf.asked.clear()
    (brought,) = carry_in(away)
    assert (brought.id, brought.revision, brought.ref, brought.licence) == (ID, COMMIT, "main", "apache-2.0")
    assert [file.name for file in brought.files] == [SAFE, "config.json"]
    weights = read_weights(find(ID))
    assert weights
    for name, array in weights.items():
        assert torch.equal(torch.from_numpy(array.copy()), network[1][name])
    assert {path.name for path in (tmp_path / "other" / cache(tmp_path).name / "blobs").iterdir()} == {
        sha256(network[0]),
        git_hash(b'{"architecture": "test_resnet"}'),
    }
    assert not shelf.asked


def test_a_folder_can_be_brought_twice_and_written_twice(away: Path, tmp_path: Path, shelf: Hub) -> None:
    before = everything(away)
    assert carry_in(away) == carry_in(manifest(away).parent)  # the network's own folder, too
    shelf.asked.clear()
    carry_out(ID, away)  # from the cache that it was brought to
    assert everything(away) == before
    assert not shelf.asked
    assert not list(away.glob(".*"))


def test_something_else_of_the_same_name_is_not_written_over(carried: Path) -> None:
    file = manifest(carried).parent / SAFE
    file.write_bytes(b"mine")
    with pytest.raises(BackboneError, match="something else is here already; choose another folder"):
        carry_out(ID, carried)
    assert file.read_bytes() == b"mine"


def test_a_repository_of_anyone_is_carried_with_what_explains_it(shelf: Hub, tmp_path: Path) -> None:
    for name in (SAFE, "config.json", "preprocessor_config.json", "README.md", "train.py"):
        shelf.put(name, name.encode(), OTHER)
    out = carry_out(f"hf-hub:{OTHER}@{COMMIT}", tmp_path / "stick")
    assert [file.name for file in out.files] == [SAFE, "config.json", "preprocessor_config.json", "README.md"]
    assert (out.licence, out.ref) == ("mit", COMMIT)
    assert [one.id for one in carry_in(tmp_path / "stick")] == [f"hf-hub:{OTHER}@{COMMIT}"]


def test_a_hub_that_breaks_off_leaves_nothing_in_the_folder(shelf: Hub, tmp_path: Path) -> None:
    shelf.put(SAFE, CONTENT)
    shelf.sent_only = [300_000, 0]
    with pytest.raises(AbsentError, match="broke off"):
        carry_out(ID, tmp_path / "stick")
    assert not (tmp_path / "stick").exists()


def test_a_stick_that_fills_up_is_left_as_it_was(shelf: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(SAFE, CONTENT)
    get()
    real = Path.open

    def opened(path: Path, *given: Any, **named: Any) -> Any:
        if given == ("xb",):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(BackboneError, match="stick: the disk is full; free some space; choose another folder"):
        carry_out(ID, tmp_path / "stick")
    assert not list((tmp_path / "stick").iterdir())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("bundled/efficientnet_lite0", "comes with the package"),
        ("keras/VGG16", "KERAS_HOME"),
        ("timm/no_such_network", "timm has no pretrained model"),
        (__file__, "is a file already"),
    ],
)
def test_what_needs_no_carrying_is_said(typed: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=said):
        carry_out(typed, tmp_path)


def of_file(**changed: object) -> Callable[[dict], None]:
    return lambda listed: listed["files"][0].update(changed)


def of_all(**changed: object) -> Callable[[dict], None]:
    return lambda listed: listed.update(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_file(name="../../evil"), "name may not be"),
        (of_file(name="/etc/passwd"), "name may not be"),
        (of_file(name=".."), "name may not be"),
        (of_file(name="a\\b"), "name may not be"),
        (of_file(name=MANIFEST), "each once"),
        (of_file(name="config.json"), "each once"),
        (of_file(name=7), "name may not be"),
        (of_file(size=-1), "size may not be"),
        (of_file(size=True), "size may not be"),
        (of_file(size=1), "this file is damaged"),
        (of_file(sha256="0" * 64), "this file is damaged"),
        (of_file(blob="0" * 64), "has not the hash"),
        (of_file(blob="../../x"), "blob may not be"),
        (of_all(repository="../../evil"), "repository may not be"),
        (of_all(repository=OTHER), f"is not main of {OTHER} but main of {REPOSITORY}"),
        (of_all(revision="main"), "revision may not be"),
        (of_all(ref="../../evil"), "ref may not be"),
        (of_all(ref="v1"), "is not v1 of"),
        (of_all(id="timm/no_such_network"), "no network timm/no_such_network is known here"),
        (of_all(licence="a\x1b[2J"), "licence may not be"),
        (of_all(files=[]), "files must be listed"),
        (of_all(files=None), "not what graftage wrote"),
        (of_all(format=2), "format 2 is not known; a newer graftage wrote it"),
        (lambda listed: listed.pop("id"), "'id' is missing"),
    ],
)
def test_a_manifest_that_says_what_it_may_not(
    change: Callable[[dict], None], said: str, away: Path, tmp_path: Path
) -> None:
    listed = json.loads(manifest(away).read_text())
    change(listed)
    manifest(away).write_text(json.dumps(listed))
    refused(away, said, tmp_path)


def refused(folder: Path, said: str, tmp_path: Path) -> None:
    before = everything(folder)
    with pytest.raises(BackboneError, match=said):
        carry_in(folder)
    assert everything(folder) == before
    assert not [path for path in (tmp_path / "other").rglob("*") if ".locks" not in path.parts]


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "[" * 100_000, '"' + "x" * 1_000_000 + '"'])
def test_a_manifest_that_is_none(content: str, away: Path, tmp_path: Path) -> None:
    manifest(away).write_text(content)
    refused(away, "this is not what graftage wrote", tmp_path)


def test_links_are_not_followed(away: Path, tmp_path: Path) -> None:
    file = manifest(away).parent / SAFE
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    refused(away, "this file is missing, or a link", tmp_path)
    file.unlink()
    shutil.move(tmp_path / "elsewhere", file)
    shutil.move(manifest(away), tmp_path / "elsewhere")
    manifest(away).symlink_to(tmp_path / "elsewhere")
    refused(away, "it is a link", tmp_path)


@pytest.mark.parametrize("name", [SAFE, "config.json"])
def test_a_file_that_is_missing_cut_or_changed(name: str, away: Path, tmp_path: Path) -> None:
    file = manifest(away).parent / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(away, f"{name}: this file is damaged .SHA-256", tmp_path)
    file.write_bytes(whole[:-1])
    refused(away, f"{name}: this file is damaged .*bytes, expected", tmp_path)
    file.unlink()
    refused(away, f"{name}: this file is missing", tmp_path)


def test_one_bad_network_keeps_the_others_out(away: Path, tmp_path: Path) -> None:
    shutil.copytree(manifest(away).parent, away / "zz")
    (away / "zz" / SAFE).write_bytes(b"")
    refused(away, "zz/model.safetensors: this file is damaged", tmp_path)


def test_a_damaged_file_of_the_cache_is_replaced_by_what_is_brought(away: Path) -> None:
    carry_in(away)
    blob = find(ID).file.resolve()
    whole = blob.read_bytes()
    blob.write_bytes(b"x" * len(whole))
    carry_in(away)
    assert blob.read_bytes() == whole
    assert find(ID).info.weights_sha256 == sha256(whole)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_networks(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    if there:
        folder.mkdir()
    with pytest.raises(BackboneError, match="no network lies here" if there else "no such folder"):
        carry_in(folder)


# ---------------------------------------------------------------- the command


def test_the_command_carries_out_and_in(
    shelf: Hub,
    network: tuple[bytes, dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offline: Callable[[], None],
) -> None:
    shelf.put(SAFE, network[0])
    said = graftage("backbones", "--download", ID, "--to", tmp_path / "stick")
    assert said.status == 0
    assert f"sha256 {sha256(network[0])}" in said.out
    assert f"on the other machine: graftage backbones --from {tmp_path / 'stick'}" in said.out
    offline()
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    assert ID not in graftage("backbones").out
    said = graftage("backbones", "--from", tmp_path / "stick")
    assert said.status == 0
    assert f"ready without network: {ID}" in said.out
    assert ID in graftage("backbones").out


TOGETHER = "give --download ID with --to FOLDER, or --from FOLDER alone"
ALONE = "--download, --to and --from go with no other flag"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--download", ID), TOGETHER),
        (("--to", "x"), TOGETHER),
        (("--from", "x", "--to", "y"), TOGETHER),
        (("--download", ID, "--from", "x"), TOGETHER),
        (("--download", ID, "--to", "x", "--from", "y"), TOGETHER),
        (("--download", ID, "--to", "x", "--json"), ALONE),
        (("resnet", "--download", ID, "--to", "x"), ALONE),
        (("--from", "x", "--offline"), ALONE),
        (("--from", "x", "--measure", ID), ALONE),
        (("--from", "nowhere"), "nowhere: no such folder"),
        (("--download", "bundled/efficientnet_lite0", "--to", "x"), "comes with the package"),
    ],
)
def test_flags_that_do_not_belong_together(
    flags: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = graftage("backbones", *flags)
    assert said.status == 2
    assert why in said.err
    assert not list(tmp_path.glob("[xy]"))
