"""What a connection may cost: its head, its body, its time, its place."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.house import ADMIN, KEYS, House, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource

SERVER = {"header_timeout_seconds": 1, "max_connections": 40, "max_connections_per_client": 20}
ASK = b"GET /api/v1/cameras/gym/snapshot HTTP/1.1\r\nHost: localhost\r\n"
STREAM = ASK.replace(b"snapshot", b"stream") + b"\r\n"
Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]


TALKS: list[asyncio.StreamWriter] = []


@contextlib.asynccontextmanager
async def house(auth: Any = None, **server: object) -> AsyncIterator[House]:
    """A house with these limits; what was opened to it is closed before it is."""
    async with open_house({"gym": FakeSource()}, server={**SERVER, **server}, auth=auth or {}) as opened:
        await eventually(lambda: opened.runner().has_frame)
        try:
            yield opened
        finally:
            for writer in TALKS:
                writer.close()
            for writer in TALKS:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            TALKS.clear()


async def connect(to: House) -> Talk:
    talk = await asyncio.open_connection("127.0.0.1", int(to.url.rpartition(":")[2]))
    TALKS.append(talk[1])
    return talk


async def end_of(talk: Talk, seconds: float = 5) -> bytes:
    """What is still said, up to the end of the connection."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(talk[0].read(), seconds)
    return b""


async def asked(talk: Talk) -> bytes:
    """The line of the answer to a question; its connection goes on."""
    talk[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await asyncio.wait_for(talk[0].readuntil(b"\r\n\r\n"), 5)
    await talk[0].readexactly(len(b'{"status":"ok"}'))
    return head.partition(b"\r\n")[0]


def cut(of: House, reason: str) -> int:
    return of.services.doors.cut[reason]


@pytest.mark.parametrize(
    "endless",
    [
        b"X-Long: " + b"a" * 1_000_000,
        b"".join(b"X-%d: a\r\n" % number for number in range(60_000)),
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: " + b"a" * 1_000_000,
        b"Transfer-Encoding: chunked\r\n\r\n1;extension=" + b"a" * 1_000_000,
    ],
    ids=["header", "headers", "trailer", "extension"],
)
async def test_a_head_without_end_is_refused_before_it_is_kept(endless: bytes) -> None:
    async with house() as opened:
        talk = await connect(opened)
        began = ASK if b"Transfer" not in endless else b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\n"
        talk[1].write(began + endless)
        answer = await end_of(talk)
        assert not answer or b" 431 " in answer.partition(b"\r\n")[0] or b" 413 " in answer.partition(b"\r\n")[0]
        assert answer or b"Transfer" in endless  # in the middle of an answer there is no place for a refusal
        await eventually(lambda: opened.services.doors.open == 0)


async def test_a_target_without_end_is_refused_too() -> None:
    async with house() as opened:
        talk = await connect(opened)
        talk[1].write(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 431 " in (await end_of(talk)).partition(b"\r\n")[0]
        metrics = (await opened.get("/metrics")).text
        assert 'healthd_http_requests_total{route="unknown",status="431"} 1.0' in metrics


async def test_who_asks_for_hundreds_of_answers_at_once_is_cut_and_counted() -> None:
    """In the middle of an answer there is no place for a refusal; whoever looks at the metrics sees it all the same."""
    async with house() as opened:
        talk = await connect(opened)
        talk[1].write(b"GET /api/v1/cameras HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        assert (await end_of(talk)).count(b"HTTP/1.1 200") < 1000
        assert 'healthd_http_requests_total{route="unknown",status="400"} 1.0' in (await opened.get("/metrics")).text


CHUNKED = b"PATCH /api/v1/cameras/gym HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
SLOW = {
    b"": b"",
    b"\r\n": b"",
    b"G": b" 408 ",
    ASK: b" 408 ",
    b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{": b" 408 ",
    CHUNKED: b" 408 ",
}


async def test_whoever_is_too_slow_is_told_so_and_goes() -> None:
    async with house() as opened:

        async def dawdle(begun: bytes) -> tuple[bytes, float]:
            began, talk = time.monotonic(), await connect(opened)
            talk[1].write(begun)
            answer = asyncio.create_task(end_of(talk, 12))
            while not answer.done():
                await asyncio.sleep(0.3)
                if begun == ASK:
                    talk[1].write(b"a")
            return (await answer).partition(b"\r\n")[0], time.monotonic() - began

        found = await asyncio.gather(*(dawdle(begun) for begun in SLOW))
        for (answer, seconds), (begun, told) in zip(found, SLOW.items(), strict=True):
            assert told in answer if told else not answer, begun
            assert seconds < (5 if told else 9), begun
        assert cut(opened, "slow") == 2


async def test_a_small_body_is_small() -> None:
    async with house() as opened:
        answer = await opened.client.post("/api/v1/auth/login", json={"key": "a" * 1_000_000})
        assert answer.status_code == 413


async def test_requests_that_wait_on_one_connection_are_bounded() -> None:
    async with house() as opened:
        talk = await connect(opened)
        talk[1].write(STREAM + (ASK + b"\r\n") * 5000)
        await end_of(talk)
        await eventually(lambda: opened.services.doors.open == 0)
        polite = await connect(opened)
        polite[1].write((ASK + b"\r\n") * 80 + ASK + b"Connection: close\r\n\r\n")
        assert (await end_of(polite)).count(b"HTTP/1.1 200 ") == 81


async def test_a_wall_goes_on_and_others_get_in_whoever_holds_connections_open() -> None:
    async with house(header_timeout_seconds=60) as opened:
        wall = await connect(opened)
        assert b" 200 " in await asked(wall)
        idle: list[Talk] = []
        for _ in range(60):
            idle.append(await connect(opened))
            idle[-1][1].write(b"GET / HT")
        await eventually(lambda: cut(opened, "client") >= 40)
        assert b" 200 " in await asked(wall)
        other = await connect(opened)
        assert b" 200 " in await asked(other)
        assert opened.services.doors.open <= 20
        for writer in TALKS:
            writer.close()
        await eventually(lambda: opened.services.doors.open == 0)


async def test_connections_that_are_being_answered_make_no_room() -> None:
    async with house(max_connections_per_client=4) as opened:
        waiting = [await connect(opened) for _ in range(4)]
        for _, writer in waiting:
            writer.write(STREAM)
        await eventually(lambda: len(opened.services.viewers) == 4)
        assert await end_of(await connect(opened)) == b""
        assert cut(opened, "client_full") == 1
        assert len(opened.services.viewers) == 4


async def test_all_together_have_a_limit_however_much_each_may_have() -> None:
    async with house(max_connections=16, max_connections_per_client=1000, header_timeout_seconds=60) as opened:
        for _ in range(40):
            (await connect(opened))[1].write(b"GET / HT")
        doors = opened.services.doors
        await eventually(lambda: cut(opened, "all") + doors.open == 40)
        assert 14 <= doors.open <= 16
        assert not cut(opened, "client")


async def test_where_all_are_being_answered_nobody_new_gets_in() -> None:
    async with house(max_connections=16, max_connections_per_client=1000) as opened:
        for _ in range(16):
            (await connect(opened))[1].write(STREAM)
        await eventually(lambda: len(opened.services.viewers) == 16)
        assert await end_of(await connect(opened)) == b""
        assert cut(opened, "all_full") == 1
        assert opened.services.doors.open == len(opened.services.viewers) == 16


async def test_a_proxy_that_is_trusted_has_no_limit_of_its_own_and_tells_who_asks() -> None:
    trusted = {"max_connections_per_client": 4, "trusted_proxies": ["127.0.0.0/8"]}
    async with house({"keys": KEYS}, **trusted) as opened:
        many = [await connect(opened) for _ in range(10)]
        assert all([b" 200 " in await asked(one) for one in many])
        assert await begun_by(opened) == ("198.51.100.7", True)


async def test_without_trust_nobody_is_believed_to_be_another() -> None:
    async with house({"keys": KEYS}) as opened:
        assert await begun_by(opened) == ("127.0.0.1", False)


async def begun_by(opened: House) -> tuple[str, bool]:
    """Log in through a proxy: whose log-in it is, and whether its cookie is for TLS alone."""
    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7", "X-Forwarded-Proto": "https"}
    answer = await opened.client.post("/api/v1/auth/login", headers=forwarded, json={"key": KEYS[0]["key"]})
    (log_in,) = (await opened.get("/api/v1/sessions", headers=ADMIN)).json()
    return log_in["client"], "secure" in answer.headers["set-cookie"].lower()
