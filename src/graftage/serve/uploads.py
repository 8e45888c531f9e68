"""The body of a request becomes pictures in memory: nothing of it is written, and no name in it is ever opened (S).

A body is one picture as it is, or multipart/form-data whose parts are pictures (RFC 7578). Every limit holds while the
body arrives, so that no more is ever held than is allowed.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from graftage.errors import OptionError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

_MIB = 2**20
_LONGEST_NAME = 255  # bytes of a file name: what file systems allow
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|^\.\.?$")  # what a plain file name does not hold


class Refusal(Exception):
    """A request that is not answered as it was meant.

    Attributes:
        status: of HTTP.
        error: a word for programs, such as "too_many_bytes".
        detail: a sentence for people.
        retry: seconds after which to come again, 0 for never.
    """

    def __init__(self, status: int, error: str, detail: str, *, retry: int = 0) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail, self.retry = status, error, detail, retry


@dataclass(frozen=True)
class RequestLimits:
    """What a single request may cost.

    Attributes:
        max_bytes: of its body.
        max_picture_bytes: of one picture.
        max_pixels: width * height of one picture.
        max_pictures: in it.
        seconds: until its body has arrived, and again until it is answered.
        max_held: bytes of all requests together that have arrived and are not answered.
    """

    max_bytes: int = 64 * _MIB
    max_picture_bytes: int = 32 * _MIB
    max_pixels: int = 64_000_000
    max_pictures: int = 64
    seconds: float = 30.0
    max_held: int = 256 * _MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise OptionError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Upload:
    """A picture that was sent: its name as the sender gave it, "" if there is none, and its bytes."""

    name: str
    data: bytes


@dataclass
class Held:
    """Bytes of all requests that are in memory."""

    limits: RequestLimits
    bytes: int = 0

    def take(self, count: int) -> None:
        """Counts bytes in. Raises Refusal where there is no room."""
        if self.bytes + count > self.limits.max_held:
            raise Refusal(503, "busy", "too many bytes of other requests are waiting, try again soon", retry=1)
        self.bytes += count


@dataclass
class Body:
    """One request's body, and how much of it is held; give it back with `close`."""

    request: "Request"
    held: Held
    count: int = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises Refusal at the byte that is too much."""
        limit = self.held.limits.max_bytes
        self._require_length(limit)
        async for piece in self.request.stream():
            if self.count + len(piece) > limit:
                raise _too_long(limit)
            self.held.take(len(piece))
            self.count += len(piece)
            yield piece

    def _require_length(self, limit: int) -> None:
        told = self.request.headers.get("content-length", "")
        if told.isdigit() and int(told[:20]) > limit:
            raise _too_long(limit)

    def close(self) -> None:
        """Counts its bytes out again."""
        self.held.bytes -= self.count
        self.count = 0


def _too_long(limit: int) -> Refusal:
    return Refusal(413, "too_many_bytes", f"the body is longer than {limit:,} bytes")


async def read_uploads(body: Body, limits: RequestLimits) -> list[Upload]:
    """The pictures of a request, at least one, in the order sent.

    Raises:
        Refusal: 400 a malformed body or name, 408 too slow, 413 too much, 415 another kind of content.
    """
    kind, options = parse_options_header(body.request.headers.get("content-type", ""))
    if body.request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "unsupported_encoding", "send the body as it is, without a content-encoding")
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == b"multipart/form-data":
                return await _parts(body, options.get(b"boundary", b""), limits)
            if kind in (b"", b"application/octet-stream") or kind.startswith(b"image/"):
                return await _whole(body, limits)
    except TimeoutError:
        raise Refusal(408, "too_slow", f"the body did not arrive within {limits.seconds:g} s") from None
    raise Refusal(
        415, "unsupported_type", "send pictures as multipart/form-data, or one as image/* or application/octet-stream"
    )


async def _whole(body: Body, limits: RequestLimits) -> list[Upload]:
    gathered = bytearray()
    async for piece in body.pieces():
        gathered += piece
        _require_small(len(gathered), limits)
    if not gathered:
        raise Refusal(400, "no_picture", "the body is empty: send a picture, or several as multipart/form-data")
    return [Upload("", bytes(gathered))]


async def _parts(body: Body, boundary: bytes, limits: RequestLimits) -> list[Upload]:
    if not boundary:
        raise Refusal(400, "malformed", "multipart/form-data needs a boundary in its content-type")
    parts = _Parts(limits)
    try:
        parser = MultipartParser(boundary, parts.callbacks(), max_header_count=8, max_header_size=2048)
        async for piece in body.pieces():
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, "malformed", f"the multipart body is malformed: {str(error)[:120]}") from None
    if not parts.ended:
        raise Refusal(400, "malformed", "the multipart body ends too early")
    if not parts.uploads:
        raise Refusal(400, "no_picture", "the body holds no picture: send at least one part with a file name")
    return parts.uploads


class _Parts:
    """Collects the parts of a multipart body as its parser finds them."""

    def __init__(self, limits: RequestLimits) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._limits = limits
        self._name = ""
        self._field, self._value, self._data = bytearray(), bytearray(), bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._named,
            "on_part_data": self._more,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        if len(self.uploads) == self._limits.max_pictures:
            raise Refusal(413, "too_many_pictures", f"a request holds at most {self._limits.max_pictures} pictures")
        self._name, self._data = "", bytearray()

    def _header(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            self._name = _file_name(bytes(self._value))
        self._field, self._value = bytearray(), bytearray()

    def _named(self) -> None:
        if not self._name:
            raise Refusal(400, "no_file_name", "a part has no file name: send each picture as a file")

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]
        _require_small(len(self._data), self._limits)

    def _end(self) -> None:
        self.uploads.append(Upload(self._name, bytes(self._data)))
        self._data = bytearray()

    def _all(self) -> None:
        self.ended = True


def _file_name(disposition: bytes) -> str:
    """The plain name that a part gives its file, "" if it gives none. Raises Refusal for anything like a path."""
    kind, options = parse_options_header(disposition)
    raw = options.get(b"filename", b"")
    if kind != b"form-data":
        raise Refusal(400, "malformed", "a part's content-disposition is not form-data")
    name = raw.decode("utf-8", "replace")
    if len(raw) > _LONGEST_NAME or _NO_NAME.search(name):
        raise Refusal(400, "bad_name", "a file name is too long, or is a path: send the plain name of the file")
    return name


def _require_small(count: int, limits: RequestLimits) -> None:
    if count > limits.max_picture_bytes:
        raise Refusal(413, "too_many_bytes", f"a picture has more than {limits.max_picture_bytes:,} bytes")
