"""Sources are made from plugins and settings; one that cannot be made leaves its reason and hurts nobody else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from healthd.cameras import factory
from healthd.cameras.factory import make_source, make_sources
from healthd.cameras.source import CameraSource, PredictOptions, Read, SourceOptions
from healthd.errors import PluginError, SettingsError
from healthd.plugins import SOURCES, Plugin, Plugins
from healthd.redact import SourceUrl
from healthd.settings import CameraSettings
from tests.eventually import eventually


class Steps(CameraSource):
    options_model = PredictOptions

    @contextmanager
    def camera(self) -> Iterator[Read]:
        yield lambda: None


def plugins(*sources: type[CameraSource]) -> Plugins[type[CameraSource]]:
    return Plugins(
        SOURCES,
        [
            *(Plugin(source.__name__.lower(), SOURCES, "dist", "1.0", source) for source in sources),
            Plugin("broken", SOURCES, "dist", "1.0", None, "ModuleNotFoundError: No module named 'sdk'"),
        ],
    )


def settings(plugin: str = "steps", **values: Any) -> CameraSettings:
    return CameraSettings.model_validate({"plugin": plugin, **values})


def test_a_source_gets_its_name_url_and_validated_options() -> None:
    made = make_source(
        plugins(Steps), "gym", settings(url="rtsp://user:hunter2hunter2@cam.lan/1", options={"confidence": 0.6})
    )
    assert (made.name, made.url) == ("gym", SourceUrl("rtsp://user:hunter2hunter2@cam.lan/1"))
    assert made.params is not None
    assert made.params.confidence == 0.6


@pytest.mark.parametrize(
    ("camera", "kind", "reason"),
    [
        (settings("stepz"), PluginError, "did you mean `steps`?"),
        (settings("broken"), PluginError, "plugin `broken` (dist 1.0) is broken: ModuleNotFoundError"),
        (settings(options={"confidence": 2}), SettingsError, "cameras.gym.options.confidence: Input should be less"),
    ],
)
def test_what_cannot_be_made_says_why(camera: CameraSettings, kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind) as raised:
        make_source(plugins(Steps), "gym", camera)
    assert reason in str(raised.value)


def broken_in(what: str) -> type[CameraSource]:
    """A plugin with one mistake."""

    class Mistaken(Steps):
        def __init__(self, name: str, *, url: SourceUrl | None = None, options: SourceOptions | None = None) -> None:
            if what == "constructor":
                raise KeyError(f"no {url.reveal() if url else ''}")
            if what == "exit":
                raise SystemExit("licence expired")
            if what == "settings":
                raise SettingsError("this model of camera has no second stream")
            if what != "super":
                super().__init__(name, url=url, options=options)

        @property
        def recording(self) -> bool:
            return 1 / 0 > 1 if what == "recording" else False

        @property
        def model_id(self) -> str | None:
            return str(self.options.model) if what == "model_id" else None  # type: ignore[attr-defined]

    return Mistaken


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("constructor", "plugin `mistaken` failed: KeyError"),
        ("exit", "plugin `mistaken` failed: SystemExit"),
        ("settings", "this model of camera has no second stream"),
        ("super", "plugin `mistaken` failed: AttributeError"),
        ("recording", "plugin `mistaken` failed: ZeroDivisionError"),
        ("model_id", "plugin `mistaken` failed: AttributeError"),
    ],
)
async def test_a_plugin_with_a_bug_costs_its_own_camera_alone(what: str, reason: str) -> None:
    known = plugins(Steps, broken_in(what))
    made = await make_sources(
        known,
        {"one": settings(), "two": settings("mistaken", url="rtsp://u:hunter2hunter2@cam.lan"), "three": settings()},
    )
    assert list(made) == ["one", "two", "three"]
    assert isinstance(made["one"], Steps)
    assert isinstance(made["three"], Steps)
    told = made["two"]
    assert isinstance(told, str)
    assert reason in told
    assert "hunter2" not in told


async def test_something_that_is_no_source_is_told() -> None:
    class Odd(Steps):
        def __new__(cls, *args: object, **kwargs: object) -> Any:
            return {"camera": 1}

    made = await make_sources(plugins(Odd), {"gym": settings("odd")})
    assert made["gym"] == "plugin `odd` failed: TypeError: made dict, not a CameraSource"


async def test_a_constructor_that_hangs_is_given_up_and_the_next_camera_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(factory, "MAKE_SECONDS", 0.2)
    hang = threading.Event()

    class Slow(Steps):
        def __init__(self, name: str, **_: Any) -> None:
            hang.wait(10)
            super().__init__(name)

    made = await make_sources(plugins(Slow, Steps), {"slow": settings("slow"), "gym": settings()})
    hang.set()
    assert made["slow"] == "plugin `slow` did not make its camera within 0.2 s"
    assert isinstance(made["gym"], Steps)


async def test_a_constructor_that_hangs_is_not_tried_again_until_it_has_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(factory, "MAKE_SECONDS", 0.05)
    hang, tries = threading.Event(), list[str]()

    class Slow(Steps):
        def __init__(self, name: str, **_: Any) -> None:
            tries.append(name)
            hang.wait(10)
            super().__init__(name)

    async def make() -> CameraSource | str:
        return (await make_sources(plugins(Slow), {"slow": settings("slow")}))["slow"]

    for _ in range(3):
        assert isinstance(await make(), str)
    assert tries == ["slow"]
    assert "still hangs" in str(await make())
    hang.set()
    await eventually(lambda: not factory._HUNG["slow", "slow"].alive)
    monkeypatch.setattr(factory, "MAKE_SECONDS", 10)
    assert isinstance(await make(), Steps)
