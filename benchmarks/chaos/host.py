"""Faults of the machine that healthd runs on: its clock, its disk, memory, CPU, file descriptors, and a long sleep."""

import io
import json
import resource
import signal
import socket
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np

from benchmarks.chaos.faults import fault
from benchmarks.chaos.host_tools import Ages, Ballast, Cgroup, WallClock, fill, remount, small_disk
from benchmarks.chaos.stage import NOTICED_SECONDS, RECOVERED_SECONDS, STALE_SECONDS, Stage, patient
from healthd.settings import ServerSettings
from tests.process.daemon import Daemon, until

HOUR = 3600
JUMPED: dict[str, Any] = {"event": "clock_jumped", "reason": "clock", "metric": "healthd_clock_jumps_total"}
SLOW_TOO: dict[str, Any] = {"models": {"preload": ["slow"]}}
FPS = 15
UNAVAILABLE = "healthd_jobs_unavailable_total"
JOB_NOTICED_SECONDS = 2.0
JOB_RECOVERED_SECONDS = 12.0
"""A job that waits for its storage tries again every ten seconds."""


def pictures(count: int) -> bytes:
    """Return a zip of small pictures."""
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        for number in range(count):
            written.writestr(f"{number:04}.jpg", jpeg)
    return archive.getvalue()


def begin_job(daemon: Daemon, count: int, *, model: str = "counter", padding: int = 0) -> httpx.Response:
    """Send a job."""
    body = pictures(count) if not padding else pictures(count) + bytes(padding)
    return daemon.client.post("/api/v1/jobs", files={"file": ("a.zip", body)}, data={"model": model}, timeout=30)


def job(daemon: Daemon, asked: httpx.Response) -> dict[str, Any]:
    """Return how far a job is."""
    answer: dict[str, Any] = daemon.get(f"/api/v1/jobs/{asked.json()['id']}").raise_for_status().json()
    return answer


# -- the clock ---------------------------------------------------------------------------------------------------


def _clock_jumps(stage: Stage, seconds: int) -> None:
    clock = WallClock(stage.folder)
    camera = stage.camera(fps=FPS)
    daemon = stage.open({"patient": patient(camera.url)}, settings=SLOW_TOO, CHAOS_FAULT="", **clock.variables)
    running = begin_job(daemon, 100, model="slow").raise_for_status()
    until(lambda: job(daemon, running)["done"] > 0, what="the job to begin")
    uptime = daemon.get("/api/v1/state").json()["uptime_seconds"]
    stage.broken()
    at = time.monotonic()
    clock.jump(seconds)
    stage.holds(8, lambda: stage.patient_state() == "live", "the patient did not stay live")
    ages = [daemon.camera(name)["frame_age_ms"] for name in ("witness", "patient")]
    if any(not 0 <= age < 1e3 * STALE_SECONDS for age in ages):
        stage.problem(f"ages of frames: {ages} ms")
    gone = daemon.get("/api/v1/state").json()["uptime_seconds"] - uptime
    if abs(gone - (time.monotonic() - at)) > 2:
        stage.problem(f"the uptime went on by {gone:.1f} s")
    stamp = daemon.get("/api/v1/cameras/witness/snapshot").headers["x-frame-timestamp"]
    off = (datetime.fromisoformat(stamp) - datetime.now(UTC)).total_seconds()
    if abs(off - seconds) > 2:
        stage.problem(f"the time of a picture is {off:.0f} s off, not {seconds}")
    camera.kill()
    camera.start()
    stage.recovered()
    until(lambda: job(daemon, running)["state"] == "done", seconds=30, what=lambda: str(job(daemon, running)))
    indexes = [line["index"] for line in _results(daemon, running)]
    if indexes != list(range(100)):
        stage.problem(f"the job that ran has {len(indexes)} results")


def _results(daemon: Daemon, asked: httpx.Response) -> list[dict[str, Any]]:
    text = daemon.get(f"/api/v1/jobs/{asked.json()['id']}/results").text
    return [json.loads(line) for line in text.splitlines()]


@fault("clock jumps an hour forward", noticed=None, recovered=RECOVERED_SECONDS, **JUMPED)
def clock_forward(stage: Stage) -> None:
    """The wall clock of the daemon jumps, its monotonic clock goes on; eight seconds later a camera is killed and back.

    A job that runs must have each result once; ages, uptime and timeouts go on as before, times follow the clock.
    """
    _clock_jumps(stage, HOUR)


@fault("clock jumps an hour back", noticed=None, recovered=RECOVERED_SECONDS, **JUMPED)
def clock_back(stage: Stage) -> None:
    """The same, the other way."""
    _clock_jumps(stage, -HOUR)


# -- the disk ----------------------------------------------------------------------------------------------------


def _state_on(stage: Stage, disk: Path) -> Daemon:
    """Open the stage with all that the daemon keeps on one disk."""
    settings = {
        "jobs": {"directory": str(disk / "jobs")},
        "models": {"directory": str(disk / "models"), "cache_directory": str(disk / "cache"), "preload": ["slow"]},
    }
    return stage.open(settings=settings, CHAOS_FAULT="")


@fault(
    "disk full",
    noticed=JOB_NOTICED_SECONDS,
    recovered=JOB_RECOVERED_SECONDS,
    event="jobs_unavailable",
    reason="no room",
    metric=UNAVAILABLE,
    namespace=True,
)
def disk_full(stage: Stage) -> None:
    """The disk with jobs, models and caches runs full while a job runs; five seconds later there is room again.

    New jobs are refused (507); the one that runs waits, goes on, and has each result once.
    """
    disk = stage.enter(small_disk(stage.folder / "disk", megabytes=8))
    daemon = _state_on(stage, disk)
    running = begin_job(daemon, 200, model="slow").raise_for_status()
    until(lambda: job(daemon, running)["done"] > 0, what="the job to begin")
    stage.broken()
    filling = fill(disk)
    stage.noticed(lambda _: begin_job(daemon, 10).status_code == httpx.codes.INSUFFICIENT_STORAGE)
    time.sleep(5)
    waits = job(daemon, running)["done"]
    filling.unlink()
    stage.recovered(lambda _: job(daemon, running)["done"] > waits)
    until(lambda: job(daemon, running)["state"] == "done", seconds=30, what=lambda: str(job(daemon, running)))
    _each_once(stage, daemon, running, 200)


def _each_once(stage: Stage, daemon: Daemon, asked: httpx.Response, count: int) -> None:
    indexes = [line["index"] for line in _results(daemon, asked)]
    if indexes != list(range(count)):
        stage.problem(f"the job has {len(indexes)} results of {count}")
    if begin_job(daemon, 1).status_code != httpx.codes.ACCEPTED:
        stage.problem("no new job is taken")


@fault(
    "log on a full disk",
    noticed=None,
    recovered=RECOVERED_SECONDS,
    event="log_lines_dropped",
    metric=None,
    unseen="the first line that can be written tells how many are missing",
    namespace=True,
)
def log_disk_full(stage: Stage) -> None:
    """The log goes into a file on a disk that runs full; 40 viewers come and go, a camera is killed and comes back.

    Lines that could not be written are counted in the first one that can be (`log_lines_dropped`).
    """
    disk = stage.enter(small_disk(stage.folder / "disk", megabytes=2))
    camera = stage.camera()
    into_file = ["sh", "-c", f'exec "$@" 2>>{disk}/log', "sh"]
    daemon = stage.open({"patient": patient(camera.url)}, prefix=into_file)
    stage.broken()
    filling = fill(disk)
    for _ in range(40):  # what the last page of the file has room for is written all the same
        with daemon.client.stream("GET", "/api/v1/events/stream"):
            pass
    camera.kill()
    stage.noticed()
    time.sleep(2)
    filling.unlink()
    camera.start()
    stage.recovered()
    told = until(
        lambda: [line for line in (disk / "log").read_text().splitlines() if "log_lines_dropped" in line],
        seconds=5,
        what=lambda: f"log_lines_dropped in {(disk / 'log').read_text()[-2000:]}",
    )
    stage.hold_log((disk / "log").read_text(encoding="utf-8"))
    stage.said("log_lines_dropped", f"{json.loads(told[0])['lines']} lines")


@fault(
    "read-only state directory",
    noticed=JOB_NOTICED_SECONDS,
    recovered=JOB_RECOVERED_SECONDS,
    event="jobs_unavailable",
    metric=UNAVAILABLE,
    namespace=True,
)
def read_only_state(stage: Stage) -> None:
    """The file system with jobs, models and caches becomes read-only before the first job; after five seconds not."""
    disk = stage.enter(small_disk(stage.folder / "disk", megabytes=8))
    daemon = _state_on(stage, disk)
    stage.broken()
    remount(disk, "ro")
    stage.noticed(lambda _: begin_job(daemon, 10).status_code == httpx.codes.SERVICE_UNAVAILABLE)
    time.sleep(5)
    remount(disk, "rw")
    stage.recovered(lambda _: begin_job(daemon, 10).status_code == httpx.codes.ACCEPTED)


# -- what a process may have ----------------------------------------------------------------------------------------

NEW_CLIENTS = 60
KNOWS_DOORS = "max_connections" in ServerSettings.model_fields


@fault(
    "no file descriptors left",
    noticed=NOTICED_SECONDS,
    recovered=RECOVERED_SECONDS,
    event="connections_refused" if KNOWS_DOORS else "session_failed",
)
def no_descriptors(stage: Stage) -> None:
    """The limit of the running daemon falls to what it has open; a camera is killed and comes back, 60 clients come.

    Those who are connected go on. Five seconds after it was noticed the limit is as it was.
    """
    camera = stage.camera()
    daemon = stage.open({"patient": patient(camera.url)})
    process = stage.process()
    before = process.rlimit(resource.RLIMIT_NOFILE)
    stage.broken()
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + 1, before[1]))
    camera.kill()
    camera.start()
    clients = [socket.create_connection(("127.0.0.1", daemon.port)) for _ in range(NEW_CLIENTS)]
    stage.noticed()
    time.sleep(5)
    process.rlimit(resource.RLIMIT_NOFILE, before)
    for client in clients:
        client.close()
    stage.mended()
    stage.recovered()


SPARE_BYTES = 32 << 20
LEFT_BYTES, LITTLE_BYTES = 14 << 20, 6 << 20
"""What is left of it for healthd, while a job begins and a camera's new process takes some 10 MB, and then."""


@fault(
    "memory limit of the control group close",
    noticed=None,
    recovered=RECOVERED_SECONDS,
    event=None,
    metric=None,
    unseen="nothing lacks memory; had a process been killed for it, `healthd_camera_process_ends_total` would say so",
)
def memory_close(stage: Stage) -> None:
    """The control group of the daemon may have 32 MB more than it has; something else in it takes all but 15 of them.

    A job begins, a camera is killed, and comes back. Then all but 6 are taken, for six seconds of pictures and
    predictions: nothing may be killed.
    """
    group = stage.enter(Cgroup("memory"))
    camera = stage.camera()
    daemon = stage.open({"patient": patient(camera.url)}, prefix=group.prefix, CHAOS_FAULT="")
    ballast = stage.enter(Ballast(group))
    started = group.used_bytes()
    limit = started + SPARE_BYTES
    group.limit_memory(limit)
    ballast.fill(limit - LEFT_BYTES)
    used = list[int]()

    def live() -> bool:
        used.append(group.used_bytes())
        return stage.patient_state() == "live"

    stage.broken()
    running = begin_job(daemon, 100).raise_for_status()
    camera.kill()
    time.sleep(2)
    camera.start()
    stage.mended()
    stage.recovered()
    ballast.fill(limit - LITTLE_BYTES)
    stage.holds(6, live, "the patient did not stay live")
    until(lambda: job(daemon, running)["state"] == "done", seconds=10, what=lambda: str(job(daemon, running)))
    hits, killed = group.limit_hits(), group.killed()
    megabytes = ", ".join(f"{size / 1e6:.0f}" for size in (started, max(used), limit))
    stage.note(f"At the start, at most and as its limit, in MB: {megabytes}. It met its limit {hits} times.")
    if not hits and max(used) < limit - LITTLE_BYTES:
        stage.problem(f"the limit did not come close: {megabytes} MB")
    if killed or not ballast.runs:
        stage.problem(f"{killed} processes were killed for their memory")


YOLO = Path(__file__).parent.parent.parent / "plugins" / "healthd-yolo"
DEMO_MODEL = YOLO / "healthd_yolo" / "demo" / "gym-pose.onnx"
CORES, PERIOD_SECONDS = 0.5, 0.1
LARGE = 640
"""Side of what the network looks at: more work than half a core can do."""


@fault(
    "CPU quota of half a core",
    noticed=None,
    recovered=RECOVERED_SECONDS + 2,
    event=None,
    metric=None,
    unseen="nothing is a second late; how often the kernel took its turn away, the control group counts (`cpu.stat`)",
)
def half_a_core(stage: Stage) -> None:
    """The control group of the daemon gets half a core, in slices of 100 ms, while a model takes all it can get.

    A camera is killed after six seconds, and comes back after two more. Who waits may wait for two such slices longer;
    nothing may be lost.
    """
    group = stage.enter(Cgroup("cpu"))
    camera = stage.camera(fps=30)
    watched = {"plugin": "yolo-pose", "options": {"model": str(DEMO_MODEL), "imgsz": LARGE}}
    stage.open({"patient": patient(camera.url, **watched)}, prefix=group.prefix, plugins=[YOLO])
    group.limit_cpu(CORES, period_seconds=PERIOD_SECONDS)
    stage.slack(2 * PERIOD_SECONDS)
    stage.broken()
    used, throttled, at = stage.cpu_seconds(), group.throttled(), time.monotonic()
    time.sleep(6)
    cores = (stage.cpu_seconds() - used) / (time.monotonic() - at)
    slices, taken = (now - then for now, then in zip(group.throttled(), throttled, strict=True))
    stage.note(f"It used {cores:.2f} cores; in {taken} of {slices} slices its turn was taken away.")
    if taken == 0 or cores < 0.9 * CORES:
        stage.problem(f"the quota was not reached: {cores:.2f} of {CORES:g} cores, {taken} slices cut short")
    camera.kill()
    time.sleep(2)
    camera.start()
    stage.mended()
    stage.recovered()
    time.sleep(3)


# -- sleep -------------------------------------------------------------------------------------------------------

ASLEEP_SECONDS = 10.0
AWAKE_SECONDS = 4.0
SHOWN_AGE_SECONDS = 1.0
"""Older than this no picture may be, by the camera's own count, with what the machine itself was late."""


@fault(
    "10 s of SIGSTOP, and SIGCONT",
    noticed=None,
    recovered=NOTICED_SECONDS + RECOVERED_SECONDS,
    event="loop_late",
    reason="stopped",
    metric="healthd_loop_late_total",
)
def asleep(stage: Stage) -> None:
    """SIGSTOP to the daemon, SIGCONT ten seconds later. A snapshot is asked for meanwhile, and 50 a second after it.

    No picture may be older than a second by the number that the camera wrote into it; until there is one, 404 says why.
    """
    camera = stage.camera(fps=FPS)
    daemon = stage.open({"patient": patient(camera.url)})
    path, ages = "/api/v1/cameras/patient/snapshot", Ages(FPS)
    for _ in range(FPS):
        answer = daemon.get(path)
        ages.begin(answer.content, time.monotonic())
        time.sleep(1 / FPS)
    children = stage.process().children(recursive=True)
    stage.broken()
    daemon.send(signal.SIGSTOP)
    early = socket.create_connection(("127.0.0.1", daemon.port))
    early.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    time.sleep(ASLEEP_SECONDS)
    daemon.send(signal.SIGCONT)
    stage.mended()
    oldest, refused, back = -1.0, 0, 0.0
    with early, early.makefile("rb") as answered:
        head, _, body = answered.read().partition(b"\r\n\r\n")
        at = time.monotonic()
    seen = [(int(head.split()[1]), body, at)]
    woken = time.monotonic()
    while time.monotonic() < woken + AWAKE_SECONDS:
        answer = daemon.get(path)
        seen.append((answer.status_code, answer.content, time.monotonic()))
        time.sleep(0.02)
    for status, body, at in seen:
        if status == httpx.codes.OK:
            oldest = max(oldest, ages.of(body, at))
            back = back or at - woken
        else:
            refused += 1
    stage.note(
        f"Of {len(seen)} answers after it {refused} were 404; the first picture came after {back:.1f} s, the oldest "
        f"was {max(0.0, oldest):.2f} s old. The daemon had {len(children)} child processes."
    )
    if oldest > SHOWN_AGE_SECONDS:
        stage.problem(f"a picture that was {oldest:.1f} s old was shown as live")
    stage.recovered()
    stage.forgive()
    time.sleep(3)
