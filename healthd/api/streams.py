"""Endless answers: MJPEG of a camera, Server-Sent Events. Speaks multipart and SSE; the sessions are elsewhere.

Written as ASGI answers of our own: a framework's streaming response learns of a disconnect only between two parts, and
a send that blocks never returns to it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import structlog
from litestar import Controller, Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.types import ASGIApp, Receive, Scope, Send

from healthd.api import schemas
from healthd.api.cameras import NAME, find, rfc3339
from healthd.api.errors import TryLater
from healthd.api.events import camera_body
from healthd.api.services import Services
from healthd.cameras.events import Listener
from healthd.cameras.streams import CameraStream, Part, StreamRequest
from healthd.cameras.viewers import EndReason, TooManyViewers, Viewer

log = structlog.get_logger(__name__)
BOUNDARY = b"healthd-frame"
CLOSE_SECONDS = 0.5
"""How long the clean end of a stream may take."""
HEARTBEAT_SECONDS = 1.0
LATER = ResponseSpec(schemas.Error, description="Too many viewers; see `Retry-After`.")
Write = Callable[[bytes], Awaitable[None]]


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
        services: Services,
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
        settings = services.settings.streams

        async def run(viewer: Viewer, write: Write) -> None:
            stream = CameraStream(
                runner,
                viewer,
                asked,
                write_timeout_seconds=settings.write_timeout_seconds,
                max_seconds=settings.max_seconds,
                observe_send=services.metrics.send_seconds.labels("mjpeg").observe,
                clock=services.clock,
            )
            await stream.run(lambda part: write(_part(part)))

        return EndlessAnswer(
            services,
            kind="mjpeg",
            camera=name,
            client=_client(request),
            content_type=b"multipart/x-mixed-replace; boundary=" + BOUNDARY,
            opening=b"--" + BOUNDARY + b"\r\n",
            closing=b"--\r\n",
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
        services: Services,
        request: Request[Any, Any, Any],
        camera: Annotated[str | None, Parameter(description="Only events of this camera.")] = None,
    ) -> ASGIApp:
        """`camera` tells of changes (first the state of each camera), `prediction` and `viewer` as they come.

        A listener that reads slowly gets the newest of each kind and camera. After a reconnect the first events tell
        where every camera stands, so that nothing has to be sent again.
        """
        if camera is not None:
            find(services, camera)
        wakers: list[Listener] = []

        async def run(viewer: Viewer, write: Write) -> None:
            with services.events.listening(camera) as listener:
                wakers.append(listener)
                for runner in services.supervisor:
                    body = partial(camera_body, services, runner)
                    listener.offer(services.events.make("camera", runner.name, body))
                await _send_events(services, viewer, listener, write)

        def wake() -> None:
            for listener in wakers:
                listener.wake()

        return EndlessAnswer(
            services,
            kind="events",
            camera=camera,
            client=_client(request),
            content_type=b"text/event-stream; charset=utf-8",
            opening=b"retry: 2000\n\n",
            closing=b": end\n\n",
            run=run,
            wake=wake,
        )


class EndlessAnswer:
    """An ASGI answer that ends when its viewer leaves, stalls, is ended, or the daemon stops; never otherwise."""

    def __init__(  # noqa: PLR0913  what an answer consists of
        self,
        services: Services,
        *,
        kind: Any,
        camera: str | None,
        client: str,
        content_type: bytes,
        opening: bytes,
        closing: bytes,
        run: Callable[[Viewer, Write], Awaitable[None]],
        wake: Callable[[], object],
    ) -> None:
        self._services = services
        self._kind = kind
        self._camera = camera
        self._client = client
        self._content_type = content_type
        self._opening = opening
        self._closing = closing
        self._run = run
        self._wake = wake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the end; whatever happens, the session is released once."""
        try:
            with self._services.viewers.admitted(kind=self._kind, camera=self._camera, client=self._client) as viewer:
                await self._answer(viewer, scope, receive, send)
        except TooManyViewers as exc:  # nothing was sent yet
            raise TryLater(str(exc), retry_after_seconds=5) from None

    async def _answer(self, viewer: Viewer, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": True})  # waits until there is room

        async def pump() -> None:
            headers = [
                (b"content-type", self._content_type),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),  # nginx: do not collect
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await write(self._opening)
            await self._run(viewer, write)

        pumping = asyncio.create_task(pump(), name=f"viewer-{viewer.viewer_id}")
        leaving = asyncio.create_task(_disconnected(receive))
        ending = asyncio.create_task(viewer.ending.wait())
        try:
            await asyncio.wait([pumping, leaving, ending], return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                viewer.end(EndReason.CLIENT)
            self._wake()
            clean = await self._end(viewer, pumping, leaving, send)
        finally:
            for task in (pumping, leaving, ending):
                task.cancel()
        if not clean:
            _abort(scope)
        if pumping.done() and not pumping.cancelled() and (error := pumping.exception()) is not None:
            log.error("stream_bug", viewer=viewer.viewer_id, exc_info=error)

    async def _end(
        self, viewer: Viewer, pumping: "asyncio.Task[None]", leaving: "asyncio.Task[None]", send: Send
    ) -> bool:
        """Let the pump finish what it has in hand, then close the body; False when the viewer does not take it."""
        await asyncio.wait([pumping, leaving], timeout=CLOSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not pumping.done() or leaving.done() or viewer.stalled:
            return False
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await send({"type": "http.response.body", "body": self._closing, "more_body": False})
        except TimeoutError:
            return False
        return True


async def _send_events(services: Services, viewer: Viewer, listener: Listener, write: Write) -> None:
    """Send what happens, a comment where nothing does; one deadline for each write."""
    timeout = services.settings.streams.write_timeout_seconds
    observe = services.metrics.send_seconds.labels("events").observe
    while viewer.ended is None:
        await listener.wait(HEARTBEAT_SECONDS)
        events = listener.take()
        data = b"".join(
            b"id: %s-%d\nevent: %s\ndata: %s\n\n"
            % (services.boot_id.encode(), event.event_id, event.topic.encode(), event.body())
            for event in events
        )
        begun = services.clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await write(data or b": alive\n\n")
        except TimeoutError:
            viewer.end(EndReason.STALLED)
            return
        now = services.clock.monotonic()
        observe(now - begun)
        viewer.note_sent(items=len(events), skipped=listener.replaced - viewer.skipped, size=len(data), now=now)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone, also while nothing is sent."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(scope: Scope) -> None:
    """Drop the connection with what is still in its buffers: a client that does not read would keep it for ever."""
    extension: Any = (scope.get("extensions") or {}).get("healthd.connection")
    if extension is not None:
        extension["abort"]()


def _part(part: Part) -> bytes:
    """Speak multipart. The boundary follows the part at once: some browsers show a part when the next one begins."""
    headers = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n" % len(part.jpeg)
    if part.frame_id is not None and part.captured_at is not None:
        stamp = rfc3339(part.captured_at).encode()
        headers += b"X-Frame-Id: %d\r\nX-Frame-Timestamp: %s\r\n" % (part.frame_id, stamp)
    return headers + b"\r\n" + part.jpeg + b"\r\n--" + BOUNDARY + b"\r\n"


def _client(request: Request[Any, Any, Any]) -> str:
    return request.client.host if request.client else "unknown"
