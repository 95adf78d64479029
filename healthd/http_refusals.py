"""Answers to what is no request that the application could be asked: the one shape of all errors there too."""

from http import HTTPStatus

import msgspec

from healthd.api.schemas import Error


def error_body(status: int, detail: str) -> bytes:
    """Return an error as JSON."""
    return msgspec.json.encode(Error(status, detail))


def bad_request(detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> bytes:
    """Return an answer of HTTP, head and all, after which the connection is to be closed."""
    body = error_body(status, detail)
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
