"""Faults of the start and the stop: signals at every moment, a port that is taken, descriptors and disks that lack."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos.faults import SkippedError, fault
from benchmarks.chaos.host import UNAVAILABLE, begin_job
from benchmarks.chaos.host_tools import fill, remount, small_disk
from benchmarks.chaos.stage import PLUGIN, Stage, patient
from tests.process.daemon import Daemon, run_verb, to_toml, until

QUIET: dict[str, Any] = {"event": None, "metric": None}
ASKED = "it ends because it was asked to: `stopped`, its last line, is no warning, and what has ended has no metrics"
NOT_STARTED = "what does not start has no metrics"
SIGNALS = 12
STOPPED_SECONDS = 4.0
START_SECONDS = 20.0


def _settings(url: str) -> dict[str, Any]:
    return {"cameras": {"patient": patient(url)}, "models": {"preload": ["slow"]}}


@contextlib.contextmanager
def _started(stage: Stage, name: str, settings: dict[str, Any], **options: Any) -> Iterator[Daemon]:
    """Start a daemon; whatever becomes of it, its log must tell of no error that the fault does not name."""
    folder = stage.folder / name
    folder.mkdir(exist_ok=True)
    with Daemon(folder, settings, plugins=[PLUGIN], CHAOS_FAULT="", **options) as daemon:
        yield daemon
    stage.hold_log(daemon.stderr)


def _until_started(stage: Stage, settings: dict[str, Any]) -> float:
    """Return how long a start takes here."""
    with _started(stage, "first", settings) as daemon:
        daemon.until_state("patient", "live")
        took = time.monotonic() - daemon.started_at
        daemon.stop()
    return took


@fault("SIGTERM at every phase of the start", noticed=None, recovered=None, limit=180, unseen=ASKED, **QUIET)
def term_while_starting(stage: Stage) -> None:
    """The daemon is started twelve times and sent SIGTERM, from the first moment to when its camera is live.

    Exit code 0 within four seconds, and nothing left, each time. Only before the interpreter runs its first line can
    nobody answer: there the kernel ends it, which counts as clean as long as nothing has been said.
    """
    settings = _settings(stage.camera().url)
    took = _until_started(stage, settings)
    stops, killed = [], 0
    for number in range(SIGNALS):
        with _started(stage, f"start{number}", settings) as daemon:
            delay = took * number / (SIGNALS - 1)
            time.sleep(max(0.0, daemon.started_at + delay - time.monotonic()))
            code, seconds = daemon.stop()
            stops.append(seconds)
            early = code == -signal.SIGTERM and not daemon.stdout and not daemon.stderr
            killed += early
            if (code != 0 and not early) or seconds > STOPPED_SECONDS or daemon.left_behind():
                stage.problem(f"after {delay:.2f} s: exit {code} in {seconds:.1f} s, left: {daemon.left_behind()}")
    stage.note(
        f"A start took {took:.1f} s, the longest stop {max(stops):.1f} s; {killed} came before Python had begun."
    )
    if killed > 2:
        stage.problem(f"{killed} of {SIGNALS} were ended by the signal itself")


RELOADS = 6


@fault("SIGTERM during a reload", noticed=None, recovered=None, limit=180, unseen=ASKED, **QUIET)
def term_while_reloading(stage: Stage) -> None:
    """A configuration with three cameras more is read again, and SIGTERM comes 0 to 500 ms later, six times.

    Exit code 0 within four seconds, and nothing left, each time.
    """
    url = stage.camera().url
    stops = []
    for number in range(RELOADS):
        settings = _settings(url)
        with _started(stage, f"reload{number}", settings) as daemon:
            daemon.until_state("patient", "live")
            if "/api/v1/config/reload" not in daemon.get("/schema/openapi.json").json()["paths"]:
                raise SkippedError("this healthd cannot read its configuration again")
            more = {f"more{index}": patient(url) for index in range(3)}
            told = {
                **settings,
                "server": {"port": 0},
                "shutdown": {"grace_seconds": 1, "drain_seconds": 1},
                "cameras": {"patient": patient(url, quality=50), **more},
            }
            daemon.config.write_text(to_toml(told), encoding="utf-8")
            daemon.send(signal.SIGHUP)
            time.sleep(0.5 * number / (RELOADS - 1))
            code, seconds = daemon.stop()
            stops.append(seconds)
            if code != 0 or seconds > STOPPED_SECONDS or daemon.left_behind():
                stage.problem(f"turn {number}: exit {code} in {seconds:.1f} s, left: {daemon.left_behind()}")
    stage.note(f"The longest stop took {max(stops):.1f} s.")


REFUSED_SECONDS = 5.0


@fault("two daemons on one port", noticed=REFUSED_SECONDS, recovered=None, unseen=NOT_STARTED, **QUIET)
def two_on_a_port(stage: Stage) -> None:
    """A second daemon is started on the port of the first: it says so in a line and ends with exit code 1.

    The first one goes on.
    """
    daemon = stage.open()
    folder = stage.folder / "second"
    folder.mkdir()
    (folder / "config.toml").write_text(f"[server]\nport = {daemon.port}\n", encoding="ascii")
    stage.broken()
    ended = run_verb("run", "--config", folder / "config.toml", folder=folder, plugins=[PLUGIN])
    stage.noticed(lambda _: True)
    told = [line for line in ended.stderr.splitlines() if "cannot listen" in line]
    if ended.returncode != 1 or len(told) != 1 or "Traceback" in ended.stderr:
        stage.problem(f"exit {ended.returncode}: {ended.stderr[-300:]}")
        return
    stage.said("standard error", told[0].replace(str(daemon.port), "PORT"))
    time.sleep(2)


@fault("a port in TIME_WAIT", noticed=None, recovered=START_SECONDS, unseen="the port can be had at once", **QUIET)
def time_wait(stage: Stage) -> None:
    """The daemon closes 50 connections first, ends, and is started on the same port while they are in TIME_WAIT."""
    settings = {**_settings(stage.camera().url), "server": {"port": _free_port()}}
    with _started(stage, "one", settings) as daemon:
        port = daemon.port
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                while client.recv(1 << 16):
                    pass
        daemon.stop()
    waiting = _in_time_wait(port)
    if not waiting:
        raise SkippedError("this kernel keeps no connection of its own in TIME_WAIT")
    with _started(stage, "two", settings) as daemon:
        daemon.until_ready()
        stage.outcome.recovered = time.monotonic() - daemon.started_at
        daemon.stop()
    stage.note(f"{waiting} connections were in TIME_WAIT.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _in_time_wait(port: int) -> int:
    """Count the connections of that port, on this side, that wait for what may still come (state 06)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "06" for row in rows)


DESCRIPTORS = (10, 20, 40, 80)


@fault(
    "too few file descriptors at the start",
    noticed=START_SECONDS,
    recovered=None,
    limit=150,
    unseen=NOT_STARTED,
    errors=("process_crashed", "exception_ignored"),
    **QUIET,
)
def few_descriptors(stage: Stage) -> None:
    """The daemon is started with 10, 20, 40 and 80 descriptors: it either works or ends and says what it lacks.

    Without enough for an event loop it ends with an error in the log (`process_crashed`).
    """
    settings, came, longest = _settings(stage.camera().url), [], 0.0
    for most in DESCRIPTORS:
        with _started(stage, f"few{most}", settings, prefix=["prlimit", f"--nofile={most}:{most}"]) as daemon:
            at = time.monotonic()
            until(lambda: daemon.returncode is not None or "healthd is at" in daemon.stdout, seconds=START_SECONDS)
            longest = max(longest, time.monotonic() - at)
            if daemon.returncode is not None:
                came.append(f"{most}: exit {daemon.returncode}")
                said = daemon.stderr.strip()
                for crash in daemon.events("process_crashed"):
                    stage.said("process_crashed", str(crash.get("exception", "")).strip().rpartition("\n")[2])
                if daemon.returncode == 0 or ("Too many open files" not in said and "descriptor" not in said):
                    stage.problem(f"with {most} it ended with {daemon.returncode} and said {said[-200:]!r}")
                continue
            if daemon.client.get("/healthz", timeout=5).status_code != 200:
                stage.problem(f"with {most} it does not answer")
            came.append(f"{most}: {_settled(daemon)}")
            code, seconds = daemon.stop()
            if code != 0 or seconds > STOPPED_SECONDS or daemon.left_behind():
                stage.problem(f"with {most}: exit {code} in {seconds:.1f} s, left: {daemon.left_behind()}")
    stage.outcome.noticed = longest
    stage.note(f"With {'; with '.join(came)}.")


def _settled(daemon: Daemon) -> str:
    try:
        return str(daemon.until_state("patient", "live", "reconnecting", "failed", seconds=10)["state"])
    except AssertionError:
        return "no state"


def _bad_disk(stage: Stage, how: str) -> dict[str, Any]:
    """Return the settings of what is kept there."""
    disk = stage.enter(small_disk(stage.folder / f"{how} disk", megabytes=2))
    (disk / "models").mkdir()
    if how == "full":
        fill(disk)
    else:
        remount(disk, "ro")
    return {
        "jobs": {"directory": str(disk / "jobs")},
        "models": {"directory": str(disk / "models"), "cache_directory": str(disk / "cache"), "preload": ["slow"]},
    }


def _refuses_jobs(stage: Stage, daemon: Daemon) -> None:
    status = begin_job(daemon, 1).status_code
    if status not in {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.INSUFFICIENT_STORAGE}:
        stage.problem(f"a job got {status}")
        return
    told = until(lambda: daemon.events("jobs_unavailable"), seconds=5, what="jobs_unavailable in the log")
    stage.said("jobs_unavailable", told[0]["reason"])
    stage.outcome.metric = f"{UNAVAILABLE} +{daemon.samples()[UNAVAILABLE]:g}"


@fault(
    "disk full or read-only at the start",
    noticed=None,
    recovered=START_SECONDS,
    event="jobs_unavailable",
    metric=UNAVAILABLE,
    namespace=True,
    limit=120,
)
def bad_disk_at_start(stage: Stage) -> None:
    """The folder of jobs, models and caches is full, then read-only, when the daemon starts: its camera is live.

    The first job is refused, and the log says why.
    """
    url = stage.camera().url
    slowest = 0.0
    for how in ("full", "read-only"):
        with _started(stage, how, {**_settings(url), **_bad_disk(stage, how)}) as daemon:
            daemon.until_state("patient", "live")
            slowest = max(slowest, time.monotonic() - daemon.started_at)
            _refuses_jobs(stage, daemon)
            code, seconds = daemon.stop()
            if code != 0 or seconds > STOPPED_SECONDS:
                stage.problem(f"{how}: exit {code} in {seconds:.1f} s")
    stage.outcome.recovered = slowest
