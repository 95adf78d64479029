"""Whatever users do, in any order, from several threads: no deadlock, no limit exceeded, nothing used after close."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from healthd.errors import ModelError, SettingsError
from healthd.models.batches import Ask
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.models.room import Limits
from healthd.models.shared import SharedModel
from healthd.models.turns import Rank
from tests.fakes import picture, prediction

IMAGE, PARAMS = picture(1), InferenceParams()
SIZES = {"a": 1, "b": 2, "c": 3, "d": 1, "e": 2}
"""Memory of each model; `d` fails to load every other time, `e` fails to predict."""


class Watched(Model):
    task = "detect"
    labels: ClassVar = {0: "person"}

    def __init__(self, family: "Family", name: str) -> None:
        self.family, self.name = family, name
        self.inside = 0
        self.closed = False

    @property
    def memory_bytes(self) -> int:
        return SIZES[self.name]

    def predict(self, image: Any, params: InferenceParams) -> Prediction:
        self.family.check(not self.closed, f"{self.name} is used after it was closed")
        self.inside += 1
        self.family.check(self.inside == 1, f"two threads are inside {self.name}")
        time.sleep(0.0002)
        self.inside -= 1
        self.family.check(not self.closed, f"{self.name} was closed while it was used")
        if self.name == "e":
            raise ModelError("cannot")
        return prediction(image)

    def close(self) -> None:
        self.family.check(not self.closed, f"{self.name} is closed twice")
        self.family.check(self.inside == 0, f"{self.name} is closed while it is used")
        self.closed = True
        time.sleep(0.002)
        self.family.gone(self)


class Family(ModelFamily):
    """Remembers what is alive, and what should never have been."""

    def __init__(self, limits: Limits, *, estimates: bool = True) -> None:
        self.limits = limits
        self.estimates = estimates
        """Whether it knows what a model will take; if not, it is found out when it is loaded."""
        self.wrong: list[str] = []
        self.alive: list[Watched] = []
        self.lock = threading.Lock()
        self.loads = 0

    def check(self, holds: object, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)

    def serves(self, model_id: str) -> bool:
        return model_id in SIZES

    def estimate_bytes(self, spec: ModelSpec) -> int:
        return SIZES[spec.model_id] if self.estimates else 0

    def load(self, spec: ModelSpec) -> Model:
        model = Watched(self, spec.model_id)
        with self.lock:
            self.loads += 1
            fails = spec.model_id == "d" and self.loads % 2 == 0
            if not fails:
                self.alive.append(model)
            count, held = len(self.alive), sum(SIZES[one.name] for one in self.alive)
            self.check(count <= self.limits.max_loaded, f"{count} models are loaded")
            if self.estimates:
                self.check(held <= self.limits.memory_bytes, f"the models take {held}")
        time.sleep(0.0005)
        if fails:
            raise SettingsError("d cannot be loaded")
        return model

    def gone(self, model: Watched) -> None:
        with self.lock:
            self.alive.remove(model)


class User:
    """One thread: does what it was told, and remembers what it holds."""

    def __init__(self, manager: ModelManager) -> None:
        self.manager = manager
        self.held: list[SharedModel] = []

    def act(self, what: str, name: str) -> None:
        with contextlib.suppress(ModelError, SettingsError):  # busy, no room, broken: all of them honest answers
            getattr(self, what)(name)

    def acquire(self, name: str) -> None:
        self.held.append(self.manager.acquire("fake", name))

    def share(self, name: str) -> None:
        shared = self.manager.share("fake", name, ModelOptions(), or_pinned=True)
        if shared is not None:
            self.held.append(shared)

    def release(self, name: str) -> None:
        if self.held:
            self.manager.release(self.held.pop(0))

    def use(self, name: str) -> None:
        with self.manager.use("fake", name) as shared:
            shared.predict(IMAGE, PARAMS)

    def predict(self, name: str) -> None:
        for shared in self.held:
            shared.predict(IMAGE, PARAMS)

    def request(self, name: str) -> None:
        for shared in self.held:
            turn = shared.turns.enter(Rank.REQUEST, ask=Ask(IMAGE, PARAMS))
            if turn.wait(5):
                shared.predict_in_turn(turn)
            else:
                shared.turns.leave(turn)

    def cancel(self, name: str) -> None:
        for shared in self.held:
            shared.turns.leave(shared.turns.enter(Rank.REQUEST))

    def evict(self, name: str) -> None:
        self.manager.unload("fake", name)

    def idle(self, name: str) -> None:
        self.manager.unload_idle()

    def look(self, name: str) -> None:
        self.manager.loaded()
        self.manager.is_loading("fake", name)

    def give_all_back(self) -> None:
        while self.held:
            self.manager.release(self.held.pop())


ACTS = ["acquire", "share", "release", "use", "predict", "request", "cancel", "evict", "idle", "look"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(sorted(SIZES))), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plans=st.lists(STEPS, min_size=2, max_size=4),
    most=st.integers(min_value=1, max_value=4),
    memory=st.integers(min_value=3, max_value=6),
    estimates=st.booleans(),
)
def test_no_order_of_calls_deadlocks_exceeds_a_limit_or_unloads_a_model_in_use(
    plans: list[list[tuple[str, str]]], most: int, memory: int, *, estimates: bool
) -> None:
    limits = Limits(most, memory)
    family = Family(limits, estimates=estimates)
    manager = ModelManager(
        {"fake": family},
        directory=Path("none"),
        limits=limits,
        room_timeout_seconds=0.02,
        idle_unload_seconds=0.001,
        load_timeout_seconds=30,
        stuck_after_seconds=30,
    )
    users = [User(manager) for _ in plans]
    bugs: list[BaseException] = []

    def run(user: User, plan: list[tuple[str, str]]) -> None:
        try:
            for what, name in plan:
                user.act(what, name)
            user.give_all_back()
        except BaseException as exc:  # noqa: BLE001  the test shows it
            bugs.append(exc)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(users, plans, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a user waits for ever"
    assert not bugs
    assert not family.wrong
    assert all(model.users == 0 for model in manager.loaded())
    assert sum(SIZES[model.name] for model in family.alive) <= memory
    for name in SIZES:
        manager.unload("fake", name)
    assert family.alive == [], "what nobody uses can be unloaded, every bit of it"


def test_sixteen_who_want_more_than_there_is_room_for_get_it_in_turn_or_are_told() -> None:
    limits = Limits(2, 4)
    family = Family(limits)
    manager = ModelManager({"fake": family}, directory=Path("none"), limits=limits, room_timeout_seconds=10)
    served: list[str] = []

    def run(name: str) -> None:
        with manager.use("fake", name) as shared:
            shared.predict(IMAGE, PARAMS)
            served.append(name)

    threads = [threading.Thread(target=run, args=("abc"[number % 3],), daemon=True) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(served) == 16, "whoever waited for room got it"
    assert not family.wrong
