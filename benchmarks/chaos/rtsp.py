"""Faults of RTSP cameras, and of the network between."""

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks.chaos.faults import SkippedError, fault
from benchmarks.chaos.servers import Camera
from benchmarks.chaos.stage import HUNG_RECOVERED_SECONDS, NOTICED_SECONDS, RECOVERED_SECONDS, Sees, Stage, patient
from healthd.cameras.names import LOOK_UP_SECONDS
from tests.clips import number_of
from tests.process.daemon import Daemon, until
from tests.rtsp_server import DEFAULT_CLIP

OUTAGE_SECONDS = 3.0


@fault("server killed", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="connection refused")
def server_killed(stage: Stage) -> None:
    """SIGKILL to the camera's process; three seconds later it runs again on the same port."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.kill()
    stage.noticed()
    time.sleep(OUTAGE_SECONDS)
    camera.start()
    stage.recovered()


@fault("server stopped", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="no image")
def server_stopped(stage: Stage) -> None:
    """SIGSTOP to the camera's process: its kernel still takes connections, nobody answers.

    After eight seconds the process is killed and started again.
    """
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.send(signal.SIGSTOP)
    stage.noticed()
    time.sleep(6)
    camera.kill()
    camera.start()
    stage.recovered()


@fault("server stopped and continued", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="no image")
def server_continued(stage: Stage) -> None:
    """SIGSTOP to the camera's process, and SIGCONT after it was noticed and three seconds more."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.send(signal.SIGSTOP)
    stage.noticed()
    time.sleep(OUTAGE_SECONDS)
    camera.send(signal.SIGCONT)
    stage.recovered()


@fault(
    "link dropped (half-open TCP)",
    noticed=NOTICED_SECONDS,
    recovered=HUNG_RECOVERED_SECONDS,
    reason="no image",
    namespace=True,
)
def link_dropped(stage: Stage) -> None:
    """A packet filter drops whatever comes from the camera or goes to it: no FIN, no RST.

    In a network namespace of its own. After six seconds the packets pass again.
    """
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    _filter(camera.port, "-A")
    stage.noticed()
    time.sleep(4)
    _filter(camera.port, "-D")
    stage.recovered()


def _filter(port: int, order: str) -> None:
    for way in ("--sport", "--dport"):
        rule = ["iptables", order, "INPUT", "-p", "tcp", way, str(port), "-j", "DROP"]
        subprocess.run(rule, check=True, capture_output=True)


@fault("connections cut again and again", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS)
def connections_cut(stage: Stage) -> None:
    """The camera closes all its connections ten times, every second."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.tell("drop")
    stage.noticed()
    for _ in range(9):
        time.sleep(1)
        camera.tell("drop")
    stage.recovered()


def _restarted_with(stage: Stage, *, fps: float = 15, sees: Sees | None = None, clip: Path | None = None) -> None:
    """Kill the camera, and start it again with another clip or rate at once."""
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.kill()
    camera.start(**({"clip": str(clip)} if clip else {}), fps=fps)
    stage.mended()
    stage.noticed()
    stage.recovered(sees)


@fault("restart with another resolution", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS)
def other_resolution(stage: Stage) -> None:
    """The camera is killed and comes back at once, with pictures of 640x384 in place of 320x192."""
    clip = _encoded(stage, "scale=640:384", "baseline")
    _restarted_with(stage, clip=clip, sees=lambda camera: camera["state"] == "live" and camera["width"] == 640)


@fault("restart with another frame rate", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS)
def other_rate(stage: Stage) -> None:
    """The camera is killed and comes back at once, with 30 frames per second in place of 15."""
    _restarted_with(stage, fps=30, sees=lambda camera: camera["state"] == "live" and camera["fps"] > 20)


@fault("restart with another codec profile", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS)
def other_profile(stage: Stage) -> None:
    """The camera is killed and comes back at once, with H.264 High and CABAC in place of Baseline."""
    _restarted_with(stage, clip=_encoded(stage, "null", "high"))


def _encoded(stage: Stage, scaled: str, profile: str) -> Path:
    """Encode the usual clip otherwise."""
    clip = stage.folder / f"{profile}.h264"
    if shutil.which("ffmpeg") is None:
        raise SkippedError("`ffmpeg` is not installed, and has to encode the other clip")
    x264 = ["-c:v", "libx264", "-preset", "veryfast", "-profile:v", profile, "-bf", "0", "-g", "15"]
    x264 += ["-x264-params", "repeat-headers=1:aud=1:scenecut=0:slices=1", "-pix_fmt", "yuv420p"]
    command = ["ffmpeg", "-y", "-loglevel", "error", "-framerate", "30", "-i", str(DEFAULT_CLIP), "-vf", scaled]
    subprocess.run([*command, *x264, "-f", "h264", str(clip)], check=True, stdin=subprocess.DEVNULL)
    return clip


@fault("two servers on one address in turn", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS)
def two_servers_in_turn(stage: Stage) -> None:
    """Two cameras with different pictures share an address: one is killed, the other takes over, six times."""
    clips = [str(_encoded(stage, "scale=640:384", "baseline")), str(DEFAULT_CLIP)]
    camera = stage.camera()
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    for turn in range(6):
        camera.kill()
        camera.start(clip=clips[turn % 2])
        if turn == 0:
            stage.noticed()
        time.sleep(1.5)
    camera.kill()
    camera.start(clip=clips[0])
    stage.recovered(lambda seen: seen["state"] == "live" and seen["width"] == 640)


def _spoilt(stage: Stage, name: str, seconds: float) -> None:
    """Send spoilt pictures for a while; the decoder shows what it can make of them, and complains."""
    camera = stage.camera()
    daemon = stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.tell(f"do {name}")
    stage.noticed(lambda _: daemon.events("native_output_many"))
    time.sleep(seconds)
    camera.tell("do")
    stage.recovered(lambda seen: seen["state"] == "live" and _readable(daemon))


def _readable(daemon: Daemon) -> bool:
    """Whether the picture is whole: the number that it carries can be read."""
    answer = daemon.get("/api/v1/cameras/patient/snapshot")
    if answer.status_code != 200:
        return False
    return number_of(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)) is not None


COMPLAINTS = {"event": "native_output_many", "metric": "healthd_native_output_lines_total"}


@fault("corrupt slices", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="h264", **COMPLAINTS)
def corrupt_slices(stage: Stage) -> None:
    """For five seconds noise stands in place of a fifth of each slice: pictures go on, smeared."""
    _spoilt(stage, "corrupt-slices", 5)


@fault("truncated NAL units", noticed=NOTICED_SECONDS, recovered=HUNG_RECOVERED_SECONDS, reason="h264", **COMPLAINTS)
def truncated_nal_units(stage: Stage) -> None:
    """For five seconds two thirds of each NAL unit are missing, parameter sets included: pictures go on, smeared."""
    _spoilt(stage, "truncated", 5)


@fault(
    "no keyframe for 60 s",
    noticed=NOTICED_SECONDS,
    recovered=HUNG_RECOVERED_SECONDS,
    reason="no picture|no image",
    limit=150,
)
def no_keyframe(stage: Stage) -> None:
    """The connection is cut; for the next 60 seconds neither a key picture nor a parameter set comes."""
    camera = stage.camera(announce_parameters=False)
    stage.open({"patient": patient(camera.url)})
    stage.broken()
    camera.tell("do no-keyframe")
    camera.tell("drop")
    stage.noticed()
    time.sleep(60)
    camera.tell("do")
    stage.recovered()


ATTEMPTS = 1000
MOST_GROWN_MB, MOST_GROWN_THREADS, MOST_GROWN_DESCRIPTORS = 10.0, 2, 4
MOST_TOLD = 10
"""Warnings in the log: one for each reason, not for each attempt."""


@fault(
    "1,000 reconnects in a row",
    noticed=NOTICED_SECONDS,
    recovered=RECOVERED_SECONDS,
    reason="closes the connection",
    limit=300,
)
def thousand_reconnects(stage: Stage) -> None:
    """The camera takes each connection and closes it at once, 1,000 times (`reconnect_max_seconds = 0.05`).

    Memory, threads and descriptors must be after them what they were after the first hundred.
    """
    camera = stage.camera()
    daemon = stage.open({"patient": patient(camera.url, reconnect_max_seconds=0.05)})
    stage.broken()
    camera.kill()
    closing = stage.camera("closing", port=camera.port)
    stage.noticed()
    marks = []
    for attempts in (100, ATTEMPTS):
        until(lambda: daemon.samples()[FAILURES] >= attempts, seconds=200, what=f"{attempts} attempts")  # noqa: B023
        marks.append(_least(stage.process()))
    told = len(daemon.events("session_failed"))
    if told > MOST_TOLD:
        stage.problem(f"{told} warnings in the log")
    stage.note("Memory, threads and descriptors grew by {:.1f} MB, {}, {}.".format(*_grown(*marks)))
    for grown, most, what in zip(
        _grown(*marks),
        (MOST_GROWN_MB, MOST_GROWN_THREADS, MOST_GROWN_DESCRIPTORS),
        ("MB", "threads", "descriptors"),
        strict=True,
    ):
        if grown > most:
            stage.problem(f"{grown:g} {what} more than after a hundred")
    closing.kill()
    camera.start()
    stage.recovered()


FAILURES = 'healthd_camera_failures_total{camera="patient",task="reader"}'


def _least(process: psutil.Process) -> tuple[float, ...]:
    """The least of two seconds: an attempt that is under way holds some descriptors of its own, another moment none."""
    looks = []
    for _ in range(40):
        looks.append((process.memory_info().rss / 1e6, process.num_threads(), process.num_fds()))
        time.sleep(0.05)
    return tuple(min(each) for each in zip(*looks, strict=True))


def _grown(before: Sequence[float], after: Sequence[float]) -> tuple[float, ...]:
    return tuple(b - a for a, b in zip(before, after, strict=True))


HOST = "gym-cam.example"


@fault(
    "DNS that hangs",
    noticed=NOTICED_SECONDS,
    recovered=RECOVERED_SECONDS + LOOK_UP_SECONDS,
    reason="name server does not answer",
    namespace=True,
)
def dns_hangs(stage: Stage) -> None:
    """The connection is cut while the name server takes questions and answers none; after ten seconds it answers.

    In a network namespace with a name server of its own.
    """
    names = _own_names(stage)
    camera = stage.camera()
    stage.open({"patient": patient(camera.url_at(HOST))})
    stage.broken()
    names.tell("answer")
    camera.tell("drop")
    stage.noticed(lambda seen: "name server" in (seen["reason"] or ""))
    time.sleep(8)
    names.tell("answer 127.0.0.1")
    stage.recovered()


@fault("DNS that changes", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="lost|refused", namespace=True)
def dns_changes(stage: Stage) -> None:
    """The camera moves to another address: the old one is dead, and three seconds later its name leads to the new one.

    In a network namespace with a name server of its own.
    """
    names = _own_names(stage)
    camera = stage.camera()
    stage.open({"patient": patient(camera.url_at(HOST))})
    stage.broken()
    camera.kill()
    camera.start(host="127.0.0.2")
    stage.noticed()
    time.sleep(OUTAGE_SECONDS)
    names.tell("answer 127.0.0.2")
    stage.recovered()


def _own_names(stage: Stage) -> Camera:
    """Have all names of this namespace looked up at a name server of our own."""
    configuration = stage.folder / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    try:
        subprocess.run(["mount", "--bind", str(configuration), "/etc/resolv.conf"], check=True, capture_output=True)
    except subprocess.CalledProcessError as exc:
        raise SkippedError(f"/etc/resolv.conf cannot be replaced: {exc.stderr.decode().strip()}") from exc
    return stage.camera("names", port=53)
