"""A changed configuration takes effect while the daemon runs: what differs is touched, and nothing else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from healthd.cameras import runner as runner_module
from healthd.cameras.source import PredictOptions
from healthd.errors import BusyError, HealthdError, NotHereError
from healthd.frames import Image
from healthd.plugins import SOURCES, Plugin
from healthd.reload import Reloader
from healthd.settings import Settings
from healthd.settings_changes import ConfigFile, Reloaded
from healthd.settings_tree import ConfigError, Problem
from tests.api.house import KEYS, READ, House, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction


class MadeOptions(PredictOptions):
    """Frames per second; 13 breaks it."""

    pace: float = 100.0


class MadePlugin(FakeSource):
    """A plugin that makes a camera of its own each time, as real ones do."""

    options_model: ClassVar = MadeOptions
    predicting: ClassVar[Any] = staticmethod(prediction)
    made: ClassVar[list["MadePlugin"]] = []

    def __init__(self, name: str, *, url: Any = None, options: Any = None) -> None:
        super().__init__(name, predict=type(self).predicting, fps=options.pace)
        self.options, self.params, self.url = options, options.params(), url
        if options.pace == 13:
            raise ValueError("thirteen")
        MadePlugin.made.append(self)


LIVE: dict[str, Any] = {
    "open_timeout_seconds": 5,
    "reconnect_max_seconds": 0.5,
    "frozen_after_seconds": 0,
    "isolation": "thread",  # a process of its own would import all that this test does, once more for each camera
}
MADE: Plugin[Any] = Plugin("made", SOURCES, "healthd-made", "0.1", MadePlugin)


@dataclass
class Reloading:
    """A house whose configuration a test changes."""

    house: House
    tables: dict[str, Any]
    reloader: Reloader = field(init=False)

    def __post_init__(self) -> None:
        self.reloader = Reloader(self.house.services, file=ConfigFile(Path("config.toml"), self.read))
        self.house.services.reload = self.reloader.reload

    def read(self) -> Settings:
        if isinstance(self.tables, Exception):
            raise self.tables
        return Settings.model_validate(self.tables)

    async def reload(self, cameras: Mapping[str, Any] | None = None, **sections: Any) -> Reloaded:
        self.tables.update(sections)
        if cameras is not None:
            self.tables["cameras"] = {name: {"plugin": "made", **camera} for name, camera in cameras.items()}
        return await self.reloader.reload()


@asynccontextmanager
async def reloading(cameras: Mapping[str, Any], **sections: Any) -> AsyncIterator[Reloading]:
    """A house of such cameras, all of them live."""
    headers = sections.pop("headers", None)
    tables = {name: {"plugin": "made", **LIVE, **camera} for name, camera in cameras.items()}
    async with open_house(cameras=tables, plugins=(MADE,), headers=headers, **sections) as house:
        for name, table in tables.items():
            if table.get("enabled", True):
                await eventually(lambda name=name: house.runner(name).health.state == "live")  # type: ignore[misc]
        jobs = house.services.settings.jobs.model_dump()
        yield Reloading(house, {"cameras": tables, "jobs": jobs, **sections})


async def test_what_is_unchanged_goes_on_and_what_differs_is_added_removed_restarted_or_changed_in_place() -> None:
    async with reloading({"gym": {}, "rack": {}, "attic": {}, "hall": {}}) as here:
        runner, names = here.house.runner, ["gym", "rack", "attic", "hall"]
        gym, rack, attic, hall = (runner(name) for name in names)
        opened = {name: runner(name).source.opened for name in names}  # type: ignore[union-attr]
        rack_id = rack.newest_frame_id
        done = await here.reload(
            {
                "yard": LIVE,
                "gym": LIVE,
                "rack": {**LIVE, "options": {"pace": 60.0}},
                "hall": {**LIVE, "predict_fps": 5, "options": {"confidence": 0.6}},
            },
            streams={"max_viewers": 7},
        )
        assert done == Reloaded(
            added=("yard",),
            removed=("attic",),
            restarted=("rack",),
            changed=("streams.max_viewers", "cameras.hall.predict_fps", "cameras.hall.options.confidence"),
        )
        assert [camera.name for camera in here.house.services.supervisor] == ["yard", "gym", "rack", "hall"]
        assert runner("gym") is gym
        assert runner("rack") is rack, "viewers hold on to it"
        await eventually(lambda: rack.health.state == "live" and rack.settings.options == {"pace": 60.0})
        assert rack.newest_frame_id > rack_id, "ids go on"
        assert rack.reconnects == 1
        await eventually(lambda: runner("yard").health.state == "live")
        assert gym.source.opened == opened["gym"]  # type: ignore[union-attr]
        assert hall.source.opened == opened["hall"]  # type: ignore[union-attr]
        assert hall.tuning.predict_fps == 5
        assert hall.source is not None
        assert hall.source.params is not None
        assert hall.source.params.confidence == 0.6
        await eventually(lambda: attic.health.state == "stopped")
        assert attic.health.reason == "removed from the configuration"
        assert attic.counts.in_hand == 0
        metrics = (await here.house.get("/metrics")).text
        assert 'camera="yard"' in metrics
        assert 'camera="attic"' not in metrics
        assert 'healthd_config_reloads_total{outcome="ok"} 1.0' in metrics
        assert (await here.house.get("/api/v1/cameras/attic/history")).status_code == 404
        assert (await here.reload()).nothing


async def test_the_streams_of_an_unchanged_and_of_a_restarted_camera_go_on_and_that_of_a_removed_one_ends() -> None:
    async with reloading({"gym": {}, "rack": {}, "attic": {}}) as here:
        client = here.house.client
        ended: dict[str, bytes] = {}

        async def look(name: str) -> None:
            async with client.stream("GET", f"/api/v1/cameras/{name}/stream") as answer:
                async for data in answer.aiter_bytes():
                    ended[name] = data[-40:]
            ended[name] += b"END"

        looking = [asyncio.create_task(look(name)) for name in ("gym", "rack", "attic")]
        await eventually(lambda: len(ended) == 3)
        viewers = {viewer.camera: viewer for viewer in here.house.services.viewers}
        await here.reload({"gym": LIVE, "rack": {**LIVE, "stale_after_seconds": 2}})
        await eventually(lambda: ended["attic"].endswith(b"END"))
        assert b"--healthd-frame--" in ended["attic"]
        assert viewers["attic"].ended == "removed"
        sent = {name: viewers[name].sent for name in ("gym", "rack")}
        await eventually(lambda: all(viewers[name].sent > number + 3 for name, number in sent.items()))
        assert not looking[0].done()
        assert not looking[1].done()
        assert 'kind="mjpeg",camera="attic"' not in (await here.house.get("/metrics")).text
        for task in looking:
            task.cancel()
        await asyncio.wait(looking)


async def test_a_removed_camera_that_comes_back_never_repeats_a_frame_id_and_is_not_known_by_heart() -> None:
    async with reloading({"gym": {}, "rack": {}}) as here:
        get = here.house.get
        first = await get("/api/v1/cameras/rack/snapshot")
        assert (await get("/api/v1/cameras/rack/snapshot")).status_code == 200
        old = here.house.runner("rack")
        await here.reload({"gym": LIVE})
        assert (await get("/api/v1/cameras/rack/snapshot")).status_code == 404
        last = old.newest_frame_id
        assert last >= int(first.headers["x-frame-id"])
        await here.reload({"gym": LIVE, "rack": LIVE})
        new = here.house.runner("rack")
        assert new is not old
        await eventually(lambda: new.health.state == "live")
        again = await get("/api/v1/cameras/rack/snapshot")
        assert int(again.headers["x-frame-id"]) > last
        assert [camera["name"] for camera in (await get("/api/v1/cameras")).json()] == ["gym", "rack"]


async def test_a_file_that_cannot_be_used_changes_nothing_and_every_reason_is_told() -> None:
    async with reloading({"gym": {}, "rack": {}}) as here:
        before, frames = here.house.services.settings, here.house.runner("gym").newest_frame_id
        here.tables["cameras"] = {
            "gym": {"plugin": "made", "options": {"pase": 3}},
            "rack": {"plugin": "nope"},
            "new": {"plugin": "made", "options": {"pace": 13}},
        }
        answer = await here.house.client.post("/api/v1/config/reload")
        assert answer.status_code == 422
        problems = {one["key"]: one["message"] for one in answer.json()["extra"]}
        assert set(problems) == {"cameras.gym", "cameras.rack", "cameras.new"}
        assert "pase" in problems["cameras.gym"]
        assert "nope" in problems["cameras.rack"]
        assert "thirteen" in problems["cameras.new"]
        here.tables = ConfigError([Problem("config.toml", "server.prot", "unknown key", "server.port")])  # type: ignore[assignment]
        answer = await here.house.client.post("/api/v1/config/reload")
        assert answer.status_code == 422
        assert answer.json()["extra"] == [
            {"source": "config.toml", "key": "server.prot", "message": "unknown key; did you mean `server.port`?"}
        ]
        assert here.house.services.settings is before
        assert here.house.services.reloads == {"ok": 0, "failed": 2}
        await eventually(lambda: here.house.runner("gym").newest_frame_id > frames)


async def test_what_was_set_by_request_stays_until_the_file_says_something_else() -> None:
    async with reloading({"gym": {"predict_fps": 4, "options": {"confidence": 0.3}}}) as here:
        runner = here.house.runner()
        patch = {"predict_fps": 9, "quality": 40, "confidence": 0.5, "iou": 0.9}
        assert (await here.house.client.patch("/api/v1/cameras/gym", json=patch)).status_code == 200
        assert (await here.reload({"gym": {**LIVE, "predict_fps": 5, "options": {"confidence": 0.3}}})).changed
        assert (runner.tuning.predict_fps, runner.tuning.quality) == (5, 40)
        await here.reload({"gym": {**LIVE, "predict_fps": 5, "options": {"confidence": 0.4, "pace": 50}}})
        await eventually(lambda: runner.health.state == "live" and runner.settings.options["confidence"] == 0.4)
        assert runner.source is not None
        assert runner.source.params is not None
        assert (runner.source.params.confidence, runner.source.params.iou) == (0.4, 0.9)
        assert runner.tuning.quality == 40
        await here.reload(snapshots={"quality": 60})
        assert runner.tuning.quality == 60


async def test_a_paused_camera_stays_paused_and_a_camera_is_switched_off_and_on() -> None:
    async with reloading({"gym": {}}) as here:
        runner = here.house.runner()
        runner.pause()
        await here.reload({"gym": {**LIVE, "stale_after_seconds": 2}})
        await eventually(lambda: runner.settings.stale_after_seconds == 2)
        assert runner.health.state == "paused"
        await here.reload({"gym": {**LIVE, "enabled": False}})
        await eventually(lambda: runner.health.state == "stopped")
        await here.reload({"gym": LIVE})
        await eventually(lambda: runner.health.state == "live")


async def test_who_watches_the_events_learns_of_cameras_that_come_and_go() -> None:
    async with reloading({"gym": {}}) as here:
        told: list[str] = []

        async def listen() -> None:
            async with here.house.client.stream("GET", "/api/v1/events/stream?topic=camera") as answer:
                async for line in answer.aiter_lines():
                    told.append(line)  # noqa: PERF401  it is looked at meanwhile

        listening = asyncio.create_task(listen())
        await eventually(lambda: any('"gym"' in line for line in told))
        await here.reload({"yard": LIVE})
        await eventually(lambda: any('"yard"' in line and '"live"' in line for line in told))
        await eventually(lambda: any('"gym"' in line and "removed from the configuration" in line for line in told))
        listening.cancel()
        await asyncio.wait([listening])


async def test_a_key_that_is_removed_ends_what_was_opened_with_it_and_the_others_go_on() -> None:
    async with reloading({"gym": {}}, auth={"keys": KEYS}, headers=READ) as here:
        ended: list[bytes] = []

        async def look() -> None:
            async with here.house.client.stream("GET", "/api/v1/cameras/gym/stream") as answer:
                async for data in answer.aiter_bytes():
                    ended.append(data[-30:])  # noqa: PERF401
            ended.append(b"END")

        looking = asyncio.create_task(look())
        await eventually(lambda: ended)
        assert (await here.house.get("/api/v1/state")).status_code == 200
        assert (await here.reload(streams={"max_viewers": 9})).changed == ("streams.max_viewers",)
        await asyncio.sleep(0.05)
        assert not looking.done()
        await here.reload(auth={"keys": KEYS[1:]})
        await eventually(lambda: ended[-1] == b"END")
        assert (await here.house.get("/api/v1/state")).status_code == 401
        assert (await here.house.get("/api/v1/cameras/gym/snapshot")).status_code == 401


async def test_keys_that_are_set_for_the_first_time_count_at_once_also_for_what_was_known_by_heart() -> None:
    async with reloading({"gym": {"options": {"pace": 1}}}) as here:  # the same picture, again and again
        for _ in range(6):
            assert (await here.house.get("/api/v1/cameras/gym/snapshot")).status_code == 200
        await here.reload(auth={"keys": KEYS})
        assert (await here.house.get("/api/v1/cameras/gym/snapshot")).status_code == 401
        assert (await here.house.get("/api/v1/cameras/gym/snapshot", headers=READ)).status_code == 200


async def test_what_needs_a_restart_is_named_until_it_is_taken_back_and_does_not_count_meanwhile() -> None:
    async with reloading({"gym": {}}) as here:
        server = here.house.services.settings.server
        done = await here.reload(server={"port": 9999, "cors_origins": ["http://x.lan"]}, performance={"threads": 3})
        assert done.restart_needed == ("server.port", "server.cors_origins", "performance.threads")
        assert done.changed == ()
        state = (await here.house.get("/api/v1/state")).json()
        assert state["restart_needed"] == list(done.restart_needed)
        assert "healthd_config_restart_needed 3.0" in (await here.house.get("/metrics")).text
        assert here.house.services.settings.server == server
        assert (await here.reload(server={}, performance={"threads": 3})).restart_needed == ("performance.threads",)


async def test_keys_cannot_go_while_the_address_stays_open() -> None:
    async with reloading({}, auth={"keys": KEYS}, server={"host": "0.0.0.0"}, headers=READ) as here:
        with pytest.raises(ConfigError, match=r"auth: server.host 0.0.0.0 can be reached .* restart of healthd alone"):
            await here.reload(auth={}, server={"host": "127.0.0.1"})
        assert here.house.services.auth.required


async def test_limits_count_at_once() -> None:
    async with reloading({"gym": {}}) as here:
        await here.reload(
            streams={"max_viewers": 1},
            inference={"max_uploads": 2, "max_uploads_per_client": 1, "max_pixels": 100, "max_sockets": 1},
            models={"max_loaded": 3, "load_timeout_seconds": 7, "preload": ["some.onnx"], "queue_size": 1},
            jobs={**here.tables["jobs"], "max_jobs": 5},
        )
        services = here.house.services
        assert (services.uploads.most, services.uploads.most_of_one) == (2, 1)
        assert services.decoder.max_pixels == 100
        assert services.models.load_timeout_seconds == 7
        await eventually(lambda: [model.users for model in services.models.loaded()] == [1])
        await here.reload(models={})
        await eventually(lambda: services.models.loaded()[0].users == 0)
        with services.viewers.admitted(kind="mjpeg", camera="gym", client="here"), pytest.raises(HealthdError):
            services.viewers.admitted(kind="mjpeg", camera="gym", client="here").__enter__()


async def test_a_second_reload_waits_and_none_begins_while_the_daemon_stops() -> None:
    async with reloading({"gym": {}}) as here:
        first = asyncio.create_task(here.reload({"gym": LIVE, "a": LIVE}))
        await asyncio.sleep(0)
        second = asyncio.create_task(here.reload({"gym": LIVE, "b": LIVE}))
        assert (await first).added in {("a",), ("b",)}
        await second
        assert [camera.name for camera in here.house.services.supervisor] == ["gym", "b"]
        here.house.services.draining = True
        with pytest.raises(BusyError, match="stops"):
            await here.reload({})
        assert (await here.house.client.post("/api/v1/config/reload")).status_code == 503
        here.house.services.draining = False


async def test_without_a_file_there_is_nothing_to_read_again() -> None:
    async with open_house() as house:
        house.services.reload = Reloader(house.services, file=None).reload
        answer = await house.client.post("/api/v1/config/reload")
        assert answer.status_code == 409
        assert "without a configuration file" in answer.json()["detail"]
        with pytest.raises(NotHereError):
            await house.services.reload()


async def test_a_camera_that_hangs_while_it_is_removed_is_abandoned_and_its_successor_waits_for_it() -> None:
    async with reloading({"gym": {"stall_timeout_seconds": 60}}, shutdown={"drain_seconds": 0.2}) as here:
        old = here.house.runner()
        assert isinstance(old.source, MadePlugin)
        old.source._fps = 0.5  # the next image takes two seconds
        await asyncio.sleep(0.05)
        await here.reload({})
        await here.reload({"gym": LIVE})
        new = here.house.runner()
        await asyncio.sleep(0.05)
        assert new.counts.read == 0
        await eventually(lambda: new.health.state == "live", seconds=5)
        assert old.health.state == "stopped"


async def test_a_camera_whose_plugin_was_wrong_is_mended_by_the_file_and_broken_ones_do_not_keep_others_back() -> None:
    async with reloading({}) as here:
        with pytest.raises(ConfigError):
            await here.reload({"gym": {**LIVE, "options": {"pase": 1}}})
    broken = {"gym": {**LIVE, "plugin": "nope"}, "rack": LIVE}
    async with open_house(
        cameras={name: {"plugin": "made", **it} for name, it in broken.items()}, plugins=(MADE,)
    ) as house:
        here = Reloading(house, {"jobs": house.services.settings.jobs.model_dump()})
        gym = house.runner("gym")
        assert gym.health.state == "failed"
        await here.reload({"gym": {**LIVE, "plugin": "nope"}, "rack": LIVE, "new": LIVE})
        assert gym.health.state == "failed"
        await here.reload({"gym": LIVE, "rack": LIVE, "new": LIVE})
        await eventually(lambda: gym.health.state == "live")


async def test_a_camera_whose_model_hangs_is_made_anew_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "REFIT_SECONDS", 0.2)
    hang, free = threading.Event(), threading.Event()

    def predict(image: Image) -> object:
        hang.set()
        free.wait(20)
        return prediction(image)

    monkeypatch.setattr(MadePlugin, "predicting", staticmethod(predict))
    async with reloading({"gym": {"predict_timeout_seconds": 60}}) as here:
        runner = here.house.runner()
        await eventually(hang.is_set)
        monkeypatch.setattr(MadePlugin, "predicting", staticmethod(prediction))
        await here.reload({"gym": LIVE})
        runner.pause()
        runner.resume()
        runner.restart()
        await eventually(lambda: runner.health.state == "live" and runner.model_health.state == "ready", seconds=5)
        assert runner.stuck_workers == 1
        assert runner.counts.dropped["failed"] == 1
        free.set()
        await eventually(lambda: runner.stuck_workers == 0)
