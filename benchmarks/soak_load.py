"""The load of the soak: tiles, streams, requests and jobs, and what goes wrong meanwhile.

Timers and tokens that take hours in a house take seconds here, so that a day's worth of them passes in half an hour:
log-ins run out after 18 s, unused models are unloaded after 20 s, jobs are forgotten after 36 s, and the log is cut
back to nothing each minute, as `copytruncate` does.
"""

import asyncio
import contextlib
import io
import os
import random
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.cameras import Cameras
from benchmarks.process import Daemon
from benchmarks.viewers import look

CAMERAS, TILES, STREAMS = 8, 60, 20
TROUBLE_SECONDS, AWAY_SECONDS, FAULT_SECONDS, INFER_SECONDS = 6.0, 3.0, 60.0, 2.0
KEY = "soak-soak-soak-soak-soak"
TIMERS = f"""
auth.session_hours = 0.005
auth.keys = [{{name = "soak", key = "{KEY}", scope = "admin"}}]
models.idle_unload_seconds = 20
jobs.keep_hours = 0.01
"""
HEADER = f"X-Api-Key: {KEY}\r\n"
SEED = 5
STREAMS_ASKED = (
    "stream",
    "stream?overlay=true&fps=5",
    "stream?width=640",
    "stream?q=50&fps=5",
    "stream?width=320&fps=5",
)
STATES_OF_A_LOST_CAMERA = {404, 503}


@dataclass(slots=True)
class Load:
    """What was asked of the daemon, and what came of it."""

    troubles: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    snapshots: int = 0
    without_picture: int = 0
    """Snapshots of a camera that was lost at that moment."""
    inferences: int = 0
    jobs: int = 0
    log_ins: int = 0
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that nobody should get, whatever goes wrong around the daemon."""
    tile_ms: list[tuple[float, float]] = field(default_factory=list)
    """Minute and milliseconds of each snapshot."""
    infer_ms: list[tuple[float, float]] = field(default_factory=list)


class Driver:
    """Everybody who wants something of one daemon. Lives as long as the load lasts."""

    def __init__(self, daemon: Daemon, served: Cameras, log: Path, picture: bytes, spare_model: str) -> None:
        """`spare_model`: one that no camera uses, loaded for a request each minute and unloaded again."""
        self.load = Load()
        self._daemon = daemon
        self._served = served
        self._log = log
        self._picture = picture
        self._pictures = _zipped(picture)
        self._spare_model = spare_model
        self._begun = time.perf_counter()

    @property
    def minute(self) -> float:
        """Minutes since the load began."""
        return (time.perf_counter() - self._begun) / 60

    async def run(self, minutes: float) -> None:
        """Keep the load up for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(minutes * 60), asyncio.TaskGroup() as group:
                group.create_task(self._trouble(_chance(0)))
                group.create_task(self._faults(_chance(1)))
                group.create_task(self._infer())
                group.create_task(self._office())
                for who in range(STREAMS):
                    group.create_task(self._stream(_chance(100 + who)))
                for who in range(TILES):
                    group.create_task(self._tile(who, _chance(200 + who)))

    async def _tile(self, who: int, chance: random.Random) -> None:
        """Ask for the newest picture each second on one connection, as a page does; open another where it was cut."""
        path = f"/api/v1/cameras/c{who % CAMERAS}/snapshot" + ("?width=640" if who % 2 else "")
        await asyncio.sleep(chance.random())
        async with self._client() as client:
            tag = ""
            while True:
                begun = time.perf_counter()
                answer = await self._asked("tile", client.get(path, headers={"If-None-Match": tag} if tag else None))
                if answer is not None and answer.status_code in {200, 304}:
                    self.load.snapshots += 1
                    self.load.tile_ms.append((self.minute, (time.perf_counter() - begun) * 1000))
                    tag = answer.headers.get("ETag", "")
                elif answer is not None and answer.status_code in STATES_OF_A_LOST_CAMERA:
                    self.load.without_picture += 1
                elif answer is not None:
                    self.load.unexpected[f"snapshot {answer.status_code}"] += 1
                await asyncio.sleep(max(0.0, 1.0 - (time.perf_counter() - begun)))

    async def _stream(self, chance: random.Random) -> None:
        """Open one stream after another, each for some seconds; leave by goodbye or by reset."""
        while True:
            path = f"/api/v1/cameras/c{chance.randrange(CAMERAS)}/{chance.choice(STREAMS_ASKED)}"
            if chance.random() < 0.1:
                path = "/api/v1/events/stream"
            viewer = await look(self._daemon.url, path, head=HEADER)
            self.load.streams += 1
            try:
                await asyncio.sleep(chance.uniform(2, 20))
            finally:
                viewer.reset() if chance.random() < 0.5 else viewer.transport.close()

    async def _infer(self) -> None:
        """Have a picture looked at every other second, once a minute by a model that is loaded for it alone."""
        async with self._client() as client:
            for number in range(10**9):
                spare = number % 30 == 10
                query = f"?model={self._spare_model}" if spare else ""
                begun = time.perf_counter()
                sent = client.post(f"/api/v1/infer{query}", files={"file": ("p.jpg", self._picture, "image/jpeg")})
                answer = await self._asked("infer", sent)
                if answer is not None and answer.status_code == 200:
                    self.load.inferences += 1
                    if not spare:
                        self.load.infer_ms.append((self.minute, (time.perf_counter() - begun) * 1000))
                elif answer is not None and answer.status_code != 503:
                    self.load.unexpected[f"infer {answer.status_code}"] += 1
                await asyncio.sleep(INFER_SECONDS)

    async def _office(self) -> None:
        """Log in, look at the panel's routes with the cookie, and send a small job, again and again."""
        while True:
            async with httpx.AsyncClient(base_url=self._daemon.url, timeout=20) as page:
                said = await self._asked("log-in", page.post("/api/v1/auth/login", json={"key": KEY}))
                if said is not None and said.is_success:
                    self.load.log_ins += 1
                    for path in ("/api/v1/cameras", "/api/v1/state", "/api/v1/logs", "/api/v1/models", "/metrics"):
                        await self._asked(path, page.get(path))
            async with self._client() as client:
                sent = client.post("/api/v1/jobs", files={"file": ("two.zip", self._pictures, "application/zip")})
                answer = await self._asked("job", sent)
                self.load.jobs += answer is not None and answer.is_success
            await asyncio.sleep(15)

    async def _trouble(self, chance: random.Random) -> None:
        """Every few seconds one camera loses its connection, is gone for a while, or is restarted."""
        while True:
            which, kind = chance.randrange(CAMERAS), chance.choice(("drop", "kill", "restart"))
            self.load.troubles += 1
            if kind == "restart":
                await asyncio.to_thread(self._daemon.post, f"/api/v1/cameras/c{which}/restart")
            elif kind == "drop":
                self._served.tell(f"drop {which}")
            else:
                self._served.tell(f"stop {which}")
                await asyncio.sleep(AWAY_SECONDS)
                self._served.tell(f"start {which}")
            await asyncio.sleep(TROUBLE_SECONDS)

    async def _faults(self, chance: random.Random) -> None:
        """Each minute something worse, in turn; and the log is cut back."""
        faults: tuple[Callable[[random.Random], Awaitable[None]], ...] = (
            self._silent_camera,
            self._killed_child,
            self._garbage,
            self._reload,
            self._deaf_viewers,
            self._idle_connections,
        )
        while True:
            for fault in faults:
                await asyncio.sleep(FAULT_SECONDS)
                self.load.faults[fault.__name__.strip("_").replace("_", " ")] += 1
                await fault(chance)
                os.truncate(self._log, 0)

    async def _silent_camera(self, chance: random.Random) -> None:
        """One camera keeps its connection and sends nothing."""
        which = chance.randrange(CAMERAS)
        self._served.tell(f"stall {which}")
        await asyncio.sleep(10)
        self._served.tell(f"flow {which}")

    async def _killed_child(self, chance: random.Random) -> None:
        """A process that healthd has started dies."""
        children = psutil.Process(self._daemon.process.pid).children(recursive=True)
        if children:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(children).send_signal(signal.SIGKILL)

    async def _garbage(self, chance: random.Random) -> None:
        """Pictures that are none."""
        async with self._client() as client:
            for _ in range(20):
                junk = chance.randbytes(20_000)
                sent = client.post("/api/v1/infer", files={"file": ("p.jpg", junk, "image/jpeg")})
                answer = await self._asked("garbage", sent)
                if answer is not None and answer.status_code not in {400, 503}:
                    self.load.unexpected[f"garbage {answer.status_code}"] += 1

    async def _reload(self, _: random.Random) -> None:
        """The configuration is read again, and nothing has changed."""
        async with self._client() as client:
            answer = await self._asked("reload", client.post("/api/v1/config/reload"))
            if answer is not None and not answer.is_success:
                self.load.unexpected[f"reload {answer.status_code}"] += 1

    async def _deaf_viewers(self, chance: random.Random) -> None:
        """Viewers who open a stream and never read."""
        paths = [f"/api/v1/cameras/c{chance.randrange(CAMERAS)}/stream" for _ in range(5)]
        viewers = [await look(self._daemon.url, path, head=HEADER, receive_buffer=4096) for path in paths]
        for viewer in viewers:
            viewer.transport.pause_reading()
        await asyncio.sleep(12)
        for viewer in viewers:
            viewer.transport.abort()

    async def _idle_connections(self, _: random.Random) -> None:
        """Connections that say nothing."""
        address = urlsplit(self._daemon.url)
        opened = [await asyncio.open_connection(address.hostname, address.port) for _ in range(200)]
        await asyncio.sleep(10)
        for _, writer in opened:
            writer.close()

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._daemon.url, headers={"X-Api-Key": KEY}, timeout=20)

    async def _asked(self, what: str, asked: Awaitable[httpx.Response]) -> httpx.Response | None:
        """Return the answer; None where there was none, which is noted."""
        try:
            return await asked
        except httpx.HTTPError as exc:
            self.load.unexpected[f"{what} {type(exc).__name__}"] += 1
            return None


def _zipped(picture: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("one.jpg", "two.jpg"):
            archive.writestr(name, picture)
    return packed.getvalue()


def _chance(who: int) -> random.Random:
    return random.Random(SEED * 1000 + who)
