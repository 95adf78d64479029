"""Clients that take an answer slowly, or not at all: as long as something is taken, nothing is cut off."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from healthd import http_door, http_protocol, http_unsent
from healthd.api.connection import DoorCounts
from healthd.http_door import Door
from healthd.http_protocol import DroppableProtocol
from healthd.settings import ServerSettings
from tests.certificates import make_certificate
from tests.eventually import eventually

BODY = b"picture " * 32_000
KEEP_ALIVE_SECONDS = 0.1
SMALL = 16_384
"""Of the kernel's buffers: the rest has to wait in those of the server."""


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    length = str(len(BODY)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": BODY})


@dataclass
class Served:
    address: tuple[str, int]
    trusts: ssl.SSLContext | None
    counts: DoorCounts

    async def ask(self, *lines: str) -> "Reader":
        """Send a request on a new connection, and read nothing yet."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, self.address)
        reader = Reader(client, self.trusts)
        await reader.begin()
        await reader.send("\r\n".join(["GET / HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode())
        return reader


class Reader:
    """A client that reads as much as it is told to, and not a byte ahead: asyncio's own streams read ahead."""

    def __init__(self, client: socket.socket, trusts: ssl.SSLContext | None) -> None:
        self._socket = client
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trusts.wrap_bio(self._coming, self._going, server_hostname="127.0.0.1") if trusts else None

    async def begin(self) -> None:
        while self._tls is not None:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._take()
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        if self._tls is None:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        else:
            self._tls.write(data)
            await self._flush()

    async def read(self, size: int) -> bytes:
        """Return some of what has come; nothing at the end."""
        if self._tls is None:
            return await asyncio.get_running_loop().sock_recv(self._socket, size)
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if not await self._take():
                    return b""
            except ssl.SSLError:
                return b""

    async def read_answer(self, *, pause: float = 0.0) -> bytes:
        """Read an answer to its last byte, or to the end of the connection, with a pause between any two pieces."""
        came = b""
        while b"\r\n\r\n" not in came or len(came.partition(b"\r\n\r\n")[2]) < len(BODY):
            piece = await asyncio.wait_for(self.read(8192), 20)
            if not piece:
                break
            came += piece
            await asyncio.sleep(pause)
        return came.partition(b"\r\n\r\n")[2]

    async def _take(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 8192)
        self._coming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, self._going.read())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(http_protocol, "TAKING_SECONDS", 0.05)
    monkeypatch.setattr(http_unsent, "UNTAKEN_SECONDS", 1.0)
    monkeypatch.setattr(http_unsent, "GOODBYE_SECONDS", 0.2)


@asynccontextmanager
async def serving(folder: Path, *, tls: bool) -> AsyncIterator[Served]:
    config = uvicorn.Config(answer, lifespan="off", log_config=None)
    config.timeout_keep_alive = KEEP_ALIVE_SECONDS  # type: ignore[assignment]  # it takes whole seconds
    config.load()
    state, counts = ServerState(), DoorCounts()
    serves = trusts = None
    if tls:
        cert, key = make_certificate(folder)
        serves, trusts = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=cert)
        serves.load_cert_chain(cert, key)
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        bound.setblocking(False)
        door = Door(
            bound,
            lambda: DroppableProtocol(config=config, server_state=state, app_state={}),
            settings=ServerSettings(),
            counts=counts,
            tls=(lambda: serves) if serves else None,
        )
        try:
            yield Served(bound.getsockname(), trusts, counts)
        finally:
            door.close()
            await eventually(lambda: counts.open == 0)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("lines", [(), ("Connection: close",)], ids=["kept", "closed"])
async def test_who_reads_slowly_gets_all_of_it(tmp_path: Path, lines: tuple[str, ...], *, tls: bool) -> None:
    """It takes longer than a connection is kept, and than one that takes nothing is waited for."""
    async with serving(tmp_path, tls=tls) as served:
        reader = await served.ask(*lines)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        came = await reader.read_answer(pause=0.05)
        assert len(came) == len(BODY)
        assert loop.time() - begun > http_unsent.UNTAKEN_SECONDS
        assert not served.counts.cut
        reader.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("lines", [(), ("Connection: close",)], ids=["kept", "closed"])
async def test_who_reads_nothing_more_is_dropped(tmp_path: Path, lines: tuple[str, ...], *, tls: bool) -> None:
    async with serving(tmp_path, tls=tls) as served:
        reader = await served.ask(*lines)
        assert await reader.read(1000)
        await eventually(lambda: served.counts.cut["untaken"] == 1)
        await eventually(lambda: served.counts.open == 0)
        assert len(await reader.read_answer()) < len(BODY)
        reader.close()


async def test_who_has_got_all_over_tls_and_does_not_say_goodbye_is_dropped(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=True) as served:
        reader = await served.ask()
        assert len(await reader.read_answer()) == len(BODY)
        await eventually(lambda: served.counts.open == 0)
        assert not served.counts.cut
        reader.close()


async def test_who_does_not_begin_tls_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "HANDSHAKE_SECONDS", 0.3)
    async with serving(tmp_path, tls=True) as served:
        silent, writer = await asyncio.open_connection(*served.address)
        assert await asyncio.wait_for(silent.read(), 10) == b""
        assert served.counts.cut == {"handshake": 1}
        await eventually(lambda: served.counts.open == 0)
        writer.close()
