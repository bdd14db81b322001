"""The application: a page, an API, and what watches over them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from damoyolo.app.api import add_facts, add_predict
from damoyolo.app.batching import Batcher
from damoyolo.app.guard import Access, Guard
from damoyolo.app.limits import Limits
from damoyolo.app.metrics import Metrics
from damoyolo.app.predicting import Predictor
from damoyolo.app.problems import explain_errors
from damoyolo.assemble.serving import ServedModel

STATIC = Path(__file__).parent / "static"
PATHS = ("/", "/docs", "/openapi.json", "/predict", "/model", "/health", "/metrics")
"""Counted apart; all others together, because strangers make them up."""
ABOUT = """Send the bytes of an image file as the body of `/predict`; get boxes. Whatever goes wrong is
`{"error": "one sentence"}`; 503 comes with `Retry-After` in seconds."""


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
    add_predict(app, model, predictor)
    add_facts(app, model, predictor, batcher, metrics)
    _add_pages(app)
    explain_errors(app, metrics)
    return app


def _add_pages(app: FastAPI) -> None:
    for path, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(
            path,
            lambda name=name: FileResponse(STATIC / name),
            include_in_schema=False,
            response_class=FileResponse,
        )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
