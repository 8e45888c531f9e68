"""`graftage serve`: what is refused before anything listens; then the process: slow senders, draining, its log."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

import graftage as gr
from graftage.commands import serve as serving
from graftage.commands.serve import names_of, rules_for
from graftage.serve.guard import Rules
from graftage.serve.predict import load
from photos import graftage

KEY = "0123456789abcdef"


@dataclass(frozen=True)
class Server:
    """A running `graftage serve`."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


@contextmanager
def running(log: Path, *arguments: object, **environment: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "graftage", "serve", *map(str, arguments), "--port", "0"]
    env = {**os.environ, **environment}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert " on http://" in said, log.read_text(encoding="utf-8")
        yield Server(process, said.split()[-1], log)
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def server(locked: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log.jsonl"
    with running(log, locked / "model.safetensors", "--timeout", "3", "--max-bytes", "300000") as server:
        yield server


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "arguments are required"),
        (["missing.safetensors"], "missing.safetensors: there is no such file"),
        (["a b=x.safetensors"], "a model's name holds 1 to 64 letters"),
        (["m.safetensors", "other/m.safetensors"], "are both named 'm': say NAME=other/m.safetensors"),
        (["m.safetensors", "--host", "0.0.0.0"], "host 0.0.0.0 lets other machines in: set GRAFTAGE_API_KEY"),
        (["m.safetensors", "--api-key", "short"], "the API key must have 16 or more ASCII characters"),
        (["m.safetensors", "--api-key", ""], "the API key must have 16 or more ASCII characters"),
        (["m.safetensors", "--port", "99999"], "port must be 0 to 65535, got 99999"),
        (["m.safetensors", "--host", "192.0.2.1", "--no-auth"], "192.0.2.1 port 8000 cannot be listened on"),
        (["m.safetensors", "--timeout", "0"], "seconds must be above 0, got 0"),
        (["m.safetensors", "--max-pictures", "0"], "max_pictures must be above 0, got 0"),
        (["m.safetensors", "-j=-1"], "workers must be 0 or more, got -1"),
        (["m.safetensors", "--listen", "x"], "unrecognized arguments: --listen"),
    ],
)
def test_what_cannot_be_served_is_told(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAFTAGE_API_KEY", raising=False)
    said = graftage("serve", *options)
    assert said.status == 2
    assert message in said.err, said.err
    assert "Traceback" not in said.err


def test_a_queue_that_is_too_short_is_told(locked: Path) -> None:
    said = graftage("serve", locked / "model.safetensors", "--port", "0", "--queue", "3")
    assert (said.status, "queue 3 cannot hold a request of 64 pictures" in said.err) == (2, True), said.err


def test_a_port_in_use_is_told(locked: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = graftage("serve", locked / "model.safetensors", "--port", taken.getsockname()[1])
    assert said.status == 2
    assert "cannot be listened on (Address already in use); take another --port" in said.err


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_NEEDED", ("fastapi", "no_such_package"))
    said = graftage("serve", "m.safetensors")
    assert (said.status, said.err) == (
        2,
        "graftage: serve needs no_such_package: run `pip install 'graftage[serve]'`\n",
    )


def test_other_machines_need_a_key_or_a_word() -> None:
    def rules(host: str, given: str | None = None, kept: str | None = None, *, no_auth: bool = False) -> Rules:
        return rules_for(host, given, kept, no_auth=no_auth, seconds=5)

    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert rules(host).key == ""
        assert "localhost" in rules(host).hosts
    for host in ("0.0.0.0", "::", "example.org", "10.0.0.1"):
        with pytest.raises(gr.OptionError, match="lets other machines in"):
            rules(host)
        assert rules(host, no_auth=True).key == ""
        assert rules(host, KEY).key == rules(host, kept=KEY).key == KEY
        assert rules(host, KEY).hosts == frozenset()
    assert rules("::", KEY, "another key of enough length").key == KEY


def test_models_are_named_after_their_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_of(["birds/model.safetensors", "ants.safetensors", "x=model.safetensors"]) == {
        "birds": Path("birds/model.safetensors"),
        "ants": Path("ants.safetensors"),
        "x": Path("model.safetensors"),
    }
    odd = tmp_path / "a=b c" / "model.safetensors"
    odd.parent.mkdir()
    odd.touch()
    assert names_of(["a=b c/model.safetensors"]) == {"a-b-c": Path("a=b c/model.safetensors")}
    assert names_of(["a=b c", "y=a=b c"]) == {"a-b-c": Path("a=b c"), "y": Path("a=b c")}  # the folder of a run


# ---------------------------------------------------------------- the process


def picture(class_folders: Path) -> bytes:
    return (class_folders / "2" / "0.jpg").read_bytes()


def test_it_answers_as_predict_does(server: Server, locked: Path, class_folders: Path) -> None:
    data = picture(class_folders)
    answer = httpx2.post(f"{server.url}/v1/predict", content=data).json()
    expected = load(locked / "model.safetensors").predict_bytes(data)
    assert tuple(answer["predictions"][0]["probabilities"]) == expected.probabilities
    assert answer["model"] == locked.name


def test_an_answer_is_not_held_back_for_company(server: Server) -> None:
    with httpx2.Client() as client:
        client.get(f"{server.url}/healthz")
        times = []
        for _ in range(30):
            started = time.perf_counter()
            client.get(f"{server.url}/healthz")
            times.append(time.perf_counter() - started)
    assert min(times) < 0.03  # Nagle's algorithm and a delayed acknowledgement would make it 0.04


def said_to(port: int, first: bytes, more: bytes = b"", *, times: int = 200) -> tuple[bytes, float]:
    """What is answered to bytes that come a few at a time, and after how long."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(first)
        line.settimeout(0.2)
        for _ in range(times):
            try:
                return line.recv(4096), time.monotonic() - started
            except TimeoutError:
                if more:
                    line.sendall(more)
    raise AssertionError("no answer")


SLOW = {
    "body": (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n", b"x"),
    "chunks": (b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "header": (b"POST /v1/predict HTTP/1.1\r\nHost: loc", b"a"),
    "nothing": (b"", b""),
}


def test_slow_senders_get_408(server: Server) -> None:
    with ThreadPoolExecutor() as all_at_once:
        told = {name: all_at_once.submit(said_to, server.port, *said) for name, said in SLOW.items()}
    for name, future in told.items():
        answer, seconds = future.result()
        assert answer.startswith(b"HTTP/1.1 408"), name
        assert 2.9 < seconds < 20, name


def test_an_endless_header_gets_431(server: Server) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"a" * 50_000
    assert said_to(server.port, head, b"a" * 30_000)[0].startswith(b"HTTP/1.1 431")


def test_what_is_no_http_gets_400_and_the_server_goes_on(server: Server) -> None:
    assert said_to(server.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")[0].startswith(b"HTTP/1.1 400")
    assert httpx2.get(f"{server.url}/readyz").status_code == 200


def test_a_sender_of_too_much_sees_why(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
        line.sendall(bytes(20_000_000))  # all of it, before it looks for an answer
        assert line.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_keyless_server_does_not_answer_under_other_names(server: Server) -> None:
    assert httpx2.get(f"{server.url}/", headers={"host": "evil.example"}).status_code == 421


def test_the_log_is_a_line_of_json_per_request(server: Server) -> None:
    httpx2.get(f"{server.url}/v1/models", params={"secret": "1"})
    for _ in range(100):  # it is written once the answer has been sent
        if (line := server.lines()[-1])["route"] == "/v1/models":
            break
        time.sleep(0.02)
    assert (line["event"], line["method"], line["route"], line["status"]) == ("request", "GET", "/v1/models", 200)
    assert "secret" not in server.log.read_text(encoding="utf-8")


def test_a_key_from_the_environment_is_asked_for(locked: Path, tmp_path: Path) -> None:
    with running(tmp_path / "log", locked / "model.safetensors", GRAFTAGE_API_KEY=KEY) as server:
        assert httpx2.get(f"{server.url}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers).json() == {"models": [locked.name]}
        assert KEY not in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_answers_what_it_has_and_leaves_with_0(
    locked: Path, class_folders: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    data = picture(class_folders)
    parts = [("p", (f"{i}.jpg", data, "image/jpeg")) for i in range(64)]
    found: list[int] = []
    with running(tmp_path / "log", locked / "model.safetensors", "-j", "1") as server:

        def ask() -> None:
            found.append(len(httpx2.post(f"{server.url}/v1/predict", files=parts, timeout=120).json()["predictions"]))

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        busy = f"{server.url}/metrics"
        while "graftage_queue_pictures 192" not in httpx2.get(busy).text and not found:
            time.sleep(0.01)
        server.process.send_signal(stop)
        for thread in asking:
            thread.join(120)
        assert server.process.wait(120) == 0
        assert found == [64, 64, 64]
        assert [line["status"] for line in server.lines() if line.get("route") == "/v1/predict"] == [200] * 3
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/healthz")
