"""The supervisor: starts all cameras, stops them in bounded time, and lets none of them hurt another."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from healthd.cameras import supervisor as supervisor_module
from healthd.cameras.health import State
from healthd.cameras.runner import CameraRunner
from healthd.cameras.supervisor import Supervisor
from healthd.errors import CameraError
from healthd.metrics import READ_METRICS, Metrics
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, prediction


@asynccontextmanager
async def supervised(*runners: CameraRunner) -> AsyncIterator[Supervisor]:
    """Run cameras for as long as the block lasts."""
    supervisor = Supervisor(runners)
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.drain(3)


def camera(name: str, **options: object) -> CameraRunner:
    settings = {key: options.pop(key) for key in list(options) if key.endswith("_seconds") or key == "enabled"}
    return make_runner(FakeSource(name, **options), **settings)  # type: ignore[arg-type]


async def test_cameras_stand_in_the_order_they_were_given_and_are_found_by_name() -> None:
    names = ["zebra", "ant", "gym"]
    supervisor = Supervisor(camera(name) for name in names)
    assert [runner.name for runner in supervisor] == names
    assert len(supervisor) == 3
    assert supervisor.get("ant") is list(supervisor)[1]
    assert supervisor.get("nobody") is None


async def test_cameras_may_come_while_the_memory_of_their_processes_is_looked_at() -> None:
    runner, looked = camera("one"), list[str]()
    supervisor = Supervisor([runner])

    class Process:
        def measure(self) -> None:
            looked.append("one")
            supervisor._runners["two"] = camera("two")

    runner.isolated = Process()  # type: ignore[assignment]
    supervisor.measure()
    assert looked == ["one"]


async def test_all_cameras_run_side_by_side_and_all_stop() -> None:
    async with supervised(camera("one"), camera("two")) as supervisor:
        await eventually(lambda: supervisor.by_state()["live"] == 2)
        assert await supervisor.drain(3) == ()
        assert supervisor.by_state()["stopped"] == 2
        assert all(runner.source.closed == runner.source.opened for runner in supervisor)  # type: ignore[union-attr]


async def test_every_state_is_named_in_the_count_by_state() -> None:
    supervisor = Supervisor([camera("one"), camera("two", enabled=False)])
    counted = supervisor.by_state()
    assert list(counted) == list(State)
    assert Counter(counted)["starting"] == Counter(counted)["stopped"] == 1


async def test_a_camera_that_does_not_stop_is_abandoned_by_name_in_bounded_time() -> None:
    hang = threading.Event()

    def read() -> object:
        hang.wait()
        raise CameraError("gone")

    hanging = camera("hanging", read=read, stall_timeout_seconds=60)
    with structlog.testing.capture_logs() as logs:
        async with supervised(camera("fine"), hanging) as supervisor:
            await eventually(lambda: supervisor.get("fine").health.state == "live")  # type: ignore[union-attr]
            begun = time.monotonic()
            assert await supervisor.drain(0.3) == ("hanging",)
            assert time.monotonic() - begun < 0.3 + supervisor_module.CANCEL_SECONDS + 1
            assert supervisor.stuck_workers == 1
            assert supervisor.by_state()["stopped"] == 2
            hang.set()
            await eventually(lambda: supervisor.stuck_workers == 0)
    (abandoned,) = [line for line in logs if line["event"] == "camera_abandoned"]
    assert (abandoned["camera"], abandoned["deadline_seconds"]) == ("hanging", 0.3)


async def test_the_frame_in_hand_is_finished_before_the_stop() -> None:
    begun, gate = threading.Event(), threading.Event()

    def predict(image: object) -> object:
        begun.set()
        gate.wait(5)
        return prediction(image)  # type: ignore[arg-type]

    async with supervised(camera("gym", predict=predict, predict_timeout_seconds=10)) as supervisor:
        runner = supervisor.get("gym")
        assert runner is not None
        await eventually(begun.is_set)
        draining = asyncio.create_task(supervisor.drain(5))
        await asyncio.sleep(0.05)
        assert not draining.done()
        gate.set()
        assert await draining == ()
        assert runner.counts.predicted == 1
        assert runner.counts.in_hand == 0


async def test_asking_for_the_stop_returns_at_once() -> None:
    async with supervised(camera("gym")) as supervisor:
        await eventually(lambda: supervisor.by_state()["live"] == 1)
        supervisor.request_stop()
        await eventually(lambda: supervisor.by_state()["stopped"] == 1)


async def test_draining_what_was_never_started_is_done_at_once() -> None:
    assert await Supervisor([camera("gym")]).drain(5) == ()
    assert await Supervisor([]).drain(5) == ()


async def test_the_death_of_one_runner_is_logged_and_hurts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def die() -> None:
        raise ZeroDivisionError("a bug of ours")

    doomed, fine = camera("doomed"), camera("fine")
    monkeypatch.setattr(doomed, "run", die)
    with structlog.testing.capture_logs() as logs:
        async with supervised(doomed, fine) as supervisor:
            await eventually(lambda: fine.health.state == "live")
            newest = fine.newest_frame_id
            await eventually(lambda: fine.newest_frame_id > newest)
            assert await supervisor.drain(3) == ()
    died = [line for line in logs if line["event"] == "camera_task_died"]
    assert [line["camera"] for line in died] == ["doomed"]


async def test_what_cameras_wait_for_is_told_until_each_had_a_result() -> None:
    gate = threading.Event()
    slow = camera("slow", on_open=gate.wait, open_timeout_seconds=5)
    failing = camera("failing", read=lambda: 1 / 0)
    off = camera("off", enabled=False)
    async with supervised(slow, failing, off) as supervisor:
        await eventually(lambda: supervisor.waiting_for == ("slow: first image",))
        gate.set()
        await eventually(lambda: supervisor.waiting_for == ())


async def test_who_waits_for_a_frame_of_any_camera_is_released() -> None:
    async with supervised(camera("one"), camera("two")) as supervisor:
        waiting = [
            asyncio.create_task(runner.wait_newer(10_000_000, overlay=False, timeout=60)) for runner in supervisor
        ]
        await asyncio.sleep(0.01)
        supervisor.release_waiters()
        done, _ = await asyncio.wait(waiting, timeout=2)
        assert [task.result() for task in done] == [False, False]


async def test_samples_are_the_documented_metrics_and_account_for_every_frame() -> None:
    labels = {read.name: set(read.labels) for read in READ_METRICS}
    async with supervised(camera("one", predict=prediction), camera("two")) as supervisor:
        metrics = Metrics()
        metrics.read_from(supervisor.samples)
        await eventually(lambda: all(runner.counts.read > 5 for runner in supervisor))
        samples = list(supervisor.samples())
        for sample in samples:
            assert set(sample.labels) == labels[sample.name], sample.name
        for name in ("one", "two"):
            mine = [sample for sample in samples if sample.labels.get("camera") == name]
            value = Counter[str]()
            for sample in mine:
                value[sample.name.removeprefix("healthd_camera_")] += int(sample.value)
            assert value["frames_read_total"] == (
                value["frames_predicted_total"] + value["frames_dropped_total"] + value["frames_in_hand"]
            )
            assert sum(sample.value for sample in mine if sample.name == "healthd_camera_state") == 1
        assert b'healthd_camera_frames_read_total{camera="one"}' in metrics.render()
