"""What is sent to begin a job, read as it arrives: a file goes to disk piece by piece, fields are few and short."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.exceptions import ClientException, HTTPException
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from healthd.api.uploads import ClientGone
from healthd.jobs.service import Jobs
from healthd.jobs.uploads import Upload
from healthd.worker import Worker

T = TypeVar("T")
MOST_FIELD_BYTES = 16_384
MOST_PARTS = 64
PIECE_BYTES = 1024 * 1024
"""So much is collected before it goes to the disk."""

OVERHEAD_BYTES = MOST_PARTS * MOST_FIELD_BYTES
WRITE_SECONDS = 30.0


class TooLargeError(HTTPException):
    """413: more than may be sent in."""

    status_code = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"at most {limit} bytes may be sent in at once (jobs.max_upload_bytes)", headers=_CLOSE)


_CLOSE = {"Connection": "close"}
"""Whoever is refused while it sends shall not send the rest."""


class Form:
    """The fields of a request, in their order, and the file that came with them. Lives as long as the request."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.upload: Upload | None = None
        self.file_name = ""

    def add(self, name: str, value: str) -> None:
        """Add a field; one may come more than once."""
        self.fields.append((name, value))

    def take(self, name: str) -> list[str]:
        """Take out the values of one field."""
        values = [value for field, value in self.fields if field == name]
        self.fields = [field for field in self.fields if field[0] != name]
        return values


@asynccontextmanager
async def received(request: Request[Any, Any, Any], jobs: Jobs, *, idle_seconds: float) -> AsyncIterator[Form]:
    """Receive what is sent; whatever goes wrong, in the block too, nothing of the file is left.

    Raises:
        ClientException: 400, it is not what its `Content-Type` says; 408, nothing came for `idle_seconds`.
        TooLargeError: 413, as soon as it is seen.
    """
    form = Form()
    worker = Worker("job-upload")
    worker.start()
    kept = False
    try:
        await _receive(request, jobs, form, worker, idle_seconds)
        yield form
        kept = True
    finally:
        if form.upload is not None and not kept:
            upload = form.upload
            worker.abandon(upload.discard)
        else:
            worker.close()


async def _receive(
    request: Request[Any, Any, Any], jobs: Jobs, form: Form, worker: Worker, idle_seconds: float
) -> None:
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > jobs.max_upload_bytes + OVERHEAD_BYTES:
            raise TooLargeError(jobs.max_upload_bytes)
        await _multipart(request, jobs, form, worker, boundary=options.get("boundary", ""), idle_seconds=idle_seconds)
        return
    body = await _short_body(request, idle_seconds)
    if content_type == "application/json":
        _json(form, body)
    elif content_type == "application/x-www-form-urlencoded":
        try:
            for name, value in parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_PARTS):
                form.add(name, value)
        except ValueError as exc:
            raise ClientException(f"the form cannot be read: {exc}") from exc
    else:
        raise ClientException(
            "send a file as multipart/form-data, or a path as application/json or application/x-www-form-urlencoded"
        )


def _json(form: Form, body: bytes) -> None:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ClientException(f"the body is not the JSON object that it should be: {exc}") from exc
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict | list):
                raise ClientException(f"`{name[:80]}` must be text, a number, true or false")
            if one is not None:
                form.add(name, one if isinstance(one, str) else msgspec.json.encode(one).decode())


async def _multipart(  # noqa: PLR0913  one caller
    request: Request[Any, Any, Any], jobs: Jobs, form: Form, worker: Worker, *, boundary: str, idle_seconds: float
) -> None:
    part: MultipartSegment | None = None
    value, pieces = bytearray(), _Pieces(jobs, worker)
    try:
        with PushMultipartParser(
            boundary, max_segment_count=MOST_PARTS, max_header_size=MOST_FIELD_BYTES, strict=True
        ) as parser:
            async for chunk in _chunks(request, idle_seconds):
                for event in parser.parse(chunk) if not parser.closed else ():
                    if isinstance(event, MultipartSegment):
                        part = event
                        if part.name == "file" and part.filename is not None:
                            if form.upload is not None:
                                raise ClientException("one file makes one job: `file` was sent twice")
                            form.upload = pieces.upload = await jobs.begin_upload()
                            form.file_name = part.filename
                    elif event is not None and part is not None and part.filename is not None:
                        if part.name == "file":
                            await pieces.add(event)
                    elif event is not None:
                        value += event
                        if len(value) > MOST_FIELD_BYTES:
                            raise ClientException(f"a field has more than {MOST_FIELD_BYTES} bytes")
                    elif part is not None and part.filename is None:
                        form.add(part.name or "", value.decode("utf-8", "replace"))
                        value.clear()
    except ParserLimitReached as exc:
        raise ClientException(f"the form has too many parts, or too long ones: {exc}") from exc
    except MultipartError as exc:
        raise ClientException(f"the form cannot be read: {exc}") from exc
    await pieces.flush()


class _Pieces:
    """Collects what arrives of a file, and writes it on a thread."""

    def __init__(self, jobs: Jobs, worker: Worker) -> None:
        self.upload: Upload | None = None
        self._limit = jobs.max_upload_bytes
        self._worker = worker
        self._buffer = bytearray()
        self._size = 0

    async def add(self, data: bytes | bytearray) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise TooLargeError(self._limit)
        self._buffer += data
        if len(self._buffer) >= PIECE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        upload = self.upload
        if upload is not None and self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
            await self._call(lambda: upload.write(data))

    async def _call(self, function: Callable[[], T]) -> T:
        return await self._worker.call(function, timeout=WRITE_SECONDS, late="jobs.directory takes nothing")


async def _short_body(request: Request[Any, Any, Any], idle_seconds: float) -> bytes:
    body = bytearray()
    async for chunk in _chunks(request, idle_seconds):
        body += chunk
        if len(body) > OVERHEAD_BYTES:
            raise ClientException("the body is too long", status_code=413, headers=_CLOSE)
    return bytes(body)


async def _chunks(request: Request[Any, Any, Any], idle_seconds: float) -> AsyncIterator[bytes]:
    """Give what arrives; a client that sends nothing for so long has had its time."""
    more = True
    while more:
        try:
            async with asyncio.timeout(idle_seconds):
                message: Any = await request.receive()
        except TimeoutError:
            raise ClientException(
                f"nothing arrived for {idle_seconds:g} s (inference.upload_timeout_seconds)",
                status_code=408,
                headers=_CLOSE,
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        if message["body"]:
            yield message["body"]
