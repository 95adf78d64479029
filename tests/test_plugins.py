"""Plugins: entry points by name; a broken one is listed with its reason and hurts nobody else."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from healthd.cameras.source import CameraSource, PredictOptions, SourceOptions
from healthd.daemon import check_family
from healthd.errors import PluginError, SettingsError
from healthd.plugins import FAMILIES, IMPORT_SECONDS, SOURCES, load_plugins, validated_options
from tests.installing import GOOD, Site, loaded

NO_CAMERA = "from healthd.cameras.source import CameraSource\nclass Source(CameraSource): pass"
SAYS_NOTHING = GOOD.replace("contract = 1", "")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with Site(tmp_path, monkeypatch) as folder:
        yield folder


async def reason_of(points: list[EntryPoint], name: str) -> str:
    """Why the plugin is broken."""
    plugins = await loaded(points)
    (plugin,) = [plugin for plugin in plugins if plugin.name == name]
    assert plugin.target is None
    assert plugin.reason
    with pytest.raises(PluginError) as raised:
        plugins.get(name)
    assert plugin.reason in str(raised.value)
    return plugin.reason


async def test_a_plugin_is_loaded_with_the_distribution_and_version_it_came_from(site: Site) -> None:
    (plugin,) = await loaded(site("steps", GOOD, distribution="healthd-steps", version="0.3.1"))
    assert (plugin.name, plugin.group, plugin.distribution, plugin.version) == (
        "steps",
        SOURCES,
        "healthd-steps",
        "0.3.1",
    )
    assert plugin.reason is None
    assert issubclass(plugin.require(), CameraSource)


async def test_plugins_stand_in_the_order_of_their_names(site: Site) -> None:
    points = site("zebra", GOOD) + site("ant", GOOD)
    assert [plugin.name for plugin in await loaded(points)] == ["ant", "zebra"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_vendor_sdk", "ModuleNotFoundError: No module named 'no_such_vendor_sdk'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit('licence expired')", "SystemExit: licence expired"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("x = 1 / 0", "ZeroDivisionError: division by zero"),
        ("class X(BaseException): __str__ = None\nraise X", "X"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("Source = 3", "the entry point names 3, not a subclass of CameraSource"),
        ("class Source: pass", "not a subclass of CameraSource"),
        ("from healthd.models.model import ModelFamily as Source", "not a subclass of CameraSource"),
        ("class Other: pass", "AttributeError: module 'broken' has no attribute 'Source'"),
        (NO_CAMERA, "Source does not implement camera"),
        (GOOD + "        contract = 99", "contract 99, this healthd speaks contract 1: upgrade healthd"),
        (GOOD + "        contract = 0", "contract 0, this healthd speaks contract 1: upgrade the plugin"),
        (GOOD + "        contract = '1'", "contract '1', this healthd speaks contract 1: upgrade the plugin"),
        (SAYS_NOTHING, "Source does not say which contract it was written for, this healthd speaks contract 1"),
        (SAYS_NOTHING, "its author adds the line `contract = 1` to Source"),
        (GOOD + "        options_model = dict", "options_model is <class 'dict'>"),
    ],
)  # fmt: skip
async def test_a_broken_plugin_says_why_and_the_others_are_loaded(site: Site, code: str, reason: str) -> None:
    site("fine", GOOD)
    points = site("broken", code)
    assert reason in await reason_of(points, "broken")
    assert (await loaded(points)).get("fine")


async def test_the_reason_of_a_broken_plugin_tells_no_secret(site: Site) -> None:
    points = site("broken", "raise RuntimeError('cannot reach rtsp://admin:hunter2hunter2@cam.lan/1')")
    reason = await reason_of(points, "broken")
    assert "cam.lan" in reason
    assert "hunter2" not in reason


async def test_a_family_is_checked_against_its_own_contract(site: Site) -> None:
    points = site("family", GOOD, group=FAMILIES)
    families = await load_plugins(FAMILIES, points, check=check_family)
    assert [plugin.reason for plugin in families] == [
        "the entry point names <class 'family.Source'>, not a subclass of ModelFamily"
    ]


async def test_an_import_that_hangs_is_a_broken_plugin_and_the_others_are_loaded(site: Site) -> None:
    site("fine", GOOD)
    points = site(
        "hanging", "import threading\nbegun = threading.Event()\ngo_on = threading.Event()\nbegun.set()\ngo_on.wait(10)"
    )
    plugins = await loaded(points, timeout_seconds=0.3)
    with pytest.raises(
        PluginError, match=r"hanging.*not imported within 0\.3 s: open cameras and load models in camer"
    ):
        plugins.get("hanging")
    assert plugins.get("fine")
    sys.modules["hanging"].go_on.set()


def test_an_import_has_the_time_that_is_documented() -> None:
    assert load_plugins.__kwdefaults__["timeout_seconds"] == IMPORT_SECONDS
    docs = Path(__file__).resolve().parent.parent / "docs"
    for page, words in (("plugins.md", "takes more than {:g} s to"), ("api.md", "took more than {:g} s to")):
        assert words.format(IMPORT_SECONDS) in (docs / page).read_text(encoding="utf-8")


async def test_a_name_that_two_distributions_claim_belongs_to_neither(site: Site) -> None:
    site("one", GOOD, distribution="first-dist", yolo="one:Source")
    points = site("two", GOOD, distribution="second-dist", yolo="two:Source")
    reason = await reason_of(points, "yolo")
    assert "first-dist, second-dist" in reason
    assert "uninstall all but one" in reason


async def test_safe_mode_imports_only_what_the_project_publishes(site: Site) -> None:
    site("ours", GOOD, distribution="Healthd_YOLO")
    site("clash", "raise SystemExit", distribution="another-dist", ours="clash:Source")
    points = site("theirs", "import sys; sys.imported_theirs = True", distribution="healthd-yolo-too")
    plugins = await loaded(points, safe_mode=True)
    assert [(plugin.name, plugin.state) for plugin in plugins] == [("ours", "loaded"), ("theirs", "skipped")]
    assert not hasattr(sys, "imported_theirs")
    with pytest.raises(PluginError, match=r"`theirs` \(healthd-yolo-too 1\.2\) is skipped: .* without --safe-mode"):
        plugins.get("theirs")


async def test_a_base_class_of_the_authors_own_may_say_the_contract_for_many(site: Site) -> None:
    points = site("base", GOOD + "\n    class Thermal(Source): pass\n", thermal="base:Thermal")
    assert (await loaded(points)).get("thermal")


async def test_a_second_plugin_of_a_module_whose_import_hangs_is_not_waited_for(site: Site) -> None:
    code = "import threading\ngo_on = threading.Event()\ngo_on.wait(10)"
    plugins = await loaded(site("stuck", code, one="stuck:Source", two="stuck:Source"), timeout_seconds=0.2)
    reasons = [plugin.reason or "" for plugin in plugins]
    assert "not imported within 0.2 s" in reasons[0]
    assert reasons[1] == "its module is that of `one`, which was not imported in time"
    sys.modules["stuck"].go_on.set()


async def test_one_distribution_may_bring_several_plugins(site: Site) -> None:
    points = site("many", GOOD, distribution="many", yolo_pose="many:Source", yolo_detect="many:Source")
    assert [plugin.name for plugin in await loaded(points)] == ["yolo-detect", "yolo-pose"]


async def test_an_unknown_plugin_is_answered_with_the_nearest_name_and_what_is_installed(site: Site) -> None:
    plugins = await loaded(site("many", GOOD, yolo_pose="many:Source", yolo_detect="many:Source"))
    with pytest.raises(PluginError) as raised:
        plugins.get("yolo-pos")
    assert str(raised.value) == (
        "no plugin `yolo-pos` is installed (installed: yolo-detect, yolo-pose); "
        "did you mean `yolo-pose`? Otherwise pip install the distribution that brings it"
    )
    brings = "pip install the distribution that brings it"
    with pytest.raises(PluginError, match=rf"\(installed: yolo-detect, yolo-pose\); {brings}$"):
        plugins.get("thermal")
    with pytest.raises(PluginError, match=r"\(installed: none\); pip install healthd-yolo$"):
        (await loaded([])).get("yolo-pose")


class Zone(BaseModel):
    model_config = ConfigDict(extra="forbid")
    left: int = Field(0, ge=0)


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Options(PredictOptions):
    token: str = Field("abcdefgh", min_length=8, max_length=12)
    mode: Literal["fast", "exact"] = "fast"
    pin: int = 0
    zone: Zone = Zone()
    zones: tuple[Zone, ...] = ()
    pet: Cat | Dog | None = Field(None, discriminator="kind")

    @field_validator("token")
    @classmethod
    def _plain(cls, token: str) -> str:
        if token == "explode!":
            raise KeyError(token)
        if not token.isalnum():
            raise ValueError(f"{token!r} has other characters than letters and digits: {token}")
        return token

    @model_validator(mode="after")
    def _pin(self) -> "Options":
        assert self.pin not in {4711, 12}, f"the pin {self.pin} is on every list of 123"
        return self


class Needy(SourceOptions):
    path: str


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidance": 0.5}, "cameras.gym.options.confidance: unknown key; did you mean `confidence`?"),
        ({"zzz": 1}, "cameras.gym.options.zzz: unknown key; known: confidence, iou, max_det, classes, token"),
        ({"zone": {"lft": 1}}, "cameras.gym.options.zone.lft: unknown key; did you mean `left`?"),
        ({"zones": [{"lft": 1}]}, "cameras.gym.options.zones.0.lft: unknown key"),
        ({"confidence": 1.5}, "cameras.gym.options.confidence: Input should be less than or equal to 1"),
        ({"max_det": "many"}, "cameras.gym.options.max_det: Input should be a valid integer"),
        ({"mode": "fastest"}, "cameras.gym.options.mode: Input should be 'fast' or 'exact'"),
        ({"iou": 7, "max_det": 0}, "cameras.gym.options.iou: Input should be less than or equal to 1; cameras.gym.opt"),
        ({"token": "explode!"}, "cameras.gym.options: Options of the plugin failed at them: KeyError"),
    ],
)
def test_wrong_options_are_told_with_key_and_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        validated_options(Options, options, where="cameras.gym.options")
    assert message in str(raised.value)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(SettingsError, match=r"options\.path: missing, but this plugin needs it"):
        validated_options(Needy, {}, where="options")


def test_right_options_become_the_settings_of_the_plugin() -> None:
    options = validated_options(Options, {"confidence": 0.5, "zone": {"left": 3}}, where="options")
    assert (options.confidence, options.zone.left) == (0.5, 3)


@pytest.mark.parametrize(
    ("options", "secret"),
    [
        ({"token": "hunter2"}, "hunter2"),
        ({"token": "hunter2hunter2"}, "hunter2"),
        ({"token": "hunter2-hidden"}, "hunter2"),
        ({"token": 'hunter2"\n\\x'}, "hunter2"),
        ({"token": ["hunter2hunter2"]}, "hunter2"),
        ({"token": "a-b?"}, "a-b"),
        ({"token": {"deep": "hunter2hunter2"}}, "hunter2"),
        ({"mode": "hunter2hunter2"}, "hunter2"),
        ({"pin": "hunter2"}, "hunter2"),
        ({"pin": 4711}, "4711"),
        ({"pin": 12}, "12 "),
        ({"pet": {"kind": "hunter2"}}, "hunter2"),
        ({"zone": "hunter2hunter2"}, "hunter2"),
        ({"classes": "hunter2hunter2"}, "hunter2"),
    ],
)
def test_what_is_wrong_with_options_is_told_without_their_values(options: dict[str, Any], secret: str) -> None:
    with pytest.raises(SettingsError) as raised:
        validated_options(Options, options, where="cameras.gym.options")
    error: BaseException | None = raised.value
    assert secret not in str(error)
    assert "cameras.gym.options" in str(error)
    assert raised.value.__suppress_context__
