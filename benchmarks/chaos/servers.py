"""Cameras as processes of their own, which can be killed, stopped and told to misbehave.

`python -m benchmarks.chaos.servers KIND [OPTIONS as JSON]` serves until its standard input ends, and dies with whoever
has started it. KIND is `rtsp`, `mjpeg`, `names`, which is a name server, or `closing`, which closes each connection at
once. It says its port in one line, and takes orders, a line each: `stall 1`, `stall 0`, `drop`, `do NAME` (of
`manners.py`), `do` (as it should be), `answer ADDRESS`, `answer` (not at all).
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from benchmarks.chaos import manners
from tests.mjpeg_server import MjpegBehaviour, MjpegServer
from tests.rtsp_server import DEFAULT_CLIP, Behaviour, RtspServer

ROOT = Path(__file__).parent.parent.parent
PR_SET_PDEATHSIG = 1


class Camera:
    """One such process, from `start` (or the beginning of a block) to `kill` (or its end). May be started again."""

    def __init__(self, kind: str = "rtsp", *, port: int = 0, **options: Any) -> None:
        self.kind = kind
        self.port = port
        self.options = options
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where it is."""
        return self.url_at(self.options.get("host", "127.0.0.1"))

    def url_at(self, host: str) -> str:
        """Where it is, by another name."""
        path = "rtsp://{}:{}/cam" if self.kind == "rtsp" else "http://{}:{}/video"
        return path.format(host, self.port)

    def start(self, **options: Any) -> Self:
        """Start it, on the port that it had before; `options` replace some of what it had."""
        self.options |= options
        told = json.dumps({**self.options, "port": self.port})
        command = [sys.executable, "-m", "benchmarks.chaos.servers", self.kind, told]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self._said()
        if not line:
            raise RuntimeError(f"no {self.kind} server on port {self.port}")
        self.port = int(line)
        return self

    def tell(self, order: str) -> None:
        """Give an order; returns when it is obeyed."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        self._said()

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def _said(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, also while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        raise SystemExit(1)


class _Names:
    """A name server for one address: `answer ADDRESS` is what it says of every name, `answer` that it says nothing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self.address = "127.0.0.1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if self.address:
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        """Answer one question (RFC 1035): an address for type A, nothing for the others."""
        end = question.index(b"\0", 12) + 5
        found = question[end - 4 : end - 2] == b"\0\1"
        head = question[:2] + b"\x81\x80" + b"\0\1" + (b"\0\1" if found else b"\0\0") + bytes(4)
        record = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton(self.address)
        return head + question[12:end] + (record if found else b"")


class _Closing:
    """Takes connections and closes them at once."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.close()


def _orders(server: object) -> dict[str, Callable[[str], object]]:
    """Return what may be ordered of a server."""
    if isinstance(server, RtspServer):
        return {
            "stall": lambda how: server.stall(stalled=how == "1"),
            "drop": lambda _: server.drop_clients(),
            "do": lambda name: setattr(server.behaviour, "spoil", manners.spoiler(name)),
        }
    if isinstance(server, MjpegServer):
        return {
            "stall": lambda how: setattr(server.behaviour, "stalled", how == "1"),
            "do": lambda name: setattr(server.behaviour, "part", manners.part_maker(name)),
        }
    if isinstance(server, _Names):
        return {"answer": lambda address: setattr(server, "address", address)}
    return {}


def main() -> None:
    """Serve until standard input ends."""
    die_with_parent()
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    with contextlib.ExitStack() as stack:
        server: RtspServer | MjpegServer | _Names | _Closing
        if kind == "rtsp":
            behaviour = Behaviour(
                announce_parameters=options.get("announce_parameters", True),
                black_hole=options.get("black_hole", False),
                spoil=manners.spoiler(options.get("do", "")),
            )
            server = stack.enter_context(
                RtspServer(
                    Path(options.get("clip", DEFAULT_CLIP)),
                    fps=options.get("fps", 15),
                    host=options.get("host", "127.0.0.1"),
                    port=options["port"],
                    behaviour=behaviour,
                )
            )
        elif kind == "mjpeg":
            server = stack.enter_context(
                MjpegServer(
                    MjpegBehaviour(fps=options.get("fps", 15), part=manners.part_maker(options.get("do", ""))),
                    port=options["port"],
                )
            )
        elif kind == "names":
            server = _Names(options["port"])
        else:
            server = _Closing(options["port"])
        orders = _orders(server)
        print(server.port, flush=True)
        for line in sys.stdin:
            what, _, how = line.strip().partition(" ")
            print(orders[what](how), flush=True)


if __name__ == "__main__":
    main()
