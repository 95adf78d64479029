"""Whatever the pieces and the manner in which it is asked, the answer is as if there were no way past the router."""

import asyncio
import contextlib
import gc
import re
import socket
import weakref
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from healthd.api.cached import MAX_KNOWN, CachedSnapshots
from healthd.app import create_app
from healthd.cameras.jpeg import JpegEncoder, Picture, Variant
from healthd.http_server import DroppableProtocol
from tests.api.house import READ, Feed, House, open_house
from tests.fakes import picture
from tests.serving import serving

PATH = "/api/v1/cameras/gym/snapshot"
GET = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
NOISE = np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8)
"""A picture of nearly a megabyte."""


@contextlib.asynccontextmanager
async def connected(url: str, *, receive_buffer: int | None = None) -> AsyncIterator[socket.socket]:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    host, port = url.removeprefix("http://").split(":")
    with sock:
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        yield sock


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def receive(sock: socket.socket, answers: int, *, head: bool = False) -> list[tuple[int, dict[str, str], bytes]]:
    """Read so many answers: status, headers, body. `head`: they have none."""
    loop, data = asyncio.get_running_loop(), b""
    read: list[tuple[int, dict[str, str], bytes]] = []
    while len(read) < answers:
        top, end, rest = data.partition(b"\r\n\r\n")
        lines = top.decode("latin-1").split("\r\n") if end else [""]
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        size = 0 if head or lines[0].endswith("304 Not Modified") else int(fields.get("content-length", 0))
        if end and len(rest) >= size:
            read.append((int(lines[0].split()[1]), fields, rest[:size]))
            data = rest[size:]
            continue
        more = await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 5)
        assert more, data[:500]
        data += more
    assert not data
    return read


async def is_closed(sock: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 2) == b""
    return False


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each question that could be answered from the cache, whether it was."""
    told: list[bool] = []
    original = DroppableProtocol._answer

    def watched(self: DroppableProtocol, question: Any) -> bool:
        told.append(original(self, question))
        return told[-1]

    monkeypatch.setattr(DroppableProtocol, "_answer", watched)
    return told


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[DroppableProtocol]:
    """Every connection of the server."""
    made: list[DroppableProtocol] = []
    original = DroppableProtocol.connection_made

    def watched(self: DroppableProtocol, transport: asyncio.Transport) -> None:
        made.append(self)
        original(self, transport)

    monkeypatch.setattr(DroppableProtocol, "connection_made", watched)
    return made


async def encoded(house: House, image: Any) -> bytes:
    await house.show(image)
    jpeg = (await house.get(PATH)).content
    assert (await house.get(PATH)).content == jpeg
    return bytes(jpeg)


async def test_the_manner_of_asking_decides_who_answers_and_nothing_else(direct: list[bool]) -> None:
    async with open_house({"gym": Feed()}) as house:
        jpeg = await encoded(house, picture(1))
        one = GET[:-2]
        direct.clear()
        async with connected(house.url) as sock:
            for data in (GET, GET, one + b"Accept: */*\r\n\r\n"):  # by heart from the second time on
                await send(sock, data)
                assert (await receive(sock, 1))[0][2] == jpeg
            for piece in (GET[:30], GET[30:60], GET[60:]):
                await send(sock, piece)
                await asyncio.sleep(0.01)
            assert (await receive(sock, 1))[0][2] == jpeg
            assert direct == [True] * 4
            await send(sock, GET.replace(b"GET", b"HEAD"))
            (status, fields, _), *_ = await receive(sock, 1, head=True)
            assert (status, fields["content-length"]) == (200, str(len(jpeg)))
            await send(sock, one + b"Content-Length: 3\r\n\r\nabc")
            assert (await receive(sock, 1))[0][2] == jpeg
            assert direct == [True] * 4
            await send(sock, GET)
            assert (await receive(sock, 1))[0][2] == jpeg
            assert direct == [True] * 5
            await send(sock, one + b"Connection: close\r\n\r\n")
            (_, fields, body), *_ = await receive(sock, 1)
            assert (body, fields["connection"]) == (jpeg, "close")
            assert await is_closed(sock)
        for data in (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), one + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
            async with connected(house.url) as sock:
                await send(sock, data)
                assert (await receive(sock, 1))[0][2] == jpeg
                assert await is_closed(sock)
        assert direct == [True] * 5


async def test_many_questions_at_once_are_answered_in_their_order_and_others_in_between() -> None:
    async with open_house({"gym": Feed()}) as house:
        jpeg = await encoded(house, picture(1))
        mixed = [GET, GET.replace(b"/snapshot", b""), GET, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"] * 25
        async with connected(house.url) as sock:
            await send(sock, b"".join(mixed))
            answers = await receive(sock, 100)
        kinds = [fields["content-type"].partition(";")[0] for _, fields, _ in answers]
        assert kinds == ["image/jpeg", "application/json", "image/jpeg", "application/json"] * 25
        assert {body for _, fields, body in answers if fields["content-type"] == "image/jpeg"} == {jpeg}


async def test_who_asks_and_does_not_read_holds_one_picture_and_hurts_nobody(
    connections: list[DroppableProtocol],
) -> None:
    async with open_house({"gym": Feed()}) as house:
        jpeg = await encoded(house, NOISE)
        connections.clear()
        async with connected(house.url, receive_buffer=4096) as sock:
            asked = 0
            for _ in range(50):
                await send(sock, GET)
                asked += 1
                await asyncio.sleep(0.002)
            (held,) = connections
            assert 0 < held.transport.get_write_buffer_size() <= len(jpeg) + 1000
            assert not held.transport.is_reading()
            assert (await house.get(PATH)).content == jpeg
            answers = await receive(sock, asked)
            assert all(body == jpeg for _, _, body in answers)


async def test_who_asks_faster_than_pictures_are_encoded_gets_the_newest_and_those_in_between_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, encoded_ids = asyncio.Event(), []
    original = JpegEncoder.encode

    async def slow(self: JpegEncoder, shown: Picture, variant: Variant) -> tuple[bytes, float]:
        encoded_ids.append(shown.frame.frame_id)
        await gate.wait()
        return await original(self, shown, variant)

    async with open_house({"gym": Feed()}) as house, contextlib.AsyncExitStack() as stack:
        await encoded(house, picture(0))
        socks = [await stack.enter_async_context(connected(house.url)) for _ in range(16)]
        for sock in socks:
            await send(sock, GET)
            await receive(sock, 1)
        monkeypatch.setattr(JpegEncoder, "encode", slow)
        for number, sock in enumerate(socks):
            if number % 4 == 0:
                newest = await house.show(picture(number))
            await send(sock, GET)
            await asyncio.sleep(0.01)
        assert encoded_ids == [2]
        gate.set()
        answers = [(await receive(sock, 1))[0] for sock in socks]
        assert encoded_ids == [2, newest]
        assert {fields["x-frame-id"] for _, fields, _ in answers} == {str(newest)}


async def test_a_stop_or_a_client_that_leaves_does_not_wait_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    original = JpegEncoder.encode

    async def slow(self: JpegEncoder, shown: Picture, variant: Variant) -> tuple[bytes, float]:
        await gate.wait()
        return await original(self, shown, variant)

    async with open_house({"gym": Feed()}) as house:
        await encoded(house, picture(1))
        async with (
            serving(create_app(house.services)) as served,
            connected(served.url) as leaving,
            connected(served.url) as staying,
        ):
            for sock in (leaving, staying):
                for _ in range(2):
                    await send(sock, GET)
                    await receive(sock, 1)
            monkeypatch.setattr(JpegEncoder, "encode", slow)
            await house.show(picture(2))
            await send(leaving, GET)
            await send(staying, GET)
            await asyncio.sleep(0.05)
            leaving.close()
            assert served.stop is not None
            stopping = asyncio.ensure_future(served.stop())
            await asyncio.sleep(0.2)
            assert not stopping.done()
            gate.set()
            (status, fields, _), *_ = await receive(staying, 1)
            assert (status, fields["connection"], fields["x-frame-id"]) == (200, "close", "2")
            assert await is_closed(staying)
            await stopping


async def test_a_connection_on_which_nothing_is_asked_any_more_is_closed() -> None:
    async with open_house({"gym": Feed()}) as house:
        jpeg = await encoded(house, picture(1))
        loop = asyncio.get_running_loop()
        async with serving(create_app(house.services), timeout_keep_alive=0.3) as served, connected(served.url) as sock:
            for _ in range(10):
                await send(sock, GET)
                assert (await receive(sock, 1))[0][2] == jpeg
                await asyncio.sleep(0.1)
            begun = loop.time()
            assert await is_closed(sock)
            assert 0.1 < loop.time() - begun < 0.5


async def test_only_whole_requests_without_secrets_are_learnt_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[bytes] = []
    holding: list[bytes] = []
    original = CachedSnapshots.remember

    def watched(self: CachedSnapshots, request: bytes, question: Any) -> None:
        original(self, request, question)
        learnt[:] = self._by_heart
        holding[:] = [one for one, asked in self._by_heart.items() if asked.given is not None]

    monkeypatch.setattr(CachedSnapshots, "remember", watched)
    async with open_house({"gym": Feed()}, auth={"keys": [{"name": "wall", "key": READ["X-Api-Key"]}]}) as house:
        await house.show(picture(1))
        for _ in range(3):
            assert (await house.get(PATH, headers=READ)).status_code == 200
        assert not learnt
    async with open_house({"gym": Feed()}) as house:
        await encoded(house, picture(1))
        learnt.clear()
        async with connected(house.url) as sock:
            for data in (GET[:-2] + b"Cookie: a=b\r\n\r\n", GET[:-2] + b"X-Api-Key: k3y\r\n\r\n", GET + GET):
                await send(sock, data)
                await receive(sock, data.count(b"GET"))
            tail = b"GET / HTTP/1.1\r\nX: "  # of a body, after an answer that did not wait for it
            await send(sock, b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(tail))
            assert (await receive(sock, 1))[0][0] in {404, 421}
            await send(sock, tail + GET)
            await receive(sock, 1)
            assert not [
                one for one in learnt if not re.fullmatch(rb"GET /api[^ ]* HTTP/1.1\r\n(\S+: .*\r\n)+\r\n", one)
            ]
            assert not [one for one in learnt if b"Cookie" in one or b"k3y" in one]
            for number in range(MAX_KNOWN + 5):
                await send(sock, GET.replace(b"snapshot", b"snapshot?t=%d" % number))
                await receive(sock, 1)
        assert len(learnt) == MAX_KNOWN
        assert len(holding) < 20  # a picture is not kept for each


async def test_what_was_answered_holds_no_pictures_once_newer_ones_are_shown() -> None:
    async with open_house({"gym": Feed()}) as house:
        shown = []
        async with connected(house.url) as sock:
            for number in range(20):
                await house.show(picture(number))
                frame = house.runner().shown.frame
                assert frame is not None
                shown.append(weakref.ref(frame.image))
                del frame
                for _ in range(2):  # encoded, and then from the cache
                    await send(sock, GET.replace(b"snapshot", b"snapshot?t=%d" % number))
                    await receive(sock, 1)
        gc.collect()
        assert sum(image() is not None for image in shown) <= 4


async def test_what_is_asked_in_one_breath_with_a_picture_may_take_its_time() -> None:
    async with open_house({"gym": Feed()}) as house:
        await encoded(house, picture(1))
        slow = GET.replace(b"snapshot", b"snapshot?after=1&wait=700")
        async with serving(create_app(house.services), timeout_keep_alive=0.3) as served, connected(served.url) as sock:
            await send(sock, GET + slow)
            assert [status for status, _, _ in await receive(sock, 2)] == [200, 304]
