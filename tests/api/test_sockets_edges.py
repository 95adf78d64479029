"""WebSockets at their edges: who may open one, how many, how large, how long, and how each of them ends."""

import asyncio
import base64
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from healthd import http_sockets
from healthd.api import sockets
from healthd.api.answer_headers import OTHER
from healthd.cameras.viewers import EndReason
from tests.api.house import ADMIN, KEYS, READ, READ_KEY, House, assert_error, open_house
from tests.api.talking import WS, Gate, ask, asked, closed, connected, heard, noise, png, talking_house
from tests.eventually import eventually
from tests.fakes import FakeSource

EVIL = "https://evil.example"


async def refused(house: House, query: str = "", *, path: str = WS, **options: Any) -> tuple[int, dict[str, Any], Any]:
    """Try to open a socket; return status, body and headers of the answer of HTTP."""
    with pytest.raises(InvalidStatus) as told:
        async with connected(house, query, **options):
            pass
    answer = told.value.response
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    body = json.loads(answer.body or b"")
    assert set(body) == {"status_code", "detail", "extra"}
    assert body["status_code"] == answer.status_code
    return answer.status_code, body, answer.headers


@asynccontextmanager
async def raw(
    house: House, head: str = "", *, request: str = f"GET {WS} HTTP/1.1", begun: bool = True
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that speaks as it likes; `begun`: the socket is open."""
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"{request}\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{head}\r\n".encode("latin-1")
    )
    try:
        if begun:
            assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        yield reader, writer
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes, at once or a while later."""
    return await asyncio.wait_for(reader.read(), 10)


def frame(data: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


# -- who ---------------------------------------------------------------------------------------------------------------


async def test_keys_are_those_of_the_api() -> None:
    async with talking_house(auth={"keys": KEYS}) as house:
        for headers in (READ, ADMIN, {"Authorization": f"Bearer {READ_KEY}"}):
            async with connected(house, headers=headers) as client:
                assert (await ask(client, png()))["type"] == "prediction"
        answer = await house.client.post("/api/v1/auth/login", json={"key": READ_KEY})
        session = {"Cookie": "; ".join(f"{name}={value}" for name, value in answer.cookies.items())}
        async with connected(house, headers=session) as client:
            assert (await ask(client, png()))["type"] == "prediction"
        for headers in ({}, {"X-Api-Key": "wrong"}, {"Cookie": "healthd_session=wrong"}):
            status, body, told = await refused(house, f"?key={READ_KEY}", headers=headers)
            assert status == 401
            assert "X-Api-Key" in body["detail"]
            assert told["www-authenticate"] == "Bearer"
        assert house.services.viewers.admitted_total == 4


@pytest.mark.parametrize("keys", [False, True])
async def test_a_page_of_another_site_opens_no_socket(*, keys: bool) -> None:
    sections: dict[str, Any] = {"auth": {"keys": KEYS}} if keys else {}
    async with talking_house(server={"cors_origins": ["https://panel.lan"]}, **sections) as house:
        who = READ if keys else {}
        for headers in (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
            {"Origin": house.url, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            status, body, _ = await refused(house, headers={**who, **headers})
            assert status == 403
            assert "server.cors_origins" in body["detail"]
        for headers in ({}, {"Origin": house.url}, {"Origin": "https://panel.lan"}):
            async with connected(house, headers={**who, **headers}) as client:
                assert (await ask(client, png()))["type"] == "prediction"


async def test_a_log_in_here_opens_no_socket_for_pages_that_only_a_pattern_names() -> None:
    async with talking_house(server={"cors_origins": ["*"]}, auth={"keys": KEYS}) as house:
        answer = await house.client.post("/api/v1/auth/login", json={"key": READ_KEY})
        session = {"Cookie": f"healthd_session={answer.cookies['healthd_session']}"}
        assert (await refused(house, headers={"Origin": EVIL, **session}))[0] == 403
        assert (await house.client.delete("/api/v1/viewers/v1", headers={"Origin": EVIL, **session})).status_code == 403
        for headers in (
            {"Origin": house.url, **session},
            {"Origin": EVIL, **READ},
            {"Origin": EVIL, **READ, **session},
        ):
            async with connected(house, headers=headers) as client:
                assert (await ask(client, png()))["type"] == "prediction"


async def test_a_foreign_name_opens_no_socket() -> None:
    async with talking_house(auth={"keys": []}) as house:
        status, body, _ = await refused(house, headers={"Host": "evil.example"})
        assert status == 421
        assert "server.allowed_hosts" in body["detail"]


async def test_behind_a_proxys_path_it_is_where_the_api_is() -> None:
    async with talking_house(server={"root_path": "/healthd"}) as house:
        async with connected(house) as client:
            assert (await ask(client, png()))["type"] == "prediction"
        house.url += "/healthd"
        async with connected(house) as client:
            assert (await ask(client, png()))["type"] == "prediction"


async def test_a_wrong_query_opens_no_socket() -> None:
    async with talking_house() as house:
        for query, key in (("?conf=2", "conf"), ("?conf=x", "conf"), ("?half=perhaps", "half"), ("?imgsz=1", "imgsz")):
            status, body, _ = await refused(house, query)
            assert status == 422
            assert body["detail"].startswith(f"{key}: ")
            assert body["extra"][0]["key"] == key


async def test_there_is_no_socket_elsewhere_and_no_page_here() -> None:
    async with talking_house() as house:
        url = house.url
        for path in ("/nothing", "/api/v1/cameras", "/healthz"):
            house.url = url + path
            status, _, _ = await refused(house)
            assert status == 404
        house.url = url
        answer = await house.get(WS)
        assert "reverse proxy" in assert_error(answer, 426)["detail"]
        assert answer.headers["upgrade"] == "websocket"


async def test_refusals_and_openings_are_counted_by_route_and_status() -> None:
    async with talking_house(inference={"max_sockets": 1}) as house, connected(house):
        status, body, headers = await refused(house)
        assert status == 503
        assert "inference.max_sockets" in body["detail"]
        assert int(headers["retry-after"]) > 0
        lines = (await house.get("/metrics")).text
        assert f'healthd_http_requests_total{{route="{WS}",status="101"}} 1.0' in lines
        assert f'healthd_http_requests_total{{route="{WS}",status="503"}} 1.0' in lines


# -- how many ----------------------------------------------------------------------------------------------------------


async def test_one_address_does_not_take_the_sockets_of_all() -> None:
    async with talking_house(inference={"max_sockets_per_client": 1}) as house, connected(house):
        status, body, _ = await refused(house)
        assert status == 503
        assert "inference.max_sockets_per_client" in body["detail"]
        with house.services.viewers.admitted(kind="socket", camera=None, client="192.0.2.7"):
            assert len(house.services.viewers) == 2


async def test_sockets_have_a_limit_of_their_own_and_take_no_place_from_streams() -> None:
    async with (
        talking_house(inference={"max_sockets": 2}, streams={"max_viewers": 1}) as house,
        connected(house) as first,
        connected(house),
    ):
        assert (await refused(house))[0] == 503
        async with house.client.stream("GET", "/api/v1/events/stream") as events:
            assert events.status_code == 200
            assert (await house.get("/api/v1/events/stream")).status_code == 503
        await first.close()
        await eventually(lambda: len(house.services.viewers) == 1)
        async with connected(house) as client:
            assert (await ask(client, png()))["type"] == "prediction"


async def test_open_sockets_are_listed_and_can_be_ended_by_an_administrator() -> None:
    async with talking_house(auth={"keys": KEYS}) as house, connected(house, headers=READ) as client:
        await ask(client, png())
        (viewer,) = (await house.get("/api/v1/viewers", headers=READ)).json()
        assert (viewer["kind"], viewer["camera"], viewer["sent"], viewer["skipped"]) == ("socket", None, 1, 0)
        path = f"/api/v1/viewers/{viewer['id']}"
        assert (await house.client.delete(path, headers=READ)).status_code == 403
        assert (await house.client.delete(path, headers=ADMIN)).status_code == 204
        code, reason = await closed(client)
        assert code == 1001
        assert "administrator" in str(reason)


# -- how large ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["binary", "text", "fragments", "a length alone"])
async def test_a_message_that_is_too_large_closes_the_socket_with_1009(sent: str) -> None:
    async with talking_house(inference={"max_upload_bytes": 1_000_000}) as house:
        async with connected(house, greet=False) as client:
            most = (await heard(client))["limits"]["max_message_bytes"]
            if sent == "binary":
                message: Any = b"x" * 20_000_000
            elif sent == "text":
                message = "x" * (most + 1)
            else:
                message = [b"x" * 100_000] * 20
            if sent == "a length alone":
                client.transport.write(b"\x82\xff" + (10**15).to_bytes(8) + b"mask")
            else:
                with pytest.raises(ConnectionClosed):
                    await client.send(message)
                    await client.wait_closed()
                    raise ConnectionClosed(None, None)
            assert (await closed(client))[0] == 1009
        await eventually(lambda: not len(house.services.viewers))
        assert house.services.viewers.ended_total["misuse"] == 1
        async with connected(house) as client:
            assert (await ask(client, png()))["type"] == "prediction"


async def test_a_picture_of_the_largest_size_fits_in_base64() -> None:
    data = noise(width=900, height=700)
    async with talking_house(inference={"max_upload_bytes": len(data)}) as house, connected(house) as client:
        for message in (data, asked(data)):
            assert (await ask(client, message))["type"] == "prediction"


async def test_crumbs_of_a_message_close_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_sockets, "MAX_FRAGMENTS", 50)
    async with talking_house() as house, raw(house) as (reader, writer):
        writer.write(frame(b"", fin=False) + frame(b"", Opcode.CONT, fin=False) * 60)
        assert b"fragments" in await rest(reader)


# -- what is no WebSocket ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"\xff\xfe", Opcode.TEXT), 1007),
        (frame(b'{"a": "', Opcode.TEXT, fin=False) + frame(b"\xff", Opcode.CONT), 1007),
        (frame(b"", Opcode.CONT), 1002),
        (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
        (b"\xff\xff\xff\xff", 1002),
        (b"\x89\xfe\x00\x7e" + b"\0" * 130, 1002),
    ],
    ids=["text", "fragments", "continuation", "unmasked", "reserved", "long ping"],  # masks differ from run to run
)
async def test_what_breaks_the_protocol_closes_the_socket_with_a_code_and_no_noise(
    data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with talking_house() as house:
        async with raw(house) as (reader, writer):
            writer.write(data * 2)
            assert code.to_bytes(2) in (await rest(reader))[-130:]
        await eventually(lambda: not len(house.services.viewers))
        assert house.services.viewers.ended_total["misuse"] == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("request_line", "head", "statuses"),
    [
        (f"POST {WS} HTTP/1.1", "", (b"404", b"405")),
        (f"GET {WS} HTTP/1.0", "", (b"101", b"426")),
        ("GET /\xff\xfe HTTP/1.1", "", (b"400", b"404")),
        (f"GET {WS} HTTP/1.1", "Sec-WebSocket-Key: again\r\n", (b"400",)),
        (f"GET {WS} HTTP/1.1", "X: " + "y" * 10_000 + "\r\n", (b"431", b"400")),
        (f"GET {WS} HTTP/1.1", "".join(f"X-{n}: y\r\n" for n in range(200)), (b"431", b"400")),
        (f"GET {WS}?{'x' * 9000} HTTP/1.1", "", (b"414", b"400")),
    ],
)
async def test_a_request_that_begins_no_socket_is_answered_and_not_logged(
    request_line: str, head: str, statuses: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with talking_house() as house:
        async with raw(house, head, request=request_line, begun=False) as (reader, _):
            status = (await asyncio.wait_for(reader.readline(), 10)).split()[1]
            assert status in statuses
            if status != b"101":
                answered = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                for name, value in (*OTHER, (b"content-type", b"application/json"), (b"cache-control", b"no-store")):
                    assert answered.lower().count(name + b": " + value + b"\r\n") == 1
                body = json.loads(await asyncio.wait_for(reader.readuntil(b"}}"), 10))
                assert (set(body), body["status_code"]) == ({"status_code", "detail", "extra"}, int(status))
        assert (await house.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if "Invalid HTTP request" not in record.message] == []


async def test_a_socket_does_not_begin_on_top_of_a_stream_that_is_still_being_sent() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        await eventually(lambda: house.runner().has_frame)
        request = f"GET /api/v1/cameras/gym/stream HTTP/1.1\r\nHost: localhost\r\n\r\nGET {WS} HTTP/1.1"
        async with raw(house, request=request, begun=False) as (reader, writer):
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            await reader.read(65536)
            assert [viewer.kind for viewer in house.services.viewers] == ["mjpeg"]
            writer.close()
        await eventually(lambda: not len(house.services.viewers))


# -- how long ----------------------------------------------------------------------------------------------------------


async def test_the_stop_closes_every_socket_with_1001_and_a_reason() -> None:
    gate = Gate()
    async with talking_house(gate) as house, connected(house) as busy, connected(house) as idle:
        await busy.send(png())
        await gate.wait_entered()
        await busy.send(png())
        begun = asyncio.get_running_loop().time()
        house.services.viewers.end_all(EndReason.STOP)
        for client in (busy, idle):
            code, reason = await closed(client)
            assert (code, reason) == (1001, "healthd is stopping")
        assert asyncio.get_running_loop().time() - begun < 1
        assert (await refused(house))[0] == 503
        await eventually(lambda: not len(house.services.viewers))
        counts = house.services.sockets
        assert (counts.received, counts.dropped, counts.in_hand) == (2, 2, 0)
        gate.open.set()


async def test_a_socket_lasts_no_longer_than_a_session_may() -> None:
    async with talking_house(streams={"max_seconds": 0.2}) as house, connected(house) as client:
        code, reason = await closed(client)
        assert code == 1001
        assert "streams.max_seconds" in str(reason)


@pytest.mark.parametrize("way", ["logs out", "expires"])
async def test_a_socket_ends_with_the_log_in_of_its_page(way: str) -> None:
    async with talking_house(auth={"keys": KEYS}) as house:
        house.services.auth.sessions.seconds = 1.0 if way == "expires" else 3600
        answer = await house.client.post("/api/v1/auth/login", json={"key": READ_KEY})
        own = {"Cookie": f"healthd_session={answer.cookies['healthd_session']}"}
        async with connected(house, headers=own) as page, connected(house, headers={**own, **READ}) as robot:
            if way == "logs out":
                assert (await house.client.delete("/api/v1/auth/session", headers=own)).status_code == 204
            assert await closed(page) == (1001, "the page is no longer logged in, or the key is no longer configured")
            assert (await ask(robot, png()))["type"] == "prediction"
        assert (await refused(house, headers=own))[0] == 401
        assert house.services.viewers.ended_total["logout"] == 1


async def test_a_socket_over_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "IDLE_SECONDS", 0.3)
    async with talking_house() as house, connected(house) as client:
        for _ in range(4):
            await asyncio.sleep(0.15)
            assert await ask(client, '{"type": "ping"}') == {"type": "pong"}
        code, reason = await closed(client)
        assert code == 1001
        assert "nothing was sent" in str(reason)
        await eventually(lambda: house.services.viewers.ended_total["idle"] == 1)


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks and asks, and its answers fill every buffer on the way."""
    monkeypatch.setattr(sockets, "MESSAGES_A_SECOND", 1_000_000)  # it would take them minutes
    async with talking_house(streams={"write_timeout_seconds": 0.3}) as house, raw(house) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        question = frame(b'{"type": "ping"}', Opcode.TEXT)

        async def pester() -> None:
            while True:
                writer.write(question * 1000)
                await writer.drain()

        pestering = asyncio.create_task(pester())
        await eventually(lambda: house.services.viewers.ended_total["stalled"] == 1, seconds=30)
        assert not len(house.services.viewers)
        pestering.cancel()
        await asyncio.gather(pestering, return_exceptions=True)


async def test_a_client_that_floods_with_pings_and_does_not_read_is_dropped() -> None:
    async with talking_house() as house, raw(house) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        question = frame(b"x" * 125, Opcode.PING)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(question * 1000)
                await asyncio.wait_for(writer.drain(), 20)
        await eventually(lambda: not len(house.services.viewers))
        assert house.services.viewers.ended_total["misuse"] == 1


async def test_an_answer_that_is_late_for_a_socket_that_was_closed_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MESSAGES_A_SECOND", 1)
    gate = Gate()
    async with talking_house(gate) as house:
        with structlog.testing.capture_logs() as logs:
            async with raw(house) as (reader, writer):
                writer.write(frame(png()))
                await gate.wait_entered()
                writer.write(frame(png()))  # who has taken it takes no other for a second
                await eventually(lambda: house.services.sockets.received == 2)
                writer.write(frame(b"", Opcode.PONG) * 300)
                assert (1008).to_bytes(2) in await rest(reader)
                gate.open.set()
                await eventually(lambda: not len(house.services.viewers))
        assert house.services.viewers.ended_total["misuse"] == 1
    assert [line for line in logs if line["event"] == "socket_bug"] == []


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
@pytest.mark.parametrize("begun", [True, False])
async def test_a_flood_of_pings_or_pongs_ends_its_socket_before_it_is_read(
    opcode: Opcode, *, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = count_frames(monkeypatch)
    async with talking_house() as house:
        async with raw(house, begun=begun) as (reader, writer):
            writer.write(frame(b"", opcode) * 100_000)
            if begun:
                said = await rest(reader)
                assert (1008).to_bytes(2) in said
                assert b"pings and pongs" in said
            else:
                with suppress(ConnectionError):
                    await rest(reader)
        await eventually(lambda: not len(house.services.viewers))
        assert not begun or house.services.viewers.ended_total["misuse"] == 1
    assert len(seen) <= http_sockets.SLICE_BYTES


async def test_a_flood_of_crumbs_ends_its_socket_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_frames(monkeypatch)
    async with talking_house() as house, raw(house) as (reader, writer):
        writer.write((frame(b"", fin=False) + 99 * frame(b"a", Opcode.CONT, fin=False) + frame(b"", Opcode.CONT)) * 500)
        said = await rest(reader)
        assert (1008).to_bytes(2) in said
        assert b"fragments" in said
        assert len(seen) <= http_sockets.CRUMBS_A_SECOND + http_sockets.SLICE_BYTES


async def test_small_messages_that_come_at_once_are_taken_one_slice_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 0

    def note(protocol: http_sockets.SocketProtocol) -> None:
        nonlocal most
        handed_on(protocol)
        most = max(most, protocol.queue.qsize())

    handed_on = http_sockets.SocketProtocol.send_receive_event_to_app
    monkeypatch.setattr(http_sockets.SocketProtocol, "send_receive_event_to_app", note)
    monkeypatch.setattr(sockets, "MESSAGES_A_SECOND", 100_000)
    message = frame(b'{"frame_id": 1}')
    async with talking_house() as house, raw(house) as (_, writer):
        writer.write(message * 3000)
        await eventually(lambda: house.services.sockets.received == 3000)
    assert most <= http_sockets.SLICE_BYTES // len(message) + 1


async def test_a_few_pings_and_many_large_fragments_hurt_nobody() -> None:
    async with talking_house(inference={"max_upload_bytes": 1 << 22}) as house, raw(house) as (reader, writer):
        writer.write(frame(b"?", Opcode.PING) * 50)
        picture = png() + bytes(3_000_000)
        writer.write(frame(b"", fin=False))
        for at in range(0, len(picture), 1024):
            writer.write(frame(picture[at : at + 1024], Opcode.CONT, fin=at + 1024 >= len(picture)))
        while b'"frame_id"' not in await asyncio.wait_for(reader.read(65536), 10):
            pass


def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """Every frame that is parsed from now on."""
    seen: list[Frame] = []
    parsed = http_sockets._Handshake.recv_frame

    def recv_frame(protocol: Any, one: Frame) -> None:
        seen.append(one)
        parsed(protocol, one)

    monkeypatch.setattr(http_sockets._Handshake, "recv_frame", recv_frame)
    return seen


async def test_a_peer_that_is_dead_goes_and_one_that_sends_a_large_picture_slowly_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_sockets, "PING_SECONDS", 0.3)
    picture = frame(png())
    async with talking_house() as house, raw(house) as (reader, writer), raw(house) as (dead, _):
        for byte in range(0, len(picture), len(picture) // 12):  # no pong can come in the middle of it
            writer.write(picture[byte : byte + len(picture) // 12])
            await asyncio.sleep(0.12)
            await writer.drain()
        assert len(house.services.viewers) == 1, "the dead one is gone, the slow one is not"
        while b'"prediction"' not in await asyncio.wait_for(reader.read(65536), 5):
            pass
        assert b"keepalive" in await rest(dead)


async def test_a_client_that_pongs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_sockets, "PING_SECONDS", 0.1)
    async with talking_house() as house, connected(house) as client:
        await asyncio.sleep(0.6)
        assert (await ask(client, png()))["type"] == "prediction"


async def test_who_sends_as_fast_as_it_can_is_listened_to_at_a_bounded_rate() -> None:
    async with talking_house() as house:
        counts = house.services.sockets
        async with raw(house) as (_, writer):
            flood = 4000 * frame(png())
            writer.write(flood)
            begun = asyncio.get_running_loop().time()
            await eventually(lambda: counts.received >= sockets.MESSAGES_A_SECOND)
            await asyncio.sleep(0.5)
            seconds = asyncio.get_running_loop().time() - begun
            assert counts.received <= sockets.MESSAGES_A_SECOND * (1.5 + seconds)


async def test_a_stop_that_outruns_the_conversation_still_lets_it_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    made = protocols(monkeypatch)
    async with talking_house() as house, connected(house) as client:
        house.services.viewers.end_all(EndReason.STOP)
        made[-1].shutdown()  # the conversation has had no turn since
        assert await closed(client) == (1001, "healthd is stopping")


async def test_a_stop_ends_a_socket_of_which_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = protocols(monkeypatch)
    monkeypatch.setattr(http_sockets, "SAY_SECONDS", 0.1)
    async with talking_house() as house, connected(house) as client:
        made[-1].shutdown()
        assert (await closed(client))[0] == 1012


async def test_a_stop_in_the_moment_in_which_the_client_leaves_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made, stopped = protocols(monkeypatch), []

    def leave(protocol: http_sockets.SocketProtocol, frame: Frame) -> None:
        handle_close(protocol, frame)
        protocol.shutdown()  # before the connection is lost
        stopped.append(protocol)

    handle_close = http_sockets.SocketProtocol.handle_close
    monkeypatch.setattr(http_sockets.SocketProtocol, "handle_close", leave)
    async with talking_house() as house:
        async with connected(house) as client:
            await client.close()
            assert client.close_code == 1000
        await eventually(made[-1].lost.done)
    assert stopped == made[-1:]


def protocols(monkeypatch: pytest.MonkeyPatch) -> list[http_sockets.SocketProtocol]:
    """Every socket that is made from now on."""
    made: list[http_sockets.SocketProtocol] = []
    connection_made = http_sockets.SocketProtocol.connection_made

    def note(protocol: http_sockets.SocketProtocol, transport: asyncio.BaseTransport) -> None:
        made.append(protocol)
        connection_made(protocol, transport)

    monkeypatch.setattr(http_sockets.SocketProtocol, "connection_made", note)
    return made
