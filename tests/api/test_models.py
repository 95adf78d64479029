"""Models over HTTP: what there is, what is loaded, what failed and why; orders to load and to unload."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import pytest

from healthd.cameras.source import Predict
from healthd.models.manager import ModelManager
from tests.api.families import ToldFamily, models_folder
from tests.api.house import House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, picture

MODELS = "/api/v1/models"
JPEG = cv2.imencode(".jpg", picture(7, size=(48, 64)))[1].tobytes()


@asynccontextmanager
async def opened(folder: Path, *names: str, **options: Any) -> AsyncIterator[tuple[House, ToldFamily]]:
    told = ToldFamily()
    models = {**models_folder(folder, *(names or ("boxes",))), **options.pop("models", {})}
    try:
        async with open_house(family=told, models=models, **options) as house:
            yield house, told
    finally:
        told.gate.set()


async def ask(house: House, model: str) -> httpx.Response:
    return await house.client.post("/api/v1/infer", params={"model": model}, files={"file": ("a.jpg", JPEG)})


async def info(house: House, model: str) -> dict[str, Any]:
    answer = await house.get(f"{MODELS}/{model}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_every_model_that_can_be_named_is_listed_loaded_or_not(tmp_path: Path) -> None:
    async with opened(tmp_path, "boxes", "caption", "deep/down/boxes") as (house, _):
        listed = (await house.get(MODELS)).json()
        assert [one["id"] for one in listed] == ["boxes.told", "caption.told", "deep/down/boxes.told"]
        assert {one["state"] for one in listed} == {"available"}
        assert listed[0] == {
            "id": "boxes.told",
            "family": "fake-family",
            "state": "available",
            "reason": None,
            "task": None,
            "labels": None,
            "memory_bytes": None,
            "load_seconds": None,
            "batch_size": None,
            "predictions": 0,
            "last_used_age_seconds": None,
            "users": 0,
            "waiting": 0,
            "cameras": [],
            "pinned": False,
        }
        assert (await ask(house, "boxes.told")).status_code == 200
        loaded = await info(house, "boxes.told")
        assert (loaded["state"], loaded["task"], loaded["labels"], loaded["predictions"]) == ("loaded", "detect", 2, 1)
        assert loaded["load_seconds"] >= 0
        assert loaded["batch_size"] == 1
        assert 0 <= loaded["last_used_age_seconds"] < 5
        assert str(tmp_path) not in (await house.get(MODELS)).text


async def test_a_model_whose_name_has_slashes_is_told_of_loaded_and_unloaded(tmp_path: Path) -> None:
    names = ("boxes", "deep/down/boxes", "load/load", "load")
    async with opened(tmp_path, *names) as (house, _):
        for name in ("deep/down/boxes.told", "load/load.told", "load.told"):
            assert (await info(house, name))["id"] == name
            answer = await house.client.post(f"{MODELS}/{name}/load")
            assert (answer.json()["id"], answer.json()["state"]) == (name, "loaded")
            assert (await house.client.delete(f"{MODELS}/{name}")).json() == {"id": name, "unloaded": 1}
            assert (await info(house, name))["state"] == "available"
        below = f"{MODELS}/boxes.told/load"
        for answer in (await house.get(below), await house.client.delete(below), await house.client.put(below)):
            assert assert_error(answer, 405)["detail"] == "this path takes OPTIONS, POST"
            assert answer.headers["allow"] == "OPTIONS, POST"
        for answer in (await house.client.post(f"{MODELS}/boxes.told"), await house.client.post(f"{MODELS}/load")):
            assert_error(answer, 405)
            assert answer.headers["allow"] == "DELETE, GET, OPTIONS"


async def test_to_load_what_is_loaded_and_unload_what_is_not_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (house, told):
        for _ in range(2):
            assert (await house.client.post(f"{MODELS}/boxes.told/load")).status_code == 200
        assert len(told.loads) == 1
        for number in (1, 0):
            assert (await house.client.delete(f"{MODELS}/boxes.told")).json()["unloaded"] == number


@pytest.mark.parametrize("model", ["nothing.told", "boxes.onnx", "..%2f..%2fetc/passwd", "a/b/c.told"])
async def test_an_unknown_model_is_404_whatever_is_asked_of_it(tmp_path: Path, model: str) -> None:
    async with opened(tmp_path) as (house, _):
        assert_error(await house.get(f"{MODELS}/{model}"), 404)
        assert_error(await house.client.post(f"{MODELS}/{model}/load"), 404)
        assert_error(await house.client.delete(f"{MODELS}/{model}"), 404)
        assert_error(await house.get("/api/v1/labels", params={"model": model}), 404)


async def test_a_model_that_cannot_be_loaded_is_failed_with_the_reason_and_tried_again_when_told_to(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, "boxes", "garbage") as (house, told):
        assert_error(await ask(house, "garbage.told"), 502)
        failed = await info(house, "garbage.told")
        assert failed["state"] == "failed"
        assert "first bytes" in failed["reason"]
        assert_error(await ask(house, "garbage.told"), 502)
        assert len(told.loads) == 1
        assert "first bytes" in assert_error(await house.client.post(f"{MODELS}/garbage.told/load"), 502)["detail"]
        assert len(told.loads) == 2
        assert (await info(house, "boxes.told"))["state"] == "available"


async def test_labels_are_those_of_the_model_and_of_the_default_one_and_are_looked_at_only(tmp_path: Path) -> None:
    async with opened(tmp_path, "boxes", "caption") as (house, told):
        for query in ({}, {"model": "boxes.told"}, {"model": "caption.told"}):
            assert "not loaded" in assert_error(await house.get("/api/v1/labels", params=query), 409)["detail"]
        assert not told.loads
        for model in ("boxes", "caption"):
            assert (await house.client.post(f"{MODELS}/{model}.told/load")).status_code == 200
        for query in ({}, {"model": "boxes.told"}):
            answer = await house.get("/api/v1/labels", params=query)
            assert answer.json() == {"model": "boxes.told", "labels": {"0": "person", "1": "cat"}}
        answer = await house.get("/api/v1/labels", params={"model": "caption.told"})
        assert answer.json() == {"model": "caption.told", "labels": {}}
        assert len(told.loads) == 2
        assert_error(await house.get("/api/v1/labels", params={"model": ""}), 422)


class Watched(FakeSource):
    """A camera that is watched by a model of the manager."""

    def __init__(self, model_id: str) -> None:
        super().__init__()
        self._model_id = model_id

    @property
    def model_id(self) -> str | None:
        return self._model_id

    def model(self, models: ModelManager):  # type: ignore[no-untyped-def]
        return self._watch(models)

    def _watch(self, models: ModelManager):  # type: ignore[no-untyped-def]
        from contextlib import contextmanager  # noqa: PLC0415

        @contextmanager
        def watching():  # type: ignore[no-untyped-def]
            with models.use("fake-family", self._model_id) as shared:
                predict: Predict = lambda image: shared.predict(image, self.params)  # noqa: E731
                yield predict

        return watching()


async def test_a_model_that_a_camera_holds_is_shared_shown_and_not_unloaded(tmp_path: Path) -> None:
    camera = Watched("boxes.told")
    async with opened(tmp_path, sources={"gym": camera}) as (house, told):
        await eventually(lambda: house.runner().counts.predicted)
        held = await info(house, "boxes.told")
        assert (held["cameras"], held["state"], held["users"]) == (["gym"], "loaded", 1)
        assert "gym" in assert_error(await house.client.delete(f"{MODELS}/boxes.told"), 409)["detail"]
        assert (await ask(house, "boxes.told")).status_code == 200
        assert len(told.loads) == 1


async def test_a_model_of_the_start_is_pinned(tmp_path: Path) -> None:
    async with opened(tmp_path, "boxes", models={"preload": ["boxes.told"]}) as (house, _):
        house.services.inference.start()
        await eventually(house.services.models.loaded)
        await asyncio.sleep(0.05)
        kept = await info(house, "boxes.told")
        assert (kept["pinned"], kept["state"]) == (True, "loaded")
        assert "preload" in assert_error(await house.client.delete(f"{MODELS}/boxes.told"), 409)["detail"]


async def test_while_a_request_is_at_the_model_it_is_not_unloaded(tmp_path: Path) -> None:
    async with opened(tmp_path, "gated") as (house, told):
        first = asyncio.create_task(ask(house, "gated.told"))
        await eventually(lambda: told.running)
        second = asyncio.create_task(ask(house, "gated.told"))
        await eventually(lambda: house.services.models.loaded()[0].waiting)
        assert (await info(house, "gated.told"))["waiting"] == 1
        assert_error(await house.client.delete(f"{MODELS}/gated.told"), 409)
        told.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]
        assert (await house.client.delete(f"{MODELS}/gated.told")).status_code == 200
