"""What every request passes on its way in: host, key, a last deadline; on its way out it is counted and logged (S).

A log line is one JSON object. It holds no picture, no file name, no address and nothing else that the client wrote.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graftage.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Log = Callable[[Mapping[str, object]], None]

_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)


@dataclass(frozen=True)
class Rules:
    """Who is let in, and for how long.

    Attributes:
        key: that must be shown under `closed`; "" if none is asked for.
        hosts: names that the header Host may have; empty for any. Keeps other sites' pages away from a loopback server.
        closed: beginnings of the paths that need the key.
        seconds: after which a request is given up, whatever it waits for.
    """

    key: str = ""
    hosts: frozenset[str] = frozenset()
    closed: tuple[str, ...] = ("/v1/", "/metrics")
    seconds: float = 70.0


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        rules: who is let in.
        metrics: counts the requests.
        log: takes one record per request.
        routes: paths that may be named in a log line; any other is "other".
    """

    def __init__(self, app: App, *, rules: Rules, metrics: Metrics, log: Log, routes: Sequence[str]) -> None:
        self._app, self._rules, self._metrics, self._log = app, rules, metrics, log
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI 3 has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        answer = _Answer(send)
        told: dict[str, object] = {}
        scope["graftage"] = told
        try:
            if refused := self._refused(scope):
                await _refuse(answer, *refused)
            else:
                await self._passed(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.request(route, answer.status, seconds)
            line = {"event": "request", "method": _method(scope), "route": route, "status": answer.status}
            self._log({**line, "seconds": round(seconds, 4), **told})

    async def _passed(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            async with asyncio.timeout(self._rules.seconds):
                await self._app(scope, receive, answer)
        except TimeoutError:
            if answer.status:
                raise  # half an answer: the connection is closed
            await _refuse(answer, 503, "too_slow", "the request was given up")

    def _refused(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = dict(scope["headers"])
        if self._rules.hosts and _host(headers.get(b"host", b"")) not in self._rules.hosts:
            return 421, "wrong_host", "this server does not answer under that name"
        if self._rules.key and scope["path"].startswith(self._rules.closed) and not self._known(headers):
            return 401, "no_key", "send the key as Authorization: Bearer KEY, or as X-API-Key"
        return None

    def _known(self, headers: Mapping[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        shown = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        return hmac.compare_digest(shown, self._rules.key.encode())  # takes as long wherever they differ


class _Answer:
    """Sends on, with the headers that every answer has; remembers the status, 0 before there is one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await self._send(message)


async def _refuse(send: Send, status: int, error: str, detail: str) -> None:
    body = f'{{"error": "{error}", "detail": "{detail}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host(header: bytes) -> str:
    """The name in a Host header, without the port."""
    name = header.decode("latin-1").lower()
    return name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
