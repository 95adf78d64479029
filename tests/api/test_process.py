"""Process: is it alive, is it ready, how does it do."""

import asyncio
import threading
from collections import defaultdict
from datetime import datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from healthd import __version__
from healthd.errors import CameraError
from healthd.metrics import documented_names
from tests.api.house import FakeOptions, House, MovableClock, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction


def gone() -> object:
    raise CameraError("no route to host")


async def test_healthz_is_ok_whatever_the_cameras_do_and_during_a_drain() -> None:
    async with open_house({"gym": FakeSource(read=gone)}) as house:
        await eventually(lambda: house.runner().health.state == "reconnecting")
        for draining in (False, True):
            house.services.draining = draining
            answer = await house.get("/healthz")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_readyz_goes_from_starting_to_ready_to_draining() -> None:
    gate = threading.Event()
    async with open_house({"gym": FakeSource(on_open=gate.wait)}) as house:
        answer = await house.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting"})
        gate.set()
        await eventually(lambda: house.runner().health.state == "live")
        answer = await house.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        assert answer.headers["cache-control"] == "no-store"
        house.services.draining = True
        answer = await house.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})


async def test_readyz_waits_for_the_models_too() -> None:
    gate = threading.Event()
    async with open_house({"gym": FakeSource(predict=prediction, on_load=gate.wait)}) as house:
        await eventually(lambda: house.runner().health.state == "live")
        assert (await house.get("/readyz")).json() == {"status": "starting"}
        assert (await house.get("/api/v1/state")).json()["waiting_for"] == ["gym: model of its plugin is loading"]
        gate.set()
        await eventually(lambda: house.runner().model_health.state == "ready")
        assert (await house.get("/readyz")).json() == {"status": "ready"}


async def test_once_ready_it_stays_ready_whatever_the_cameras_do() -> None:
    lost = threading.Event()
    source = FakeSource()
    source._read = lambda: gone() if lost.is_set() else source.next_image()
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().health.state == "live" and house.services.readiness == "ready")
        assert (await house.get("/readyz")).status_code == 200
        lost.set()
        await eventually(lambda: house.runner().health.state == "reconnecting")
        house.runner().restart()
        assert (await house.get("/readyz")).status_code == 200


async def test_a_camera_that_fails_at_once_does_not_keep_the_others_from_their_traffic() -> None:
    async with open_house({"gym": FakeSource(read=gone)}) as house:
        await eventually(lambda: house.runner().health.state == "reconnecting")
        await eventually(lambda: house.services.readiness == "ready")  # its model is loaded, too
        assert (await house.get("/readyz")).json() == {"status": "ready"}


async def test_a_camera_that_opens_for_ever_keeps_nobody_waiting_for_longer_than_half_a_minute() -> None:
    gate, time = threading.Event(), MovableClock()
    async with open_house({"gym": FakeSource(on_open=gate.wait)}) as house:
        house.services.clock = time.clock
        assert (await house.get("/readyz")).status_code == 503
        time.ahead = 31
        assert (await house.get("/readyz")).status_code == 200
        gate.set()


async def test_without_a_camera_it_is_ready() -> None:
    async with open_house() as house:
        assert (await house.get("/readyz")).json() == {"status": "ready"}
        assert (await house.get("/health?strict=true")).status_code == 200
        assert (await house.get("/api/v1/cameras")).json() == []


async def test_health_tells_status_version_uptime_cameras_by_state_and_models() -> None:
    gate = threading.Event()
    sources = {"one": FakeSource(), "two": FakeSource(on_open=gate.wait)}
    async with open_house(sources, cameras={"off": {"enabled": False}}) as house:
        await eventually(lambda: house.runner("one").health.state == "live")
        answer = await house.get("/health")
        assert answer.status_code == 200
        told = answer.json()
        assert set(told) == {"status", "version", "uptime_seconds", "cameras", "models_loaded", "safe_mode"}
        assert (told["status"], told["version"], told["models_loaded"]) == ("starting", __version__, 0)
        assert 0 <= told["uptime_seconds"] < 60
        assert {state: number for state, number in told["cameras"].items() if number} == {
            "live": 1,
            "starting": 1,
            "stopped": 1,
        }
        strict = await house.get("/health?strict=true")
        assert (strict.status_code, strict.json()["status"]) == (503, "starting")
        gate.set()
        await eventually(lambda: house.runner("two").health.state == "live")
        strict = await house.get("/health?strict=true")
        assert (strict.status_code, strict.json()["status"]) == (200, "ok")  # one that is off on purpose is no harm


async def test_health_is_degraded_while_an_enabled_camera_is_not_live_and_503_only_if_strict() -> None:
    async with open_house({"one": FakeSource(), "two": FakeSource(read=gone)}) as house:
        await eventually(lambda: house.services.supervisor.waiting_for == ())
        assert [
            (await house.get(f"/health{query}")).status_code for query in ("", "?strict=false", "?strict=true")
        ] == [
            200,
            200,
            503,
        ]
        assert (await house.get("/health")).json()["status"] == "degraded"
        house.services.draining = True
        assert (await house.get("/health")).json()["status"] == "draining"
        assert_error(await house.get("/health?strict=perhaps"), 422)


async def test_the_state_tells_the_daemon_at_a_glance() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await eventually(lambda: house.runner().health.state == "live" and house.runner().waiting_for is None)
        told = (await house.get("/api/v1/state")).json()
        assert {"version", "uptime_seconds", "cameras", "viewers", "models_loaded", "waiting_for"} <= set(told)
        assert (told["version"], told["viewers"], told["models_loaded"]) == (__version__, 0, 0)
        assert (told["status"], told["waiting_for"], told["cameras"]["live"]) == ("ready", [], 1)
        assert datetime.fromisoformat(told["started_at"]).tzinfo is not None
        usage = {"cpu_seconds", "cpu_share", "cpus", "resident_memory_bytes", "threads", "open_fds"}
        assert set(told["process"]) == usage
        assert told["process"]["cpu_seconds"] > 0


def load_twice(house: House) -> tuple[threading.Thread, threading.Event]:
    """Hold one model id with two different options until the event is set."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        models = house.services.models
        with (
            models.use("fake-family", "m", FakeOptions(device="cpu")),
            models.use("fake-family", "m", FakeOptions(device="gpu")),
        ):
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(10)
    return thread, done


async def test_metrics_are_prometheus_text_and_account_for_every_frame() -> None:
    sources = {"gym": FakeSource(predict=prediction), "hall": FakeSource()}
    async with open_house(sources, cameras={"off": {"enabled": False}}) as house:
        thread, done = load_twice(house)
        await eventually(lambda: all(house.runner(name).counts.read > 20 for name in sources))
        await house.get("/api/v1/cameras/gym/snapshot")
        answer = await house.get("/metrics")
        done.set()
        await asyncio.to_thread(thread.join, 10)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                key = tuple(sorted(sample.labels.items()))
                assert key not in values[sample.name], f"twice: {sample.name} {key}"
                values[sample.name][key] = sample.value
        for name in ("gym", "hall", "off"):
            label = (("camera", name),)
            dropped = sum(
                value for key, value in values["healthd_camera_frames_dropped_total"].items() if ("camera", name) in key
            )
            read = values["healthd_camera_frames_read_total"][label]
            predicted = values["healthd_camera_frames_predicted_total"][label]
            assert read == predicted + dropped + values["healthd_camera_frames_in_hand"][label]
            assert (read > 0) == (name != "off")
        assert values["healthd_models_loaded"][()] == 2
        assert values["healthd_model_users"][("model", "m"),] == 2
        assert values["healthd_jpeg_encodes_total"][("camera", "gym"), ("variant", "plain")] == 1
        assert values["healthd_ready"][()] == 1
        assert values["healthd_build_info"][("version", __version__),] == 1
        ours = {
            family.name for family in text_string_to_metric_families(answer.text) if family.name.startswith("healthd")
        }
        assert ours <= {name.removesuffix("_total") for name in documented_names()}


async def test_answers_are_counted_by_route_and_never_by_path() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await house.get("/api/v1/cameras/hunter2-of-somebody")
        await house.get("/api/v1/hunter2-nowhere")
        await house.client.put("/healthz")
        text = (await house.get("/metrics")).text
        assert 'healthd_http_requests_total{route="/api/v1/cameras/{name}",status="404"} 1.0' in text
        assert 'healthd_http_requests_total{route="unknown",status="404"} 1.0' in text
        assert 'status="405"} 1.0' in text
        assert "hunter2" not in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics"])
async def test_the_process_is_told_to_whoever_asks_and_tells_no_secret(path: str) -> None:
    url = "rtsp://onlooker:hunter2hunter2@cam.lan/1?token=abcdef123456"
    async with open_house(
        {"gym": FakeSource(read=gone)},
        cameras={"gym": {"url": url}},
        auth={"keys": [{"name": "wall", "key": "hunter2hunter2-key"}]},
    ) as house:
        await eventually(lambda: house.runner().health.state == "reconnecting")
        await eventually(lambda: house.services.readiness == "ready")  # its model is loaded, too
        answer = await house.get(path)
        assert answer.status_code == 200
        for secret in ("hunter2", "abcdef123456", "onlooker"):
            assert secret not in answer.text
