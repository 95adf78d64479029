"""A camera that crashes again and again is given up, visibly, and comes back by hand or by time; others are not."""

from collections.abc import Callable

import pytest

from healthd.cameras.intensity import Intensity, is_crash
from healthd.clock import Clock
from healthd.errors import BusyError, CameraError, EndOfStream, ModelError, ModelLost, SettingsError, StalledError
from healthd.frames import Image
from healthd.settings import CameraSettings
from healthd.worker import WorkerTimeout
from tests.cameras.test_runner import running
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, picture, prediction

SETTINGS = CameraSettings(plugin="fake", max_crashes=3, crash_window_seconds=60, crash_cooldown_seconds=100)
CRASH = RuntimeError("bug")


class MovedClock:
    """A clock that stands until a test moves it."""

    seconds = 1000.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.seconds)


class KilledError(ModelError):
    """As an isolated model whose process was killed."""

    crash = True


@pytest.mark.parametrize(
    ("error", "good_seconds", "crash"),
    [
        (RuntimeError("bug"), None, True),
        (RuntimeError("bug"), 3600, True),
        (CameraError("refused: off for the night"), None, False),
        (CameraError("lost"), 0.5, True),
        (EndOfStream("closed"), 0.5, True),
        (CameraError("lost"), 60, False),
        (CameraError("no image could be had for 4.5 s"), 4.5, False),
        (WorkerTimeout("no image within 5 s"), 0.1, False),
        (SettingsError("wrong"), 0.1, False),
        (BusyError("no room"), 0.1, False),
        (ModelError("failed"), 0.5, True),
        (KilledError("killed by SIGSEGV"), 3600, True),
        (ModelLost("a picture that was sent broke it"), 0.5, False),
        (StalledError("predictor stalled: no prediction within 1 s"), 0.5, False),
    ],
)
def test_a_crash_is_a_bug_or_an_end_soon_after_a_good_beginning(
    error: Exception, good_seconds: float | None, *, crash: bool
) -> None:
    assert is_crash(error, good_seconds=good_seconds, settings=SETTINGS) is crash


def test_with_a_short_stall_timeout_silence_is_still_no_crash() -> None:
    short = SETTINGS.model_copy(update={"stall_timeout_seconds": 1.0})
    assert not is_crash(CameraError("no image could be had for 0.8 s"), good_seconds=0.8, settings=short)


def test_so_many_crashes_within_the_window_give_a_task_up_and_the_cooldown_brings_it_back() -> None:
    clock = MovedClock()
    intensity = Intensity(clock.clock)

    def crash() -> bool:
        return intensity.crashed("reader", CRASH, good_seconds=None, settings=SETTINGS)

    assert [crash(), crash()] == [False, False]
    clock.seconds += 61
    assert [crash(), crash()] == [False, False], "those before the window do not count"
    assert crash()
    assert intensity.has_given_up("reader")
    assert not intensity.has_given_up("predictor")
    assert intensity.total == {"reader": 1, "predictor": 0}
    assert intensity.left("reader", SETTINGS) == 100
    assert intensity.left("predictor", SETTINGS) is None
    assert "crashed 3 times within 1 s (last: bug); it is tried again after 100 s" in intensity.reason(
        "reader", "bug", SETTINGS
    )
    clock.seconds += 100
    assert intensity.left("reader", SETTINGS) == 0
    intensity.forget("reader")
    assert not intensity.has_given_up("reader")
    assert not crash()


def test_a_maximum_of_zero_never_gives_up_and_a_cooldown_of_zero_never_comes_back() -> None:
    intensity = Intensity(Clock())
    never = SETTINGS.model_copy(update={"max_crashes": 0})
    assert not any(intensity.crashed("reader", CRASH, good_seconds=None, settings=never) for _ in range(50))
    for_good = SETTINGS.model_copy(update={"crash_cooldown_seconds": 0.0})
    assert [intensity.crashed("reader", CRASH, good_seconds=None, settings=for_good) for _ in range(3)][-1]
    assert intensity.left("reader", for_good) is None
    assert "it is tried again when somebody restarts" in intensity.reason("reader", "bug", for_good)


def flaky(frames: int = 1) -> tuple[Callable[[], Image], list[bool]]:
    """A read that delivers and then fails, for as long as the list says so."""
    broken, left = [True], [frames]

    def read() -> Image:
        if broken[0] and left[0] == 0:
            left[0] = frames
            raise CameraError("decoder died")
        left[0] -= 1
        return picture(left[0])

    return read, broken


async def test_a_camera_that_dies_after_each_first_frame_fails_visibly_and_a_restart_brings_it_back() -> None:
    read, broken = flaky()
    runner = make_runner(FakeSource(read=read), max_crashes=3, reconnect_max_seconds=0.02)
    async with running(runner):
        await eventually(lambda: runner.health.state == "failed", seconds=10)
        reason = runner.health.reason or ""
        assert "crashed 3 times" in reason
        assert "decoder died" in reason
        assert "tried again after 600 s" in reason
        assert runner.intensity.total["reader"] == 1
        broken[0] = False
        runner.restart()
        await eventually(lambda: runner.health.state == "live")


async def test_after_the_cooldown_it_is_tried_again_by_itself() -> None:
    read, broken = flaky()
    runner = make_runner(FakeSource(read=read), max_crashes=2, reconnect_max_seconds=0.02, crash_cooldown_seconds=0.2)
    async with running(runner):
        await eventually(lambda: runner.health.state == "failed", seconds=10)
        broken[0] = False
        await eventually(lambda: runner.health.state == "live")
        assert runner.intensity.total["reader"] == 1


async def test_one_that_was_given_up_for_good_is_tried_again_when_its_configuration_changes() -> None:
    read, broken = flaky()
    runner = make_runner(FakeSource(read=read), max_crashes=2, reconnect_max_seconds=0.02, crash_cooldown_seconds=0)
    async with running(runner):
        await eventually(lambda: runner.health.state == "failed", seconds=10)
        broken[0] = False
        runner.adapt(runner.settings.model_copy(update={"max_crashes": 5}))
        await eventually(lambda: runner.health.state == "live")


async def test_a_model_that_crashes_again_and_again_is_given_up_and_the_pictures_go_on() -> None:
    broken = [True]

    def predict(image: Image) -> object:
        if broken[0]:
            raise RuntimeError("CUDA error")
        return prediction(image)

    runner = make_runner(
        FakeSource(predict=predict), max_crashes=2, reconnect_max_seconds=0.02, crash_cooldown_seconds=0.3
    )
    async with running(runner):
        await eventually(lambda: runner.model_health.state == "failed", seconds=10)
        assert "its model crashed 2 times" in (runner.model_health.reason or "")
        assert runner.health.state == "live"
        before = runner.newest_frame_id
        await eventually(lambda: runner.newest_frame_id > before + 3)
        broken[0] = False
        await eventually(lambda: runner.model_health.state == "ready")


async def test_a_camera_that_cannot_be_opened_is_tried_on_and_on() -> None:
    def off() -> None:
        raise CameraError("no route to host")

    runner = make_runner(FakeSource(on_open=off), max_crashes=2, reconnect_max_seconds=0.02)
    async with running(runner):
        await eventually(lambda: runner.failures.sessions["reader"] > 3, seconds=20)
        assert runner.health.state == "reconnecting"
