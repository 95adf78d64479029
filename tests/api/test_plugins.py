"""Plugins over HTTP: what is installed, what is broken and why, who uses it, how it is set."""

from collections.abc import Callable
from typing import ClassVar

from healthd.cameras.source import PredictOptions
from healthd.plugins import SOURCES, Plugin
from tests.api.house import FakeSource, open_house


class Options(PredictOptions):
    hook: Callable[[], None] | None = None


class Undescribed:
    """A plugin whose settings no JSON Schema can describe."""

    options_model: ClassVar = Options


BROKEN = Plugin("thermal", SOURCES, "healthd-thermal", "2.0", None, "ModuleNotFoundError: No module named 'sdk'")
ODD = Plugin("odd", SOURCES, "healthd-odd", "0.0.1", Undescribed)


async def test_loaded_and_broken_plugins_are_listed_with_who_uses_them() -> None:
    async with open_house(
        {"gym": FakeSource(), "hall": FakeSource()}, cameras={"attic": {"plugin": "thermal"}}, plugins=(BROKEN, ODD)
    ) as house:
        answer = await house.get("/api/v1/plugins")
        assert answer.status_code == 200
        told = {plugin["name"]: plugin for plugin in answer.json()}
        assert list(told) == ["fake", "odd", "thermal", "fake-family"]
        for plugin in told.values():
            assert set(plugin) == {
                "name", "group", "distribution", "version", "state", "reason", "notes", "cameras", "settings",
            }  # fmt: skip
        fake = told["fake"]
        assert (fake["group"], fake["distribution"], fake["version"]) == (SOURCES, "healthd-fake", "0.1")
        assert (fake["state"], fake["reason"], fake["cameras"]) == ("loaded", None, ["gym", "hall"])
        thermal = told["thermal"]
        assert (thermal["state"], thermal["cameras"], thermal["settings"]) == ("broken", ["attic"], None)
        assert thermal["reason"] == "ModuleNotFoundError: No module named 'sdk'"
        assert told["fake-family"]["group"] == "healthd.model_families"
        assert told["fake-family"]["cameras"] == []


async def test_the_settings_of_a_plugin_are_a_json_schema_with_bounds_defaults_and_meanings() -> None:
    async with open_house() as house:
        fake, family = (await house.get("/api/v1/plugins")).json()
        assert fake["settings"]["type"] == "object"
        assert fake["settings"]["additionalProperties"] is False
        confidence = fake["settings"]["properties"]["confidence"]
        assert (confidence["minimum"], confidence["maximum"], confidence["default"]) == (0, 1, 0.25)
        assert confidence["description"]
        assert family["settings"]["properties"]["device"]["default"] == "cpu"


async def test_settings_that_cannot_be_described_cost_nobody_else_the_list() -> None:
    async with open_house(plugins=(ODD,)) as house:
        told = {plugin["name"]: plugin for plugin in (await house.get("/api/v1/plugins")).json()}
        assert told["odd"]["settings"] is None
        assert told["odd"]["state"] == "loaded"
        assert told["fake"]["settings"]
