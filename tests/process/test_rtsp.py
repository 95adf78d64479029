"""RTSP from end to end: whatever happens to the camera or the network, no old picture is shown, and it comes back."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.clips import number_of
from tests.process.daemon import Daemon, until
from tests.process.watching import Answer, Watcher, ids_that_went_back, ids_used_twice
from tests.rtsp_server import Behaviour, RtspServer

pytestmark = pytest.mark.process

PUBLISHED_SECONDS = 1.0
"""No picture may be older than this when it is published."""

STALE_SECONDS = 1.0
STALL_SECONDS = 1.5
OUTAGE_SECONDS = 2.0
BACK_SECONDS = 12.0
"""Generous: a camera is opened in half a second, caught up with in another half, and tried twice a second."""

CREDENTIALS = ("admin", "p@ss/w?rd#1%")
FPS = 30


@dataclass
class Camera:
    """One camera of the test: what it is at first, what happens to it, and what is told of it."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    break_it: Callable[["Camera"], None] = lambda _: None
    mend_it: Callable[["Camera"], None] = lambda _: None
    states: tuple[str, ...] = ()
    """States that may be told during the outage; none: there is no outage."""
    reason: str = ""
    """What must be told at some moment of the outage."""
    opens: bool = True
    """Whether it can be opened from the start."""
    stall_seconds: float = STALL_SECONDS
    read_seconds: float = 1.0
    servers: list[RtspServer] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    broken_at: float = 0.0
    mended_at: float = 0.0
    last: dict[str, Any] = field(default_factory=dict)
    """What the API said at the end."""
    loads: int = 0

    @property
    def server(self) -> RtspServer:
        """The server that runs now."""
        return self.servers[-1]

    def start(self, port: int = 0) -> None:
        self.servers.append(RtspServer(fps=FPS, port=port, behaviour=self.behaviour).start())

    def age(self, answer: Answer) -> float:
        """How old the picture was when healthd published it, in seconds."""
        number = number_of(answer.picture)
        assert number is not None, "a smeared picture"
        published_at = answer.received - (answer.said_age or 0.0)
        ages = []
        for server in self.servers:
            with contextlib.suppress(ValueError):  # this one never made that picture
                ages.append(server.age(number, published_at))
        return min(ages)


CAMERAS = {
    "steady": Camera(),
    "password": Camera(Behaviour(credentials=CREDENTIALS)),
    "digest": Camera(Behaviour(credentials=CREDENTIALS, digest=True, backlog_seconds=3)),
    "stalled": Camera(
        break_it=lambda camera: camera.server.stall(),
        mend_it=lambda camera: camera.server.stall(stalled=False),
        states=("stalled", "reconnecting"),
        reason="no image",
    ),
    "held": Camera(
        break_it=lambda camera: camera.server.hold(),
        mend_it=lambda camera: camera.server.hold(held=False),
        states=("stalled", "reconnecting"),
        reason="no image",
        stall_seconds=10,  # it goes on in the same session, with what piled up meanwhile
        read_seconds=10,
    ),
    "killed": Camera(
        break_it=lambda camera: camera.server.stop(),
        mend_it=lambda camera: camera.start(camera.server.port),
        states=("reconnecting",),
        reason="connection refused",
    ),
    "dropped": Camera(
        break_it=lambda camera: camera.server.drop_clients(),
        states=("reconnecting",),
    ),
    "black-hole": Camera(
        Behaviour(black_hole=True),
        mend_it=lambda camera: setattr(camera.behaviour, "black_hole", False),
        states=("starting", "reconnecting"),
        reason="does not answer",
        opens=False,
    ),
}


def settings(folder: Any) -> dict[str, Any]:
    cameras = {
        name: {
            "plugin": "faulty-capture",
            "url": camera.server.url,
            "stall_timeout_seconds": camera.stall_seconds,
            "stale_after_seconds": STALE_SECONDS,
            "open_timeout_seconds": 5,
            "reconnect_max_seconds": 0.5,
            "max_abandoned_workers": 16,
            "options": {
                "journal": str(folder / "journal"),
                "open_seconds": 4,
                "read_timeout_seconds": camera.read_seconds,
            },
        }
        for name, camera in CAMERAS.items()
    }
    return {"cameras": cameras}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Camera]:
    """Break all cameras at once, mend them after a while, and watch them all the time."""
    folder = tmp_path_factory.mktemp("rtsp")
    for camera in CAMERAS.values():
        camera.start()
    try:
        with Daemon(folder, settings(folder)) as daemon:
            _watch(daemon)
            journal = (folder / "journal").read_text(encoding="utf-8").split("\n")
            for name, camera in CAMERAS.items():
                camera.loads = journal.count(f"{name} loaded")
            assert daemon.stop()[0] == 0, daemon.story()
            assert daemon.left_behind() == []
    finally:
        for camera in CAMERAS.values():
            for server in camera.servers:
                server.stop()
    return CAMERAS


def _watch(daemon: Daemon) -> None:
    for name, camera in CAMERAS.items():
        if camera.opens:
            daemon.until_state(name, "live", seconds=60)
    with contextlib.ExitStack() as stack:
        watchers = {name: stack.enter_context(Watcher(daemon.port, name)) for name in CAMERAS}
        until(lambda: len(watchers["steady"].answers) > 10)
        begun = time.monotonic()
        for camera in CAMERAS.values():
            camera.broken_at = time.monotonic()
            camera.break_it(camera)
        until(lambda: time.monotonic() > begun + OUTAGE_SECONDS)
        until(lambda: daemon.camera("black-hole")["errors"], what=daemon.story)
        for camera in CAMERAS.values():
            camera.mended_at = time.monotonic()
            camera.mend_it(camera)
        for name in CAMERAS:
            daemon.until_state(name, "live", seconds=30)
        mended = {name: len(watcher.answers) for name, watcher in watchers.items()}
        until(lambda: all(len(watcher.answers) > mended[name] + 20 for name, watcher in watchers.items()))
        until(lambda: time.monotonic() > begun + OUTAGE_SECONDS + 3)
        for name, camera in CAMERAS.items():
            camera.last = daemon.camera(name)
    for name, watcher in watchers.items():
        assert watcher.failure is None
        CAMERAS[name].answers = watcher.answers


WITH_OUTAGE = [name for name, camera in CAMERAS.items() if camera.states]


@pytest.mark.parametrize("name", CAMERAS)
def test_no_picture_was_older_than_a_second_when_it_was_published(name: str, watched: dict[str, Camera]) -> None:
    camera = watched[name]
    pictures = [answer for answer in camera.answers if answer.status == 200]
    assert len(pictures) > 10
    assert max(camera.age(answer) for answer in pictures) <= PUBLISHED_SECONDS
    assert max(answer.said_age or 0.0 for answer in pictures) <= STALE_SECONDS


@pytest.mark.parametrize("name", WITH_OUTAGE)
def test_an_outage_is_a_404_with_state_and_reason_and_ends_by_itself(name: str, watched: dict[str, Camera]) -> None:
    camera = watched[name]
    dark = [answer for answer in camera.answers if answer.status != 200]
    assert dark
    assert {answer.status for answer in dark} == {404}
    assert {answer.state for answer in dark} <= set(camera.states)
    reasons = {answer.reason for answer in dark if answer.reason}
    assert any(camera.reason in reason for reason in reasons), reasons
    back = [answer for answer in camera.answers if answer.sent > camera.mended_at and answer.status == 200]
    assert back[0].received - camera.mended_at < BACK_SECONDS
    assert camera.last["reason"] is None


@pytest.mark.parametrize("name", sorted(set(WITH_OUTAGE) - {"dropped"}))
def test_in_the_middle_of_an_outage_there_is_no_picture_at_all(name: str, watched: dict[str, Camera]) -> None:
    camera = watched[name]
    dark = camera.broken_at + STALE_SECONDS + 0.5
    meanwhile = [answer for answer in camera.answers if dark < answer.sent and answer.received < camera.mended_at]
    assert len(meanwhile) >= 3
    assert {answer.status for answer in meanwhile} == {404}


@pytest.mark.parametrize("name", sorted(set(CAMERAS) - set(WITH_OUTAGE)))
def test_the_cameras_beside_them_notice_nothing(name: str, watched: dict[str, Camera]) -> None:
    assert {answer.status for answer in watched[name].answers} == {200}
    assert watched[name].last["reconnects"] == 0, watched[name].last["errors"]
    assert watched[name].last["errors"] == []


@pytest.mark.parametrize("name", CAMERAS)
def test_the_model_is_loaded_once_whatever_happens_to_the_camera(name: str, watched: dict[str, Camera]) -> None:
    assert watched[name].loads == 1


@pytest.mark.parametrize("name", CAMERAS)
def test_frame_ids_never_go_back_and_never_name_two_pictures(name: str, watched: dict[str, Camera]) -> None:
    assert ids_that_went_back(watched[name].answers) == []
    assert ids_used_twice(watched[name].answers, number_of) == []


def test_a_backlog_is_dropped_under_its_own_name(watched: dict[str, Camera]) -> None:
    for name in ("held", "digest"):
        assert watched[name].last["frames"]["dropped"]["backlog"] > 5
    assert watched["held"].last["reconnects"] == 0, watched["held"].last["errors"]
