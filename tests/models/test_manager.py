"""Models are loaded once, shared, given back, and never in the way of the next user."""

import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from healthd.clock import Clock
from healthd.errors import ModelError, PluginError, SettingsError
from healthd.models.catalog import found
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.models.shared import SharedModel
from healthd.models.turns import patience
from tests.fakes import picture, prediction

IMAGE, PARAMS = picture(1), InferenceParams()


class Options(ModelOptions):
    device: str = "cpu"


class FakeModel(Model):
    task = "detect"
    labels: ClassVar = {0: "person"}

    def __init__(self, family: "FakeFamily", spec: ModelSpec) -> None:
        self.family, self.spec = family, spec
        self.closed = 0
        self.inside = 0

    def predict(self, image: Any, params: InferenceParams) -> Prediction:
        self.inside += 1
        assert self.inside == 1, "two threads at once"
        assert not self.closed, "used after close"
        try:
            self.family.on_predict()
            return prediction(image)
        finally:
            self.inside -= 1

    def warm_up(self) -> None:
        self.family.on_warm_up()

    def close(self) -> None:
        self.closed += 1
        self.family.on_close()


class FakeFamily(ModelFamily):
    """Remembers what it has loaded; a test says what happens meanwhile."""

    options_model = Options

    def __init__(self, on_load: Callable[[], object] = lambda: None) -> None:
        self.on_load = on_load
        self.on_warm_up: Callable[[], object] = lambda: None
        self.on_predict: Callable[[], object] = lambda: None
        self.on_close: Callable[[], object] = lambda: None
        self.loads = 0
        self.models: list[FakeModel] = []

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        self.loads += 1
        self.on_load()
        model = FakeModel(self, spec)
        self.models.append(model)
        return model


class Thread:
    """A call on a thread of its own that a test may leave behind."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as exc:  # noqa: BLE001  the test looks at it
            self.error = exc

    def ended(self, *, seconds: float = 10.0) -> "Thread":
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call did not end"
        return self

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.seconds)


def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.002)


def make(family: ModelFamily | None = None, **options: Any) -> ModelManager:
    options = {"directory": Path("models"), **options}
    return ModelManager({} if family is None else {"fake": family}, **options)


def test_first_users_who_come_at_once_share_one_load() -> None:
    gate = threading.Event()
    family = FakeFamily(on_load=lambda: gate.wait(10))
    manager = make(family)

    def use() -> object:
        with manager.use("fake", "m") as shared:
            return shared

    users = [Thread(use) for _ in range(8)]
    until(lambda: family.loads == 1)
    gate.set()
    shared = {id(user.ended().result) for user in users}
    assert family.loads == 1
    assert len(shared) == 1
    assert all(user.error is None for user in users)


def test_equal_options_share_a_model_and_other_options_do_not() -> None:
    family = FakeFamily()
    manager = make(family)
    with (
        manager.use("fake", "m", Options(device="cpu")) as first,
        manager.use("fake", "m", Options(device="cpu")) as second,
        manager.use("fake", "m", Options(device="gpu")) as third,
        manager.use("fake", "other", Options(device="cpu")) as fourth,
    ):
        assert first is second
        assert len({id(first), id(third), id(fourth)}) == 3
        assert first.users == 2
        assert sorted((model.model_id, model.users) for model in manager.loaded()) == [("m", 1), ("m", 2), ("other", 1)]
    assert family.loads == 3


def test_two_names_of_one_file_are_one_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"weights")
    family = FakeFamily()
    manager = make(family, directory=tmp_path)
    with manager.use("fake", "m.onnx") as first, manager.use("fake", str(tmp_path / "m.onnx")) as second:
        assert first is second


def test_a_model_is_warm_before_its_first_user_gets_it() -> None:
    family = FakeFamily()
    family.on_warm_up = lambda: seen.append("warm")
    seen: list[str] = []
    with make(family).use("fake", "m") as shared:
        seen.append("used")
        assert shared.predict(IMAGE, PARAMS).model_id == "fake"
        assert (shared.task, shared.labels) == ("detect", {0: "person"})
    assert seen == ["warm", "used"]


def test_what_is_loaded_can_be_told() -> None:
    now = Time()
    family = FakeFamily(on_load=lambda: setattr(now, "seconds", now.seconds + 2))
    manager = make(family, clock=now.clock)
    with manager.use("fake", "m") as shared:
        shared.predict(IMAGE, PARAMS)
        now.seconds += 5
        (told,) = manager.loaded()
    assert (told.model_id, told.family, told.task, told.users, told.predictions) == ("m", "fake", "detect", 1, 1)
    assert (told.load_seconds, told.last_used_age_seconds, told.memory_bytes) == (2, 5, None)


def test_a_model_that_cannot_tell_its_memory_is_told_all_the_same() -> None:
    class Shy(FakeModel):
        @property
        def memory_bytes(self) -> int | None:
            raise RuntimeError("no idea")

    family = FakeFamily()
    family.load = lambda spec: Shy(family, spec)
    manager = make(family)
    with manager.use("fake", "m"):
        assert manager.loaded()[0].memory_bytes is None


def test_a_model_left_by_all_stays_for_a_while_and_is_then_unloaded() -> None:
    now, family = Time(), FakeFamily()
    manager = make(family, clock=now.clock, idle_unload_seconds=300)
    with manager.use("fake", "m"):
        now.seconds += 1000
        assert manager.unload_idle() == 0
    assert manager.unload_idle() == 0  # idle counts from the last release, not from the last prediction
    now.seconds += 299
    with manager.use("fake", "m"):
        pass
    assert family.loads == 1
    now.seconds += 300
    assert manager.unload_idle() == 1
    assert family.models[0].closed == 1
    assert manager.loaded() == ()
    with manager.use("fake", "m"):
        assert family.loads == 2


def test_with_zero_idle_seconds_nothing_is_ever_unloaded() -> None:
    now, family = Time(), FakeFamily()
    manager = make(family, clock=now.clock, idle_unload_seconds=0)
    with manager.use("fake", "m"):
        pass
    now.seconds += 1e6
    assert manager.unload_idle() == 0
    assert len(manager.loaded()) == 1


def test_a_model_that_fails_to_close_does_not_keep_the_others() -> None:
    now, family = Time(), FakeFamily()
    manager = make(family, clock=now.clock, idle_unload_seconds=10)
    for name in ("first", "second", "third"):
        with manager.use("fake", name):
            pass

    def explode() -> None:
        raise RuntimeError("driver is gone")

    family.on_close = explode
    now.seconds += 10
    assert manager.unload_idle() == 3
    assert [model.closed for model in family.models] == [1, 1, 1]
    assert manager.loaded() == ()


@pytest.mark.parametrize(
    ("raised", "seen_by_others"),
    [
        (SettingsError("no such file"), SettingsError),
        (PluginError("install the extra"), SettingsError),
        (ModelError("out of memory"), ModelError),
        (ZeroDivisionError("oops"), ModelError),
        (SystemExit(3), ModelError),
    ],
)
def test_a_failed_load_reaches_everybody_who_waits_and_is_not_remembered(
    raised: BaseException, seen_by_others: type[Exception]
) -> None:
    gate, fail = threading.Event(), [True]

    def on_load() -> None:
        gate.wait(10)
        if fail[0]:
            raise raised

    family = FakeFamily(on_load=on_load)
    manager = make(family)

    def use() -> object:
        with manager.use("fake", "m") as shared:
            return shared.predict(IMAGE, PARAMS)

    first = Thread(use)
    until(lambda: family.loads == 1)
    others = [Thread(use) for _ in range(3)]
    until(lambda: all(model.users == 4 for model in manager._models.values()))
    gate.set()
    assert first.ended().error is raised
    for other in others:
        assert isinstance(other.ended().error, seen_by_others)
    assert manager.loaded() == ()
    fail[0] = False
    assert Thread(use).ended().result is not None
    assert manager.loaded()[0].users == 0


def test_a_model_that_fails_to_warm_up_is_given_back() -> None:
    family = FakeFamily()

    def explode() -> None:
        raise ModelError("no kernel for this")

    family.on_warm_up = explode
    manager = make(family)
    with pytest.raises(ModelError, match="no kernel"), manager.use("fake", "m"):
        pass
    assert family.models[0].closed == 1
    assert manager.loaded() == ()


@pytest.mark.parametrize("broken", ["not a model", "no task"])
def test_a_family_that_breaks_the_contract_is_named_and_hurts_nobody_else(broken: str) -> None:
    class Silent(Model):
        def predict(self, image: Any, params: InferenceParams) -> Prediction:
            return prediction(image)

    family = FakeFamily()
    family.load = lambda spec: Silent() if broken == "no task" else {"weights": 1}
    manager = make(family)
    with pytest.raises(TypeError, match=r"FakeFamily|Silent"), manager.use("fake", "m"):
        pass
    assert manager.loaded() == ()


def test_an_unknown_family_is_named_with_those_that_are_installed() -> None:
    with (
        pytest.raises(PluginError, match=r"`yolo` is installed \(installed: fake\)"),
        make(FakeFamily()).use("yolo", "m"),
    ):
        pass
    with pytest.raises(PluginError, match="none"), make().use("yolo", "m"):
        pass


def test_one_prediction_at_a_time_and_the_others_wait_their_turn() -> None:
    gate = threading.Event()
    family = FakeFamily()
    family.on_predict = lambda: gate.wait(10)
    manager = make(family)
    with manager.use("fake", "m") as shared:
        callers = [Thread(lambda: shared.predict(IMAGE, PARAMS)) for _ in range(3)]
        until(lambda: family.models[0].inside == 1)
        gate.set()
        for caller in callers:
            assert caller.ended().error is None
        assert shared.predictions == 3


def test_a_failed_prediction_leaves_the_model_usable() -> None:
    family = FakeFamily()

    def explode() -> None:
        raise ModelError("odd image")

    family.on_predict = explode
    with make(family).use("fake", "m") as shared:
        with pytest.raises(ModelError, match="odd image"):
            shared.predict(IMAGE, PARAMS)
        family.on_predict = lambda: None
        assert shared.predict(IMAGE, PARAMS)
        assert shared.predictions == 1


@pytest.mark.parametrize(
    ("others", "own", "says"),
    [
        (10.0, 0.05, r"predictor stalled: m is busy, no turn within 0\.05 s"),
        (0.05, 10.0, r"predictor stalled: m has not answered for 0\."),
    ],
)
def test_a_turn_that_does_not_come_is_an_error_in_words(others: float, own: float, says: str) -> None:
    """Who waits in line waits no longer than it may, and leaves a model that hangs as soon as that is known."""
    gate, family = threading.Event(), FakeFamily()
    family.on_predict = lambda: gate.wait(10)
    manager = make(family, stuck_after_seconds=others)

    def late(shared: SharedModel) -> None:
        patience.set(own)
        shared.predict(IMAGE, PARAMS)

    with manager.use("fake", "m") as shared:
        first = Thread(lambda: shared.predict(IMAGE, PARAMS))
        until(lambda: family.models[0].inside == 1)
        second = Thread(lambda: late(shared)).ended(seconds=2)
        assert isinstance(second.error, ModelError)
        assert re.search(says, str(second.error))
        gate.set()
        first.ended()


def test_a_stuck_prediction_makes_the_next_user_get_a_fresh_model() -> None:
    now, hang, family = Time(), threading.Event(), FakeFamily()
    manager = make(family, clock=now.clock, stuck_after_seconds=10)

    def stuck() -> None:
        with manager.use("fake", "m") as shared:
            shared.predict(IMAGE, PARAMS)

    family.on_predict = lambda: hang.wait(10)
    hanging = Thread(stuck)
    until(lambda: family.models and family.models[0].inside == 1)
    family.on_predict = lambda: None
    now.seconds += 10
    with manager.use("fake", "m"):
        assert family.loads == 1  # ten seconds may still be an honest prediction
    now.seconds += 0.1
    with manager.use("fake", "m") as fresh:
        assert family.loads == 2
        assert fresh.predict(IMAGE, PARAMS)
        hang.set()
        hanging.ended()
        assert [model.closed for model in family.models] == [1, 0]  # the old one goes with its last user
    assert len(manager.loaded()) == 1


def test_a_stuck_load_makes_the_next_user_get_a_fresh_model() -> None:
    now, hang = Time(), threading.Event()
    family = FakeFamily(on_load=lambda: hang.wait(10))
    manager = make(family, clock=now.clock, load_timeout_seconds=60)

    def use() -> object:
        with manager.use("fake", "m") as shared:
            return shared

    hanging = Thread(use)
    until(lambda: family.loads == 1)
    family.on_load = lambda: None
    now.seconds += 60.1
    with manager.use("fake", "m"):
        assert family.loads == 2
        hang.set()
        hanging.ended()
        until(lambda: len(family.models) == 2)
        late = family.models[1]
        assert late.closed == 1
    assert family.models[0].closed == 0


def test_who_waits_for_a_load_waits_no_longer_than_it_may_take() -> None:
    hang = threading.Event()
    family = FakeFamily(on_load=lambda: hang.wait(10))
    manager = make(family, load_timeout_seconds=0.1)

    def use() -> object:
        with manager.use("fake", "m") as shared:
            return shared

    first = Thread(use)
    until(lambda: family.loads == 1)
    waiting = Thread(use).ended()
    assert isinstance(waiting.error, ModelError)
    assert "was not loaded within 0.1 s" in str(waiting.error)
    hang.set()
    assert first.ended().error is None


def test_a_model_that_goes_while_it_is_told_about_is_left_out() -> None:
    family = FakeFamily()
    manager = make(family)
    with manager.use("fake", "m") as shared:
        pass
    shared.close()
    assert manager.loaded() == ()
    with pytest.raises(ModelError, match="m is not loaded"):
        shared.predict(IMAGE, PARAMS)


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_was_replaced_is_loaded_by_its_next_user_and_left_to_those_who_had_it(
    tmp_path: Path, *, folder: bool
) -> None:
    name = "net_openvino_model" if folder else "net.onnx"
    file = tmp_path / name / "net.xml" if folder else tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"one")
    family = FakeFamily()
    manager = make(family, directory=tmp_path)
    with manager.use("fake", name) as before:
        with manager.use("fake", name) as same:
            assert same is before
        file.with_suffix(".new").write_bytes(b"another")
        file.with_suffix(".new").replace(file)
        with manager.use("fake", name) as after:
            assert after is not before
            assert manager.share("fake", name, after.spec.options) is after
            assert family.loads == 2


def test_resolve_takes_a_path_before_a_name_in_the_models_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, models, home = tmp_path / "here", tmp_path / "models", tmp_path / "home"
    for folder in (here, models, home):
        folder.mkdir()
        (folder / "both.onnx").write_bytes(b"x")
    (models / "only.onnx").write_bytes(b"x")
    (models / "folder_openvino_model").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert found("both.onnx", models) == here / "both.onnx"
    assert found("only.onnx", models) == models / "only.onnx"
    assert found("folder_openvino_model", models) == models / "folder_openvino_model"
    assert found(str(models / "only.onnx"), models) == models / "only.onnx"
    assert found("~/both.onnx", models) == home / "both.onnx"
    assert found("none.onnx", models) is None


@pytest.mark.parametrize("odd", ["", "a" * 5000, "~nobody-of-that-name/x", "nul\0byte"])
def test_a_model_id_that_can_be_no_file_is_found_nowhere(odd: str, tmp_path: Path) -> None:
    assert found(odd, tmp_path) is None


def test_many_users_at_once_find_every_model_loaded_once_and_never_closed_under_them() -> None:
    """Bounded random use of few models by many threads, with one that unloads all the time."""
    now, family = Time(), FakeFamily()
    manager = make(family, clock=now.clock, idle_unload_seconds=0.5)
    failing = ModelError("no memory now")

    def on_load() -> None:
        if random.random() < 0.2:
            raise failing

    family.on_load = on_load
    stop = threading.Event()

    def user(seed: int) -> int:
        choose, predictions = random.Random(seed), 0
        for _ in range(60):
            try:
                with ExitStack() as held:
                    for _ in range(choose.randint(1, 2)):
                        shared = held.enter_context(manager.use("fake", f"m{choose.randint(0, 2)}"))
                        shared.predict(IMAGE, PARAMS)
                        predictions += 1
            except ModelError as exc:
                assert str(exc) == "no memory now"  # noqa: PT017  every other one is a bug
        return predictions

    def housekeeping() -> None:
        while not stop.is_set():
            now.seconds += 0.2
            manager.unload_idle()
            manager.loaded()
            time.sleep(0.0005)

    keeper = Thread(housekeeping)
    users = [Thread(lambda seed=seed: user(seed)) for seed in range(8)]
    for one in users:
        assert one.ended(seconds=30).error is None
    stop.set()
    assert keeper.ended().error is None
    assert all(model.users == 0 for model in manager._models.values())
    still_loaded = len(manager.loaded())
    assert sum(model.closed for model in family.models) == len(family.models) - still_loaded
    assert all(model.closed <= 1 for model in family.models)
    assert sum(one.result for one in users) > 100
