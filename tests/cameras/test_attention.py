"""Nothing moves, nothing is predicted; what comes in is; and nobody is shown an old prediction as a new one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import pytest

from healthd.cameras.attention import WATCHED_INTERVAL_SECONDS, Attention
from healthd.cameras.runner import CameraRunner
from healthd.clock import Clock
from healthd.frames import CapturedImage, Frame, Image
from healthd.models.model import Detection, Prediction
from healthd.settings import CameraSettings
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, prediction

IMAGE = np.zeros((72, 128, 3), np.uint8)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def person(left: float = 10.0, *, confidence: float = 0.9, class_id: int = 0) -> Detection:
    return Detection((left, 10.0, left + 20, 60.0), confidence, class_id, "person")


class Scene:
    """A camera's attention, with a clock that the test moves."""

    def __init__(self, *, recording: bool = False, **settings: object) -> None:
        self.now = 100.0
        values = {"plugin": "fake", "predict_when": "motion", "motion_detections_hold_seconds": 0, **settings}
        self.settings = CameraSettings.model_validate(values)
        clock = Clock(monotonic=lambda: self.now, now=lambda: EPOCH)
        self.attention = Attention(self.settings, recording=recording, clock=clock)

    def frame(self, position: float | None = None) -> Frame:
        return Frame("gym", 1, IMAGE, EPOCH, self.now, position)

    def see(self, motion: float | None, *, after: float = 0.1, position: float | None = None) -> bool:
        """Pass time, see a frame; return whether it is to be predicted."""
        self.now += after
        frame = self.frame(position)
        self.attention.saw(frame, motion)
        return self.attention.wants(frame)

    def predict(self, *results: Detection) -> None:
        self.attention.predicted(self.frame(), Prediction("fake", 1.0, results, {}))

    def fall_asleep(self) -> None:
        self.see(0.0)
        self.predict()
        assert not self.see(0.0, after=self.settings.motion_hold_seconds + 0.1)
        self.predict()
        assert self.attention.idle


def test_always_is_always() -> None:
    scene = Scene(predict_when="always")
    assert scene.attention.detector() is None
    assert all(scene.see(None) for _ in range(100))
    assert not scene.attention.idle


def test_motion_wakes_at_once_and_holds_for_a_while() -> None:
    scene = Scene()
    scene.fall_asleep()
    assert scene.see(scene.settings.motion_area)
    assert not scene.attention.idle
    assert scene.see(0.0, after=2.9)
    assert not scene.see(0.0, after=0.2)
    assert scene.attention.idle


def test_less_motion_than_the_area_is_none_and_not_looking_is_none_either() -> None:
    scene = Scene(motion_area=0.01)
    scene.fall_asleep()
    assert not scene.see(0.0099)
    assert not scene.see(None)


def test_where_nothing_moves_a_prediction_is_made_after_the_longest_interval() -> None:
    scene = Scene(motion_max_interval_seconds=10)
    scene.fall_asleep()
    assert not scene.see(0.0, after=9.9)
    assert scene.see(0.0, after=0.2)
    assert scene.see(0.0), "until it is made"
    scene.predict()
    assert not scene.see(0.0)
    assert scene.attention.idle


def test_an_interval_of_zero_is_none() -> None:
    scene = Scene(motion_max_interval_seconds=0)
    scene.fall_asleep()
    assert not any(scene.see(0.0, after=1000) for _ in range(50))


@pytest.mark.parametrize(
    "change",
    [(person(),), (person(16),), (person(class_id=1),), ()],
    ids=["came", "moved", "became another", "left"],
)
def test_detections_that_change_keep_it_awake(change: tuple[Detection, ...]) -> None:
    scene = Scene()
    scene.see(0.0)
    if change != (person(),):
        scene.predict(person())
        scene.see(0.0, after=4)
    assert scene.attention.idle
    scene.predict(*change)
    assert scene.see(0.0, after=2.9)
    assert not scene.see(0.0, after=0.2)


def test_detections_that_stand_still_or_flicker_do_not_keep_it_awake() -> None:
    scene = Scene()
    scene.see(0.0)
    scene.predict(person(), person(80, confidence=0.3))
    scene.see(0.0, after=2)
    scene.predict(person(11.5, confidence=0.45))
    scene.see(0.0, after=2)
    scene.predict(person(9), person(50, confidence=0.49))
    assert scene.attention.idle


def test_who_stands_still_keeps_it_awake_for_a_while_and_an_empty_room_does_not() -> None:
    scene = Scene(motion_detections_hold_seconds=30)
    scene.see(0.5)
    for _ in range(59):
        scene.predict(person())
        assert scene.see(0.0, after=0.5)
    assert not scene.see(0.0, after=0.6), "since the last motion, not since the last look"
    assert scene.see(0.5)
    scene.predict()
    assert scene.see(0.0, after=2.9)
    assert not scene.see(0.0, after=0.2)


def test_always_compares_no_detections_and_many_are_compared_in_no_time() -> None:
    crowd = tuple(person(number) for number in range(1000))
    always, motion = Scene(predict_when="always"), Scene()
    always.attention.predicted(always.frame(), None)  # type: ignore[arg-type]  # it is not even looked at
    motion.predict(*crowd)
    begun = time.thread_time()
    motion.predict(*crowd)
    assert time.thread_time() - begun < 0.2
    assert motion.attention.idle is False


def test_who_moves_slowly_is_noticed_in_the_end() -> None:
    scene = Scene(motion_max_interval_seconds=1)
    scene.see(0.0)
    scene.predict(person())
    scene.see(0.0, after=4)
    awake = []
    for step in range(4):
        scene.predict(person(10 + 1.5 * step))
        awake.append(scene.see(0.0, after=0.1))
    assert awake == [False, False, True, True]


def test_while_somebody_looks_an_idle_scene_is_predicted_once_a_second() -> None:
    scene = Scene(motion_max_interval_seconds=60)
    scene.fall_asleep()
    scene.attention.asked()
    assert not scene.see(0.0, after=WATCHED_INTERVAL_SECONDS - 0.1)
    assert scene.see(0.0, after=0.2)
    scene.predict()
    assert not scene.see(0.0, after=5), "nobody asks any more"


def test_a_model_that_was_loaded_anew_looks_once() -> None:
    scene = Scene()
    scene.fall_asleep()
    scene.attention.begin()
    assert scene.see(0.0)


def test_a_recording_has_its_own_time_and_may_begin_again() -> None:
    scene = Scene(recording=True)
    assert scene.see(1.0, after=0.001, position=0.0)
    scene.attention.predicted(scene.frame(0.0), Prediction("fake", 1.0, (), {}))
    assert scene.see(0.0, after=0.001, position=3.0)
    assert not scene.see(0.0, after=0.001, position=3.1)
    assert scene.see(0.0, after=0.001, position=10.1)
    assert scene.see(0.0, after=0.001, position=0.0), "the next loop"


# -- a whole camera ----------------------------------------------------------------------------------------------------


class Room(FakeSource):
    """A camera at 60 fps on a noisy room, in which a test lets somebody walk about."""

    def __init__(self, **options: object) -> None:
        super().__init__(read=self.next_picture, predict=self.predicted, **options)  # type: ignore[arg-type]
        rng = np.random.default_rng(3)
        self._wall = rng.uniform(70, 170, (90, 160, 1)).repeat(3, axis=2)
        self._grains = [rng.normal(0, 3, self._wall.shape) for _ in range(7)]
        self.walking = False
        self.people = 0
        self.reads = 0
        self.first_with_somebody: int | None = None
        self.seen_people: list[int] = []
        """The number of each picture with somebody in it that the model saw."""

    def next_picture(self) -> CapturedImage:
        time.sleep(1 / 60)
        self.reads += 1
        picture = self._wall + self._grains[self.reads % 7]
        if self.walking:
            self.first_with_somebody = self.first_with_somebody or self.reads
            left = self.reads * 3 % 140
            picture[20:80, left : left + 16] *= 0.5
        return CapturedImage(np.clip(picture, 0, 255).astype(np.uint8), self.reads / 1000)

    def predicted(self, image: Image) -> Prediction:
        time.sleep(0.005)
        if self.walking:
            self.seen_people.append(self.reads)
        return prediction(image)


@asynccontextmanager
async def watching(source: Room, **settings: object) -> AsyncIterator[CameraRunner]:
    values = {"predict_when": "motion", "motion_hold_seconds": 0.3, "motion_max_interval_seconds": 0, **settings}
    runner = make_runner(
        source, stall_timeout_seconds=5, predict_timeout_seconds=5, **{"frozen_after_seconds": 0, **values}
    )
    task = asyncio.create_task(runner.run())
    try:
        await eventually(lambda: runner.counts.predicted > 0)
        yield runner
    finally:
        assert_closed(runner)
        runner.request_stop()
        await asyncio.wait([task], timeout=5)
        assert_closed(runner)


def assert_closed(runner: CameraRunner) -> None:
    counts = runner.counts
    assert counts.read == counts.predicted + sum(counts.dropped.values()) + counts.in_hand
    assert 0 <= counts.in_hand <= 2


async def test_an_idle_room_is_not_predicted_and_every_frame_is_accounted_for() -> None:
    async with watching(Room()) as runner:
        await eventually(lambda: runner.attention.idle)
        predicted, still = runner.counts.predicted, runner.counts.dropped["still"]
        await eventually(lambda: runner.counts.dropped["still"] >= still + 60)
        assert runner.counts.predicted == predicted
        assert_closed(runner)
        assert runner.health.state == "live"
        assert runner.model_health.state == "ready"
        assert runner.picture(overlay=False).frame.frame_id >= runner.newest_frame_id - 1


async def test_who_comes_in_is_predicted_within_two_frames_of_an_ordinary_camera() -> None:
    source = Room()
    async with watching(source) as runner:
        await eventually(lambda: runner.attention.idle)
        source.walking = True
        await eventually(lambda: len(source.seen_people) > 10)
        assert source.first_with_somebody is not None
        late = source.seen_people[0] - source.first_with_somebody
        assert late <= 8, "of 60 per second: two frames of 15 per second"
        predicted = runner.counts.predicted
        await eventually(lambda: runner.counts.predicted > predicted + 20)
        source.walking = False
        await eventually(lambda: runner.attention.idle, seconds=15)


async def test_the_longest_interval_is_kept() -> None:
    async with watching(Room(), motion_max_interval_seconds=0.2) as runner:
        await eventually(lambda: runner.attention.idle)
        predicted, begun = runner.counts.predicted, time.monotonic()
        await eventually(lambda: runner.counts.predicted >= predicted + 5)
        assert 0.8 <= time.monotonic() - begun < 2.5
        assert runner.attention.idle


async def test_who_asks_for_a_prediction_of_an_idle_room_gets_a_fresh_one() -> None:
    async with watching(Room(), stale_after_seconds=0.5) as runner:
        await eventually(lambda: runner.attention.idle)
        await eventually(lambda: runner.shown.may_be_predicted_anew)
        asked_at = time.monotonic()
        await runner.wait_fresh(overlay=True)
        predicted = runner.predicted_frame()
        assert predicted.frame.captured_monotonic >= asked_at - 0.1
        assert time.monotonic() - asked_at < 1.5
        shown = runner.picture(overlay=True)
        assert (shown.frame, shown.prediction) == (predicted.frame, predicted.prediction)
        assert runner.attention.idle, "the scene is as still as it was"


async def test_a_model_that_failed_and_a_camera_that_is_lost_are_not_said_to_rest() -> None:
    source = Room()
    async with watching(source) as runner:
        await eventually(lambda: runner.waits.model_rests)
        runner._predictor.set_health("retrying", "broken")  # type: ignore[union-attr]
        assert not runner.waits.model_rests
        runner._predictor.set_health("ready")  # type: ignore[union-attr]
        assert runner.waits.model_rests
        runner.pause()
        assert not runner.waits.model_rests


async def test_who_asks_just_when_somebody_has_come_in_waits_for_the_picture_with_him() -> None:
    source = Room()
    async with watching(source, stale_after_seconds=60) as runner:
        await eventually(lambda: runner.attention.idle and runner.shown.may_be_predicted_anew)
        predict, waits = source.predicted, runner.waits  # and the model is slow from now on
        source._predict = lambda image: (time.sleep(0.3), predict(image))[1]  # type: ignore[func-returns-value]
        old = runner.predicted_frame().frame.frame_id
        source.walking = True
        await eventually(lambda: not runner.attention.idle)
        assert not waits.is_fresh(overlay=True)
        await runner.wait_fresh(overlay=True)
        assert runner.predicted_frame().frame.frame_id > old
        assert waits.is_fresh(overlay=True)


async def test_nobody_waits_for_a_model_that_cannot_answer() -> None:
    source = Room()
    async with watching(source) as runner:
        runner.shown.predicted = None
        await eventually(lambda: runner.attention.idle)
        runner._predictor.set_health("retrying", "broken")  # type: ignore[union-attr]
        begun = time.monotonic()
        await runner.wait_fresh(overlay=True)
        assert time.monotonic() - begun < 0.3


async def test_rubbish_from_a_plugin_is_no_motion_but_an_error() -> None:
    source = Room()
    async with watching(source) as runner:
        source.next_picture = source._read = lambda: "rubbish"  # type: ignore[method-assign,assignment]
        runner.restart()
        await eventually(lambda: runner.failures.errors)
        assert "not an image" in runner.failures.errors[-1].reason
