"""A page's folder in a headless browser of its own: pictures in, rows out, over loopback alone (W).

Any Chromium will do, by its command line; nothing drives it. A page beside that of the folder asks this process for
pictures and answers with the rows that the page itself would show.
"""

import contextlib
import functools
import http.server
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_DOWNLOADED = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-win*/chrome.exe", "chromium-*/**/MacOS/*Chrom*")
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
)
_SCRIPTS = ("ort.wasm.min.js", "words.js", "show.js", "local.js")
_PATIENCE = 120.0  # seconds for one answer; the first includes the start, the network and its compilation
_WAIT = 5.0  # seconds that the page's question for a job is held open


class BrowserGone(Exception):
    """It could not be started, ended, or does not answer."""


def find_browser() -> str | None:
    """A Chromium on this machine: on the path, or one that Playwright has downloaded; None if there is none."""
    if named := next(filter(None, map(shutil.which, PROGRAMS)), None):
        return named
    own = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    usual = (".cache/ms-playwright", "Library/Caches/ms-playwright", "AppData/Local/ms-playwright")
    homes = [Path(own)] if own else [Path.home() / place for place in usual]
    return next((str(p) for home in homes for name in _DOWNLOADED for p in sorted(home.glob(name), reverse=True)), None)


class Page:
    """The page, ready to answer. Make one with `opened`."""

    def __init__(self, process: "subprocess.Popen[bytes]", jobs: "_Jobs", log: Path) -> None:
        self._process, self._jobs, self._log = process, jobs, log

    @property
    def agent(self) -> str:
        """The browser, as "Chrome 140.0.1.2"; "" before its first answer."""
        found = re.search(r"(Chrome|Edg)/([\d.]+)", self._jobs.agent)
        return f"{found[1]} {found[2]}" if found else ""

    def row(self, picture: bytes) -> dict[str, Any]:
        """What the page says of a picture, as `Prediction` has it.

        Raises:
            BrowserGone: no answer came.
            ValueError: the page failed; its own words.
        """
        return self._ask(picture, "row")

    def pixels(self, picture: bytes) -> NDArray[np.uint8]:
        """The pixels that the page gives to the network, uint8 (H, W, 3). Raises as `row` does."""
        said = self._ask(picture, "pixels")
        return np.array(said["pixels"], np.uint8).reshape(said["height"], said["width"], 3)

    def _ask(self, picture: bytes, what: str) -> dict[str, Any]:
        self._jobs.asked.put((picture, what))
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                said: dict[str, Any] = self._jobs.said.get(timeout=0.2)
                if "error" in said:
                    raise ValueError(said["error"])
                return said
            if self._process.poll() is not None:
                lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
                why = f": {lines[-1].strip()[:160]}" if lines else ""
                raise BrowserGone(f"the browser ended with status {self._process.returncode}{why}")
        raise BrowserGone(f"the browser gave no answer within {_PATIENCE:.0f} seconds")


class _Jobs:
    """What the page is to answer, and what it answered."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[bytes, str]] = queue.Queue()
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.agent = ""


@contextlib.contextmanager
def opened(folder: Path, program: str) -> Iterator[Page]:
    """Opens the page of a folder in a browser, which ends with the block and leaves nothing behind.

    Args:
        folder: of an export to web.
        program: the browser, as `find_browser` gives it.

    Raises:
        BrowserGone: it cannot be started.
    """
    jobs, secret = _Jobs(), secrets.token_hex(16)
    handler = functools.partial(_Handler, jobs=jobs, secret=secret, directory=str(folder))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        _Server(("127.0.0.1", 0), handler) as server,
    ):
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{secret}.html"
        process = _started(
            [program, *_FLAGS, *_unboxed(), f"--user-data-dir={scratch}/profile", address], Path(scratch)
        )
        try:
            yield Page(process, jobs, Path(scratch) / "log")
        finally:
            server.shutdown()
            _ended(process)


def _ended(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unboxed() -> list[str]:
    """Root cannot have Chromium's sandbox."""
    return ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def _started(command: list[str], scratch: Path) -> "subprocess.Popen[bytes]":
    try:
        with (scratch / "log").open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    except OSError as error:
        raise BrowserGone(f"{command[0]} cannot be started ({error.strerror or error})") from error


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the browser ends in the midst of its last question."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """The folder's files, and under a name that only the browser is told the pictures to answer for."""

    timeout = 30

    def __init__(self, *args: Any, jobs: _Jobs, secret: str, directory: str) -> None:
        self._jobs, self._secret = jobs, secret
        super().__init__(*args, directory=directory)

    def do_GET(self) -> None:
        if self.path == f"/{self._secret}.html":
            scripts = [*_SCRIPTS, f"{self._secret}/check.js"]
            tags = "".join(f'<script src="{name}"></script>' for name in scripts)
            self._reply(f'<!doctype html><meta charset="utf-8"><title>check</title>{tags}'.encode(), "text/html")
        elif self.path == f"/{self._secret}/check.js":
            script = resources.files("graftage.serve") / "web" / "check.js"
            self._reply(script.read_bytes(), "text/javascript")
        elif self.path == f"/{self._secret}/job":
            self._jobs.agent = self.headers.get("User-Agent", "")
            try:
                picture, what = self._jobs.asked.get(timeout=_WAIT)
            except queue.Empty:
                self._reply(b"", status=204)
            else:
                self._reply(picture, what=what)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        if self.path != f"/{self._secret}/said":
            self.send_error(404)
            return
        text = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._reply(b"", status=204)
        self._jobs.said.put(json.loads(text))

    def _reply(self, body: bytes, kind: str = "application/octet-stream", *, status: int = 200, what: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if what:
            self.send_header("what", what)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""
