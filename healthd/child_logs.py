"""What children print and log, as events of the daemon's own log: scrubbed, with the name of whose child it is."""

import array
import contextlib
import fcntl
import json
import logging
import math
import os
import select
import socket
import termios
import threading
import time
from collections import Counter, deque
from typing import Any

import msgspec
import structlog

from healthd.child_events import LONGEST_EVENT, LONGEST_NAME
from healthd.log_ring import LEVELS
from healthd.native_log import LineLog, RateLimit
from healthd.redact import SCRUBBER

_CHUNK_BYTES = 64 * 1024
LAST_LINES = 20
MOST_SECRETS = 1000
"""Of one camera or model, all its processes together, for the life of the daemon: each of them makes every line of the
log a little slower to scrub, and none is ever forgotten."""
LONGEST_SECRET = 4096
"""Bytes, with what stands before and after it. A longer one is not hidden: its pattern has a thousand times that."""
EVENTS_PER_SECOND = 100
"""An event of more than a KiB counts as so many."""
_EOF_SECONDS = 0.3
_LINGER_SECONDS = 2.0
"""How long what a child left behind is heard after its end; what lives longer would keep two descriptors each."""
_CHILDREN = "healthd.children"
_OURS = frozenset({"timestamp", "level", "event", "logger", "exc_info", "stack_info"})


def current_level() -> str:
    """Return the level that the log has now, as a name."""
    return logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()


class ChildLog:
    """What one child prints into a pipe, and sends over the socket of its log."""

    def __init__(self, printed: int, logged: socket.socket, fields: dict[str, str], secrets: Counter[str]) -> None:
        """`secrets`: how many each camera or model has had hidden so far."""
        self.descriptor = printed
        self.socket = logged
        self.ended = threading.Event()
        self.until = math.inf
        """When to stop reading, whoever still holds the other ends."""
        self._fields = fields
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._secrets = secrets
        self._whose = " ".join(fields.values())
        self._limit = RateLimit(EVENTS_PER_SECOND, time.monotonic)
        self._lines = LineLog(structlog.get_logger("healthd.native").bind(**fields), kept=self._last)

    def last_output(self) -> tuple[str, ...]:
        """Return the last lines it printed, after a moment if it has only just ended."""
        self.ended.wait(_EOF_SECONDS)
        return tuple(self._last)

    def read_printed(self) -> bool:
        """Log what was printed; False at the end of it."""
        try:
            chunk = os.read(self.descriptor, _CHUNK_BYTES)
        except OSError:
            chunk = b""
        self.read_logged()  # it said which secrets it knows before it printed them
        self._lines.feed(chunk)
        if not chunk:
            self._lines.end()
        return bool(chunk)

    def read_logged(self) -> bool:
        """Log what was logged, as much as is there now; False at the end of it.

        No more than that: one that logs without end would keep the thread from all others.
        """
        left = _waiting_bytes(self.socket)
        while left >= 0:
            try:
                message = self.socket.recv(_CHUNK_BYTES * 4, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not message:
                return False
            left -= len(message)
            with contextlib.suppress(ValueError, TypeError, RecursionError, msgspec.MsgspecError):
                self._take(message[:1], message[1:])
        return True

    def seconds_to_report(self) -> float | None:
        """Return how long to wait until `report`, or until it is over; None when there is nothing to wait for."""
        left = None if self.until == math.inf else max(0.0, self.until - time.monotonic())
        waits = (left, self._limit.seconds_to_report(), self._lines.seconds_to_report())
        return min((wait for wait in waits if wait is not None), default=None)

    def report(self, *, last: bool = False) -> None:
        """Say how many events and lines were left out, where it is time to."""
        if dropped := self._limit.take_dropped(now=last):
            structlog.get_logger(__name__).warning("child_events_dropped", events=dropped, **self._fields)
        self._lines.feed(b"")

    def close(self) -> None:
        """Close both, after the last line, which nobody may have ended."""
        self._lines.end()
        self.report(last=True)
        os.close(self.descriptor)
        self.socket.close()
        self.ended.set()

    def _take(self, mark: bytes, body: bytes) -> None:
        if mark == b"s" and len(body) <= LONGEST_SECRET:
            self._hide(*msgspec.msgpack.decode(body, type=tuple[str, str, str]))
        elif mark == b"s" or len(body) > LONGEST_EVENT:
            self._limit.drop()
        elif mark == b"e" and self._limit.admit(1 + len(body) // 1024):
            event = json.loads(body)
            if isinstance(event, dict):
                self._log(event)

    def _hide(self, secret: str, before: str, after: str) -> None:
        if SCRUBBER.knows(secret, before=before, after=after):  # from the session before, most often
            return
        spent = self._secrets[self._whose]
        self._secrets[self._whose] += _cost(before + secret + after)
        if self._secrets[self._whose] <= MOST_SECRETS:
            SCRUBBER.register(secret, before=before, after=after)
        elif spent <= MOST_SECRETS:
            structlog.get_logger(__name__).warning("child_secrets_spent", secrets=MOST_SECRETS, **self._fields)

    def _log(self, event: dict[str, Any]) -> None:
        level = str(event.get("level"))
        rest = {key: value for key, value in event.items() if key not in _OURS and not key.startswith("_")}
        _logger(event.get("logger")).log(
            logging.getLevelName((level if level in LEVELS else "info").upper()),
            str(event.get("event", "")),
            **{**rest, **self._fields},
        )


def _logger(name: object) -> Any:
    """Return a logger of that name which nobody keeps: `logging` forgets none, and keeps one for each dot as well."""
    known = isinstance(name, str) and len(name) <= LONGEST_NAME
    logger = logging.Logger(str(name) if known else _CHILDREN)  # noqa: LOG001  that one would be kept
    logger.parent = logging.getLogger()
    return structlog.wrap_logger(logger)


def _cost(secret: str) -> int:
    """Return as how many secrets one counts: what is no letter has many spellings, each a part of its pattern."""
    return 1 + sum(not (char.isascii() and char.isalnum()) for char in secret) // 8


def _waiting_bytes(logged: socket.socket) -> int:
    number = array.array("i", [0])
    fcntl.ioctl(logged, termios.FIONREAD, number)
    return number[0]


def _close_left(readers: dict[int, ChildLog], waiting: select.poll) -> None:
    """Hear no more of those whose time is over."""
    for child in {child for child in readers.values() if child.until <= time.monotonic()}:
        for end in [end for end, one in readers.items() if one is child]:
            waiting.unregister(end)
            del readers[end]
        child.close()


class ChildLogs:
    """The thread that reads for all children of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: deque[ChildLog] = deque()
        self._secrets: Counter[str] = Counter()
        self._waking = -1

    def watch(self, printed: int, logged: socket.socket, fields: dict[str, str]) -> ChildLog:
        """Read these two, until the child that holds their other ends has ended; they are closed then."""
        child = ChildLog(printed, logged, fields, self._secrets)
        with self._lock:
            if self._waking < 0:
                self._waking = self._started()
            self._new.append(child)
            self._wake()
        return child

    def leave(self, child: ChildLog) -> None:
        """Say that the process has ended: what it left behind is heard for a moment, no longer."""
        with self._lock:
            child.until = min(child.until, time.monotonic() + _LINGER_SECONDS)
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._waking, b".")

    def _started(self) -> int:
        """Start the thread; return where it is woken."""
        woken, waking = os.pipe()
        os.set_blocking(waking, False)
        try:
            threading.Thread(target=self._read, args=(woken,), name="child-logs", daemon=True).start()
        except RuntimeError:  # no thread is left
            os.close(woken)
            os.close(waking)
            raise
        return waking

    def _read(self, woken: int) -> None:
        readers: dict[int, ChildLog] = {}
        waiting = select.poll()
        waiting.register(woken, select.POLLIN)
        while True:
            told = [seconds for child in set(readers.values()) if (seconds := child.seconds_to_report()) is not None]
            ready = waiting.poll(1000 * min(told) + 1 if told else None)
            for child in set(readers.values()) if told else ():
                child.report()
            for descriptor, _ in ready:
                if descriptor == woken:
                    os.read(woken, _CHUNK_BYTES)
                    while self._new:
                        new = self._new.popleft()
                        for end in (new.descriptor, new.socket.fileno()):
                            readers[end] = new
                            waiting.register(end, select.POLLIN)
                elif not self._pass_on(readers[descriptor], descriptor):
                    waiting.unregister(descriptor)
                    ended = readers.pop(descriptor)
                    if ended not in readers.values():
                        ended.close()
            _close_left(readers, waiting)

    def _pass_on(self, child: ChildLog, descriptor: int) -> bool:
        try:
            return child.read_printed() if descriptor == child.descriptor else child.read_logged()
        except Exception:  # noqa: BLE001  the others are still to be read
            structlog.get_logger(__name__).exception("child_log_bug")
            return False


CHILD_LOGS = ChildLogs()
"""That of this process."""
