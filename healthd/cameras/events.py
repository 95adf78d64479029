"""Events for whoever listens: what changed, newest first to be kept. Knows no HTTP."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from healthd.cameras.viewers import EndReason, Viewer
from healthd.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger(__name__)
HEARTBEAT_SECONDS = 1.0
LOOK_SECONDS = 0.5
MAX_PENDING = 256
Topic = Literal["prediction", "camera", "viewer", "log"]
TOPICS: frozenset[Topic] = frozenset({"prediction", "camera", "viewer"})
"""What the hub tells of."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one camera or viewer, or a line of the log."""

    event_id: int
    topic: Topic
    camera: str | None
    body: Callable[[], bytes]
    """Gives the JSON; made once, when the first listener sends it. Empty when it could not be made."""


class Listener:
    """One who listens. Of each topic and camera it keeps the newest event alone, and `MAX_PENDING` in all.

    Where there are more, those of viewers make room first: however many come and go, it hears how its cameras are.
    """

    def __init__(self, camera: str | None = None, *, topics: frozenset[Topic] = TOPICS) -> None:
        self.camera = camera
        self.topics = topics
        self.replaced = 0
        """Events that a newer one of the same kind replaced before they were sent."""
        self._pending: dict[tuple[str, str | None, str], Event] = {}
        self._filled = asyncio.Event()

    def offer(self, event: Event, key: str = "") -> None:
        """Leave an event; the newest of its topic, camera and key wins, and goes to the end of the line."""
        if event.topic not in self.topics or self.camera not in {None, event.camera}:
            return
        place = (event.topic, event.camera, key)
        if self._pending.pop(place, None) is not None:
            self.replaced += 1
        self._pending[place] = event
        while len(self._pending) > MAX_PENDING:
            viewers = (waiting for waiting in self._pending if waiting[0] == "viewer")
            del self._pending[next(viewers, next(iter(self._pending)))]
            self.replaced += 1
        self._filled.set()

    def take(self) -> list[Event]:
        """Take all that waits, oldest first."""
        events = sorted(self._pending.values(), key=lambda event: event.event_id)
        self._pending.clear()
        self._filled.clear()
        return events

    def wake(self) -> None:
        """Wake who waits in `wait`, with or without an event."""
        self._filled.set()

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109  a bound per call
        """Wait until there is an event, or `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._filled.wait()
        except TimeoutError:
            return


class EventHub:
    """Hands events to all who listen; without a listener nothing is made. Event loop only."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._lookers: list[Callable[[], None]] = []
        self._looked_at = float("-inf")
        self._ids = itertools.count(1)
        self._broken: set[tuple[str, str | None]] = set()
        """Events that could not be made the last time."""

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Listen for as long as the block lasts."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def look_with(self, looker: Callable[[], None]) -> None:
        """Have `looker` called once a second or so, as long as anybody listens.

        It publishes what changes by the mere passing of time.
        """
        self._lookers.append(looker)

    def look(self) -> None:
        """See whether anything has changed of which nobody told; however many ask, it is looked now and then."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for looker in self._lookers:
            looker()

    def publish(self, topic: Topic, camera: str | None, body: Callable[[], bytes], *, key: str = "") -> None:
        """Tell everybody; `body` is called once, and only if somebody sends it."""
        if not self._listeners:
            return
        event = self.make(topic, camera, body)
        for listener in self._listeners:
            listener.offer(event, key)

    def make(self, topic: Topic, camera: str | None, body: Callable[[], bytes]) -> Event:
        """Number an event without telling anybody. One whose body cannot be made is told to nobody, and logged once."""
        made: list[bytes] = []

        def give() -> bytes:
            if not made:
                made.append(self._made(topic, camera, body))
            return made[0]

        return Event(next(self._ids), topic, camera, give)

    def _made(self, topic: Topic, camera: str | None, body: Callable[[], bytes]) -> bytes:
        try:
            data = body()
        except Exception:  # a plugin's prediction may hold what no JSON can
            if (topic, camera) not in self._broken:
                log.exception("event_bug", topic=topic, camera=camera)
                self._broken.add((topic, camera))
            return b""
        self._broken.discard((topic, camera))
        return data


class Waiting(Protocol):
    """What a session sends: a `Listener`, or something like it."""

    @property
    def replaced(self) -> int:
        """Events that were left out, because newer ones came before they were sent."""

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until there is an event, or `timeout` seconds."""

    def take(self) -> list[Event]:
        """Take all that waits, oldest first."""


class EventStream:
    """One listener's session. Lives as long as its viewer is admitted."""

    def __init__(
        self,
        listener: Waiting,
        viewer: Viewer,
        *,
        write_timeout_seconds: float,
        look: Callable[[], None] = lambda: None,
        observe_send: Callable[[float], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._listener = listener
        self._look = look
        self._viewer = viewer
        self._write_timeout = write_timeout_seconds
        self._observe_send = observe_send
        self._clock = clock

    async def run(self, write: Callable[[Sequence[Event]], Awaitable[int]]) -> None:
        """Send events, or none as a heartbeat, until the session is asked to end.

        `write` returns how many bytes it sent, once there is room for more; one that makes us wait longer than the
        deadline ends the session as stalled.
        """
        viewer, listener = self._viewer, self._listener
        while viewer.going_on(self._clock.monotonic()):
            await listener.wait(HEARTBEAT_SECONDS)
            self._look()
            events = [event for event in listener.take() if event.body()]
            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._write_timeout):
                    size = await write(events)
            except TimeoutError:
                viewer.end(EndReason.STALLED)
                return
            now = self._clock.monotonic()
            self._observe_send(now - begun)
            viewer.note_sent(items=len(events), skipped=listener.replaced - viewer.skipped, size=size, now=now)
