"""What is printed while somebody else's code runs: to `sys.stdout` and `sys.stderr`, and below them.

C libraries and child processes write to the descriptors 1 and 2, Python to streams that may lead elsewhere. All of it
is kept, so that it can be told who printed it, and nothing of it gets between the lines of an answer or of the log.
"""

import contextlib
import ctypes
import io
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STREAMS = {"stdout": 1, "stderr": 2}
_MOST_BYTES = 64 * 1024
_UNSAFE_TAIL = 1024
"""Where a text was cut, half a secret may stand that nobody recognizes: so much of its end is not shown."""


class Printed:
    """While entered, keeps what anything in this process prints. Enter and leave it on one thread; one at a time.

    The log goes on (see `log_stream`). Who kept `sys.stdout` or `sys.stderr` of this time, such as a handler of
    `logging`, writes to descriptor 2 afterwards.
    """

    def __init__(self) -> None:
        self.replaced: list[str] = []
        """The streams that somebody replaced meanwhile; they are as before."""
        self.text = ""
        """What was printed; of more than 64 KiB the beginning. There after leaving."""
        self.cut = False
        self._scratch = -1
        self._kept: dict[str, int | None] = {}
        self._before: dict[str, TextIO | None] = {}
        self._caught: dict[str, _Caught] = {}
        self._true_stderr: TextIO | None = None

    def __enter__(self) -> Self:
        self._scratch = _scratch_file()
        for name, number in _STREAMS.items():
            self._before[name] = stream = getattr(sys, name)
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
            try:
                self._kept[name] = os.dup(number)
            except OSError:  # it was closed before Python began
                self._kept[name] = None
            self._caught[name] = _Caught(number)
        self._caught["stderr"].behind = self._stderr_of_the_log()
        for name, number in _STREAMS.items():
            os.dup2(self._scratch, number)
            setattr(sys, name, self._caught[name])
        return self

    def __exit__(self, *_: object) -> None:
        for name, number in _STREAMS.items():
            caught, kept = self._caught[name], self._kept[name]
            with contextlib.suppress(OSError, ValueError):
                caught.flush()
            if getattr(sys, name) is not caught:
                self.replaced.append(f"sys.{name}")
            setattr(sys, name, self._before[name])
            caught.raw.late = True
            if kept is None:
                os.close(number)
            else:
                os.dup2(kept, number)
                os.close(kept)
        if self._true_stderr is not None:
            self._true_stderr.close()
        found = os.pread(self._scratch, _MOST_BYTES + 1, 0)
        os.close(self._scratch)
        self.cut = len(found) > _MOST_BYTES
        self.text = found[: _MOST_BYTES - _UNSAFE_TAIL if self.cut else None].decode("utf-8", "backslashreplace")

    def _stderr_of_the_log(self) -> TextIO | None:
        """Return where the log goes on, if `sys.stderr` leads to descriptor 2."""
        before, kept = self._before["stderr"], self._kept["stderr"]
        try:
            if before is None or kept is None or before.fileno() != _STREAMS["stderr"]:
                return before
        except (OSError, ValueError):  # a stream in memory
            return before
        self._true_stderr = open(os.dup(kept), "w", buffering=1, encoding=before.encoding, errors="backslashreplace")  # noqa: SIM115, PTH123  closed on leaving
        return self._true_stderr


def log_stream() -> TextIO | None:
    """Return standard error for the log: where it leads to when nobody keeps what is printed."""
    stream = sys.stderr
    return stream.behind if isinstance(stream, _Caught) else stream


def flush_c_stdout() -> None:
    """Write what C's `printf` still holds back; waits for a thread that is inside of it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        library = ctypes.CDLL(None)
        library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))


class _Raw(io.RawIOBase):
    """Writes to a descriptor that it does not own; once `late`, to standard error, and never waits for a reader."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self.late = False

    def write(self, piece: "ReadableBuffer", /) -> int:
        data = bytes(piece)
        with contextlib.suppress(OSError):
            os.write(_STREAMS["stderr"] if self.late else self._number, data)
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number


class _Caught(io.TextIOWrapper):
    """Stands in for `sys.stdout` or `sys.stderr`; `behind`: where the log goes meanwhile."""

    def __init__(self, number: int) -> None:
        self.raw = _Raw(number)
        self.behind: TextIO | None = None
        raw: Any = self.raw  # it has no name, which TextIOWrapper takes
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True)


def _scratch_file() -> int:
    """Return a descriptor of a new file without a name."""
    make = getattr(os, "memfd_create", None)  # Linux
    if make is not None:
        return int(make("printed"))
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
