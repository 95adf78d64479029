"""Models in processes of their own: killed on a hang, told by the signal on a crash, loaded anew once, nothing left."""

import asyncio
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import Predict
from healthd.channel import packed_reply, unpacked_reply
from healthd.children import NURSERY, SUPPORTED
from healthd.errors import (
    BusyError,
    HealthdError,
    ModelCrashed,
    ModelError,
    ModelLost,
    ParameterError,
    PredictError,
    StalledError,
)
from healthd.frames import Image
from healthd.metrics import Metrics
from healthd.models import isolated as isolated_module
from healthd.models.batches import Ask
from healthd.models.catalog import Catalog
from healthd.models.crashes import MOST_CRASHES
from healthd.models.inference import Inference
from healthd.models.isolated import PRELOAD, IsolatedModel, isolated
from healthd.models.isolated_words import Answer, Answers, LoadOrder
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, ModelSpec
from healthd.models.shared import SharedModel
from healthd.models.turns import Rank
from healthd.testing.fakes import FakeClock
from tests.eventually import eventually
from tests.fakes import FakeSource, make_runner
from tests.models.test_manager import Thread, until

PLUGIN = Path(__file__).parent.parent / "model_plugin"
PARAMS = InferenceParams()
pytestmark = pytest.mark.skipif(not SUPPORTED, reason="processes of their own are for Linux")


@pytest.fixture(scope="module", autouse=True)
def fragile() -> Iterator[Any]:
    """The plugin's module; processes that are started meanwhile find it too."""
    sys.path.insert(0, str(PLUGIN))
    NURSERY.close()
    NURSERY.warm_up(PRELOAD)
    import healthd_fragile  # noqa: PLC0415  only these tests see it

    yield healthd_fragile
    sys.path.remove(str(PLUGIN))
    NURSERY.close()


class House:
    """A manager whose models have processes of their own."""

    def __init__(self, fragile: Any, *, lanes: int = 1, load_timeout_seconds: float = 20.0, **options: Any) -> None:
        families = isolated(
            {"fragile": fragile.Fragile()}, lanes=lanes, thread_budget=0, load_timeout_seconds=load_timeout_seconds
        )
        options = {"directory": Path("models"), "stuck_after_seconds": 10.0, **options}
        self.manager = ModelManager(families, concurrency=lanes, load_timeout_seconds=load_timeout_seconds, **options)
        self.words = fragile.WORDS
        self.options = fragile.Options

    def picture(self, word: str, *, size: tuple[int, int] = (4, 6), fill: int = 1) -> Image:
        image = np.full((*size, 3), fill, np.uint8)
        image[0, 0, 0] = self.words.index(word)
        return image

    def ask(self, shared: SharedModel, word: str, **params: Any) -> Any:
        return shared.predict(self.picture(word), InferenceParams(**params))


@pytest.fixture
def house(fragile: Any) -> Iterator[House]:
    house = House(fragile)
    yield house
    house.manager.unload("fragile", "fragile")


def child_of(shared: SharedModel) -> psutil.Process:
    assert isinstance(shared._model, IsolatedModel)
    return psutil.Process(shared._model._child.pid)


def gone(process: psutil.Process) -> bool:
    return not process.is_running()


def test_it_predicts_in_another_process_as_it_would_in_this_one(house: House) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        said = house.ask(shared, "fine", confidence=0.75)
        assert (shared.task, shared.labels) == ("detect", {0: "thing"})
        assert said.metadata["pid"] == child_of(shared).pid != os.getpid()
        assert (said.metadata["width"], said.metadata["height"], said.metadata["confidence"]) == (6, 4, 0.75)
        assert not said.metadata["writeable"]
        assert said.metadata["nice"] > os.getpriority(os.PRIO_PROCESS, 0), "others go first, as with its threads"
        striped = np.asfortranarray(np.arange(9 * 7 * 3, dtype=np.uint8).reshape(9, 7, 3) * 0)[::2, ::-1]
        assert shared.predict(striped, PARAMS).metadata["sum"] == 0
        assert shared.memory_bytes > 5 * 2**20, "what its process holds"
        with pytest.raises(ModelError, match="not an image: float64"):
            shared.predict(np.zeros((3, 3, 3)), PARAMS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "kind", "says"),
    [
        ("model-error", ModelError, "odd image"),
        ("busy", BusyError, "no memory"),
        ("parameter", ParameterError, "classes: no class"),
        ("bug", Exception, "what"),
        ("leave", Exception, "3"),
        ("nan", ModelError, "result 0 is not finite"),
        ("rubbish", Exception, "result 0 is str, not a Detection"),
    ],
)
def test_what_it_raises_comes_over_as_what_it_was_and_the_model_stays_usable(
    house: House, word: str, kind: type[Exception], says: str
) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        process = child_of(shared)
        with pytest.raises(kind, match=says) as caught:
            house.ask(shared, word)
        if word == "bug":
            assert type(caught.value).__name__ == "KeyError"
            assert not isinstance(caught.value, HealthdError)
            assert "_raise(KeyError" in caught.value.__notes__[0], "with the traceback of the other process"
        assert house.ask(shared, "fine").metadata["pid"] == process.pid
        assert len(house.ask(shared, "many", max_det=7).results) == 7


@pytest.mark.parametrize(
    ("word", "says"),
    [("segv", "was ended by SIGSEGV"), ("kill", "was ended by SIGKILL"), ("exit", "ended .* exit status 7")],
)
def test_a_crash_fails_the_prediction_with_its_signal_and_the_next_user_gets_a_fresh_model(
    house: House, word: str, says: str
) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        process = child_of(shared)
        with pytest.raises(ModelError, match=f"the process of fragile {says}"):
            house.ask(shared, word)
        with pytest.raises(ModelError, match=says):  # whoever holds it still
            house.ask(shared, "fine")
        assert house.manager.loaded() == ()
        assert not house.manager.is_current(shared)
        with house.manager.use("fragile", "fragile") as fresh, house.manager.use("fragile", "fragile") as same:
            assert fresh is same is not shared
            assert house.ask(fresh, "fine").metadata["pid"] != process.pid
    assert gone(process)
    assert house.manager.counts["unload", "crashed"] == 1
    assert house.manager.counts["load", "ok"] == 2


def test_who_comes_after_a_crash_is_not_to_blame_for_it(house: House) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        with pytest.raises(ModelCrashed, match="SIGSEGV"):
            house.ask(shared, "segv")
        with pytest.raises(ModelLost, match="SIGSEGV"):
            house.ask(shared, "fine")


def test_who_comes_after_one_that_died_between_two_turns_is_not_to_blame(house: House) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        house.ask(shared, "fine")
        child_of(shared).kill()
        until(lambda: shared.lost)
        with pytest.raises(ModelLost, match="SIGKILL"):
            house.ask(shared, "fine")


def test_who_comes_while_the_crash_of_another_is_being_looked_at_is_not_to_blame(
    fragile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(fragile, lanes=2)
    with house.manager.use("fragile", "fragile", fragile.Options(lanes=2)) as shared:
        model, late = shared._model, list[Thread]()
        assert isinstance(model, IsolatedModel)
        look = model._child.look

        def slow_look(**asked: Any) -> Any:
            late.append(Thread(lambda: house.ask(shared, "fine")))
            until(model._free.empty)
            return look(**asked)

        monkeypatch.setattr(isolated_module, "_hung_up", lambda _: False)  # as in the moment before that is seen
        monkeypatch.setattr(model._child, "look", slow_look)
        with pytest.raises(ModelCrashed, match="SIGSEGV"):
            house.ask(shared, "segv")
        assert isinstance(late[0].ended().error, ModelLost)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_camera_is_not_charged_for_a_crash_while_a_picture_that_was_sent_was_in(fragile: Any, batch: int) -> None:
    lanes = 3 - batch
    house = House(fragile, lanes=lanes, batch_window_seconds=0.0)
    with house.manager.use("fragile", "fragile", fragile.Options(batch=batch, lanes=lanes)) as shared:
        places = [shared.turns.enter(Rank.CAMERA) for _ in range(lanes)]  # those who come meanwhile go in together
        camera = Thread(lambda: house.ask(shared, "slow"))
        until(lambda: len(shared.turns._lines[Rank.CAMERA]) == 1)
        ask = Ask(house.picture("slow-segv"), PARAMS)
        sent = shared.turns.enter(Rank.REQUEST, ask=ask)
        shared.turns._credit = 1.0  # it need not wait for the cameras
        for place in places:
            shared.turns.begin(place)
            shared.turns.leave(place)
        assert sent.wait(5)
        with pytest.raises(ModelCrashed, match="SIGSEGV"):
            shared.predict_in_turn(sent)
        assert isinstance(camera.ended(seconds=5).error, ModelLost)


async def test_pictures_that_break_their_model_again_and_again_are_refused_until_it_has_rested(
    fragile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("healthd.models.crashes.MOST_CRASHES", 2)
    assert MOST_CRASHES == 10, "as a camera has it"
    (tmp_path / "fragile").touch()
    house, clock = House(fragile, directory=tmp_path), FakeClock()
    catalog = Catalog(house.manager.families, directory=tmp_path)
    inference = Inference(house.manager, catalog, metrics=Metrics(), clock=clock.clock)

    async def infer(word: str) -> None:
        async with inference.seat("fragile", PARAMS) as seat:
            await seat.predict(house.picture(word))

    async def broken_twice() -> None:
        for _ in range(2):
            await infer("fine")
            with pytest.raises(PredictError, match=r"ModelCrashed: .*SIGSEGV"):
                await infer("segv")

    try:
        await broken_twice()
        with pytest.raises(
            BusyError, match=r"fragile crashed or hung 2 times within .* SIGSEGV.* rest for 600 s"
        ) as caught:
            await infer("fine")
        assert caught.value.retry_after_seconds == 600
        with house.manager.use("fragile", "fragile", fragile.Options()) as shared:
            house.ask(shared, "fine")  # a camera goes on
        clock.advance(601)
        await infer("fine")
        await broken_twice()
        await inference.load("fragile")
        await infer("fine")
    finally:
        inference.stop()
        house.manager.unload("fragile", str(tmp_path / "fragile"))


async def test_pictures_that_hang_their_model_again_and_again_are_refused_as_those_that_break_it(
    fragile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("healthd.models.crashes.MOST_CRASHES", 2)
    (tmp_path / "fragile").touch()
    house = House(fragile, directory=tmp_path, stuck_after_seconds=0.3)
    inference = Inference(house.manager, Catalog(house.manager.families, directory=tmp_path), metrics=Metrics())
    name = str(tmp_path / "fragile")

    async def hang() -> None:
        async with inference.seat("fragile", PARAMS) as seat:
            await seat.predict(house.picture("hang"))

    try:
        for _ in range(2):
            with house.manager.use("fragile", name) as shared, pytest.raises(StalledError):
                shared.predict(house.picture("hang"), PARAMS)  # what a camera's own picture does is its own affair
        for _ in range(2):
            with pytest.raises(PredictError, match="StalledError: predictor stalled"):
                await hang()
        with pytest.raises(BusyError, match=r"fragile crashed or hung 2 times within .* stalled.* rest for \d+ s"):
            await hang()
    finally:
        inference.stop()
        house.manager.unload("fragile", name)


def test_who_sent_a_picture_of_a_batch_that_hangs_is_told_so_by_the_camera_that_leads_it(fragile: Any) -> None:
    house = House(fragile, batch_window_seconds=0.0, stuck_after_seconds=0.4)
    with house.manager.use("fragile", "fragile", fragile.Options(batch=2)) as shared:
        place = shared.turns.enter(Rank.CAMERA)
        camera = Thread(lambda: house.ask(shared, "slow"))
        until(lambda: len(shared.turns._lines[Rank.CAMERA]) == 1)
        sent = shared.turns.enter(Rank.REQUEST, ask=Ask(house.picture("hang"), PARAMS))
        shared.turns._credit = 1.0  # it need not wait for the cameras
        shared.turns.begin(place)
        shared.turns.leave(place)
        assert sent.wait(5)
        with pytest.raises(StalledError) as told:
            shared.predict_in_turn(sent)
        assert told.value.sent_in
        assert isinstance(camera.ended(seconds=5).error, StalledError)


def test_one_that_dies_while_nobody_uses_it_is_noticed(house: House) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        process = child_of(shared)
    process.kill()
    until(lambda: shared.lost)
    assert house.manager.loaded() == ()
    assert house.manager.share("fragile", "fragile", house.options()) is None
    with house.manager.use("fragile", "fragile") as fresh:
        assert house.ask(fresh, "fine").metadata["pid"] != process.pid
    child_of(fresh).kill()
    until(lambda: fresh.lost)
    house.manager.unload_idle()
    assert house.manager.counts["unload", "crashed"] == 2
    assert gone(process)


def test_a_hang_is_killed_when_its_most_patient_user_has_waited_long_enough_and_costs_no_thread(house: House) -> None:
    patient, hasty = house.manager.patient(0.6), house.manager.patient(0.1)
    with patient.use("fragile", "fragile") as shared, hasty.use("fragile", "fragile"):
        shared.patience_seconds = 0.6
        process, begun = child_of(shared), time.monotonic()
        hung = Thread(lambda: house.ask(shared, "hang"))
        waiting = Thread(lambda: house.ask(shared, "fine"))
        hung.ended(seconds=5)
        assert 0.4 < time.monotonic() - begun < 3
        assert isinstance(hung.error, StalledError)
        assert "predictor stalled: no prediction of fragile within 0." in str(hung.error)
        waiting.ended(seconds=3)
        assert isinstance(waiting.error, StalledError), "who waits behind it does not wait any longer"
        assert shared.lost == "stalled"
        until(lambda: gone(process) or process.status() == psutil.STATUS_ZOMBIE, seconds=5)
    assert gone(process)


def test_a_load_that_hangs_crashes_or_fails_is_an_error_in_words_and_leaves_no_process(fragile: Any) -> None:
    house = House(fragile, load_timeout_seconds=2)
    before = children()
    for word, says in {
        "hang": "was not loaded within 2 s",
        "segv": "the process of fragile was ended by SIGSEGV while it was loaded",
        "parameter": "no class of that name",
    }.items():
        with pytest.raises(HealthdError, match=says):
            house.manager.load("fragile", "fragile", fragile.Options(load=word))
    until(lambda: children() == before)


def test_several_predictions_at_a_time_each_have_a_lane(fragile: Any) -> None:
    house = House(fragile, lanes=3)
    with house.manager.use("fragile", "fragile", fragile.Options(lanes=2)) as shared:
        assert shared.turns.concurrency == 2
        asking = [Thread(lambda: house.ask(shared, "slow")) for _ in range(4)]
        together = [one.ended().result.metadata["together"] for one in asking]
        assert max(together) == 2
    house.manager.unload("fragile", "fragile")


def test_a_batch_crosses_as_one_and_each_gets_its_own_answer(fragile: Any) -> None:
    house = House(fragile)
    with house.manager.use("fragile", "fragile", fragile.Options(batch=4)) as shared:
        model = shared._model
        assert model is not None
        words, sizes = ["fine", "model-error", "nan", "fine"], [(4, 6), (8, 6), (4, 6), (30, 20)]
        images = [house.picture(word, size=size) for word, size in zip(words, sizes, strict=True)]
        said = list(model.predict_batch(images, [PARAMS, PARAMS, PARAMS, InferenceParams(confidence=0.5)]))
        assert [type(one).__name__ for one in said] == ["Prediction", "ModelError", "ModelError", "Prediction"]
        assert (said[3].metadata["height"], said[3].metadata["confidence"]) == (30, 0.5)  # type: ignore[union-attr]
    house.manager.unload("fragile", "fragile")


@pytest.mark.parametrize("number", [0, 2])
def test_a_process_that_gives_another_number_of_answers_is_an_error_of_the_model(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    said = packed_reply(Answers(tuple(Answer() for _ in range(number))))
    with house.manager.use("fragile", "fragile") as shared:
        model = shared._model
        monkeypatch.setattr(isolated_module, "unpacked_reply", lambda _, kind: unpacked_reply(said, kind))
        with pytest.raises(ModelError, match=f"gave {number} answers for one image"):
            model.predict(house.picture(house.words[0]), PARAMS)


def test_an_image_that_the_model_keeps_is_not_written_over(house: House) -> None:
    with house.manager.use("fragile", "fragile") as shared:
        first = house.picture("keep", fill=9)
        kept = shared.predict(first, PARAMS).metadata["kept"]
        for fill in (20, 30, 40):
            assert shared.predict(house.picture("fine", fill=fill), PARAMS).metadata["kept"] == kept
        assert kept == [int(first[:1].sum())]


def test_nothing_is_left_of_models_that_come_and_go(fragile: Any) -> None:
    house = House(fragile, idle_unload_seconds=0.01)
    with house.manager.use("fragile", "fragile"):
        pass
    house.manager.unload("fragile", "fragile")
    before, held = children(), open_descriptors()
    for word in ("fine", "segv", "kill", "fine"):
        with house.manager.use("fragile", "fragile") as shared:
            try:
                house.ask(shared, word)
            except ModelError:
                continue
        time.sleep(0.02)
        house.manager.unload_idle()
    assert not house.manager.holds("fragile", "fragile")
    until(lambda: children() == before)
    until(lambda: open_descriptors() <= held)
    here = psutil.Process().children(recursive=True)
    assert not [one for one in here if one.status() == psutil.STATUS_ZOMBIE and one.pid not in before]


def children() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


def open_descriptors() -> int:
    gc.collect()
    return psutil.Process().num_fds()


class Watched(FakeSource):
    """A camera that writes into each picture what its model shall do."""

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, fps=100)
        self.words = iter(())
        self._house = house
        self._read = lambda: time.sleep(0.01) or house.picture(next(self.words, "fine"))

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:
        with models.use("fragile", "fragile") as shared:
            yield lambda image: shared.predict(image, PARAMS)


def told(runner: CameraRunner, words: str) -> bool:
    return any(words in error.reason for error in runner.failures.errors)


async def test_cameras_of_a_model_that_crashes_or_hangs_go_on_with_a_fresh_one_and_lose_no_thread(house: House) -> None:
    sources = [Watched(f"c{number}", house) for number in range(3)]
    runners = [make_runner(source, models=house.manager, predict_timeout_seconds=1) for source in sources]
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    asked = -math.inf

    def broken(word: str, says: str) -> bool:
        """Whether all were told of it; three pictures say it, again where the model looked at none of them."""
        nonlocal asked
        if not any(told(runner, says) for runner in runners) and time.monotonic() > asked + 4:
            sources[1].words, asked = iter([word] * 3), time.monotonic()
        return all(told(runner, says) for runner in runners)

    try:
        for word, says in (("segv", "SIGSEGV"), ("hang", "predictor stalled: ")):
            await eventually(lambda: all(runner.model_health.state == "ready" for runner in runners), seconds=20)
            loads = house.manager.counts["load", "ok"]
            await eventually(lambda w=word, s=says: broken(w, s), seconds=20)
            assert all(runner.health.state == "live" for runner in runners), "pictures go on"
            sources[1].words = iter(())
            await eventually(lambda: all(runner.model_health.state == "ready" for runner in runners), seconds=20)
            assert house.manager.counts["load", "ok"] == loads + 1, "loaded anew once for all of them"
        assert sum(runner.abandoned.total for runner in runners) == 0
    finally:
        for runner in runners:
            runner.request_stop()
        await asyncio.wait(tasks, timeout=5)


def test_a_process_that_was_stopped_by_a_signal_is_a_hang(house: House) -> None:
    with house.manager.patient(0.4).use("fragile", "fragile") as shared:
        shared.patience_seconds = 0.4
        process = child_of(shared)
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: process.status() == psutil.STATUS_STOPPED)
        with pytest.raises(StalledError):
            house.ask(shared, "fine")


def test_threads_that_ask_and_unload_at_random_find_every_model_usable(fragile: Any) -> None:
    house, stop = House(fragile, lanes=2, idle_unload_seconds=0.01), threading.Event()

    def ask() -> int:
        done = 0
        for _ in range(30):
            with house.manager.use("fragile", "fragile", fragile.Options(lanes=2)) as shared:
                done += house.ask(shared, "fine") is not None
        return done

    def tidy() -> None:
        while not stop.is_set():
            house.manager.unload_idle()
            time.sleep(0.01)

    keeper, asking = Thread(tidy), [Thread(ask) for _ in range(3)]
    assert [one.ended(seconds=30).result for one in asking] == [30] * 3
    stop.set()
    assert keeper.ended().error is None
    house.manager.unload("fragile", "fragile")


def test_all_that_decides_how_a_model_is_loaded_is_told_to_its_process() -> None:
    assert {field.name for field in fields(ModelSpec)} <= set(LoadOrder.__struct_fields__)
