"""One camera's life: sessions come and go, every frame is accounted for, nothing old is shown."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from healthd.cameras.isolated import CameraLeft
from healthd.cameras.records import NotLive, Tuning
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import Predict
from healthd.errors import CameraError, EndOfStream, ModelError, SettingsError
from healthd.frames import CapturedImage, Image, JpegImage
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.testing.fakes import FakeClock
from tests.eventually import eventually
from tests.fakes import FakeSource, listed, make_runner, picture, prediction
from tests.jpegs import ElsewhereJpeg, jpeg, undecodable_jpeg


@asynccontextmanager
async def running(runner: CameraRunner) -> AsyncIterator[CameraRunner]:
    """Run a camera for as long as the block lasts; then stop it, bounded."""
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        assert_accounts(runner)
        runner.request_stop()
        done, _ = await asyncio.wait([task], timeout=3)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert done, "the camera did not stop"
        task.result()
        assert_accounts(runner)


def assert_accounts(runner: CameraRunner) -> None:
    counts = runner.counts
    assert counts.read == counts.predicted + sum(counts.dropped.values()) + counts.in_hand
    assert 0 <= counts.in_hand <= 2


async def test_frames_are_published_and_predicted_side_by_side() -> None:
    async with running(make_runner(FakeSource(predict=prediction))) as runner:
        await eventually(lambda: runner.counts.predicted >= 5)
        assert runner.health.state == "live"
        assert runner.model_health.state == "ready"
        shown = runner.picture(overlay=True)
        assert shown.prediction is not None
        assert shown.frame.frame_id <= runner.picture(overlay=False).frame.frame_id
    assert runner.health.state == "stopped"
    assert runner.counts.in_hand == 0


async def test_a_slow_model_costs_viewers_no_frame_and_the_replaced_frames_are_the_dropped_ones() -> None:
    seen: list[int] = []

    def slow(image: np.ndarray) -> object:
        seen.append(int(image[0, 0, 0]))
        time.sleep(0.05)
        return prediction(image)

    async with running(make_runner(FakeSource(predict=slow, fps=100))) as runner:
        await eventually(lambda: runner.counts.predicted >= 6)
        assert runner.counts.dropped["replaced"] >= 10
        assert runner.newest_frame_id >= 20
    assert seen == sorted(seen)


async def test_published_images_are_read_only_and_a_reused_buffer_is_copied() -> None:
    buffer = np.zeros((8, 8, 3), np.uint8)

    def read() -> np.ndarray:
        time.sleep(0.005)
        buffer[:] += 1
        return buffer[:]

    async with running(make_runner(FakeSource(read=read))) as runner:
        await eventually(lambda: runner.frame is not None)
        image = runner.picture(overlay=False).frame.image
        before = image.copy()
        await eventually(lambda: runner.newest_frame_id >= 4)
        assert (image == before).all()
        with pytest.raises(ValueError, match="read-only"):
            image[:] = 0


async def test_losing_the_camera_forgets_its_picture_and_does_not_reload_the_model() -> None:
    lost = threading.Event()
    source = FakeSource(predict=prediction)

    def read() -> object:
        if lost.is_set():
            raise CameraError("unplugged")
        return source.next_image()

    source._read = read
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.counts.predicted >= 2)
        lost.set()
        await eventually(lambda: runner.health.state == "reconnecting")
        newest = runner.newest_frame_id
        with pytest.raises(NotLive, match="unplugged"):
            runner.picture(overlay=False)
        with pytest.raises(NotLive):
            runner.predicted_frame()
        lost.clear()
        await eventually(lambda: runner.health.state == "live")
        assert runner.picture(overlay=False).frame.frame_id > newest
        await eventually(lambda: runner.shown.predicted is not None)
        assert source.loaded == 1
        assert runner.reconnects >= 1
        assert source.closed == source.opened - 1


async def test_a_read_that_hangs_is_a_stall_and_a_new_session_comes_on_another_thread() -> None:
    hang, threads = threading.Event(), set()
    source = FakeSource()

    def read() -> object:
        threads.add(threading.get_ident())
        if source.opened == 1 and source._number == 3:
            hang.wait()
        return source.next_image()

    source._read = read
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.health.state == "stalled")
        assert runner.health.reason == "no image within 0.3 s"
        with pytest.raises(NotLive):
            runner.picture(overlay=False)
        await eventually(lambda: runner.health.state == "live")
        assert runner.stuck_workers == 1
        assert len(threads) == 2
        hang.set()
        await eventually(lambda: runner.stuck_workers == 0)
        assert source.closed == 1


async def test_threads_that_never_come_back_are_bounded() -> None:
    hang = threading.Event()
    source = FakeSource(read=hang.wait)
    async with running(make_runner(source, stall_timeout_seconds=0.1, max_abandoned_workers=2)) as runner:
        await eventually(lambda: runner.health.state == "failed")
        assert "2 threads hang" in (runner.health.reason or "")
        assert source.opened == 2
        hang.set()
        await eventually(lambda: runner.stuck_workers == 0)
        source._read = source.next_image
        runner.restart()
        await eventually(lambda: runner.health.state == "live")


async def test_an_open_that_hangs_is_told_apart_from_a_stall() -> None:
    hang = threading.Event()
    async with running(make_runner(FakeSource(on_open=hang.wait), open_timeout_seconds=0.1)) as runner:
        await eventually(lambda: runner.health.state == "reconnecting")
        assert (runner.health.reason or "").startswith("the camera did not open within")
        hang.set()


async def test_wrong_settings_fail_the_camera_for_good_until_it_is_restarted() -> None:
    wrong = [True]

    def on_open() -> None:
        if wrong[0]:
            raise SettingsError("no such preset")

    source = FakeSource(on_open=on_open, predict=prediction)
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.health.state == "failed")
        assert runner.health.reason == "no such preset"
        assert runner.failures.sessions["reader"] == 1
        wrong[0] = False
        await asyncio.sleep(0.05)
        assert runner.health.state == "failed"
        runner.restart()
        await eventually(lambda: runner.counts.predicted >= 1)


async def test_a_bug_in_the_plugin_is_counted_and_tried_again() -> None:
    source = FakeSource()
    source._read = listed([picture(1), ZeroDivisionError("oops"), *[picture(n) for n in range(2, 9)]])
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.failures.bugs["reader"] == 1)
        assert runner.failures.errors[0].reason == "ZeroDivisionError: oops"
        await eventually(lambda: source.opened >= 2)


@pytest.mark.parametrize(
    ("rubbish", "named"),
    [
        (np.zeros((4, 4, 3), np.float64), "float64 (4, 4, 3)"),
        (np.zeros((4, 4), np.uint8), "uint8 (4, 4)"),
        (np.zeros((0, 4, 3), np.uint8), "uint8 (0, 4, 3)"),
        (b"jpeg", "bytes"),
        (CapturedImage(None), "NoneType"),  # type: ignore[arg-type]
    ],
)
async def test_rubbish_from_a_plugin_is_an_error_with_a_reason(rubbish: object, named: str) -> None:
    async with running(make_runner(FakeSource(read=lambda: rubbish))) as runner:
        await eventually(lambda: runner.health.state == "reconnecting")
        assert named in (runner.health.reason or "")
        assert runner.counts.dropped["invalid"] >= 1
        assert runner.counts.read == runner.counts.dropped["invalid"]


async def test_a_changing_size_is_followed() -> None:
    sizes = itertools.cycle([(8, 8), (16, 24)])

    def read() -> object:
        time.sleep(0.005)
        return picture(1, size=next(sizes))

    async with running(make_runner(FakeSource(read=read), frozen_after_seconds=0)) as runner:
        await eventually(lambda: runner.newest_frame_id > 5)
        assert runner.health.state == "live"
        assert runner.info.width in (8, 24)


async def test_images_from_a_backlog_are_counted_and_never_shown() -> None:
    source = FakeSource()
    source._read = listed([None, None, None, picture(7), EndOfStream("over")])
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.newest_frame_id == 1)
        assert runner.counts.dropped["backlog"] == 3


async def test_a_camera_that_only_delivers_backlog_is_opened_anew() -> None:
    def read() -> object:
        time.sleep(0.01)

    async with running(make_runner(FakeSource(read=read), stall_timeout_seconds=0.1)) as runner:
        await eventually(lambda: runner.health.state == "reconnecting")
        assert runner.health.reason == "only old images for 0.1 s"


async def test_a_recording_gives_every_frame_in_order_to_the_predictor_and_ends() -> None:
    seen: list[int] = []

    def predict(image: np.ndarray) -> object:
        seen.append(int(image[0, 0, 0]))
        time.sleep(0.002)
        return prediction(image)

    source = FakeSource(read=listed([picture(n) for n in range(1, 31)]), predict=predict, recording=True)
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.health.state == "ended")
        await eventually(lambda: runner.counts.predicted == 30)
        assert seen == list(range(1, 31))
        with pytest.raises(NotLive, match="ended"):
            runner.picture(overlay=False)


async def test_a_recording_waits_for_its_model_even_when_woken_for_other_reasons() -> None:
    gate = threading.Event()

    def predict(image: np.ndarray) -> object:
        gate.wait(0.25)
        return prediction(image)

    source = FakeSource(read=listed([picture(n) for n in range(1, 9)]), predict=predict, recording=True)
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.newest_frame_id == 2)
        for _ in range(5):
            runner.tune(tuning=Tuning(None, 80), thresholds={})
            await asyncio.sleep(0.005)
        gate.set()
        await eventually(lambda: runner.counts.predicted == 8)
        assert runner.counts.dropped["replaced"] == 0


async def test_a_live_camera_that_ends_is_a_lost_one() -> None:
    async with running(make_runner(FakeSource(read=listed([picture(1)])))) as runner:
        await eventually(lambda: runner.health.state == "reconnecting")
        assert runner.health.reason == "nothing left"


async def test_a_picture_that_does_not_change_is_frozen_and_comes_back_by_itself() -> None:
    moving = threading.Event()
    source = FakeSource()

    def read() -> object:
        time.sleep(0.01)
        return source.next_image() if moving.is_set() else picture(1)

    source._read = read
    async with running(make_runner(source, frozen_after_seconds=0.3)) as runner:
        await eventually(lambda: runner.health.state == "frozen")
        with pytest.raises(NotLive, match="has not changed"):
            runner.picture(overlay=False)
        assert runner.health.connected
        moving.set()
        await eventually(lambda: runner.health.state == "live")


async def test_a_frame_that_is_too_old_is_a_stall_before_the_watchdog_says_so() -> None:
    hang = threading.Event()
    source = FakeSource()
    source._read = lambda: source.next_image() if source._number < 3 else hang.wait()
    async with running(make_runner(source, stale_after_seconds=0.1, stall_timeout_seconds=2)) as runner:
        await eventually(lambda: runner.frame is not None)
        await eventually(lambda: runner.health.state == "stalled", seconds=1)
        assert "no image for" in (runner.health.reason or "")
        with pytest.raises(NotLive):
            runner.picture(overlay=False)
        hang.set()


async def test_a_predict_that_raises_drops_its_frame_and_viewers_notice_nothing() -> None:
    calls = itertools.count()

    def predict(image: np.ndarray) -> object:
        if next(calls) == 0:
            raise ModelError("out of memory")
        return prediction(image)

    async with running(make_runner(FakeSource(predict=predict))) as runner:
        await eventually(lambda: runner.model_health.state == "retrying")
        assert runner.model_health.reason == "out of memory"
        assert runner.health.state == "live"
        await eventually(lambda: runner.model_health.state == "ready")
        assert runner.counts.dropped["failed"] == 1


async def test_a_predict_that_hangs_is_abandoned_and_viewers_notice_nothing() -> None:
    hang, calls = threading.Event(), itertools.count()

    def predict(image: np.ndarray) -> object:
        if next(calls) == 1:
            hang.wait()
        return prediction(image)

    async with running(make_runner(FakeSource(predict=predict), predict_timeout_seconds=0.1)) as runner:
        await eventually(lambda: runner.stuck_workers == 1)
        assert runner.model_health.state == "stalled"
        assert runner.model_health.reason == "predictor stalled: no prediction within 0.1 s"
        assert runner.health.state == "live"
        await eventually(lambda: runner.counts.predicted >= 3)
        hang.set()


class HangingOnce(Model):
    """A model whose first instance never answers its second image."""

    task = "detect"
    labels: ClassVar[dict[int, str]] = {}

    def __init__(self, hang: threading.Event | None) -> None:
        self._hang = hang
        self._calls = 0

    def predict(self, image: np.ndarray, params: InferenceParams) -> Prediction:
        self._calls += 1
        if self._hang is not None and self._calls == 2:
            self._hang.wait()
        return prediction(image)


class HangingFamily(ModelFamily):
    def __init__(self, hang: threading.Event) -> None:
        self.hang = hang
        self.loads = 0

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        self.loads += 1
        return HangingOnce(self.hang if self.loads == 1 else None)


class Sharing(FakeSource):
    """A camera whose model comes from the manager, as those of real plugins do."""

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        with models.use("hanging", "m") as shared:
            yield lambda image: shared.predict(image, InferenceParams())


async def test_a_shared_model_that_hangs_costs_one_thread_and_is_loaded_anew() -> None:
    hang = threading.Event()
    family = HangingFamily(hang)
    models = ModelManager({"hanging": family}, directory=Path("models"))
    runner = make_runner(Sharing(), models=models, predict_timeout_seconds=0.1)
    async with running(runner):
        await eventually(lambda: runner.counts.predicted >= 5)
        assert (family.loads, runner.stuck_workers) == (2, 1)
        assert runner.health.state == "live"
        hang.set()
        await eventually(lambda: runner.stuck_workers == 0)


async def test_a_predictor_that_returns_rubbish_is_a_bug() -> None:
    async with running(make_runner(FakeSource(predict=lambda _: {"boxes": []}))) as runner:
        await eventually(lambda: runner.failures.bugs["predictor"] >= 1)
        assert "dict, not a Prediction" in (runner.model_health.reason or "")
        assert runner.health.state == "live"


async def test_the_rate_of_predictions_is_kept_and_changes_at_once() -> None:
    async with running(make_runner(FakeSource(predict=prediction, fps=100), predict_fps=10)) as runner:
        await eventually(lambda: runner.counts.predicted >= 1)
        start, begun = runner.counts.predicted, time.monotonic()
        await asyncio.sleep(1)
        rate = (runner.counts.predicted - start) / (time.monotonic() - begun)
        assert 8 <= rate <= 11
        runner.tune(tuning=Tuning(None, 75), thresholds={})
        start = runner.counts.predicted
        await eventually(lambda: runner.counts.predicted >= start + 20, seconds=2)


async def test_pausing_closes_the_camera_keeps_the_model_and_shows_nothing() -> None:
    source = FakeSource(predict=prediction)
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.counts.predicted >= 1)
        runner.pause()
        assert runner.health.state == "paused"
        with pytest.raises(NotLive, match="paused"):
            runner.picture(overlay=False)
        await eventually(lambda: source.closed == 1)
        newest = runner.newest_frame_id
        await asyncio.sleep(0.05)
        assert runner.newest_frame_id == newest
        assert runner.health.state == "paused"
        runner.resume()
        await eventually(lambda: runner.health.state == "live")
        assert (source.opened, source.loaded) == (2, 1)


async def test_thresholds_change_while_the_camera_runs_and_are_checked() -> None:
    source = FakeSource(predict=prediction)
    async with running(make_runner(source)) as runner:
        runner.tune(tuning=runner.tuning, thresholds={"confidence": 0.6})
        assert source.params is not None
        assert source.params.confidence == 0.6
        with pytest.raises(ValueError, match="less than or equal to 1"):
            runner.tune(tuning=runner.tuning, thresholds={"confidence": 1.5})
        assert source.params.confidence == 0.6


async def test_a_broken_camera_is_failed_with_its_reason_and_still_stops() -> None:
    async with running(make_runner(None, failure="plugin `x` is broken")) as runner:
        assert runner.health.state == "failed"
        assert runner.health.reason == "plugin `x` is broken"


async def test_a_disabled_camera_is_listed_as_stopped_and_never_opened() -> None:
    source = FakeSource()
    async with running(make_runner(source, enabled=False)) as runner:
        await asyncio.sleep(0.02)
        assert (runner.health.state, runner.health.reason) == ("stopped", "disabled in the configuration")
        assert source.opened == 0


async def test_a_camera_without_a_model_accounts_for_its_frames() -> None:
    async with running(make_runner(FakeSource())) as runner:
        await eventually(lambda: runner.counts.dropped["no_model"] >= 3)
        assert runner.model_health.state == "none"
        with pytest.raises(NotLive, match="no model watches it"):
            runner.picture(overlay=True)


async def test_who_waits_for_a_newer_frame_is_told_at_once_and_let_go_at_a_stop() -> None:
    async with running(make_runner(FakeSource(fps=50))) as runner:
        await eventually(lambda: runner.frame is not None)
        newest = runner.newest_frame_id
        assert await runner.wait_newer(newest, overlay=False, timeout=1)
        assert not await runner.wait_newer(newest + 10_000, overlay=False, timeout=0.05)
        waiting = asyncio.create_task(runner.wait_newer(10_000_000, overlay=False, timeout=60))
        await asyncio.sleep(0.01)
        runner.release_waiters()
        assert await asyncio.wait_for(waiting, 1) is False


async def test_who_waits_at_a_camera_that_is_paused_is_told_at_once() -> None:
    async with running(make_runner(FakeSource(fps=50))) as runner:
        await eventually(lambda: runner.frame is not None)
        waiting = asyncio.create_task(runner.wait_newer(10_000_000, overlay=False, timeout=60))
        await asyncio.sleep(0.01)
        runner.pause()
        assert await asyncio.wait_for(waiting, 1) is False


async def test_cancelling_a_camera_whose_read_hangs_ends_at_once() -> None:
    hang = threading.Event()
    runner = make_runner(FakeSource(read=hang.wait), stall_timeout_seconds=60)
    task = asyncio.create_task(runner.run())
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    task.cancel()
    await asyncio.wait([task], timeout=2)
    assert task.done()
    assert time.monotonic() - begun < 0.5
    assert runner.health.state == "stopped"
    assert runner.stuck_workers == 1
    hang.set()


async def test_a_camera_given_up_for_its_stuck_threads_goes_on_by_itself_when_one_returns() -> None:
    hang = threading.Event()
    source = FakeSource()
    source._read = lambda: source.next_image() if hang.is_set() else hang.wait()
    async with running(make_runner(source, stall_timeout_seconds=0.1, max_abandoned_workers=2)) as runner:
        await eventually(lambda: runner.health.state == "failed")
        hang.set()
        await eventually(lambda: runner.health.state == "live")
        assert runner.stuck_workers == 0


async def test_a_camera_that_reconnects_with_the_same_picture_is_frozen_all_the_same() -> None:
    def read_a_little() -> object:
        time.sleep(0.02)
        if next(calls) % 10 == 9:
            raise CameraError("the connection was closed")
        return picture(1)

    calls = itertools.count()
    runner = make_runner(FakeSource(read=read_a_little), frozen_after_seconds=1, reconnect_max_seconds=0.1)
    async with running(runner):
        await eventually(lambda: runner.health.state == "frozen")
        assert runner.reconnects >= 1


@pytest.mark.parametrize("error", [EndOfStream("old"), SettingsError("old session")])
async def test_what_an_old_session_ends_with_does_not_overrule_a_restart(error: Exception) -> None:
    old, entered_read = threading.Event(), threading.Event()
    source = FakeSource(recording=True, predict=prediction)

    def read() -> object:
        if source.opened == 1:
            entered_read.set()
            old.wait(0.2)
            raise error
        return source.next_image()

    source._read = read
    async with running(make_runner(source)) as runner:
        await eventually(entered_read.is_set)
        runner.restart()
        old.set()
        await eventually(lambda: runner.health.state == "live")
        assert source.opened == 2


async def test_a_recording_that_ends_while_it_is_paused_is_paused_and_then_ended() -> None:
    late, entered_read = threading.Event(), threading.Event()

    def read() -> object:
        entered_read.set()
        late.wait(0.25)
        raise EndOfStream("over")

    async with running(make_runner(FakeSource(read=read, recording=True))) as runner:
        await eventually(entered_read.is_set)
        runner.pause()
        late.set()
        await eventually(lambda: runner._control.ended)
        assert runner.health.state == "paused"
        runner.resume()
        assert runner.health.state == "ended"


async def test_a_prediction_from_before_a_loss_is_not_shown_after_it() -> None:
    slow, predicting = threading.Event(), threading.Event()
    source = FakeSource()

    def predict(image: np.ndarray) -> object:
        predicting.set()
        slow.wait(2)
        return prediction(image)

    def read() -> object:
        if source.opened == 1 and predicting.is_set():
            raise CameraError("unplugged")
        return source.next_image()

    source._read, source._predict = read, predict
    async with running(make_runner(source, predict_timeout_seconds=3, reconnect_max_seconds=0.1)) as runner:
        await eventually(lambda: source.opened == 2 and runner.health.state == "live")
        before = runner.counts.predicted
        lost_at = runner.shown._forgotten_id
        slow.set()
        await eventually(lambda: runner.counts.predicted > before)
        shown = runner.shown.predicted
        assert shown is None or shown.frame.frame_id > lost_at


async def test_a_picture_encoded_while_its_camera_was_lost_is_not_confirmed() -> None:
    async with running(make_runner(FakeSource())) as runner:
        await eventually(lambda: runner.shown.frame is not None)
        frame = runner.picture(overlay=False).frame
        runner.shown.confirm(frame)
        runner.restart()
        with pytest.raises(NotLive):
            runner.shown.confirm(frame)
        await eventually(lambda: runner.health.state == "live")
        with pytest.raises(NotLive, match="lost and found"):
            runner.shown.confirm(frame)


async def test_an_image_that_comes_after_a_pause_is_counted() -> None:
    going, held = threading.Event(), threading.Event()
    source = FakeSource()

    def read() -> object:
        if source._number == 3:
            held.set()
            going.wait(0.25)
        return source.next_image()

    source._read = read
    async with running(make_runner(source)) as runner:
        await eventually(held.is_set)
        lost = runner.counts.dropped["lost"]
        runner.pause()
        going.set()
        await eventually(lambda: runner.counts.read == 4)
        assert runner.counts.dropped["lost"] == lost + 1


async def test_an_error_that_cannot_say_what_it_is_and_one_that_says_too_much_are_borne() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    source = FakeSource()
    source._read = listed([picture(1), MuteError(), picture(2), CameraError("x" * 100_000), picture(3)])
    async with running(make_runner(source, reconnect_max_seconds=0.1)) as runner:
        await eventually(lambda: len(runner.failures.errors) >= 2)
        assert "MuteError" in runner.failures.errors[0].reason
        assert all(len(error.reason) <= 500 for error in runner.failures.errors)


async def test_a_recording_that_waits_for_a_slow_but_healthy_model_is_live() -> None:
    read = listed([picture(n) for n in range(1, 200)])

    def slowly() -> object:
        time.sleep(0.05)  # the picture before is old already, and the next one is not read yet
        return read()

    source = FakeSource(read=slowly, predict=prediction, recording=True)
    async with running(make_runner(source, predict_fps=2, stale_after_seconds=0.2)) as runner:
        await eventually(lambda: runner.counts.predicted >= 2)
        states = set()
        for _ in range(60):
            states.add(runner.health.state.value)
            await asyncio.sleep(0.01)
        assert states == {"live"}


async def test_an_old_prediction_of_a_recording_that_goes_on_is_not_shown() -> None:
    read = listed([picture(1)] * 500)

    def slowly() -> object:
        time.sleep(0.02)
        return read()

    still = {"predict_when": "motion", "motion_hold_seconds": 0, "motion_detections_hold_seconds": 0}
    source = FakeSource(read=slowly, predict=prediction, recording=True)
    async with running(make_runner(source, stale_after_seconds=0.3, **still)) as runner:
        await eventually(lambda: runner.counts.predicted >= 1)
        await eventually(lambda: runner.newest_frame_id >= 40)
        assert runner.health.state.value == "live"
        with pytest.raises(NotLive, match="newest predicted frame is"):
            runner.predicted_frame()


async def test_one_users_short_patience_gives_up_no_model_of_another() -> None:
    def slow(image: np.ndarray) -> object:
        time.sleep(0.3)
        return prediction(image)

    class SlowFamily(HangingFamily):
        def load(self, spec: ModelSpec) -> Model:
            self.loads += 1
            model = HangingOnce(None)
            model.predict = lambda image, params: slow(image)  # type: ignore[assignment, return-value]
            return model

    models = ModelManager({"hanging": SlowFamily(threading.Event())}, directory=Path("models"))
    patient = make_runner(Sharing("patient"), models=models, predict_timeout_seconds=5)
    hasty = make_runner(Sharing("hasty"), models=models, predict_timeout_seconds=0.1, max_abandoned_workers=64)
    async with running(patient), running(hasty):
        await eventually(lambda: patient.counts.predicted >= 3, seconds=10)
        assert patient.counts.dropped["failed"] == 0


async def test_a_picture_is_as_old_as_its_read_however_long_its_pixels_took_and_a_late_one_is_backlog() -> None:
    fake = FakeClock()
    read_at: dict[JpegImage, tuple[float, datetime]] = {}
    takes = itertools.chain([3.0], itertools.repeat(0.4))

    class Slow(JpegImage):
        def make_pixels(self) -> Image | None:
            fake.advance(next(takes))
            return super().make_pixels()

    def read() -> JpegImage:
        time.sleep(0.005)
        fake.advance(0.1)  # motion is looked for in every one
        image = Slow(jpeg(len(read_at) % 9))
        read_at[image] = fake.clock.monotonic(), fake.clock.now()
        return image

    source = FakeSource(read=read)
    async with running(
        make_runner(source, clock=fake.clock, predict_when="motion", stall_timeout_seconds=60)
    ) as runner:
        await eventually(lambda: runner.frame is not None)
        assert runner.counts.dropped["backlog"] >= 1
        frame = runner.frame
        assert frame is not None
        assert isinstance(frame.delivered, JpegImage)
        assert frame.delivered.made
        assert list(read_at).index(frame.delivered) >= 1
        monotonic, now = read_at[frame.delivered]
        assert frame.captured_monotonic - monotonic < 0.4
        assert abs((frame.captured_at - now).total_seconds()) < 0.4


async def test_pixels_that_take_long_are_not_blamed_on_the_model() -> None:
    gate, images = threading.Event(), []

    def read() -> JpegImage:
        time.sleep(0.01)
        images.append(ElsewhereJpeg(jpeg(len(images) % 9), gate=gate))
        return images[-1]

    source = FakeSource(read=read, predict=prediction)
    async with running(make_runner(source)) as runner:
        try:
            await eventually(lambda: any(image.asked.is_set() for image in images))
            await asyncio.sleep(0.8)  # more than a prediction may take
            assert (runner.model_health.state, source.loaded, runner.stuck_workers) == ("ready", 1, 0)
        finally:
            gate.set()
        await eventually(lambda: runner.counts.predicted >= 1)


async def test_a_picture_that_another_process_cannot_decode_is_invalid_and_no_failure_of_the_model() -> None:
    gate = threading.Event()
    gate.set()

    def read() -> JpegImage:
        time.sleep(0.01)
        return ElsewhereJpeg(undecodable_jpeg(), gate=gate)

    async with running(make_runner(FakeSource(read=read, predict=prediction))) as runner:
        await eventually(lambda: runner.counts.dropped["invalid"] >= 2)
        assert (runner.model_health.state, runner.counts.dropped["failed"]) == ("ready", 0)


async def test_a_camera_that_was_left_though_it_is_wanted_shows_nothing_and_is_opened_again() -> None:
    source = FakeSource()

    def read() -> object:
        if source.opened == 1 and source._number == 3:
            raise CameraLeft("the camera was left")
        return source.next_image()

    source._read = read
    async with running(make_runner(source)) as runner:
        await eventually(lambda: runner.health.state == "reconnecting")
        assert runner.frame is None
        await eventually(lambda: runner.health.state == "live")
