"""What hangs outside cameras, a file or a chore, costs one thread, however often it is asked for."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from healthd import daemon, reload
from healthd.config_watch import FileWatch
from healthd.errors import BusyError
from healthd.reload import Reloader
from healthd.settings import Settings
from healthd.settings_changes import ConfigFile
from healthd.worker import Worker
from tests.eventually import eventually
from tests.test_reload import reloading


async def test_a_file_that_hangs_costs_one_thread_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reload, "READ_SECONDS", 0.05)
    free, reads = threading.Event(), list[int]()
    async with reloading({"gym": {}}) as here:

        def hang() -> Settings:
            reads.append(1)
            free.wait(20)
            return Settings.model_validate(here.tables)

        reloader = Reloader(here.house.services, file=ConfigFile(Path("config.toml"), hang))
        for _ in range(3):
            with pytest.raises(BusyError, match="does not answer"):
                await reloader.reload()
        assert len(reads) == 1
        free.set()
        await eventually(lambda: reloader._threads.stuck == 0)
        monkeypatch.setattr(reload, "READ_SECONDS", 10)
        assert await reloader.reload()


async def test_a_look_at_the_file_that_hangs_is_told_once_and_the_watch_goes_on_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reload, "READ_SECONDS", 0.05)
    monkeypatch.setattr(reload, "WATCH_SECONDS", 0.01)
    free, looks = threading.Event(), list[int]()

    def look(_: FileWatch) -> None:
        looks.append(1)
        free.wait(20)

    monkeypatch.setattr(FileWatch, "look", look)
    async with reloading({"gym": {}}, config={"watch": True}) as here:
        with capture_logs() as events:
            watching = asyncio.create_task(here.reloader.watch())
            await eventually(lambda: any(event["event"] == "config_watch_stuck" for event in events))
            await asyncio.sleep(0.1)
            assert len(looks) == 1
            free.set()
            await eventually(lambda: len(looks) > 3)
            watching.cancel()
    assert sum(event["event"] == "config_watch_stuck" for event in events) == 1


async def test_a_watch_that_gets_no_thread_goes_on_when_there_is_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "READ_SECONDS", 0.05)
    monkeypatch.setattr(reload, "WATCH_SECONDS", 0.01)
    looks, starts = list[int](), list[int]()
    start = Worker.start

    def no_thread(worker: Worker) -> None:
        starts.append(1)
        if worker.name == "config-watch" and len(starts) < 3:
            raise RuntimeError("can't start new thread")
        start(worker)

    monkeypatch.setattr(FileWatch, "look", lambda _: looks.append(1))
    async with reloading({"gym": {}}, config={"watch": True}) as here:
        monkeypatch.setattr(Worker, "start", no_thread)
        with capture_logs() as events:
            watching = asyncio.create_task(here.reloader.watch())
            await eventually(lambda: looks)
            watching.cancel()
    reasons = [event["reason"] for event in events if event["event"] == "config_watch_stuck"]
    assert "can't start new thread" in reasons


async def test_housekeeping_that_hangs_costs_one_thread_and_the_rest_of_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "HOUSEKEEPING_SECONDS", 0.02)
    free, unloads, looks = threading.Event(), list[int](), list[int]()

    def unload() -> None:
        unloads.append(1)
        free.wait(20)

    services: Any = SimpleNamespace(
        models=SimpleNamespace(unload_idle=unload), supervisor=SimpleNamespace(measure=lambda: looks.append(1))
    )
    keeping = asyncio.create_task(daemon._keep_house(services))
    await eventually(lambda: len(looks) > 5)
    assert len(unloads) == 1
    free.set()
    await eventually(lambda: len(unloads) > 2)
    keeping.cancel()
