"""Answers to what is no request that the application could be asked: the one shape of all errors there too."""

from http import HTTPStatus

import msgspec

from healthd.api.answer_headers import OTHER
from healthd.api.schemas import Error

HEADERS = tuple(
    (name.decode(), value.decode())
    for name, value in ((b"content-type", b"application/json"), (b"cache-control", b"no-store"), *OTHER)
)
"""Of all of them. `Strict-Transport-Security` is not there: what makes them knows nothing of the settings."""


def error_body(status: int, detail: str) -> bytes:
    """Return an error as JSON."""
    return msgspec.json.encode(Error(status, detail))


def bad_request(detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> bytes:
    """Return an answer of HTTP, head and all, after which the connection is to be closed."""
    body = error_body(status, detail)
    headers = (*HEADERS, ("content-length", str(len(body))), ("connection", "close"))
    lines = (f"HTTP/1.1 {status} {status.phrase}", *(f"{name}: {value}" for name, value in headers))
    return "\r\n".join((*lines, "", "")).encode() + body
