"""Snapshots: the newest JPEG of a live camera, its headers, its variants, and what they cost."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import numpy as np
import pytest
import pytest_asyncio

from healthd.frames import Image
from healthd.models.model import Detection, Prediction
from tests.api.house import Feed, House, assert_error, decoded, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, picture, prediction

SNAPSHOT = "/api/v1/cameras/gym/snapshot"
LONG = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 60}}
"""A camera that shows one picture for as long as a test looks at it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def still() -> AsyncIterator[House]:
    """A house for the tests that change nothing: one camera that shows one picture."""
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        yield house


async def test_a_snapshot_is_the_newest_frame_as_a_jpeg_with_all_its_headers() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        before = datetime.now(UTC)
        await house.show(picture(1))
        frame_id = await house.show(picture(200))
        answer = await house.get(SNAPSHOT)
        assert answer.status_code == 200
        image = decoded(answer)
        assert image.shape == (48, 64, 3)
        assert abs(int(image[20, 20, 0]) - 200) < 4
        headers = answer.headers
        assert headers["x-frame-id"] == str(frame_id) == "2"
        assert headers["cache-control"] == "no-cache"
        assert re.fullmatch(r'"[\x21\x23-\x7e]+"', headers["etag"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", headers["x-frame-timestamp"])
        taken = datetime.fromisoformat(headers["x-frame-timestamp"])
        assert before.timestamp() - 0.001 <= taken.timestamp() <= datetime.now(UTC).timestamp()
        assert 0 <= float(headers["x-frame-age-ms"]) < 20_000
        assert headers["x-content-type-options"] == "nosniff"
        assert headers.get_list("content-length", split_commas=True) == [str(len(answer.content))]


async def test_the_age_of_a_picture_grows_until_it_is_sent() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        first = float((await house.get(SNAPSHOT)).headers["x-frame-age-ms"])
        await asyncio.sleep(0.1)
        second = await house.get(SNAPSHOT)
        assert float(second.headers["x-frame-age-ms"]) >= first + 90
        assert second.headers["x-frame-id"] == "1"


async def test_head_answers_the_headers_without_the_picture() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        head, get = await house.client.head(SNAPSHOT), await house.get(SNAPSHOT)
        assert head.status_code == 200
        assert head.content == b""
        for name in ("etag", "cache-control", "content-type", "content-length", "x-frame-id", "x-frame-timestamp"):
            assert head.headers[name] == get.headers[name]
        assert (await house.client.head(SNAPSHOT, headers={"If-None-Match": "*"})).status_code == 304
        missing = await house.client.head("/api/v1/cameras/nobody/snapshot")
        assert (missing.status_code, missing.content) == (404, b"")


async def test_the_quality_asked_for_is_the_quality_given() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    async with open_house({"gym": Feed()}, cameras={"gym": {**LONG["gym"], "quality": 40}}) as house:
        await house.show(noise)
        sizes = {q: len((await house.get(f"{SNAPSHOT}?q={q}")).content) for q in (1, 40, 75, 95)}
        assert list(sizes.values()) == sorted(set(sizes.values()))
        assert len((await house.get(SNAPSHOT)).content) == sizes[40]  # the camera's own


async def test_without_a_quality_of_the_camera_that_of_the_snapshots_counts() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    for default, sections in ((75, {}), (20, {"snapshots": {"quality": 20}})):
        async with open_house({"gym": Feed()}, cameras=LONG, **sections) as house:
            await house.show(noise)
            plain, same = await house.get(SNAPSHOT), await house.get(f"{SNAPSHOT}?q={default}")
            assert plain.content == same.content
            assert house.runner().jpegs.encodes == 1


async def test_a_width_makes_it_smaller_and_never_larger() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        shapes = [decoded(await house.get(f"{SNAPSHOT}?width={width}")).shape[:2] for width in (16, 32, 64, 65, 8192)]
        assert shapes == [(12, 16), (24, 32), (48, 64), (48, 64), (48, 64)]
        etags = {(await house.get(f"{SNAPSHOT}?width={width}")).headers["etag"] for width in (64, 65, 8192)}
        assert len(etags) == 1  # one picture, one tag, one encode
        assert house.runner().jpegs.encodes == 3


async def test_each_variant_has_a_tag_of_its_own_and_each_start_of_the_daemon_too() -> None:
    seen = []
    for _ in range(2):
        async with open_house({"gym": Feed(predict=prediction)}, cameras=LONG) as house:
            await house.show(picture(1))
            await eventually(lambda: house.runner().counts.predicted == 1)
            queries = ["", "?q=50", "?width=32", "?overlay=true", "?overlay=true&width=32"]
            seen += [(await house.get(SNAPSHOT + query)).headers["etag"] for query in queries]
    assert len(set(seen)) == len(seen) == 10


def marker_model(image: Image) -> Prediction:
    """Find the white square in the image and say where it is; slower than the camera."""
    time.sleep(0.05)
    rows, columns = np.nonzero((image > 250).all(axis=2))
    box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
    found = Detection((box[0] - 6, box[1] - 6, box[2] + 6, box[3] + 6), 0.9, 0, "marker")
    return prediction(image, results=(found,))


def moving_marker() -> FakeSource:
    """A camera whose white square stands elsewhere in every frame, at a place that tells the frame's id."""
    source = FakeSource(predict=marker_model, fps=50)

    def read() -> Image:
        source.next_image()
        image = np.zeros((240, 320, 3), np.uint8)
        x = 20 + 24 * (source._number % 12)
        image[120:132, x : x + 12] = 255
        return image

    source._read = read
    return source


@pytest.mark.parametrize("width", [None, 160])
async def test_an_overlay_is_the_prediction_of_that_very_frame(width: int | None) -> None:
    scale = 1 if width is None else width / 320
    query = "?overlay=true&q=95" + (f"&width={width}" if width else "")
    async with open_house({"gym": moving_marker()}) as house:
        await eventually(lambda: house.runner().counts.predicted >= 2)
        seen = set()
        for _ in range(6):
            answer = await house.get(SNAPSHOT + query)
            image, frame_id = decoded(answer).astype(int), int(answer.headers["x-frame-id"])
            left = 20 + 24 * (frame_id % 12)  # where the camera had it in the frame of this id
            edge = np.abs(image - (80, 175, 76)).max(axis=2) < 70  # the colour of class 0
            bottom = round((131 + 6) * scale)
            columns = np.nonzero(edge[bottom])[0]
            assert abs(columns.min() - (left - 6) * scale) <= 2
            assert abs(columns.max() - (left + 17) * scale) <= 2
            inside = image[round(125 * scale), round((left + 5) * scale)]
            assert inside.min() > 180, "the box stands around something else"
            seen.add(frame_id)
            await house.runner().wait_newer(frame_id, overlay=True, timeout=5)
        assert len(seen) > 2


async def test_the_plain_picture_has_nothing_drawn_on_it() -> None:
    async with open_house({"gym": moving_marker()}) as house:
        await eventually(lambda: house.runner().counts.predicted >= 2)
        image = decoded(await house.get(f"{SNAPSHOT}?q=95&overlay=false")).astype(int)
        assert (np.abs(image - (80, 175, 76)).max(axis=2) < 40).sum() == 0


async def test_an_overlay_without_a_prediction_is_a_404_that_says_why() -> None:
    gate = threading.Event()
    sources = {"gym": FakeSource(), "slow": FakeSource(predict=prediction, on_load=gate.wait)}
    async with open_house(sources) as house:
        await eventually(lambda: all(house.runner(name).health.state == "live" for name in sources))
        body = assert_error(await house.get(f"{SNAPSHOT}?overlay=1"), 404)
        assert body["extra"]["reason"] == "no model watches it"
        body = assert_error(await house.get("/api/v1/cameras/slow/snapshot?overlay=1"), 404)
        assert body["extra"]["reason"] == "no prediction yet, the model is loading"
        assert (await house.get("/api/v1/cameras/slow/snapshot")).status_code == 200
        gate.set()


async def test_a_picture_older_than_the_caller_allows_is_a_503_that_says_when_to_try_again() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        assert (await house.get(f"{SNAPSHOT}?max_age=30000")).status_code == 200
        await asyncio.sleep(0.06)
        answer = await house.get(f"{SNAPSHOT}?max_age=50")
        body = assert_error(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert body["extra"]["age_ms"] >= 50
        assert "50 ms" in body["detail"]
        assert_error(await house.get(f"{SNAPSHOT}?max_age=0"), 503)


async def test_what_the_caller_has_already_is_a_304_without_a_body_and_without_an_encode() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        first = await house.get(SNAPSHOT)
        etag, encodes = first.headers["etag"], house.runner().jpegs.encodes
        for tag in (etag, f"W/{etag}", f'"other", {etag}', f'"a" ,W/{etag},"b"', "*"):
            answer = await house.get(SNAPSHOT, headers={"If-None-Match": tag})
            assert (answer.status_code, answer.content) == (304, b""), tag
            assert answer.headers["etag"] == etag
            assert answer.headers["x-frame-id"] == "1"
            assert answer.headers["cache-control"] == "no-cache"
            assert "content-length" not in answer.headers
        for other in ('"other"', etag.strip('"'), f"W{etag}", "", '"*"', etag[:-2] + 'x"'):
            answer = await house.get(SNAPSHOT, headers={"If-None-Match": other})
            assert answer.status_code == 200, other
        assert house.runner().jpegs.encodes == encodes == 1


async def test_a_304_costs_no_encode_even_of_a_frame_that_nobody_has_seen() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        assert (await house.get(SNAPSHOT, headers={"If-None-Match": "*"})).status_code == 304
        assert house.runner().jpegs.encodes == 0


async def test_a_tag_of_an_older_frame_or_of_another_variant_is_no_match() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        etag = (await house.get(SNAPSHOT)).headers["etag"]
        assert (await house.get(f"{SNAPSHOT}?q=50", headers={"If-None-Match": etag})).status_code == 200
        await house.show(picture(2))
        assert (await house.get(SNAPSHOT, headers={"If-None-Match": etag})).status_code == 200


async def test_a_hundred_who_ask_for_one_frame_at_once_cost_one_encode() -> None:
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        answers = await asyncio.gather(*(house.get(SNAPSHOT) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert house.runner().jpegs.encodes == 1


async def test_nobody_asks_nothing_is_encoded() -> None:
    async with open_house({"gym": FakeSource(predict=prediction)}) as house:
        await eventually(lambda: house.runner().counts.predicted > 10)
        await house.get("/api/v1/cameras")
        assert house.runner().jpegs.encodes == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "query", ["?t=123", "?t=123&_=456", "?cb", "?key=value&key=other", "?Q=500", "?width=32&t=%00%ff"]
)
async def test_unknown_query_parameters_are_ignored(still: House, query: str) -> None:
    assert (await still.get(SNAPSHOT + query)).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "named", "bound"),
    [
        ("q=0", "q", "1"),
        ("q=96", "q", "95"),
        ("q=abc", "q", "int"),
        ("q=-1", "q", "1"),
        ("q=7.5", "q", "int"),
        ("q=99999999999999999999999", "q", ""),
        ("width=0", "width", "16"),
        ("width=15", "width", "16"),
        ("width=8193", "width", "8192"),
        ("width=wide", "width", "int"),
        ("overlay=perhaps", "overlay", "bool"),
        ("max_age=-1", "max_age", "0"),
        ("max_age=soon", "max_age", "int"),
        ("after=-1", "after", "0"),
        ("after=x", "after", "int"),
        ("wait=-1", "wait", "0"),
        ("wait=60001", "wait", "60000"),
        ("wait=long", "wait", "int"),
    ],
)
async def test_a_bad_parameter_is_a_422_that_names_it_and_its_bound(
    still: House, query: str, named: str, bound: str
) -> None:
    body = assert_error(await still.get(f"{SNAPSHOT}?{query}"), 422)
    assert body["detail"].startswith(f"{named}: ")
    assert bound in body["detail"]
    assert [problem["key"] for problem in body["extra"]] == [named]


@pytest.mark.asyncio(loop_scope="module")
async def test_all_bad_parameters_are_named_at_once_and_no_value_is_repeated(still: House) -> None:
    answer = await still.get(f"{SNAPSHOT}?q=hunter2&width=0&token=hunter2hunter2&overlay=hunter2")
    body = assert_error(answer, 422)
    assert {problem["key"] for problem in body["extra"]} == {"q", "width", "overlay"}
    assert "hunter2" not in answer.text
