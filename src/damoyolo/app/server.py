"""The routes: a page, an API, and what watches over them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from damoyolo.app.batching import Batcher, Wish
from damoyolo.app.guard import Access, Guard
from damoyolo.app.limits import Limits, RefusedError
from damoyolo.app.metrics import Metrics
from damoyolo.app.predicting import Predictor
from damoyolo.app.schemas import Health, KnownClass, Model, Prediction, Problem, hex_colour
from damoyolo.assemble.serving import ServedModel
from damoyolo.detections import PICTURE_SCORE
from damoyolo.errors import UserError

STATIC = Path(__file__).parent / "static"
LEAST_SCORE, MOST_BOXES = 0.01, 1000
PATHS = ("/", "/docs", "/openapi.json", "/predict", "/model", "/health", "/metrics")
CLIENT_GONE = 499
"""What nginx logs for a client that did not wait; nobody receives it."""

ABOUT = """Send the bytes of an image file as the body of `/predict`; get boxes. Whatever goes wrong is
`{"error": "one sentence"}`; 503 comes with `Retry-After` in seconds."""
BODY = {
    "requestBody": {
        "required": True,
        "description": "the bytes of a JPEG, PNG, WebP, GIF or BMP file, whatever the content type says",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
        },
    }
}
FAULTS = {
    400: "empty body, or a wrong length",
    401: "token missing or wrong",
    403: "asked by a name that is not served",
    408: "the body came too slowly",
    413: "too many bytes or pixels",
    415: "no image",
    422: "a damaged image, or a wrong option",
    500: "the network failed",
    503: "busy; try again after Retry-After seconds",
}


def create_app(model: ServedModel, limits: Limits | None = None, access: Access | None = None) -> FastAPI:
    """An ASGI application that serves one model; it computes while its lifespan lasts."""
    limits, metrics = limits or Limits(), Metrics()
    batcher = Batcher(model, limits.batch_size, metrics)
    predictor = Predictor(model, batcher, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()
        predictor.close()

    app = FastAPI(
        title="damoyolo",
        description=ABOUT,
        version=importlib.metadata.version("damoyolo"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, access=access or Access(), metrics=metrics, paths=PATHS)
    _add_api(app, model, predictor, batcher, limits, metrics)
    _add_pages(app)
    _explain_errors(app, metrics)
    return app


def _add_api(
    app: FastAPI, model: ServedModel, predictor: Predictor, batcher: Batcher, limits: Limits, metrics: Metrics
) -> None:
    card = _card(model)

    @app.post(
        "/predict",
        openapi_extra=BODY,
        responses=_faults(*FAULTS),
        summary="Find things in an image",
    )
    async def predict(
        request: Request,
        score: Annotated[
            float, Query(ge=LEAST_SCORE, le=1, description="lowest score, 0.01 to 1")
        ] = PICTURE_SCORE,
        nms_iou: Annotated[
            float | None, Query(ge=0, le=1, description="overlap, 0 to 1; default the model's own")
        ] = None,
        max_detections: Annotated[int, Query(ge=1, le=MOST_BOXES, description="most boxes")] = 300,
    ) -> Prediction:
        """The body is the image file itself: `curl --data-binary @street.jpg .../predict`."""
        if model.own_nms and nms_iou not in (None, model.nms_iou):
            raise RefusedError(
                422,
                "option",
                f"nms_iou: is {nms_iou}, but this file suppresses at {model.nms_iou} by itself; leave it out",
            )
        return await predictor.predict(request, Wish(score, nms_iou, max_detections))

    @app.get("/model", responses=_faults(401, 403), summary="The model card")
    async def show_model() -> Model:
        """What the model is, knows and is worth."""
        return card

    @app.get("/health", responses=_faults(403, 503), summary="Is it alive?")
    async def health(response: Response) -> Health:
        """For whoever restarts what has died."""
        if not batcher.alive:
            raise RefusedError(503, "dead", "the network's thread has ended; restart the server", 10)
        return Health(status="ok", inside=predictor.inside, waiting=limits.waiting)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_faults(401, 403)},
        summary="Numbers for Prometheus",
    )
    async def show_metrics() -> Response:
        """In Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(
            path,
            lambda name=name: FileResponse(STATIC / name),
            include_in_schema=False,
            response_class=FileResponse,
        )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _explain_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error is a `Problem`."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        metrics.refused.labels(error.reason).inc()
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": _explain(error.errors()[0])}, 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        text = f"{request.method} {request.url.path[:80]}: {error.detail}; /docs tells what there is"
        return JSONResponse({"error": text}, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        metrics.aborted.inc()
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(UserError)
    async def unusable(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)


def _explain(mistake: dict[str, Any]) -> str:
    """A mistake in an option, with its name, value and remedy."""
    name = str(mistake["loc"][-1])
    reason = str(mistake["msg"]).replace("Input should be", "should be")
    return f"{name}: '{str(mistake.get('input'))[:80]}' {reason}; correct it or leave it out"


def _faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": FAULTS[status]} for status in statuses}


def _card(model: ServedModel) -> Model:
    facts = {key: value for key, value in model.facts.items() if key != "class_names"}
    classes = [KnownClass(name=name, colour=hex_colour(i)) for i, name in enumerate(model.class_names)]
    return Model(
        **facts,
        classes=classes,
        nms_iou=model.nms_iou,
        nms_fixed=model.own_nms,
        damoyolo=importlib.metadata.version("damoyolo"),
    )
