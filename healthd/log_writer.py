"""Standard output and standard error that nobody ever waits for, though nobody reads them.

A write to a full pipe, or to a terminal that is paused, lasts until somebody reads. On the event loop it would stop
everything: the probes, the stop, the second signal.
"""

import atexit
import contextlib
import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import structlog

from healthd.printed import log_stream

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MOST_BYTES = 4 * 1024 * 1024
"""What may wait to be written, memory of Python included: about 10 000 lines."""
LAST_SECONDS = 0.5
"""How long the end waits for what has not been written yet."""

log = structlog.get_logger("healthd.log_writer")


def patient(descriptor: int, name: str, *, encoding: str = "utf-8", errors: str = "backslashreplace") -> TextIO:
    """Return a stream that writes whole lines to a descriptor, in order, from a thread of its own.

    Writing never waits: what does not fit into `MOST_BYTES` is dropped, and counted in `log_lines_dropped` as soon as
    there is room again. Closing it waits `LAST_SECONDS` at most and leaves the descriptor open if it is still in use.
    """
    writer = QueuedWriter(descriptor, name)
    return io.TextIOWrapper(writer, encoding=encoding, errors=errors, line_buffering=True)  # type: ignore[type-var]


@contextlib.contextmanager
def patient_stdout() -> Iterator[None]:
    """Replace `sys.stdout`, for whoever prints, if it is a descriptor at all."""
    before = sys.stdout
    try:
        descriptor = os.dup(before.fileno())
        before.flush()
    except (AttributeError, OSError, ValueError):  # closed, or in memory
        yield
        return
    sys.stdout = patient(descriptor, "stdout", encoding=before.encoding, errors=before.errors or "strict")
    try:
        yield
    finally:
        patient_one, sys.stdout = sys.stdout, before
        patient_one.close()


def drain_log(seconds: float) -> None:
    """Wait until all is written that was logged to standard error, so long at most."""
    writer = getattr(log_stream(), "buffer", None)
    if isinstance(writer, QueuedWriter):
        writer.drain(seconds)


class QueuedWriter(io.RawIOBase):
    """The bytes that wait for a descriptor, and the thread that writes them."""

    def __init__(self, descriptor: int, name: str, *, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._name = name
        self._most_bytes = most_bytes
        self._process = os.getpid()
        self._changed = threading.Condition()  # its lock may be taken twice: a finalizer may log while it is held
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._begun = False
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"{name}-writer", daemon=True)
        self._thread.start()
        atexit.register(self.drain)

    def write(self, piece: "ReadableBuffer", /) -> int:
        """Queue a piece, or drop it where there is no room. Never waits, never fails."""
        data = bytes(piece)
        if os.getpid() != self._process:  # a fork, which has no thread of ours
            self._write_all(data)
            return len(data)
        with self._changed:
            if self._ending:
                return len(data)
            # Once something was dropped, so is what follows, until `_run` has told it: gaps are few, and told in place.
            full = bool(self._pieces) and (self._dropped > 0 or self._bytes + len(data) > self._most_bytes)
            ends_line = self._begun and data == b"\n"
            if not full or ends_line or threading.current_thread() is self._thread:
                self._queue(data)
            else:
                self._dropped += data.count(b"\n")
                if self._begun:  # what comes next must not look like the rest of this line
                    self._queue(b"\n")
        return len(data)

    def _queue(self, data: bytes) -> None:
        self._pieces.append(data)
        self._bytes += sys.getsizeof(data)
        self._begun = not data.endswith(b"\n")
        self._changed.notify_all()

    def drain(self, seconds: float = LAST_SECONDS) -> bool:
        """Wait until all is written, so long at most; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pieces, timeout=seconds)

    def close(self) -> None:
        """Write what is left, within `LAST_SECONDS`."""
        if self.closed:
            return
        atexit.unregister(self.drain)
        with self._changed:
            drained = self.drain()
            self._ending = True
            self._changed.notify_all()
        super().close()
        if drained:
            os.close(self._descriptor)  # otherwise the thread is still inside a write

    def writable(self) -> bool:
        """Say that it is there to be written to."""
        return True

    def fileno(self) -> int:
        """Return the descriptor: who writes to it directly may have to wait."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether a terminal shows it."""
        return os.isatty(self._descriptor)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ending)
                if not self._pieces:
                    return
                piece = self._pieces[0]
            written = self._write_all(piece)
            with self._changed:
                self._bytes -= sys.getsizeof(piece)
                self._dropped += 0 if written else piece.count(b"\n")
                dropped = self._dropped if written and self._bytes <= self._most_bytes // 2 else 0
            if dropped:
                _tell(dropped, self._name)
            with self._changed:
                self._dropped -= dropped
                self._pieces.popleft()  # not before: whoever drains waits for what was told, too
                self._changed.notify_all()

    def _write_all(self, piece: bytes) -> bool:
        """Write a piece, however long it takes; tell whether it could be."""
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody who shares the pipe made it so
                _wait_for_room(self._descriptor)
            except OSError:  # nobody reads it any more, or the disk is full
                return False
        return True


def _wait_for_room(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    waiting.poll()
    time.sleep(0.01)  # room there may be, but not for all of it: no busy loop


def _tell(dropped: int, stream: str) -> None:
    """Log how many lines are missing, also where warnings are not logged."""
    if logging.getLogger().isEnabledFor(logging.WARNING):
        log.warning("log_lines_dropped", lines=dropped, stream=stream)
    else:
        log.error("log_lines_dropped", lines=dropped, stream=stream)
