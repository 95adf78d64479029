"""Pictures over a WebSocket: what is asked, what is answered, and that every picture is accounted for."""

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from healthd.api import sockets
from healthd.api.socket_session import MAX_BAD_IN_A_ROW
from healthd.errors import ModelError
from healthd.frames import Image
from healthd.models.model import InferenceParams
from tests.api.house import House
from tests.api.talking import (
    ENVELOPE,
    MODEL,
    Gate,
    ask,
    asked,
    closed,
    connected,
    heard,
    jpeg,
    png,
    talking_house,
)
from tests.eventually import eventually


async def metrics(house: House) -> dict[str, float]:
    lines = [line for line in (await house.get("/metrics")).text.splitlines() if line.startswith("healthd_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def accounts(house: House) -> tuple[int, int, int, int]:
    counts = house.services.sockets
    return counts.received, sum(counts.answered.values()), counts.dropped, counts.in_hand


async def test_a_socket_says_what_it_takes_and_answers_text_with_the_envelope() -> None:
    async with talking_house() as house, connected(house, greet=False) as client:
        ready = await heard(client)
        assert ready["type"] == "ready"
        assert ready["model_id"] is None
        limits = house.services.settings.inference
        assert ready["limits"]["max_upload_bytes"] == limits.max_upload_bytes
        assert ready["limits"]["max_pixels"] == limits.max_pixels
        assert ready["limits"]["idle_seconds"] == sockets.IDLE_SECONDS
        assert ready["limits"]["max_message_bytes"] > limits.max_upload_bytes * 4 / 3
        answer = await ask(client, asked(png(7), conf=0.5))
        assert set(answer) == {"type", "frame_id", "dropped", *ENVELOPE}
        assert (answer["type"], answer["frame_id"], answer["dropped"]) == ("prediction", 1, [])
        assert answer["model_id"] == MODEL
        assert answer["results"][0]["box_xyxy"] == [7.0, 1.0, 9.0, 9.0]
        assert answer["results"][0]["keypoints"] == [[2.0, 3.0, 0.9]]
        assert answer["metadata"] == {"task": "pose", "width": 64, "height": 48}


async def test_binary_pictures_take_their_parameters_from_the_query_and_are_counted() -> None:
    async with talking_house() as house:
        query = f"?model={MODEL}&conf=0.5&iou=0.1&max_det=7&text_queries=a&text_queries=b&question=why&t=123"
        async with connected(house, query, greet=False) as client:
            assert (await heard(client))["model_id"] == MODEL
            for number in (1, 2, 3):
                answer = await ask(client, jpeg() if number == 2 else png(number))
                assert (answer["type"], answer["frame_id"]) == ("prediction", number)
            shape, params = house.families.popitem()[1].seen[-1]  # type: ignore[attr-defined]
            assert shape == (48, 64, 3)
            assert params == InferenceParams(
                confidence=0.5, iou=0.1, max_det=7, text_queries=("a", "b"), question="why"
            )


async def test_a_text_message_changes_the_parameters_of_the_query_for_itself_alone() -> None:
    seen: list[InferenceParams] = []
    async with talking_house(lambda _, params: seen.append(params)) as house, connected(house, "?conf=0.6") as client:
        await ask(client, asked(max_det=3, text_queries=["bar"], conf=None, model_id=MODEL, half=False, question="?"))
        await ask(client, png())
    assert seen == [
        InferenceParams(confidence=0.6, max_det=3, text_queries=("bar",), half=False, question="?"),
        InferenceParams(confidence=0.6),
    ]


async def test_ids_are_echoed_or_counted() -> None:
    async with talking_house() as house, connected(house) as client:
        ids = [(await ask(client, message))["frame_id"] for message in (
            asked(frame_id=41), asked(), asked(frame_id=0), png(), asked(frame_id=2**53 - 1), asked(frame_id=41)
        )]  # fmt: skip
        assert ids == [41, 2, 0, 4, 2**53 - 1, 41]


async def test_a_ping_is_answered_and_counts_for_no_picture() -> None:
    async with talking_house() as house, connected(house) as client:
        assert await ask(client, '{"type": "ping"}') == {"type": "pong"}
        assert (await ask(client, png()))["frame_id"] == 1
        assert accounts(house) == (1, 1, 0, 0)


async def test_a_picture_may_be_a_data_url() -> None:
    async with talking_house() as house, connected(house) as client:
        said = json.loads(asked(png(9)))
        answer = await ask(client, json.dumps({"type": "picture", "image": "data:image/png;base64," + said["image"]}))
        assert answer["results"][0]["box_xyxy"][0] == 9.0


BAD: list[tuple[str | bytes, int, str, int | None]] = [
    (b"", 400, "", 1),
    (b"not a picture at all", 400, "", 1),
    (jpeg()[:200], 400, "", 1),
    ("{", 400, "not JSON", None),
    ("", 400, "not JSON", None),
    ("[1]", 422, "object", None),
    ('"ping"', 422, "object", None),
    ("{}", 422, "image", 1),
    ('{"image": 7}', 422, "image", 1),
    ('{"image": ""}', 400, "", 1),
    ('{"image": "!!!!"}', 400, "", 1),
    ('{"image": "äöü"}', 400, "base64", 1),
    ('{"image": "A"}', 400, "base64", 1),
    (asked(b"still no picture", frame_id=5), 400, "", 5),
    (asked(frame_id=-1), 422, "frame_id", None),
    (asked(frame_id="7"), 422, "frame_id", None),
    (asked(frame_id=True), 422, "frame_id", None),
    (asked(frame_id=1.5), 422, "frame_id", None),
    (asked(frame_id=2**53), 422, "frame_id", None),
    (asked(frame_id=3, conf=2), 422, "conf", 3),
    (asked(conf="0.5"), 422, "conf", 1),
    (asked(conf=True), 422, "conf", 1),
    (asked(iou=-0.1), 422, "iou", 1),
    (asked(max_det=0), 422, "max_det", 1),
    (asked(max_det=1.5), 422, "max_det", 1),
    (asked(imgsz=31), 422, "imgsz", 1),
    (asked(device="-rf /"), 422, "device", 1),
    (asked(text_queries="bar"), 422, "text_queries", 1),
    (asked(text_queries=[""]), 422, "text_queries", 1),
    (asked(question="x" * 2001), 422, "question", 1),
    (asked(half="yes"), 422, "half", 1),
    (asked(confidence=0.5), 422, "confidence", 1),
    (asked(type="picture!"), 422, "type", 1),
    (asked(type=["ping"]), 422, "type", 1),
    (asked(model_id=7), 422, "model_id", 1),
    (asked(model_id="m" * 501), 422, "model_id", 1),
    (asked(model_id="no-such-model"), 404, "no-such-model", 1),
    (asked(model_id="../../etc/passwd"), 404, "", 1),
    (asked(model_id="broken"), 502, "garbage", 1),
    ('{"image": "\\ud800"}', 400, "", None),
    ('{"image": null}', 422, "image", 1),
    ("[" * 100_000, 400, "not JSON", None),
]


@pytest.mark.parametrize("number", range(len(BAD)))
async def test_what_cannot_be_answered_is_an_error_and_the_socket_stays_open(number: int) -> None:
    message, status, words, frame_id = BAD[number]
    async with talking_house() as house, connected(house) as client:
        answer = await ask(client, message)
        assert set(answer) == {"type", "frame_id", "dropped", "status_code", "detail", "extra"}, answer
        assert (answer["type"], answer["status_code"]) == ("error", status), answer
        assert answer["frame_id"] == frame_id
        assert words in answer["detail"], answer
        assert answer["detail"]
        if status == 422 and answer["extra"]:
            assert answer["extra"][0]["key"] in answer["detail"]
        assert (await ask(client, png()))["type"] == "prediction"
        assert accounts(house) == (2, 2, 0, 0)


async def test_too_large_a_picture_is_refused_by_its_bytes_and_by_its_pixels() -> None:
    limits = {"max_upload_bytes": 4096, "max_pixels": 64 * 48}
    async with talking_house(inference=limits) as house, connected(house) as client:
        assert (await ask(client, png()))["type"] == "prediction"
        for message in (b"\x89PNG" + b"x" * 5000, asked(b"x" * 4097)):
            answer = await ask(client, message)
            assert (answer["type"], answer["status_code"]) == ("error", 413)
            assert "4,096" in answer["detail"]
        large = png()[:16] + b"\x00\x00\x75\x30\x00\x00\x75\x30" + png()[24:]  # says that it has 30,000 x 30,000
        answer = await ask(client, large)
        assert answer["status_code"] in {400, 413}
        assert (await ask(client, png()))["type"] == "prediction"


async def test_a_model_that_fails_is_a_500_with_the_type_and_stays_usable() -> None:
    failing: list[Exception] = [ZeroDivisionError("by zero"), ModelError("not this one")]

    def predict(image: Image, params: InferenceParams) -> None:
        if failing:
            raise failing.pop(0)

    async with talking_house(predict) as house, connected(house) as client:
        for words in ("ZeroDivisionError: by zero", "ModelError: not this one"):
            answer = await ask(client, png())
            assert (answer["status_code"], answer["detail"]) == (500, words)
        assert (await ask(client, png()))["type"] == "prediction"


async def test_a_turn_that_does_not_come_in_time_is_a_503() -> None:
    gate = Gate()
    async with (
        talking_house(gate, models={"queue_timeout_seconds": 0.1}) as house,
        connected(house) as first,
        connected(house) as second,
    ):
        await first.send(png())
        await gate.wait_entered()
        answer = await ask(second, png())
        assert answer["status_code"] == 503
        assert answer["extra"]["retry_after_seconds"] >= 1
        gate.open.set()
        assert (await heard(first))["type"] == "prediction"


async def test_newest_wins_and_the_ids_of_the_replaced_are_told() -> None:
    gate = Gate()
    async with talking_house(gate) as house, connected(house) as client:
        await client.send(png(1))
        await gate.wait_entered()
        for number in range(2, 8):
            await client.send(asked(png(number), frame_id=100 + number))
        assert await ask(client, '{"type": "ping"}') == {"type": "pong"}  # all of them have arrived
        assert accounts(house) == (7, 0, 5, 2)
        gate.open.set()
        answers = [await heard(client), await heard(client)]
        assert [answer["frame_id"] for answer in answers] == [1, 107]
        assert [answer["dropped"] for answer in answers] == [[102, 103, 104, 105, 106], []]
        assert answers[1]["results"][0]["box_xyxy"][0] == 7.0, "the newest picture, not an older one"
        assert accounts(house) == (7, 2, 5, 0)
        (viewer,) = house.services.viewers
        assert (viewer.sent, viewer.skipped) == (2, 5)


async def test_an_error_tells_of_the_dropped_too() -> None:
    gate = Gate()
    async with talking_house(gate) as house, connected(house) as client:
        await client.send(png())
        await gate.wait_entered()
        await client.send(png())
        await client.send(png())
        answer = await ask(client, "{")
        assert (answer["type"], answer["frame_id"], answer["dropped"]) == ("error", None, [2])
        gate.open.set()
        assert [(await heard(client))["dropped"] for _ in range(2)] == [[], []]


async def test_the_accounts_close_whatever_a_client_sends() -> None:
    """A burst of everything: each id that was sent is answered once or told to be dropped once."""
    async with talking_house() as house, connected(house) as client:
        sent = range(1000, 1300)
        for frame_id in sent:
            message = asked(png(frame_id % 250), frame_id=frame_id)
            await client.send(message if frame_id % 7 else asked(b"no picture", frame_id=frame_id))
        answered: Counter[int] = Counter()
        dropped: Counter[int] = Counter()
        while sum(answered.values()) + sum(dropped.values()) < len(sent):
            answer = await heard(client)
            answered[answer["frame_id"]] += 1
            dropped.update(answer["dropped"])
        assert sorted([*answered.elements(), *dropped.elements()]) == list(sent)
        assert 1299 in answered, "the newest is never dropped"
        assert accounts(house) == (300, sum(answered.values()), sum(dropped.values()), 0)
        told = await metrics(house)
        assert told["healthd_socket_frames_received_total"] == 300
        assert told["healthd_socket_frames_dropped_total"] == sum(dropped.values())
        assert told["healthd_socket_frames_in_hand"] == 0
        by_status = {name: value for name, value in told.items() if "frames_answered_total" in name}
        assert sum(by_status.values()) == sum(answered.values())
        assert told['healthd_viewers_open{camera="",kind="socket"}'] == 1


async def test_many_bad_messages_in_a_row_close_the_socket_and_some_do_not() -> None:
    async with talking_house() as house, connected(house) as client:
        for _ in range(3):
            for _ in range(MAX_BAD_IN_A_ROW - 1):
                assert (await ask(client, "{"))["status_code"] == 400
            assert (await ask(client, png()))["type"] == "prediction"
        for _ in range(MAX_BAD_IN_A_ROW):
            assert (await ask(client, "{"))["status_code"] == 400
        code, reason = await closed(client)
        assert code == 1008
        assert "cannot be answered" in str(reason)
        await eventually(lambda: not len(house.services.viewers))
        assert house.services.viewers.ended_total["misuse"] == 1


async def test_a_client_that_goes_in_the_middle_of_a_prediction_leaves_nothing_behind() -> None:
    gate = Gate()
    async with talking_house(gate) as house:
        for leave in ("close", "abort"):
            async with connected(house) as client:
                await client.send(png())
                await gate.wait_entered()
                await client.send(png())
                await client.send(png())
                assert await ask(client, '{"type": "ping"}') == {"type": "pong"}
                if leave == "close":
                    await client.close()
                else:
                    client.transport.abort()
                await eventually(lambda: not len(house.services.viewers), seconds=2)
            gate.open.set()
            await eventually(lambda: all(model.users == 0 for model in house.services.models.loaded()))
            gate.open.clear()
        received, answered, dropped, in_hand = accounts(house)
        assert (received, answered, dropped, in_hand) == (6, 0, 6, 0)
        assert house.services.viewers.ended_total["client"] == 2
        gate.open.set()
        async with connected(house) as client:
            assert (await ask(client, png()))["type"] == "prediction"


async def test_sockets_that_share_a_model_get_a_fair_share_of_it() -> None:
    def predict(image: Image, params: InferenceParams) -> None:
        time.sleep(0.01)

    shares: Counter[int] = Counter()
    async with talking_house(predict) as house:

        async def follow(number: int, stop: asyncio.Event, *, greedy: bool) -> None:
            async with connected(house) as client:
                while not stop.is_set():
                    if greedy:  # as fast as it can, without waiting for an answer
                        for _ in range(5):
                            await client.send(png())
                    else:
                        await client.send(png())
                    answer: dict[str, Any] = await heard(client)
                    shares[number] += answer["type"] == "prediction"

        stop = asyncio.Event()
        tasks = [asyncio.create_task(follow(number, stop, greedy=number < 2)) for number in range(8)]
        await eventually(lambda: sum(shares.values()) >= 400, seconds=60)
        stop.set()
        await asyncio.gather(*tasks)
    mean = sum(shares.values()) / 8
    assert all(0.7 * mean <= shares[number] <= 1.3 * mean for number in range(8)), shares
