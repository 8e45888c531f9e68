"""Ten thousand bodies that nobody meant, and requests made from the server's own OpenAPI document: it stays up."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from graftage.serve.predict import Predictor, load
from graftage.serve.server import create_app
from graftage.serve.uploads import RequestLimits

schemathesis = pytest.importorskip("schemathesis")

BODIES = 10_000
FORM = b"multipart/form-data; boundary=b0undary"
LIMITS = RequestLimits(max_bytes=60_000, max_picture_bytes=50_000, max_pixels=100_000, max_pictures=4, seconds=30)


@pytest.fixture(scope="module")
def model(locked: Path) -> Predictor:
    return load(locked / "model.safetensors")


async def asked(app: Any, body: bytes, kind: bytes, *, path: str = "/v1/predict", cut: int = 0) -> tuple[int, bytes]:
    """(status, body) of a request that is handed over in pieces of `cut` bytes, without a network between."""
    cut = cut or len(body) or 1
    pieces = [body[i : i + cut] for i in range(0, len(body), cut)] or [b""]
    told: list[dict[str, Any]] = []
    never = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not pieces:
            await never.wait()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "root_path": "", "scheme": "http"}
    scope |= {
        "headers": [(b"host", b"test"), (b"content-type", kind)],
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    await app(scope, receive, send)
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


def form(parts: list[tuple[bytes, bytes]]) -> bytes:
    head = b'--b0undary\r\nContent-Disposition: form-data; name="p"; filename="%s"\r\n\r\n%s\r\n'
    return b"".join(head % part for part in parts) + b"--b0undary--\r\n"


def spoilt(rng: random.Random, body: bytes) -> bytes:
    """The body with a few bytes changed, taken out, doubled or cut off."""
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at, end = sorted(rng.randrange(len(body) + 1) for _ in range(2))
        end = min(end, at + rng.choice([1, 2, 40, 10_000]))
        match rng.randrange(4):
            case 0:
                body = body[:at] + rng.randbytes(end - at) + body[end:]
            case 1:
                body = body[:at] + body[end:]
            case 2:
                body = body[:end] + body[at:]
            case 3:
                body = body[:end]
    return body[:55_000]


def nobody_meant(rng: random.Random, pictures: list[bytes]) -> tuple[bytes, bytes]:
    """(body, content type)."""
    picture = rng.choice(pictures)
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.choice([0, 1, 7, 300, 9000])), rng.choice([b"image/png", b"", FORM])
        case 1:
            return spoilt(rng, picture), b"image/jpeg"
        case 2:
            return spoilt(rng, form([(b"a.png", picture)])), FORM
        case 3:
            name = bytes(rng.choice(b"./\\\0\"';%\r\n\xffaz") for _ in range(rng.randrange(12)))
            return form([(name, picture)]), FORM
        case 4:
            return form([(b"a.png", b"x")] * rng.randrange(7)), spoilt(rng, FORM)[:200]
        case _:
            delimiters = [
                b"--b0undary",
                b"\r\n",
                b"--",
                b": ",
                b"Content-Disposition: form-data",
                b";",
                b"filename=",
                b'"',
            ]
            return b"".join(rng.choice(delimiters) for _ in range(rng.randrange(60))), FORM


def test_ten_thousand_fuzzed_bodies_get_a_row_or_a_4xx_and_the_server_goes_on(
    model: Predictor, photo: Callable[..., bytes], class_folders: Path
) -> None:
    app = create_app({"m": model}, limits=LIMITS)
    rng = random.Random(1)
    pictures = [
        photo(seed, kind, (24, 18)) for seed in range(3) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    ]
    found: Counter[int] = Counter()

    async def one() -> None:
        body, kind = nobody_meant(rng, pictures)
        status, answer = await asked(app, body, kind, cut=rng.choice([0, 1000, 17]) if len(body) < 3000 else 0)
        found[status] += 1
        record = json.loads(answer)
        if status == 200:
            assert any(row["status"] != "rejected" for row in record["predictions"])
        else:
            assert 400 <= status < 500, (status, record, body, kind)
            assert record["error"]
            assert record["detail"]

    async def all_of_them() -> tuple[int, bytes]:
        for _ in range(BODIES // 20):
            await asyncio.gather(*(one() for _ in range(20)))
        return await asked(app, good.read_bytes(), b"image/jpeg")

    good = next(class_folders.rglob("*.jpg"))
    status, answer = asyncio.run(all_of_them())
    assert sum(found.values()) == BODIES
    assert found[200] < BODIES / 4
    assert {400, 413, 415, 422} <= set(found)
    (row,) = json.loads(answer)["predictions"]
    assert (status, tuple(row["probabilities"])) == (200, model.predict([good])[0].probabilities)
    house = app.state.house
    assert (house.held.bytes, house.crew.held) == (0, 0)


def test_a_client_that_leaves_is_no_fault_and_its_pictures_leave_the_queue(
    model: Predictor, photo: Callable[..., bytes]
) -> None:
    app = create_app({"m": model}, limits=LIMITS)
    body = form([(b"a.jpg", photo(0))] * 4)

    async def leaves(after: int) -> None:
        pieces = [body[:after]] if after < len(body) else [body]

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(), "more_body": after < len(body)}
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 499) == 499

        scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "root_path": ""}
        scope |= {
            "headers": [(b"content-type", FORM)],
            "scheme": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }
        await app(scope, receive, send)

    async def many() -> None:
        await asyncio.gather(*(leaves(after) for after in (0, 1, 100, 2000, len(body)) for _ in range(5)))

    asyncio.run(many())
    app.state.house.crew.close()
    assert (app.state.house.held.bytes, app.state.house.crew.held) == (0, 0)


def test_every_answer_is_one_that_the_openapi_document_describes(model: Predictor) -> None:
    conformance = pytest.importorskip("schemathesis.specs.openapi.checks")
    checks = [
        schemathesis.checks.not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_schema_conformance,
    ]
    document = schemathesis.openapi.from_asgi("/openapi.json", create_app({"m": model}, limits=LIMITS))
    operations = [found.ok() for found in document.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/v1/predict", "/v1/explain", "/v1/model", "/metrics"}
    for operation in operations:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def validated(case: Any) -> None:
            case.call_and_validate(checks=checks)

        validated()
