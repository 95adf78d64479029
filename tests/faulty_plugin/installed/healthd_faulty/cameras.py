"""A camera that does what its options, or a file that may change while it runs, tell it to do."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read
from healthd.errors import CameraError, EndOfStream, ModelError, SettingsError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd_faulty.misdeeds import Way, hang, note
from healthd_faulty.models import FaultyModelOptions, counted
from healthd_faulty.stamps import HEIGHT, Stamp, now_ms, stamped_picture


class FaultyOptions(PredictOptions):
    """What the camera and its model do wrong."""

    fps: float = Field(25, gt=0, description="Images per second.")
    do: str = Field("live", description="Method of `_Misdeeds` that is called in place of an ordinary read or open.")
    after: int = Field(0, description="So many images are delivered before it does it.")
    way: Way = Field("lock", description="How it hangs.")
    orders: str | None = Field(None, description="File whose word is obeyed in place of `do`, whenever it changes.")
    journal: str | None = Field(None, description="File in which it notes what it does.")
    model: str | None = Field(None, description="`own`, or a model of the family `faulty`; none when absent.")
    model_do: str = Field("live", description="What its own model does wrong.")
    model_after: int = Field(0, description="So many predictions are made before it does it.")


class FaultyCamera(CameraSource):
    """See `FaultyOptions`. Its pictures carry a number, which goes on from session to session, and their time."""

    contract = 1
    options_model = FaultyOptions
    options: FaultyOptions

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._number = 0
        self._frozen: Image | None = None

    @property
    def model_id(self) -> str | None:
        return self.options.model

    @contextmanager
    def camera(self) -> Iterator[Read]:
        self._note("opening")
        match self._do():
            case "hang-open":
                hang(self.options.way)
            case "lose" | "lose-open":
                raise CameraError("nobody answers")
            case "bug-open":
                raise LookupError("in camera()")
            case "settings-open":
                raise SettingsError("the option `fps` does not fit this camera")
            case "leak-open":
                raise RuntimeError(f"cannot open {self._revealed()}")
            case "not-callable":
                yield "no function"  # type: ignore[misc]
                return
        self._note("opened")
        try:
            yield self._read  # type: ignore[misc]
        finally:
            match self._do():
                case "hang-close":
                    hang(self.options.way)
                case "bug-close":
                    raise LookupError("in the close")
            self._note("closed")

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:
        if self.options.model is None:
            return None
        return self._own_model() if self.options.model == "own" else self._shared_model(models)

    def _read(self) -> object:
        time.sleep(1 / self.options.fps)
        do = self._do() if self._number >= self.options.after else "live"
        misdeed = getattr(self, "_do_" + do.replace("-", "_"), None)
        if misdeed is not None:
            return misdeed()
        return self._next()

    def _next(self, *, height: int = HEIGHT) -> Image:
        self._number += 1
        return stamped_picture(Stamp(self._number, now_ms()), height=height)

    def _do(self) -> str:
        if self.options.orders is None:
            return self.options.do
        try:
            return Path(self.options.orders).read_text(encoding="utf-8").strip() or self.options.do
        except FileNotFoundError:
            return self.options.do

    def _note(self, event: str) -> None:
        note(self.options.journal, f"{self.name} {event}")

    def _revealed(self) -> str:
        return self.url.reveal() if self.url else "nowhere"

    def _do_hang(self) -> None:
        hang(self.options.way)

    def _do_hang_in_c(self) -> None:
        """Hold the interpreter lock for ever, and hear no SIGTERM: no thread can be left alone with it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        ctypes.PyDLL(None).sleep(1000)

    def _do_start(self) -> Image:
        """Let a program work for it, as cameras do that are read through FFmpeg."""
        if self._number == self.options.after:
            subprocess.Popen(["sleep", "1000"])
        return self._next()

    def _do_segv(self) -> None:
        ctypes.string_at(0)

    def _do_abort(self) -> None:
        os.abort()

    def _do_leave(self) -> None:
        os._exit(3)

    def _do_end(self) -> None:
        raise EndOfStream("the stream has ended")

    def _do_lose(self) -> None:
        raise CameraError("the connection broke")

    def _do_bug(self) -> None:
        raise ZeroDivisionError("in read()")

    def _do_exit(self) -> None:
        raise SystemExit(3)

    def _do_stop_iteration(self) -> None:
        raise StopIteration

    def _do_leak(self) -> None:
        raise RuntimeError(f"cannot read {self._revealed()}")

    def _do_lose_leak(self) -> None:
        raise CameraError(f"cannot read {self._revealed()}")

    def _do_freeze(self) -> Image:
        if self._frozen is None:
            self._frozen = self._next()
        return self._frozen.copy()

    def _do_floats(self) -> object:
        return self._next().astype(np.float32)

    def _do_grey(self) -> object:
        return self._next()[:, :, 0]

    def _do_empty(self) -> object:
        return np.zeros((0, 0, 3), np.uint8)

    def _do_none(self) -> None:
        """Nothing but images that are too old."""

    def _do_text(self) -> object:
        return "an image"

    def _do_changing_size(self) -> Image:
        return self._next(height=HEIGHT + 16 * (self._number % 4))

    def _do_same_buffer(self) -> Image:
        """Return views of one array that is filled anew each time, as bindings of C libraries do."""
        if self._frozen is None:
            self._frozen = np.zeros((HEIGHT, 320, 3), np.uint8)
        self._frozen[:] = self._next()
        return self._frozen[:]

    def _do_spew(self) -> Image:
        os.write(2, f"[rtsp @ 0x55d0c0ffee] method DESCRIBE failed: {self._revealed()}\n".encode())
        return self._next()

    @contextmanager
    def _own_model(self) -> Iterator[Predict]:
        self._note("loading")
        match self.options.model_do:
            case "hang-load":
                hang(self.options.way)
            case "lose-load":
                raise ModelError("the accelerator is busy")
            case "bug-load":
                raise LookupError("in model()")
            case "leak-load":
                raise RuntimeError(f"no model for {self._revealed()}")
            case "not-callable":
                yield "no function"  # type: ignore[misc]
                return
        self._note("loaded")
        try:
            yield self._predictor()
        finally:
            if self.options.model_do == "hang-close":
                hang(self.options.way)
            self._note("unloaded")

    def _predictor(self) -> Callable[[Image], object]:
        made = 0

        def predict(image: Image) -> object:
            nonlocal made
            made += 1
            if made > self.options.model_after:
                match self.options.model_do:
                    case "hang":
                        hang(self.options.way)
                    case "bug":
                        raise ZeroDivisionError("in predict()")
                    case "lose":
                        raise ModelError("the accelerator is busy")
                    case "leak":
                        raise RuntimeError(f"cannot predict on {self._revealed()}")
                    case "rubbish":
                        return {"boxes": []}
                    case "write":
                        image[:] = 0
            return counted(image)

        return predict

    @contextmanager
    def _shared_model(self, models: ModelManager) -> Iterator[Predict]:
        options = FaultyModelOptions(journal=self.options.journal)
        with models.use("faulty", self.options.model or "", options) as shared:
            yield lambda image: shared.predict(image, self.params or self.options.params())
