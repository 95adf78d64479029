"""A camera whose driver goes wrong when it is told to: the word in the file `orders` says how, at each call of it."""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from healthd.cameras.source import CameraSource, Read, SourceOptions
from healthd.frames import Image

HEIGHT, WIDTH = 96, 128
LEAK_BYTES = 8_000_000
HANG_SECONDS = 3600
WAIT_US = 50_000


class DriverOptions(SourceOptions):
    """Who tells it what to do, and how fast it is."""

    orders: Path = Field(description="File with `hang`, `hold`, `wait`, `segv`, `abort` or `leak`; else all is well.")
    fps: float = Field(15, gt=0, description="Images per second.")


class Driver(CameraSource):
    """Grey images of a driver that hangs, crashes or leaks."""

    contract = 1
    options_model = DriverOptions
    options: DriverOptions
    _number = 0

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Open it, or hang in that."""
        leaked: list[np.ndarray] = []
        self._hang()
        yield lambda: self._read(leaked)

    def _read(self, leaked: list[np.ndarray]) -> Image:
        time.sleep(1 / self.options.fps)
        self._hang()
        match self._told():
            case "segv":
                ctypes.string_at(0)
            case "abort":
                os.abort()
            case "leak":
                leaked.append(np.ones(LEAK_BYTES, np.uint8))
        self._number += 1
        return np.full((HEIGHT, WIDTH, 3), self._number % 256, np.uint8)

    def _hang(self) -> None:
        """Hang in C: for good and deaf to SIGTERM, with the interpreter's lock or without; or for as long as told."""
        told = self._told()
        if told in {"hang", "hold"}:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            library = ctypes.PyDLL(None) if told == "hold" else ctypes.CDLL(None)
            library.sleep(HANG_SECONDS)
        while self._told() == "wait":
            ctypes.CDLL(None).usleep(WAIT_US)

    def _told(self) -> str:
        """Return what is to go wrong."""
        return self.options.orders.read_text(encoding="ascii").strip()
