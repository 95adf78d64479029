"""Inference: one picture in, one envelope out, the same whatever family answers; each wrong parameter is named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio

from healthd.models.model import InferenceParams
from tests.api.families import ToldFamily, models_folder
from tests.api.house import ADMIN, KEYS, READ, House, assert_error, decoded, open_house
from tests.fakes import picture

INFER, DETECT = "/api/v1/infer", "/api/v1/detect"
JPEG = cv2.imencode(".jpg", picture(7, size=(48, 64)))[1].tobytes()
NAMES = ("boxes", "points", "caption", "raises", "exits", "odd", "garbage", "never", "deep/down/boxes")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told() -> AsyncIterator[ToldFamily]:
    yield ToldFamily()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(told: ToldFamily, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    models = models_folder(tmp_path_factory.mktemp("models"), *NAMES)
    async with open_house(family=told, models=models) as opened:
        yield opened


async def post(house: House, path: str = INFER, content: bytes = JPEG, **options: Any) -> httpx.Response:
    return await house.client.post(path, files={"file": ("picture.jpg", content)}, **options)


async def test_a_picture_gets_an_envelope(house: House) -> None:
    answer = await post(house)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "model_id": "boxes.told",
        "inference_time_ms": 1.5,
        "results": [
            {"box_xyxy": [1.0, 2.0, 63.0, 46.0], "confidence": 0.9, "class_id": 0, "class_name": "person"},
            {"box_xyxy": [0.0, 0.0, 32.0, 24.0], "confidence": 0.3, "class_id": 1, "class_name": "cat"},
        ],
        "metadata": {"task": "detect", "width": 64, "height": 48},
    }


async def test_every_family_answers_with_the_same_keys(house: House) -> None:
    answers = [await post(house, params={"model": f"{name}.told"}) for name in ("boxes", "points", "caption")]
    assert {tuple(answer.json()) for answer in answers} == {("model_id", "inference_time_ms", "results", "metadata")}
    for answer, task in zip(answers, ("detect", "pose", "caption"), strict=True):
        assert list(answer.json()["metadata"])[:3] == ["task", "width", "height"]
        assert answer.json()["metadata"]["task"] == task
    assert len(answers[1].json()["results"][0]["keypoints"]) == 17
    assert answers[2].json()["results"] == []
    assert answers[2].json()["metadata"]["caption"] == "a person beside a rack, and a cat"


@pytest.mark.parametrize("where", ["query", "form", "both"])
async def test_parameters_reach_the_model_unchanged_from_query_and_form(
    house: House, told: ToldFamily, where: str
) -> None:
    said = {
        "model": "boxes.told",
        "conf": "0.5",
        "iou": "0.6",
        "max_det": "7",
        "imgsz": "64",
        "half": "true",
        "device": "CPU",
        "text_queries": ["a cat", "a dog, black"],
        "question": "who is it?",
    }
    options = {"query": {"params": said}, "form": {"data": said}, "both": {"params": said, "data": said}}[where]
    answer = await post(house, **options)
    assert answer.status_code == 200, answer.text
    assert told.seen[-1] == InferenceParams(
        confidence=0.5,
        iou=0.6,
        max_det=7,
        imgsz=64,
        half=True,
        device="CPU",
        text_queries=("a cat", "a dog, black"),
        question="who is it?",
    )
    assert told.loads[-1].options.model_dump() == {"imgsz": 64}
    assert len(answer.json()["results"]) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conf", "1.1", "1"),
        ("conf", "-0.1", "0"),
        ("conf", "nan", "must"),
        ("conf", "much", "number"),
        ("conf", "", "number"),
        ("iou", "2", "1"),
        ("iou", "inf", "1"),
        ("max_det", "0", "1"),
        ("max_det", "1001", "1000"),
        ("max_det", "1.5", "integer"),
        ("imgsz", "31", "32"),
        ("imgsz", "4097", "4096"),
        ("imgsz", "1e9", "integer"),
        ("imgsz", "33", "multiple of 32"),
        ("half", "perhaps", "boolean"),
        ("device", "rm -rf", "pattern"),
        ("device", "x" * 41, "40"),
        ("text_queries", " ", "1 character"),
        ("text_queries", "x" * 201, "200"),
        ("question", "x" * 2001, "2000"),
        ("annotated", "maybe", "boolean"),
        ("model", "", "1 character"),
    ],
)
@pytest.mark.parametrize("where", ["query", "form"])
async def test_each_wrong_parameter_is_named_with_its_bound(
    house: House, name: str, value: str, said: str, where: str
) -> None:
    answer = await post(house, **({"params": {name: value}} if where == "query" else {"data": {name: value}}))
    body = assert_error(answer, 422)
    assert name in body["detail"]
    assert said in body["detail"]
    if body["extra"]:
        assert [(one["key"], one["source"]) for one in body["extra"]] == [
            (name, "query" if where == "query" else "body")
        ]


async def test_all_wrong_parameters_are_named_at_once(house: House) -> None:
    body = assert_error(await post(house, params={"conf": "2", "half": "x"}, data={"iou": "-1"}), 422)
    assert {one["key"] for one in body["extra"]} <= {"conf", "half", "iou"}
    assert len(body["extra"]) >= 2


@pytest.mark.parametrize(
    ("query", "form"),
    [
        ({"conf": "0.5"}, {"conf": "0.6"}),
        ({"conf": ["0.5", "0.6"]}, {}),
        ({}, {"conf": ["0.5", "0.6"]}),
        ({"text_queries": ["a", "b"]}, {"text_queries": ["a"]}),
        ({"model": "boxes.told"}, {"model": "caption.told"}),
    ],
)
async def test_one_parameter_with_two_values_is_refused(house: House, query: Any, form: Any) -> None:
    body = assert_error(await post(house, params=query, data=form), 422)
    assert "twice" in body["detail"]


async def test_unknown_names_are_ignored_in_the_query_and_refused_in_the_form(house: House) -> None:
    assert (await post(house, params={"t": "123"})).status_code == 200
    body = assert_error(await post(house, data={"confidence": "0.5"}), 422)
    assert "`conf`" in body["detail"]


@pytest.mark.parametrize("model", ["nothing.told", "../secrets.told", "/etc/passwd", "boxes.onnx", "a/b/c.told", "\n"])
async def test_an_unknown_model_is_404(house: House, model: str) -> None:
    assert_error(await post(house, params={"model": model}), 404)


async def test_a_model_of_a_folder_is_named_with_its_slashes(house: House) -> None:
    answer = await post(house, params={"model": "deep/down/boxes.told"})
    assert answer.json()["model_id"] == "deep/down/boxes.told"


@pytest.mark.parametrize(("model", "said"), [("garbage", "no model"), ("never", "on fire")])
async def test_a_model_that_cannot_be_loaded_is_502_and_is_not_loaded_again_at_once(
    house: House, told: ToldFamily, model: str, said: str
) -> None:
    before = len(told.loads)
    for _ in range(3):
        body = assert_error(await post(house, params={"model": f"{model}.told"}), 502)
        assert said in body["detail"]
    assert len(told.loads) == before + 1
    assert (await post(house)).status_code == 200


@pytest.mark.parametrize(
    ("model", "height", "status", "said"),
    [
        ("raises", 48, 500, "ZeroDivisionError"),
        ("raises", 1, 500, "ModelError"),
        ("raises", 2, 422, "text_queries"),
        ("exits", 48, 500, "SystemExit"),
        ("odd", 48, 500, "TypeError"),
    ],
)
async def test_a_model_that_fails_says_its_type_and_stays_usable(
    house: House, told: ToldFamily, model: str, height: int, status: int, said: str
) -> None:
    data = cv2.imencode(".png", picture(1, size=(height, 64)))[1].tobytes()
    loads = len({spec.model_id for spec in told.loads} | {f"{model}.told"})
    for _ in range(2):
        body = assert_error(await post(house, content=data, params={"model": f"{model}.told"}), status)
        assert said in body["detail"]
        assert "hunter2" not in body["detail"]
    assert len({spec.model_id for spec in told.loads}) <= loads
    info = (await house.get(f"/api/v1/models/{model}.told")).json()
    assert (info["state"], info["users"]) == ("loaded", 0)
    assert (await post(house)).status_code == 200


async def test_the_answer_can_be_the_picture_with_the_results_drawn(house: House) -> None:
    plain = cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR).astype(int)
    for name, results in (("boxes", 2), ("points", 1), ("caption", 0)):
        answer = await post(house, params={"model": f"{name}.told"}, data={"annotated": "true"})
        assert answer.status_code == 200
        image = decoded(answer)
        assert image.shape == (48, 64, 3)
        assert (np.abs(image.astype(int) - plain).max(axis=2) > 60).sum() > 50, name
        assert answer.headers["x-model-id"] == f"{name}.told"
        assert float(answer.headers["x-inference-time-ms"]) == 1.5
        assert answer.headers["x-results"] == str(results)


async def test_a_picture_too_long_for_jpeg_is_drawn_smaller(house: House) -> None:
    data = cv2.imencode(".png", np.zeros((2, 70_000, 3), np.uint8))[1].tobytes()
    image = decoded(await post(house, content=data, params={"annotated": "true"}))
    assert image.shape[1] == 16_000
    assert (await post(house, content=data)).json()["metadata"]["width"] == 70_000


async def test_a_bare_picture_will_do(house: House) -> None:
    answer = await house.client.post(INFER, content=JPEG, params={"conf": 0.5}, headers={"Content-Type": "image/jpeg"})
    assert len(answer.json()["results"]) == 1


async def test_detect_counts_and_labels(house: House) -> None:
    answer = await post(house, DETECT, data={"confidence": "0.5"})
    assert answer.json() == {
        "count": 1,
        "detections": [{"label": "person", "confidence": 0.9, "bbox": {"x1": 1.0, "y1": 2.0, "x2": 63.0, "y2": 46.0}}],
    }
    assert (await post(house, DETECT)).json()["count"] == 2
    assert "confidence" in assert_error(await post(house, DETECT, params={"confidence": 7}), 422)["detail"]


async def test_a_picture_is_looked_at_as_its_orientation_says(house: House, told: ToldFamily) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    answer = await post(house, content=JPEG[:2] + block + JPEG[2:])
    assert (answer.json()["metadata"]["width"], answer.json()["metadata"]["height"]) == (48, 64)
    assert told.images[-1].shape == (64, 48, 3)
    assert not told.images[-1].flags.writeable


async def test_each_outcome_is_counted(tmp_path: Path) -> None:
    models = models_folder(tmp_path, "boxes", "raises", "garbage")
    async with open_house(family=ToldFamily(), models=models) as fresh:
        await post(fresh)
        await post(fresh, DETECT)
        for model in ("raises.told", "garbage.told", "nothing.told"):
            await post(fresh, params={"model": model})
        await post(fresh, params={"conf": 2})
        await post(fresh, content=b"text")
        told = (await fresh.get("/metrics")).text
        for outcome, number in {
            "ok": 2,
            "predict_failed": 1,
            "load_failed": 1,
            "unknown_model": 1,
            "refused": 2,
        }.items():
            assert f'healthd_infer_requests_total{{outcome="{outcome}"}} {number}.0' in told
        assert "healthd_infer_uploads_open 0.0" in told
        assert "healthd_infer_decode_seconds_count 3.0" in told


async def test_reading_is_enough_to_ask_and_a_key_is_needed(tmp_path: Path) -> None:
    models = models_folder(tmp_path, "boxes")
    async with open_house(family=ToldFamily(), models=models, auth={"keys": KEYS}) as guarded:
        assert_error(await post(guarded), 401)
        assert (await post(guarded, headers=READ)).status_code == 200
        assert (await post(guarded, DETECT, headers=READ)).status_code == 200
        for method, path in (("POST", "boxes.told/load"), ("DELETE", "boxes.told")):
            url = f"/api/v1/models/{path}"
            assert_error(await guarded.client.request(method, url, headers=READ), 403)
            assert (await guarded.client.request(method, url, headers=ADMIN)).status_code == 200


async def test_without_any_model_the_answer_says_what_to_do() -> None:
    async with open_house(models={"directory": "nowhere"}) as empty:
        assert "models.default" in assert_error(await post(empty), 404)["detail"]


async def test_a_daemon_that_stops_takes_no_more_pictures(tmp_path: Path) -> None:
    async with open_house(family=ToldFamily(), models=models_folder(tmp_path, "boxes")) as stopping:
        stopping.services.draining = True
        answer = await post(stopping)
        assert_error(answer, 503)
        assert answer.headers["retry-after"]
