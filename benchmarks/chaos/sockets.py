"""Viewers and sockets with bad manners: floods, fragments, and those who never read. Nobody else may notice."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Iterator
from typing import Any

import cv2
import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.chaos.clients import DOORS, head, memory_held, viewers
from benchmarks.chaos.faults import LateError, fault
from benchmarks.chaos.stage import Stage, patient
from tests.process.daemon import Daemon

FLOOD_SECONDS = 5.0
SOCKET = "/api/v1/ws?model_id=counter"


async def _gathered(*parts: Awaitable[object]) -> list[object]:
    return await asyncio.gather(*parts, return_exceptions=True)


CLOSED: dict[str, Any] = {
    "event": "viewer_ended",
    "reason": "misuse",
    "metric": 'healthd_viewers_ended_total{reason="misuse"}',
}


@fault(
    "WebSocket flood",
    noticed=None,
    recovered=5.0,
    event="viewer_ended",
    metric="healthd_socket_frames_dropped_total",
)
def socket_flood(stage: Stage) -> None:
    """Eight sockets send small pictures as fast as they can for five seconds, half of them without ever reading.

    The newest picture wins; none is lost from the accounts.
    """
    daemon = stage.open(settings=DOORS)
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    sent = [0]

    async def flood(*, reads: bool) -> None:
        async with connect(f"ws://127.0.0.1:{daemon.port}{SOCKET}", close_timeout=1, max_queue=4) as peer:

            async def read() -> None:
                async for _ in peer:
                    pass

            reading = asyncio.create_task(read()) if reads else None
            try:
                async with asyncio.timeout(FLOOD_SECONDS):
                    while True:
                        await peer.send(jpeg)
                        sent[0] += 1
            except (TimeoutError, ConnectionClosed):
                pass
            if reading is not None:
                reading.cancel()

    with memory_held(stage):
        stage.broken()
        asyncio.run(_gathered(*(flood(reads=number % 2 == 0) for number in range(8))))
    stage.mended()
    stage.note(f"{sent[0]} pictures were sent.")
    stage.recovered(lambda _: _accounts_close(daemon) and viewers(daemon) <= 1)


def _accounts_close(daemon: Daemon) -> bool:
    samples = daemon.samples()
    known = samples["healthd_socket_frames_dropped_total"] + samples["healthd_socket_frames_in_hand"]
    known += sum(value for name, value in samples.items() if name.startswith("healthd_socket_frames_answered_total"))
    return known == samples["healthd_socket_frames_received_total"]


@fault("WebSocket fragments", noticed=FLOOD_SECONDS + 1, recovered=5.0, **CLOSED)
def socket_fragments(stage: Stage) -> None:
    """A message in fragments of one byte without an end, and one in fragments of 64 KB: both sockets are closed."""
    daemon = stage.open(settings=DOORS)
    closed: list[float] = []

    async def send(piece: bytes) -> None:
        peer = await connect(f"ws://127.0.0.1:{daemon.port}{SOCKET}", close_timeout=1, max_queue=4)
        at = time.monotonic()

        def endless() -> Iterator[bytes]:
            while time.monotonic() - at < 2 * FLOOD_SECONDS:
                yield piece

        try:
            await peer.send(endless())
        except (ConnectionClosed, OSError):
            closed.append(time.monotonic() - at)
        peer.transport.abort()

    with memory_held(stage):
        stage.broken()
        asyncio.run(_gathered(send(b"a"), send(65536 * b"a")))
        if len(closed) < 2:
            stage.problem(f"{2 - len(closed)} of 2 were not closed")
        stage.outcome.noticed = max(closed, default=None)
    stage.mended()
    stage.recovered(lambda _: viewers(daemon) <= 1)


@fault("WebSocket pings and pongs", noticed=2.0, recovered=5.0, **CLOSED)
def socket_pings(stage: Stage) -> None:
    """Four clients send nothing but empty pings, four nothing but pongs, as fast as they can: their sockets are closed.

    Each opens another one at once, for five seconds.
    """
    daemon = stage.open(settings=DOORS)
    closed: list[float] = []

    async def flood(opcode: int) -> None:
        while time.monotonic() < over:
            peer = await connect(f"ws://127.0.0.1:{daemon.port}{SOCKET}", close_timeout=1, max_queue=4)
            at = time.monotonic()
            while time.monotonic() < over + FLOOD_SECONDS and not peer.close_code:
                peer.transport.write(bytes((0x80 | opcode, 0x80, 0, 0, 0, 0)) * 10_000)
                await asyncio.sleep(0.02)
            closed.append(time.monotonic() - at)
            peer.transport.abort()

    with memory_held(stage):
        stage.broken()
        over = time.monotonic() + FLOOD_SECONDS
        ended = asyncio.run(_gathered(*(flood(opcode) for opcode in (0x9, 0xA) * 4)))
        if any(ended):
            stage.problem(f"{sum(map(bool, ended))} of 8 clients could not go on: {next(filter(None, ended))!r}")
        stage.outcome.noticed = max(closed, default=None)
    stage.mended()
    stage.note(f"{len(closed)} sockets were closed.")
    stage.recovered(lambda _: viewers(daemon) <= 1)


SILENT, WRITE_SECONDS = 40, 3.0
FULL_SECONDS = 15.0
"""What buffers of kernel and server take: a few megabytes for each."""


@fault(
    "SSE clients that never read",
    noticed=FULL_SECONDS + WRITE_SECONDS,
    recovered=3.0,
    event="viewer_ended",
    metric='healthd_viewers_ended_total{reason="stalled"}',
)
def silent_events(stage: Stage) -> None:
    """40 clients ask for all events and read nothing, with 300 boxes in each event.

    Each is dropped when it has taken nothing for `streams.write_timeout_seconds = 3`.
    """
    told = stage.folder / "fault"
    told.write_text("many", encoding="ascii")
    camera = stage.camera()
    watched = patient(camera.url, options={"model": "broken"})
    settings = {**DOORS, "streams": {"write_timeout_seconds": WRITE_SECONDS}}
    daemon = stage.open({"patient": watched}, settings=settings, CHAOS_FAULT=str(told))
    _silent(stage, daemon, "/api/v1/events/stream", SILENT)


@fault(
    "MJPEG viewers that never read",
    noticed=FULL_SECONDS + WRITE_SECONDS,
    recovered=3.0,
    event="viewer_ended",
    metric='healthd_viewers_ended_total{reason="stalled"}',
)
def silent_viewers(stage: Stage) -> None:
    """40 viewers of a stream read nothing (`streams.write_timeout_seconds = 3`)."""
    daemon = stage.open(settings={**DOORS, "streams": {"write_timeout_seconds": WRITE_SECONDS}})
    _silent(stage, daemon, "/api/v1/cameras/witness/stream?q=95", SILENT)


def _silent(stage: Stage, daemon: Daemon, path: str, count: int) -> None:
    stalled = 'healthd_viewers_ended_total{reason="stalled"}'
    with memory_held(stage), contextlib.ExitStack() as held:
        stage.broken()
        for _ in range(count):
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", daemon.port))
            client.sendall(head("GET", path))
        with contextlib.suppress(LateError):
            stage.noticed(lambda _: daemon.samples().get(stalled, 0) >= count)
    stage.mended()
    stage.recovered(lambda _: viewers(daemon) <= 1)
