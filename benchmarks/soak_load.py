"""The load of the soak: tiles, streams, requests and jobs, and what goes wrong meanwhile.

Timers and tokens that take hours in a house take seconds here, so that days' worth of them pass in half an hour:
log-ins run out after 18 s, unused models are unloaded after 20 s, jobs are forgotten after 36 s, and the log is cut
back to nothing each minute, as `copytruncate` does. Each time it is looked whether that has really happened.
"""

import asyncio
import contextlib
import io
import math
import os
import random
import signal
import time
import zipfile
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.cameras import FPS, Cameras
from benchmarks.process import Daemon
from benchmarks.viewers import look

CAMERAS, TILES, STREAMS = 8, 60, 20
TROUBLE_SECONDS, AWAY_SECONDS, INFER_SECONDS = 6.0, 3.0, 2.0
OFFICE_SECONDS, SHORTEST_STREAM, LONGEST_STREAM = 15.0, 2.0, 20.0
RECOVERY_SECONDS = 60.0
FAULTS = 6
"""Kinds of what goes wrong each minute: a minute has the same one as that which is six later."""
KEY = "soak-soak-soak-soak-soak"
LOG_IN_SECONDS, JOB_SECONDS, UNUSED_SECONDS = 18.0, 36.0, 20.0
LATEST_SECONDS = 20.0
"""So long after its time something may still be there: what looks for it does so every few seconds, beside the load."""
TIMERS = f"""
auth.session_hours = {LOG_IN_SECONDS / 3600}
auth.keys = [{{name = "soak", key = "{KEY}", scope = "admin"}}]
models.idle_unload_seconds = {UNUSED_SECONDS}
jobs.keep_hours = {JOB_SECONDS / 3600}
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
    shown: Counter[int] = field(default_factory=Counter)
    """Snapshots that were a picture, or none newer, by the number of the camera."""
    without_picture: int = 0
    """Snapshots of a camera that was lost at that moment."""
    streams: int = 0
    """Those of which something has come."""
    frames: int = 0
    frames_asked: float = 0.0
    stream_bytes: int = 0
    inferences: int = 0
    busy: int = 0
    """Requests with a picture that were told to come back later."""
    jobs: int = 0
    """Those that were seen to be done."""
    log_ins: int = 0
    over: Counter[str] = field(default_factory=Counter)
    """Whose time was over, and which was gone then, by what it was; what was not is in `unexpected`."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """Answers that nobody should get, whatever goes wrong around the daemon."""

    @property
    def snapshots(self) -> int:
        """How many were shown."""
        return self.shown.total()

    def shares(self, minutes: float) -> dict[str, float]:
        """Return how many percent of what the load asks for in so many minutes came, by what it was."""
        seconds = minutes * 60
        tiles = Counter(who % CAMERAS for who in range(TILES))
        streams = STREAMS * seconds / ((SHORTEST_STREAM + LONGEST_STREAM) / 2)
        return {
            "snapshots, of the camera that was seen least": min(
                100 * self.shown[camera] / (number * seconds) for camera, number in tiles.items()
            ),
            "streams of which something came": 100 * self.streams / streams,
            "frames of streams": 100 * self.frames / max(self.frames_asked, 1.0),
            "answered requests with a picture": 100 * self.inferences * INFER_SECONDS / seconds,
            "jobs done": 100 * self.jobs * OFFICE_SECONDS / seconds,
            "log-ins": 100 * self.log_ins * OFFICE_SECONDS / seconds,
        }


@dataclass(slots=True)
class _Office:
    """What somebody who logs in and sends jobs comes back to."""

    log_ins: deque[tuple[float, str]] = field(default_factory=deque)
    """When, and the cookies."""
    sent: deque[str] = field(default_factory=deque)
    done: deque[tuple[float, str]] = field(default_factory=deque)
    """When a job was seen to be done, and its name."""


class Driver:
    """Everybody who wants something of one daemon. Lives as long as the load lasts."""

    def __init__(
        self, daemon: Daemon, served: Cameras, log: Path, picture: bytes, spare_model: str, config: Path
    ) -> None:
        """`spare_model`: one that no camera uses, loaded for a request each minute and unloaded again."""
        self.load = Load()
        self._daemon = daemon
        self._served = served
        self._log = log
        self._picture = picture
        self._pictures = _zipped(picture)
        self._spare_model = spare_model
        self._config = config
        self._begun = time.perf_counter()

    @property
    def minute(self) -> float:
        """Minutes since the load began."""
        return (time.perf_counter() - self._begun) / 60

    async def run(self, minutes: float) -> None:
        """Keep the load up for so long. Whatever breaks in it ends it, and is raised."""
        async with asyncio.TaskGroup() as group:
            everybody = [
                self._trouble(_chance(0)),
                self._faults(_chance(1), minutes),
                self._infer(),
                self._office(),
                *(self._stream(_chance(100 + who)) for who in range(STREAMS)),
                *(self._tile(who, _chance(200 + who)) for who in range(TILES)),
            ]
            tasks = [group.create_task(one) for one in everybody]
            await asyncio.sleep(minutes * 60)
            for task in tasks:
                task.cancel()

    async def recovered(self) -> dict[str, str]:
        """Wait until a picture is looked at, and each camera is live with a prediction of a newer frame.

        Return what is wrong with those that do not work by then.
        """
        ended, deadline = datetime.now(UTC), time.perf_counter() + RECOVERY_SECONDS
        lost = {f"c{number}": "not asked" for number in range(CAMERAS)}
        lost["infer"] = "not asked"
        async with self._client() as client:
            while lost and time.perf_counter() < deadline:
                for name in list(lost):
                    if name == "infer":
                        sent = client.post("/api/v1/infer", files={"file": ("p.jpg", self._picture, "image/jpeg")})
                        answer = await self._asked(name, sent)
                        lost[name] = "no answer" if answer is None else f"answer {answer.status_code}"
                        if answer is not None and answer.is_success:
                            del lost[name]
                        continue
                    path = f"/api/v1/cameras/{name}"
                    camera = await self._asked("camera", client.get(path))
                    said = await self._asked("prediction", client.get(f"{path}/prediction"))
                    if camera is None or said is None or camera.status_code != 200:
                        lost[name] = "no answer"
                    elif camera.json()["state"] != "live":
                        lost[name] = f"{camera.json()['state']}, {camera.json()['reason']}"
                    elif said.status_code != 200 or datetime.fromisoformat(said.json()["captured_at"]) < ended:
                        lost[name] = f"no fresh prediction ({said.status_code})"
                    else:
                        del lost[name]
                await asyncio.sleep(0.5)
        return lost

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
                    self.load.shown[who % CAMERAS] += 1
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
            fps = 0 if "events" in path else 5 if "fps=5" in path else FPS
            begun = time.perf_counter()
            try:
                viewer = await look(self._daemon.url, path, head=HEADER)
            except OSError as exc:
                self.load.unexpected[f"stream {type(exc).__name__}"] += 1
                await asyncio.sleep(1)
                continue
            try:
                await asyncio.sleep(chance.uniform(SHORTEST_STREAM, LONGEST_STREAM))
            finally:
                viewer.reset() if chance.random() < 0.5 else viewer.transport.close()
            self.load.streams += viewer.status == 200
            self.load.frames += viewer.frames
            self.load.frames_asked += fps * (time.perf_counter() - begun)
            self.load.stream_bytes += viewer.received
            if viewer.status not in {0, 200}:
                self.load.unexpected[f"stream {viewer.status}"] += 1

    async def _infer(self) -> None:
        """Have a picture looked at every other second, in the middle of each minute by a model loaded for it alone."""
        async with self._client() as client:
            looked_at = 0
            while True:
                minutes = int(self.minute + 0.5)
                spare, looked_at = minutes > looked_at, minutes
                if spare and minutes > 1:
                    await self._look_at_spare(client)
                query = f"?model={self._spare_model}" if spare else ""
                sent = client.post(f"/api/v1/infer{query}", files={"file": ("p.jpg", self._picture, "image/jpeg")})
                answer = await self._asked("infer", sent)
                if answer is not None and answer.status_code == 200:
                    self.load.inferences += 1
                elif answer is not None and answer.status_code == 503:
                    self.load.busy += 1
                elif answer is not None:
                    self.load.unexpected[f"infer {answer.status_code}"] += 1
                await asyncio.sleep(INFER_SECONDS)

    async def _look_at_spare(self, client: httpx.AsyncClient) -> None:
        """Nobody has used the spare model for a minute: it is unloaded, unless a camera has it."""
        answer = await self._asked("model", client.get(f"/api/v1/models/{self._spare_model}"))
        if answer is not None and not (answer.is_success and answer.json()["cameras"]):
            self._gone("model", gone=answer.is_success and answer.json()["state"] == "available")

    async def _office(self) -> None:
        """Log in, look at the panel's routes with the cookie, and send a small job, again and again."""
        office = _Office()
        while True:
            await self._log_in(office)
            async with self._client() as client:
                await self._look_at_jobs(client, office)
                sent = client.post("/api/v1/jobs", files={"file": ("two.zip", self._pictures, "application/zip")})
                answer = await self._asked("job", sent)
                if answer is not None and answer.is_success:
                    office.sent.append(answer.json()["id"])
                elif answer is not None and answer.status_code != 503:
                    self.load.unexpected[f"job {answer.status_code}"] += 1
            await asyncio.sleep(OFFICE_SECONDS)

    async def _log_in(self, office: _Office) -> None:
        """Log in; and see that the log-ins whose time is over are of no use any more."""
        async with httpx.AsyncClient(base_url=self._daemon.url, timeout=20) as page:
            said = await self._asked("log-in", page.post("/api/v1/auth/login", json={"key": KEY}))
            if said is not None and said.is_success:
                self.load.log_ins += 1
                cookies = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
                office.log_ins.append((time.perf_counter(), cookies))
                for path in ("/api/v1/cameras", "/api/v1/state", "/api/v1/logs", "/api/v1/models", "/metrics"):
                    seen = await self._asked(path, page.get(path))
                    if seen is not None and not seen.is_success:
                        self.load.unexpected[f"{path} {seen.status_code}"] += 1
            elif said is not None:
                self.load.unexpected[f"log-in {said.status_code}"] += 1
        async with httpx.AsyncClient(base_url=self._daemon.url, timeout=20) as page:
            while office.log_ins and _is_over(office.log_ins[0][0], LOG_IN_SECONDS):
                cookies = office.log_ins.popleft()[1]
                used = await self._asked("log-in", page.get("/api/v1/cameras", headers={"Cookie": cookies}))
                if used is not None:
                    self._gone("log-in", gone=used.status_code == 401)

    async def _look_at_jobs(self, client: httpx.AsyncClient, office: _Office) -> None:
        """See which jobs are done, and that those whose time is over are forgotten."""
        for name in list(office.sent):
            seen = await self._asked("job", client.get(f"/api/v1/jobs/{name}"))
            state = seen.json()["state"] if seen is not None and seen.is_success else ""
            if state not in {"", "queued", "running"}:
                office.sent.remove(name)
            if state == "done":
                self.load.jobs += 1
                office.done.append((time.perf_counter(), name))
        while office.done and _is_over(office.done[0][0], JOB_SECONDS):
            seen = await self._asked("job", client.get(f"/api/v1/jobs/{office.done.popleft()[1]}"))
            if seen is not None:
                self._gone("job", gone=seen.status_code == 404)

    def _gone(self, what: str, *, gone: bool) -> None:
        if gone:
            self.load.over[what] += 1
        else:
            self.load.unexpected[f"{what} that is still there after its time"] += 1

    async def _trouble(self, chance: random.Random) -> None:
        """Every few seconds one camera loses its connection, is gone for a while, or is restarted."""
        while True:
            which, kind = chance.randrange(CAMERAS), chance.choice(("drop", "kill", "restart"))
            self.load.troubles += 1
            if kind == "restart":
                try:
                    await asyncio.to_thread(self._daemon.post, f"/api/v1/cameras/c{which}/restart")
                except OSError as exc:
                    self.load.unexpected[f"restart {type(exc).__name__}"] += 1
            elif kind == "drop":
                self._served.tell(f"drop {which}")
            else:
                self._served.tell(f"stop {which}")
                try:
                    await asyncio.sleep(AWAY_SECONDS)
                finally:
                    self._served.tell(f"start {which}")
            await asyncio.sleep(TROUBLE_SECONDS)

    async def _faults(self, chance: random.Random, minutes: float) -> None:
        """With each minute but the first and the end something worse begins, in turn; and the log is cut back."""
        faults: tuple[Callable[[random.Random], Awaitable[None]], ...] = (
            self._silent_camera,
            self._killed_child,
            self._garbage,
            self._reload,
            self._deaf_viewers,
            self._idle_connections,
        )
        assert len(faults) == FAULTS
        for number in range(1, math.ceil(minutes)):
            fault = faults[number % FAULTS]
            await asyncio.sleep(60 * (number - self.minute))
            self.load.faults[fault.__name__.strip("_").replace("_", " ")] += 1
            await fault(chance)
            if self._log.stat().st_size > 0:
                self.load.over["log"] += 1
            else:
                self.load.unexpected["log without a line since it was cut"] += 1
            os.truncate(self._log, 0)

    async def _silent_camera(self, chance: random.Random) -> None:
        """One camera keeps its connection and sends nothing."""
        which = chance.randrange(CAMERAS)
        self._served.tell(f"stall {which}")
        try:
            await asyncio.sleep(10)
        finally:
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
        """The configuration is read again: with one camera more, without it, and with nothing changed."""
        whole = self._config.read_text(encoding="utf-8")
        last = whole.partition(f"[cameras.c{CAMERAS - 1}]")[2]
        async with self._client() as client:
            try:
                for text, what in ((f"{whole}\n[cameras.spare]{last}", "added"), (whole, "removed"), (whole, "")):
                    self._config.write_text(text, encoding="utf-8")
                    answer = await self._asked("reload", client.post("/api/v1/config/reload"))
                    if answer is not None and not answer.is_success:
                        self.load.unexpected[f"reload {answer.status_code}"] += 1
                    elif answer is not None:
                        changes = {name: cameras for name, cameras in answer.json().items() if cameras}
                        if changes != ({what: ["spare"]} if what else {}):
                            self.load.unexpected[f"reload with other changes than {what or 'none'}"] += 1
                    await asyncio.sleep(5)
            finally:
                self._config.write_text(whole, encoding="utf-8")

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


def _is_over(begun: float, seconds: float) -> bool:
    """Whether something that lives so long must be gone."""
    return time.perf_counter() - begun > seconds + LATEST_SECONDS


def _chance(who: int) -> random.Random:
    return random.Random(SEED * 1000 + who)
