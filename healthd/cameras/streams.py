"""What one viewer of one camera sees: the newest frame at its own pace, or that there is none. Knows no HTTP.

A stream is a session with an owner (`Viewer`), a limit and an end. A viewer that is slow skips frames and gets a lower
quality, it never lags; one that does not take what it is sent within the write deadline is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from healthd.cameras.health import Health, State
from healthd.cameras.jpeg import OWN, EncoderBusy, Picture
from healthd.cameras.records import NotLive
from healthd.cameras.runner import CameraRunner
from healthd.cameras.signs import SignCache
from healthd.cameras.viewers import EndReason, Viewer
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.errors import CameraError
from healthd.frames import Frame
from healthd.waiting import wait_or_timeout

KEEP_ALIVE_SECONDS = 1.0
"""Something is sent at least this often, so that proxies and half-dead peers are kept honest."""
QUALITY_STEPS = (0, 15, 30)
"""By how much the quality is lowered for a viewer that cannot keep up; few, so that variants stay shared."""
LOWEST_QUALITY = 20
SLOW_SHARE = 0.5
"""A send that takes more than this share of the time between two frames is slow."""
SLOW_SENDS = 3
QUICK_SECONDS = 5.0
"""So long without a slow send, and the quality goes up one step."""
FAREWELLS = {
    EndReason.STOP: ("stream ended", "healthd was stopped"),
    EndReason.ADMIN: ("stream ended", "by an administrator"),
    EndReason.LOGOUT: ("stream ended", "the page is no longer logged in; log in again"),
    EndReason.REMOVED: ("stream ended", "this camera is no longer configured"),
    EndReason.LIMIT: ("stream ended", "it lasted as long as a stream may; open it again"),
}
"""What the last picture of a stream says: a browser goes on showing it, and it must not look live."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a viewer asked for."""

    quality: int | None = None
    """JPEG quality, 1 to 95; None: the camera's own, and follows it."""
    width: int | None = None
    overlay: bool = False
    fps: float | None = None
    """At most so many frames per second; None: all."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One picture of a stream. Without a frame id it is no frame, but a sign that there is none."""

    jpeg: bytes
    frame_id: int | None = None
    captured_at: datetime | None = None
    last: bool = False
    """Nothing follows it."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """Which frame a viewer was shown last; its image may go."""

    frame_id: int
    captured_monotonic: float
    number: int
    """Counts what could be shown to this viewer: frames, or predictions."""


class Pace:
    """The quality of one viewer: down a step while sends are slow, up again when they are not."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._step = 0
        self._slow = 0
        self._since = clock.monotonic()

    def lowered(self, quality: int) -> int:
        """Return the quality to use in place of the one asked for."""
        return max(min(quality, LOWEST_QUALITY), quality - QUALITY_STEPS[self._step])

    def sent(self, seconds: float, *, interval: float) -> None:
        """Note how long a send took, with frames `interval` seconds apart."""
        now = self._clock.monotonic()
        if seconds > SLOW_SHARE * interval:
            self._slow = min(SLOW_SENDS, self._slow + 1)  # however long it was slow, that is forgiven as soon
            self._since = now
            if self._slow >= SLOW_SENDS and self._step < len(QUALITY_STEPS) - 1:
                self._step, self._slow = self._step + 1, 0
            return
        self._slow = max(0, self._slow - 1)
        if self._step > 0 and now - self._since >= QUICK_SECONDS:
            self._step, self._since = self._step - 1, now


class CameraStream:
    """One viewer's session with one camera. Lives as long as the viewer is admitted."""

    def __init__(
        self,
        runner: CameraRunner,
        viewer: Viewer,
        request: StreamRequest,
        *,
        signs: SignCache,
        write_timeout_seconds: float,
        observe_send: Callable[[float], None] = lambda _: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._runner = runner
        self._viewer = viewer
        self._request = request
        self._signs = signs
        self._write_timeout = write_timeout_seconds
        self._observe_send = observe_send
        self._clock = clock
        self._pace = Pace(clock)
        self._last_part: Part | None = None
        """The newest frame that was sent, as long as the camera is live."""
        self._last = self._next = _Shown(0, 0.0, 0)
        """What that part shows, and what the part in hand does."""
        self._sign: str | None = None
        """Title of the sign that is shown in place of frames."""
        self._due = float("-inf")

    async def run(self, write: Callable[[Part], Awaitable[None]]) -> None:
        """Send parts until the session is asked to end; `write` returns when the viewer has room for the next.

        A viewer that makes `write` wait longer than the deadline is ended as stalled. One that is ended for another
        reason than its own gets a last part that says so.
        """
        viewer = self._viewer
        while viewer.going_on(self._clock.monotonic()):
            part = await self._next_part()
            if part is None:
                continue
            begun = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._write_timeout):
                    await write(part)
            except TimeoutError:
                viewer.end(EndReason.STALLED)
                return
            self._note_sent(part, begun)
        if viewer.ended in FAREWELLS:
            title, why = FAREWELLS[viewer.ended]
            await write(
                Part(await self._drawn(title, why), last=True)
            )  # whoever asked for the end does not wait for ever

    async def _next_part(self) -> Part | None:
        """Wait for what is to be sent next, at the latest until a keep-alive is due. None: look again."""
        asked, viewer = self._request, self._viewer
        keep_alive_at = viewer.last_write_at + KEEP_ALIVE_SECONDS
        await self._runner.waits.fresh(
            overlay=asked.overlay,
            timeout=keep_alive_at - self._clock.monotonic(),
            has_left=lambda: viewer.ended is not None,
        )
        now = self._clock.monotonic()
        if not viewer.going_on(now):
            return None
        try:
            picture = self._runner.picture(overlay=asked.overlay)
        except NotLive as exc:
            return await self._next_sign(exc.health)
        new = picture.frame.frame_id != self._last.frame_id or self._last_part is None
        if new and now >= self._due:
            return await self._frame(picture, keep_alive_at)
        if self._last_part is not None and now >= keep_alive_at:
            return self._last_part  # the same bytes: nothing is encoded again
        if new:  # too early for this viewer; still it is told within a second when the camera is lost
            await wait_or_timeout(self._viewer.ending, min(self._due, keep_alive_at) - now)
        else:
            await self._wait_changed(keep_alive_at)
        return None

    async def _frame(self, picture: Picture, keep_alive_at: float) -> Part | None:
        frame, asked = picture.frame, self._request
        number = self._runner.counts.predicted if asked.overlay else frame.frame_id
        self._next = _Shown(frame.frame_id, frame.captured_monotonic, number)
        tuning = self._runner.tuning
        variant = tuning.variant(frame, quality=asked.quality, width=asked.width, overlay=asked.overlay)
        if variant != OWN:
            variant = variant._replace(quality=self._pace.lowered(variant.quality))
        self._viewer.quality = variant.quality or None
        try:
            jpeg = await self._runner.jpegs.get_or_encode(picture, variant)
            self._runner.shown.confirm(frame)
        except NotLive as exc:
            return await self._next_sign(exc.health)
        except EncoderBusy as exc:
            return await self._without(frame, str(exc), keep_alive_at)
        except CameraError as exc:
            return await self._next_sign(Health(State.LIVE, frame.captured_at, str(exc)))
        return Part(jpeg, frame.frame_id, frame.captured_at)

    async def _without(self, frame: Frame, why: str, keep_alive_at: float) -> Part | None:
        """Do without a frame for which there is no room: show the last one for as long as that is no lie."""
        if self._last_part is None:
            return await self._next_sign(Health(State.LIVE, frame.captured_at, why))
        try:
            self._runner.shown.confirm(self._last)
        except NotLive as exc:
            return await self._next_sign(exc.health)
        if self._clock.monotonic() >= keep_alive_at:
            return self._last_part
        await self._wait_changed(keep_alive_at)
        return None

    async def _next_sign(self, health: Health) -> Part | None:
        """Say that there is no picture: at once when that is new, then once a second."""
        title = "no picture" if health.state is State.LIVE else health.state.value
        keep_alive_at = self._viewer.last_write_at + KEEP_ALIVE_SECONDS
        if title == self._sign and self._clock.monotonic() < keep_alive_at:
            await self._wait_changed(keep_alive_at)
            return None
        self._sign, self._last_part = title, None
        return Part(await self._drawn(title, health.reason))

    async def _drawn(self, title: str, reason: str | None) -> bytes:
        return await self._signs.get(self._runner.name, title, reason, width=self._request.width)

    def _note_sent(self, part: Part, begun: float) -> None:
        viewer, now = self._viewer, self._clock.monotonic()
        self._observe_send(now - begun)
        if part.frame_id is None or part is self._last_part:  # no frame, or no new one
            viewer.note_sent(items=0, skipped=0, size=len(part.jpeg), now=now)
            return
        viewer.note_sent(items=1, skipped=self._skipped(begun), size=len(part.jpeg), now=now)
        interval = 1 / max(1.0, min(self._runner.fps or 1.0, self._request.fps or 1000.0))
        self._pace.sent(now - begun, interval=interval)
        if (fps := self._request.fps) is not None:
            late = 0.5 / fps if self._last_part else 0.0  # a little is caught up: the rate asked for is the one given
            self._due = max(self._due, begun - late) + 1 / fps
        self._last, self._last_part, self._sign = self._next, part, None

    def _skipped(self, begun: float) -> int:
        """Count what this viewer wanted to see between its last frame and the one whose send has `begun`."""
        if self._last_part is None:
            return 0
        missed = max(0, self._next.number - self._last.number - 1)
        fps = self._request.fps
        return missed if fps is None else max(0, min(missed, int((begun - self._due) * fps)))

    async def _wait_changed(self, deadline: float) -> None:
        """Wait for a new frame or another state, at most until `deadline`; the end of the session wakes too.

        What follows from time alone wakes nobody: that a frame is too old, that the session has lasted long enough.
        """
        left = deadline - self._clock.monotonic()
        if left > 0 and self._viewer.ended is None:
            await self._runner.published.wait(left)
