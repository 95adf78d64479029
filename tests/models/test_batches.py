"""Cameras on a model that takes several images at a time: who goes in together, and who gets which answer."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from healthd.errors import ModelError, PredictError, SettingsError
from healthd.frames import Image
from healthd.metrics import Metrics
from healthd.models.batches import Ask
from healthd.models.catalog import Catalog
from healthd.models.inference import Inference
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelSpec, Prediction
from healthd.models.shared import SharedModel
from healthd.models.tally import Tally
from healthd.models.turns import HOLD_SECONDS, LEAD, REQUEST_SHARE, Rank, Turn, Turns, captured
from tests.eventually import eventually
from tests.fakes import picture, prediction
from tests.models.test_manager import Thread, until
from tests.models.test_turns import Line

CAMERA, REQUEST = Rank.CAMERA, Rank.REQUEST


def line_of(batch_size: int, *, window: float = 0.0) -> Line:
    line = Line()
    line.turns.batch_size, line.turns.window_seconds = batch_size, window
    return line


def inside(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.granted_at is not None and not turn.left]


def end(line: Line, leader: Turn, seconds: float) -> None:
    """Spend the turn of somebody who leads, and of those it leads."""
    led = line.turns.begin(leader)
    line.spend(leader, seconds)
    for turn in led:
        line.turns.leave(turn)


def test_those_who_wait_go_in_together_the_oldest_frames_first() -> None:
    line = line_of(3)
    first = line.turns.enter(CAMERA)
    newest, oldest, older, old = (line.turns.enter(CAMERA, since=since) for since in (99.9, 99.1, 99.2, 99.3))
    end(line, first, 0.01)
    assert inside([newest, oldest, older, old]) == [oldest, older, old]
    assert line.turns.begin(oldest) == (older, old)
    end(line, oldest, 0.01)
    assert inside([newest, oldest, older, old]) == [newest]


class Camera:
    """A camera that asks again `pause` seconds after its answer."""

    def __init__(self, line: Line, name: str, pause: float) -> None:
        self.line, self.name, self.pause = line, name, pause
        self.at = line.seconds
        self.turn: Turn | None = None
        self.served = 0


def run(line: Line, cameras: Sequence[Camera], *, cost: Callable[[int], float], seconds: float) -> list[int]:
    """Let cameras live on a clock of half milliseconds; return the size of each batch."""
    sizes, leader, done_at, stop = [], None, 0.0, line.seconds + seconds
    while line.seconds < stop:
        line.pass_time(0.0005)
        if leader is not None and line.seconds >= done_at:
            going = [leader, *leader.led]
            line.turns.begin(leader)
            for turn in going:
                line.turns.leave(turn)
            for camera in cameras:
                if camera.turn in going:
                    camera.turn, camera.at = None, line.seconds + camera.pause
                    camera.served += 1
            leader = None
        for camera in cameras:
            if camera.turn is None and line.seconds >= camera.at:
                camera.turn = line.turns.enter(CAMERA, who=camera.name)
        if leader is None:
            leader = next((camera.turn for camera in cameras if camera.turn in line.turns._inside), None)
            if leader is not None:
                sizes.append(1 + len(leader.led))
                done_at = line.seconds + cost(sizes[-1])
    return sizes


def test_a_batch_waits_for_cameras_that_are_due_and_no_longer_than_the_window() -> None:
    line = line_of(4, window=0.003)
    cameras = [Camera(line, name, pause) for name, pause in (("a", 0.0005), ("b", 0.001), ("c", 0.0015))]
    sizes = run(line, cameras, cost=lambda size: 0.01, seconds=1.0)
    assert Counter(sizes[10:]).most_common(1)[0][0] == 3, "all three are there within the window"
    gone = cameras.pop()
    if gone.turn is not None:
        line.turns.leave(gone.turn)
    sizes = run(line, cameras, cost=lambda size: 0.01, seconds=1.0)
    assert max(sizes[3:]) == 2
    assert len(sizes) > 75, "nobody waits for one who is gone"


def test_one_camera_alone_and_cameras_that_are_not_due_are_not_waited_for() -> None:
    line = line_of(4, window=0.003)
    alone = [line.turns.enter(CAMERA, who="a") for _ in range(3) if line.pass_time(0.01) is None]
    assert alone[0].granted_at is not None
    line.turns.leave(alone[0])
    slow = line_of(4, window=0.003)
    for _ in range(3):
        for who in "ab":
            turn = slow.turns.enter(CAMERA, who=who)
            assert turn.granted_at == slow.seconds, "the other one is due a tenth of a second later"
            end(slow, turn, 0.1)


def test_a_batch_that_nobody_wants_any_more_keeps_no_request_waiting() -> None:
    line = line_of(4, window=0.001)
    for _ in range(3):
        for turn in [line.turns.enter(CAMERA, who=who) for who in "ab"]:
            if not turn.left:
                end(line, turn, 0.01)
    line.pass_time(0.0005)
    gathering = line.turns.enter(CAMERA, who="a")
    assert gathering.granted_at is None, "b is due"
    line.turns.leave(gathering)
    line.pass_time(0.0015)
    request = line.turns.enter(REQUEST)
    assert request.granted_at is None
    line.pass_time(HOLD_SECONDS)
    assert request.granted_at is not None


def test_those_who_were_led_are_expected_as_soon_as_their_batch_ends() -> None:
    line = line_of(3, window=0.003)
    for _ in range(2):
        end(line, line.turns.enter(CAMERA, who="b"), 0.01)  # b asks again at once, whoever else is there
    a, c, b = (line.turns.enter(CAMERA, who=who) for who in "acb")
    assert a.led == (c, b)
    waiting = line.turns.enter(CAMERA, who="d")
    line.turns.begin(a)
    line.spend(a, 0.01)
    assert waiting.granted_at is None, "b has its answer in a moment, and then it asks again"
    line.turns.leave(b)
    assert line.turns.enter(CAMERA, who="b").granted_at is not None
    assert waiting.granted_at is not None


def test_without_a_window_nobody_waits_for_anybody() -> None:
    line = line_of(4)
    cameras = [Camera(line, name, 0.001) for name in "ab"]
    line.pass_time(0.0)
    assert set(run(line, cameras[:1], cost=lambda size: 0.01, seconds=0.2)) == {1}
    assert line.later == []


def test_cameras_that_take_all_there_is_get_equally_much_and_requests_their_share() -> None:
    line = line_of(4)
    cameras = [line.turns.enter(CAMERA) for _ in range(7)]
    requests = [line.turns.enter(REQUEST) for _ in range(3)]
    served, asked, rng = [0] * 7, 0, random.Random(1)
    for _ in range(2000):
        leader = next(turn for turn in [*cameras, *requests] if turn in line.turns._inside)
        going = [leader, *leader.led]
        end(line, leader, 0.02)
        for number in rng.sample(range(7), 7):
            if cameras[number] in going:
                served[number] += 1
                cameras[number] = line.turns.enter(CAMERA)
        for number, request in enumerate(requests):
            if request in going:
                asked += 1
                requests[number] = line.turns.enter(REQUEST)
    assert max(served) - min(served) < 0.05 * max(served)
    assert asked / (asked + sum(served)) == pytest.approx(REQUEST_SHARE, rel=0.1)


def test_requests_go_in_together_when_no_camera_wants_the_place() -> None:
    line = line_of(4)
    camera = line.turns.enter(CAMERA)
    requests = [line.turns.enter(REQUEST) for _ in range(3)]
    end(line, camera, 0.0)
    assert inside(requests) == []
    line.pass_time(HOLD_SECONDS)
    assert inside(requests) == requests
    assert requests[0].led == tuple(requests[1:])


def test_who_leaves_before_it_has_begun_leaves_the_lead_to_the_next() -> None:
    line = line_of(4)
    before = line.turns.enter(CAMERA)
    leader, gone, heir, last = (line.turns.enter(REQUEST) for _ in range(4))
    line.turns.leave(before)
    line.pass_time(HOLD_SECONDS)
    line.turns.leave(gone)
    line.turns.leave(leader)
    assert heir.answer is not None
    assert heir.answer.result(0) is LEAD
    assert line.turns.busy_since == heir.granted_at
    assert line.turns.begin(heir) == (last,)
    line.turns.leave(heir)
    assert line.turns.busy_since is None


class Many(Model):
    """Takes four images at a time; a test says what happens then."""

    task = "detect"
    labels: ClassVar = {0: "person"}
    batch_size = 4

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[InferenceParams]] = []
        self.on_batch: Callable[[], object] = lambda: None
        self.alone = 0

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self.alone += 1
        self.gate.wait(10)
        if params.classes == ("dragon",):
            raise SettingsError("the model has no class `dragon`")
        if params.max_det == 13:
            raise ModelError("bad luck")
        return Prediction("many", float(image[0, 0, 0]), (), {"asked": params.max_det})

    def predict_batch(
        self, images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Sequence[Prediction | Exception]:
        self.batches.append(list(params))
        self.on_batch()
        return super().predict_batch(images, params)


class Family(ModelFamily):
    def __init__(self) -> None:
        self.models: list[Many] = []

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        self.models.append(Many())
        return self.models[-1]


class House:
    """A model that is busy with one camera while others come."""

    def __init__(self, **options: Any) -> None:
        self.family = Family()
        self.sizes: list[int] = []
        self.manager = ModelManager(
            {"fake": self.family},
            **{"directory": Path("models"), **options},
            on_batch=lambda _shared, size: self.sizes.append(size),
        )
        self.shared = self.manager.acquire("fake", "m")
        self.model = self.family.models[0]

    def camera(self, number: int, *, shared: SharedModel | None = None, **params: Any) -> Thread:
        def predict() -> Prediction:
            captured.set(float(number))
            return (shared or self.shared).predict(picture(number), InferenceParams(**params))

        return Thread(predict)

    def together(self, *asked: dict[str, Any]) -> list[Thread]:
        """Let cameras 1, 2 ... ask while camera 0 is in; they go in as soon as it is out."""
        self.model.gate.clear()
        first = self.camera(0)
        until(lambda: self.model.alone == 1)
        threads = []
        for number, params in enumerate(asked, 1):
            threads.append(self.camera(number, **params))
            until(lambda number=number: len(self.shared.turns._lines[CAMERA]) == number)  # type: ignore[misc]
        self.model.gate.set()
        first.ended()
        return [thread.ended() for thread in threads]


def test_each_gets_its_own_answer_and_what_is_true_of_the_batch() -> None:
    house = House()
    answers = [thread.result for thread in house.together({"max_det": 1}, {"max_det": 2}, {"max_det": 3})]
    assert [answer.metadata["asked"] for answer in answers] == [1, 2, 3]
    assert {answer.metadata["batch"] for answer in answers} == {3}
    assert len({answer.inference_time_ms for answer in answers}) == 1, "the time of the batch"
    assert {answer.metadata["width"] for answer in answers} == {64}
    assert house.sizes == [1, 3]
    assert house.shared.predictions == 4
    told = house.shared.describe()
    assert told is not None
    assert told.batch_size == 4
    assert "batch" not in house.camera(0).ended().result.metadata


def test_one_that_fails_fails_alone() -> None:
    house = House()
    good, unlucky, wrong, fine = house.together({}, {"max_det": 13}, {"classes": ("dragon",)}, {})
    assert isinstance(unlucky.error, ModelError)
    assert isinstance(wrong.error, SettingsError)
    assert [good.result.metadata["batch"], fine.result.metadata["batch"]] == [4, 4]


@pytest.mark.parametrize("broken", ["raises", "answers too few"])
def test_where_the_batch_fails_each_image_is_tried_by_itself(broken: str) -> None:
    house = House()

    def fail() -> None:
        raise RuntimeError("out of memory")

    if broken == "raises":
        house.model.on_batch = fail
    else:
        house.model.predict_batch = lambda images, params: []  # type: ignore[method-assign]
    good, unlucky, fine = house.together({"max_det": 1}, {"max_det": 13}, {"max_det": 3})
    assert [good.result.metadata, fine.result.metadata] == [
        {"task": "detect", "width": 64, "height": 48, "asked": asked} for asked in (1, 3)
    ]
    assert isinstance(unlucky.error, ModelError)
    assert house.model.alone == 4
    assert house.shared.turns.busy_since is None


def test_a_library_that_ends_its_thread_leaves_nobody_waiting() -> None:
    house = House()

    def leave() -> None:
        raise SystemExit(3)

    house.model.on_batch = leave
    leader, led = house.together({}, {})
    assert isinstance(leader.error, SystemExit)
    assert isinstance(led.error, ModelError)
    house.model.on_batch = lambda: None
    assert house.camera(1).ended().result is not None


def test_a_batch_that_hangs_holds_one_thread_and_the_next_user_gets_a_fresh_model() -> None:
    house = House(stuck_after_seconds=0.3)
    hung = threading.Event()
    house.model.on_batch = lambda: hung.wait(20)
    try:
        house.model.gate.clear()
        first = house.camera(0)
        until(lambda: house.model.alone == 1)
        others = [house.camera(number) for number in (1, 2, 3)]
        until(lambda: len(house.shared.turns._lines[CAMERA]) == 3)
        house.model.gate.set()
        first.ended()
        until(lambda: sum(other.waits for other in others) == 1)
        errors = [str(other.error) for other in others if not other.waits]
        assert all("no prediction within 0.3 s" in error for error in errors), errors
        assert house.shared.stuck_for() > 0
        until(lambda: house.shared.stuck_for() > 0.3)
        fresh = house.manager.acquire("fake", "m")
        assert fresh is not house.shared
        assert house.camera(1, shared=fresh).ended().result is not None
    finally:
        hung.set()
    for other in others:
        other.ended()


async def test_requests_share_a_batch_and_one_that_leaves_before_it_begins_leaves_the_others_theirs(
    tmp_path: Path,
) -> None:
    (tmp_path / "m").touch()
    house = House(directory=tmp_path)
    inference = Inference(
        house.manager, Catalog({"fake": house.family}, directory=tmp_path), metrics=Metrics(), tally=Tally()
    )
    turns: list[Turn] = house.shared.turns._lines[REQUEST]

    async def infer(asked: int) -> Prediction:
        async with inference.seat("m", InferenceParams(max_det=asked)) as seat:
            return await seat.predict(picture(asked))

    house.model.gate.clear()
    first = house.camera(0)
    await eventually(lambda: house.model.alone == 1)
    tasks = []
    for asked in (1, 2, 3, 13):
        tasks.append(asyncio.create_task(infer(asked)))
        await eventually(lambda asked=asked: len(turns) == len(tasks))  # type: ignore[misc]
    leader = turns[0]
    leader._on_granted = tasks[0].cancel  # it leaves at the moment its turn comes
    house.model.gate.set()
    first.ended()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.metadata["asked"] for answer in answers[1:3] if isinstance(answer, Prediction)] == [2, 3]
    assert isinstance(answers[3], PredictError)
    await eventually(lambda: house.shared.turns.busy_since is None)
    inference.stop()


def test_threads_that_come_and_go_at_random_never_wait_for_ever() -> None:
    """Some leave before their turn, some before they begin; whoever is left gets an answer."""
    turns = Turns(2, batch_size=3, window_seconds=0.001)
    served: Counter[Rank] = Counter()
    sizes: Counter[int] = Counter()
    lock = threading.Lock()

    def user(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            rank = rng.choice([CAMERA, CAMERA, REQUEST])
            turn = turns.enter(rank, who=seed if rank is CAMERA else None)
            try:
                patience = rng.choice([0.0, 0.001, 5.0])
                granted = turn.wait(patience)
                assert granted or patience < 5.0, "it was forgotten"
                if not granted or rng.random() < 0.1:
                    continue
                if turn.answer is not None and turn.answer.result(10) is not LEAD:
                    continue
                led = turns.begin(turn)
                time.sleep(rng.random() / 2000)
                for one in led:
                    assert one.answer is not None
                    one.answer.set_result("an answer")
                with lock:
                    sizes[1 + len(led)] += 1
                    served.update([rank, *(one.rank for one in led)])
            finally:
                turns.leave(turn)

    threads = [Thread(lambda seed=seed: user(seed)) for seed in range(8)]  # type: ignore[misc]
    for thread in threads:
        assert thread.ended(seconds=60).error is None
    assert max(sizes) == 3
    assert served[CAMERA]
    assert served[REQUEST]
    assert turns.busy_since is None
    assert turns.waiting == 0


def test_a_model_that_knows_no_batches_is_asked_one_by_one() -> None:
    class Plain(Model):
        task = "detect"
        labels: ClassVar = {}

        def predict(self, image: Image, params: InferenceParams) -> Prediction:
            if params.max_det == 13:
                raise ModelError("bad luck")
            return prediction(image)

    asked = [InferenceParams(), InferenceParams(max_det=13)]
    first, second = Plain().predict_batch([picture(1), picture(2)], asked)
    assert isinstance(first, Prediction)
    assert isinstance(second, ModelError)
    assert Ask(picture(1), asked[0]).params is asked[0]
