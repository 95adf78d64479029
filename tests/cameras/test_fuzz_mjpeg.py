"""A camera that sends Motion JPEG of nonsense: FFmpeg reads it in the camera's process, and nothing else is hurt."""

import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from healthd.cameras.capture import CaptureOptions, open_camera
from healthd.cameras.isolated import IsolatedCamera
from healthd.cameras.source import CameraSource, Read
from healthd.children import Nursery
from healthd.errors import CameraError
from healthd.frames import CapturedImage, Image, JpegImage, published_image
from healthd.settings import CameraSettings
from tests.clips import number_of
from tests.fuzzing import MORE, SEED
from tests.mjpeg_server import MjpegBehaviour, MjpegServer, plain_part

EXAMPLES = max(6, MORE)
MOST_READS = 120
OPEN_SECONDS, STALL_SECONDS = 3.0, 1.5
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes for cameras are Linux' alone"),
    pytest.mark.timeout(60 + 20 * EXAMPLES),
]


class Filmed(CameraSource):
    contract = 1
    options_model = CaptureOptions
    options: CaptureOptions

    @contextmanager
    def camera(self) -> Iterator[Read]:
        assert self.url is not None
        with open_camera(
            self.url,
            self.options,
            open_timeout_seconds=self.open_timeout_seconds,
            read_timeout_seconds=STALL_SECONDS / 2,
        ) as read:
            yield read


class Nonsense:
    """Makes of each JPEG a part that is wrong in some way, now and then one that is right."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._right = (60, 0, 3)[seed % 3]
        """So many parts at first: else FFmpeg does not even begin, or the camera takes all for backlog."""

    def part(self, jpeg: bytes) -> Iterable[bytes]:
        if self._right > 0 or self._random.random() < 0.5:
            self._right -= 1
            return plain_part(jpeg)
        return self._random.choice([self._changed, self._lying, self._cut, self._noise, self._endless_head])(jpeg)

    def _changed(self, jpeg: bytes) -> list[bytes]:
        part = bytearray(b"".join(plain_part(jpeg)))
        for _ in range(self._random.randint(1, 12)):
            where = 90 if self._random.random() < 0.5 else len(part)  # in its head, or anywhere
            at = self._random.randrange(min(where, len(part)))
            part[at : at + self._random.randint(0, 4)] = self._random.randbytes(self._random.randint(0, 4))
        return [bytes(part)]

    def _lying(self, jpeg: bytes) -> list[bytes]:
        lengths = ["0", "-1", "1", str(len(jpeg) - 1), str(len(jpeg) + 1), str(2**31), str(2**64), "9" * 40, "x", ""]
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {self._random.choice(lengths)}\r\n\r\n"
        return [head.encode() + jpeg + b"\r\n"]

    def _cut(self, jpeg: bytes) -> list[bytes]:
        return [b"".join(plain_part(jpeg))[: self._random.randrange(len(jpeg))]]

    def _noise(self, _jpeg: bytes) -> list[bytes]:
        return [self._random.randbytes(self._random.choice([1, 100, 50_000]))]

    def _endless_head(self, jpeg: bytes) -> list[bytes]:
        line = b"X-" + b"a" * self._random.choice([10, 5_000, 200_000]) + b": b\r\n"
        return [b"--frame\r\n", *[line] * self._random.randint(1, 3), b"\r\n", jpeg]


def pixels_of(said: object) -> Image | None:
    image = published_image(said.image if isinstance(said, CapturedImage) else said, copy=False)
    return image.pixels() if isinstance(image, JpegImage) else image


def test_nonsense_in_place_of_motion_jpeg_is_an_error_of_the_camera_and_passes(nursery: Nursery) -> None:
    with MjpegServer(MjpegBehaviour(fps=60)) as server:
        wanted = CameraSettings(
            plugin="filmed", url=server.url_of(), open_timeout_seconds=OPEN_SECONDS, stall_timeout_seconds=STALL_SECONDS
        )
        source = Filmed("gym", url=wanted.url, options=CaptureOptions())
        source.open_timeout_seconds = wanted.open_timeout_seconds
        camera = IsolatedCamera(source, wanted, nursery=nursery)
        came = 0
        for number in range(EXAMPLES):
            server.behaviour.part = Nonsense(SEED + number).part
            begun = time.monotonic()
            try:
                with camera.camera() as read:
                    for _ in range(MOST_READS):
                        came += (said := read()) is not None
                        assert said is None or isinstance(pixels_of(said), np.ndarray)
            except CameraError:
                pass
            bounds = camera.bounds
            assert time.monotonic() - begun < bounds.enter_seconds + MOST_READS * bounds.read_seconds
        assert came > 0, "some of it must look like a camera, or little is tried"
        server.behaviour.part = None
        with camera.camera() as read:
            image = next(pixels_of(said) for said in iter(read, object()) if said is not None)
        assert image is not None
        assert number_of(image) is not None
