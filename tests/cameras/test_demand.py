"""Pixels that nobody wants are never made; who asks gets a fresh picture all the same, and all accounts close."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from healthd.cameras.attention import Attention
from healthd.cameras.capture import CaptureOptions, open_camera
from healthd.cameras.demand import Demand
from healthd.cameras.pull import Puller
from healthd.cameras.records import NotLive
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import Read, TwoStepRead
from healthd.clock import Clock
from healthd.errors import CameraError
from healthd.frames import CapturedImage, Frame, Image
from healthd.models.model import Prediction
from healthd.redact import SourceUrl
from healthd.settings import CameraSettings
from tests.api.house import open_house
from tests.clips import COUNTER_MP4, number_of
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, picture, prediction

FPS = 60.0


class TwoSteps(TwoStepRead):
    """A camera that counts what was grabbed and what was retrieved; its pictures tell their number."""

    def __init__(self, *, frozen: bool = False, fps: float = FPS) -> None:
        self.grabbed = self.retrieved = 0
        self.retrieved_at = 0.0
        self._interval = 1 / fps
        self.frozen = frozen
        self.stopped = False
        self.backlog = 0
        self._next_at = time.monotonic()

    def grab(self) -> bool:
        self._next_at = max(self._next_at + self._interval, time.monotonic() - self._interval)
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        if self.stopped:
            raise CameraError("switched off")
        self.grabbed += 1
        self.backlog -= 1
        return self.backlog < 0

    def retrieve(self) -> CapturedImage:
        self.retrieved += 1
        self.retrieved_at = time.monotonic()
        return CapturedImage(picture(0 if self.frozen else self.grabbed))


class TwoStepSource(FakeSource):
    """A camera that is read in two steps, in each session anew."""

    def __init__(self, name: str = "gym", *, predict: Callable[[Image], object] | None = None, **steps: Any) -> None:
        super().__init__(name, predict=predict)
        self._steps_options = steps
        self.steps = TwoSteps(**steps)

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self.opened += 1
        self.steps = TwoSteps(**self._steps_options)
        yield self.steps


def closes(runner: CameraRunner) -> bool:
    counts = runner.counts
    total = counts.predicted + sum(counts.dropped.values()) + counts.in_hand
    return counts.read == total and 0 <= counts.in_hand <= 2


@asynccontextmanager
async def running(source: TwoStepSource, **settings: object) -> AsyncIterator[CameraRunner]:
    runner = make_runner(source, **{"stall_timeout_seconds": 5, "predict_timeout_seconds": 5, **settings})
    task = asyncio.create_task(runner.run())
    try:
        await eventually(lambda: runner.health.state == "live")
        yield runner
        assert closes(runner)
    finally:
        runner.request_stop()
        await asyncio.wait([task], timeout=5)
        assert closes(runner)


async def grabs(source: TwoStepSource, number: int) -> tuple[int, int]:
    """Wait for so many grabs; return how many there were and how many were retrieved meanwhile."""
    steps = source.steps
    grabbed, retrieved = steps.grabbed, steps.retrieved
    await eventually(lambda: steps.grabbed >= grabbed + number, seconds=20)
    return steps.grabbed - grabbed, steps.retrieved - retrieved


async def test_of_a_camera_that_nobody_looks_at_only_a_glance_per_second_is_made() -> None:
    source = TwoStepSource()
    async with running(source) as runner:
        begun = time.monotonic()
        grabbed, retrieved = await grabs(source, 120)
        assert retrieved <= 2 + (time.monotonic() - begun)
        assert retrieved >= 1, "is it frozen?"
        assert runner.counts.dropped["unseen"] >= grabbed - retrieved - 2
        assert closes(runner)
        assert runner.health.state == "live"
        assert runner.fps == pytest.approx(FPS, rel=0.25)
        assert runner.newest_frame_id >= grabbed
        assert runner.frame_age_seconds is not None
        assert runner.frame_age_seconds < 0.5


async def test_the_first_who_asks_gets_a_picture_taken_after_he_asked_and_the_next_ones_wait_for_nothing() -> None:
    source = TwoStepSource()
    async with running(source) as runner:
        for _ in range(3):
            await eventually(lambda: not runner.shown.has_newest)
            with pytest.raises(NotLive, match="nobody has looked"):
                runner.picture(overlay=False)
            number, asked_at = source.steps.grabbed, time.monotonic()
            await runner.wait_fresh(overlay=False)
            frame = runner.picture(overlay=False).frame
            assert time.monotonic() - asked_at < 0.5
            assert frame.captured_monotonic >= asked_at - 1 / FPS
            assert int(frame.image[0, 0, 0]) >= number % 251
            grabbed, retrieved = await grabs(source, 30)
            assert retrieved >= grabbed - 1
            assert runner.shown.has_newest
            runner.waits._demand._asked_at = float("-inf")  # he has left


async def test_who_waits_for_a_newer_frame_gets_it_at_once() -> None:
    source = TwoStepSource()
    async with running(source) as runner:
        await eventually(lambda: not runner.shown.has_newest)
        newest, begun = runner.newest_frame_id, time.monotonic()
        assert await runner.wait_newer(newest, overlay=False, timeout=5)
        assert runner.picture(overlay=False).frame.frame_id > newest
        assert time.monotonic() - begun < 0.5


async def test_who_asks_of_a_camera_that_stops_just_then_gets_no_old_picture() -> None:
    source = TwoStepSource()
    async with running(source, stall_timeout_seconds=0.3, stale_after_seconds=60) as runner:
        await eventually(lambda: not runner.shown.has_newest)
        newest, source.steps.stopped = runner.newest_frame_id, True
        await runner.wait_fresh(overlay=False)
        try:
            shown = runner.picture(overlay=False)
        except NotLive:
            return
        assert shown.frame.frame_id > newest, "of the next session"


async def test_nobody_waits_for_a_camera_that_does_not_open() -> None:
    source, opened = TwoStepSource(), threading.Event()
    source.camera = lambda: opened.wait(1) and None  # type: ignore[method-assign,assignment,return-value]
    runner = make_runner(source, open_timeout_seconds=5)
    task = asyncio.create_task(runner.run())
    begun = time.monotonic()
    await runner.wait_fresh(overlay=False)
    assert time.monotonic() - begun < 0.2
    assert runner.health.state == "starting"
    opened.set()
    runner.request_stop()
    await asyncio.wait([task], timeout=5)


async def test_a_model_gets_as_many_pictures_as_it_wants_each_as_fresh_as_can_be() -> None:
    source = TwoStepSource(predict=prediction)
    ages: list[float] = []

    def predict(image: Image) -> Prediction:
        ages.append(float((source.steps.grabbed - int(image[0, 0, 0])) % 251))
        return prediction(image)

    source._predict = predict
    async with running(source, predict_fps=10) as runner:
        await eventually(lambda: runner.counts.predicted > 3)
        predicted, begun = runner.counts.predicted, time.monotonic()
        grabbed, retrieved = await grabs(source, 180)
        predictions, seconds = runner.counts.predicted - predicted, time.monotonic() - begun
        assert predictions == pytest.approx(10 * seconds, rel=0.15)
        assert retrieved <= 1.5 * predictions + 2 + seconds
        assert runner.counts.dropped["unseen"] >= grabbed / 2
        assert sorted(ages)[len(ages) * 9 // 10] <= 2, "never one that has waited while newer ones were passed over"


async def test_a_picture_does_not_wait_for_the_time_of_its_prediction() -> None:
    source = TwoStepSource(fps=10.0)
    ages: list[float] = []

    def predict(image: Image) -> Prediction:
        ages.append(time.monotonic() - source.steps.retrieved_at)
        return prediction(image)

    source._predict = predict
    async with running(source, predict_fps=4) as runner:
        await eventually(lambda: runner.counts.predicted > 1)  # from here on the interval is known
        begun, first = time.monotonic(), len(ages)
        await eventually(lambda: len(ages) >= first + 8)
        assert 8 / (time.monotonic() - begun) == pytest.approx(4, rel=0.15)
        assert sorted(ages[first:])[5] < 0.02, "the pictures come up to 50 ms before their time"


async def test_a_model_without_a_limit_gets_them_all() -> None:
    source = TwoStepSource(predict=prediction)
    async with running(source) as runner:
        await eventually(lambda: runner.counts.predicted > 3)
        grabbed, retrieved = await grabs(source, 60)
        assert retrieved >= grabbed - 1


async def test_a_changed_rate_of_predictions_counts_at_once() -> None:
    source = TwoStepSource(predict=prediction)
    async with running(source, predict_fps=0.1) as runner:
        await eventually(lambda: runner.counts.predicted == 1)
        runner.tune(tuning=type(runner.tuning)(30.0, 75), thresholds={})
        await eventually(lambda: runner.counts.predicted > 10, seconds=3)


async def test_a_camera_that_sleeps_is_looked_at_for_motion_only_as_often_as_it_must() -> None:
    source = TwoStepSource(predict=prediction, frozen=True)
    async with running(
        source, predict_when="motion", motion_hold_seconds=0.1, motion_max_interval_seconds=0, frozen_after_seconds=0
    ) as runner:
        await eventually(lambda: runner.attention.idle)
        grabbed, retrieved = await grabs(source, 120)
        assert retrieved < 0.6 * grabbed
        assert retrieved > 0.2 * grabbed, "who comes in is seen within a frame or two of an ordinary camera"
        assert closes(runner)


async def test_a_frozen_camera_is_found_out_though_nobody_looks_and_a_short_limit_is_kept() -> None:
    async with running(TwoStepSource(frozen=True), frozen_after_seconds=0.5, stale_after_seconds=0.2) as runner:
        await eventually(lambda: runner.health.state == "frozen")


async def test_a_picture_may_be_older_than_stale_as_long_as_frames_come() -> None:
    source = TwoStepSource()
    async with running(source, stale_after_seconds=0.5, frozen_after_seconds=0) as runner:
        for _ in range(20):
            await grabs(source, 3)
            assert runner.health.state == "live"


async def test_backlog_is_neither_unseen_nor_shown() -> None:
    source = TwoStepSource()
    async with running(source) as runner:
        ids = runner.newest_frame_id
        source.steps.backlog = 30
        await eventually(lambda: runner.counts.dropped["backlog"] >= 25)
        await grabs(source, 30)
        assert runner.newest_frame_id - ids < source.steps.grabbed
        assert closes(runner)


class Ticking(TwoStepRead):
    """A camera whose every picture comes when the test's clock says so."""

    def __init__(self, fps: float) -> None:
        self.now = 100.0
        self.seen: list[bool] = []
        self._interval = 1 / fps

    def grab(self) -> bool:
        self.now += self._interval
        self.seen.append(False)
        return True

    def retrieve(self) -> Image:
        self.seen[-1] = True
        return picture(7)


@pytest.mark.parametrize(("fps", "unseen_at_most"), [(15.0, 1), (25.0, 1), (30.0, 1), (60.0, 2)])
def test_a_model_that_rests_misses_no_two_pictures_of_an_ordinary_camera(fps: float, unseen_at_most: int) -> None:
    camera = Ticking(fps)
    clock = Clock(monotonic=lambda: camera.now)
    settings = CameraSettings(plugin="fake", predict_when="motion", frozen_after_seconds=0)
    attention = Attention(settings, recording=False, clock=clock)
    attention.saw(Frame("gym", 1, picture(), clock.now(), camera.now), 0.0)
    demand = Demand(clock, frozen_after_seconds=0)
    demand.predict_from, demand.glanced_at = 0.0, 1e9
    puller = Puller(camera, demand=demand, attention=attention, recording=False, clock=clock)
    motions = [puller.pull().motion for _ in range(200)]
    assert [motion is not None for motion in motions] == camera.seen
    pattern = "".join("x" if seen else "." for seen in camera.seen[20:])
    assert max(len(gap) for gap in pattern.split("x")) == unseen_at_most
    assert pattern.count("x") <= 0.55 * len(pattern)


def test_a_demand_is_for_the_frame_nearest_to_when_the_model_wants_one() -> None:
    demand = Demand(Clock(monotonic=lambda: 50.0), frozen_after_seconds=30)
    assert not demand.for_model(100.0, 0.1)
    demand.predict_from = 100.0
    assert [demand.for_model(at, 0.1) for at in (99.94, 99.96, 100.0, 105.0)] == [False, True, True, True]


def test_a_slow_camera_is_always_delivered_and_any_camera_once_a_second() -> None:
    demand = Demand(Clock(monotonic=lambda: 50.0), frozen_after_seconds=30)
    demand.glanced_at = 50.0
    assert demand.for_viewers(50.2, 0.6)
    assert not demand.for_viewers(50.9, 0.1)
    assert demand.for_viewers(51.0, 0.1)
    demand.asked()
    assert demand.for_viewers(50.9, 0.1)


def test_the_camera_of_opencv_is_read_in_two_steps_or_in_one() -> None:
    url = SourceUrl(str(COUNTER_MP4))
    with open_camera(url, CaptureOptions()) as read:
        assert isinstance(read, TwoStepRead)
        for _ in range(5):
            assert read.grab()
        captured = read.retrieve()
        assert isinstance(captured, CapturedImage)
        assert number_of(captured.image) == 4
        assert captured.position_seconds == pytest.approx(4 / 25)
        image = read()
        assert isinstance(image, CapturedImage)
        assert number_of(image.image) == 5


async def test_a_snapshot_of_a_camera_that_nobody_looked_at_is_fresh() -> None:
    source = TwoStepSource()
    async with open_house({"gym": source}) as house:
        runner = house.runner()
        await eventually(lambda: runner.health.state == "live" and not runner.shown.has_newest)
        answer = await house.get("/api/v1/cameras/gym/snapshot")
        assert answer.status_code == 200
        assert float(answer.headers["x-frame-age-ms"]) < 200
        newest = int(answer.headers["x-frame-id"])
        later = await house.get(f"/api/v1/cameras/gym/snapshot?after={newest}&wait=3000")
        assert int(later.headers["x-frame-id"]) > newest
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert camera["frame_age_ms"] < 500
        assert camera["frames"]["dropped"]["unseen"] > 0


async def test_a_stream_begins_with_a_fresh_frame_and_not_with_a_sign() -> None:
    source = TwoStepSource()
    async with open_house({"gym": source}) as house:
        runner = house.runner()
        for _ in range(2):
            await eventually(lambda: runner.health.state == "live" and not runner.shown.has_newest)
            newest = runner.newest_frame_id
            async with house.client.stream("GET", "/api/v1/cameras/gym/stream") as answer:
                head = b""
                async for piece in answer.aiter_raw():
                    head += piece
                    if b"\xff\xd8" in head:
                        break
            found = re.search(rb"(?i)x-frame-id: (\d+)", head)
            assert found, "a sign has no frame id"
            assert int(found[1]) >= newest
            runner.waits._demand._asked_at = float("-inf")  # he has left
