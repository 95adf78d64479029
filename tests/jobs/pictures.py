"""Pictures, zips and videos for tests, each picture different from every other."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from healthd.frames import Image
from tests.fakes import picture


def jpeg(number: int = 0, *, size: tuple[int, int] = (48, 64)) -> bytes:
    done, encoded = cv2.imencode(".jpg", picture(number, size=size))
    assert done
    return encoded.tobytes()


def png(image: Image) -> bytes:
    done, encoded = cv2.imencode(".png", image)
    assert done
    return encoded.tobytes()


def zipped(members: Mapping[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def pictures_zip(count: int) -> bytes:
    return zipped({f"{number:05d}.jpg": jpeg(number) for number in range(count)})


def video(path: Path, frames: int, *, fps: float = 10.0, size: tuple[int, int] = (48, 64)) -> Path:
    """A video whose frames have the grey of their number: 4 for each."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, (size[1], size[0]))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((*size, 3), number * 4 % 256, np.uint8))
    writer.release()
    return path
