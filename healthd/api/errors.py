"""One shape for every error: `{"status_code", "detail", "extra"}`. Never an image, a traceback or a secret."""

from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, ValidationException

from healthd.api.methods import Methods
from healthd.api.schemas import Error
from healthd.errors import (
    BusyError,
    CameraError,
    HealthdError,
    InUseError,
    LoadError,
    ModelError,
    NotHereError,
    NotLoadedError,
    PictureError,
    PictureTooLarge,
    SettingsError,
    UnknownModelError,
)
from healthd.redact import SCRUBBER

log = structlog.get_logger(__name__)


LONGEST_TEXT = 1000
"""Characters of one text of an error that are shown. Some quote what was sent, however long that is."""
MOST_PROBLEMS = 100


class NoPicture(HTTPException):
    """404: the camera has no picture that could honestly be shown; `extra` has its state, reason and since."""

    status_code = 404


class TryLater(HTTPException):
    """503 with `Retry-After`: not now."""

    status_code = 503

    def __init__(self, detail: str, *, retry_after_seconds: int = 1, extra: dict[str, Any] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)}, extra=extra or {})


def answer_error(request: Request[Any, Any, Any], exc: Exception) -> Response[Error]:
    """Shape whatever a handler raised."""
    status, detail, headers = HTTPStatus.INTERNAL_SERVER_ERROR.value, "internal error", {}
    extra: Any = {}
    if isinstance(exc, ValidationException):
        status = 422
        extra = [_problem(one) for one in exc.extra[:MOST_PROBLEMS]] if isinstance(exc.extra, list) else exc.extra or {}
        detail = (
            "; ".join(f"{one['key']}: {one['message']}" for one in extra) if isinstance(extra, list) else exc.detail
        )
    elif isinstance(exc, HTTPException) and exc.status_code != status:
        status, detail, extra, headers = exc.status_code, exc.detail, exc.extra or {}, dict(exc.headers or {})
        if isinstance(exc, MethodNotAllowedException):
            detail, headers = _other_methods(request)
    elif isinstance(exc, tuple(kind for kind, _ in STATUSES)):
        status, detail = status_of(exc), str(exc)
        if isinstance(exc, BusyError):
            headers = {"Retry-After": str(exc.retry_after_seconds)}
    else:
        log.error("request_bug", method=request.method, route=request.scope.get("path_template", ""), exc_info=exc)
    told = SCRUBBER.scrub_start(detail or HTTPStatus(status).phrase, LONGEST_TEXT)
    body = Error(status, told, SCRUBBER.scrub_object(_short(extra)))
    headers.setdefault("Cache-Control", "no-store")
    return Response(body, status_code=status, headers=headers, media_type="application/json")


STATUSES: tuple[tuple[type[HealthdError], int], ...] = (
    (UnknownModelError, 404),
    (SettingsError, 422),
    (BusyError, 503),
    (LoadError, 502),
    (ModelError, 500),
    (CameraError, 500),
    (InUseError, 409),
    (NotLoadedError, 409),
    (NotHereError, 409),
    (PictureTooLarge, 413),
    (PictureError, 400),
)
"""Each kind of failure has one status; the first that fits counts."""


def status_of(exc: Exception) -> int:
    """Return the status of the answer to a request that raised this; 500 for a bug."""
    if isinstance(exc, ValidationException):
        return 422
    if isinstance(exc, HTTPException):
        return exc.status_code
    return next((status for kind, status in STATUSES if isinstance(exc, kind)), 500)


def _other_methods(request: Request[Any, Any, Any]) -> tuple[str, dict[str, str]]:
    methods: Methods = request.app.state.methods
    takes = ", ".join(methods.of(request.scope["path"]))
    return f"this path takes {takes}", {"Allow": takes}


def _short(value: Any) -> Any:
    """Return what is answered beside the detail, with each text in it scrubbed and cut."""
    if isinstance(value, str):
        return SCRUBBER.scrub_start(value, LONGEST_TEXT)
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return value


def _problem(problem: dict[str, Any]) -> dict[str, Any]:
    """Name the body by that name, not by the name our code has for it."""
    key, message = problem.get("key", "request"), problem.get("message", "is wrong")
    if key == "data":
        key, message = "body", "is missing" if message == "'data'" else message
    return {**problem, "key": key, "message": message}
