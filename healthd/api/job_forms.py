"""What is sent to begin a job, read as it arrives: a file goes to disk piece by piece, fields are few and short."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar.exceptions import ClientException
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from healthd.api.uploads import AnyRequest, ClientGone, problem
from healthd.jobs.errors import JobsUnavailableError, MediaTooLargeError
from healthd.jobs.service import Jobs
from healthd.jobs.uploads import Upload
from healthd.worker import Worker, WorkerTimeout

MOST_FIELD_BYTES = 16_384
MOST_PARTS = 128
"""A hundred text queries, and some more."""
PIECE_BYTES = 1024 * 1024
"""So much is collected before it goes to the disk."""

SLOWEST_BYTES = 1024
"""Of a second: who sends less, on average, holds a place and sends nothing."""

OVERHEAD_BYTES = MOST_PARTS * MOST_FIELD_BYTES
WRITE_SECONDS = 30.0


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
async def received(request: AnyRequest, jobs: Jobs, *, idle_seconds: float) -> AsyncIterator[Form]:
    """Receive what is sent; whatever goes wrong, in the block too, nothing of the file is left.

    Raises:
        ClientException: 400, it is not what its `Content-Type` says; 408, nothing came for `idle_seconds`,
            or next to nothing.
        MediaTooLargeError: as soon as it is seen.
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


async def _receive(request: AnyRequest, jobs: Jobs, form: Form, worker: Worker, idle_seconds: float) -> None:
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type == "multipart/form-data":
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > jobs.max_upload_bytes + OVERHEAD_BYTES:
            raise _too_large(jobs.max_upload_bytes)
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
        takes = "multipart/form-data with a file, or a path as application/json or application/x-www-form-urlencoded"
        raise ClientException(f"the body must be {takes}; not {content_type or 'without a type'}", status_code=415)


def _json(form: Form, body: bytes) -> None:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ClientException(f"the body is not the JSON object that it should be: {exc}") from exc
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict | list):
                raise ClientException(f"`{name[:80]}` must be text, a number, true or false")
            if one is None:
                raise problem(name[:80], "must not be null: leave it out")
            whole = isinstance(one, float) and one.is_integer()  # to JSON, 2.0 is 2
            form.add(name, one if isinstance(one, str) else msgspec.json.encode(int(one) if whole else one).decode())


async def _multipart(
    request: AnyRequest, jobs: Jobs, form: Form, worker: Worker, *, boundary: str, idle_seconds: float
) -> None:
    parts = _Parts(jobs, form, worker)
    try:
        with PushMultipartParser(boundary, max_segment_count=MOST_PARTS, max_header_size=MOST_FIELD_BYTES) as parser:
            async for chunk in _chunks(request, idle_seconds):
                if parser.closed:  # what follows the last boundary means nothing
                    continue
                for event in parser.parse(chunk):
                    await parts.take(event)
    except ParserLimitReached as exc:
        raise ClientException(f"the form has too many parts, or too long a head of one: {exc}") from exc
    except MultipartError as exc:
        raise ClientException(f"the body is no form with the boundary that its Content-Type names: {exc}") from exc
    await parts.flush()


class _Parts:
    """The parts of a form as they arrive: fields are kept, the file is collected and written on a thread."""

    def __init__(self, jobs: Jobs, form: Form, worker: Worker) -> None:
        self._jobs = jobs
        self._form = form
        self._worker = worker
        self._part: MultipartSegment | None = None
        self._buffer = bytearray()

    async def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take the head of a part, a piece of it, or (None) its end."""
        if isinstance(event, MultipartSegment):
            self._part = event
            if event.name == "file":
                await self._begin_file(event.filename or "")
        elif self._part is not None and self._part.name == "file":
            await self._take_file(event)
        elif event is not None:
            self._buffer += event
            if len(self._buffer) > MOST_FIELD_BYTES:
                raise problem(self._name, f"has more than {MOST_FIELD_BYTES} bytes")
        else:
            self._end_field()

    async def flush(self) -> None:
        """Write what is left of the file."""
        upload = self._form.upload
        if upload is not None and self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
            try:
                await self._worker.call(lambda: upload.write(data), timeout=WRITE_SECONDS, late="nothing was written")
            except WorkerTimeout as exc:
                raise JobsUnavailableError(f"jobs.directory cannot be written to: {exc}") from None

    @property
    def _name(self) -> str:
        return (self._part.name or "")[:80] if self._part is not None else ""

    async def _begin_file(self, name: str) -> None:
        if self._form.upload is not None:
            raise problem("file", "was sent twice: one file makes one job")
        self._form.upload = await self._jobs.begin_upload()
        self._form.file_name = name

    async def _take_file(self, piece: bytes | bytearray | None) -> None:
        upload = self._form.upload
        if upload is None or piece is None:
            await self.flush()
            return
        self._buffer += piece
        if upload.size + len(self._buffer) > self._jobs.max_upload_bytes:
            raise _too_large(self._jobs.max_upload_bytes)
        if len(self._buffer) >= PIECE_BYTES:
            await self.flush()

    def _end_field(self) -> None:
        try:
            self._form.add(self._name, self._buffer.decode())
        except UnicodeDecodeError:
            raise problem(self._name, "is no UTF-8") from None
        self._buffer.clear()


def _too_large(limit: int) -> MediaTooLargeError:
    return MediaTooLargeError(f"a file may have {limit:,} bytes at most (jobs.max_upload_bytes)")


async def _short_body(request: AnyRequest, idle_seconds: float) -> bytes:
    body = bytearray()
    async for chunk in _chunks(request, idle_seconds):
        body += chunk
        if len(body) > OVERHEAD_BYTES:
            raise ClientException(f"a body without a file may have {OVERHEAD_BYTES:,} bytes", status_code=413)
    return bytes(body)


async def _chunks(request: AnyRequest, idle_seconds: float) -> AsyncIterator[bytes]:
    """Give what arrives; a client that sends nothing for so long, or next to nothing for longer, has had its time."""
    clock, size, more = asyncio.get_running_loop().time, 0, True
    begun = clock()
    while more:
        slow_at = begun + idle_seconds + size / SLOWEST_BYTES
        try:
            async with asyncio.timeout(min(idle_seconds, slow_at - clock())):
                message: Any = await request.receive()
        except TimeoutError:
            slow = f"less than {SLOWEST_BYTES:,} bytes a second arrived for longer than"
            raise ClientException(
                f"{slow if clock() >= slow_at else 'nothing arrived for'} {idle_seconds:g} s"
                " (inference.upload_timeout_seconds)",
                status_code=408,
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        more = message.get("more_body", False)
        if message["body"]:
            size += len(message["body"])
            yield message["body"]
