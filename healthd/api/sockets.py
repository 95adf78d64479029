"""`/api/v1/ws`: pictures in, predictions out, over one connection. Speaks ASGI; the session is elsewhere."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import structlog
from litestar import WebSocket, get, websocket
from litestar.exceptions import HTTPException, ValidationException, WebSocketDisconnect
from litestar.types import Message, Receive, Send

from healthd.api import shapes, socket_messages
from healthd.api.auth import page_of
from healthd.api.connection import Connection, connection_of
from healthd.api.infer_params import PREDICT_NAMES, Parameters
from healthd.api.refusals import refuse
from healthd.api.schemas import Error
from healthd.api.services import House, Services
from healthd.api.socket_messages import Picture, Wishes
from healthd.api.socket_session import SocketSession
from healthd.cameras.viewers import EndReason, TooManyViewers, Viewer
from healthd.errors import PictureTooLarge
from healthd.models.model import Prediction
from healthd.settings import InferenceSettings
from healthd.waiting import Pace

log = structlog.get_logger(__name__)
QUERY = Parameters(wishes=("model",), params=PREDICT_NAMES)
IDLE_SECONDS = 300.0
"""A socket that has brought no message for so long is closed."""
MESSAGES_A_SECOND = 500
"""What one socket is listened to, after as many at once; what it sends beyond that stays in its connection.

Without a bound eight clients that sent as fast as they could kept everybody else waiting for half a second (measured).
"""
CLOSE_SECONDS = 0.5
"""How long a client may take to close its side."""
LEAVE_SECONDS = 3.0
"""How long one that leaves by itself may take; longer than what it still sends is read by the server."""
RETRY_SECONDS = 5
"""When one who was refused may try again."""
_CLOSINGS = {
    EndReason.STOP: (1001, "healthd is stopping"),
    EndReason.ADMIN: (1001, "an administrator has ended this socket"),
    EndReason.LOGOUT: (1001, "the page is no longer logged in, or the key is no longer configured"),
    EndReason.REMOVED: (1001, "its camera is no longer configured"),
    EndReason.LIMIT: (1001, "it has lasted as long as it may (streams.max_seconds)"),
    EndReason.IDLE: (1001, f"nothing was sent for {IDLE_SECONDS:g} s"),
    EndReason.MISUSE: (1008, "too many messages in a row that cannot be answered"),
    EndReason.BUG: (1011, "internal error"),
}
"""Close code and reason by why a session ended, where there is still somebody to tell."""


def message_bytes(settings: InferenceSettings) -> int:
    """Size of one message at most: that of the largest picture in base64, and some parameters."""
    return settings.max_upload_bytes * 4 // 3 + 65_536


@websocket("/ws", opt={"scope": "read"})
async def predictions(socket: WebSocket[Any, Any, Any], services: House) -> None:
    """Answer each picture that is sent with what a model says of it."""
    try:
        asked = QUERY.read(socket.query_params.multi_items())
    except ValidationException as exc:
        problems: Any = exc.extra
        await refuse(socket.scope, socket.send, socket_messages.told(socket_messages.wrong(problems)))
        return
    otherwise = Wishes(model_id=asked.wish.model, params=asked.params)
    client, page = socket.client.host if socket.client else "unknown", page_of(socket)
    try:
        with services.viewers.admitted(kind="socket", camera=None, client=client, page=page) as viewer:
            await _Conversation(services, viewer, otherwise, socket).run()
    except TooManyViewers as exc:
        await refuse(socket.scope, socket.send, Error(503, str(exc)), retry_after_seconds=RETRY_SECONDS)


@get("/ws", opt={"scope": "read"}, include_in_schema=False, sync_to_thread=False)
def no_socket() -> None:
    """Say what is missing, where somebody asks without an upgrade, or a proxy has taken it away."""
    raise HTTPException(
        "this is a WebSocket: it is opened with `Upgrade: websocket`; a reverse proxy must pass on the headers "
        "`Upgrade` and `Connection`",
        status_code=426,
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


class _Conversation:
    """One open socket, from its acceptance to its end."""

    def __init__(self, services: Services, viewer: Viewer, otherwise: Wishes, socket: WebSocket[Any, Any, Any]) -> None:
        self._services = services
        self._viewer = viewer
        self._otherwise = otherwise
        self._settings = services.settings.inference
        self._receive: Receive = socket.receive
        self._send: Send = socket.send
        self._connection: Connection = connection_of(socket.scope)
        self._session = SocketSession(
            viewer,
            services.sockets,
            otherwise=otherwise,
            predict=self._predict,
            write=self._write,
            clock=services.clock,
        )

    async def run(self) -> None:
        """Talk until the client leaves or somebody ends it; whatever happens, no task and no picture is left behind."""
        viewer, lost = self._viewer, self._connection.lost
        talking = [
            asyncio.create_task(self._guard(self._hear()), name=f"socket-{viewer.viewer_id}"),
            asyncio.create_task(self._guard(self._session.answer_pictures()), name=f"answers-{viewer.viewer_id}"),
        ]
        ending = asyncio.create_task(viewer.ending.wait())
        try:
            left = viewer.ends_at - self._services.clock.monotonic()
            longest = max(0.0, left) if math.isfinite(left) else None
            ends: set[asyncio.Future[Any]] = {ending, lost}
            await asyncio.wait(ends, timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            viewer.end(self._left_as() if lost.done() else viewer.ends_as)
        finally:
            for task in (*talking, ending):
                task.cancel()
            await asyncio.wait((*talking, ending), timeout=CLOSE_SECONDS)
            self._session.leave()
            await self._close()

    async def _guard(self, talk: Coroutine[Any, Any, None]) -> None:
        """Let no failure pass unseen: whatever ends half of the conversation ends the whole."""
        try:
            await talk
        except _Gone:
            pass
        except Exception:
            self._viewer.end(EndReason.BUG)
            log.exception("socket_bug", viewer=self._viewer.viewer_id)

    async def _hear(self) -> None:
        await self._receive()
        accept: Message = {"type": "websocket.accept", "subprotocol": None, "headers": []}
        await self._write_message(accept)
        await self._write(socket_messages.ready(self._otherwise, self._limits))
        pace = Pace(MESSAGES_A_SECOND)
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    message: Any = await self._receive()
            except TimeoutError:
                self._viewer.end(EndReason.IDLE)
                return
            if message["type"] == "websocket.disconnect":
                self._viewer.end(self._left_as())
                return
            text = message.get("text")
            await self._session.hear(text if text is not None else message["bytes"])
            await pace.keep()

    async def _write(self, text: str) -> None:
        await self._write_message({"type": "websocket.send", "text": text, "bytes": None})

    async def _write_message(self, message: Message) -> None:
        """Send a message; return when the client has taken what was sent before.

        Raises:
            _Gone: it has left, or does not read; the session knows which.
        """
        try:
            async with asyncio.timeout(self._services.settings.streams.write_timeout_seconds):
                await self._send(message)
                await self._connection.drained()
        except TimeoutError:
            self._viewer.end(EndReason.STALLED)
            raise _Gone from None
        except (OSError, WebSocketDisconnect):
            self._viewer.end(self._left_as())
            raise _Gone from None

    def _left_as(self) -> EndReason:
        """Return why nothing more comes: it has left, or the server has ended it for what it sent."""
        return EndReason.MISUSE if self._connection.misused() else EndReason.CLIENT

    async def _predict(self, picture: Picture) -> Prediction:
        wishes = picture.wishes
        async with self._services.inference.seat(wishes.model_id, wishes.params, queued=False) as seat:
            file = await self._services.decoder.run(picture.file)
            if len(file) > (most := self._settings.max_upload_bytes):
                raise PictureTooLarge(f"the picture has {len(file):,} bytes: at most {most:,} are taken")
            async with self._services.decoder.decoded(file, before=seat.in_time) as image:
                prediction = await seat.predict(image)
                return shapes.completed(prediction, image, model_id=seat.entry.model_id, task=seat.model.task)

    @property
    def _limits(self) -> dict[str, float]:
        return {
            "max_message_bytes": message_bytes(self._settings),
            "max_upload_bytes": self._settings.max_upload_bytes,
            "max_pixels": self._settings.max_pixels,
            "idle_seconds": IDLE_SECONDS,
        }

    async def _close(self) -> None:
        """Say why it is over, to whoever is still there, and see to it that the connection ends."""
        reason, seconds = self._viewer.ended, CLOSE_SECONDS
        closing = _CLOSINGS.get(reason) if reason is not None else None
        if reason is EndReason.CLIENT or (reason is EndReason.MISUSE and self._connection.misused()):  # it was told
            seconds = LEAVE_SECONDS
        elif closing is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._send({"type": "websocket.close", "code": closing[0], "reason": closing[1]})
            except (TimeoutError, OSError, WebSocketDisconnect):
                seconds = 0.0
        else:
            seconds = 0.0
        await asyncio.wait({self._connection.lost}, timeout=seconds)
        if not self._connection.lost.done():
            self._connection.abort()


class _Gone(Exception):  # noqa: N818  it says what it is
    """There is nobody to talk to any more."""
