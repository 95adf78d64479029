"""What one viewer sees: the newest frame at its own pace, or a sign that there is none; and when it ends."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pytest

from healthd.cameras.accounting import FrameCounts
from healthd.cameras.attention import Attention
from healthd.cameras.control import Control
from healthd.cameras.demand import Demand
from healthd.cameras.health import Health, State
from healthd.cameras.jpeg import EncoderBusy, Picture, Variant
from healthd.cameras.records import NotLive, Tuning
from healthd.cameras.shown import Dated
from healthd.cameras.streams import CameraStream, Part, StreamRequest
from healthd.cameras.viewers import EndReason, Viewer, Viewers
from healthd.cameras.waits import Waits
from healthd.clock import Clock
from healthd.errors import CameraError
from healthd.frames import Frame
from healthd.settings import CameraSettings
from healthd.waiting import Signal
from tests.warped import EPOCH, soon, warped, warped_clock


class FakeJpegs:
    """Encodes at once; remembers what was asked for and how often something was encoded."""

    def __init__(self) -> None:
        self.done: dict[tuple[int, Variant], bytes] = {}
        self.encodes = 0
        self.failure: Exception | None = None

    async def get_or_encode(self, picture: Picture, variant: Variant) -> bytes:
        if self.failure is not None:
            raise self.failure
        key = (picture.frame.frame_id, variant)
        if key not in self.done:
            self.encodes += 1
            self.done[key] = f"frame {key[0]} {variant}".encode()
        await asyncio.sleep(0)
        return self.done[key]


class FakeRunner:
    """A camera that shows what a test tells it to."""

    name = "gym"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.published = Signal()
        self.jpegs = FakeJpegs()
        self.shown = self
        self.counts = FrameCounts()
        self.stale_after = float("inf")
        self.tuning = Tuning(None, 75)
        self.fps = 10.0
        self.health = Health(State.LIVE, EPOCH)
        self.no_overlay: str | None = None
        self.frame_id = 0
        self.width = 1280
        self.predicted = None
        self.unseen = False
        """Newer frames have come, and nobody wanted their pixels."""
        settings = CameraSettings(plugin="fake")
        self.waits = Waits(
            self,  # type: ignore[arg-type]  # a fake
            self.published,
            attention=Attention(settings, recording=False, clock=clock),
            demand=Demand(clock, frozen_after_seconds=0),
            control=Control(),
        )

    @property
    def has_newest(self) -> bool:
        return self.frame_id > 0 and not self.unseen

    def picture(self, *, overlay: bool) -> Picture:
        if self.health.state is not State.LIVE or self.frame_id == 0 or self.unseen:
            raise NotLive(self.health)
        if overlay and self.no_overlay:
            raise NotLive(Health(State.LIVE, EPOCH, self.no_overlay))
        image = np.broadcast_to(np.uint8(0), (720, self.width, 3))
        moment = EPOCH + timedelta(seconds=self.clock.monotonic())
        return Picture(Frame("gym", self.frame_id, image, moment, self.clock.monotonic()))

    def confirm(self, frame: Dated) -> None:
        if self.health.state is not State.LIVE:
            raise NotLive(self.health)
        if self.clock.monotonic() - frame.captured_monotonic > self.stale_after:
            raise NotLive(Health(State.LIVE, EPOCH, "the picture is old"))

    async def get(self, camera: str, title: str, reason: str | None, *, width: int | None) -> bytes:
        """As a cache of signs does."""
        return f"{title}: {reason} ({width})".encode()

    def publish(self) -> None:
        self.frame_id += 1
        self.counts.predicted += 1
        self.published.notify_all()

    def become(self, state: State, reason: str | None = None) -> None:
        self.health = Health(state, EPOCH, reason)
        self.published.notify_all()

    async def film(self, seconds: float, *, fps: float = 10.0) -> None:
        """Publish frames for so long, the first one at once."""
        self.fps = fps
        for _ in range(round(seconds * fps)):
            self.publish()
            await asyncio.sleep(1 / fps)


@dataclass(frozen=True)
class Got:
    at: float
    part: Part

    @property
    def text(self) -> str:
        return self.part.jpeg.decode()


class Session:
    """One viewer with its stream; `got` is what it was sent, and when, in seconds from the opening."""

    def __init__(
        self,
        *,
        write: Callable[[Part], Awaitable[None]] | None = None,
        write_timeout: float = 5.0,
        max_seconds: float = 0.0,
        **asked: Any,
    ) -> None:
        self.clock = warped_clock()
        self.begun = self.clock.monotonic()
        self.runner = FakeRunner(self.clock)
        self.viewers = Viewers(max_viewers=9, max_viewers_per_camera=9, max_seconds=max_seconds, clock=self.clock)
        self.viewer: Viewer = None  # type: ignore[assignment]  # as soon as it is open
        self.got: list[Got] = []
        self.send_seconds = 0.0
        self.observed: list[float] = []
        self._write = write or self._take
        self._write_timeout = write_timeout
        self._asked = StreamRequest(**asked)
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.run())  # it begins when the test waits for the first time
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        if self.task.done():
            self.task.result()
        self.task.cancel()
        await asyncio.wait([self.task])

    async def run(self) -> None:
        with self.viewers.admitted(kind="mjpeg", camera="gym", client="-") as self.viewer:
            stream = CameraStream(
                self.runner,  # type: ignore[arg-type]  # a fake
                self.viewer,
                self._asked,
                signs=self.runner,  # type: ignore[arg-type]  # a fake
                write_timeout_seconds=self._write_timeout,
                observe_send=self.observed.append,
                clock=self.clock,
            )
            await stream.run(self._write)

    async def end(self, reason: EndReason) -> None:
        self.viewer.end(reason)
        self.runner.published.notify_all()
        assert self.task is not None
        await asyncio.wait_for(asyncio.shield(self.task), 60)

    @property
    def now(self) -> float:
        return self.clock.monotonic() - self.begun

    @property
    def frames(self) -> list[int]:
        return [got.part.frame_id for got in self.got if got.part.frame_id is not None]

    @property
    def times(self) -> list[float]:
        return [round(got.at, 3) for got in self.got]

    async def _take(self, part: Part) -> None:
        self.got.append(Got(self.now, part))
        if self.send_seconds:
            await asyncio.sleep(self.send_seconds)


@warped
async def test_every_frame_is_sent_once_in_order_with_its_number_and_time() -> None:
    async with Session() as session:
        await session.runner.film(3)
        assert session.frames == list(range(1, 31))
        assert session.times == [round(number / 10, 3) for number in range(30)]
        assert session.got[4].part.captured_at == EPOCH + timedelta(seconds=session.begun + 0.4)
        assert (session.viewer.sent, session.viewer.skipped) == (30, 0)
        assert session.runner.jpegs.encodes == 30
        assert len(session.observed) == len(session.got)


def assert_newest(session: Session, *, fps: float) -> None:
    """Every frame was the newest when it was sent first; or a newer one was published at that very moment."""
    first = {got.part.frame_id: got for got in reversed(session.got)}
    for got in first.values():
        newest = [int(got.at * fps + tiny) + 1 for tiny in (-1e-6, 1e-6)]
        assert got.part.frame_id in newest


@warped
async def test_a_slow_viewer_gets_the_newest_frame_and_what_it_missed_is_counted() -> None:
    async with Session() as session:
        session.send_seconds = 0.35
        await session.runner.film(5)
        assert_newest(session, fps=10)
        await asyncio.sleep(0.9)
        assert session.viewer.skipped > 30
        assert session.viewer.sent + session.viewer.skipped == session.frames[-1] == 50


@pytest.mark.parametrize(
    ("asked", "per_second"), [({"fps": 4}, 4), ({"overlay": True}, 10), ({"overlay": True, "fps": 4}, 4)]
)
def test_what_a_slow_viewer_misses_of_what_it_asked_for_is_counted(asked: dict[str, Any], per_second: int) -> None:
    @warped
    async def test() -> None:
        async with Session(**asked) as session:
            session.send_seconds = 1.3
            await session.runner.film(20)
            assert session.viewer.skipped > 5
            assert abs(session.viewer.sent + session.viewer.skipped - 20 * per_second) <= 2 * 1.3 * per_second
            session.send_seconds = 0.0
            await session.runner.film(2)
            skipped = session.viewer.skipped
            await session.runner.film(10)
            assert session.viewer.skipped == skipped, "nothing is missed by one that is quick"

    test()


@warped
async def test_predictions_that_were_lost_with_their_camera_were_not_missed_by_its_viewers() -> None:
    async with Session(overlay=True) as session:
        await session.runner.film(1)
        session.runner.become(State.RECONNECTING, "unplugged")
        await asyncio.sleep(1)
        session.runner.counts.predicted += 50
        session.runner.health = Health(State.LIVE, EPOCH)
        await session.runner.film(1)
        assert session.viewer.skipped == 0


@warped
async def test_one_who_does_not_read_is_ended_at_the_deadline_and_the_write_is_given_up() -> None:
    given_up: list[float] = []

    async def never(part: Part) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append(session.now)

    session = Session(write=never, write_timeout=5)
    async with session:
        await session.runner.film(6)
        assert session.task is not None
        assert session.task.done()
        assert session.viewer.ended is EndReason.STALLED
        assert given_up == [5.0]
        assert session.viewer.sent == 0


@warped
async def test_without_a_new_frame_the_last_part_is_sent_again_each_second_and_nothing_is_encoded() -> None:
    async with Session() as session:
        session.runner.publish()
        await asyncio.sleep(3.5)
        assert session.times == [0, 1, 2, 3]
        assert all(got.part is session.got[0].part for got in session.got)
        assert session.runner.jpegs.encodes == 1
        assert session.viewer.sent == 1
        session.runner.publish()
        await soon(lambda: len(session.got) == 5)
        assert (session.viewer.sent, session.viewer.skipped) == (2, 0)


@pytest.mark.parametrize(("asked", "seconds"), [(5, 4), (10, 4), (0.5, 20), (0.1, 100), (7, 6), (14.9, 8), (120, 3)])
def test_a_viewer_gets_no_more_frames_per_second_than_it_asked_for(asked: float, seconds: float) -> None:
    @warped
    async def test() -> None:
        async with Session(fps=asked) as session:
            await session.runner.film(seconds, fps=15)
            expected = min(asked, 15) * seconds
            assert expected - 1 <= len(set(session.frames)) <= expected + 1.01
            assert session.viewer.sent == len(set(session.frames))
            assert session.frames == sorted(session.frames)
            assert session.viewer.skipped == 0, "what it did not want it did not miss"
            gaps = [after - before for before, after in itertools.pairwise(session.times)]
            assert max(gaps) <= 1.001, "nothing was sent for more than a second"
            assert_newest(session, fps=15)

    test()


@warped
async def test_a_camera_that_is_not_live_is_said_at_once_and_then_once_a_second() -> None:
    async with Session() as session:
        session.runner.health = Health(State.RECONNECTING, EPOCH, "connection refused")
        await asyncio.sleep(3.2)
        assert session.times == [0, 1, 2, 3]
        assert {got.text for got in session.got} == {"reconnecting: connection refused (None)"}
        assert session.frames == []
        assert session.viewer.sent == 0
        session.runner.health = Health(State.LIVE, EPOCH)
        await session.runner.film(1)
        assert session.frames == list(range(1, 11))


@warped
async def test_a_camera_that_is_not_live_and_changes_all_the_time_does_not_hurry_the_stream() -> None:
    """A frozen camera goes on delivering frames; none of them may be shown."""
    async with Session() as session:
        session.runner.health = Health(State.FROZEN, EPOCH, "the picture has not changed for 30 s")
        await session.runner.film(10, fps=50)
        assert 10 <= len(session.got) <= 11
        assert session.runner.jpegs.encodes == 0


@warped
async def test_when_the_camera_is_lost_the_stream_says_so_until_it_is_back_and_misses_nothing_it_could_show() -> None:
    async with Session(width=320) as session:
        await session.runner.film(1)
        session.runner.become(State.STALLED, "no image within 5 s")
        lost_at = session.now
        await asyncio.sleep(0.5)
        session.runner.become(State.RECONNECTING, "no route")
        await asyncio.sleep(2.2)
        signs = [(round(got.at - lost_at, 1), got.text) for got in session.got if got.part.frame_id is None]
        assert signs == [
            (0.0, "stalled: no image within 5 s (320)"),
            (0.5, "reconnecting: no route (320)"),
            (1.5, "reconnecting: no route (320)"),
            (2.5, "reconnecting: no route (320)"),
        ]
        session.runner.frame_id += 100  # of a session that delivered nothing that could be shown
        session.runner.become(State.LIVE)
        begun = len(session.got)
        await session.runner.film(1)
        assert session.got[begun].part.frame_id is not None
        assert session.viewer.skipped <= 1


@warped
async def test_the_second_frame_comes_a_whole_interval_after_the_first_also_after_a_loss() -> None:
    async with Session(fps=2) as session:
        for _ in range(2):
            begun = len(session.got)
            await session.runner.film(1.7)
            opened = session.times[begun]
            assert [round(at - opened, 1) for at in session.times[begun:]] == [0, 0.5, 1, 1.5]
            session.runner.become(State.STALLED)
            await asyncio.sleep(5)
            session.runner.health = Health(State.LIVE, EPOCH)


@warped
async def test_one_who_wants_few_frames_is_sent_the_last_one_again_each_second() -> None:
    async with Session(fps=0.1) as session:
        await session.runner.film(9.5)
        assert session.times == list(range(10))
        assert {got.part for got in session.got} == {session.got[0].part}
        assert (session.viewer.sent, session.runner.jpegs.encodes) == (1, 1)


@pytest.mark.parametrize("asked", [{}, {"fps": 0.1}, {"overlay": True}, {"overlay": True, "fps": 0.1}])
@pytest.mark.parametrize("told", [True, False])
def test_everybody_is_told_within_a_second_that_the_camera_is_not_live(asked: dict[str, Any], told: bool) -> None:  # noqa: FBT001
    """Also where time alone has made it so, which wakes nobody."""

    @warped
    async def test() -> None:
        async with Session(**asked) as session:
            session.runner.publish()
            await asyncio.sleep(3.3)
            assert {got.part.frame_id for got in session.got} == {1}
            session.runner.health = Health(State.STALLED, EPOCH, "no image for 5.1 s")
            if told:
                session.runner.published.notify_all()
            await asyncio.sleep(1)
            assert session.got[-1].text.startswith("stalled")

    test()


@warped
async def test_a_sign_of_an_overlay_says_why_there_is_no_prediction_and_not_that_the_camera_is_live() -> None:
    async with Session(overlay=True) as session:
        session.runner.no_overlay = "no model watches it"
        await session.runner.film(2.5)
        assert session.times == [0, 1, 2]
        assert {got.text for got in session.got} == {"no picture: no model watches it (None)"}


@warped
async def test_a_picture_that_cannot_be_encoded_is_said_and_does_not_end_the_stream() -> None:
    async with Session() as session:
        session.runner.jpegs.failure = CameraError("a frame of 70000x1 pixels cannot be encoded as JPEG")
        await session.runner.film(2.5)
        assert [got.text[:10] for got in session.got] == ["no picture"] * 3
        assert "70000x1" in session.got[0].text
        session.runner.jpegs.failure = None
        await session.runner.film(1)
        assert len(session.frames) == 10


@warped
async def test_one_whose_variant_must_wait_is_kept_alive_and_gets_a_frame_when_there_is_room() -> None:
    async with Session() as session:
        await session.runner.film(1)
        session.runner.jpegs.failure = EncoderBusy("16 other variants of this camera are being encoded")
        begun = session.now
        await session.runner.film(3.5)
        late = [got for got in session.got if got.at >= begun]
        assert len(late) == 3
        assert all(got.part is session.got[9].part for got in late)
        session.runner.jpegs.failure = None
        await session.runner.film(1)
        assert session.frames[-10:] == list(range(46, 56))


@pytest.mark.parametrize("asked", [{}, {"overlay": True}, {"fps": 5}])
def test_one_whose_variant_must_wait_is_not_shown_its_last_frame_for_longer_than_that_is_true(
    asked: dict[str, Any],
) -> None:
    @warped
    async def test() -> None:
        async with Session(**asked) as session:
            await session.runner.film(1)
            session.runner.stale_after = 2.5
            session.runner.jpegs.failure = EncoderBusy("16 other variants of this camera are being encoded")
            begun = session.now
            await session.runner.film(5)
            shown = [got for got in session.got if got.at >= begun and got.part.frame_id is not None]
            assert shown
            assert max(got.at for got in shown) < begun + 2.5
            said = [(round(got.at - begun), got.text[:10]) for got in session.got if got.part.frame_id is None]
            assert said == [(at, "no picture") for at in (2, 3, 4)]
            session.runner.jpegs.failure = None
            await session.runner.film(1)
            assert session.frames[-1] >= 69

    test()


@warped
async def test_one_who_never_got_a_frame_because_too_many_variants_wait_is_told_so() -> None:
    async with Session() as session:
        session.runner.jpegs.failure = EncoderBusy("16 other variants of this camera are being encoded")
        await session.runner.film(2.5)
        assert session.times == [0, 1, 2]
        assert session.got[0].text.startswith("no picture: 16 other variants")


@warped
async def test_a_frame_whose_camera_was_lost_while_it_was_encoded_is_not_shown() -> None:
    async with Session() as session:
        await session.runner.film(1)
        encode = session.runner.jpegs.get_or_encode

        async def slow(picture: Picture, variant: Variant) -> bytes:
            jpeg = await encode(picture, variant)
            session.runner.become(State.RECONNECTING, "unplugged")
            return jpeg

        session.runner.jpegs.get_or_encode = slow  # type: ignore[method-assign]
        session.runner.publish()
        await asyncio.sleep(0.5)
        assert session.frames == list(range(1, 11))
        assert session.got[-1].text.startswith("reconnecting: unplugged")


def qualities(session: Session) -> list[int]:
    """The qualities of the frames that were sent, without repetition."""
    found: list[int] = []
    for got in session.got:
        if got.part.frame_id is not None:
            quality = int(got.text.split("q")[1].split("w")[0])
            found += [quality] if found[-1:] != [quality] else []
    return found


@warped
async def test_the_quality_steps_down_while_sends_are_slow_and_up_again_when_they_are_not() -> None:
    async with Session() as session:
        session.send_seconds = 0.08
        await session.runner.film(2)
        assert qualities(session) == [75, 60, 45]
        assert session.viewer.quality == 45
        session.send_seconds = 0.01
        await session.runner.film(4.5)
        assert qualities(session) == [75, 60, 45]
        await session.runner.film(12)
        assert qualities(session) == [75, 60, 45, 60, 75]
        assert session.viewer.quality == 75


@warped
async def test_a_single_slow_send_lowers_nothing() -> None:
    async with Session() as session:
        for _ in range(10):
            session.send_seconds = 0.08
            await session.runner.film(0.2)
            session.send_seconds = 0.0
            await session.runner.film(1)
        assert qualities(session) == [75]


@warped
async def test_one_who_was_slow_for_a_long_time_is_not_lowered_for_a_single_slow_send_after_it_has_recovered() -> None:
    async with Session() as session:
        session.send_seconds = 0.08
        await session.runner.film(60)
        session.send_seconds = 0.01
        await session.runner.film(12)
        session.send_seconds = 0.08
        await session.runner.film(0.2)
        session.send_seconds = 0.01
        await session.runner.film(1)
        assert qualities(session) == [75, 60, 45, 60, 75]


@pytest.mark.parametrize(
    ("asked", "expected"), [(95, [95, 80, 65]), (40, [40, 25, 20]), (22, [22, 20]), (20, [20]), (5, [5])]
)
def test_the_quality_begins_with_what_was_asked_for_and_has_a_floor(asked: int, expected: list[int]) -> None:
    @warped
    async def test() -> None:
        async with Session(quality=asked) as session:
            session.send_seconds = 0.2
            await session.runner.film(5)
            assert qualities(session) == expected

    test()


@warped
async def test_without_a_wish_the_quality_follows_the_camera() -> None:
    async with Session() as session:
        await session.runner.film(1)
        session.runner.tuning = Tuning(None, 50)
        await session.runner.film(1)
        assert qualities(session) == [75, 50]


@warped
async def test_a_width_that_the_frame_does_not_have_is_the_same_variant_as_none() -> None:
    async with Session(width=4000) as session:
        await session.runner.film(0.5)
        assert set(session.runner.jpegs.done) == {(number, Variant(75)) for number in range(1, 6)}


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (EndReason.STOP, "stream ended: healthd was stopped (None)"),
        (EndReason.ADMIN, "stream ended: by an administrator (None)"),
        (EndReason.LOGOUT, "stream ended: the page is no longer logged in; log in again (None)"),
        (EndReason.CLIENT, None),
        (EndReason.STALLED, None),
    ],
)
def test_one_who_still_looks_is_told_that_the_stream_has_ended(reason: EndReason, said: str | None) -> None:
    @warped
    async def test() -> None:
        async with Session() as session:
            await session.runner.film(1)
            begun = session.now
            await session.end(reason)
            assert session.now == begun
            last = session.got[-1]
            assert (last.text if last.part.last else None) == said
            assert [got.part.last for got in session.got].count(True) == (said is not None)

    test()


@pytest.mark.parametrize("asked", [{}, {"fps": 0.1}, {"overlay": True}])
@pytest.mark.parametrize("then", [State.LIVE, State.PAUSED])
def test_a_session_that_has_lasted_long_enough_ends_whatever_the_camera_does(
    asked: dict[str, Any], then: State
) -> None:
    @warped
    async def test() -> None:
        async with Session(max_seconds=4.5, **asked) as session:
            session.runner.publish()
            await asyncio.sleep(1)
            session.runner.become(then, "paused by request")
            await asyncio.sleep(5)
            assert session.viewer.ended is EndReason.LIMIT
            assert session.got[-1].part.last
            assert 4.5 <= session.got[-1].at <= 5.51

    test()


@pytest.mark.parametrize("asked", [{}, {"fps": 0.1}, {"overlay": True}])
@pytest.mark.parametrize("state", [State.LIVE, State.PAUSED])
def test_a_session_ends_at_once_whatever_it_waits_for(asked: dict[str, Any], state: State) -> None:
    @warped
    async def test() -> None:
        async with Session(**asked) as session:
            session.runner.publish()
            session.runner.become(state)
            await asyncio.sleep(0.5)
            begun = session.now
            await session.end(EndReason.ADMIN)
            assert session.now == begun

    test()


@pytest.mark.parametrize(("state", "told_at"), [(State.STARTING, [0, 1, 2, 3]), (State.LIVE, [1, 2, 3])])
@warped
async def test_who_waits_for_a_first_frame_is_told_each_second_that_there_is_none_and_ends_at_once(
    state: State, told_at: list[float]
) -> None:
    async with Session() as session:
        session.runner.become(state)
        session.runner.unseen = True
        await asyncio.sleep(3.5)
        assert session.times == told_at
        assert session.frames == []
        begun = session.now
        await session.end(EndReason.ADMIN)
        assert session.now == begun
        assert session.got[-1].part.last
        assert session.got[-1].text.startswith("stream ended")


@warped
async def test_viewers_of_one_variant_share_one_encode_and_a_slow_one_costs_the_others_nothing() -> None:
    clock = warped_clock()
    runner = FakeRunner(clock)
    sessions = [Session() for _ in range(20)]
    sessions[0].send_seconds = 1.1  # two slow sends, and the third lasts till the end: the quality stays
    for session in sessions:
        session.runner = runner
    tasks = [asyncio.create_task(session.run()) for session in sessions]
    await asyncio.sleep(0)
    await runner.film(3)
    assert all(session.frames == list(range(1, 31)) for session in sessions[1:])
    assert len(sessions[0].frames) <= 5
    assert runner.jpegs.encodes == 30
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
