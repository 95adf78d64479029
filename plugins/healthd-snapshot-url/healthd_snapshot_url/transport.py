"""HTTP whose requests end in time and in size, whatever the other side does.

The timeouts of httpx are those of one operation of the socket: who sends a byte a second is never late. Here one budget
of seconds and bytes holds for all that a fetch does, from the connection to the last byte of the body.
"""

import time
from collections.abc import Iterable, Iterator
from ssl import SSLContext
from typing import Any

import httpcore
import httpx


class TooLong(Exception):  # noqa: N818  a state, not a mistake
    """The fetch has taken all its time."""


class TooMuch(Exception):  # noqa: N818  the same
    """The fetch has taken all its bytes."""


class Budget:
    """What one fetch may still take. Begun anew for each fetch; one thread at a time."""

    def __init__(self) -> None:
        self._until = 0.0
        self._bytes = 0

    def begin(self, *, until: float, most_bytes: int) -> None:
        """Allow a fetch that ends at `until`, in seconds of the monotonic clock, and reads so many bytes at most."""
        self._until, self._bytes = until, most_bytes

    def seconds(self) -> float:
        """Return how long it may go on.

        Raises:
            TooLong: no longer.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TooLong
        return left

    def take(self, size: int) -> None:
        """Note that so many bytes came.

        Raises:
            TooMuch: they are more than it may read.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise TooMuch


class BudgetTransport(httpx.BaseTransport):
    """One connection at a time, kept alive between fetches, that keeps to a budget.

    Raises what httpcore raises, `TooLong` and `TooMuch`.
    """

    def __init__(self, budget: Budget, context: SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_connections=1, network_backend=_Backend(budget, httpcore.SyncBackend())
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the answer is still to be read."""
        assert isinstance(request.stream, httpx.SyncByteStream)  # noqa: S101  a synchronous client makes no other
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
        assert isinstance(answer.stream, Iterable)  # noqa: S101  the same
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream, answer))

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes], answer: httpcore.Response) -> None:
        self._stream = stream
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._answer.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, budget: Budget, backend: httpcore.NetworkBackend) -> None:
        self._budget = budget
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the budget decides
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._backend.connect_tcp(host, port, self._budget.seconds(), local_address, socket_options)
        return _Stream(self._budget, stream)


class _Stream(httpcore.NetworkStream):
    def __init__(self, budget: Budget, stream: httpcore.NetworkStream) -> None:
        self._budget = budget
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  the budget decides
        data = self._stream.read(max_bytes, self._budget.seconds())
        self._budget.take(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  the budget decides
        self._stream.write(buffer, self._budget.seconds())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  the budget decides
    ) -> httpcore.NetworkStream:
        return _Stream(self._budget, self._stream.start_tls(ssl_context, server_hostname, self._budget.seconds()))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
