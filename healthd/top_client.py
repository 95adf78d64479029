"""Asks a daemon how it does, over its API: the wire as `healthd top` reads it, and what can go wrong on the way."""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from msgspec import Struct

from healthd import __version__
from healthd.errors import HealthdError
from healthd.redact import SCRUBBER, Secret, SourceUrl

ANSWER_SECONDS = 5.0
"""How long the answer to one poll may take, all of it."""
KEEP_ALIVE_SECONDS = 2.0
"""Shorter than uvicorn's: a connection that the daemon is just closing must not be used again."""
CLOCK_WAS_SET = timedelta(seconds=5)
LONGEST_REASON = 300
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
T = TypeVar("T")


class NoAnswer(HealthdError):  # noqa: N818  it says what it is
    """There is no answer that can be used; the message says why, in words for people."""


class Process(Struct):
    """What the process of the daemon takes; None where its system does not tell."""

    cpu_seconds: float
    resident_memory_bytes: int | None
    threads: int | None
    open_fds: int | None


class DaemonState(Struct):
    """`/api/v1/state`, as far as it is shown."""

    status: str
    version: str
    started_at: Moment
    uptime_seconds: float
    cameras: dict[str, int]
    viewers: int
    models_loaded: int
    waiting_for: list[str]
    process: Process | None = None
    """None from a daemon that does not tell."""


class FrameCounts(Struct):
    """Where the frames of a camera went, as far as it is shown."""

    dropped: dict[str, int]


class CameraModel(Struct):
    """The model that watches a camera."""

    id: str | None
    state: str
    reason: str | None


class CameraProcess(Struct):
    """The process in which a camera is read."""

    memory_bytes: int | None
    ends: dict[str, int]


class Camera(Struct):
    """One of `/api/v1/cameras`, as far as it is shown."""

    name: str
    plugin: str
    state: str
    since: Moment
    reason: str | None
    fps: float
    predicted_fps: float
    frame_age_ms: float | None
    frames: FrameCounts
    reconnects: int
    viewers: int
    model: CameraModel
    isolation: str | None = None
    """None from a daemon that does not tell."""
    process: CameraProcess | None = None


class Viewer(Struct):
    """One of `/api/v1/viewers`."""

    id: str
    kind: str
    camera: str | None
    client: str
    since: Moment
    sent: int
    skipped: int
    quality: int | None
    last_write_age_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything the daemon said at one moment."""

    at: datetime
    """By the clock of the daemon."""
    state: DaemonState
    cameras: list[Camera]
    viewers: list[Viewer]


def parse_address(text: str) -> SourceUrl:
    """Read where the daemon is: a URL, a path prefix included; `http://` may be left out.

    Raises:
        ValueError: it is none; the message does not quote it.
    """
    address = SourceUrl(text if "://" in text else f"http://{text}")
    try:
        url, has_query = httpx.URL(address.reveal()), bool(urlsplit(address.reveal()).query)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is not a URL such as http://127.0.0.1:8080 or http://[::1]:8080") from None
    if url.scheme not in {"http", "https"} or not url.host or (url.port or 0) > 0xFFFF:
        raise ValueError("must be an http:// or https:// URL with a host, and a port up to 65535")
    if has_query:
        raise ValueError("must not have a query: a key goes into HEALTHD_API_KEY or --api-key")
    return address


def parse_key(text: str | None) -> Secret | None:
    """Read an API key; None where there is none.

    Raises:
        ValueError: no header can carry it; the message does not quote it.
    """
    key = (text or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must consist of printable ASCII characters")
    return Secret(key) if key else None


class DaemonClient:
    """Asks one daemon. Use it as an async context manager; it keeps one connection as long as polls follow closely.

    Goes straight to the daemon (no proxy of the environment), follows no redirect (the key would go along), and trusts
    the authorities of the system, or those of the file that `SSL_CERT_FILE` names.
    """

    def __init__(self, address: SourceUrl, key: Secret | None, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.address = str(address)
        """Fit to be shown."""
        self._has_key = key is not None
        self._answer_seconds = answer_seconds
        url = httpx.URL(address.reveal())
        self._http = httpx.AsyncClient(
            base_url=url.copy_with(fragment=None),
            headers={"User-Agent": f"healthd-top/{__version__}"} | ({"X-Api-Key": key.reveal()} if key else {}),
            verify=ssl.create_default_context() if url.scheme == "https" else False,
            trust_env=False,
            timeout=answer_seconds,
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self) -> Answer:
        """Ask once.

        Raises:
            NoAnswer: nothing that can be used came within the time for an answer.
        """
        try:
            async with asyncio.timeout(self._answer_seconds):
                state, at = await self._get("api/v1/state", DaemonState)
                cameras, _ = await self._get("api/v1/cameras", list[Camera])
                viewers, _ = await self._get("api/v1/viewers", list[Viewer])
        except (TimeoutError, httpx.TimeoutException):
            raise NoAnswer(f"no answer within {self._answer_seconds:g} s") from None
        except (httpx.HTTPError, OSError) as exc:
            raise NoAnswer(_shown(_why(exc))) from None
        return Answer(_now(state, at), state, cameras, viewers)

    async def _get(self, path: str, shape: type[T]) -> tuple[T, datetime | None]:
        response = await self._http.get(path)
        if response.status_code != httpx.codes.OK:
            raise NoAnswer(_shown(self._refusal(response)))
        try:
            found = msgspec.convert(printable(msgspec.json.decode(response.content)), shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise NoAnswer(_shown(f"what answers there is no healthd, or one of another version: {exc}")) from None
        return found, _date(response)

    def _refusal(self, response: httpx.Response) -> str:
        match response.status_code:
            case httpx.codes.UNAUTHORIZED if self._has_key:
                return "the daemon does not know this API key"
            case httpx.codes.UNAUTHORIZED:
                return "the daemon wants an API key: set HEALTHD_API_KEY or give --api-key"
            case httpx.codes.NOT_FOUND:
                return "what answers there is no healthd (404): is a path missing in the URL, or too much?"
            case status if response.has_redirect_location:
                return f"it redirects ({status}): give as --url {response.headers['location']}"
            case status:
                return f"the answer is {status} {response.reason_phrase}"


def printable(found: Any) -> Any:
    """Replace what could steer a terminal in every text of a decoded answer: reasons quote what cameras said."""
    match found:
        case str():
            return found if found.isprintable() else "".join(char if char.isprintable() else " " for char in found)
        case dict():
            return {printable(key): printable(value) for key, value in found.items()}
        case list():
            return [printable(item) for item in found]
    return found


def _shown(reason: str) -> str:
    """Make a reason fit to be shown: no secret, one line, not too long."""
    return str(printable(SCRUBBER.scrub(reason)))[:LONGEST_REASON]


def _now(state: DaemonState, date: datetime | None) -> datetime:
    """Return the time by the clock of the daemon.

    Its start plus its uptime is exact, but for a clock that was set since: a small computer without a battery for its
    clock starts in the past. Then the `Date` of the answer is right, which may be two seconds old.
    """
    exact = state.started_at + timedelta(seconds=state.uptime_seconds)
    return exact if date is None or abs(date - exact) < CLOCK_WAS_SET else date


def _date(response: httpx.Response) -> datetime | None:
    """Return the time of the answer by the clock of the daemon."""
    try:
        said = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        return None
    return said if said.tzinfo else None


def _why(exc: BaseException) -> str:
    """Find the cause below what the layers of the client made of it."""
    for cause in _causes(exc):
        match cause:
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted ({cause.verify_message}): "
                    "name the file of its authority in SSL_CERT_FILE"
                )
            case ssl.SSLError():
                return f"no TLS connection: {cause.reason or cause}"
            case socket.gaierror():
                return f"the name of the host is not known: {cause.strerror}"
            case OSError() if cause.errno:
                return os.strerror(cause.errno).lower()
    if isinstance(exc, httpx.RemoteProtocolError):
        return f"the connection broke, or what answers there does not speak HTTP: {exc}"
    return f"{type(exc).__name__}: {exc}" if str(exc) else "the connection broke"


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it came from, the members of groups too."""
    while exc is not None:
        yield exc
        if isinstance(exc, BaseExceptionGroup):
            for member in exc.exceptions:
                yield from _causes(member)
        exc = exc.__cause__ or exc.__context__
