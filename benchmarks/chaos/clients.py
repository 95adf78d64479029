"""Clients with bad manners: slow, endless, too many. Nobody else may notice."""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.chaos.faults import fault
from benchmarks.chaos.stage import Stage
from healthd.settings import ServerSettings
from tests.process.daemon import Daemon

HEADER_SECONDS = 3.0
"""`server.header_timeout_seconds` here."""
CUT_SECONDS = HEADER_SECONDS + 2.0
CUT = "healthd_connections_cut_total"
KNOWS_DOORS = "max_connections" in ServerSettings.model_fields
DOORS: Mapping[str, Any] = {"server": {"header_timeout_seconds": HEADER_SECONDS}} if KNOWS_DOORS else {}
QUIET: dict[str, Any] = {"event": None, "metric": None}
MOST_GROWN_MB = 60.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


async def _opened(daemon: Daemon, host: str = "127.0.0.1") -> Streams:
    """Open a connection from one of the addresses of this machine: a client is one to healthd by its address."""
    return await asyncio.open_connection("127.0.0.1", daemon.port, local_addr=(host, 0))


async def _end(reader: asyncio.StreamReader, seconds: float) -> tuple[bytes, bool]:
    """Read to the end, for so long at most; return what came, and whether it ended."""
    came = b""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            while more := await reader.read(1 << 16):
                came += more
            return came, True
        return came, False
    return came, isinstance(reader.exception(), OSError)


def _status(came: bytes) -> int:
    return int(came.split()[1]) if came.startswith(b"HTTP/1.1 ") else 0


@contextlib.contextmanager
def memory_held(stage: Stage) -> Iterator[None]:
    """Hold that memory does not grow, and that no viewer is left."""
    before = stage.memory_mb()
    yield
    grown = stage.memory_mb() - before
    stage.note(f"Memory rose by {grown:.0f} MB.")
    if grown > MOST_GROWN_MB:
        stage.problem(f"memory rose by {grown:.0f} MB, bound {MOST_GROWN_MB:g} MB")


# -- slow and endless requests -----------------------------------------------------------------------------------------


def _routes(daemon: Daemon) -> list[tuple[str, str]]:
    """Return each method and path of the OpenAPI document, filled with a name that is there for those that look."""
    paths = daemon.get("/schema/openapi.json").json()["paths"]
    return sorted(
        (method.upper(), re.sub(r"{[^}]*}", "witness" if method == "get" else "nobody", template))
        for template, methods in paths.items()
        for method in methods.keys() & {"get", "post", "put", "patch", "delete"}
    )


def _rest(stage: Stage) -> None:
    """Let others come to rest: the OpenAPI document is made when it is asked for first, and holds everybody up."""
    time.sleep(1)
    stage.forgive()
    time.sleep(2)


async def _drip(
    daemon: Daemon, request: bytes, tail: bytes, deadline: float, host: str = "127.0.0.1"
) -> tuple[float, int]:
    """Send a request and then a byte of what never ends every fifth of a second; return when it was cut, and how."""
    reader, writer = await _opened(daemon, host)
    at = time.monotonic()
    ended = asyncio.create_task(_end(reader, deadline))
    writer.write(request)
    for byte in itertools.cycle(tail):
        if ended.done() or time.monotonic() - at > deadline:
            break
        with contextlib.suppress(OSError):
            writer.write(bytes([byte]))
        await asyncio.sleep(0.2)
    came, over = await ended
    writer.close()
    return (time.monotonic() - at if over else -1.0), _status(came)


def _dripped(stage: Stage, asked: Mapping[str, tuple[bytes, bytes]], daemon: Daemon, bound: float) -> None:
    async def all_of_them() -> list[tuple[float, int]]:
        return await asyncio.gather(*(_drip(daemon, *one, 2 * bound) for one in asked.values()))

    came = asyncio.run(all_of_them())
    late = [name for name, (took, _) in zip(asked, came, strict=True) if not 0 <= took <= bound]
    if late:
        stage.problem(f"{len(late)} of {len(asked)} were not cut within {bound:g} s: {', '.join(late[:4])}")
    stage.outcome.noticed = max(took for took, _ in came)
    kinds = sorted({status for _, status in came})
    stage.note(f"{len(asked)} connections, answered {', '.join(map(str, kinds))}.")


@fault("slowloris on every route: the head", noticed=CUT_SECONDS, recovered=None, event=None, metric=CUT)
def slow_heads(stage: Stage) -> None:
    """For each method and path of the OpenAPI document a head that never ends, a byte every 0.2 s, all at a time."""
    daemon = stage.open(settings=DOORS)
    asked = {
        f"{method} {path}": (head(method, path).removesuffix(b"\r\n"), b"X-Slow: yes\r\n")
        for method, path in _routes(daemon)
    }
    _rest(stage)
    with memory_held(stage):
        stage.broken()
        _dripped(stage, asked, daemon, CUT_SECONDS)


@fault("slowloris on every route: the body", noticed=CUT_SECONDS + 1, recovered=None, limit=90, **QUIET)
def slow_bodies(stage: Stage) -> None:
    """For each method and path of the OpenAPI document a body that comes a byte every 0.2 s, all at a time.

    Whoever needs the body says 408 (`inference.upload_timeout_seconds = 3`); who does not, answers and hangs up.
    """
    daemon = stage.open(settings={**DOORS, "inference": {"upload_timeout_seconds": HEADER_SECONDS}})
    lines = ("Content-Type: application/json", "Content-Length: 100000")
    asked = {
        f"{method} {path}": (head(method, path, *lines), b" ") for method, path in _routes(daemon) if method != "GET"
    }
    _rest(stage)
    with memory_held(stage):
        stage.broken()
        _dripped(stage, asked, daemon, CUT_SECONDS + 1)


SLOW_UPLOADS, SHARE, SLOW_CLIENT = 100, 16, "127.0.0.2"
"""More than `inference.max_uploads`; what of them one client gets; and an address that nobody else has here."""


@fault("slow uploads of one client", noticed=CUT_SECONDS + 1, recovered=None, **QUIET)
def slow_uploads(stage: Stage) -> None:
    """One address sends 100 pictures at once to `/infer` and `/detect`, a byte of each every 0.2 s.

    It gets its share, 16, and 503 for all else; those 16 get 408 (`inference.upload_timeout_seconds = 3`). Pictures of
    others are answered all the while.
    """
    daemon = stage.open(settings={**DOORS, "inference": {"upload_timeout_seconds": HEADER_SECONDS}})
    lines = ("Content-Type: image/jpeg", "Content-Length: 100000")
    asked = [head("POST", f"/api/v1/{path}", *lines) for path in ("infer?model=counter", "detect")]

    async def all_of_them() -> list[tuple[float, int]]:
        sent = itertools.islice(itertools.cycle(asked), SLOW_UPLOADS)
        return await asyncio.gather(*(_drip(daemon, one, b" ", 3 * CUT_SECONDS, SLOW_CLIENT) for one in sent))

    with memory_held(stage):
        stage.broken()
        came = asyncio.run(all_of_them())
        if any(took < 0 for took, _ in came):
            stage.problem(f"{sum(took < 0 for took, _ in came)} of {len(came)} were not cut")
        answered = Counter(status for _, status in came)
        if answered != {408: SHARE, 503: SLOW_UPLOADS - SHARE}:
            stage.problem(f"answered {dict(answered)}")
        stage.outcome.noticed = max(took for took, _ in came)
        stage.note(f"{SHARE} places taken, {answered[503]} refused.")


ENDLESS_SECONDS = 10.0
POURED_SECONDS = 5.0
"""Until it is refused at its limit, and two seconds in which what still comes is thrown away."""


async def _pour(daemon: Daemon, request: bytes, piece: bytes, most: int) -> tuple[float, int, int]:
    """Send a request and then pieces until it is cut; return when that was, the status, and how much was sent."""
    reader, writer = await _opened(daemon)
    at, sent = time.monotonic(), 0
    ended = asyncio.create_task(_end(reader, ENDLESS_SECONDS))
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(request)
        while sent < most and not ended.done() and time.monotonic() - at < ENDLESS_SECONDS:
            writer.write(piece)
            sent += len(piece)
            async with asyncio.timeout(ENDLESS_SECONDS):
                await writer.drain()
    came, over = await ended
    writer.close()
    return (time.monotonic() - at if over else -1.0), _status(came), sent


@fault("header of 1 MB", noticed=3.0, recovered=None, **QUIET)
def huge_header(stage: Stage) -> None:
    """Twenty connections send a head of 1 MB at once, in one header and in thousands: each is refused and closed."""
    daemon = stage.open(settings=DOORS)
    with memory_held(stage):
        stage.broken()
        long = head("GET", "/healthz").removesuffix(b"\r\n") + b"X-Long: "
        many = head("GET", "/healthz").removesuffix(b"\r\n")

        async def all_of_them() -> list[tuple[float, int, int]]:
            one = [_pour(daemon, long, bytes([97]) * 65536, 1 << 20) for _ in range(10)]
            more = [_pour(daemon, many, b"X-Many: " + b"a" * 56 + b"\r\n", 1 << 20) for _ in range(10)]
            return await asyncio.gather(*one, *more)

        came = asyncio.run(all_of_them())
        _judge_poured(stage, came, {0, 400, 431})


def _judge_poured(stage: Stage, came: list[tuple[float, int, int]], statuses: set[int]) -> None:
    if any(took < 0 for took, _, _ in came):
        stage.problem(f"{sum(took < 0 for took, _, _ in came)} of {len(came)} were not cut")
    if wrong := {status for _, status, _ in came} - statuses:
        stage.problem(f"answered {sorted(wrong)}")
    stage.outcome.noticed = max(took for took, _, _ in came)
    said = sorted({status for _, status, _ in came} - {0})
    most = max(sent for *_, sent in came) / 1e6
    stage.note(f"Answered {', '.join(map(str, said)) or 'nothing'}; {most:.1f} MB sent at most.")


@fault("body that never ends", noticed=POURED_SECONDS, recovered=None, **QUIET)
def endless_body(stage: Stage) -> None:
    """Chunked bodies without an end to `/infer`, `/detect`, `/jobs`, the log-in and the load of a model.

    Each is refused at its limit (here 4 MB of a picture, 8 MB of a job), and what else is sent is kept nowhere.
    """
    limits = {"inference": {"max_upload_bytes": 4 << 20}, "jobs": {"max_upload_bytes": 8 << 20}}
    daemon = stage.open(settings={**DOORS, **limits})
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    form = "Content-Type: multipart/form-data; boundary=x"
    begun = b"%x\r\n" % len(_PART) + _PART + b"\r\n"
    with memory_held(stage):
        stage.broken()

        async def all_of_them() -> list[tuple[float, int, int]]:
            asked = [
                _pour(daemon, head("POST", path, form, "Transfer-Encoding: chunked") + begun, chunk, 1 << 30)
                for path in ("/api/v1/infer?model=counter", "/api/v1/detect", "/api/v1/jobs")
            ]
            asked += [
                _pour(
                    daemon,
                    head("POST", path, "Content-Type: application/json", "Transfer-Encoding: chunked"),
                    chunk,
                    1 << 30,
                )
                for path in ("/api/v1/infer", "/api/v1/auth/login", "/api/v1/models/counter/load")
            ]
            return await asyncio.gather(*asked)

        came = asyncio.run(all_of_them())
        _judge_poured(stage, came, {0, 200, 202, 400, 401, 404, 405, 409, 413, 415, 422})


_PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


# -- many ------------------------------------------------------------------------------------------------------------

IDLE, IDLE_SECONDS = 5000, 6.0
CROWD_SECONDS = 0.2
"""So much longer the others may wait while they are let in."""


@fault("5,000 idle connections", noticed=None, recovered=5.0, event=None, metric=CUT)
def idle_connections(stage: Stage) -> None:
    """5,000 connections that ask for nothing are opened and kept for six seconds: who comes new is answered at once."""
    daemon = stage.open(settings=DOORS)
    stage.slack(CROWD_SECONDS)
    slowest = 0.0
    with memory_held(stage), contextlib.ExitStack() as held:
        stage.broken()
        for _ in range(IDLE):
            held.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=5))
        end = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            at = time.monotonic()
            with socket.create_connection(("127.0.0.1", daemon.port), timeout=5) as client:
                client.sendall(head("GET", "/healthz", "Connection: close"))
                if not client.recv(100).startswith(b"HTTP/1.1 200"):
                    stage.problem("somebody new was not answered")
                    break
            slowest = max(slowest, time.monotonic() - at)
            time.sleep(0.1)
        stage.note(f"Somebody new was answered within {1e3 * slowest:.0f} ms; {stage.process().num_fds()} descriptors.")
    stage.mended()
    stage.recovered(lambda _: stage.process().num_fds() < 100)
    if slowest > 1.0:
        stage.problem(f"somebody new waited {slowest:.1f} s")


PIPELINED, MODEST = 1000, 80


@fault("pipelining", noticed=None, recovered=None, **QUIET)
def pipelined(stage: Stage) -> None:
    """Requests for pictures and camera lists in one piece: 80 on each of ten connections, 1,000 on each of twenty.

    Those 80 are answered in order; of the twenty, ten never read, and all may be cut.
    """
    daemon = stage.open(settings=DOORS)
    request = head("GET", "/api/v1/cameras/witness/snapshot") + head("GET", "/api/v1/cameras")

    async def ask(count: int, *, read: bool = True) -> int:
        reader, writer = await _opened(daemon)
        writer.write(count // 2 * request)
        try:
            if not read:
                await asyncio.sleep(6)
                return 0
            came = b""
            with contextlib.suppress(OSError, TimeoutError):
                while came.count(b"HTTP/1.1 200") < count and (more := await asyncio.wait_for(reader.read(1 << 16), 6)):
                    came += more
            return came.count(b"HTTP/1.1 200")
        finally:
            writer.transport.abort()

    async def all_of_them() -> list[int]:
        many = [ask(PIPELINED, read=number % 2 == 0) for number in range(20)]
        return await asyncio.gather(*(ask(MODEST) for _ in range(10)), *many)

    with memory_held(stage):
        stage.broken()
        answered = asyncio.run(all_of_them())
        if min(answered[:10]) < MODEST:
            stage.problem(f"only {min(answered[:10])} of {MODEST} were answered")
        stage.note(f"Of {PIPELINED} at most {max(answered[10:])} were answered.")


HALF_CLOSED = 200


@fault("half-closed sockets", noticed=None, recovered=8.0, **QUIET)
def half_closed(stage: Stage) -> None:
    """Clients that send no more: 200 before they ask, 200 after they asked for a snapshot, 50 with a stream each.

    Those who asked get their answer; afterwards nothing of them is left.
    """
    daemon = stage.open(settings=DOORS)
    with memory_held(stage), contextlib.ExitStack() as held:
        stage.broken()
        asked = []
        for number in range(2 * HALF_CLOSED + 50):
            client = held.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=5))
            if number >= 2 * HALF_CLOSED:
                client.sendall(head("GET", "/api/v1/cameras/witness/stream"))
            elif number >= HALF_CLOSED:
                client.sendall(head("GET", "/api/v1/cameras/witness/snapshot"))
                asked.append(client)
            client.shutdown(socket.SHUT_WR)
        answered = sum(client.recv(1 << 16).startswith(b"HTTP/1.1 200") for client in asked)
        if answered < len(asked):
            stage.problem(f"{len(asked) - answered} of {len(asked)} got no answer")
        time.sleep(2)
    stage.mended()
    stage.recovered(lambda _: stage.process().num_fds() < 100 and viewers(daemon) <= 1)


def viewers(daemon: Daemon) -> int:
    return len(daemon.get("/api/v1/viewers").json())
