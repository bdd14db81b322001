"""The routes for programs."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response

from damoyolo.app.batching import Batcher, Wish
from damoyolo.app.limits import RefusedError
from damoyolo.app.metrics import Metrics
from damoyolo.app.predicting import Predictor
from damoyolo.app.problems import FAULTS, faults
from damoyolo.app.schemas import Health, KnownClass, Model, Prediction, hex_colour
from damoyolo.assemble.serving import ServedModel
from damoyolo.detections import PICTURE_SCORE
from damoyolo.errors import nearest

LEAST_SCORE, MOST_BOXES = 0.01, 1000
OPTIONS = ("score", "nms_iou", "max_detections")
"""Of `/predict`."""
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


def add_predict(app: FastAPI, model: ServedModel, predictor: Predictor) -> None:
    """What is in an image."""

    @app.post(
        "/predict",
        dependencies=[Depends(_refuse_unknown)],
        openapi_extra=BODY,
        responses=faults(*FAULTS),
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


def add_facts(
    app: FastAPI, model: ServedModel, predictor: Predictor, batcher: Batcher, metrics: Metrics
) -> None:
    """What the model is, and how the server does."""
    card = _card(model)

    @app.get("/model", responses=faults(401, 403), summary="The model card")
    async def show_model() -> Model:
        """What the model is, knows and is worth."""
        return card

    @app.get("/health", responses=faults(403, 503), summary="Is it alive?")
    async def health(response: Response) -> Health:
        """For whoever restarts what has died."""
        if not batcher.alive:
            raise RefusedError(503, "dead", "the network's thread has ended; restart the server", 10)
        return Health(status="ok", inside=predictor.inside, most_inside=predictor.limits.waiting)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **faults(401, 403)},
        summary="Numbers for Prometheus",
    )
    async def show_metrics() -> Response:
        """In Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _refuse_unknown(request: Request) -> None:
    """A misspelt option must not be taken for none."""
    for option in request.query_params:
        if option not in OPTIONS:
            hint = nearest(option, OPTIONS) or f"; there are {', '.join(OPTIONS)}"
            raise RefusedError(422, "option", f"{option[:80]!r} is no option of /predict{hint}")


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
