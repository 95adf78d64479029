"""Endless answers: MJPEG of a camera, Server-Sent Events. Speaks multipart and SSE; the sessions are elsewhere.

Written as ASGI answers of our own: a framework's streaming response learns of a disconnect only between two parts, and
a send that blocks never returns to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import structlog
from litestar import Controller, Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.types import ASGIApp, Receive, Scope, Send

from healthd.api import schemas
from healthd.api.auth import page_of
from healthd.api.cameras import NAME, find, rfc3339
from healthd.api.connection import Connection, connection_of
from healthd.api.errors import TryLater
from healthd.api.events import camera_body
from healthd.api.services import House, Services
from healthd.cameras.events import TOPICS, Event, EventStream, Listener
from healthd.cameras.streams import CameraStream, Part, StreamRequest
from healthd.cameras.viewers import EndReason, Kind, TooManyViewers, Viewer

log = structlog.get_logger(__name__)
BOUNDARY = b"healthd-frame"
CLOSE_SECONDS = 0.5
"""How long the end of a stream may take in all."""
CANCEL_SECONDS = 0.05
"""Tasks that are cancelled get that at least, however late it is."""
RETRY_SECONDS = 5
"""When one who was refused may try again."""
LATER = ResponseSpec(schemas.Error, description="Too many viewers; see `Retry-After`.")
Write = Callable[[bytes], Awaitable[None]]
"""Sends a piece of the body; returns when the viewer has room for the next."""


class StreamController(Controller):
    """Streams of pictures and of events."""

    path = "/"
    tags = ("streams",)

    @get(
        "/cameras/{name:str}/stream",
        summary="Endless MJPEG",
        media_type="multipart/x-mixed-replace",
        responses={
            200: ResponseSpec(bytes, description="One part per frame.", media_type="multipart/x-mixed-replace"),
            404: ResponseSpec(schemas.Error, description="Unknown camera."),
            503: LATER,
        },
    )
    async def stream(
        self,
        services: House,
        request: Request[Any, Any, Any],
        name: Annotated[str, NAME],
        q: Annotated[int | None, Parameter(ge=1, le=95, description="JPEG quality to begin with.")] = None,
        width: Annotated[int | None, Parameter(ge=16, le=8192, description="At most so many pixels wide.")] = None,
        overlay: Annotated[bool, Parameter(description="Predicted frames, drawn.")] = False,  # noqa: FBT002
        fps: Annotated[
            float | None, Parameter(ge=0.1, le=120, description="At most so many frames per second.")
        ] = None,
    ) -> ASGIApp:
        """The newest frame again and again; while the camera is not live, a picture once a second that says so."""
        runner = find(services, name)
        asked = StreamRequest(quality=q, width=width, overlay=overlay, fps=fps)
        speak = HeadsAhead() if shows_late(request.headers) else Multipart()

        async def run(viewer: Viewer, write: Write) -> None:
            if services.supervisor.get(name) is None:  # removed since it was found
                services.viewers.end_camera(name)
            stream = CameraStream(
                runner,
                viewer,
                asked,
                signs=services.signs,
                write_timeout_seconds=services.settings.streams.write_timeout_seconds,
                observe_send=services.metrics.send_seconds.labels("mjpeg").observe,
                clock=services.clock,
            )
            await stream.run(lambda part: write(speak.part(part)))

        return EndlessAnswer(
            services,
            kind="mjpeg",
            camera=name,
            request=request,
            content_type=b"multipart/x-mixed-replace; boundary=" + BOUNDARY,
            opening=speak.opening,
            run=run,
            wake=runner.published.notify_all,
        )

    @get(
        "/events/stream",
        summary="Server-Sent Events",
        media_type="text/event-stream",
        responses={
            200: ResponseSpec(str, description="`prediction`, `camera`, `viewer`.", media_type="text/event-stream"),
            404: ResponseSpec(schemas.Error, description="Unknown camera."),
            503: LATER,
        },
    )
    async def events(
        self,
        services: House,
        request: Request[Any, Any, Any],
        camera: Annotated[str | None, Parameter(description="Only events of this camera.")] = None,
        topic: Annotated[
            list[Literal["prediction", "camera", "viewer"]] | None, Parameter(description="Only these events.")
        ] = None,
    ) -> ASGIApp:
        """`camera` tells of changes (first the state of each camera), `prediction` and `viewer` as they come.

        A listener that reads slowly gets the newest of each kind and camera. After a reconnect the first events tell
        where every camera stands, so that nothing has to be sent again.
        """
        if camera is not None:
            find(services, camera)
        listener = Listener(camera, topics=frozenset(topic) if topic else TOPICS)

        async def run(viewer: Viewer, write: Write) -> None:
            async def write_events(events: Sequence[Event]) -> int:
                data = b"".join(event_bytes(services.boot_id, event) for event in events) or b": alive\n\n"
                await write(data)
                return len(data)

            with services.events.listening(listener):
                for runner in services.supervisor:
                    body = partial(camera_body, services, runner)
                    listener.offer(services.events.make("camera", runner.name, body))
                stream = EventStream(
                    listener,
                    viewer,
                    write_timeout_seconds=services.settings.streams.write_timeout_seconds,
                    look=services.events.look,
                    observe_send=services.metrics.send_seconds.labels("events").observe,
                    clock=services.clock,
                )
                await stream.run(write_events)

        return EndlessAnswer(
            services,
            kind="events",
            camera=camera,
            request=request,
            content_type=b"text/event-stream; charset=utf-8",
            opening=b"retry: 2000\n\n",
            run=run,
            wake=listener.wake,
        )


class EndlessAnswer:
    """An ASGI answer that ends when its viewer leaves, stalls, is ended, or the daemon stops; never otherwise."""

    def __init__(
        self,
        services: Services,
        *,
        kind: Kind,
        camera: str | None,
        request: Request[Any, Any, Any],
        content_type: bytes,
        opening: bytes,
        run: Callable[[Viewer, Write], Awaitable[None]],
        wake: Callable[[], object],
    ) -> None:
        self._services = services
        self._kind = kind
        self._camera = camera
        self._request = request
        self._content_type = content_type
        self._opening = opening
        self._run = run
        self._wake = wake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the end; whatever happens, the session is released once."""
        client, page = _client(self._request), page_of(self._request)
        try:
            with self._services.viewers.admitted(
                kind=self._kind, camera=self._camera, client=client, page=page
            ) as viewer:
                await self._answer(viewer, scope, receive, send)
        except TooManyViewers as exc:  # nothing was sent yet
            raise TryLater(str(exc), retry_after_seconds=RETRY_SECONDS) from None

    async def _answer(self, viewer: Viewer, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until somebody ends it, or the client has gone; then close the body, or drop the connection."""
        connection = connection_of(scope)
        bare = scope.get("http_version") == "1.0"
        if bare:
            connection.send_bare()
        connection.hold_little(True)
        pumping = asyncio.create_task(self._pump(viewer, send), name=f"viewer-{viewer.viewer_id}")
        leaving = asyncio.create_task(_disconnected(receive))
        ending = asyncio.create_task(viewer.ending.wait())
        gone: set[asyncio.Future[Any]] = {leaving, connection.lost}
        closed, loop = False, asyncio.get_running_loop()
        deadline = loop.time()
        try:
            await asyncio.wait({pumping, ending, *gone}, return_when=asyncio.FIRST_COMPLETED)
            deadline = loop.time() + CLOSE_SECONDS
            if not _any_done(pumping, *gone):  # somebody ends it: the pump finishes what it has in hand
                self._wake()
                await asyncio.wait({pumping, *gone}, timeout=CLOSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if _any_done(*gone):
                viewer.end(EndReason.CLIENT)
            elif pumping.done() and (error := pumping.exception()) is not None:
                viewer.end(EndReason.BUG)
                log.error("stream_bug", viewer=viewer.viewer_id, exc_info=error)
            elif pumping.done() and viewer.ended is not EndReason.STALLED:
                closed = await _close(connection, send, bare=bare, deadline=deadline)
        finally:
            left: set[asyncio.Future[Any]] = {pumping, leaving, ending}
            for task in left:
                task.cancel()
            if closed:
                connection.hold_little(False)
            else:
                connection.abort()
                left.add(connection.lost)
            await asyncio.wait(left, timeout=max(CANCEL_SECONDS, deadline - loop.time()))

    async def _pump(self, viewer: Viewer, send: Send) -> None:
        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": True})  # waits until there is room

        headers = [
            (b"content-type", self._content_type),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx: do not collect
        ]
        try:
            async with asyncio.timeout(self._services.settings.streams.write_timeout_seconds):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await write(self._opening)
        except TimeoutError:  # it has not even read what it got before on this connection
            viewer.end(EndReason.STALLED)
            return
        await self._run(viewer, write)


async def _close(connection: Connection, send: Send, *, bare: bool, deadline: float) -> bool:
    """End the body; False when the client does not take what is left of it until the loop's time is `deadline`."""
    try:
        async with asyncio.timeout_at(deadline):
            await send({"type": "http.response.body", "body": b"", "more_body": bare})
            await connection.drained()
            if bare:
                connection.close()
                await asyncio.shield(connection.lost)
    except TimeoutError:
        return False
    return True


def _any_done(*futures: "asyncio.Future[Any]") -> bool:
    return any(future.done() for future in futures)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone, also while nothing is sent."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Multipart:
    """How a stream is written. The boundary follows each part at once, so that nobody waits for the next to show it."""

    opening = b"--" + BOUNDARY + b"\r\n"

    def part(self, part: Part) -> bytes:
        """Return a part with the boundary after it."""
        head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n" % len(part.jpeg)
        if part.frame_id is not None and part.captured_at is not None:
            stamp = rfc3339(part.captured_at).encode()
            head += b"X-Frame-Id: %d\r\nX-Frame-Timestamp: %b\r\n" % (part.frame_id, stamp)
        return b"%b\r\n%b\r\n--%b%b\r\n" % (head, part.jpeg, BOUNDARY, b"--" if part.last else b"")


class HeadsAhead(Multipart):
    """How a stream is written for a browser that shows a part when it has seen the head of the next one.

    The head is sent ahead, when nobody knows what it will stand over: it says the type and nothing else.
    """

    head = b"Content-Type: image/jpeg\r\n\r\n"
    opening = Multipart.opening + head

    def part(self, part: Part) -> bytes:
        """Return the body of a part, the boundary, and the head of the next part."""
        closing = b"--\r\n" if part.last else b"\r\n" + self.head
        return b"%b\r\n--%b%b" % (part.jpeg, BOUNDARY, closing)


def shows_late(headers: Mapping[str, str]) -> bool:
    """Whether this is a picture on a page in Chromium or one of its kin (https://crbug.com/527446).

    Scripts of a page, which read the heads themselves, do not ask for pictures.
    """
    return "Chrome/" in headers.get("user-agent", "") and "image/" in headers.get("accept", "")


def event_bytes(boot_id: str, event: Event) -> bytes:
    """Write an event as a listener of Server-Sent Events gets it."""
    return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (
        boot_id.encode(),
        event.event_id,
        event.topic.encode(),
        event.body(),
    )


def _client(request: Request[Any, Any, Any]) -> str:
    return request.client.host if request.client else "unknown"
