"""What the children of the tests do: answer, fail, crash, hang, print."""

import ctypes
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import structlog

from healthd.child_side import Parent
from healthd.errors import BusyError, CameraError
from healthd.redact import SourceUrl
from healthd.shared_images import Place, SharedMemory

IMPORTED_BY = os.getpid()


def answers(parent: Parent) -> None:
    memory = SharedMemory(parent.descriptors[0]) if parent.descriptors else None

    def handle(request: bytes) -> object:
        what, arg = msgspec.msgpack.decode(request)
        return _ANSWERS[what](arg, memory)

    parent.serve(handle)


def hang() -> None:
    """Hang in C, the GIL held, and hear no SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.PyDLL(None).sleep(1000)


def _speak(url: str, _: object) -> None:
    SourceUrl(url)
    structlog.get_logger("some.plugin").warning("camera_spoke", url=url)
    print("printed", url)
    os.write(2, f"FFmpeg says {url}\n".encode())


def _say_much(words: int, _: object) -> None:
    structlog.get_logger("some.plugin").warning("camera_spoke", text=" ".join(f"word {n}" for n in range(words)))


def _flood(lines: int, _: object) -> None:
    os.write(2, b"[h264] error while decoding MB 18 8\n" * lines)


def _log_without_end(_: object, __: object) -> None:
    """Fill the socket of the log from three processes, faster than anybody reads it."""
    (log,) = (
        end
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_socket()
        if (end := socket.socket(fileno=os.dup(int(entry.name)))).type == socket.SOCK_SEQPACKET
    )
    log.setblocking(True)
    for _ in range(3):
        if os.fork() == 0:
            while True:
                log.send(b'e{"event": "again"}')


def _fail(kind: str, _: object) -> None:
    raise {
        "camera": CameraError("no answer from rtsp://admin:hunter22@cam/1"),
        "busy": BusyError("no room", retry_after_seconds=7),
        "bug": KeyError("what"),
        "exit": SystemExit(3),
    }[kind]


def _fill(arg: list[Any], memory: SharedMemory | None) -> None:
    import numpy as np  # noqa: PLC0415

    place, (height, width), value = arg
    assert memory is not None
    memory.write(Place(*place), np.full((height, width, 3), value, np.uint8))


def _total(arg: list[Any], memory: SharedMemory | None) -> int:
    place, (height, width) = arg
    assert memory is not None
    return int(memory.image(Place(*place), height, width).sum())


_BACKGROUND = "setsid sleep 1000 >/dev/null & echo $!"
_DAEMON = "setsid sh -c 'sleep 1000 >/dev/null 2>&1 & echo $$ $!' &"
"""As daemons do: the leader of a session starts what stays, and ends."""
_ANSWERS: dict[str, Any] = {
    "echo": lambda arg, _: arg,
    "imported_by": lambda _, __: IMPORTED_BY,
    "fail": _fail,
    "flood": _flood,
    "log_without_end": _log_without_end,
    "segv": lambda _, __: ctypes.string_at(0),
    "abort": lambda _, __: os.abort(),
    "leave": lambda arg, _: os._exit(arg),
    "hang": lambda _, __: hang(),
    "speak": _speak,
    "say_much": _say_much,
    "start": lambda _, __: subprocess.Popen(["sleep", "1000"]).pid,
    "start_session": lambda _, __: subprocess.Popen(["sleep", "1000"], start_new_session=True).pid,
    "start_background": lambda _, __: int(subprocess.check_output(["sh", "-c", _BACKGROUND])),
    "start_daemon": lambda _, __: [int(pid) for pid in subprocess.check_output(["sh", "-c", _DAEMON]).split()],
    "fill": _fill,
    "total": _total,
    "descriptors": lambda _, __: len(list(Path("/proc/self/fd").iterdir())) - 1,
}
