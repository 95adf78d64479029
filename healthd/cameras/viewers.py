"""Viewers: who looks, since when, and when it ends. Admission and release; knows no HTTP."""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

import structlog

from healthd.clients import client_of
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import HealthdError
from healthd.metrics import Sample

log = structlog.get_logger(__name__)
Kind = Literal["mjpeg", "events", "logs", "socket"]
"""What a viewer has open: pictures, events, the log, or a WebSocket that is sent pictures and answers predictions."""


class EndReason(StrEnum):
    """Why a session of a viewer ended."""

    CLIENT = "client"
    """It left."""
    STALLED = "stalled"
    """It did not read within the write deadline."""
    IDLE = "idle"
    """It sent nothing for too long."""
    MISUSE = "misuse"
    """It sent nothing that could be answered, again and again, or what no peer may send, or too much."""
    LIMIT = "limit"
    """It lasted as long as a session may."""
    STOP = "stop"
    """The daemon stops."""
    ADMIN = "admin"
    """Somebody ended it."""
    LOGOUT = "logout"
    """The page that opened it has logged out, or its log-in has expired, or its key is no longer configured."""
    REMOVED = "removed"
    """Its camera was removed from the configuration."""
    BUG = "bug"
    """We failed it; the log has a traceback."""


class TooManyViewers(HealthdError):  # noqa: N818  it says what it is
    """No room for another viewer now."""


@dataclass(frozen=True, slots=True)
class PageSession:
    """The log-in of a page, or a key, which what was opened with it does not outlive."""

    session_id: str
    """Tells nothing of its token, nor of the key."""
    ends_at: float
    """Seconds of the monotonic clock; infinite for a key."""


@dataclass(slots=True)
class Totals:
    """What all sessions of one camera got, since the daemon began."""

    sent: int = 0
    skipped: int = 0
    sent_bytes: int = 0


@dataclass(slots=True, eq=False)
class Viewer:
    """One open session, and what it got so far. Event loop only."""

    viewer_id: str
    kind: Kind
    camera: str | None
    """None for events of all cameras, for the log and for sockets."""
    client: str
    since: datetime
    opened_at: float
    """Seconds of the monotonic clock."""
    totals: Totals
    """Of all sessions of its camera, ended ones included."""
    ends_at: float = math.inf
    """Seconds of the monotonic clock, when it will have lasted as long as a session may."""
    ends_as: EndReason = EndReason.LIMIT
    """Why it will end then."""
    page: PageSession | None = None
    """The log-in or the key that it was opened with; None: none is needed."""
    sent: int = 0
    """Frames, events or answers."""
    skipped: int = 0
    """Frames or events that a newer one replaced before they could be sent, or pictures before a model saw them."""
    quality: int | None = None
    """Of what it is sent now; None: nothing yet, or the camera's own JPEGs."""
    last_write_at: float = 0.0
    """Seconds of the monotonic clock."""
    ended: EndReason | None = None
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the session is to end by itself, cleanly."""

    def going_on(self, now: float) -> bool:
        """Whether the session goes on; one that has lasted as long as it may is asked to end."""
        if now >= self.ends_at:
            self.end(self.ends_as)
        return self.ended is None

    def note_sent(self, *, items: int, skipped: int, size: int, now: float) -> None:
        """Count what was sent: frames or events, how many were skipped before them, bytes, and when."""
        self.sent += items
        self.skipped += skipped
        self.totals.sent += items
        self.totals.skipped += skipped
        self.totals.sent_bytes += size
        self.last_write_at = now

    def end(self, reason: EndReason) -> None:
        """Ask the session to end; the first reason counts."""
        if self.ended is None:
            self.ended = reason
            self.ending.set()


class Viewers:
    """All open sessions. Lives as long as the daemon; event loop only.

    The count cannot drift: it is the number of sessions that stand here, and a session stands here exactly as long as
    its `admitted` block lasts.
    """

    def __init__(
        self,
        *,
        max_viewers: int,
        max_viewers_per_camera: int,
        max_viewers_per_client: int = 100,
        max_sockets: int = 32,
        max_sockets_per_client: int = 16,
        max_seconds: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._max = max_viewers
        self._max_per_camera = max_viewers_per_camera
        self._max_per_client = max_viewers_per_client
        self._max_sockets = max_sockets
        self._max_sockets_per_client = max_sockets_per_client
        self._max_seconds = max_seconds or math.inf
        self._clock = clock
        self.on_change: Callable[[Viewer, str], None] = lambda _viewer, _what: None
        self.on_left: Callable[[PageSession], None] = lambda _page: None
        """Called with the log-in, or the key, of one that has ended."""
        """Called with `opened` or `ended`."""
        self._open: dict[str, Viewer] = {}
        self._ids = itertools.count(1)
        self._stopping = False
        self.admitted_total = 0
        self.refused_total = 0
        self.totals: dict[tuple[Kind, str], Totals] = {}
        """By kind and camera; the empty name for events of all cameras."""
        self.ended_total: Counter[str] = Counter({reason.value: 0 for reason in EndReason})

    def __iter__(self) -> Iterator[Viewer]:
        return iter(tuple(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def count(self, camera: str) -> int:
        """Count the open sessions of one camera."""
        return sum(1 for viewer in self._open.values() if viewer.camera == camera)

    def get(self, viewer_id: str) -> Viewer | None:
        """Return an open session, or None."""
        return self._open.get(viewer_id)

    @contextmanager
    def admitted(
        self, *, kind: Kind, camera: str | None, client: str, page: PageSession | None = None
    ) -> Iterator[Viewer]:
        """Admit a viewer for as long as the block lasts, however it ends; one that came by a log-in ends with that.

        Raises:
            TooManyViewers: a limit is reached, or the daemon stops.
        """
        refusal = self._refusal(kind, camera, client)
        if refusal is not None:
            self.refused_total += 1
            log.info("viewer_refused", kind=kind, camera=camera, client=client, reason=refusal)
            raise TooManyViewers(refusal)
        now = self._clock.monotonic()
        longest = now + self._max_seconds
        logged_in_until = page.ends_at if page is not None else math.inf
        viewer = Viewer(
            viewer_id=f"v{next(self._ids)}",
            kind=kind,
            camera=camera,
            client=client,
            since=self._clock.now(),
            opened_at=now,
            totals=self.totals.setdefault((kind, camera or ""), Totals()),
            ends_at=min(longest, logged_in_until),
            ends_as=EndReason.LOGOUT if logged_in_until < longest else EndReason.LIMIT,
            page=page,
            last_write_at=now,
        )
        self._open[viewer.viewer_id] = viewer
        self.admitted_total += 1
        try:
            log.info("viewer_opened", viewer=viewer.viewer_id, kind=kind, camera=camera, client=client)
            self.on_change(viewer, "opened")
            yield viewer
        finally:
            self._release(viewer)

    def end_all(self, reason: EndReason) -> None:
        """Ask every session to end cleanly, and admit nobody any more."""
        self._stopping = True
        for viewer in self:
            viewer.end(reason)

    def end_page(self, session_id: str) -> None:
        """Ask all that a page has opened to end cleanly: its log-in is over."""
        for viewer in self:
            if viewer.page is not None and viewer.page.session_id == session_id:
                viewer.end(EndReason.LOGOUT)

    def end_camera(self, camera: str) -> None:
        """Ask all who look at a camera to end cleanly, and drop its series: it is no longer configured."""
        for viewer in self:
            if viewer.camera == camera:
                viewer.end(EndReason.REMOVED)
        for key in [key for key in self.totals if key[1] == camera]:
            del self.totals[key]

    def set_limits(
        self,
        *,
        max_viewers: int,
        max_viewers_per_camera: int,
        max_viewers_per_client: int,
        max_sockets: int,
        max_sockets_per_client: int,
        max_seconds: float,
    ) -> None:
        """Take other limits, for who comes from now on."""
        self._max = max_viewers
        self._max_per_camera = max_viewers_per_camera
        self._max_per_client = max_viewers_per_client
        self._max_sockets = max_sockets
        self._max_sockets_per_client = max_sockets_per_client
        self._max_seconds = max_seconds or math.inf

    def has_page(self, session_id: str) -> bool:
        """Tell whether a page has something open."""
        return any(viewer.page is not None and viewer.page.session_id == session_id for viewer in self._open.values())

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics of all viewers, as they are now."""
        for (kind, camera), totals in self.totals.items():
            labels = {"camera": camera, "kind": kind}
            open_now = sum(1 for viewer in self if viewer.kind == kind and (viewer.camera or "") == camera)
            yield Sample("healthd_viewers_open", open_now, labels)
            yield Sample("healthd_stream_sent_total", totals.sent, labels)
            yield Sample("healthd_stream_skipped_total", totals.skipped, labels)
            yield Sample("healthd_stream_sent_bytes_total", totals.sent_bytes, labels)
        yield Sample("healthd_viewers_admitted_total", self.admitted_total)
        yield Sample("healthd_viewers_refused_total", self.refused_total)
        for reason, number in self.ended_total.items():
            yield Sample("healthd_viewers_ended_total", number, {"reason": reason})

    def _refusal(self, kind: Kind, camera: str | None, client: str) -> str | None:
        """Say why not now. Sockets are counted apart: they take no place from those who watch cameras."""
        if self._stopping:
            return "the daemon is stopping"
        sockets = [viewer for viewer in self._open.values() if viewer.kind == "socket"]
        if kind == "socket":
            return self._socket_refusal(sockets, client)
        if len(self._open) - len(sockets) >= self._max:
            return f"{self._max} viewers are open, which is the limit (streams.max_viewers)"
        if camera is not None and self.count(camera) >= self._max_per_camera:
            return f"{self._max_per_camera} viewers of `{camera}` are open (streams.max_viewers_per_camera)"
        own = self._own(client, sockets=False)
        if own >= self._max_per_client:
            return f"{own} viewers of this address are open (streams.max_viewers_per_client)"
        return None

    def _socket_refusal(self, sockets: list[Viewer], client: str) -> str | None:
        if len(sockets) >= self._max_sockets:
            return f"{len(sockets)} sockets are open, which is the limit (inference.max_sockets)"
        own = self._own(client, sockets=True)
        if own >= self._max_sockets_per_client:
            return f"{own} sockets of this address are open (inference.max_sockets_per_client)"
        return None

    def _own(self, client: str, *, sockets: bool) -> int:
        """Count what a client has open: sockets, or anything else."""
        same = (viewer for viewer in self._open.values() if client_of(viewer.client) == client_of(client))
        return sum((viewer.kind == "socket") is sockets for viewer in same)

    def _release(self, viewer: Viewer) -> None:
        del self._open[viewer.viewer_id]
        reason = viewer.ended = viewer.ended or EndReason.CLIENT
        self.ended_total[reason.value] += 1
        log.info(
            "viewer_ended",
            viewer=viewer.viewer_id,
            camera=viewer.camera,
            reason=reason.value,
            seconds=round(self._clock.monotonic() - viewer.opened_at, 3),
            sent=viewer.sent,
            skipped=viewer.skipped,
        )
        if viewer.page is not None:
            self.on_left(viewer.page)
        self.on_change(viewer, "ended")
