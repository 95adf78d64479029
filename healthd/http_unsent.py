"""What a client has not taken yet of what it was sent: in our own buffers, those below TLS, and those of the kernel."""

import asyncio
import contextlib
import sys
from typing import Any

if sys.platform == "linux":
    import fcntl
    import termios

UNTAKEN_SECONDS = 15.0
"""A client that has taken nothing for so long of what waits for it is dropped."""
GOODBYE_SECONDS = 1.0
"""How long one that has taken everything may take to end TLS."""
_NEVER = -1


class Unsent:
    """Of one connection. Event loop only; lives as long as the connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """See through TLS: asyncio hands megabytes to the transport below it at once, and says that nothing waits.

        It also forgets whom it would have to abort when it is closed twice; the transport below does not.
        """
        tls: Any = getattr(transport, "_ssl_protocol", None)
        self._below: asyncio.WriteTransport = getattr(tls, "_transport", None) or transport
        self._socket = transport.get_extra_info("socket")
        self._seen = _NEVER
        self._seen_at = 0.0

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not. What TLS itself still holds waits for these, and does not count."""
        return self._below.get_write_buffer_size()

    @property
    def size(self) -> int:
        """Bytes that the client has not acknowledged."""
        return self.buffered + self._in_kernel()

    def is_stuck(self, now: float) -> bool:
        """Whether something waits, and the client takes nothing of it, as far as it was looked at."""
        return self._seconds(now) > UNTAKEN_SECONDS and self._seen > 0

    def is_over(self, now: float) -> bool:
        """Whether a connection that was closed has had the time to end."""
        return self._seconds(now) >= GOODBYE_SECONDS and self._seen == 0

    def forget(self) -> None:
        """Begin to look anew."""
        self._seen = _NEVER

    def _seconds(self, now: float) -> float:
        """Return for how long as much has been waiting as waits now."""
        size = self.size
        if size != self._seen:
            self._seen, self._seen_at = size, now
        return now - self._seen_at

    def drop(self) -> None:
        """End the connection, with what waits."""
        self._below.abort()

    def _in_kernel(self) -> int:
        """Return how much of it the kernel has: with large buffers, a slow client takes megabytes of those alone."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError, ValueError):  # it has been closed
                return int.from_bytes(fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return 0
