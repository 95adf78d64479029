"""The other end of `children.Child`: what runs in a child before, between and after the calls of its parent."""

import contextlib
import faulthandler
import importlib
import io
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import msgspec

from healthd.channel import Channel, Gone, packed_failure, packed_reply
from healthd.child_events import fitted
from healthd.logs import configure_logging
from healthd.nursery import call_process
from healthd.redact import SCRUBBER

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDOUT, _STDERR = 1, 2
OOM_SCORE, MOST_OOM_SCORE = 200, 1000
"""So many thousandths of the memory a child counts more than it holds; and the most that the kernel takes."""
TELL_SECONDS = 1.0
"""How long a secret waits for room in the socket of the log. After that it is not told: what C libraries print of it is
not hidden then, what Python logs still is."""
SECRET, EVENT = b"s", b"e"
"""How what goes over the socket of the log begins: a secret to hide from now on, or an event as JSON."""


class Closing(BaseException):
    """SIGTERM came: leave what is open, and end. Raised wherever the child is; no error of anybody."""


class Parent:
    """Who drives this child. Lives as long as the child; belongs to its main thread."""

    def __init__(self, name: str, channel: Channel, descriptors: list[int]) -> None:
        self.name = name
        self.descriptors = descriptors
        """What the parent gave it; for it to close."""
        self._channel = channel

    def serve(self, handle: Callable[[bytes], object]) -> None:
        """Answer each request with what `handle` returns or raises, until the parent closes the channel or is gone."""
        serve(self._channel, handle)


def serve(channel: Channel, handle: Callable[[bytes], object]) -> None:
    """Answer each request that comes over a channel, as `Parent.serve`; on any thread."""
    while True:
        try:
            request = channel.receive(timeout=None)
        except Gone:
            return
        try:
            answer = packed_reply(handle(request))
        except Closing:
            raise
        except BaseException as exc:  # noqa: BLE001  SystemExit from a plugin, too, is for the parent to judge
            answer = packed_failure(_raised_by_a_call(exc))
        try:
            channel.send(answer, timeout=None)
        except Gone:
            return


def run(said: dict[str, Any], descriptors: list[int]) -> None:
    """Run the entry that was ordered, with everything a child is surrounded by. Returns when it is to end."""
    channel, printing, logging_, *extra = descriptors
    call_process(said["name"])
    _go_first()
    _print_to(printing)
    _log_to(socket.socket(fileno=logging_), said["level"])
    signal.signal(signal.SIGTERM, _close)
    module, _, function = said["entry"].partition(":")
    with contextlib.suppress(Closing):
        entry = getattr(importlib.import_module(module), function)
        entry(Parent(said["name"], Channel(socket.socket(fileno=channel)), extra))


def _raised_by_a_call(exc: BaseException) -> BaseException:
    """Return an error as a worker of the daemon raises it: what would end a thread or a generator is a bug."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    error = RuntimeError(f"{type(exc).__name__} raised by a blocking call")
    error.__cause__ = exc
    return error


def _close(*_: object) -> NoReturn:
    raise Closing


def _go_first() -> None:
    """When memory runs out, rather be killed than the daemon."""
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(MOST_OOM_SCORE, int(score.read_text()) + OOM_SCORE)))


def _print_to(pipe: int) -> None:
    """Let all that Python and C libraries print go into a pipe that nobody waits for."""
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(pipe, descriptor)
    os.close(pipe)
    sys.stdout = sys.__stdout__ = _lossy(_STDOUT)  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = _lossy(_STDERR)  # type: ignore[misc,assignment]
    faulthandler.enable(_STDERR)


def _log_to(log: socket.socket, level: str) -> None:
    """Let every event, and every secret that this process gets to know, go to the parent."""
    outlet = _Outlet(log)
    SCRUBBER.watch(outlet.tell)
    lines = io.TextIOWrapper(_Lines(outlet), encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[type-var]
    configure_logging(level, "json", lines)  # type: ignore[arg-type]  # a name of a level, from the parent


class _Outlet:
    """The socket of the log. Nobody waits for the room of an event; a secret does, and events leave it theirs."""

    def __init__(self, log: socket.socket) -> None:
        log.setblocking(False)
        self._log = log
        self._telling = False

    def send(self, line: bytes) -> None:
        """Send an event. What does not fit is lost, and what is said while a secret waits."""
        if not self._telling:
            with contextlib.suppress(OSError):  # too much at a time, or nobody reads it any more
                self._log.send(EVENT + fitted(line))

    def tell(self, secret: tuple[str, str, str]) -> None:
        """Send a secret; return when it lies in the socket, or after `TELL_SECONDS`. One at a time."""
        message = SECRET + msgspec.msgpack.encode(secret)
        deadline = time.monotonic() + TELL_SECONDS
        room = select.poll()
        room.register(self._log, select.POLLOUT)
        self._telling = True
        try:
            while not self._has_sent(message) and (left := deadline - time.monotonic()) > 0:
                room.poll(left * 1000)
        except OSError:  # nobody reads it any more
            return
        finally:
            self._telling = False

    def _has_sent(self, message: bytes) -> bool:
        try:
            self._log.send(message)
        except BlockingIOError:
            return False
        return True


class _Lines(io.RawIOBase):
    """Sends each line of the log as a message of its own; what does not fit is lost."""

    def __init__(self, outlet: _Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._begun = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: "ReadableBuffer", /) -> int:
        data = bytes(piece)
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._outlet.send(line)
        return len(data)


class _Lossy(io.RawIOBase):
    """Writes what there is room for."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, piece: "ReadableBuffer", /) -> int:
        data = bytes(piece)
        with contextlib.suppress(OSError):
            os.write(self._descriptor, data)
        return len(data)


def _lossy(descriptor: int) -> TextIO:
    return io.TextIOWrapper(_Lossy(descriptor), encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[type-var]
