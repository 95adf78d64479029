"""Cameras that share one model: whoever has the oldest frame goes first, and what is too much is shed evenly."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import Predict
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.models.turns import captured
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner, prediction


class SlowModel(Model):
    """Takes its time for each image, and notes how old each was when its turn came."""

    task = "detect"
    labels: ClassVar[dict[int, str]] = {}

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._inside = threading.Lock()
        self.start_ages: list[float] = []

    def predict(self, image: np.ndarray, params: InferenceParams) -> Prediction:
        assert self._inside.acquire(blocking=False), "two are inside"
        with self._inside_released():
            at = captured.get()
            assert at is not None
            self.start_ages.append(time.monotonic() - at)
            time.sleep(self._seconds)
            return prediction(image)

    @contextmanager
    def _inside_released(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._inside.release()


class SlowFamily(ModelFamily):
    def __init__(self, seconds: float) -> None:
        self.model = SlowModel(seconds)

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        return self.model


class Sharing(FakeSource):
    """A camera whose model comes from the manager, as those of real plugins do."""

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        with models.use("slow", "m") as shared:
            yield lambda image: shared.predict(image, InferenceParams())


@asynccontextmanager
async def house(family: SlowFamily, fps: Sequence[float]) -> AsyncIterator[list[CameraRunner]]:
    models = ModelManager({"slow": family}, directory=Path("models"))
    runners = [
        make_runner(Sharing(f"c{number}", fps=rate), models=models, predict_timeout_seconds=5, stall_timeout_seconds=5)
        for number, rate in enumerate(fps)
    ]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield runners
    finally:
        for runner in runners:
            runner.request_stop()
        await asyncio.wait(tasks, timeout=5)


async def predicted_meanwhile(runners: list[CameraRunner], predictions: int) -> list[int]:
    """Count what each camera got while all of them together got so many."""
    await eventually(lambda: all(runner.counts.predicted >= 2 for runner in runners))
    before = [runner.counts.predicted for runner in runners]
    await eventually(lambda: sum(r.counts.predicted for r in runners) - sum(before) >= predictions, seconds=20)
    return [runner.counts.predicted - then for runner, then in zip(runners, before, strict=True)]


async def test_a_model_that_is_too_slow_for_four_equal_cameras_sees_each_as_often_as_the_others() -> None:
    async with house(SlowFamily(0.02), [50.0] * 4) as runners:
        got = await predicted_meanwhile(runners, 160)
        assert max(got) - min(got) < 0.1 * max(got), got
        assert all(runner.counts.in_hand <= 2 for runner in runners), "nothing queues"
        assert all(runner.counts.dropped["replaced"] > 0 for runner in runners), "what is too much is dropped"


async def test_a_faster_camera_gets_no_more_of_a_model_that_is_too_slow() -> None:
    async with house(SlowFamily(0.04), [100.0, 100.0, 25.0, 25.0]) as runners:
        got = await predicted_meanwhile(runners, 80)
        assert max(got) - min(got) <= 0.1 * max(got), got


async def test_nobody_waits_longer_than_the_others_take() -> None:
    family = SlowFamily(0.02)
    async with house(family, [50.0] * 4) as runners:
        await predicted_meanwhile(runners, 100)
    assert np.percentile(family.model.start_ages, 90) < 1.5 * (1 / 50 + 4 * 0.02), "a frame's wait, then one turn each"
