"""One WebSocket's session: pictures in, predictions out, newest wins. Knows neither Litestar nor ASGI."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import structlog

from healthd.api import socket_messages
from healthd.api.schemas import Error
from healthd.api.socket_messages import BadMessage, Picture, Wishes, read_message, told
from healthd.cameras.viewers import EndReason, Viewer
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import HealthdError
from healthd.latest import Latest
from healthd.metrics import Sample
from healthd.models.model import Prediction
from healthd.waiting import Signal

log = structlog.get_logger(__name__)
MAX_BAD_IN_A_ROW = 20
"""Messages that the client should not have sent, without a prediction in between, after which its socket is closed."""
MAX_UNTOLD = 10_000
"""Replaced pictures whose ids no answer has told yet; beyond that nothing more is read until an answer has."""
_CLIENTS_FAULT = frozenset({400, 404, 413, 422})
Predict = Callable[[Picture], Awaitable[Prediction]]
"""Predicts one picture; raises `HealthdError` as an answer to a request would tell it."""
Write = Callable[[str], Awaitable[None]]
"""Sends a text message; returns when the client has room for the next."""


@dataclass(slots=True)
class SocketCounts:
    """Where every picture of every socket went: received = answered + dropped + in hand. Event loop only."""

    received: int = 0
    """Messages that were to bring a picture, also those that did not."""
    answered: "Counter[int]" = field(default_factory=Counter)
    """By status, as an answer to a request would have: 200 for a prediction."""
    dropped: int = 0
    """Replaced by newer ones, or left behind by sockets that ended."""
    in_hand: int = 0

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics."""
        yield Sample("healthd_socket_frames_received_total", self.received)
        for status, number in sorted(self.answered.items()):
            yield Sample("healthd_socket_frames_answered_total", number, {"status": str(status)})
        yield Sample("healthd_socket_frames_dropped_total", self.dropped)
        yield Sample("healthd_socket_frames_in_hand", self.in_hand)


class SocketSession:
    """What one client sends and is answered. Lives as long as its socket; event loop only.

    At most one picture is at the model and one waits; a newer one replaces the one that waits.
    """

    def __init__(
        self,
        viewer: Viewer,
        counts: SocketCounts,
        *,
        otherwise: Wishes,
        predict: Predict,
        write: Write,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._viewer = viewer
        self._counts = counts
        self._otherwise = otherwise
        self._predict = predict
        self._write = write
        self._clock = clock
        self._waiting: Latest[Picture] = Latest()
        self._answered = Signal()
        self._untold: list[int] = []
        self._number = 0
        self._in_hand = 0
        self._bad_in_a_row = 0

    async def hear(self, message: str | bytes) -> None:
        """Take in a message. What is no picture is answered at once; a picture waits for the model."""
        try:
            picture = self._read(message)
        except BadMessage as exc:
            self._received()
            await self._fail(exc.frame_id, exc)
            return
        if picture is None:
            await self._write(socket_messages.pong())
            return
        self._received()
        replaced = self._waiting.put(picture)
        if replaced is not None:
            self._drop()
            self._untold.append(replaced.frame_id)
            while len(self._untold) >= MAX_UNTOLD:
                await self._answered.wait()

    async def answer_pictures(self) -> None:
        """Answer one picture after the other, the newest first, until cancelled."""
        while True:
            picture = await self._waiting.take()
            if picture is not None:
                await self._answer(picture)

    def leave(self) -> None:
        """Account for what is left behind; the socket has ended."""
        while self._in_hand:
            self._drop()

    def _read(self, message: str | bytes) -> Picture | None:
        number = self._number + 1
        if isinstance(message, bytes):
            return Picture(frame_id=number, wishes=self._otherwise, data=message)
        return read_message(message, number=number, otherwise=self._otherwise)

    async def _answer(self, picture: Picture) -> None:
        try:
            prediction = await self._predict(picture)
            answer = socket_messages.predicted(picture.frame_id, prediction, self._untold)
        except HealthdError as exc:
            await self._fail(picture.frame_id, exc)
        except Exception:
            log.exception("socket_bug", viewer=self._viewer.viewer_id)
            await self._tell(picture.frame_id, Error(500, "internal error"))
        else:
            self._bad_in_a_row = 0
            await self._send(answer, status=200)

    async def _fail(self, frame_id: int | None, exc: HealthdError) -> None:
        error = told(exc)
        self._bad_in_a_row += error.status_code in _CLIENTS_FAULT
        await self._tell(frame_id, error)
        if self._bad_in_a_row >= MAX_BAD_IN_A_ROW:
            self._viewer.end(EndReason.MISUSE)

    async def _tell(self, frame_id: int | None, error: Error) -> None:
        await self._send(socket_messages.failed(frame_id, error, self._untold), status=error.status_code)

    async def _send(self, answer: str, *, status: int) -> None:
        """Send an answer that has told of all dropped pictures; nothing was awaited since it was made."""
        dropped, self._untold = len(self._untold), []
        self._counts.answered[status] += 1
        self._leave_hand()
        self._answered.notify_all()
        await self._write(answer)
        self._viewer.note_sent(items=1, skipped=dropped, size=len(answer), now=self._clock.monotonic())

    def _received(self) -> None:
        self._number += 1
        self._in_hand += 1
        self._counts.received += 1
        self._counts.in_hand += 1

    def _drop(self) -> None:
        self._counts.dropped += 1
        self._leave_hand()

    def _leave_hand(self) -> None:
        self._in_hand -= 1
        self._counts.in_hand -= 1
