"""The camera source `faults`: a camera that works, except when it is asked not to."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from healthd.cameras.backlog import BacklogGate
from healthd.cameras.source import CameraSource, Predict, Read, SourceOptions
from healthd.errors import CameraError, EndOfStream
from healthd.frames import CapturedImage, Image, JpegImage
from healthd.models.manager import ModelManager
from healthd_faults.deeds import Hoard, crash, fail, hang
from healthd_faults.family import FaultsModelOptions
from healthd_faults.options import CameraFault, Corrupt, FaultsOptions
from healthd_faults.picture import numbered_picture
from healthd_faults.schedule import Moment

_SIZES = (0.5, 1.0, 0.75)
_CORRUPT: tuple[Corrupt, ...] = ("dtype", "shape", "empty", "text", "jpeg_cut", "jpeg_broken")


class Faults(CameraSource):
    """A camera without a device. Read on a thread, it counts its frames across sessions."""

    contract: ClassVar[int] = 1
    options_model: ClassVar[type[SourceOptions]] = FaultsOptions
    options: FaultsOptions
    _begun: float | None = None
    """When it was opened first, in seconds of the monotonic clock."""
    _sessions = 0
    _hoard: Hoard | None = None

    @property
    def model_id(self) -> str | None:
        """The model as the configuration names it."""
        return self.options.model

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open nothing; the callable draws the next picture, or does what was asked for.

        Raises:
            CameraError: on request; and so does anything else.
        """
        if self._begun is None:
            self._begun, self._hoard = time.monotonic(), Hoard()
            self._numbers = itertools.count(1)
        self._sessions += 1
        self._misbehave("open")
        session = _Session(self)
        try:
            yield session.read
        finally:
            self._misbehave("close")

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:
        """Load or share the model, where one is named."""
        return None if self.options.model is None else self._watched(models, self.options.model)

    def next_number(self) -> int:
        """Count one frame more that was asked for."""
        return next(self._numbers)

    def active(self, at: Literal["open", "read", "close"], number: int) -> Iterator[tuple[CameraFault, float]]:
        """Give the faults that are on, with for how many seconds they go on."""
        seconds = time.monotonic() - (self._begun or 0.0)
        for index, fault in enumerate(self.options.faults):
            left = fault.left_seconds(Moment(seconds, number, f"{self.options.seed}:{index}"))
            if fault.at == at and left is not None:
                yield fault, left

    def do(self, fault: CameraFault, left: float) -> None:
        """Do what a fault does before there is a picture."""
        match fault.kind:
            case "hang":
                hang(fault.seconds or left, spin=fault.spin)
            case "half_open":
                hang(min(fault.seconds or left, 0.9 * self.stall_timeout_seconds))
                raise CameraError("the connection is open, and nothing comes over it")
            case "slow":
                hang(fault.seconds or 1.0)
            case "drop":
                raise CameraError("the connection was lost")
            case "end":
                raise EndOfStream("the stream has ended")
            case "error":
                fail(fault.error)
            case "leak" if self._hoard is not None:
                self._hoard.leak(fault.leak, size_bytes=fault.size_bytes, most=fault.most)
            case "crash":
                crash(fault.crash)

    def _misbehave(self, at: Literal["open", "close"]) -> None:
        for fault, left in self.active(at, self._sessions):
            self.do(fault, left)

    @contextmanager
    def _watched(self, models: ModelManager, model_id: str) -> Iterator[Predict]:
        own = self.options.model_family == "faults"
        options = FaultsModelOptions(faults=self.options.model_faults, seed=self.options.seed) if own else None
        with models.use(self.options.model_family, model_id, options) as shared:
            yield lambda image: shared.predict(image, self.params or self.options.params())


class _Session:
    """The pictures of one session. It belongs to the session's thread."""

    def __init__(self, source: Faults) -> None:
        self._source = source
        self._options = source.options
        bursts = any(fault.kind == "burst" for fault in source.options.faults)
        self._gate = BacklogGate(clocked=True) if bursts else None
        self._made_at = time.monotonic()
        self._piled = False
        """What piled up in a burst is being delivered."""
        self._frozen: Image | None = None

    def read(self) -> Any:
        """Wait for the next picture, and deliver it or whatever was asked for in its place."""
        self._wait()
        number = self._source.next_number()
        change: Callable[[Image], Any] | None = None
        scale, frozen = 1.0, False
        for fault, left in self._source.active("read", number):
            match fault.kind:
                case "burst":
                    self._pile_up(fault.seconds or 2.0)
                case "resize":
                    scale = _SIZES[number % len(_SIZES)]
                case "freeze":
                    frozen = True
                case "corrupt":
                    change = _corruption(fault.corrupt, number)
                case _:
                    self._source.do(fault, left)
        if self._gate is not None and not self._gate.admits(time.monotonic(), self._made_at):
            return None
        image = self._picture(number, scale, frozen=frozen)
        if change is not None:
            return change(image)
        shown = JpegImage(_encoded(image)) if self._options.jpeg else image
        return CapturedImage(shown, self._made_at)

    def _picture(self, number: int, scale: float, *, frozen: bool) -> Image:
        if frozen and self._frozen is not None:
            return self._frozen.copy()
        width, height = round(self._options.width * scale), round(self._options.height * scale)
        self._frozen = numbered_picture(number, width=width, height=height)
        return self._frozen.copy()

    def _wait(self) -> None:
        """Wait until the next picture is made. Who comes late gets the newest one, except after a burst."""
        interval = 1 / self._options.fps
        now = time.monotonic()
        self._piled = self._piled and self._made_at < now - interval
        self._made_at = self._made_at + interval if self._piled else max(self._made_at + interval, now - interval)
        time.sleep(max(0.0, self._made_at - now))

    def _pile_up(self, seconds: float) -> None:
        """Deliver nothing for a while, and then all at once what was made meanwhile; not while that goes on."""
        if not self._piled:
            hang(seconds)
            self._piled = True


def _corruption(what: Corrupt, number: int) -> Callable[[Image], Any]:
    if what == "any":
        what = _CORRUPT[number % len(_CORRUPT)]
    changes: dict[str, Callable[[Image], Any]] = {
        "dtype": lambda image: image.astype(np.float32) / math.pi,
        "shape": lambda image: image[:, :, 0],
        "empty": lambda _: np.zeros((0, 0, 3), np.uint8),
        "text": lambda _: "a picture",
        "jpeg_cut": lambda image: JpegImage(_encoded(image)[:-20]),
        "jpeg_broken": lambda image: JpegImage(_without_tables(_encoded(image))),
    }
    return changes[what]


def _encoded(image: Image) -> bytes:
    ok, data = cv2.imencode(".jpg", image)
    if not ok:
        raise CameraError("the picture cannot be encoded")
    return bytes(data)


def _without_tables(jpeg: bytes) -> bytes:
    """Take out what a decoder cannot do without; it is whole all the same, by all that its header says."""
    while (at := jpeg.find(b"\xff\xdb")) >= 0:
        jpeg = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    return jpeg
