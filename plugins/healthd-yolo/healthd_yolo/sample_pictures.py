"""Pictures like those that a model will see: of a folder, or evenly from a clip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from healthd.errors import SettingsError
from healthd.frames import Image
from healthd.utf8 import is_utf8

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_CLIPS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".m4v")
_NOISE_SIZE = (720, 1280)


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture, not read yet."""

    path: Path
    frame: int | None = None
    """Of a clip: which one."""


def samples(place: Path) -> list[Sample]:
    """Return what there is at a place: a folder of pictures and clips, a clip, or a picture.

    Raises:
        SettingsError: there is nothing of the kind.
    """
    if not place.exists():
        raise SettingsError(f"--calibration: there is no {place}")
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    found: list[Sample] = []
    for file in files:
        if not is_utf8(str(file)):
            raise SettingsError(f"--calibration: the name of {str(file)!a} is not UTF-8: rename it")
        if file.suffix.lower() in _PICTURES:
            found.append(Sample(file))
        elif file.suffix.lower() in _CLIPS:
            found += [Sample(file, frame) for frame in range(_frame_count(file))]
    if not found:
        raise SettingsError(f"--calibration: {place} holds no picture ({', '.join(_PICTURES)}) and no clip")
    return found


def own_samples() -> list[Sample]:
    """Return the pictures that ultralytics brings along; nothing where they are gone."""
    spec = find_spec("ultralytics")
    folder = Path(spec.origin).parent / "assets" if spec is not None and spec.origin else Path()
    return [Sample(file) for file in sorted(folder.glob("*.jpg"))]


def evenly(found: Sequence[Sample], most: int) -> list[Sample]:
    """Return at most so many, evenly spread, in order."""
    if len(found) <= most:
        return list(found)
    return [found[int((turn + 0.5) * len(found) / most)] for turn in range(most)]


def divided(found: Sequence[Sample], *, calibrating: int, comparing: int) -> tuple[list[Sample], list[Sample]]:
    """Return which to calibrate with and which to compare on: different ones, where there are eight or more."""
    if len(found) < 8:
        return evenly(found, calibrating), evenly(found, comparing)
    chosen = evenly(found, min(comparing, len(found) // 4))
    kept = set(chosen)
    return evenly([one for one in found if one not in kept], calibrating), chosen


def images(chosen: Sequence[Sample]) -> Iterator[Image]:
    """Read pictures, frames of one clip in order.

    Raises:
        SettingsError: one cannot be read.
    """
    clip: cv2.VideoCapture | None = None
    opened, position = Path(), 0
    for one in chosen:
        if one.frame is None:
            image = cv2.imread(str(one.path), cv2.IMREAD_COLOR)
        else:
            if clip is None or opened != one.path or position > one.frame:
                clip, opened, position = cv2.VideoCapture(str(one.path)), one.path, 0
            while position < one.frame and clip.grab():
                position += 1
            image = clip.read()[1]
            position += 1
        if image is None:
            raise SettingsError(f"{one.path} cannot be read as a picture or clip")
        yield image.astype(np.uint8, copy=False)


def noise() -> Iterator[Image]:
    """Give black and noise, for where there is nothing better."""
    random = np.random.default_rng(7)
    yield np.zeros((*_NOISE_SIZE, 3), dtype=np.uint8)
    yield random.integers(0, 256, (*_NOISE_SIZE, 3), dtype=np.uint8)


def told(chosen: Sequence[Sample]) -> list[list[str | int | None]]:
    """Return what tells pictures apart without reading them: name, frame, size, time of the last change."""
    return [
        [str(one.path.absolute()), one.frame, one.path.stat().st_size, one.path.stat().st_mtime_ns] for one in chosen
    ]


def _frame_count(clip: Path) -> int:
    """Count the frames that can be read; what a container says of itself may be wrong."""
    capture = cv2.VideoCapture(str(clip))
    try:
        count = 0
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()
