"""Faults of files that play as cameras: `realtime`, in a loop."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.chaos.faults import SkippedError, fault
from benchmarks.chaos.stage import NOTICED_SECONDS, RECOVERED_SECONDS, Stage, patient
from tests.clips import COUNTER_MP4, COUNTER_MP4_FPS, COUNTER_MP4_PICTURES

CLIP_SECONDS = COUNTER_MP4_PICTURES / COUNTER_MP4_FPS
LOOP_NOTICED_SECONDS = CLIP_SECONDS + NOTICED_SECONDS
"""What is wrong with the end of a file is met when it gets there."""
PLAYED = {"options": {"realtime": True, "loop": True}}


def _playing(stage: Stage, **settings: object) -> Path:
    """Have a clip play, on and on."""
    clip = stage.folder / "clip.mp4"
    shutil.copy(COUNTER_MP4, clip)
    stage.open({"patient": patient(clip, **PLAYED)}, **settings)  # type: ignore[arg-type]
    return clip


@fault(
    "truncated", noticed=LOOP_NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="holds no image|empty|not a video"
)
def file_truncated(stage: Stage) -> None:
    """The file is cut off to nothing while it is read; after it was noticed and three seconds it is whole again."""
    clip = _playing(stage)
    stage.broken()
    os.truncate(clip, 0)
    stage.noticed()
    time.sleep(3)
    shutil.copy(COUNTER_MP4, clip)
    stage.recovered()


@fault(
    "cut in half",
    noticed=None,
    recovered=None,
    event=None,
    metric=None,
    unseen="what is left of the file plays on",
)
def file_cut_in_half(stage: Stage) -> None:
    """The second half of the file is cut off while it is read: what is left plays on, in a loop, and never stalls."""
    clip = _playing(stage)
    stage.broken()
    os.truncate(clip, COUNTER_MP4.stat().st_size // 2)
    stage.holds(3 * CLIP_SECONDS, lambda: stage.patient_state() in {"live", "reconnecting"}, "it stalled")
    stage.holds(CLIP_SECONDS / 4, lambda: stage.patient_state() == "live", "it did not play on")


@fault(
    "replaced while it is read",
    noticed=LOOP_NOTICED_SECONDS,
    recovered=LOOP_NOTICED_SECONDS,
    event=None,
    metric=None,
    unseen="a new video is no failure: its size in the API is what differs",
)
def file_replaced(stage: Stage) -> None:
    """Another video is moved over it: the old one plays to its end, and the next round is the new one."""
    clip = _playing(stage)
    other = _other_size(stage)
    stage.broken()
    other.replace(clip)
    stage.noticed(lambda camera: camera["width"] == 640)
    stage.recovered(lambda camera: camera["state"] == "live" and camera["width"] == 640)


@fault("overwritten while it is read", noticed=LOOP_NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="file")
def file_overwritten(stage: Stage) -> None:
    """Noise is written over it, in place; after it was noticed and three seconds it is whole again."""
    clip = _playing(stage)
    stage.broken()
    with clip.open("r+b") as file:
        file.write(os.urandom(COUNTER_MP4.stat().st_size))
    stage.noticed()
    time.sleep(3)
    shutil.copy(COUNTER_MP4, clip)
    stage.recovered()


@fault("unreadable", noticed=LOOP_NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="may not be read")
def file_unreadable(stage: Stage) -> None:
    """The file belongs to somebody else and may be read by nobody, to a daemon without the powers of root."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        raise SkippedError("`setpriv` is not installed: root may read everything")
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    clip = _playing(stage, prefix=powerless)
    stage.broken()
    if powerless:
        os.chown(clip, 65534, 65534)
    clip.chmod(0)
    stage.noticed()
    time.sleep(3)
    clip.chmod(0o644)
    stage.recovered()


HUGE_BYTES = 1 << 40
MOST_GROWN_MB = 300.0


@fault(
    "huge (sparse)",
    noticed=LOOP_NOTICED_SECONDS,
    recovered=RECOVERED_SECONDS + LOOP_NOTICED_SECONDS,
    reason="image|file",
)
def file_huge(stage: Stage) -> None:
    """The file, raw H.264, grows to a terabyte of nothing: the decoder looks for the next picture in it.

    After it was noticed and five seconds it is as it was.
    """
    clip = stage.folder / "clip.h264"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(COUNTER_MP4), "-c:v", "libx264", "-f", "h264", str(clip)]
    if shutil.which("ffmpeg") is None:
        raise SkippedError("`ffmpeg` is not installed, and has to encode the file")
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    size = clip.stat().st_size
    stage.open({"patient": patient(clip, **PLAYED)})
    before = stage.memory_mb()
    stage.broken()
    os.truncate(clip, HUGE_BYTES)
    stage.noticed()
    most, end = before, time.monotonic() + 5
    while time.monotonic() < end:
        most = max(most, stage.memory_mb())
        time.sleep(0.1)
    os.truncate(clip, size)
    stage.recovered()
    stage.note(f"Memory rose by {most - before:.0f} MB at most.")
    if most - before > MOST_GROWN_MB:
        stage.problem(f"memory rose by {most - before:.0f} MB, bound {MOST_GROWN_MB:g} MB")


def _other_size(stage: Stage) -> Path:
    if shutil.which("ffmpeg") is None:
        raise SkippedError("`ffmpeg` is not installed, and has to encode the other file")
    other = stage.folder / "other.mp4"
    command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(COUNTER_MP4), "-vf", "scale=640:384", str(other)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return other
