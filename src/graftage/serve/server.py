"""`create_app(models)` → an ASGI application that answers with models; importing this file does nothing (S).

```
POST /v1/predict   pictures → one row each          GET /v1/model, /v1/models   what is served, how good it is
POST /v1/explain   a picture → heat map, likes      GET /healthz, /readyz, /metrics, /openapi.json, / (the page)
```

Needs the extra `serve`. A request names its model by `?model=NAME`; without, the first answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from importlib.metadata import version
from io import BytesIO
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from graftage.data.decode import Limits
from graftage.errors import OptionError
from graftage.report.frame import template
from graftage.serve import schema
from graftage.serve.about import about
from graftage.serve.answers import explained
from graftage.serve.batching import Crew, Full, gathering
from graftage.serve.guard import Guard, Log, Rules
from graftage.serve.metrics import Metrics, resident_memory
from graftage.serve.predict import Prediction, Predictor
from graftage.serve.uploads import Body, Held, Refusal, RequestLimits, Upload, read_uploads

DEFAULT_LIMITS = RequestLimits()
_EXPLAINING = 8  # pictures that wait for a heat map, at most: each takes a second or so, and memory
_MOST_SIMILAR = 20
_GONE = 499  # nobody is there to read it: for the log alone
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in ("words", "ask", "show", "app")},
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_BASE = "/base.css"  # the look that the server's page shares with the report
_API = ("/v1/predict", "/v1/explain", "/v1/model", "/v1/models", "/healthz", "/readyz", "/metrics", "/openapi.json")

T = TypeVar("T")
Named = Annotated[str, Query(max_length=schema.LONGEST_MODEL, description=schema.WHICH)]


@dataclass(eq=False)
class House:
    """What lives as long as the application.

    Attributes:
        models: by name, in order.
        limits: of requests.
        crew: answers pictures; `explainers` makes heat maps beside it.
        held: bytes of requests in memory.
        metrics: what is counted.
        thumbnails: whether training pictures are shown.
        ready: whether it may be asked.
    """

    models: Mapping[str, Predictor]
    limits: RequestLimits
    crew: Crew
    explainers: Crew
    held: Held
    metrics: Metrics
    thumbnails: bool = True
    ready: bool = False

    def model(self, name: str) -> tuple[str, Predictor]:
        """The model of this name, or the first. Raises Refusal."""
        name = name or next(iter(self.models))
        if name not in self.models:
            raise Refusal(404, "no_such_model", f"there is no such model; there are {', '.join(self.models)}")
        return name, self.models[name]


def create_app(
    models: Mapping[str, Predictor],
    *,
    limits: RequestLimits = DEFAULT_LIMITS,
    queue: int = 256,
    workers: int = 0,
    rules: Rules | None = None,
    log: Log = lambda _: None,
    thumbnails: bool = True,
) -> FastAPI:
    """The application; `state.house` holds what it is made of.

    Args:
        models: by the names under which they are asked, the first is the default.
        limits: what a request may cost. Pictures larger than the predictor's own limits are rejected, too.
        queue: pictures that may wait or be under way; a request that finds no room gets 503.
        workers: threads that answer; 0 means one more than there are cores.
        rules: who is let in.
        log: takes one record per request.
        thumbnails: whether `explain` shows training pictures, where a model file holds them in small.

    Raises:
        OptionError: no model, or a queue that cannot hold one request.
    """
    if not models:
        raise OptionError("serve needs at least one model")
    if queue < limits.max_pictures:
        raise OptionError(
            f"queue {queue} cannot hold a request of {limits.max_pictures} pictures; raise it, or lower max_pictures"
        )
    routes = (*_API, *_PAGE, _BASE)
    house = House(
        {name: _within(predictor, limits) for name, predictor in models.items()},
        limits,
        Crew(capacity=queue, workers=workers),
        Crew(capacity=_EXPLAINING, workers=1),
        Held(limits),
        Metrics(routes),
        thumbnails,
    )
    app = FastAPI(
        title="graftage",
        version=version("graftage"),
        description="Names what is in pictures, with calibrated probabilities.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=partial(_lifespan, house),
    )
    app.state.house = house
    _add_handlers(app)
    _add_questions(app, house)
    _add_facts(app, house)
    _add_page(app, keyed=bool(rules and rules.key))
    app.add_middleware(
        Guard,
        rules=rules or Rules(seconds=2 * limits.seconds + 10),
        metrics=house.metrics,
        log=log,
        routes=routes,
    )
    return app


def _within(predictor: Predictor, limits: RequestLimits) -> Predictor:
    """The model, held to the limits of the server, with pictures of several threads gathered."""
    own = predictor.limits
    tighter = Limits(min(own.max_bytes, limits.max_picture_bytes), min(own.max_pixels, limits.max_pixels))
    return Predictor(
        predictor.bundle,
        gathering(predictor.forward),
        limits=tighter,
        repair=predictor.repair,
        source=predictor.source,
    )


@asynccontextmanager
async def _lifespan(house: House, _: FastAPI) -> AsyncIterator[None]:
    """Every thread answers once for every model before the first request; at the end what is waiting is answered."""
    stream = BytesIO()
    Image.new("RGB", (64, 64), (120, 130, 140)).save(stream, "PNG")
    for predictor in house.models.values():
        calls = [partial(predictor.predict_bytes, stream.getvalue())] * min(house.crew.workers, house.crew.capacity)
        await asyncio.gather(*map(asyncio.wrap_future, house.crew.submit(calls)))
    house.ready = True
    yield
    house.ready = False
    await asyncio.to_thread(house.crew.close)
    await asyncio.to_thread(house.explainers.close)


# ---------------------------------------------------------------- answers


def _json(record: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII alone: file names of training pictures may hold what UTF-8 cannot
    return Response(json.dumps(record, allow_nan=False), status, dict(headers or {}), "application/json")


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        headers = {"retry-after": str(refusal.retry)} if refusal.retry else {}
        return _json({"error": refusal.error, "detail": refusal.detail}, refusal.status, headers)

    @app.exception_handler(Full)
    async def full(_: Request, full: Full) -> Response:
        return _json({"error": "busy", "detail": str(full)}, 503, {"retry-after": str(full.seconds)})

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=_GONE)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        named = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        return _json({"error": "bad_query", "detail": named[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        word = str(error.detail).lower().replace(" ", "_")
        return _json({"error": word, "detail": str(error.detail)}, error.status_code, error.headers)


@asynccontextmanager
async def _uploads(request: Request, house: House) -> AsyncIterator[list[Upload]]:
    """The pictures of a request, counted as held while they are."""
    body = Body(request, house.held)
    try:
        uploads = await read_uploads(body, house.limits)
        request.scope["graftage"].update(pictures=len(uploads), bytes=body.count)
        yield uploads
    finally:
        body.close()


async def _answered(request: Request, house: House, crew: Crew, calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls give, unless that takes too long or nobody waits for it any more: then they are not made."""
    answers = asyncio.gather(*map(asyncio.wrap_future, crew.submit(calls)))
    gone = asyncio.ensure_future(request.receive())
    try:
        both: list[asyncio.Future[Any]] = [answers, gone]
        await asyncio.wait(both, timeout=house.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if answers.done():
            return answers.result()
        if gone.done():
            raise ClientDisconnect
        raise Refusal(503, "busy", f"no answer within {house.limits.seconds:g} s, try again later", retry=10)
    finally:
        gone.cancel()
        answers.cancel()


def _asked(request: Request) -> tuple[str, str]:
    """`model` and `rejected` of a query, by hand: FastAPI takes a quarter of the request for it. Raises Refusal."""
    model = request.query_params.get("model", "")
    rejected = request.query_params.get("rejected", "error")
    if len(model) > schema.LONGEST_MODEL:
        raise Refusal(422, "bad_query", f"model: String should have at most {schema.LONGEST_MODEL} characters")
    if rejected not in schema.REJECTED:
        raise Refusal(422, "bad_query", f"rejected: Input should be {' or '.join(map(repr, schema.REJECTED))}")
    return model, rejected


def _add_questions(app: FastAPI, house: House) -> None:
    @app.post(
        "/v1/predict",
        summary="Pictures → one row each",
        response_model=schema.Predictions,
        responses=schema.PROBLEMS,
        openapi_extra={**schema.BODY, "parameters": schema.PREDICT_QUERY},
    )
    async def predict(request: Request) -> Response:
        model, rejected = _asked(request)
        name, predictor = house.model(model)
        house.crew.require_room()
        async with _uploads(request, house) as uploads:
            calls = [partial(predictor.predict_bytes, upload.data, name=upload.name) for upload in uploads]
            rows = await _answered(request, house, house.crew, calls)
        for row in rows:
            house.metrics.picture(name, row.status)
        found = [vars(row) for row in rows]
        if rejected == "error" and all(row.status == "rejected" for row in rows):
            problem = {"error": "no_usable_picture", "detail": rows[0].reason, "predictions": found}
            return _json(problem, 422)
        return _json({"model": name, "classes": predictor.classes, "predictions": found})

    @app.post(
        "/v1/explain",
        summary="A picture → where its class comes from, and the training pictures most like it",
        response_model=schema.Explanation,
        responses=schema.PROBLEMS,
        openapi_extra=schema.BODY,
    )
    async def explain(
        request: Request,
        model: Named = "",
        label: Annotated[str, Query(max_length=1000, description="class to explain; default: the predicted")] = "",
        similar: Annotated[int, Query(ge=0, le=_MOST_SIMILAR, description="training pictures, at most")] = 5,
        picture: Annotated[bool, Query(description="whether to send the picture back, upright and in small")] = False,
    ) -> Response:
        name, predictor = house.model(model)
        if label and label not in predictor.classes:
            raise Refusal(404, "no_such_class", "the model knows no such class; /v1/model lists them")
        house.explainers.require_room()
        async with _uploads(request, house) as uploads:
            if len(uploads) > 1:
                raise Refusal(413, "too_many_pictures", "one picture is explained at a time")
            (upload,) = uploads
            call = partial(
                explained,
                predictor,
                upload,
                label=label or None,
                similar=similar,
                picture=picture,
                thumbnails=house.thumbnails,
            )
            (found,) = await _answered(request, house, house.explainers, [call])
        if isinstance(found, Prediction):
            rejected = {"error": "no_usable_picture", "detail": found.reason, "predictions": [vars(found)]}
            return _json(rejected, 422)
        return _json({"model": name, **found})


def _add_facts(app: FastAPI, house: House) -> None:
    @app.get(
        "/v1/model", summary="What a model says of itself", response_model=schema.Model, responses=schema.READ_PROBLEMS
    )
    async def model(model: Named = "") -> Response:
        name, predictor = house.model(model)
        return _json(about(predictor.bundle, name))

    @app.get("/v1/models", summary="The models served", response_model=schema.Models, responses=schema.READ_PROBLEMS)
    async def models() -> Response:
        return _json({"models": list(house.models)})

    @app.get("/healthz", summary="Whether the server runs", response_model=schema.Health)
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get(
        "/readyz",
        summary="Whether it may be asked",
        response_model=schema.Health,
        responses={503: {"model": schema.Health}},
    )
    async def readyz() -> Response:
        return _json({"status": "ready"}) if house.ready else _json({"status": "not ready"}, 503)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        now = {
            "graftage_queue_pictures": house.crew.held,
            "graftage_queue_capacity": house.crew.capacity,
            "graftage_held_bytes": house.held.bytes,
            **resident_memory(),
        }
        return Response(house.metrics.text(now), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI, *, keyed: bool) -> None:
    """The page: a fixed handful of files, read once."""
    for path, (file, kind) in _PAGE.items():
        text = (resources.files("graftage.serve") / "web" / file).read_text("utf-8")
        text = text.replace("{{keyed}}", "yes" if keyed else "no") if file == "index.html" else text
        app.add_api_route(path, partial(_file, text, kind), include_in_schema=False)
    app.add_api_route(_BASE, partial(_file, template("style.css"), "text/css; charset=utf-8"), include_in_schema=False)


async def _file(text: str, kind: str) -> Response:
    return Response(text, media_type=kind)
