"""The pictures that are encoded already, answered before the router: a look-up and a write.

What is asked again and again, by pollers and wall pages, is the newest picture in a variant that somebody has asked for
before. Only that is answered here, in the very words of `CameraController.snapshot`; every other question, every
mistake and every refusal goes on to it.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from healthd.api.cameras import Facts, matches
from healthd.api.services import Services
from healthd.cameras.jpeg import Variant
from healthd.cameras.runner import CameraRunner

PREFIX, SUFFIX = "/api/v1/cameras/", "/snapshot"
TEMPLATE = f"{PREFIX}{{name}}{SUFFIX}"
_BOUNDS = {b"q": (1, 95), b"width": (16, 8192), b"max_age": (0, 10**12)}
_BOOLEANS = {b"true": True, b"1": True, b"false": False, b"0": False}
_WAITS = {b"after", b"wait"}


_Answer: TypeAlias = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass(frozen=True, slots=True)
class _Asked:
    quality: int | None = None
    width: int | None = None
    overlay: bool = False
    max_age_ms: int | None = None


_NOTHING = _Asked()


class CachedSnapshots:
    """Answers in place of the application where it can do so at once. Lives as long as the application."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._facts: dict[tuple[str, bool], Facts] = {}
        """What is told of the newest frame of each camera, plain or predicted, made once per frame and variant."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do so."""
        if scope["type"] == ScopeType.HTTP and scope["method"] == "GET":
            path = scope["path"]
            if path.endswith(SUFFIX) and path.startswith(PREFIX):
                answer = self._answer(scope, path[len(PREFIX) : -len(SUFFIX)])
                if answer is not None:
                    status, headers, body = answer
                    told: Any = scope
                    told["path_template"] = TEMPLATE
                    await send({"type": "http.response.start", "status": status, "headers": headers})
                    await send({"type": "http.response.body", "body": body, "more_body": False})
                    return
        await self._app(scope, receive, send)

    def _answer(self, scope: Scope, name: str) -> _Answer | None:
        """Return status, headers and body; None: this is not for us."""
        asked, runner = _parsed(scope["query_string"]), self._services.supervisor.get(name)
        if asked is None or runner is None:
            return None
        known, plain = _known_etag(scope)
        if not plain or (self._services.auth.required and not _may_read(self._services, scope)):
            return None
        try:
            return self._picture(runner, asked, known)
        except Exception:  # noqa: BLE001  it is answered, as every error, by the application
            return None

    def _picture(self, runner: CameraRunner, asked: _Asked, known: bytes | None) -> _Answer | None:
        runner.waits.asked(overlay=asked.overlay)
        if not runner.waits.is_fresh(overlay=asked.overlay):
            return None
        frame = runner.picture(overlay=asked.overlay).frame
        age_ms = max(0.0, self._services.clock.monotonic() - frame.captured_monotonic) * 1000
        if asked.max_age_ms is not None and age_ms > asked.max_age_ms:
            return None
        variant = Variant(asked.quality or runner.tuning.quality, asked.width, asked.overlay).fitting(frame)
        facts = self._facts.get((runner.name, asked.overlay))
        if facts is None or facts.frame_id != frame.frame_id or facts.variant != variant:
            facts = self._facts[runner.name, asked.overlay] = Facts.of(self._services.boot_id, frame, variant)
        headers = facts.headers(age_ms=age_ms, state=runner.health.state)
        if known is not None and (known == facts.raw_etag or matches(known.decode("latin-1"), facts.etag)):
            return 304, headers, b""
        jpeg = runner.jpegs.get(frame.frame_id, variant)
        if jpeg is None:
            return None
        headers += ((b"content-type", b"image/jpeg"), (b"content-length", b"%d" % len(jpeg)))
        return 200, headers, jpeg


def _known_etag(scope: Scope) -> tuple[bytes | None, bool]:
    """Return what `If-None-Match` says, and whether the question is plain: pages of other sites get more headers."""
    known: bytes | None = None
    for key, value in scope["headers"]:
        if key == b"origin":
            return None, False
        if key == b"if-none-match":
            known = value if known is None else known + b", " + value
    return known, True


def _parsed(query: bytes) -> _Asked | None:
    """Read a query; None: it is not plain, or asks to wait. What it says beside our parameters is ignored."""
    if not query:
        return _NOTHING
    numbers: dict[bytes, int] = {}
    overlay = False
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key in _BOUNDS:
            if key in numbers or len(value) > 12 or not value.isdigit():
                return None
            lowest, highest = _BOUNDS[key]
            numbers[key] = int(value)
            if not lowest <= numbers[key] <= highest:
                return None
        elif key == b"overlay":
            known = _BOOLEANS.get(value)
            if known is None:
                return None
            overlay = known
        elif key in _WAITS or b"%" in key or b"+" in key:
            return None
    return _Asked(numbers.get(b"q"), numbers.get(b"width"), overlay, numbers.get(b"max_age"))


def _may_read(services: Services, scope: Scope) -> bool:
    headers = Headers.from_scope(scope)
    if not ("x-api-key" in headers or "authorization" in headers):
        return False  # a session's cookie, or nothing: the guard knows
    identity = services.auth.identify(headers, {})
    return identity is not None and identity.may("read")
