"""Faults of devices."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.faults import fault
from benchmarks.chaos.stage import NOTICED_SECONDS, RECOVERED_SECONDS, Stage, patient

HEIGHT, WIDTH, FPS = 96, 128, 15


@contextlib.contextmanager
def plugged_in(device: Path) -> Iterator[threading.Event]:
    """Have raw images come out of a FIFO; setting the event yielded has them stay away, with the FIFO still there."""
    os.mkfifo(device)
    unplugged, silent = threading.Event(), threading.Event()
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)  # for reading as well: it opens without a reader

    def deliver() -> None:
        number = 0
        while not unplugged.wait(1 / FPS):
            number += 1
            data = bytes([number % 256]) * (HEIGHT * WIDTH * 3)
            while data and not silent.is_set() and not unplugged.is_set():
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(descriptor, data) :]
                    continue
                time.sleep(0.005)

    thread = threading.Thread(target=deliver, daemon=True)
    thread.start()
    try:
        yield silent
    finally:
        unplugged.set()
        thread.join()
        os.close(descriptor)
        device.unlink()


@fault(
    "unplugged (simulated)",
    noticed=NOTICED_SECONDS,
    recovered=RECOVERED_SECONDS,
    reason="device is gone|cannot be opened",
)
def device_unplugged(stage: Stage) -> None:
    """The device and its node vanish in the middle of an image, and are back three seconds later.

    A FIFO stands for the device, read by a plugin: no machine without a camera has a V4L2 device that can be unplugged.
    """
    device = stage.folder / "device"
    settings = {"plugin": "chaos-device", "options": {"device": str(device)}}
    with plugged_in(device):
        stage.open({"patient": patient(**settings)})
        stage.broken()
    stage.noticed()
    time.sleep(3)
    with plugged_in(device):
        stage.mended()
        stage.recovered()


@fault("silent (simulated)", noticed=NOTICED_SECONDS, recovered=RECOVERED_SECONDS, reason="delivers nothing")
def device_silent(stage: Stage) -> None:
    """The device stays open and delivers nothing, as with a loose cable; some seconds later it delivers again."""
    device = stage.folder / "device"
    settings = {"plugin": "chaos-device", "options": {"device": str(device)}}
    with plugged_in(device) as silent:
        stage.open({"patient": patient(**settings)})
        stage.broken()
        silent.set()
        stage.noticed()
        time.sleep(3)
        silent.clear()
        stage.recovered()
