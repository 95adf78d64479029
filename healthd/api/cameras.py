"""Cameras: their health, their newest picture and prediction, and what can be ordered of them."""

import asyncio
import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, HttpMethod, Request, Response, get, patch, post, route
from litestar.exceptions import ClientException, NotFoundException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body, Parameter

from healthd.api import schemas, shapes
from healthd.api.auth import check_again
from healthd.api.connection import while_connected
from healthd.api.errors import NoPicture, TryLater
from healthd.api.services import House, Services
from healthd.cameras.health import Health, State
from healthd.cameras.jpeg import EncoderBusy, Picture, Variant
from healthd.cameras.records import NotLive, Tuning
from healthd.cameras.runner import CameraRunner
from healthd.errors import BrokenPicture
from healthd.frames import Frame

NAME = Parameter(description="Name of a configured camera.")
ERROR = ResponseSpec(schemas.Error, description="The camera has no picture to show, or is not known.")
LATER = ResponseSpec(schemas.Error, description="Not now; see `Retry-After`.")
_FROM_0 = {"minimum": 0}  # Litestar documents every bound but this one
MAX_AGE = Parameter(ge=0, schema_extra=_FROM_0, description="503 when older, in milliseconds.")
AFTER = Parameter(ge=0, schema_extra=_FROM_0, description="Wait for a frame newer than this id.")
BOUNDS: dict[str, tuple[float, float]] = {
    "predict_fps": (0.1, 120),
    "quality": (1, 95),
    "confidence": (0, 1),
    "iou": (0, 1),
    "max_det": (1, 1000),
}
"""What PATCH accepts, ends included."""


def _header(description: str, kind: str = "string", **more: object) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": kind, **more}}


_HEADERS = {
    "ETag": _header("Changes with every frame and variant, and with every start of the daemon."),
    "Cache-Control": _header("`no-cache`: ask again each time, with `If-None-Match`."),
    "Content-Length": _header("Bytes of the JPEG.", "integer", minimum=1),
    "X-Frame-Id": _header("Grows with every frame of the camera.", "integer", minimum=1),
    "X-Frame-Timestamp": _header("Time of capture, RFC 3339.", format="date-time"),
    "X-Frame-Age-Ms": _header("Age when it was sent.", "number", minimum=0),
    "X-Camera-State": _header("State of the camera."),
}


class CameraController(Controller):
    """Everything under `/api/v1/cameras`."""

    path = "/cameras"
    tags = ("cameras",)

    @get("/", summary="All configured cameras")
    async def cameras(self, services: House) -> list[schemas.Camera]:
        """Every configured camera, from the first answer on, in the order of the configuration."""
        return [_shape(services, runner) for runner in services.supervisor]

    @get("/{name:str}", summary="One camera", responses={404: ERROR})
    async def camera(self, services: House, name: Annotated[str, NAME]) -> schemas.Camera:
        """Health, rates and accounting of one camera."""
        return _shape(services, find(services, name))

    @route(
        "/{name:str}/snapshot",
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        summary="The newest picture",
        media_type="image/jpeg",
        responses={
            304: ResponseSpec(None, description="Nothing newer."),
            404: ERROR,
            503: LATER,
        },
        opt={"described": {"responses": {"200": {"headers": _HEADERS}}}},
    )
    async def snapshot(  # noqa: PLR0913, PLR0917  one parameter of the query each
        self,
        services: House,
        request: Request[Any, Any, Any],
        name: Annotated[str, NAME],
        q: Annotated[int | None, Parameter(ge=1, le=95, description="JPEG quality.")] = None,
        width: Annotated[int | None, Parameter(ge=16, le=8192, description="At most so many pixels wide.")] = None,
        overlay: Annotated[bool, Parameter(description="Draw the prediction of this very frame.")] = False,  # noqa: FBT002
        max_age: Annotated[int | None, MAX_AGE] = None,
        after: Annotated[int | None, AFTER] = None,
        wait: Annotated[int, Parameter(ge=0, le=60_000, description="How long to wait, in milliseconds.")] = 0,
    ) -> Response[bytes]:
        """Newest JPEG of a live camera; never an old one. See the headers for its id, time and age."""
        runner = find(services, name)
        known = after is not None and after <= runner.newest_frame_id  # an id of an earlier process must not wait
        if after is not None and known:
            newer = runner.wait_newer(after, overlay=overlay, timeout=wait / 1000)
            if not await while_connected(request.scope, newer):
                return Response(b"", status_code=304)  # nobody reads it: nothing is encoded for it
            check_again(request, "read")
        await runner.wait_fresh(overlay=overlay)
        picture, variant = await _next_picture(runner, quality=q, width=width, overlay=overlay)
        _refuse_older(runner, max_age, age_ms=_age_ms(services, picture.frame))
        nothing_newer = after is not None and known and picture.frame.frame_id <= after
        if nothing_newer or matches(request.headers.get("if-none-match"), _etag(services, picture.frame, variant)):
            return Response(b"", status_code=304, headers=_headers(services, runner, picture.frame, variant))
        jpeg = runner.jpegs.get(picture.frame, variant) or await _encoded(runner, picture, variant)
        _refuse_older(runner, max_age, age_ms=_age_ms(services, picture.frame))
        headers = _headers(services, runner, picture.frame, variant)
        if request.method == "HEAD":
            return Response(b"", headers={**headers, "Content-Length": str(len(jpeg))}, media_type="image/jpeg")
        return Response(jpeg, headers=headers, media_type="image/jpeg")

    @get("/{name:str}/prediction", summary="The newest prediction", responses={404: ERROR})
    async def prediction(self, services: House, name: Annotated[str, NAME]) -> schemas.CameraPrediction:
        """What the model said of the newest predicted frame of a live camera."""
        runner = find(services, name)
        await runner.wait_fresh(overlay=True)
        try:
            predicted = runner.predicted_frame()
        except NotLive as exc:
            raise _no_picture(runner, exc.health) from None
        age = services.clock.monotonic() - predicted.frame.captured_monotonic
        return shapes.camera_prediction(predicted, age_seconds=age)

    @post("/{name:str}/restart", status_code=202, summary="Begin anew", responses={404: ERROR, 409: ERROR})
    async def restart(self, services: House, name: Annotated[str, NAME]) -> schemas.Camera:
        """Leave the camera and its model and begin anew, also when it has failed, ended or was paused."""
        runner = _startable(services, name)
        runner.restart()
        return _shape(services, runner)

    @post("/{name:str}/pause", status_code=202, summary="Close the camera for now", responses={404: ERROR, 409: ERROR})
    async def pause(self, services: House, name: Annotated[str, NAME]) -> schemas.Camera:
        """Close the camera until it is resumed; its model stays loaded."""
        runner = _startable(services, name)
        if runner.health.state in {State.FAILED, State.ENDED}:
            raise ClientException(f"camera `{name}` has {runner.health.state}: {runner.health.reason}", status_code=409)
        runner.pause()
        return _shape(services, runner)

    @post("/{name:str}/resume", status_code=202, summary="Open a paused camera", responses={404: ERROR, 409: ERROR})
    async def resume(self, services: House, name: Annotated[str, NAME]) -> schemas.Camera:
        """Open a paused camera again; nothing happens to one that is not paused."""
        runner = _startable(services, name)
        runner.resume()
        return _shape(services, runner)

    @patch("/{name:str}", summary="Change a running camera", responses={404: ERROR, 422: ERROR})
    async def change(
        self, services: House, name: Annotated[str, NAME], data: Annotated[schemas.CameraChange, Body()]
    ) -> schemas.Camera:
        """Change rates and thresholds at once; lasts until the daemon is started anew, or its file changes."""
        runner = find(services, name)
        given = {key: value for key, value in msgspec.structs.asdict(data).items() if value is not msgspec.UNSET}
        _check_bounds(given)
        tuning = Tuning(
            predict_fps=given.pop("predict_fps", runner.tuning.predict_fps),
            quality_chosen="quality" in given or runner.tuning.quality_chosen,
            quality=given.pop("quality", runner.tuning.quality),
        )
        runner.tune(tuning=tuning, thresholds=given)
        return _shape(services, runner)


def find(services: Services, name: str) -> CameraRunner:
    """Return the runner of a camera.

    Raises:
        NotFoundException: no camera of that name is configured.
    """
    runner = services.supervisor.get(name)
    if runner is None:
        raise NotFoundException("unknown camera", extra={"camera": name[:80]})
    return runner


def _shape(services: Services, runner: CameraRunner) -> schemas.Camera:
    return shapes.camera(runner, services.viewers.count(runner.name))


def matches(if_none_match: str | None, etag: str) -> bool:
    """Compare an `If-None-Match` header with an ETag (RFC 9110, 13.1.2: weak comparison, a list, or `*`)."""
    if not if_none_match:
        return False
    given = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in given or etag in given


def _startable(services: Services, name: str) -> CameraRunner:
    runner = find(services, name)
    if runner.source is None or not runner.settings.enabled:
        raise ClientException(f"camera `{name}` cannot run: {runner.health.reason}", status_code=409)
    return runner


async def _next_picture(
    runner: CameraRunner, *, quality: int | None, width: int | None, overlay: bool
) -> tuple[Picture, Variant]:
    """Return the newest picture and how to show it, once the encoder has finished with an older one shown like it."""
    while True:
        picture = _picture(runner, overlay=overlay)
        variant = runner.tuning.variant(picture.frame, quality=quality, width=width, overlay=overlay)
        older = runner.jpegs.older(picture.frame.frame_id, variant)
        if older is None:
            return picture, variant
        await asyncio.wait({older})


async def _encoded(runner: CameraRunner, picture: Picture, variant: Variant) -> bytes:
    """Encode, then see that the picture may still be shown: a camera can be lost while others are being encoded."""
    try:
        jpeg = await runner.jpegs.get_or_encode(picture, variant)
        runner.shown.confirm(picture.frame)
    except NotLive as exc:
        raise _no_picture(runner, exc.health) from None
    except BrokenPicture as exc:
        raise _no_picture(runner, replace(runner.health, reason=str(exc))) from None
    except EncoderBusy as exc:
        raise TryLater(str(exc)) from None
    return jpeg


def _picture(runner: CameraRunner, *, overlay: bool) -> Picture:
    try:
        return runner.picture(overlay=overlay)
    except NotLive as exc:
        raise _no_picture(runner, exc.health) from None


def _refuse_older(runner: CameraRunner, max_age: int | None, *, age_ms: float) -> None:
    if max_age is not None and age_ms > max_age:
        raise TryLater(
            f"the newest picture is {age_ms:.0f} ms old, more than the {max_age} ms asked for",
            retry_after_seconds=max(1, math.ceil(1 / runner.fps) if runner.fps > 0 else 1),
            extra={"age_ms": round(age_ms)},
        )


def _no_picture(runner: CameraRunner, health: Health) -> NoPicture:
    detail = f"camera `{runner.name}` has no picture to show: {health.state}"
    if health.reason:
        detail += f", {health.reason}"
    extra = {"state": health.state.value, "reason": health.reason, "since": rfc3339(health.since)}
    return NoPicture(detail, extra=extra)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the answer tells of one frame in one variant."""

    frame_id: int
    variant: Variant
    etag: str
    raw_etag: bytes
    fixed: tuple[tuple[bytes, bytes], ...]
    """The headers that stay the same as long as it is the newest."""

    @classmethod
    def of(cls, boot_id: str, frame: Frame, variant: Variant) -> "Facts":
        """Put them together."""
        etag = f'"{boot_id}-{frame.frame_id}-{variant}"'
        fixed = (
            (b"etag", etag.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-frame-id", b"%d" % frame.frame_id),
            (b"x-frame-timestamp", rfc3339(frame.captured_at).encode()),
        )
        return cls(frame.frame_id, variant, etag, etag.encode(), fixed)

    def headers(self, *, age_ms: float, state: State) -> list[tuple[bytes, bytes]]:
        """Return all headers that tell of the frame."""
        return [*self.fixed, (b"x-frame-age-ms", b"%.0f" % age_ms), (b"x-camera-state", state.value.encode())]


def _headers(services: Services, runner: CameraRunner, frame: Frame, variant: Variant) -> dict[str, str]:
    facts = Facts.of(services.boot_id, frame, variant)
    raw = facts.headers(age_ms=_age_ms(services, frame), state=runner.health.state)
    return {name.decode(): value.decode() for name, value in raw}


def _etag(services: Services, frame: Frame, variant: Variant) -> str:
    return Facts.of(services.boot_id, frame, variant).etag


def _age_ms(services: Services, frame: Frame) -> float:
    return max(0.0, services.clock.monotonic() - frame.captured_monotonic) * 1000


def rfc3339(moment: datetime) -> str:
    """Return a time of the wire, in milliseconds, UTC."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_bounds(given: dict[str, Any]) -> None:
    wrong = [
        {"key": key, "message": f"must be from {BOUNDS[key][0]:g} to {BOUNDS[key][1]:g}", "source": "body"}
        for key, value in given.items()
        if value is not None and not BOUNDS[key][0] <= value <= BOUNDS[key][1]
    ]
    if wrong:
        raise ValidationException(extra=wrong)
