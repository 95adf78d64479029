"""Refusing what no route has answered: one shape of error, also for a WebSocket that is not yet open."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from litestar.enums import ScopeType
from litestar.types import Scope, Send

from healthd.api.schemas import Error

Header = tuple[bytes, bytes]
DENIAL = "websocket.http.response"
"""ASGI extension: a WebSocket may be refused with an answer of HTTP, which tells more than a close code."""
_CLOSE_CODES = {503: 1013}
_POLICY_VIOLATION = 1008


async def refuse(scope: Scope, send: Send, error: Error, *, retry_after_seconds: int | None = None) -> None:
    """Answer a request, or a WebSocket that was not accepted, with an error."""
    body = msgspec.json.encode(error)
    headers: list[Header] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if error.status_code == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if retry_after_seconds is not None:
        headers.append((b"retry-after", str(retry_after_seconds).encode()))
    if scope["type"] == ScopeType.HTTP:
        await _answer(send, "http.response", error.status_code, headers, body)
    elif can_deny(scope):
        await _answer(send, DENIAL, error.status_code, headers, body)
    else:
        code = _CLOSE_CODES.get(error.status_code, _POLICY_VIOLATION)
        await send({"type": "websocket.close", "code": code, "reason": error.detail[:120]})


def can_deny(scope: Scope) -> bool:
    """Tell whether the server lets a WebSocket be refused with an answer of HTTP."""
    extensions: Mapping[str, Any] | None = scope.get("extensions")
    return DENIAL in (extensions or {})


def refused(scope: Scope, code: int, reason: str) -> Error:
    """Turn the code with which Litestar closes a WebSocket that it does not accept into an error of HTTP."""
    known: Any = scope
    if "path_template" not in known:
        return Error(404, "there is no WebSocket at this path")
    return Error(code - 4000 if 4400 <= code < 4600 else 403, reason or "refused")


async def _answer(send: Send, kind: str, status: int, headers: Iterable[Header], body: bytes) -> None:
    start: Any = {"type": f"{kind}.start", "status": status, "headers": list(headers)}
    await send(start)
    end: Any = {"type": f"{kind}.body", "body": body, "more_body": False}
    await send(end)
