"""The application behind a socket: uvicorn, with limits on the header of a request, and leaving quietly (S)."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from graftage.errors import OptionError

_CONNECTIONS = 1000  # at once; more are told to come back
_IDLE = 75  # seconds that a connection may be kept without a request
_LONGEST_HEADER = 2**16  # bytes
_REFUSAL = "HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def listen(host: str, port: int) -> socket.socket:
    """A socket that holds the port, so that nobody else gets it while models are loaded; nothing connects to it yet.

    Raises:
        OptionError: the port is taken or not allowed, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only on sockets that say they are TCP; others wait 40 ms for company
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        if isinstance(error, OverflowError):
            raise OptionError(f"port must be 0 to 65535, got {port}") from error
        raise OptionError(
            f"{host} port {port} cannot be listened on ({error.strerror}); take another --port, or 0 for a free one"
        ) from error
    return bound


def run(app: FastAPI, bound: socket.socket, *, seconds: float, say: Any) -> None:
    """Serves until the process is told to stop (SIGINT, SIGTERM); then answers what is under way, and returns.

    Args:
        app: made by `server.create_app`.
        bound: made by `listen`.
        seconds: that a request's header may take, and that answers may take once the process is told to stop.
        say: called once with no arguments when pictures can be sent.
    """
    config = uvicorn.Config(
        app,
        http=_guarded(seconds),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=max(round(seconds), 1),
        lifespan="on",
    )
    _Server(config, say).run(sockets=[bound])


class _Server(uvicorn.Server):
    """One that leaves quietly when it is told to: being stopped is no fault."""

    def __init__(self, config: uvicorn.Config, say: Any) -> None:
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.house.ready = False  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def _guarded(seconds: float) -> type[asyncio.Protocol]:
    """The protocol, which gives up connections whose header is endless or never ends; uvicorn alone takes both.

    What follows a refused body uvicorn throws away, so that its sender sees why, for as long as a header may take.
    """

    class Guarded(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._heading, self._taken = False, 0
            self._since = time.monotonic()  # when the header that is awaited may have begun
            self._watch = self.loop.call_later(seconds, self._look)

        def data_received(self, data: bytes) -> None:
            if self._idle():
                self._since = time.monotonic()
            super().data_received(data)
            self._taken = self._taken + len(data) if self._heading else 0
            if self._taken > _LONGEST_HEADER:
                self._refuse("431 Request Header Fields Too Large")

        def on_message_begin(self) -> None:
            self._heading = True
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._heading = False
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.cancel()
            super().connection_lost(exc)

        def _idle(self) -> bool:
            """Between two requests, without a byte of the next."""
            return self.timeout_keep_alive_task is not None

        def _look(self) -> None:
            asked = self.cycle is not None and not self.cycle.response_complete
            if not (asked or self._idle()) and time.monotonic() - self._since >= seconds:
                self._refuse("408 Request Timeout")
            else:
                self._watch = self.loop.call_later(seconds / 4, self._look)

        def _refuse(self, status: str) -> None:
            self.transport.write(_REFUSAL.format(status).encode())
            self.transport.close()

    return Guarded


# ---------------------------------------------------------------- log


def log_line(record: Mapping[str, object]) -> None:
    """Writes one record as a line of JSON to standard error."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(BrokenPipeError, ValueError):  # nobody reads the log any more: go on serving
        print(json.dumps({"time": now, **record}), file=sys.stderr, flush=True)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, object] = {"event": "log", "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        log_line(line)


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """What uvicorn says becomes lines of JSON, too, from warnings on."""
    logger, lines = logging.getLogger("uvicorn"), _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(lines)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.level, logger.propagate = before
