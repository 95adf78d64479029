"""What C libraries write to standard error, as events of the log.

FFmpeg and OpenCV print straight to file descriptor 2: without time, without level, with the URL of the camera in it.
`NativeLog` puts a pipe there and keeps the true standard error for Python, which no longer waits for its reader.
"""

import contextlib
import faulthandler
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self, TextIO

import structlog

from healthd.log_writer import patient
from healthd.redact import SCRUBBER

_STDERR = 2
_CHUNK_BYTES = 64 * 1024
_LONGEST_RAW_BYTES = 8192
_UNSAFE_TAIL = 1024
"""Where a line was cut, half a secret may stand that nobody recognizes: so much of its end is not shown."""
_LONGEST_SHOWN = 500
_CONTROL = dict.fromkeys((*range(0x20), 0x7F))
_MANY_LINES, _MANY_SECONDS, _CALM_SECONDS = 20, 2.0, 10.0
"""So many lines within so long are many: a stream is damaged; without them for so long, it no longer is."""

log = structlog.get_logger("healthd.native")


class Tally:
    """What C libraries have written since the process began; standard error is the process's, and so is this."""

    lines = 0


TALLY = Tally()


class NativeLog:
    """While entered, logs each line that anything writes to file descriptor 2 as `native_output` (debug).

    Python's own `sys.stderr` keeps writing to the true standard error, from a thread of its own (see `log_writer`).
    Writers never wait: the pipe does not block, and what does not fit is lost. At most `lines_per_second` are logged;
    the rest is counted in `native_output_dropped`. When many come, `native_output_many` (warning) says so once:
    pictures that cannot be decoded are told of nowhere else. Leaving takes two seconds at most. Where there is no
    standard error, what is written there goes nowhere.
    """

    def __init__(self, *, lines_per_second: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = LineLog(log, lines_per_second=lines_per_second, clock=clock)
        self._kept: TextIO | None = None
        self._before: tuple[TextIO | None, TextIO | None] = (None, None)
        self._faults = False
        self._wake = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            true_stderr = os.dup(_STDERR)
        except OSError:
            _park_descriptor()
            return self
        self._kept = patient(true_stderr, "stderr")
        self._before = (sys.stderr, sys.__stderr__)
        if sys.stderr is not None:
            sys.stderr.flush()
        reading, writing = os.pipe()
        woken, self._wake = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        os.dup2(writing, _STDERR, inheritable=True)
        os.close(writing)
        if _writes_to_stderr(self._before[0]):
            sys.stderr = self._kept
        sys.__stderr__ = self._kept  # type: ignore[assignment,misc]
        self._faults = faulthandler.is_enabled()
        faulthandler.enable(self._kept)
        self._thread = threading.Thread(target=self._read, args=(reading, woken), name="native-log", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is None or self._thread is None:
            return
        os.dup2(self._kept.fileno(), _STDERR)
        with contextlib.suppress(BrokenPipeError):  # the reader saw the end by itself
            os.write(self._wake, b".")
        self._thread.join(timeout=1)
        os.close(self._wake)
        sys.__stderr__ = self._before[1]  # type: ignore[assignment,misc]
        if sys.stderr is self._kept:
            sys.stderr = self._before[0]
        faulthandler.disable()
        if self._faults and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        self._kept.close()
        self._kept = None

    def _read(self, reading: int, woken: int) -> None:
        """Read until the pipe has no writer, or somebody wakes us to stop."""
        stopping = False
        while True:
            wait = 0 if stopping else self._lines.seconds_to_report()
            ready, _, _ = select.select([reading, woken], [], [], wait)
            stopping = stopping or woken in ready
            chunk = _read_some(reading) if reading in ready else None
            self._lines.feed(chunk or b"")
            if chunk == b"" or (stopping and chunk is None):
                break
        self._lines.end()
        os.close(reading)
        os.close(woken)


class LineLog:
    """Logs each line of what somebody prints as `native_output` (debug), so many a second; counts the others."""

    def __init__(
        self,
        logger: Any,
        *,
        lines_per_second: int = 50,
        clock: Callable[[], float] = time.monotonic,
        kept: deque[str] | None = None,
    ) -> None:
        """`kept`: gets each line that is logged, scrubbed, as well."""
        self._logger = logger
        self._limit = RateLimit(lines_per_second, clock)
        self._flood = _Flood(clock)
        self._lines = _Lines()
        self._last = kept

    def feed(self, chunk: bytes) -> None:
        """Log the lines that are complete now."""
        for line, cut in self._lines.feed(chunk):
            self._log(line, cut=cut)
        self._report(last=False)

    def end(self) -> None:
        """Log what is left."""
        for line, cut in self._lines.rest():
            self._log(line, cut=cut)
        self._report(last=True)

    def seconds_to_report(self) -> float | None:
        """Return how long to wait until `feed` is to be called even without a chunk; None when for ever."""
        waits = (self._limit.seconds_to_report(), self._flood.seconds_to_look())
        return min((wait for wait in waits if wait is not None), default=None)

    def _log(self, line: bytes, *, cut: bool) -> None:
        if not line.strip():
            return
        TALLY.lines += 1
        if self._flood.begins():
            self._logger.warning("native_output_many", text=_shown(line, cut=cut)[0], lines=_MANY_LINES)
        if not self._limit.admit():
            return
        text, cut = _shown(line, cut=cut)
        self._logger.debug("native_output", text=text, **({"cut": True} if cut else {}))
        if self._last is not None:
            self._last.append(text)

    def _report(self, *, last: bool) -> None:
        if lines := self._flood.take_ended():
            self._logger.info("native_output_calm", lines=lines)
        dropped = self._limit.take_dropped(now=last)
        if dropped:
            self._logger.debug("native_output_dropped", lines=dropped)


def _shown(line: bytes, *, cut: bool) -> tuple[str, bool]:
    """Return what may be shown of a line, and whether that is not all of it."""
    text = SCRUBBER.scrub(line.decode("utf-8", "backslashreplace"))
    if cut:
        text = text[:-_UNSAFE_TAIL]
    cut = cut or len(text) > _LONGEST_SHOWN
    return text[:_LONGEST_SHOWN].translate(_CONTROL).strip(), cut


def _park_descriptor() -> None:
    """Take descriptor 2, or the next file that is opened would get it, and all that C libraries print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != _STDERR:
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)


def _writes_to_stderr(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == _STDERR
    except (OSError, ValueError):  # a stream in memory
        return False


def _read_some(descriptor: int) -> bytes | None:
    """Return what is there, empty at the end; None when nothing is there now."""
    with contextlib.suppress(BlockingIOError):
        return os.read(descriptor, _CHUNK_BYTES)
    return None


class _Lines:
    """Splits chunks into lines of bounded length; of a longer line, the beginning."""

    def __init__(self) -> None:
        self._begun = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[tuple[bytes, bool]]:
        """Return each line that is complete now, and whether it was cut."""
        *complete, begun = (self._begun + chunk).replace(b"\r", b"\n").split(b"\n")
        lines = []
        for line in complete:
            if not self._skipping:
                lines.append((line[:_LONGEST_RAW_BYTES], len(line) > _LONGEST_RAW_BYTES))
            self._skipping = False
        if self._skipping:
            begun = b""
        elif len(begun) > _LONGEST_RAW_BYTES:
            lines.append((begun[:_LONGEST_RAW_BYTES], True))
            begun, self._skipping = b"", True
        self._begun = begun
        return lines

    def rest(self) -> list[tuple[bytes, bool]]:
        """Return the last line, which nobody has ended, once."""
        rest, self._begun = self._begun, b""
        return [(rest, False)] if rest else []


class RateLimit:
    """Admits so many a second; counts the others."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._since = clock()
        self._admitted = 0
        self._dropped = 0

    def admit(self, cost: int = 1) -> bool:
        """Tell whether one more may pass in this second; one that costs much counts as so many."""
        if self._clock() - self._since >= 1 and not self._dropped:
            self._since, self._admitted = self._clock(), 0
        if self._admitted >= self._per_second:
            self.drop()
            return False
        self._admitted += cost
        return True

    def drop(self) -> None:
        """Count one that may not pass, for another reason."""
        self._dropped += 1

    def seconds_to_report(self) -> float | None:
        """Return how long to wait until the dropped ones are reported; None when there are none."""
        return max(0.0, self._since + 1 - self._clock()) if self._dropped else None

    def take_dropped(self, *, now: bool) -> int:
        """Return how many were dropped, once their second is over, and begin the next one."""
        if not self._dropped or (not now and self._clock() - self._since < 1):
            return 0
        dropped, self._dropped = self._dropped, 0
        self._since, self._admitted = self._clock(), 0
        return dropped


class _Flood:
    """Tells when many lines begin to come, and when that is over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: deque[float] = deque(maxlen=_MANY_LINES)
        self._lines = 0
        """Of the flood that goes on; 0: there is none."""

    def begins(self) -> bool:
        """Count one line; tell whether with it they are many."""
        now = self._clock()
        self._times.append(now)
        if self._lines:
            self._lines += 1
            return False
        if len(self._times) < _MANY_LINES or now - self._times[0] > _MANY_SECONDS:
            return False
        self._lines = _MANY_LINES
        return True

    def seconds_to_look(self) -> float | None:
        """Return how long to wait until it may be over; None when there is none."""
        return max(0.0, self._times[-1] + _CALM_SECONDS - self._clock()) if self._lines else None

    def take_ended(self) -> int:
        """Return how many lines a flood had that is over, once; 0 otherwise."""
        if not self._lines or self._clock() - self._times[-1] < _CALM_SECONDS:
            return 0
        lines, self._lines = self._lines, 0
        return lines
