"""A model that hangs: its cameras say so, their pictures go on, and it is loaded anew once for all of them."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import Predict
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, prediction

PATIENCE = 0.4


class Calls(Model):
    """Does with each image what a test says."""

    task = "detect"
    labels: ClassVar[dict[int, str]] = {}

    def __init__(self, on_predict: Callable[[], object]) -> None:
        self._on_predict = on_predict

    def predict(self, image: np.ndarray, params: InferenceParams) -> Prediction:
        self._on_predict()
        return prediction(image)


class Family(ModelFamily):
    contract = 1

    def __init__(self, on_predict: Callable[[int], object]) -> None:
        self.loads = 0
        self._on_predict = on_predict

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        self.loads += 1
        number = self.loads
        return Calls(lambda: self._on_predict(number))


class Sharing(FakeSource):
    """A camera whose model comes from the manager, as those of real plugins do."""

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        with models.use("fake", "m") as shared:
            yield lambda image: shared.predict(image, InferenceParams())


@asynccontextmanager
async def house(family: Family, *cameras: dict[str, float]) -> AsyncIterator[list[CameraRunner]]:
    models = ModelManager({"fake": family}, directory=Path("models"))
    runners = [
        make_runner(Sharing(f"c{number}"), models=models, **{"predict_timeout_seconds": PATIENCE, **settings})
        for number, settings in enumerate(cameras)
    ]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield runners
    finally:
        for runner in runners:
            runner.request_stop()
        await asyncio.wait(tasks, timeout=5)


async def test_a_model_that_hangs_is_loaded_anew_once_for_all_its_cameras_and_costs_one_thread() -> None:
    hang, calls, hung_at = threading.Event(), itertools.count(), list[float]()

    def on_predict(load: int) -> None:
        if load == 1 and next(calls) >= 20 and not hung_at:
            hung_at.append(time.monotonic())
            hang.wait(20)
        time.sleep(0.005)

    family = Family(on_predict)
    async with house(family, {}, {"predict_fps": 4}, {}) as runners:
        await eventually(lambda: all(runner.model_health.state == "stalled" for runner in runners))
        frames = [runner.newest_frame_id for runner in runners]
        reasons = [runner.model_health.reason or "" for runner in runners]
        assert all(reason.startswith("predictor stalled: ") for reason in reasons), reasons
        assert all(runner.health.state == "live" for runner in runners)
        await eventually(lambda: all(runner.model_health.state == "ready" for runner in runners))
        assert time.monotonic() - hung_at[0] < PATIENCE + 0.25 + 0.75 + 0.5, "patience, grace, first pause, and some"
        assert all(runner.newest_frame_id > before for runner, before in zip(runners, frames, strict=True))
        assert family.loads == 2
        assert sum(runner.abandoned.total for runner in runners) == 1
        hang.set()
        await eventually(lambda: sum(runner.stuck_workers for runner in runners) == 0)


async def test_who_waits_in_line_behind_a_patient_camera_waits_no_longer_than_it_may() -> None:
    """The slow prediction is the patient one's, and may take its time."""
    async with house(
        Family(lambda _: time.sleep(0.7)), {"predict_timeout_seconds": 20}, {"predict_timeout_seconds": 0.1}
    ) as (patient, hasty):
        await eventually(lambda: hasty.failures.sessions["predictor"] >= 2 and patient.counts.predicted >= 2)
        assert patient.counts.dropped["failed"] == 0
        assert any(
            "predictor stalled: m is busy, no turn within 0.1 s" in error.reason for error in hasty.failures.errors
        )


async def test_a_model_that_hangs_again_and_again_is_failed_with_a_remedy_until_a_thread_returns() -> None:
    hang = threading.Event()
    family = Family(lambda _: hang.wait(30))
    slow = {"predict_timeout_seconds": 0.1, "stall_timeout_seconds": 5}
    async with house(family, slow, slow, slow) as runners:
        try:
            await eventually(lambda: all(runner.model_health.state == "failed" for runner in runners), seconds=20)
            assert family.loads == 4
            assert "4 threads hang in m" in (runners[0].model_health.reason or "")
            assert "restart healthd" in (runners[0].model_health.reason or "")
            assert all(runner.health.state == "live" for runner in runners), "their pictures go on"
        finally:
            hang.set()
        await eventually(lambda: all(runner.model_health.state == "ready" for runner in runners))
