"""Clients with bad manners: slow, endless, too many. Nobody else may notice."""

import asyncio
import contextlib
import itertools
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.chaos.endless import Poured, drip, opened, pour
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
NO_LOG: dict[str, Any] = {"event": None, "unseen": "strangers write no log: requests are counted"}
UNKNOWN = 'healthd_http_requests_total{route="unknown",status="400"}'
ANSWERED = 'healthd_http_requests_total{{status="{}"}}'
MOST_GROWN_MB = 60.0


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


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


def _dripped(stage: Stage, asked: Mapping[str, tuple[bytes, bytes]], daemon: Daemon, bound: float) -> None:
    async def all_of_them() -> list[tuple[float, int]]:
        return await asyncio.gather(*(drip(daemon, *one, 2 * bound) for one in asked.values()))

    came = asyncio.run(all_of_them())
    late = [name for name, (took, _) in zip(asked, came, strict=True) if not 0 <= took <= bound]
    if late:
        stage.problem(f"{len(late)} of {len(asked)} were not cut within {bound:g} s: {', '.join(late[:4])}")
    stage.outcome.noticed = max(took for took, _ in came)
    kinds = sorted({status for _, status in came})
    stage.note(f"{len(asked)} connections, answered {', '.join(map(str, kinds))}.")


@fault("slowloris on every route: the head", noticed=CUT_SECONDS, recovered=None, metric=CUT, **NO_LOG)
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


@fault(
    "slowloris on every route: the body",
    noticed=CUT_SECONDS + 1,
    recovered=None,
    limit=90,
    metric=ANSWERED.format(408),
    **NO_LOG,
)
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


@fault(
    "slow uploads of one client",
    noticed=CUT_SECONDS + 1,
    recovered=None,
    metric='healthd_infer_requests_total{outcome="timeout"}',
    **NO_LOG,
)
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
        return await asyncio.gather(*(drip(daemon, one, b" ", 3 * CUT_SECONDS, SLOW_CLIENT) for one in sent))

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


POURED_SECONDS = 5.0
"""Until it is refused at its limit, and two seconds in which what still comes is thrown away."""


@fault("header of 1 MB", noticed=3.0, recovered=None, metric=ANSWERED.format(431), **NO_LOG)
def huge_header(stage: Stage) -> None:
    """Twenty connections send a head of 1 MB at once, in one header and in thousands: each is refused and closed."""
    daemon = stage.open(settings=DOORS)
    with memory_held(stage):
        stage.broken()
        long = head("GET", "/healthz").removesuffix(b"\r\n") + b"X-Long: "
        many = head("GET", "/healthz").removesuffix(b"\r\n")

        async def all_of_them() -> list[Poured]:
            one = [pour(daemon, long, bytes([97]) * 65536, 1 << 20) for _ in range(10)]
            more = [pour(daemon, many, b"X-Many: " + b"a" * 56 + b"\r\n", 1 << 20) for _ in range(10)]
            return await asyncio.gather(*one, *more)

        came = asyncio.run(all_of_them())
        _judge_poured(stage, came, {0, 400, 431})


def _judge_poured(stage: Stage, came: Sequence[Poured], statuses: set[int]) -> None:
    if uncut := sum(one.took < 0 for one in came):
        stage.problem(f"{uncut} of {len(came)} were not cut")
    if wrong := {one.status for one in came} - statuses:
        stage.problem(f"answered {sorted(wrong)}")
    stage.outcome.noticed = max(one.took for one in came)
    said = sorted({one.status for one in came} - {0})
    most = max(one.sent for one in came) / 1e6
    stage.note(f"Answered {', '.join(map(str, said)) or 'nothing'}; {most:.1f} MB sent at most.")


PICTURE_BYTES, JOB_BYTES, WORDS_BYTES = 4 << 20, 8 << 20, 1 << 18
"""What may be sent here as a picture, as a job, and to routes that take a few words."""
ON_THE_WAY_BYTES = 16 << 20
"""What the buffers of both kernels hold at most beside what was read."""
_PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
_FORM, _JSON = "multipart/form-data; boundary=x", "application/json"
ENDLESS = {
    ("/api/v1/infer?model=counter", _FORM): (413, PICTURE_BYTES),
    ("/api/v1/detect", _FORM): (413, PICTURE_BYTES),
    ("/api/v1/jobs", _FORM): (413, JOB_BYTES),
    ("/api/v1/infer", _JSON): (415, 0),
    ("/api/v1/auth/login", _JSON): (413, WORDS_BYTES),
    ("/api/v1/models/counter/load", _JSON): (200, 0),
}
"""By path and type: what must be said, and after how many bytes of the body. A load takes none: it is done."""


@fault("body that never ends", noticed=POURED_SECONDS, recovered=None, metric=ANSWERED.format(413), **NO_LOG)
def endless_body(stage: Stage) -> None:
    """Chunked bodies without an end to `/infer`, `/detect`, `/jobs`, the log-in and the load of a model.

    Each is refused at its limit (here 4 MB of a picture, 8 MB of a job) with 413, no picture with 415; the load, which
    reads no body, is done. What else is sent is kept nowhere.
    """
    limits = {"inference": {"max_upload_bytes": PICTURE_BYTES}, "jobs": {"max_upload_bytes": JOB_BYTES}}
    daemon = stage.open(settings={**DOORS, **limits})
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    begun = b"%x\r\n" % len(_PART) + _PART + b"\r\n"
    with memory_held(stage):
        stage.broken()

        async def all_of_them() -> list[Poured]:
            asked = [
                head("POST", path, f"Content-Type: {kind}", "Transfer-Encoding: chunked")
                + (begun if kind is _FORM else b"")
                for path, kind in ENDLESS
            ]
            return await asyncio.gather(*(pour(daemon, request, chunk, 1 << 30) for request in asked))

        came = asyncio.run(all_of_them())
        _judge_poured(stage, came, {status for status, _ in ENDLESS.values()})
        for (path, _), (status, limit), one in zip(ENDLESS, ENDLESS.values(), came, strict=True):
            if one.status != status:
                stage.problem(f"{path}: answered {one.status}, not {status}")
            if one.sent_before > limit + ON_THE_WAY_BYTES:
                stage.problem(f"{path}: answered after {one.sent_before / 1e6:.0f} MB, its limit {limit / 1e6:.1f} MB")
        stage.note(f"Told after {max(one.sent_before for one in came) / 1e6:.1f} MB at most.")


# -- many ------------------------------------------------------------------------------------------------------------

IDLE, IDLE_SECONDS = 5000, 6.0
CROWD_SECONDS = 0.2
"""So much longer the others may wait while they are let in."""


@fault("5,000 idle connections", noticed=None, recovered=5.0, metric=CUT, **NO_LOG)
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


@fault("pipelining", noticed=None, recovered=None, metric=UNKNOWN, **NO_LOG)
def pipelined(stage: Stage) -> None:
    """Requests for pictures and camera lists in one piece: 80 on each of ten connections, 1,000 on each of twenty.

    Those 80 are answered in order; of the twenty, ten never read, and all may be cut.
    """
    daemon = stage.open(settings=DOORS)
    request = head("GET", "/api/v1/cameras/witness/snapshot") + head("GET", "/api/v1/cameras")

    async def ask(count: int, *, read: bool = True) -> int:
        reader, writer = await opened(daemon)
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


@fault(
    "half-closed sockets",
    noticed=None,
    recovered=8.0,
    event="viewer_ended",
    reason="client",
    metric='healthd_viewers_ended_total{reason="client"}',
)
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
