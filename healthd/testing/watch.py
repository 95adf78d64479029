"""What a plugin does beside what it is asked for: what it prints, holds, and does to the machine."""

import contextlib
import ctypes
import gc
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from structlog.testing import capture_logs

from healthd.printed import Printed, flush_c_stdout

SETTLE_SECONDS = 1.0
"""So long a thread may take to end after what it worked for was closed."""

_DESCRIPTORS = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
_TASKS = Path("/proc/self/task")
_FFMPEG = re.compile(r"\[[^\]]+ @ 0x[0-9a-f]+\] |\s*Last message repeated \d+ times")
_DEEDS = {
    "socket.connect": "opens a connection",
    "socket.bind": "opens a port",
    "socket.getaddrinfo": "asks a name server",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.fork": "starts a process",
}


@contextlib.contextmanager
def printed() -> Iterator[Printed]:
    """Collect what anybody prints, in Python and in C. What is logged is not printed."""
    seen, quiet = Printed(), logging.NullHandler()
    with capture_logs(), contextlib.ExitStack() as stack:
        logging.getLogger().addHandler(quiet)
        stack.callback(logging.getLogger().removeHandler, quiet)
        flush_c_stdout()
        stack.enter_context(seen)
        stack.callback(flush_c_stdout)
        yield seen


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds at a moment."""

    threads: Mapping[int, str]
    """Names of the threads that Python knows, and of those that C libraries started, by the system's number."""
    descriptors: Mapping[int, str]
    """What each file descriptor stands for."""
    processes: Mapping[int, str]
    """Names of the processes that it started and that are still there; none where the system does not tell."""

    def more_than(self, before: "Held", *, by: int) -> str:
        """Say what there is more of than before, by so many at least; empty: of nothing.

        A thread is new whatever ended meanwhile; a number of a file descriptor is given out again.
        """
        threads = [name for number, name in self.threads.items() if number not in before.threads]
        files = [name for number, name in self.descriptors.items() if before.descriptors.get(number) != name]
        processes = [name for number, name in self.processes.items() if number not in before.processes]
        more = {
            "processes": len(processes),
            "threads": len(threads),
            "file descriptors": len(self.descriptors) - len(before.descriptors),
        }
        for (what, count), names in zip(more.items(), (processes, threads, files), strict=True):
            if count >= by:
                return f"{count} {what} more than before ({', '.join(sorted(set(names))[:4])})"
        return ""


def held() -> Held:
    """Look at what the process holds now."""
    gc.collect()
    threads = {int(task.name): "started in C" for task in _TASKS.iterdir()} if _TASKS.is_dir() else {}
    threads |= {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id is not None}
    descriptors = {}
    for link in _DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            descriptors[int(link.name)] = str(link.readlink())
    return Held(threads, descriptors, _children())


def _children() -> dict[int, str]:
    found = {}
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        with contextlib.suppress(OSError):
            for number in (task / "children").read_text(encoding="ascii").split():
                found[int(number)] = Path(f"/proc/{number}/comm").read_text(errors="backslashreplace").strip()
    return found


def leaked(before: Held, *, by: int) -> str:
    """Say what is held more than before, when what is about to end has ended; empty: nothing is."""
    until = time.monotonic() + SETTLE_SECONDS
    while (told := held().more_than(before, by=by)) and time.monotonic() < until:
        time.sleep(0.05)
    return told


def resident_bytes() -> int | None:
    """Return how much memory of the machine the process takes; None where that cannot be known."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and is kept is no leak
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def words_of(seen: Printed) -> str:
    """Return what was printed, without what FFmpeg says of a stream: healthd puts that into its log."""
    return "\n".join(line for line in seen.text.splitlines() if not _FFMPEG.match(line)).strip()


class _Deeds:
    """An audit hook, which Python cannot take away again: it is deaf but for moments."""

    def __init__(self) -> None:
        self._seen: list[str] | None = None
        self._hooked = False

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        if not self._hooked:
            sys.addaudithook(self._hook)
            self._hooked = True
        seen: list[str] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._seen is None:
            return
        if event in _DEEDS:
            self._seen.append(_DEEDS[event])
        elif event == "open" and _writes(arguments) and not str(arguments[0]).endswith(".pyc"):
            self._seen.append(f"writes to {arguments[0]}")


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


_DEEDS_SEEN = _Deeds()


def deeds() -> contextlib.AbstractContextManager[list[str]]:
    """Collect what is done to network, processes and files while the block lasts, in words."""
    return _DEEDS_SEEN.seen()
