"""Inference: a picture is sent in, an envelope comes back."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Controller, Request, Response, post
from litestar.openapi.datastructures import ResponseSpec

from healthd.api import schemas, shapes
from healthd.api.errors import TryLater, status_of
from healthd.api.infer_params import PREDICT_NAMES, Asked, Parameters
from healthd.api.infer_schemas import Box, Detections, Seen
from healthd.api.services import House, Services
from healthd.api.uploads import AnyRequest, read_picture, unless_gone
from healthd.cameras.annotate import annotated_jpeg
from healthd.clients import UNKNOWN
from healthd.errors import PredictError
from healthd.frames import Image
from healthd.models.model import Prediction

INFER = Parameters(
    wishes=("model", "annotated"),
    params=PREDICT_NAMES,
)
DETECT = Parameters(wishes=(), params={"confidence": "confidence"})


class Outcome(StrEnum):
    """How a request for a prediction ended; the label of its metric."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN_MODEL = "unknown_model"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    GONE = "gone"
    PREDICT_FAILED = "predict_failed"
    LOAD_FAILED = "load_failed"
    BUSY = "busy"


_OUTCOMES = {
    404: Outcome.UNKNOWN_MODEL,
    408: Outcome.TIMEOUT,
    413: Outcome.TOO_LARGE,
    499: Outcome.GONE,
    500: Outcome.PREDICT_FAILED,
    502: Outcome.LOAD_FAILED,
    503: Outcome.BUSY,
}
_SAID = {
    400: "No picture, a broken one, or no form.",
    404: "Unknown model.",
    408: "The picture did not arrive in time.",
    413: "Too many bytes or pixels.",
    415: "The body is neither a form nor a picture.",
    500: "The model failed on this picture; it stays usable. `detail` begins with the type of the failure.",
    502: "The model cannot be loaded.",
    503: "Too busy; see `Retry-After`.",
}
FAILURES = {status: ResponseSpec(schemas.Error, description=said) for status, said in _SAID.items()}


def _header(description: str, kind: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_HEADERS = {
    "X-Model-Id": _header("The model that answered, percent-encoded.", "string"),
    "X-Inference-Time-Ms": _header("Pre-processing, network and decoding.", "number"),
    "X-Results": _header("How many results there are.", "integer"),
}
_JPEG = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}


class InferController(Controller):
    """Everything that takes one picture and answers at once."""

    path = "/"
    tags = ("inference",)

    @post(
        "/infer",
        status_code=200,
        opt={
            "scope": "read",
            "described": {**INFER.described(), "responses": {"200": {"headers": _HEADERS, "content": _JPEG}}},
        },
        summary="One picture in, one envelope out",
        responses=FAILURES,
    )
    async def infer(self, services: House, request: Request[Any, Any, Any]) -> Response[schemas.Envelope]:
        """What a model says of a picture; the envelope is the same for every family of models.

        Parameters stand in the query or in the form. The coordinates of the results are pixels of the picture as it
        is looked at: turned as its EXIF orientation says.
        """
        return await _answered(services, request, INFER, _envelope_or_jpeg)

    @post(
        "/detect",
        status_code=200,
        opt={"scope": "read", "described": DETECT.described()},
        summary="One picture in, labels and boxes out",
        responses=FAILURES,
    )
    async def detect(self, services: House, request: Request[Any, Any, Any]) -> Response[Detections]:
        """What the default model sees in a picture: a shorter answer for simple clients."""
        return await _answered(services, request, DETECT, _detections)


async def _answered(
    services: Services, request: AnyRequest, parameters: Parameters, shape: Callable[..., Awaitable[Response[Any]]]
) -> Response[Any]:
    """Admit, check, read the picture, and only then ask for a place at the model: nobody waits there without one."""
    limits, query = services.settings.inference, list(request.query_params.multi_items())
    with _counted(services):
        if services.draining:
            raise TryLater("healthd stops")
        with services.uploads.admitted(request.client.host if request.client else UNKNOWN):
            asked = parameters.read(query)
            sent = await read_picture(
                request, max_bytes=limits.max_upload_bytes, timeout_seconds=limits.upload_timeout_seconds
            )
            if sent.fields:
                asked = parameters.read(query, sent.fields)
            return await unless_gone(request, _predicted(services, asked, sent.picture, shape))


async def _predicted(
    services: Services, asked: Asked, picture: bytearray, shape: Callable[..., Awaitable[Response[Any]]]
) -> Response[Any]:
    async with AsyncExitStack() as held:
        async with services.inference.seat(asked.wish.model, asked.params) as seat:
            image = await held.enter_async_context(services.decoder.decoded(picture, before=seat.in_time))
            prediction = await seat.predict(image)
            model_id, task = seat.entry.model_id, seat.model.task
        try:
            said = shapes.completed(prediction, image, model_id=model_id, task=task)
            return await shape(services, asked, image, said)
        except Exception as exc:  # the family broke the contract
            raise PredictError(f"{type(exc).__name__}: what the model said cannot be sent: {exc}") from exc


async def _envelope_or_jpeg(services: Services, asked: Asked, image: Image, said: Prediction) -> Response[Any]:
    envelope = msgspec.json.encode(shapes.envelope(said))
    if not asked.wish.annotated:
        return _json(envelope)
    quality = services.settings.snapshots.quality
    jpeg = await services.decoder.run(lambda: annotated_jpeg(image, said, quality=quality))
    headers = {
        "X-Model-Id": quote(said.model_id),
        "X-Inference-Time-Ms": f"{said.inference_time_ms:.1f}",
        "X-Results": str(len(said.results)),
        "Cache-Control": "no-store",
    }
    return Response(jpeg, headers=headers, media_type="image/jpeg")


async def _detections(services: Services, asked: Asked, image: Image, said: Prediction) -> Response[Any]:  # noqa: ARG001  one signature for both
    seen = [Seen(detection.class_name, detection.confidence, Box(*detection.box_xyxy)) for detection in said.results]
    return _json(msgspec.json.encode(Detections(len(seen), seen)))


def _json(body: bytes) -> Response[Any]:
    return Response(body, headers={"Cache-Control": "no-store"}, media_type="application/json")


@contextmanager
def _counted(services: Services) -> Iterator[None]:
    outcome = Outcome.GONE  # cancelled from outside: the server has given up on it
    try:
        yield
        outcome = Outcome.OK
    except Exception as exc:
        outcome = _OUTCOMES.get(status_of(exc), Outcome.REFUSED)
        raise
    finally:
        services.metrics.infer_requests.labels(outcome.value).inc()
