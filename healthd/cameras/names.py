"""Looking up the host names of cameras, with a bound: the resolver of the system knows none."""

import os
import socket
import threading
from typing import TypeAlias

from healthd.errors import CameraError

LOOK_UP_SECONDS = 2.0

os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:3")
"""For glibc, wherever in this process it is asked: left to itself it waits five seconds before it asks again."""

Address: TypeAlias = tuple[int, int, int, str, tuple[str | int, ...]]
"""As `socket.getaddrinfo` gives it."""


class _LookUp:
    """One question to the resolver, on a thread that may be left behind; who asks the same meanwhile waits for it."""

    def __init__(self, host: str, port: int) -> None:
        self.found: list[Address] = []
        self.unanswered = False
        """The resolver itself has given up."""
        self._key = (host, port)
        self._thread = threading.Thread(target=self._ask, name="camera-resolver", daemon=True)

    def start(self) -> None:
        """Ask."""
        self._thread.start()

    def answered(self, seconds: float) -> bool:
        """Wait for the answer, good or bad; False when time ran out."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _ask(self) -> None:
        host, port = self._key
        try:
            self.found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))  # type: ignore[arg-type]
        except (OSError, UnicodeError) as exc:
            self.unanswered = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
        finally:
            with _lock:
                _asked.pop(self._key, None)


_asked: dict[tuple[str, int], _LookUp] = {}
_lock = threading.Lock()


def addresses(host: str, port: int, *, seconds: float = LOOK_UP_SECONDS) -> list[Address]:
    """Return the addresses of a host; blocking for so many seconds at most.

    Raises:
        CameraError: it is not known, or the name server does not answer. Until it does nobody asks it the same again.
    """
    with _lock:
        look_up = _asked.get((host, port))
        if look_up is None:
            look_up = _asked[host, port] = _LookUp(host, port)
            look_up.start()
    if not look_up.answered(seconds) or look_up.unanswered:
        raise CameraError(f"the host name {host} could not be looked up: the name server does not answer")
    if not look_up.found:
        raise CameraError(f"the host name {host} is not known")
    return look_up.found
