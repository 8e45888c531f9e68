"""The server's answers: the same bits as `Predictor.predict`, a row per picture, and a plain word for what is wrong."""

import base64
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import graftage as gr
from graftage.serve.answers import shown_pictures
from graftage.serve.guard import Rules
from graftage.serve.predict import Predictor, load
from graftage.serve.server import create_app
from graftage.serve.uploads import RequestLimits

JPEG = {"content-type": "image/jpeg"}
SMALL = RequestLimits(max_bytes=200_000, max_picture_bytes=100_000, max_pixels=100_000, max_pictures=4, seconds=20)


@pytest.fixture(scope="module")
def model(locked: Path) -> Predictor:
    return load(locked / "model.safetensors")


@pytest.fixture(scope="module")
def some(class_folders: Path) -> list[Path]:
    return sorted(class_folders.rglob("*.jpg"))[::9]


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture(scope="module")
def client(model: Predictor, told: list[dict[str, Any]]) -> Iterator[TestClient]:
    app = create_app({"first": model, "second": model}, limits=SMALL, log=lambda record: told.append(dict(record)))
    with TestClient(app) as client:
        yield client


def files(paths: list[Path]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("pictures", (f"{i}-{path.name}", path.read_bytes(), "image/jpeg")) for i, path in enumerate(paths)]


def as_row(answer: gr.Prediction, name: str) -> dict[str, Any]:
    """A prediction as it looks once it has been JSON."""
    row: dict[str, Any] = json.loads(json.dumps({**asdict(answer), "path": name}))
    return row


def no_picture(name: str = "text.jpg") -> tuple[str, tuple[str, bytes, str]]:
    return ("pictures", (name, b"no picture", "image/jpeg"))


# ---------------------------------------------------------------- pictures


def test_many_pictures_get_the_very_rows_of_predict_in_order(
    client: TestClient, model: Predictor, some: list[Path]
) -> None:
    for chunk in (some[:4], some[3:0:-1]):
        answer = client.post("/v1/predict", files=files(chunk))
        assert answer.status_code == 200
        names = [f"{i}-{path.name}" for i, path in enumerate(chunk)]
        expected = [as_row(row, name) for row, name in zip(model.predict(chunk), names, strict=True)]
        assert answer.json() == {"model": "first", "classes": ["1", "2", "10"], "predictions": expected}


@pytest.mark.parametrize("kind", [JPEG, {"content-type": "application/octet-stream"}, {}])
def test_a_picture_can_be_the_body(
    client: TestClient, model: Predictor, some: list[Path], kind: dict[str, str]
) -> None:
    rows = client.post("/v1/predict", content=some[0].read_bytes(), headers=kind).json()["predictions"]
    assert rows == [as_row(model.predict(some[:1])[0], "")]


def test_a_bad_picture_among_good_ones_is_a_row(client: TestClient, some: list[Path]) -> None:
    answer = client.post("/v1/predict", files=[*files(some[:1]), no_picture()])
    assert answer.status_code == 200
    good, bad = answer.json()["predictions"]
    assert (good["status"], bad["status"]) == ("ok", "rejected")
    assert bad["reason"].startswith("not an image")
    assert bad["path"] == "text.jpg"


def test_a_request_of_bad_pictures_is_an_error_that_shows_their_rows(client: TestClient) -> None:
    answer = client.post("/v1/predict", files=[no_picture()])
    assert answer.status_code == 422
    assert answer.json()["error"] == "no_usable_picture"
    assert [row["status"] for row in answer.json()["predictions"]] == ["rejected"]
    kind = client.post("/v1/predict?rejected=row", files=[no_picture()])
    assert kind.status_code == 200
    assert kind.json()["predictions"] == answer.json()["predictions"]


@pytest.mark.parametrize(
    ("query", "detail"),
    [("rejected=maybe", "rejected: Input should be 'error' or 'row'"), (f"model={'m' * 201}", "model: String should")],
)
def test_a_query_that_means_nothing_is_refused(client: TestClient, query: str, detail: str) -> None:
    answer = client.post(f"/v1/predict?{query}", files=[no_picture()])
    assert answer.status_code == 422
    assert answer.json()["error"] == "bad_query"
    assert answer.json()["detail"].startswith(detail)


def test_many_threads_ask_at_once_and_all_get_their_own(client: TestClient, model: Predictor, some: list[Path]) -> None:
    expected = [as_row(row, "") for row in model.predict(some)]
    found: dict[int, Any] = {}

    def ask(i: int) -> None:
        found[i] = client.post("/v1/predict", content=some[i % len(some)].read_bytes(), headers=JPEG).json()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i]["predictions"][0] for i in range(24)] == [expected[i % len(some)] for i in range(24)]


# ---------------------------------------------------------------- why


@pytest.fixture(scope="module")
def explained(client: TestClient, some: list[Path]) -> dict[str, Any]:
    answer = client.post("/v1/explain?label=10&similar=3&picture=true", content=some[0].read_bytes(), headers=JPEG)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def picture_of(uri: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_an_explanation_is_that_of_the_model(explained: dict[str, Any], model: Predictor, some: list[Path]) -> None:
    found = model.explain(some[0], label="10", similar=3)
    assert explained["label"] == "10"
    assert explained["prediction"] == as_row(found.prediction, "")
    assert found.heat is not None
    assert explained["heat"]["log_odds"] == found.heat.end
    assert [like["id"] for like in explained["similar"]] == [near.id for near in found.similar]
    heat, shown = picture_of(explained["heat"]["png"]), picture_of(explained["picture"])
    assert (heat.format, heat.mode, shown.format) == ("PNG", "RGBA", "JPEG")
    assert heat.size == shown.size


def test_similar_pictures_are_shown_from_the_model_file(
    explained: dict[str, Any], model: Predictor, class_folders: Path
) -> None:
    for like in explained["similar"]:
        thumbnail = np.asarray(picture_of(like["thumbnail"]), float)
        photo = Image.open(class_folders / like["id"]).convert("L").resize((32, 32), Image.Resampling.BOX)
        assert np.abs(thumbnail - np.asarray(photo, float)).mean() < 6  # of 255: it is this picture and no other
    assert len(shown_pictures(model.bundle)) == model.bundle.data["n"]


def test_thumbnails_that_cannot_be_matched_are_not_shown(model: Predictor) -> None:
    fewer = {**model.bundle.pictures, "thumbnails": model.bundle.pictures["thumbnails"][1:]}
    assert shown_pictures(replace(model.bundle, pictures=fewer)) == {}
    assert shown_pictures(replace(model.bundle, neighbours=None)) == {}


def test_explain_asks_for_one_picture_and_a_class_there_is(client: TestClient, some: list[Path]) -> None:
    assert client.post("/v1/explain", files=files(some[:2])).json()["error"] == "too_many_pictures"
    assert client.post("/v1/explain?label=cat", content=b"x").status_code == 404
    rejected = client.post("/v1/explain", content=b"no picture")
    assert (rejected.status_code, rejected.json()["error"]) == (422, "no_usable_picture")


def test_explanations_asked_for_by_several_threads_are_made_one_by_one_and_the_same(
    model: Predictor, some: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftage.serve.explain import Explainer

    alone = Predictor(model.bundle, model.forward)  # its network is not built yet
    data, found = some[0].read_bytes(), []
    inside, heat_of = threading.Lock(), Explainer.heat

    def heat(self: Explainer, *arguments: Any) -> Any:
        assert inside.acquire(blocking=False), "two at once"
        try:
            return heat_of(self, *arguments)
        finally:
            inside.release()

    monkeypatch.setattr(Explainer, "heat", heat)

    def ask() -> None:
        found.append(alone.explain(data))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    first = found[0].heat
    assert first is not None
    assert all(one.heat is not None and np.array_equal(one.heat.cells, first.cells) for one in found)


# ---------------------------------------------------------------- what is served


def test_a_model_tells_how_good_it_is(client: TestClient, model: Predictor) -> None:
    record = client.get("/v1/model?model=second").json()
    assert (record["name"], record["classes"]) == ("second", ["1", "2", "10"])
    accuracy = record["scores"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert {part["heading"] for part in record["card"]} == {
        "Intended use", "Learnt from", "Measured", "Limits", "Licences",
    }  # fmt: skip
    assert set(record["decisions"]) == {"sets", "answers", "unlike", "reasons"}
    assert record["learnt_from"]["pictures"] == model.bundle.data["n"]


def test_models_are_asked_by_name(client: TestClient, some: list[Path]) -> None:
    assert client.get("/v1/models").json() == {"models": ["first", "second"]}
    answer = client.post("/v1/predict?model=second", content=some[0].read_bytes(), headers=JPEG)
    assert answer.json()["model"] == "second"
    assert client.post("/v1/predict?model=third", content=b"x").status_code == 404


def test_health_and_readiness(model: Predictor) -> None:
    app = create_app({"m": model})
    asleep = TestClient(app)
    assert asleep.get("/healthz").json() == {"status": "ok"}
    assert asleep.get("/readyz").status_code == 503
    with TestClient(app) as awake:
        assert awake.get("/readyz").json() == {"status": "ready"}
    assert asleep.get("/readyz").status_code == 503


def test_metrics_count_and_their_labels_stay_few(client: TestClient, some: list[Path]) -> None:
    for i in range(30):
        client.get(f"/nowhere/{i}")
    client.post("/v1/predict", content=some[0].read_bytes(), headers=JPEG)
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['graftage_requests_total{route="other",status="404"}']) >= 30
    assert float(values['graftage_pictures_total{model="first",status="ok"}']) >= 1
    assert values["graftage_queue_pictures"] == values["graftage_held_bytes"] == "0"
    assert "/nowhere" not in text
    count = float(values['graftage_request_seconds_count{route="/v1/predict"}'])
    assert float(values['graftage_request_seconds_bucket{route="/v1/predict",le="+Inf"}']) == count


def test_the_log_holds_no_word_of_the_client(client: TestClient, told: list[dict[str, Any]]) -> None:
    told.clear()
    client.post("/v1/predict?model=secret-model", files=[no_picture("secret-name.jpg")], headers={"x-a": "secret"})
    client.post("/v1/predict", files=[no_picture("secret-name.jpg")])
    client.get("/secret-path")
    assert [record["status"] for record in told] == [404, 422, 404]
    assert told[1]["pictures"] == 1
    assert "secret" not in json.dumps(told)


# ---------------------------------------------------------------- limits


def bomb() -> bytes:
    """A small PNG whose header promises more pixels than the memory holds."""
    stream = BytesIO()
    Image.new("L", (40, 40)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"content": b"x" * 200_001}, 413, "too_many_bytes"),
        ({"content": (b"x" * 50_000 for _ in range(5))}, 413, "too_many_bytes"),  # its length is not told
        ({"content": b"x" * 100_001}, 413, "too_many_bytes"),
        ({"files": [no_picture(f"{i}.jpg") for i in range(5)]}, 413, "too_many_pictures"),
        ({"content": b""}, 400, "no_picture"),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 415, "unsupported_type"),
        ({"content": b"x", "headers": {"content-encoding": "gzip"}}, 415, "unsupported_encoding"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "malformed"),
        (
            {"content": b"--b\r\n\r\nhalf", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            400,
            "no_file_name",
        ),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n',
                "headers": {"content-type": "multipart/form-data; boundary=b"},
            },
            400,
            "malformed",
        ),
        ({"content": b"--b--\r\n", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "no_picture"),
        ({"files": [no_picture("../../etc/passwd")]}, 400, "bad_name"),
        ({"files": [no_picture("a/b.jpg")]}, 400, "bad_name"),
        ({"files": [no_picture("..")]}, 400, "bad_name"),
        ({"files": [no_picture("n" * 300)]}, 400, "bad_name"),
        ({"data": {"picture": "x"}, "files": [no_picture()]}, 400, "no_file_name"),
    ],
)
def test_what_is_too_much_or_malformed_is_refused(
    client: TestClient, request_: dict[str, Any], status: int, error: str
) -> None:
    answer = client.post("/v1/predict", **request_)
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert client.app.state.house.held.bytes == 0  # type: ignore[attr-defined]


def test_a_decompression_bomb_is_rejected_by_its_header(model: Predictor) -> None:
    with TestClient(create_app({"m": model})) as client:
        answer = client.post("/v1/predict", content=bomb(), headers={"content-type": "image/png"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("too many pixels: 40000 x 40000")


def test_a_picture_within_the_models_own_limits_alone_is_still_too_large(client: TestClient) -> None:
    stream = BytesIO()
    Image.new("RGB", (400, 300)).save(stream, "PNG")
    assert client.post("/v1/predict", content=stream.getvalue()).json()["detail"].startswith("too many pixels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": RequestLimits(max_pictures=9), "queue": 8}, "queue 8 cannot hold a request of 9 pictures"),
        ({"models": {}}, "at least one model"),
    ],
)
def test_an_application_that_could_not_work_is_not_made(
    model: Predictor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(gr.OptionError, match=message):
        create_app(**{"models": {"m": model}, **options})


def test_limits_are_above_nothing() -> None:
    with pytest.raises(gr.OptionError, match="seconds must be above 0, got 0"):
        RequestLimits(seconds=0)


# ---------------------------------------------------------------- a full queue


@pytest.fixture
def held_up(model: Predictor) -> tuple[Predictor, threading.Event]:
    """The model, whose network waits until the event is set."""
    go = threading.Event()

    def run(squares: np.ndarray) -> np.ndarray:
        assert go.wait(120)
        return model.forward.run(squares)

    return Predictor(model.bundle, replace(model.forward, run=run)), go


def until(true: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came true")


def test_a_full_queue_answers_503_and_loses_nothing(
    held_up: tuple[Predictor, threading.Event], model: Predictor, some: list[Path]
) -> None:
    slow, go = held_up
    app = create_app({"m": slow}, limits=replace(SMALL, max_pictures=2), queue=2, workers=1)
    client, found = TestClient(app), []

    def ask() -> None:
        found.append(client.post("/v1/predict", content=some[0].read_bytes(), headers=JPEG))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: app.state.house.crew.held == 2)
    refused = client.post("/v1/predict", content=some[0].read_bytes(), headers=JPEG)
    assert (refused.status_code, refused.json()["error"]) == (503, "busy")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    go.set()
    for thread in threads:
        thread.join()
    assert [answer.json()["predictions"] for answer in found] == [[as_row(model.predict(some[:1])[0], "")]] * 2
    assert client.post("/v1/predict", content=some[0].read_bytes(), headers=JPEG).status_code == 200


def test_a_request_that_waits_too_long_is_given_up_and_leaves_the_queue(
    held_up: tuple[Predictor, threading.Event], some: list[Path]
) -> None:
    slow, go = held_up
    app = create_app({"m": slow}, limits=replace(SMALL, seconds=1), queue=4, workers=1)
    client = TestClient(app)
    answers = [client.post("/v1/predict", files=files(some[:2])) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert app.state.house.crew.held == 1  # the one under way; the others were taken out
    go.set()
    until(lambda: app.state.house.crew.held == 0)


# ---------------------------------------------------------------- who is let in


KEY = "k" * 20


@pytest.fixture(scope="module")
def locked_door(model: Predictor) -> TestClient:
    return TestClient(create_app({"m": model}, rules=Rules(KEY)))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"authorization": f"bearer {KEY}"}, 200),
        ({"x-api-key": KEY}, 200),
        ({"authorization": f"Basic {KEY}"}, 401),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({"x-api-key": KEY + "k"}, 401),
        ({"x-api-key": "ä".encode("latin-1")}, 401),
    ],
)
def test_the_key_opens(locked_door: TestClient, headers: dict[str, Any], status: int) -> None:
    for path in ("/v1/model", "/v1/models", "/metrics"):
        assert locked_door.get(path, headers=headers).status_code == status
    assert locked_door.get("/healthz", headers=headers).status_code == 200
    assert 'data-keyed="yes"' in locked_door.get("/", headers=headers).text


def test_a_keyless_server_answers_under_its_own_names_alone(model: Predictor) -> None:
    client = TestClient(create_app({"m": model}, rules=Rules(hosts=frozenset({"localhost", "[::1]"}))))
    for host, status in {"localhost:8000": 200, "LOCALHOST": 200, "[::1]:80": 200, "evil.example:8000": 421}.items():
        assert client.get("/healthz", headers={"host": host}).status_code == status


def test_answers_forbid_what_the_page_does_not_need(client: TestClient) -> None:
    for path in ("/", "/v1/models", "/nowhere"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_no_path_of_a_request_is_a_path_of_the_disk(client: TestClient) -> None:
    for path in ("/../server.py", "/web/app.js", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/index.html"):
        assert client.get(path).status_code == 404
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")


def test_importing_the_server_does_nothing() -> None:
    import subprocess
    import sys

    code = "import sys, threading, graftage.serve.server; print('openvino' in sys.modules, threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "1"]
