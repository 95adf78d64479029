"""Whole messages over a socket between two processes, each with a bound in time; and errors, told by their kind.

What comes from a child is decoded into the type that was asked for, and never unpickled: a child that was taken over by
what its camera sent can say what it likes, and nothing is run for it.
"""

import contextlib
import re
import socket
import struct
import time
import traceback
from typing import Any, TypeVar

import msgspec

from healthd import errors
from healthd.redact import SCRUBBER

T = TypeVar("T")
MOST_BYTES = 64 * 1024 * 1024
LONGEST_TEXT, LONGEST_TRACEBACK = 20_000, 40_000
_HEADER = struct.Struct("<I")
_CHUNK_BYTES = 64 * 1024
_NAME = re.compile(r"[A-Za-z_]\w{0,99}")


class Gone(Exception):  # noqa: N818  it is no error of anybody
    """The other side has closed the channel, or has ended."""


class ChildBug(Exception):  # noqa: N818  what a child raised that nobody had sorted
    """An error that a child's code did not sort: a bug. A subclass has the name of what was raised."""


class Channel:
    """One end of a stream socket. One thread at a time sends and receives."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: bytes, *, timeout: float | None) -> None:
        """Send a message.

        Raises:
            TimeoutError: it was not taken within `timeout` seconds; what was sent of it cannot be taken back.
            Gone: nobody is there.
        """
        self._end.settimeout(timeout)
        with _gone_when_broken():
            self._end.sendall(_HEADER.pack(len(message)) + message)

    def receive(self, *, timeout: float | None) -> bytes:
        """Return the next message.

        Raises:
            TimeoutError: it did not come, or not all of it, within `timeout` seconds.
            Gone: nobody is there, or what it says is no message.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        begun = bytearray()
        while len(begun) < _HEADER.size:
            begun += self._some(_CHUNK_BYTES, deadline)
        size = _HEADER.unpack_from(begun)[0] + _HEADER.size
        if size > MOST_BYTES:
            raise Gone("it sent something that is no message")
        while len(begun) < size:
            begun += self._some(min(size - len(begun), MOST_BYTES), deadline)
        if len(begun) > size:
            raise Gone("it sent more than was asked for")
        return bytes(memoryview(begun)[_HEADER.size :])

    def close(self) -> None:
        """Close this end; the other one sees that nobody is there."""
        self._end.close()

    def _some(self, most: int, deadline: float | None) -> bytes:
        # A process that was stopped itself finds what came meanwhile: zero seconds still look.
        self._end.settimeout(None if deadline is None else max(0.0, deadline - time.monotonic()))
        with _gone_when_broken():
            try:
                some = self._end.recv(most)
            except BlockingIOError:
                raise TimeoutError from None
        if not some:
            raise Gone("it has closed the channel")
        return some


@contextlib.contextmanager
def _gone_when_broken() -> Any:
    try:
        yield
    except (ConnectionError, BrokenPipeError) as exc:
        raise Gone(type(exc).__name__) from None


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on its way to another process."""

    kind: str
    """Name of the class, in `healthd.errors`, or of whatever else was raised: a bug."""
    text: str
    sorted: bool = False
    """Whether it is one of `healthd.errors`."""
    traceback: str = ""
    retry_after_seconds: int = 1


def told(exc: BaseException) -> Failure:
    """Describe an error for the other side; secrets that this side knows are taken out."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  an error of a plugin that cannot even say what it is
        text = "its message cannot be read"
    text = SCRUBBER.scrub(text[:LONGEST_TEXT])
    kind = next((base for base in type(exc).__mro__ if getattr(errors, base.__name__, None) is base), None)
    if kind is not None:
        return Failure(kind.__name__, text, sorted=True, retry_after_seconds=getattr(exc, "retry_after_seconds", 1))
    written = "".join(traceback.format_exception(exc))[-LONGEST_TRACEBACK:]
    return Failure(type(exc).__name__, text, traceback=SCRUBBER.scrub(written))


def raised(failure: Failure) -> Exception:
    """Return the error that was told: one of ours as it was, another as a `ChildBug` that has its name."""
    kind = getattr(errors, failure.kind, None) if failure.sorted else None
    if isinstance(kind, type) and issubclass(kind, errors.HealthdError):
        if issubclass(kind, errors.BusyError):
            return kind(failure.text, retry_after_seconds=failure.retry_after_seconds)
        return kind(failure.text)
    name = failure.kind if _NAME.fullmatch(failure.kind) else ChildBug.__name__
    bug: Exception = type(name, (ChildBug,), {})(failure.text)
    if failure.traceback:
        bug.add_note(f"In the child process:\n{failure.traceback}")
    return bug


_OK, _FAILED = b"\0", b"\1"
_failures = msgspec.msgpack.Decoder(Failure)
_encoder = msgspec.msgpack.Encoder()


def packed(message: object) -> bytes:
    """Return a request as bytes."""
    return _encoder.encode(message)


def packed_reply(reply: object) -> bytes:
    """Return a reply as bytes."""
    return _OK + _encoder.encode(reply)


def packed_failure(exc: BaseException) -> bytes:
    """Return an error, in place of a reply, as bytes."""
    return _FAILED + _encoder.encode(told(exc))


def unpacked_reply(message: bytes, kind: type[T]) -> T:
    """Return the reply as what it must be, or raise the error that came in its place.

    Raises:
        Gone: it is neither.
    """
    mark, body = message[:1], memoryview(message)[1:]
    try:
        if mark == _OK:
            return msgspec.msgpack.decode(body, type=kind)
        if mark == _FAILED:
            failure = _failures.decode(body)
        else:
            raise Gone("it sent something that is no reply")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Gone(f"it sent something that is no reply: {type(exc).__name__}") from None
    raise raised(failure)
