"""What the panel asks for beyond cameras and models: settings, history, the log, diagnostics, who one is."""

import asyncio
import io
import json
import logging
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from healthd import __version__
from healthd.api.logs import shape
from healthd.log_ring import LogRing, Wanted
from healthd.logs import configure_logging
from healthd.process import versions
from healthd.redact import SCRUBBER
from healthd.settings import LogSettings, load_settings, with_command
from healthd.settings_view import shown_settings
from tests.api.house import ADMIN, KEYS, READ, READ_KEY, MovableClock, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction

URL = "rtsp://onlooker:hunter2hunter2@cam.lan/1?token=abcdef123456"
SECRETS = ("hunter2", "abcdef123456", "onlooker", "s3cret-of-a-plugin", *(key["key"] for key in KEYS))


@pytest.fixture
def logged() -> Iterator[None]:
    """The log of the process, as the daemon has it."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning
    configure_logging("info", "json", io.StringIO())
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_each_setting_says_where_it_comes_from_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(
        f'[cameras.gym]\nplugin = "fake"\nurl = "{URL}"\n[cameras.gym.options]\napi_key = "s3cret-of-a-plugin"\n'
        f'[[auth.keys]]\nname = "wall"\nkey = "{READ_KEY}"\n',
        encoding="utf-8",
    )
    settings = load_settings(path, {"HEALTHD_SERVER__PORT": "9000"})
    shown = {one.key: (one.value, one.origin, one.name) for one in shown_settings(settings)}
    assert shown["cameras.gym.url"] == ("rtsp://***@cam.lan/1?***", "file", "lab.toml")
    assert shown["cameras.gym.options.api_key"] == ("***", "file", "lab.toml")
    assert shown["auth.keys[0].key"] == ("***", "file", "lab.toml")
    assert shown["server.port"] == (9000, "environment", "HEALTHD_SERVER__PORT")
    assert shown["server.host"] == ("127.0.0.1", "default", None)
    assert not [secret for secret in SECRETS if secret in str(shown)]
    loud = with_command(settings, {"log": LogSettings(level="debug")}, {("log", "level"): "--log-level"})
    said = {one.key: (one.value, one.origin, one.name) for one in shown_settings(loud)}
    assert said["log.level"] == ("debug", "command", "--log-level")
    assert said["log.format"] == ("auto", "default", None)
    assert said["server.port"] == shown["server.port"]


async def test_settings_are_told_to_who_may_read_alone() -> None:
    async with open_house({"gym": FakeSource()}, cameras={"gym": {"url": URL}}, auth={"keys": KEYS}) as house:
        assert_error(await house.get("/api/v1/settings"), 401)
        answer = await house.get("/api/v1/settings", headers=READ)
        told = {one["key"]: one for one in answer.json()}
        assert set(told["server.port"]) == {"key", "value", "source", "name"}
        assert told["cameras.gym.url"]["value"] == "rtsp://***@cam.lan/1?***"
        assert not [secret for secret in SECRETS if secret in answer.text]


# -- history -----------------------------------------------------------------------------------------------------------


async def test_the_history_is_there_before_anybody_looks_and_is_bounded() -> None:
    async with open_house({"gym": FakeSource(predict=prediction), "off": FakeSource()}) as house:
        await eventually(lambda: house.runner().counts.predicted > 3)
        house.services.history.sample()
        before = house.runner().counts.predicted
        await eventually(lambda: house.runner().counts.predicted > before)
        house.services.history.sample()
        told = (await house.get("/api/v1/cameras/gym/history")).json()
        first, second = told["points"]
        assert (told["camera"], told["interval_seconds"]) == ("gym", 5)
        assert (first["id"], second["id"], second["state"]) == (1, 2, "live")
        assert second["fps"] > 0
        assert second["predict_ms"] > 0
        assert second["frame_age_ms"] >= 0
        assert set(second["dropped"]) <= set(house.runner().counts.dropped)
        assert (await house.get("/api/v1/cameras/gym/history?after=1")).json()["points"] == [second]
        for _ in range(70):
            house.services.history.sample()
        points = (await house.get("/api/v1/cameras/off/history")).json()["points"]
        assert (len(points), points[-1]["id"], points[-1]["predict_ms"]) == (60, 72, None)
        assert_error(await house.get("/api/v1/cameras/attic/history"), 404)


# -- the log -----------------------------------------------------------------------------------------------------------


def test_the_ring_is_bounded_in_lines_and_in_characters() -> None:
    ring = LogRing(most_lines=3, most_characters=10_000)
    for number in range(5):
        ring.add({"level": "info", "event": f"e{number}"})
    assert [line.event for line in ring.lines()] == ["e2", "e3", "e4"]
    assert [line.event for line in ring.lines(after=4)] == ["e4"]
    ring.add({"level": "error", "event": "bug", "exception": "x" * 50_000 + "the end", "camera": "gym"})
    (bug,) = ring.lines(Wanted(level="warning", camera="gym"))
    assert bug.fields.endswith('the end"}')
    ring.add({"level": "info", "event": "wide", **{f"f{number}": "x" * 3900 for number in range(9)}})
    assert json.loads(ring.lines()[-1].fields) == {"cut": True}
    assert sum(line.size for line in ring.lines()) <= 10_000


def test_what_utf8_cannot_write_does_not_end_the_log() -> None:
    ring = LogRing()
    ring.add({"level": "info", "event": "odd\udcff", "camera": "gym\udcff", "file": "clip\udcff.mp4", "größe": 1})
    (line,) = ring.lines()
    told = msgspec.to_builtins(shape(line))
    assert (told["event"], told["fields"]) == ("odd?", {"file": "clip?.mp4", "größe": 1})
    assert msgspec.json.encode(told)


@pytest.mark.usefixtures("logged")
async def test_the_log_is_filtered_and_scrubbed_and_followed() -> None:
    async with open_house({"gym": FakeSource()}, auth={"keys": KEYS}) as house:
        assert_error(await house.get("/api/v1/logs"), 401)
        log = structlog.get_logger("healthd.test")
        log.warning("session_failed", camera="gym", reason=f"cannot open {URL}")
        log.info("session_opened", camera="gym")
        parameters = {"level": "warning", "camera": "gym", "event": "session_failed", "limit": 1}
        (line,) = (await house.get("/api/v1/logs", params=parameters, headers=READ)).json()
        assert set(line) == {"id", "at", "level", "event", "logger", "camera", "fields"}
        assert line["fields"] == {"reason": "cannot open rtsp://***@cam.lan/1?token=***"}
        assert_error(await house.get("/api/v1/logs?level=loud", headers=READ), 422)

        async with house.client.stream("GET", "/api/v1/logs/stream", params=parameters, headers=READ) as stream:
            lines = stream.aiter_lines()
            got = await anext(one async for one in lines if one.startswith("data:"))
            assert json.loads(got.removeprefix("data:")) == line
            (viewer,) = (await house.get("/api/v1/viewers", headers=READ)).json()
            assert (viewer["kind"], viewer["camera"]) == ("logs", None)
            log.warning("session_failed", camera="gym", reason="again")
            event_id = await anext(one async for one in lines if one.startswith("id:"))
            got = await anext(one async for one in lines if one.startswith("data:"))
            assert json.loads(got.removeprefix("data:"))["fields"] == {"reason": "again"}
            log.warning("session_failed", camera="gym", reason="missed")
            await house.client.delete(f"/api/v1/viewers/{viewer['id']}", headers=ADMIN)
            async with asyncio.timeout(2):
                assert [one async for one in lines if one.startswith("retry:")] == []  # to its end

        again = {**READ, "Last-Event-ID": event_id.removeprefix("id:").strip()}
        async with house.client.stream("GET", "/api/v1/logs/stream", params=parameters, headers=again) as stream:
            got = await anext(one async for one in stream.aiter_lines() if one.startswith("data:"))
            assert json.loads(got.removeprefix("data:"))["fields"] == {"reason": "missed"}


# -- the process -------------------------------------------------------------------------------------------------------


async def test_the_state_tells_load_and_versions() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        assert (await house.get("/api/v1/state")).json()["process"]["cpu_share"] is None
        house.services.history.sample()
        told = (await house.get("/api/v1/state")).json()
        assert told["process"]["cpu_share"] > 0
        assert told["process"]["cpus"] >= 1
        assert told["versions"] == {"healthd": __version__, **versions()}
        assert {"python", "litestar", "opencv-python-headless"} <= set(told["versions"])


async def test_the_diagnostics_hold_everything_but_secrets(
    logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GYM_CAMERA_PASSWORD", "s3cret-of-a-plugin")
    cameras = {"gym": {"url": URL, "options": {}}}
    async with open_house({"gym": FakeSource()}, cameras=cameras, auth={"keys": KEYS}) as house:
        await eventually(lambda: house.runner().has_frame)
        SCRUBBER.register("event")  # a password that is a field of every line of the log
        structlog.get_logger("healthd.test").error("request_bug", camera="gym", reason=f"no route to {URL}")
        structlog.get_logger("healthd.test").info("viewer_opened", client="192.0.2.7")
        logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "192.0.2.7:5000", "/api/v1/infer/ws")
        house.services.history.sample()
        assert_error(await house.get("/api/v1/diagnostics"), 401)
        assert "may only read" in assert_error(await house.get("/api/v1/diagnostics", headers=READ), 403)["detail"]
        answer = await house.get("/api/v1/diagnostics", headers=ADMIN)
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"].startswith('attachment; filename="healthd-diagnostics-')
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            parts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(parts) == {
        *("README.txt", "state.json", "settings.json", "cameras.json", "history.json", "models.json", "plugins.json"),
        *("viewers.json", "jobs.json", "log.jsonl", "metrics.txt", "threads.txt", "tasks.txt"),
    }
    for name, text in parts.items():
        for secret in (*SECRETS, "192.0.2.7", str(Path.home()), "\xff\xd8\xff"):
            assert secret not in text, f"{secret} in {name}"
    assert json.loads(parts["cameras.json"])[0]["source"] == "rtsp://***@cam.lan/1?***"
    assert "MainThread" in parts["threads.txt"]
    assert "camera-gym" in parts["tasks.txt"]
    assert 'healthd_camera_state{camera="gym",state="live"} 1.0' in parts["metrics.txt"]
    assert "no route to rtsp://***@cam.lan" in parts["log.jsonl"]
    assert '*** - \\"WebSocket /api/v1/infer/ws' in parts["log.jsonl"]


# -- who one is --------------------------------------------------------------------------------------------------------


async def test_a_session_says_when_it_ends() -> None:
    time = MovableClock()
    async with open_house(auth={"keys": KEYS, "session_hours": 1}) as house:
        house.services.auth.sessions._clock = time.clock
        assert (await house.get("/api/v1/auth/session", headers=READ)).json()["expires_in_seconds"] is None
        told = (await house.client.post("/api/v1/auth/login", json={"key": READ_KEY})).json()
        assert (told["name"], told["scope"], told["required"], told["expires_in_seconds"]) == (
            "wall",
            "read",
            True,
            3600,
        )
        time.ahead = 600
        assert (await house.get("/api/v1/auth/session")).json()["expires_in_seconds"] == pytest.approx(3000, abs=30)
        time.ahead = 3601
        told = (await house.get("/api/v1/auth/session")).json()
        assert told == {"name": None, "scope": None, "required": True, "expires_in_seconds": None}
    async with open_house() as house:
        told = (await house.get("/api/v1/auth/session")).json()
        assert told == {"name": "anonymous", "scope": "admin", "required": False, "expires_in_seconds": None}


# -- events ------------------------------------------------------------------------------------------------------------


async def test_a_listener_hears_of_the_topics_that_it_asked_for() -> None:
    async with (
        open_house({"gym": FakeSource(predict=prediction)}) as house,
        house.client.stream("GET", "/api/v1/events/stream?topic=viewer&topic=camera") as stream,
    ):
        lines = stream.aiter_lines()
        names = [await anext(one async for one in lines if one.startswith("event:"))]
        predicted = house.runner().counts.predicted
        await eventually(lambda: house.runner().counts.predicted > predicted + 3)
        house.runner().pause()
        while len(names) < 2:
            names.append(await anext(one async for one in lines if one.startswith("event:")))
        assert names == ["event: camera", "event: camera"]
        assert_error(await house.get("/api/v1/events/stream?topic=weather"), 422)
