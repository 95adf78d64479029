"""A camera that sends JPEGs: its own bytes are served, and pixels are made only for who needs them."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from healthd.cameras.health import FreezeDetector
from healthd.clock import Clock
from healthd.errors import BrokenPicture, CameraError
from healthd.frames import CapturedImage, Image, JpegImage
from healthd.models.model import Detection
from tests.api.house import Feed, House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction
from tests.jpegs import dated_jpeg, jpeg, pixels, turned_jpeg, undecodable_jpeg
from tests.stream_client import StreamClient, looking

SNAPSHOT = "/api/v1/cameras/gym/snapshot"


async def decodes(house: House, outcome: str = "ok") -> int:
    """How many JPEGs of the camera were decoded, as Prometheus is told."""
    said = (await house.get("/metrics")).text
    name = f'healthd_camera_jpeg_decode_seconds_count{{camera="gym",outcome="{outcome}"}} '
    return int(float(said.partition(name)[2].partition("\n")[0]))


async def test_the_bytes_of_the_camera_are_served_and_nothing_is_encoded_or_decoded() -> None:
    async with open_house({"gym": Feed()}) as house:
        for number in (1, 2):
            await house.show(JpegImage(jpeg(number)))  # type: ignore[arg-type]
            for query in ("", "?width=64", "?width=4000", "?max_age=60000", "?t=1", "?t=2", ""):
                answer = await house.get(SNAPSHOT + query)
                assert (answer.status_code, answer.content) == (200, jpeg(number))
        head = await house.client.head(SNAPSHOT)
        assert int(head.headers["content-length"]) == len(jpeg(2))
        unchanged = await house.get(SNAPSHOT, headers={"If-None-Match": head.headers["etag"]})
        assert unchanged.status_code == 304
        camera = (await house.get("/api/v1/cameras/gym")).json()
        assert (camera["width"], camera["height"]) == (64, 48)
        jpegs = house.runner().jpegs
        assert (jpegs.encodes, jpegs.hits, jpegs.passed) == (0, 0, 15)
        assert await decodes(house) == 0


async def test_another_width_or_quality_is_encoded_and_decodes_once() -> None:
    async with open_house({"gym": Feed()}) as house:
        await house.show(JpegImage(jpeg(1)))  # type: ignore[arg-type]
        answers = await asyncio.gather(*(house.get(f"{SNAPSHOT}?{query}") for query in ("width=32", "q=75", "q=20")))
        assert [pixels(answer.content).shape[1] for answer in answers] == [32, 64, 64]
        assert len({answer.headers["etag"] for answer in answers}) == 3
        assert (house.runner().jpegs.encodes, await decodes(house)) == (3, 1)


@pytest.mark.parametrize("change", [False, True])
async def test_a_quality_set_for_the_camera_is_kept(change: bool) -> None:  # noqa: FBT001
    cameras = {} if change else {"gym": {"quality": 50}}
    async with open_house({"gym": Feed()}, cameras=cameras) as house:
        if change:
            await house.client.patch("/api/v1/cameras/gym", json={"predict_fps": 5})
            await house.show(JpegImage(jpeg(1)))  # type: ignore[arg-type]
            assert (await house.get(SNAPSHOT)).content == jpeg(1)
            await house.client.patch("/api/v1/cameras/gym", json={"quality": 50})
        shown = await house.show(JpegImage(jpeg(2)))  # type: ignore[arg-type]
        answer = await house.get(SNAPSHOT)
        assert answer.content != jpeg(2)
        assert answer.headers["etag"].endswith(f'-{shown}-q50w0"')


async def test_a_stream_sends_the_bytes_too_and_says_that_it_sets_no_quality() -> None:
    async with (
        open_house({"gym": Feed()}) as house,
        looking(
            int(house.url.rpartition(":")[2]),
            "/api/v1/cameras/gym/stream",
            made=lambda path: StreamClient(path, keep=True),
        ) as [client],
    ):
        shown = await house.show(CapturedImage(JpegImage(jpeg(1))))  # type: ignore[arg-type]
        await eventually(lambda: shown in client.frames)
        assert next(part.jpeg for part in client.parts if part.frame_id == shown) == jpeg(1)
        assert (await house.get("/api/v1/viewers")).json()[0]["quality"] is None
        assert (house.runner().jpegs.encodes, await decodes(house)) == (0, 0)


async def test_a_model_and_its_drawing_share_one_decode_off_the_loop() -> None:
    threads: list[str] = []

    def predict(image: Image) -> object:
        threads.append(threading.current_thread().name)
        assert not image.flags.writeable
        return prediction(image, results=(Detection((8, 8, 40, 40), 0.9, 0, "person"),))

    async with open_house({"gym": Feed(predict=predict)}) as house:
        shown = await house.show(JpegImage(jpeg(1)))  # type: ignore[arg-type]
        await eventually(lambda: house.runner().counts.predicted == 1)
        drawn = await house.get(f"{SNAPSHOT}?overlay=true")
        assert drawn.headers["x-frame-id"] == str(shown)
        assert np.abs(pixels(drawn.content).astype(int) - pixels(jpeg(1))).max() > 50
        assert (await house.get(SNAPSHOT)).content == jpeg(1)
        assert await decodes(house) == 1
        assert threads == ["gym-predictor"]


async def test_a_picture_that_cannot_be_decoded_costs_itself_alone() -> None:
    """The model stays loaded, the camera live, and who asks for the pixels is told why there are none."""
    source = Feed(predict=prediction)
    async with open_house({"gym": source}, cameras={"gym": {"predict_when": "motion"}}) as house:
        await house.show(JpegImage(undecodable_jpeg()))  # type: ignore[arg-type]
        counts = house.runner().counts
        await eventually(lambda: counts.dropped["invalid"] == 1)
        body = assert_error(await house.get(f"{SNAPSHOT}?width=32"), 404)
        assert "a JPEG of 64x48 pixels from the camera cannot be decoded" in body["detail"]
        await house.show(JpegImage(jpeg(2)))  # type: ignore[arg-type]
        await eventually(lambda: counts.predicted == 1)
        assert (source.loaded, source.opened, house.runner().health.state.value) == (1, 1, "live")
        assert (counts.read, counts.in_hand) == (2, 0)
        assert (await decodes(house, "broken"), await decodes(house)) == (1, 1)


async def test_what_is_no_whole_jpeg_is_refused_when_it_is_read() -> None:
    def read() -> Any:
        time.sleep(0.01)
        return JpegImage(jpeg()[:-40])

    async with open_house({"gym": FakeSource(read=read)}) as house:
        await eventually(lambda: house.runner().failures.errors)
        assert "cut short: its end is missing" in house.runner().failures.errors[-1].reason


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "no picture"),
        (jpeg()[:200], "cut short"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0", "not a plain JPEG"),
        (jpeg().replace(b"\x08\x00\x30\x00\x40\x03", b"\x08\xff\xff\xff\xff\x03", 1), "pixels at most"),
        (bytearray(jpeg()), "not of bytes"),
    ],
)
def test_what_is_no_jpeg_that_could_be_shown_is_refused(data: Any, why: str) -> None:
    with pytest.raises(CameraError, match=why):
        JpegImage(data)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
async def test_a_picture_that_must_be_turned_is_served_upright(orientation: int) -> None:
    data = turned_jpeg(1, orientation)
    image = JpegImage(data)
    assert (image.width, image.height) == ((64, 48) if orientation < 5 else (48, 64))
    assert image.pixels().shape == (image.height, image.width, 3)
    async with open_house({"gym": Feed()}) as house:
        await house.show(JpegImage(data))  # type: ignore[arg-type]
        served = (await house.get(SNAPSHOT)).content
        assert (served == data) is (orientation == 1)
        assert pixels(served).shape == (image.height, image.width, 3)


def test_pixels_are_made_once_however_many_threads_ask() -> None:
    told: list[bool] = []
    image = JpegImage(jpeg(1, size=(1080, 1920)))
    image.tell_of_decode(lambda _seconds, ok: told.append(ok))
    made: list[Image] = []
    threads = [threading.Thread(target=lambda: made.append(image.pixels())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is made[0] for one in made)
    assert told == [True]
    image.tell_of_decode(lambda _seconds, ok: told.append(ok))
    assert told == [True], "a plugin delivers it a second time: it is counted once"
    early = JpegImage(jpeg(2))
    early.pixels()
    early.tell_of_decode(lambda _seconds, ok: told.append(ok))
    assert told == [True, True]


def test_a_broken_picture_tells_everybody_the_same() -> None:
    image = JpegImage(undecodable_jpeg())
    for _ in range(2):
        with pytest.raises(BrokenPicture, match="cannot be decoded"):
            image.pixels()


def test_a_repeated_jpeg_is_frozen_whatever_its_header_says() -> None:
    now = 0.0
    detector = FreezeDetector(Clock(monotonic=lambda: now), after_seconds=10)
    assert detector.frozen_seconds(JpegImage(dated_jpeg(1, "12:00:00"))) is None
    now = 11.0
    assert detector.frozen_seconds(JpegImage(dated_jpeg(1, "12:00:11"))) == 11
    assert detector.frozen_seconds(JpegImage(dated_jpeg(2, "12:00:11"))) == 11, "looked at a few times a second only"
    now = 11.5
    assert detector.frozen_seconds(JpegImage(dated_jpeg(2, "12:00:11"))) is None
