"""Streams over HTTP: what is sent, who is let in, and that every session ends with its viewer."""

import asyncio
import gc
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from healthd.api import events as api_events
from healthd.cameras.viewers import EndReason, Viewer
from healthd.errors import CameraError, SettingsError
from healthd.frames import Image
from healthd.models.model import Detection, Keypoint, Prediction
from tests.api.house import ADMIN, KEYS, READ, Feed, House, assert_error, http_client, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource, listed, picture, prediction
from tests.stream_client import StreamClient, looking

STREAM = "/api/v1/cameras/gym/stream"
EVENTS = "/api/v1/events/stream"
VIEWERS = "/api/v1/viewers"
LONG = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 60}}
PATIENCE = 0.5
"""How much later than at once things may happen on a machine that has something else to do."""


def port(house: House) -> int:
    return int(house.url.rpartition(":")[2])


def noisy(number: int, *, size: tuple[int, int] = (480, 640)) -> Image:
    """A picture that is large as a JPEG: nothing in it can be guessed."""
    return np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)


class Noisy(FakeSource):
    """A camera of large pictures."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pictures = [noisy(number) for number in range(8)]

    def next_image(self) -> Image:
        time.sleep(1 / self._fps)
        self._number += 1
        return self._pictures[self._number % 8].copy()


def seen(part: Any) -> Image:
    image = cv2.imdecode(np.frombuffer(part.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def keeping(path: str) -> StreamClient:
    return StreamClient(path, keep=True)


@contextmanager
def ended(logs: list[Any]) -> Iterator[None]:
    """Check that every session that was opened in the block has ended once, with one line in the log."""
    yield
    opened = sorted(entry["viewer"] for entry in logs if entry["event"] == "viewer_opened")
    assert sorted(entry["viewer"] for entry in logs if entry["event"] == "viewer_ended") == opened


def reasons(house: House) -> dict[str, int]:
    return {reason: number for reason, number in house.services.viewers.ended_total.items() if number}


async def test_a_stream_is_multipart_with_a_picture_its_number_and_time_in_each_part() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house, looking(port(house), STREAM, made=keeping) as [client]:
        begun = datetime.now(UTC)
        await eventually(lambda: len(client.frames) >= 5)
        assert client.status == 200
        assert client.answered["content-type"] == "multipart/x-mixed-replace; boundary=healthd-frame"
        assert client.answered["cache-control"] == "no-store"
        assert client.answered["x-accel-buffering"] == "no"
        assert "content-length" not in client.answered
        assert client.error is None
        assert client.frames == sorted(set(client.frames))
        for part in client.parts:
            if part.frame_id is not None:
                assert seen(part).shape == (48, 64, 3)
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", part.timestamp or "")
                assert abs(datetime.fromisoformat(str(part.timestamp)) - begun) < timedelta(seconds=20)
                number = int(seen(part)[20, 20, 0])
                assert abs(number - part.frame_id % 251) < 4, "not the picture of that number"


async def test_the_boundary_comes_with_the_part_and_not_with_the_next_one() -> None:
    """Some browsers show a part when they see that it is over."""
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        async with looking(port(house), STREAM) as [client]:
            await eventually(lambda: client.frames)
            shown = await house.show(picture(2))
            begun = time.monotonic()
            await eventually(lambda: shown in client.frames, seconds=0.9)  # the keep-alive comes after a second
            assert time.monotonic() - begun < 0.9


CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
IMAGES = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


async def test_to_chromium_the_head_of_a_part_is_sent_ahead_because_it_shows_none_before() -> None:
    headers = (f"User-Agent: {CHROME}", f"Accept: {IMAGES}")
    async with open_house({"gym": Feed()}, cameras=LONG) as house:
        await house.show(picture(1))
        received: list[bytes] = []
        client = StreamClient(STREAM, http="1.0", headers=headers)
        client._take = received.append  # type: ignore[method-assign]
        await client.open(port(house))
        ahead = b"--healthd-frame\r\nContent-Type: image/jpeg\r\n\r\n"
        await eventually(lambda: b"".join(received).count(ahead) == 2)
        await house.show(picture(2))
        await eventually(lambda: b"".join(received).count(ahead) == 3, seconds=0.9)
        house.services.viewers.end_all(EndReason.STOP)
        await eventually(lambda: client.lost_at)
        body = b"".join(received)
        assert body.endswith(b"\r\n--healthd-frame--\r\n")
        first, *pictures = body.removesuffix(b"\r\n--healthd-frame--\r\n").split(ahead)
        assert first == b""
        assert all(jpeg.startswith(b"\xff\xd8") for jpeg in pictures)
        assert all(jpeg.removesuffix(b"\r\n").endswith(b"\xff\xd9") for jpeg in pictures)


@pytest.mark.parametrize(
    ("agent", "accept"),
    [(CHROME, "*/*"), (CHROME, None), ("curl/8.0", IMAGES), (None, None), ("Gecko Firefox/146.0", IMAGES)],
)
async def test_whoever_else_asks_gets_each_part_with_its_whole_head(agent: str | None, accept: str | None) -> None:
    """Scripts of a page read the heads, in Chromium too."""
    named = {"User-Agent": agent, "Accept": accept}
    headers = tuple(f"{name}: {value}" for name, value in named.items() if value)
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        client = await StreamClient(STREAM, headers=headers).open(port(house))
        await eventually(lambda: len(client.frames) >= 2)
        assert client.error is None
        client.leave()


async def test_width_and_quality_are_those_asked_for_and_what_is_unknown_is_ignored() -> None:
    async with open_house({"gym": Noisy(fps=30)}) as house:
        paths = [f"{STREAM}?{query}" for query in ("q=90", "q=10", "width=160", "width=8000&cachebuster=1", "")]
        async with looking(port(house), *paths, made=keeping) as clients:
            await eventually(lambda: all(len(client.frames) >= 3 for client in clients))
            fine, coarse, small, huge, plain = (client.parts[-1] for client in clients)
            assert fine.size > plain.size > coarse.size
            assert seen(small).shape == (120, 160, 3)
            assert seen(huge).shape == seen(plain).shape == (480, 640, 3)


@pytest.mark.parametrize(
    "query", ["q=0", "q=96", "q=x", "width=15", "width=8193", "fps=0", "fps=121", "fps=nan", "fps=inf", "overlay=maybe"]
)
async def test_parameters_out_of_bounds_are_refused_in_words_and_open_nothing(query: str) -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        error = assert_error(await house.get(f"{STREAM}?{query}"), 422)
        assert query.partition("=")[0] in error["detail"]
        assert house.services.viewers.admitted_total == 0


@pytest.mark.parametrize("path", ["/api/v1/cameras/nowhere/stream", f"{EVENTS}?camera=nowhere"])
async def test_a_stream_of_an_unknown_camera_is_a_404(path: str) -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        assert assert_error(await house.get(path), 404)["detail"] == "unknown camera"
        assert house.services.viewers.admitted_total == 0


async def test_a_stream_is_asked_for_with_get_alone() -> None:
    """`HEAD` of what never ends would have to make up its answer."""
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        for path in (STREAM, EVENTS):
            assert (await house.client.head(path)).status_code == 405
            assert_error(await house.client.post(path), 405)
        assert house.services.viewers.admitted_total == 0
        assert (await house.get("/healthz")).status_code == 200, "the connection can be used again"


async def test_fewer_frames_can_be_asked_for() -> None:
    async with (
        open_house({"gym": FakeSource(fps=60)}) as house,
        looking(port(house), f"{STREAM}?fps=10", STREAM) as [few, all_of_them],
    ):
        await eventually(lambda: few.frames and all_of_them.frames)
        begun = [len(few.frames), len(all_of_them.frames)]
        await asyncio.sleep(2)
        assert 12 <= len(few.frames) - begun[0] <= 22
        assert len(all_of_them.frames) - begun[1] >= 50


async def test_a_camera_that_is_not_live_is_a_picture_that_says_so_and_the_stream_goes_on_when_it_is_back() -> None:
    feed = Feed()
    async with (
        open_house({"gym": feed}, cameras={"gym": {"stall_timeout_seconds": 60}}) as house,
        looking(port(house), STREAM, made=keeping) as [client],
    ):
        await eventually(lambda: client.parts)
        assert client.frames == []
        assert seen(client.parts[0]).shape == (360, 640, 3)
        await house.show(picture(1))
        await eventually(lambda: client.frames == [1], seconds=0.9)
        feed.show(CameraError("unplugged"))
        await eventually(lambda: client.parts[-1].frame_id is None, seconds=0.9)
        await eventually(lambda: house.runner().health.state == "reconnecting")
        await house.show(picture(2))
        await eventually(lambda: client.frames == [1, 2], seconds=0.9)
        assert (len(house.services.viewers), client.error) == (1, None)


async def test_a_picture_that_grows_too_old_is_said_within_a_second_to_one_who_wants_few_frames_too() -> None:
    cameras = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 0.5}}
    async with (
        open_house({"gym": Feed()}, cameras=cameras) as house,
        looking(port(house), STREAM, f"{STREAM}?fps=0.1") as clients,
    ):
        await house.show(picture(1))
        await eventually(lambda: all(client.frames for client in clients))
        await eventually(lambda: all(client.parts[-1].frame_id is None for client in clients), seconds=1.5 + PATIENCE)


async def test_a_stream_of_a_camera_that_is_not_live_costs_one_small_picture_a_second() -> None:
    """It once was sent as fast as the client could read."""
    async with open_house(
        {"gym": FakeSource(on_open=lambda: time.sleep(1))}, cameras={"gym": {"enabled": False}}
    ) as house:
        async with looking(port(house), *[STREAM] * 5) as clients:
            await asyncio.sleep(2.5)
            for client in clients:
                assert [part.frame_id for part in client.parts] == [None] * 3
                assert client.received < 100_000
        assert house.services.signs.encodes == 1
        assert house.runner().jpegs.encodes == 0


def refusing() -> None:
    raise SettingsError("no such camera")


@pytest.mark.parametrize(
    ("source", "title", "reason"),
    [
        (FakeSource(on_open=refusing), "failed", "no such camera"),
        (FakeSource(read=listed([picture(1)]), recording=True), "ended", "the recording has ended"),
    ],
    ids=["failed", "ended"],
)
async def test_a_camera_that_will_not_come_back_by_itself_is_a_picture_that_says_why(
    source: FakeSource, title: str, reason: str
) -> None:
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().health.state == title)
        said: list[tuple[str, str | None]] = []
        draw = house.services.signs.get

        async def remember(camera: str, what: str, why: str | None, *, width: int | None) -> bytes:
            said.append((what, why))
            return await draw(camera, what, why, width=width)

        house.services.signs.get = remember  # type: ignore[method-assign]
        async with looking(port(house), STREAM) as [client]:
            await eventually(lambda: client.parts)
            assert (client.status, client.frames) == (200, [])
            assert {what for what, _ in said} == {title}
            assert reason in str(said[0][1])
        await eventually(lambda: len(house.services.viewers) == 0)


def detecting(image: Image) -> Prediction:
    points = tuple(Keypoint(20.0 + number, 20.0, 0.9) for number in range(17))
    return prediction(image, results=(Detection((8.0, 8.0, 56.0, 40.0), 0.9, 0, "person", points),))


async def test_an_overlay_is_drawn_once_per_frame_however_many_look_and_for_nobody_where_nobody_does() -> None:
    source = FakeSource(predict=detecting, fps=20)
    async with open_house({"gym": source}) as house:
        await eventually(lambda: house.runner().counts.predicted >= 3)
        async with looking(port(house), STREAM, STREAM, made=keeping) as plain:
            await eventually(lambda: all(len(client.frames) >= 5 for client in plain))
        kinds = house.runner().jpegs.encodes_by_kind
        assert kinds["overlay"] == kinds["sized_overlay"] == 0
        before = house.runner().counts.predicted
        async with looking(port(house), *[f"{STREAM}?overlay=true"] * 10, made=keeping) as drawn:
            await eventually(lambda: all(len(client.frames) >= 8 for client in drawn))
        assert kinds["overlay"] <= house.runner().counts.predicted - before + 1
        by_number = {part.frame_id: part for part in drawn[0].parts if part.frame_id is not None}
        for number, part in by_number.items():
            box = seen(part)[8, 20:50].astype(int)  # the upper edge
            assert np.abs(box - [number % 251, number // 251, 128]).max() > 40, "nothing was drawn"
        assert all({part.frame_id: part.jpeg for part in client.parts}.items() >= {
            number: by_number[number].jpeg for number in set(client.frames) & set(by_number)
        }.items() for client in drawn), "not the same bytes for all"  # fmt: skip


async def test_an_overlay_without_a_model_says_so() -> None:
    async with (
        open_house({"gym": FakeSource(fps=30)}) as house,
        looking(port(house), f"{STREAM}?overlay=true") as [client],
    ):
        await eventually(lambda: client.parts)
        await asyncio.sleep(0.3)
        assert client.frames == []
        assert len(client.parts) <= 2


# -- who is let in -------------------------------------------------------------------------------------------------


async def test_too_many_viewers_are_told_when_to_come_back_and_one_who_leaves_makes_room() -> None:
    limits = {"max_viewers": 3, "max_viewers_per_camera": 2}
    cameras = {"gym": FakeSource(fps=30), "rack": FakeSource(fps=30)}
    async with open_house(cameras, streams=limits) as house:
        async with looking(port(house), STREAM, STREAM) as clients:
            await eventually(lambda: len(house.services.viewers) == 2)
            answer = await house.get(STREAM)
            error = assert_error(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
            assert "streams.max_viewers_per_camera" in error["detail"]
            async with looking(port(house), EVENTS) as [events]:
                await eventually(lambda: events.status)
                assert events.status == 200
                refused = assert_error(await house.get("/api/v1/cameras/rack/stream"), 503)
                assert "streams.max_viewers" in refused["detail"]
            clients[0].leave()
            await eventually(lambda: len(house.services.viewers) == 1)
            async with looking(port(house), STREAM) as [another]:
                await eventually(lambda: another.frames)
        await eventually(lambda: len(house.services.viewers) == 0)
        assert house.services.viewers.refused_total == 2


async def test_streams_need_a_key_where_keys_are_set() -> None:
    async with open_house({"gym": FakeSource(fps=30)}, auth={"keys": KEYS}) as house:
        for path in (STREAM, EVENTS, VIEWERS):
            assert_error(await house.get(path), 401)
        assert house.services.viewers.admitted_total == 0
        client = StreamClient(STREAM, headers=(f"X-Api-Key: {READ['X-Api-Key']}",))
        await client.open(port(house))
        await eventually(lambda: client.frames)
        (viewer,) = house.services.viewers
        path = f"{VIEWERS}/{viewer.viewer_id}"
        assert_error(await house.client.delete(path, headers=READ), 403)
        assert not viewer.ending.is_set()
        assert (await house.client.delete(path, headers=ADMIN)).status_code == 204
        await eventually(lambda: client.clean)
        client.leave()


async def test_viewers_are_listed_with_what_they_got_and_counted_at_their_camera() -> None:
    async with open_house({"gym": Noisy(fps=20), "rack": FakeSource()}) as house:
        assert (await house.get(VIEWERS)).json() == []
        async with looking(port(house), f"{STREAM}?q=40", f"{EVENTS}?camera=gym", EVENTS) as [stream, *_]:
            await eventually(lambda: len(stream.frames) >= 3)
            await eventually(lambda: len(house.services.viewers) == 3)
            first, second, third = (await house.get(VIEWERS)).json()
            assert set(first) == {
                "id", "kind", "camera", "client", "since", "sent", "skipped", "quality", "last_write_age_ms",
            }  # fmt: skip
            assert (first["kind"], first["camera"], first["client"]) == ("mjpeg", "gym", "127.0.0.1")
            assert first["sent"] >= 3
            assert first["quality"] <= 40
            assert 0 <= first["last_write_age_ms"] < 1000
            assert (second["kind"], second["camera"], second["quality"]) == ("events", "gym", None)
            assert (third["kind"], third["camera"]) == ("events", None)
            camera, other = (await house.get("/api/v1/cameras")).json()
            assert (camera["viewers"], other["viewers"]) == (2, 0)
            assert (await house.get("/api/v1/state")).json()["viewers"] == 3


async def test_what_is_sent_is_metered() -> None:
    async with open_house({"gym": FakeSource(fps=30, predict=prediction)}) as house:
        async with looking(port(house), STREAM, f"{STREAM}?overlay=1&width=32", EVENTS) as [client, *_]:
            await eventually(lambda: len(client.frames) >= 5)
            text = (await house.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['healthd_viewers_open{camera="gym",kind="mjpeg"}'] == "2.0"
        assert values['healthd_viewers_open{camera="",kind="events"}'] == "1.0"
        assert values["healthd_viewers_admitted_total"] == "3.0"
        assert float(values['healthd_stream_sent_total{camera="gym",kind="mjpeg"}']) >= 5
        assert float(values['healthd_stream_sent_bytes_total{camera="gym",kind="mjpeg"}']) > 1000
        assert float(values['healthd_stream_send_seconds_count{kind="mjpeg"}']) >= 5
        assert float(values['healthd_jpeg_encodes_total{camera="gym",variant="plain"}']) >= 5
        assert float(values['healthd_jpeg_encodes_total{camera="gym",variant="sized_overlay"}']) >= 1
        for reason in EndReason:
            assert f'healthd_viewers_ended_total{{reason="{reason.value}"}}' in values


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["leave", "reset", "half"])
@pytest.mark.parametrize("state", ["live", "paused", "slow"])
async def test_a_client_that_leaves_is_noticed_whether_frames_flow_or_not(way: str, state: str) -> None:
    source: FakeSource = Feed() if state == "slow" else Noisy(fps=30)
    async with open_house({"gym": source}, cameras=LONG) as house:
        if state == "slow":
            await house.show(picture(1))
        with capture_logs() as logs:
            clients = [await StreamClient(path).open(port(house)) for path in (STREAM, f"{STREAM}?fps=0.1", EVENTS)]
            await eventually(lambda: all(client.parts or client.events for client in clients))
            if state == "paused":
                await house.client.post("/api/v1/cameras/gym/pause")
                await eventually(lambda: clients[0].parts[-1].frame_id is None)
            begun = time.monotonic()
            with ended(logs):
                for client in clients:
                    if way == "half":
                        assert client._transport is not None
                        client._transport.write_eof()
                    else:
                        getattr(client, way)()
                await eventually(lambda: len(house.services.viewers) == 0, seconds=1.5)
                assert time.monotonic() - begun < 0.1 + PATIENCE
        assert reasons(house) == {"client": 3}
        for client in clients:
            client.leave()


async def test_a_client_that_has_sent_another_request_is_still_noticed_when_it_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a connection uvicorn tells the newest request alone, and reads no further before the first is answered."""
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        for way in ("leave", "reset"):
            client = await StreamClient(STREAM).open(port(house))
            await eventually(lambda c=client: c.frames)
            client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
            await asyncio.sleep(0.1)
            getattr(client, way)()
            await eventually(lambda: len(house.services.viewers) == 0, seconds=2 + PATIENCE)
        assert reasons(house) == {"client": 2}
        await asyncio.sleep(0.1)
        assert [entry.getMessage() for entry in caplog.records] == [], "the server takes it for our mistake"


async def test_a_client_that_sends_a_body_is_served_and_noticed() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        client = StreamClient(STREAM, headers=("Content-Length: 1000000",))
        await client.open(port(house))
        client.send(b"x" * 1_000_000)
        await eventually(lambda: len(client.frames) >= 3)
        client.leave()
        await eventually(lambda: len(house.services.viewers) == 0, seconds=1.5)


async def test_when_the_last_viewer_has_gone_nothing_is_encoded_any_more() -> None:
    async with open_house({"gym": FakeSource(fps=50, predict=detecting)}) as house:
        async with looking(port(house), STREAM, f"{STREAM}?overlay=true") as clients:
            await eventually(lambda: all(len(client.frames) >= 5 for client in clients))
        await eventually(lambda: len(house.services.viewers) == 0)
        await asyncio.sleep(0.05)  # what was being encoded
        encodes, newest = house.runner().jpegs.encodes, house.runner().newest_frame_id
        await eventually(lambda: house.runner().newest_frame_id >= newest + 10)
        assert house.runner().jpegs.encodes == encodes


async def test_a_client_that_does_not_read_is_dropped_at_the_deadline_and_the_others_lose_no_frame() -> None:
    async with (
        open_house({"gym": Noisy(fps=15)}, streams={"write_timeout_seconds": 1}) as house,
        looking(port(house), *[STREAM] * 3) as others,
    ):
        await eventually(lambda: all(client.frames for client in others))
        stalled = [
            await StreamClient(path, receive_buffer=4096).open(port(house)) for path in (STREAM, f"{STREAM}?width=320")
        ]
        await eventually(lambda: len(house.services.viewers) == 5)
        with capture_logs() as logs:
            begun = time.monotonic()
            for client in stalled:
                client.stop_reading()
            await eventually(lambda: len(house.services.viewers) == 3, seconds=4)
            assert 0.9 < time.monotonic() - begun < 3.5  # its buffers fill up first
        assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == []
        assert reasons(house) == {"stalled": 2}
        for client in others:
            assert client.frames == list(range(client.frames[0], client.frames[-1] + 1))
            assert client.error is None
        for client in stalled:
            client.leave()


async def test_one_who_has_not_even_read_its_last_answer_is_dropped_before_its_stream_begins() -> None:
    async with open_house({"gym": Noisy(fps=15)}, streams={"write_timeout_seconds": 0.5}) as house:
        await eventually(lambda: house.runner().frame)
        for path in (STREAM, EVENTS):
            client = await StreamClient("/api/v1/cameras/gym/snapshot?q=95", receive_buffer=4096).open(port(house))
            client.stop_reading()
            client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await eventually(lambda: len(house.services.viewers) == 1)
            begun = time.monotonic()
            await eventually(lambda: len(house.services.viewers) == 0)
            assert time.monotonic() - begun < 0.5 + PATIENCE
            client.leave()
        assert reasons(house) == {"stalled": 2}
        assert house.services.viewers.totals["mjpeg", "gym"].sent_bytes == 0


async def test_small_pictures_do_not_collect_for_one_who_does_not_read() -> None:
    """What waits for it will be old when it reads on: 32 kB in the kernel, nothing in the server."""
    async with open_house({"gym": FakeSource(fps=200)}, streams={"write_timeout_seconds": 0.5}) as house:
        client = await StreamClient(STREAM, receive_buffer=4096).open(port(house))
        await eventually(lambda: client.frames)
        client.stop_reading()
        await eventually(lambda: len(house.services.viewers) == 0)
        assert reasons(house) == {"stalled": 1}
        assert house.services.viewers.totals["mjpeg", "gym"].sent_bytes < 64_000
        client.leave()


async def test_an_event_listener_that_does_not_read_is_dropped_too() -> None:
    big = Detection((0.0, 0.0, 9.0, 9.0), 0.5, 0, "x" * 2000)
    source = FakeSource(fps=100, predict=lambda image: prediction(image, results=(big,) * 20))
    async with open_house({"gym": source}, streams={"write_timeout_seconds": 0.5}) as house:
        client = await StreamClient(EVENTS, receive_buffer=4096).open(port(house))
        await eventually(lambda: client.events)
        client.stop_reading()
        await eventually(lambda: len(house.services.viewers) == 0, seconds=20)
        assert reasons(house) == {"stalled": 1}
        client.leave()


async def test_a_slow_client_skips_frames_gets_a_lower_quality_and_never_lags() -> None:
    async with open_house({"gym": Noisy(fps=20)}, streams={"write_timeout_seconds": 30}) as house:
        await eventually(lambda: house.runner().frame)
        client, lags = StreamClient(STREAM), []
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port(house)))
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(
                sock, f"GET {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            )
            while len(lags) < 12:  # it takes about a tenth of what there is
                data = await asyncio.get_running_loop().sock_recv(sock, 16384)
                assert data, reasons(house)
                client.data_received(data)
                await asyncio.sleep(0.012)
                if len(client.frames) > len(lags):
                    lags.append((house.runner().newest_frame_id - client.frames[-1]) / 20)
            (viewer,) = house.services.viewers
            assert viewer.skipped > 5 * viewer.sent
            assert viewer.quality == 45
            assert client.error is None
            arrived = [part.at for part in client.parts if part.frame_id is not None]
            transfer = max(after - before for before, after in itertools.pairwise(arrived))
            assert max(lags) <= transfer + 0.5, "it got frames that had waited for it"
    assert reasons(house) == {"client": 1}


async def test_a_stop_ends_every_stream_cleanly_and_drops_who_does_not_read() -> None:
    sources = {"gym": Noisy(fps=20), "off": FakeSource()}
    async with open_house(sources, cameras={"off": {"enabled": False}}) as house:
        paths = [*[STREAM] * 10, f"{STREAM}?fps=0.1", "/api/v1/cameras/off/stream", *[EVENTS] * 3]
        async with looking(port(house), *paths) as clients:
            stalled = [await StreamClient(STREAM, receive_buffer=4096).open(port(house)) for _ in range(3)]
            await eventually(lambda: all(client.parts or client.events for client in [*clients, *stalled]))
            for client in stalled:
                client.stop_reading()
            await asyncio.sleep(1)
            begun = time.monotonic()
            house.services.viewers.end_all(EndReason.STOP)
            await eventually(lambda: all(client.clean for client in clients), seconds=0.5 + PATIENCE)
            await eventually(lambda: len(house.services.viewers) == 0, seconds=0.6 + PATIENCE)
            assert time.monotonic() - begun < 0.6 + PATIENCE
            for client in clients:
                if client.parts:
                    assert client.parts[-1].frame_id is None, "the last picture is one that could be taken for live"
            error = assert_error(await house.get(STREAM), 503)
            assert "stopping" in error["detail"]
            for client in stalled:
                client.leave()


async def test_the_connection_of_an_ended_stream_can_be_used_again() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house, looking(port(house), STREAM) as [client]:
        await eventually(lambda: client.frames)
        (viewer,) = house.services.viewers
        assert (await house.client.delete(f"{VIEWERS}/{viewer.viewer_id}")).status_code == 204
        await eventually(lambda: client.clean)
        assert client.lost_at is None
        again = StreamClient("/healthz")
        assert client._transport is not None
        client._transport.set_protocol(again)
        client._transport.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await eventually(lambda: again.text == b'{"status":"ok"}')
        await eventually(lambda: reasons(house) == {"admin": 1})
        assert_error(await house.client.delete(f"{VIEWERS}/{viewer.viewer_id}"), 404)
        assert_error(await house.client.delete(f"{VIEWERS}/{'x' * 500}"), 404)


async def test_a_stream_ends_when_it_has_lasted_as_long_as_it_may() -> None:
    async with (
        open_house({"gym": Feed()}, cameras=LONG, streams={"max_seconds": 0.5}) as house,
        looking(port(house), STREAM, f"{STREAM}?fps=0.1", EVENTS) as clients,
    ):
        await house.show(picture(1))
        await eventually(lambda: all(client.clean for client in clients), seconds=2 + PATIENCE)
        await eventually(lambda: reasons(house) == {"limit": 3})


@pytest.mark.parametrize("path", [STREAM, EVENTS])
async def test_http_1_0_gets_a_body_without_chunks_that_ends_with_the_connection(path: str) -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        client = await StreamClient(path, http="1.0").open(port(house))
        await eventually(lambda: client.frames or client.events)
        assert not client.chunked
        assert client.answered["connection"] == "close"
        (viewer,) = house.services.viewers
        with capture_logs() as logs, ended([]):
            viewer.end(EndReason.ADMIN)
            await eventually(lambda: client.lost_at)
        assert client.clean
        await eventually(lambda: reasons(house) == {"admin": 1})
        assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_our_own_failure_ends_the_session_says_so_once_and_does_not_look_like_a_clean_end() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:

        async def fail(*_: object) -> bytes:
            raise ZeroDivisionError("in the encoder")

        house.runner().jpegs.get_or_encode = fail  # type: ignore[method-assign]
        await eventually(lambda: house.runner().frame)
        with capture_logs() as logs:
            client = await StreamClient(STREAM).open(port(house))
            await eventually(lambda: client.lost_at)
            await eventually(lambda: len(house.services.viewers) == 0)
        assert not client.clean
        assert reasons(house) == {"bug": 1}
        (bug,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert bug["event"] == "stream_bug"


async def test_a_cancelled_answer_releases_its_session_and_leaves_no_task() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        before = asyncio.all_tasks()
        async with looking(port(house), STREAM, EVENTS) as clients:
            await eventually(lambda: all(client.parts or client.events for client in clients))
            for task in asyncio.all_tasks() - before:
                if "run_asgi" in repr(task):
                    task.cancel()
            await eventually(lambda: len(house.services.viewers) == 0)
            await eventually(lambda: all(client.lost_at for client in clients))
        await eventually(lambda: asyncio.all_tasks() <= before)


async def test_coming_and_going_leaves_no_task_behind() -> None:
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        await eventually(lambda: house.runner().frame)
        before = asyncio.all_tasks()
        for round_ in range(10):
            async with looking(port(house), *[STREAM] * 5, *[EVENTS] * 5) as clients:
                await asyncio.sleep(0.01 * (round_ % 4))
                for client in clients[::2]:
                    client.reset()
        await eventually(lambda: len(house.services.viewers) == 0)
        await eventually(lambda: asyncio.all_tasks() <= before)
        gc.collect()
        assert sum(house.services.viewers.ended_total.values()) == house.services.viewers.admitted_total


# -- events --------------------------------------------------------------------------------------------------------


async def test_events_begin_with_where_every_camera_stands_and_tell_what_changes() -> None:
    feed = Feed()
    cameras = {"gym": {"stall_timeout_seconds": 60}, "off": {"enabled": False}}
    async with open_house({"gym": feed, "off": FakeSource()}, cameras=cameras) as house, AsyncExitStack() as stack:
        while (await house.get("/api/v1/cameras/gym")).json()["model"]["state"] == "loading":
            await asyncio.sleep(0.01)
        [client] = await stack.enter_async_context(looking(port(house), EVENTS))
        await eventually(lambda: len(client.events) >= 2)
        assert client.answered["content-type"] == "text/event-stream; charset=utf-8"
        states = {json.loads(event.data)["name"]: json.loads(event.data)["state"] for event in client.events[:2]}
        assert states == {"gym": "starting", "off": "stopped"}
        gym = next(said for event in client.events if (said := json.loads(event.data))["name"] == "gym")
        assert gym == {**(await house.get("/api/v1/cameras/gym")).json(), "viewers": gym["viewers"]}
        await house.show(picture(1))
        await eventually(lambda: json.loads(client.events[-1].data).get("state") == "live")
        feed.show(CameraError("unplugged"))
        await eventually(lambda: json.loads(client.events[-1].data).get("reason") == "unplugged")
        ids = [int(event.event_id.partition("-")[2]) for event in client.events]
        assert ids == sorted(ids)
        assert {event.event_id.partition("-")[0] for event in client.events} == {house.services.boot_id}
        assert {event.name for event in client.events} == {"camera"}


async def test_a_predictor_that_stalls_is_an_event_and_a_metric_and_its_camera_goes_on() -> None:
    hang = threading.Event()

    def predict(image: Image) -> Prediction:
        hang.wait(20)
        return prediction(image)

    cameras = {"gym": {"predict_timeout_seconds": 0.2, "max_abandoned_workers": 64}}
    async with (
        open_house({"gym": FakeSource(predict=predict)}, cameras=cameras) as house,
        looking(port(house), EVENTS) as [client],
    ):

        def models() -> list[dict[str, str]]:
            return [json.loads(event.data)["model"] for event in client.events if event.name == "camera"]

        try:
            await eventually(lambda: any(model["state"] == "stalled" for model in models()))
            stalled = next(model for model in models() if model["state"] == "stalled")
            assert stalled["reason"] == "predictor stalled: no prediction within 0.2 s"
            assert 'model_state{camera="gym",state="stalled"} 1.0' in (await house.get("/metrics")).text
            assert house.runner().health.state == "live"
        finally:
            hang.set()
        await eventually(lambda: models()[-1]["state"] == "ready", seconds=10)


async def test_a_camera_whose_picture_grows_too_old_is_an_event_though_nothing_happened_and_only_one() -> None:
    cameras = {"gym": {"stall_timeout_seconds": 60, "stale_after_seconds": 0.3}}
    async with open_house({"gym": Feed()}, cameras=cameras) as house, looking(port(house), EVENTS) as [client]:
        await eventually(lambda: client.events)
        await house.show(picture(1))

        def states() -> list[str]:
            return [json.loads(event.data)["state"] for event in client.events]

        await eventually(lambda: states()[-1] == "stalled", seconds=0.3 + 1 + PATIENCE)
        await asyncio.sleep(2.2)  # two heartbeats
        assert states() == ["starting", "live", "stalled"]
        await house.show(picture(2))
        await eventually(lambda: states()[-2:] == ["stalled", "live"], seconds=0.9)


async def test_predictions_and_viewers_are_events_and_one_camera_can_be_asked_for() -> None:
    cameras = {"gym": FakeSource(fps=20, predict=detecting), "rack": FakeSource(fps=20, predict=detecting)}
    async with open_house(cameras) as house, looking(port(house), EVENTS, f"{EVENTS}?camera=gym") as [every, gym]:
        await eventually(lambda: every.events and gym.events)
        async with looking(port(house), STREAM, "/api/v1/cameras/rack/stream"):
            await eventually(lambda: len(house.services.viewers) == 4)
        await eventually(lambda: len(house.services.viewers) == 2)

        def told(client: StreamClient, name: str) -> list[dict[str, Any]]:
            return [json.loads(event.data) for event in client.events if event.name == name]

        await eventually(lambda: {body["camera"] for body in told(every, "prediction")} == {"gym", "rack"})
        await eventually(lambda: [body["what"] for body in told(gym, "viewer")][-1:] == ["ended"])
        assert {body["camera"] for name in ("prediction", "viewer") for body in told(gym, name)} == {"gym"}
        assert {body["name"] for body in told(gym, "camera")} == {"gym"}
        prediction_told = told(gym, "prediction")[-1]
        assert set(prediction_told) - {"camera"} == set((await house.get("/api/v1/cameras/gym/prediction")).json())
        assert prediction_told["results"][0]["class_name"] == "person"
        assert told(gym, "viewer")[-1]["reason"] == "client"
        numbers = [body["frame_id"] for body in told(gym, "prediction")]
        assert numbers == sorted(set(numbers))


async def test_of_viewers_nothing_is_made_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    body = api_events._viewer_body

    def remember(viewer: Viewer, what: str) -> bytes:
        made.append(what)
        return body(viewer, what)

    monkeypatch.setattr(api_events, "_viewer_body", remember)
    async with open_house({"gym": FakeSource(fps=30)}) as house:
        async with looking(port(house), STREAM) as [client]:
            await eventually(lambda: client.frames)
        await eventually(lambda: len(house.services.viewers) == 0)
        assert made == []
        async with looking(port(house), EVENTS) as [listener]:
            await eventually(lambda: listener.events)
            async with looking(port(house), STREAM):
                await eventually(lambda: made == ["opened"])


async def test_a_prediction_that_no_json_can_hold_ends_no_stream() -> None:
    def odd(image: Image) -> Prediction:
        return Prediction("odd", 1.0, (), {"task": "detect", "oddity": object()})

    cameras = {"gym": FakeSource(fps=30, predict=odd), "rack": FakeSource(fps=30, predict=detecting)}
    with capture_logs() as logs:
        async with open_house(cameras) as house, looking(port(house), EVENTS) as [client]:
            await eventually(lambda: house.runner().counts.dropped["failed"] >= 2)
            await eventually(lambda: len([event for event in client.events if event.name == "prediction"]) > 5)
            assert {json.loads(event.data)["camera"] for event in client.events if event.name == "prediction"} == {
                "rack"
            }
            assert len(house.services.viewers) == 1
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert {entry["event"] for entry in errors} == {"session_bug"}
    assert [bool(entry.get("exc_info")) for entry in errors].count(True) == 1, (
        "the same again is told without its trace"
    )


async def test_where_nothing_happens_a_comment_keeps_the_events_alive_and_a_stop_ends_them_at_once() -> None:
    async with (
        open_house({"off": FakeSource()}, cameras={"off": {"enabled": False}}) as house,
        looking(port(house), EVENTS) as [client],
    ):
        await eventually(lambda: client.events)
        await eventually(lambda: len(getattr(client.body, "comments", [])) >= 2, seconds=2 + 2 * PATIENCE)
        begun = time.monotonic()
        house.services.viewers.end_all(EndReason.STOP)
        await eventually(lambda: client.clean)
        assert time.monotonic() - begun < 0.1 + PATIENCE


async def test_streams_stand_in_the_openapi_document_with_their_media_types() -> None:
    async with open_house({"gym": FakeSource()}) as house, http_client(house.url) as client:
        paths = (await client.get("/schema")).json()["paths"]
        stream = paths["/api/v1/cameras/{name}/stream"]["get"]["responses"]
        assert set(stream) >= {"200", "404", "422", "503"}
        assert list(stream["200"]["content"]) == ["multipart/x-mixed-replace"]
        events = paths["/api/v1/events/stream"]["get"]["responses"]
        assert list(events["200"]["content"]) == ["text/event-stream"]
        assert set(paths["/api/v1/viewers/{viewer_id}"]["delete"]["responses"]) >= {"204", "404"}
