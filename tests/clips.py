"""Clips whose pictures tell their own number, so that a test knows which picture it was given, and how old it is.

`python tests/clips.py` makes the two committed files under `tests/data` anew (needs the `ffmpeg` command with libx264);
the suite itself needs no `ffmpeg`.
"""

import subprocess
from pathlib import Path

import cv2
import numpy as np

DATA = Path(__file__).parent / "data"

COUNTER_H264 = DATA / "counter.h264"
"""Annex-B for the RTSP server: 300 pictures, a key picture with parameter sets every 15, no B-pictures."""
COUNTER_H264_PICTURES = 300

COUNTER_MP4 = DATA / "counter.mp4"
"""A recording: 90 pictures at 25 per second, H.264 with B-pictures."""
COUNTER_MP4_PICTURES = 90
COUNTER_MP4_FPS = 25.0

WIDTH, HEIGHT = 320, 192
_BITS = 10
_CELL = 32


def numbered_picture(number: int) -> np.ndarray:
    """Draw a picture that carries a number of 10 bits: a row of black and white cells, and below it its negative."""
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    picture[128:] = np.linspace(40, 200, WIDTH).astype(np.uint8)[None, :, None]
    for bit in range(_BITS):
        bright, columns = bool(number >> bit & 1), slice(bit * _CELL, (bit + 1) * _CELL)
        picture[:_CELL, columns] = 235 if bright else 20
        picture[_CELL : 2 * _CELL, columns] = 20 if bright else 235
    left = number * 4 % WIDTH
    picture[136:160, left : left + 24] = (0, 0, 255)
    return picture


def number_of(picture: np.ndarray) -> int | None:
    """Read the number back; None where the picture is smeared or carries none."""
    number = 0
    for bit in range(_BITS):
        columns = slice(bit * _CELL + 8, (bit + 1) * _CELL - 8)
        upper, lower = picture[8:24, columns].mean(), picture[_CELL + 8 : _CELL + 24, columns].mean()
        if abs(upper - lower) < 100:
            return None
        number |= int(upper > lower) << bit
    return number


def write_mjpeg_avi(path: Path, *, pictures: int, fps: float) -> Path:
    """Write numbered pictures as Motion JPEG, which OpenCV can do by itself."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH, HEIGHT))
    for number in range(pictures):
        writer.write(numbered_picture(number))
    writer.release()
    return path


def _encode(path: Path, pictures: int, fps: float, *options: str) -> None:
    source = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", f"{fps:g}", "-i", "-"]
    x264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "28", "-pix_fmt", "yuv420p", "-bitexact"]
    command = ["ffmpeg", "-y", "-loglevel", "error", *source, *x264, *options, str(path)]
    raw = b"".join(numbered_picture(number).tobytes() for number in range(pictures))
    subprocess.run(command, input=raw, check=True)


def make_all() -> None:
    """Make the committed clips anew."""
    DATA.mkdir(exist_ok=True)
    annex_b = ["-profile:v", "baseline", "-bf", "0", "-g", "15", "-f", "h264"]
    parameters = ["-x264-params", "repeat-headers=1:aud=1:scenecut=0:slices=1"]
    _encode(COUNTER_H264, COUNTER_H264_PICTURES, 30, *annex_b, *parameters)
    _encode(COUNTER_MP4, COUNTER_MP4_PICTURES, COUNTER_MP4_FPS, "-bf", "3", "-g", "30", "-movflags", "+faststart")


if __name__ == "__main__":
    make_all()
