"""What a fault does, whoever does it."""

import ctypes
import os
import threading
import time
from typing import Any, Literal, NoReturn

from healthd.errors import SettingsError

Crash = Literal["segv", "abort", "exit"]
Leak = Literal["thread", "descriptor", "memory"]
Wrong = Literal["bug", "settings", "stop_iteration", "system_exit"]


def hang(seconds: float, *, spin: bool = False) -> None:
    """Do not return for so long; an infinite time is for ever. `spin`: computing, as a loop gone wrong does."""
    if spin:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
    elif seconds == float("inf"):
        threading.Event().wait()
    else:
        time.sleep(seconds)


def fail(how: Wrong) -> NoReturn:
    """Raise what no plugin should raise, or not here."""
    match how:
        case "bug":
            raise ZeroDivisionError("a bug, as it was asked for")
        case "settings":
            raise SettingsError("a wrong setting, as it was asked for")
        case "stop_iteration":
            raise StopIteration
        case "system_exit":
            raise SystemExit(3)


def crash(how: Crash) -> NoReturn:
    """End this process as a driver would: no clean-up, no word of good-bye."""
    if how == "segv":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    os._exit(3)


class Hoard:
    """What was leaked. Lives as long as the process."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def leak(self, what: Leak, *, size_bytes: int, most: int) -> None:
        """Keep one thing more that nobody gives back, up to `most`."""
        if len(self._kept) >= most:
            return
        if what == "thread":
            thread = threading.Thread(target=threading.Event().wait, name="healthd-faults-leak", daemon=True)
            thread.start()
            self._kept.append(thread)
        elif what == "descriptor":
            self._kept.append(os.open(os.devnull, os.O_RDONLY))
        else:
            self._kept.append(bytearray(os.urandom(4096)) * (size_bytes // 4096))
