"""Events: whoever listens gets the newest of everything, and one who reads slowly costs nothing."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from healthd.cameras.events import HEARTBEAT_SECONDS, MAX_PENDING, Event, EventHub, EventStream, Listener
from healthd.cameras.viewers import EndReason, Viewer, Viewers
from tests.warped import soon, warped, warped_clock


def body(text: str = "{}") -> bytes:
    return text.encode()


def taken(listener: Listener) -> list[tuple[str, str | None, bytes]]:
    return [(event.topic, event.camera, event.body()) for event in listener.take()]


def test_a_listener_gets_what_happens_from_the_moment_it_listens_in_order() -> None:
    hub, listener = EventHub(), Listener()
    hub.publish("camera", "gym", lambda: b"early")
    with hub.listening(listener):
        hub.publish("camera", "gym", lambda: b"1")
        hub.publish("prediction", "gym", lambda: b"2")
        hub.publish("camera", "rack", lambda: b"3")
        assert taken(listener) == [("camera", "gym", b"1"), ("prediction", "gym", b"2"), ("camera", "rack", b"3")]
        assert taken(listener) == []
    hub.publish("camera", "gym", lambda: b"late")
    assert taken(listener) == []


def test_only_the_newest_of_each_kind_and_camera_waits_and_what_it_replaced_is_counted() -> None:
    hub, listener = EventHub(), Listener()
    with hub.listening(listener):
        for number in range(5):
            hub.publish("prediction", "gym", lambda n=number: b"%d" % n)  # type: ignore[misc]
            hub.publish("prediction", "rack", lambda n=number: b"%d" % n)  # type: ignore[misc]
        hub.publish("camera", "gym", lambda: b"live")
        assert taken(listener) == [
            ("prediction", "gym", b"4"),
            ("prediction", "rack", b"4"),
            ("camera", "gym", b"live"),
        ]
        assert listener.replaced == 8


def test_events_of_two_viewers_do_not_replace_each_other() -> None:
    hub, listener = EventHub(), Listener()
    with hub.listening(listener):
        for viewer in ("v1", "v2", "v1"):
            hub.publish("viewer", "gym", lambda v=viewer: v.encode(), key=viewer)  # type: ignore[misc]
        assert taken(listener) == [("viewer", "gym", b"v2"), ("viewer", "gym", b"v1")]


def test_what_waits_is_bounded_and_the_oldest_leaves() -> None:
    hub, listener = EventHub(), Listener()
    with hub.listening(listener):
        for number in range(MAX_PENDING + 10):
            hub.publish("viewer", "gym", lambda n=number: b"%d" % n, key=str(number))  # type: ignore[misc]
        events = taken(listener)
    assert len(events) == MAX_PENDING
    assert events[0][2] == b"10"
    assert listener.replaced == 10


def test_however_many_viewers_come_and_go_what_waits_of_the_cameras_stays() -> None:
    hub, listener = EventHub(), Listener()
    with hub.listening(listener):
        hub.publish("camera", "gym", lambda: b"failed")
        for number in range(MAX_PENDING + 10):
            hub.publish("viewer", "gym", lambda n=number: b"%d" % n, key=str(number))  # type: ignore[misc]
        events = taken(listener)
    assert len(events) == MAX_PENDING
    assert [events[0][2], events[1][2], events[-1][2]] == [b"failed", b"11", b"265"]


def test_what_waits_is_bounded_even_where_nothing_is_a_viewer() -> None:
    hub, listener = EventHub(), Listener()
    with hub.listening(listener):
        for number in range(MAX_PENDING + 1):
            hub.publish("camera", f"c{number}", lambda: b"")
        events = taken(listener)
    assert (len(events), events[0][1]) == (MAX_PENDING, "c1")


def test_a_listener_of_one_camera_hears_of_no_other() -> None:
    hub, listener = EventHub(), Listener("gym")
    with hub.listening(listener):
        hub.publish("camera", "rack", lambda: b"no")
        hub.publish("viewer", None, lambda: b"no")
        hub.publish("camera", "gym", lambda: b"yes")
        assert taken(listener) == [("camera", "gym", b"yes")]


def test_nothing_is_made_for_nobody_and_once_for_many() -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"x"

    hub = EventHub()
    assert not hub.heard
    hub.publish("camera", "gym", make)
    first, second = Listener(), Listener()
    with hub.listening(first), hub.listening(second):
        assert hub.heard
        hub.publish("camera", "gym", make)
        assert made == []
        assert taken(first) == taken(second) == [("camera", "gym", b"x")]
    assert made == [1]
    assert not hub.heard


def test_an_event_that_cannot_be_made_is_told_to_nobody_and_logged_once_until_it_can() -> None:
    def broken() -> bytes:
        raise ValueError("cannot be shaped")

    hub, first, second = EventHub(), Listener(), Listener()
    with hub.listening(first), hub.listening(second), capture_logs() as logs:
        for body in (broken, broken, broken, lambda: b"{}", broken):
            hub.publish("prediction", "gym", body)
            assert taken(first) == taken(second) == [("prediction", "gym", b"" if body is broken else b"{}")]
        assert [(entry["event"], entry["camera"]) for entry in logs] == [("event_bug", "gym")] * 2


class _Session:
    """An `EventStream` that writes into a list."""

    def __init__(self, *, max_seconds: float = 0.0, write_timeout: float = 5.0) -> None:
        self.clock = warped_clock()
        self.viewers = Viewers(max_viewers=9, max_viewers_per_camera=9, max_seconds=max_seconds, clock=self.clock)
        self.listener = Listener()
        self.hub = EventHub()
        self.written: list[tuple[float, list[bytes]]] = []
        self.room = asyncio.Event()
        self.room.set()
        self.observed: list[float] = []
        self.write_timeout = write_timeout
        self.viewer: Viewer | None = None

    async def write(self, events: Sequence[Event]) -> int:
        await self.room.wait()
        self.written.append((self.clock.monotonic(), [event.body() for event in events]))
        return 10 * len(events) or 1

    async def run(self) -> Viewer:
        with (
            self.hub.listening(self.listener),
            self.viewers.admitted(kind="events", camera=None, client="-") as self.viewer,
        ):
            stream = EventStream(
                self.listener,
                self.viewer,
                write_timeout_seconds=self.write_timeout,
                observe_send=self.observed.append,
                clock=self.clock,
            )
            await stream.run(self.write)
            return self.viewer


@warped
async def test_events_are_sent_at_once_and_a_heartbeat_where_nothing_happens() -> None:
    session = _Session()
    task = asyncio.create_task(session.run())
    begun = session.clock.monotonic()
    await asyncio.sleep(0.25)
    session.hub.publish("camera", "gym", lambda: b"live")
    await asyncio.sleep(3)
    times = [round(at - begun, 3) for at, _ in session.written]
    assert times == [0.25, 1.25, 2.25, 3.25][: len(times)]
    assert [events for _, events in session.written][:2] == [[b"live"], []]
    assert session.viewer is not None
    assert (session.viewer.sent, session.viewer.skipped) == (1, 0)
    session.viewer.end(EndReason.STOP)
    session.listener.wake()
    assert (await task).ended is EndReason.STOP


@warped
async def test_however_many_listen_it_is_looked_only_now_and_then_whether_something_has_changed() -> None:
    hub, looked = EventHub(), []
    loop = asyncio.get_running_loop()
    hub.look_with(lambda: looked.append(loop.time()))
    for _ in range(40):
        for _ in range(10):
            hub.look()
        await asyncio.sleep(0.1)
    assert 7 <= len(looked) <= 8


@warped
async def test_a_listener_hears_the_others_when_one_event_cannot_be_made() -> None:
    def broken() -> bytes:
        raise ValueError("cannot be shaped")

    session = _Session()
    task = asyncio.create_task(session.run())
    await asyncio.sleep(0)
    session.hub.publish("prediction", "gym", broken)
    session.hub.publish("camera", "gym", lambda: b"live")
    await asyncio.sleep(0.1)
    assert [events for _, events in session.written] == [[b"live"]]
    session.hub.publish("prediction", "gym", broken)
    await asyncio.sleep(0.1)
    assert [events for _, events in session.written] == [[b"live"], []]
    task.cancel()


@warped
async def test_one_who_reads_slowly_gets_the_newest_and_what_was_skipped_is_counted() -> None:
    session = _Session()
    task = asyncio.create_task(session.run())
    session.room.clear()
    await asyncio.sleep(0)
    for number in range(40):
        session.hub.publish("prediction", "gym", lambda n=number: b"%d" % n)  # type: ignore[misc]
        await asyncio.sleep(0.1)
    session.room.set()
    await soon(lambda: session.written)
    await asyncio.sleep(0.5)
    assert [events for _, events in session.written] == [[b"0"], [b"39"]]
    assert session.viewer is not None
    assert (session.viewer.sent, session.viewer.skipped) == (2, 38)
    assert session.observed[0] == pytest.approx(4.0, abs=0.01)
    task.cancel()


@warped
async def test_one_who_does_not_read_is_ended_at_the_deadline() -> None:
    session = _Session(write_timeout=5)
    session.room.clear()
    begun = session.clock.monotonic()
    viewer = await session.run()
    assert viewer.ended is EndReason.STALLED
    assert session.clock.monotonic() - begun == pytest.approx(5 + HEARTBEAT_SECONDS, abs=0.01)


@warped
async def test_a_session_of_events_ends_at_its_limit_too() -> None:
    session = _Session(max_seconds=10)
    begun = session.clock.monotonic()
    viewer = await session.run()
    assert viewer.ended is EndReason.LIMIT
    assert 10 <= session.clock.monotonic() - begun <= 11.01


@warped
async def test_the_end_of_a_session_does_not_wait_for_an_event() -> None:
    session = _Session()
    task = asyncio.create_task(session.run())
    await asyncio.sleep(0.3)
    begun = session.clock.monotonic()
    assert session.viewer is not None
    session.viewer.end(EndReason.ADMIN)
    session.listener.wake()
    await task
    assert session.clock.monotonic() == begun
