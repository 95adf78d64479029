"""Small camera sources, each of which breaks one rule of the contract; and one that keeps them all."""

import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field

from healthd.cameras.source import CameraSource, Predict, Read, SourceOptions
from healthd.errors import CameraError, EndOfStream, SettingsError
from healthd.frames import CapturedImage, Image
from healthd.models.manager import ModelManager
from healthd.models.model import Detection, Prediction

made_here = itertools.count()


class GoodOptions(SourceOptions):
    step: int = Field(8, description="How much lighter each picture is.")


class Good(CameraSource):
    """A grey picture that grows lighter; an address that ends in `gone` is that of a camera which is off."""

    contract = 1
    options_model: ClassVar[type[SourceOptions]] = GoodOptions
    pause = 0.01

    def reach(self) -> None:
        if self.url is None:
            raise SettingsError("url: this camera needs one")
        if self.url.reveal().endswith("gone"):
            raise CameraError("nobody answers")

    def shade(self, number: int) -> Image:
        return np.full((24, 32, 3), number % 256, np.uint8)

    def read(self, number: int) -> Any:
        time.sleep(self.pause)
        return self.shade(number)

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self.reach()
        numbers = itertools.count()
        yield lambda: self.read(next(numbers))


class GoodRecording(Good):
    recording = True

    def read(self, number: int) -> Any:
        if number >= 5:
            raise EndOfStream("that was all")
        return CapturedImage(self.shade(number), number / 10)


class Undescribed(Good):
    class options_model(SourceOptions):  # noqa: D106, N801
        step: int = 8


class Lax(Good):
    class options_model(SourceOptions):  # noqa: D106, N801
        model_config = ConfigDict(frozen=True, extra="ignore")


class Changeable(Good):
    class options_model(SourceOptions):  # noqa: D106, N801
        model_config = ConfigDict(frozen=False, extra="forbid")


class ConnectsAtOnce(Good):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with socket.socket() as asked, suppress(OSError):
            asked.connect(("127.0.0.1", 9))


class StartsAThread(Good):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()


class Dawdles(Good):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        time.sleep(0.6)


class DawdlesOnce(Good):
    """Good; the second time it is made the machine is busy."""

    made: ClassVar[list[None]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made.append(None)
        time.sleep(0.6 if len(self.made) == 2 else 0)


class NoManager(Good):
    def camera(self) -> Any:  # type: ignore[override]
        return iter([lambda: self.shade(0)])


class NoCallable(Good):
    @contextmanager
    def camera(self) -> Iterator[Any]:
        yield "read"


class SlowToOpen(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        time.sleep(1.6)
        yield lambda: self.shade(0)


class FailsToClose(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        numbers = itertools.count()
        yield lambda: self.read(next(numbers))
        raise OSError("already closed")


class KnowsTooMuch(Good):
    """What it is depends on what this process did before."""

    before = next(made_here) + (2 if "pytest" in sys.modules else 0)

    @property
    def model_id(self) -> str | None:
        return f"model-{self.before}"


class Grey(Good):
    def shade(self, number: int) -> Image:
        return np.zeros((24, 32), np.uint8)


class Floats(Good):
    def shade(self, number: int) -> Any:
        return np.zeros((24, 32, 3), np.float32)


class Lists(Good):
    def shade(self, number: int) -> Any:
        return [[0, 0, 0]]


class GoesBack(GoodRecording):
    def read(self, number: int) -> Any:
        if number >= 5:
            raise EndOfStream("that was all")
        return CapturedImage(self.shade(number), -number / 10)


class OneBuffer(Good):
    """Gives out one array, and keeps a window through which it writes to it."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        buffer = np.zeros((24, 32, 3), np.uint8)
        window, numbers = buffer[:], itertools.count()

        def read() -> Image:
            time.sleep(self.pause)
            window[:] = next(numbers) % 256
            return buffer

        yield read


class FillsAgain(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        buffer, numbers = np.zeros((24, 32, 3), np.uint8), itertools.count()

        def read() -> Image:
            time.sleep(self.pause)
            buffer[:] = next(numbers) % 256
            return buffer

        yield read


class Spins(Good):
    pause = 0.0


class Slow(Good):
    pause = 0.1


class EndsThoughLive(Good):
    def read(self, number: int) -> Any:
        if number >= 3:
            raise EndOfStream("that was all")
        return super().read(number)


class EndsOnce(GoodRecording):
    def read(self, number: int) -> Any:
        if number == 5:
            raise EndOfStream("that was all")
        return self.shade(number)


class StopsIterating(GoodRecording):
    def read(self, number: int) -> Any:
        if number >= 5:
            raise IndexError("list index out of range")
        return self.shade(number)


class PilesUp(Good):
    """A thread that fills a list, and a read that empties it: who comes late gets old pictures."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        began, numbers = time.monotonic(), itertools.count()

        def read() -> Image:
            number = next(numbers)
            time.sleep(max(0.0, began + number * 0.02 - time.monotonic()))
            return self.shade(number)

        yield read


class RawError(Good):
    def reach(self) -> None:
        if self.url is None:
            raise SettingsError("url: this camera needs one")
        if self.url.reveal().endswith("gone"):
            raise ConnectionRefusedError(111, "Connection refused")


class NoUrlMayPass(Good):
    def reach(self) -> None:
        if self.url is None:
            raise CameraError("no url")


class OffIsForEver(Good):
    def reach(self) -> None:
        if self.url is None or self.url.reveal().endswith("gone"):
            raise SettingsError("nobody answers")


class Wordless(Good):
    def reach(self) -> None:
        if self.url is None or self.url.reveal().endswith("gone"):
            raise CameraError


class MakesUp(Good):
    def reach(self) -> None:
        if self.url is None:
            raise SettingsError("url: this camera needs one")


class HangsWhenOff(Good):
    def reach(self) -> None:
        if self.url is None:
            raise SettingsError("url: this camera needs one")
        if self.url.reveal().endswith("gone"):
            time.sleep(5)


class NeedsARead(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        taken: list[Image] = []
        numbers = itertools.count()

        def read() -> Image:
            taken.append(self.read(next(numbers)))
            return taken[-1]

        yield read
        taken.pop()


class OneForAll(Good):
    """Keeps its session in `self`: the session that is closed late closes the next one."""

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self.open = True

        def read() -> Image:
            if not self.open:
                raise CameraError("closed")
            return self.read(0)

        try:
            yield read
        finally:
            self.open = False


class LeavesThreads(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
        yield lambda: self.read(0)


class LeavesSockets(Good):
    kept: ClassVar[list[socket.socket]] = []

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self.kept.append(socket.socket())
        yield lambda: self.read(0)


class LeavesProcesses(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        left = subprocess.Popen(["sleep", "40"])
        yield lambda: self.read(0)
        left.returncode = 0  # nobody is told that it still runs


class Talks(Good):
    @contextmanager
    def camera(self) -> Iterator[Read]:
        print("opening", file=sys.stderr)
        yield lambda: self.read(0)


class TalksWhenOff(Good):
    def reach(self) -> None:
        try:
            super().reach()
        except CameraError as exc:
            print("failed:", exc)
            raise


class ModelNeedsCamera(Good):
    """Leaves on `self`, in camera(), what model() needs: two objects in two processes."""

    box: tuple[float, float, float, float]

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self.box = (0.0, 0.0, 9.0, 5.0)
        with super().camera() as read:
            yield read

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:  # type: ignore[override]
        box = self.box
        yield lambda image: Prediction("bad", 1.0, (Detection(box, 0.9, 0, "x"),))


class BadModel(Good):
    """Its model says what no model may say."""

    box = (0.0, 0.0, 999.0, 5.0)

    @contextmanager
    def model(self, models: ModelManager) -> Iterator[Predict]:  # type: ignore[override]
        yield lambda image: Prediction("bad", 1.0, (Detection(self.box, 0.9, 0, "x"),))
