"""Pictures on their way in: so many at a time, each so large at most, and no longer than so long.

The body is read as it comes and counted before it is kept; whoever sends more than is taken is refused at that byte.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from litestar import Request
from litestar.exceptions import ClientException, HTTPException, ValidationException
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from healthd.api.connection import connection_of
from healthd.api.errors import TryLater
from healthd.clients import client_of
from healthd.errors import PictureTooLarge

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]
FORM_BYTES = 262_144
"""What a form may take beside its file: a hundred text queries, a question, the heads of the parts."""
FIELD_BYTES = 16_384
MOST_PARTS = 128
LOOK_SECONDS = 1.0
RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
"""What the body may be by itself, without a form around it."""


class ClientGone(HTTPException):
    """The client left before it was answered; the status is nginx's word for it, and is seen in metrics alone."""

    status_code = 499

    def __init__(self) -> None:
        super().__init__("the client has gone")


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request brought."""

    picture: bytearray
    fields: tuple[tuple[str, str], ...] = ()
    """The other fields of its form, in their order."""


class Uploads:
    """Requests with a picture. Event loop only; lives as long as the daemon."""

    def __init__(self, *, most: int, most_of_one: int) -> None:
        self.most = most
        self.most_of_one = most_of_one
        """Of one client: without its own limit, one that sends slowly would keep all others out."""
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are now."""
        return self._open.total()

    @contextmanager
    def admitted(self, host: str) -> Iterator[None]:
        """Count a request from an address for as long as the block lasts.

        Raises:
            TryLater: there are too many, of all or of this client.
        """
        client = client_of(host)
        if self.open >= self.most:
            raise TryLater(f"{self.most} requests with a picture are open (inference.max_uploads)")
        if (own := self._open[client]) >= self.most_of_one:
            told = f"{own} requests with a picture of this address are open (inference.max_uploads_per_client)"
            raise TryLater(told)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


async def read_picture(request: AnyRequest, *, max_bytes: int, timeout_seconds: float) -> Sent:
    """Read the body: a form with the picture in its field `file`, or the bare picture.

    Raises:
        PictureTooLarge: it is larger than `max_bytes`; told by its head, or as soon as it is.
        ClientException: 400, 408 or 415: no form, too slow, neither a form nor a picture.
        ValidationException: a form without a file, or with two.
        ClientGone: the client left.
    """
    content_type, options = request.content_type
    reader: _Form | _Bare
    if content_type == "multipart/form-data":
        reader, most = _Form(options.get("boundary", ""), max_bytes), max_bytes + FORM_BYTES
    elif content_type in RAW_TYPES:
        reader, most = _Bare(max_bytes), max_bytes
    else:
        takes = f"multipart/form-data with the picture in `file`, or {', '.join(RAW_TYPES)}"
        raise ClientException(f"the body must be {takes}; not {content_type or 'without a type'}", status_code=415)
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > most:
        raise too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _read(request, reader.feed, most=most, max_bytes=max_bytes)
    except TimeoutError:
        told = f"the picture did not arrive within {timeout_seconds:g} s (inference.upload_timeout_seconds)"
        raise ClientException(told, status_code=408) from None
    return reader.sent()


async def unless_gone(request: AnyRequest, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled when the client leaves. The body must have been read.

    The server does not cancel the handler of a client that has gone, so that nobody else would.

    Raises:
        ClientGone: it left.
    """
    working = asyncio.create_task(work)
    lost = connection_of(request.scope).lost
    try:
        while not working.done():
            if await _gone(request.receive, lost, working):
                raise ClientGone
        return working.result()
    finally:
        working.cancel()
        await asyncio.wait({working})
        if not working.cancelled():
            working.exception()  # it was raised above, or nobody is there to be told


def too_large(max_bytes: int) -> PictureTooLarge:
    """Say that a picture has more bytes than are taken."""
    return PictureTooLarge(f"the picture has more than {max_bytes:,} bytes (inference.max_upload_bytes)")


def problem(key: str, message: str, source: str = "body") -> ValidationException:
    """Say what is wrong with one parameter."""
    return ValidationException(extra=[{"key": key, "message": message, "source": source}])


async def _read(request: AnyRequest, feed: Callable[[bytes], None], *, most: int, max_bytes: int) -> None:
    received, more = 0, True
    while more:
        message: Any = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        received += len(message["body"])
        if received > most:
            raise too_large(max_bytes)
        if message["body"]:
            feed(message["body"])


async def _gone(
    receive: Callable[[], Awaitable[Any]], lost: "asyncio.Future[None]", working: "asyncio.Task[Any]"
) -> bool:
    """Wait for the end of the work, but not for long; return whether the client left before.

    The server stops reading when a client sends its next request early, and would not see it leave; each new call of
    `receive` makes it read on.
    """
    leaving = asyncio.create_task(_left(receive))
    waited: set[asyncio.Future[Any]] = {working, leaving, lost}
    try:
        await asyncio.wait(waited, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return not working.done() and (leaving.done() or lost.done())
    finally:
        leaving.cancel()


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(slots=True)
class _Bare:
    """A body that is the picture."""

    max_bytes: int
    _picture: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        self._picture += data

    def sent(self) -> Sent:
        return Sent(self._picture)


class _Form:
    """A form as it comes in."""

    def __init__(self, boundary: str, max_bytes: int) -> None:
        if not 1 <= len(boundary) <= 200:
            raise ClientException("the Content-Type names no boundary between the parts of the form")
        self._parser = PushMultipartParser(boundary, max_segment_count=MOST_PARTS)
        self._max_bytes = max_bytes
        self._picture: bytearray | None = None
        self._fields: list[tuple[str, str]] = []
        self._name = ""
        self._part = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        if self._parser.closed:  # what follows the last boundary means nothing
            return
        try:
            for event in self._parser.parse(data):
                self._take(event)
        except ParserLimitReached as exc:
            raise ClientException(f"the form has too many parts, or too long a head of one: {exc}") from None
        except MultipartError as exc:
            raise _no_form(exc) from None

    def sent(self) -> Sent:
        """Return what the form had in it, once all of it was fed."""
        try:
            self._parser.close()
        except MultipartError as exc:
            raise _no_form(exc) from None
        if self._picture is None:
            raise problem("file", "is missing: send the picture in a field of this name")
        return Sent(self._picture, tuple(self._fields))

    def _take(self, event: MultipartSegment | bytearray | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._name, self._part = event.name, bytearray()
            if self._name == "file" and self._picture is not None:
                raise problem("file", "was sent twice: one picture at a time")
            if self._name != "file" and event.filename:
                raise problem("file", f"is the field for the picture; a file was sent as `{self._name[:80]}`")
        elif event is not None:
            self._part += event
            if self._name != "file" and len(self._part) > FIELD_BYTES:
                raise problem(self._name[:80], f"has more than {FIELD_BYTES} bytes")
            if len(self._part) > self._max_bytes:
                raise too_large(self._max_bytes)
        elif self._name == "file":
            self._picture = self._part
        else:
            try:
                self._fields.append((self._name, self._part.decode()))
            except UnicodeDecodeError:
                raise problem(self._name[:80], "is no UTF-8") from None


def _no_form(exc: MultipartError) -> ClientException:
    return ClientException(f"the body is no form with the boundary that its Content-Type names: {exc}")
