"""The door: which connections are let in, how many at a time, and which ones make room for others.

Nobody is kept out by connections that ask for nothing: where there is no room, the one goes that has never asked, or
has not asked for longest. A wall that polls is never that one.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from healthd.api.connection import DoorCounts
from healthd.clients import client_of
from healthd.process import file_limit
from healthd.settings import ServerSettings

log = structlog.get_logger(__name__)
HANDSHAKE_SECONDS = 10.0
"""How long a client may take to begin TLS."""
FLUSH_SECONDS = 7 * 86_400.0
"""When asyncio ends a TLS connection that was closed, with all that waits in it: never. `look` ends those, and sees
which clients are still taking what waits for them."""
KEPT_SECONDS = 2.0
"""A connection that has been answered makes no room for others so soon: a wall asks once a second."""
RESERVED_FILES = 256
"""For cameras, models, jobs and the log: connections take none of them."""
SHARE_TO_CUT = 16
"""Where one has to go, one of so many of those that may: looking for them is not worth it for each."""
SWEEP_SECONDS = 1.0
NO_FILES_SECONDS = 0.1
QUIET_SECONDS = 60.0
TLS_BUFFER_BYTES = 32_768
"""What asyncio has ready for what one connection sends; its own 256 KB each would be half a gigabyte for all."""
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Talk(Protocol):
    """What the door must know of the protocol of a connection."""

    lost: "asyncio.Future[None]"
    """Done when the connection is gone, whatever it has become meanwhile."""

    @property
    def has_asked(self) -> bool:
        """Whether a request was read to the end of its head."""

    @property
    def idle_since(self) -> float | None:
        """When it was answered last, on the clock of the loop; None: it is being answered."""

    def look(self, now: float) -> str | None:
        """End what is too slow; return why, if it did."""

    def cut(self) -> None:
        """Drop the connection."""


@dataclass(slots=True, eq=False)
class _Place:
    """One connection, from the moment it was accepted."""

    client: str
    since: float
    counts: bool
    """Whether the limit of its client holds for it."""
    talk: Talk | None = None
    opening: "asyncio.Task[None] | None" = None

    def rank(self, now: float) -> tuple[bool, float] | None:
        """Return how soon it has to go: the least first; None: it may stay."""
        if self.talk is None:
            return (False, self.since)
        since, asked = self.talk.idle_since, self.talk.has_asked
        if since is None or (asked and now - since < KEPT_SECONDS):
            return None
        return (asked, since)

    def cut(self) -> None:
        if self.talk is not None:
            self.talk.cut()
        elif self.opening is not None:
            self.opening.cancel()


class Door:
    """Accepts the connections of one listening socket. uvicorn takes it for a server of asyncio."""

    def __init__(
        self,
        bound: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        settings: ServerSettings,
        counts: DoorCounts,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`tls`: says what the next connection begins TLS with."""
        self.sockets = (bound,)
        self._bound = bound
        self._make = make
        self._most = max(16, min(settings.max_connections, file_limit() - RESERVED_FILES))
        self._most_of_one = settings.max_connections_per_client
        self._proxies = tuple(ipaddress.ip_network(text, strict=False) for text in settings.trusted_proxies)
        self._counts = counts
        self._tls = tls
        if tls is not None:
            sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        self._places: dict[_Place, None] = {}
        self._by_client: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._told_at = -QUIET_SECONDS
        self._closed = False
        self._accepting = self._loop.create_task(self._accept(), name="door")
        self._sweeping = self._loop.create_task(self._sweep(), name="door-sweep")

    def close(self) -> None:
        """Let nobody in any more; who is in, stays."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(ValueError, OSError):
                self._loop.remove_reader(self._bound.fileno())
            self._accepting.cancel()
            for place in tuple(self._places):
                if place.talk is None and self._tls is not None:  # what comes of it would not know that it must end
                    place.cut()
            if not self._places:
                self._sweeping.cancel()

    async def wait_closed(self) -> None:
        """Wait until nobody is let in any more."""
        await asyncio.wait({self._accepting})

    async def _accept(self) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(self._bound)
            except OSError as exc:
                if exc.errno in _NO_FILES:
                    self._make_room("files")
                    self._tell("files")
                    await asyncio.sleep(NO_FILES_SECONDS)
                elif self._bound.fileno() < 0:
                    return
                continue
            self._let_in(accepted, str(address[0]))
            await asyncio.sleep(0)  # those who are in have their turn, however many stand outside

    def _let_in(self, accepted: socket.socket, host: str) -> None:
        client = client_of(host)
        counts = not self._is_proxy(host)
        if counts and self._by_client[client] >= self._most_of_one and not self._make_room("client", client):
            self._turn_away(accepted, "client")
            return
        if len(self._places) >= self._most and not self._make_room("all"):
            self._turn_away(accepted, "all")
            return
        place = _Place(client, self._loop.time(), counts)
        self._places[place] = None
        self._counts.open += 1
        self._by_client[client] += counts
        place.opening = self._loop.create_task(self._open(place, accepted))

    async def _open(self, place: _Place, accepted: socket.socket) -> None:
        try:
            talk = await self._begin(accepted)
        except (OSError, asyncio.CancelledError) as exc:  # no TLS, too slow, gone, or cut
            accepted.close()
            self._leave(place)
            if isinstance(exc, TimeoutError | ConnectionAbortedError):
                self._counts.cut["handshake"] += 1
            return
        place.talk, place.opening = talk, None
        talk.lost.add_done_callback(lambda _: self._leave(place))

    async def _begin(self, accepted: socket.socket) -> Talk:
        seconds = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": FLUSH_SECONDS}
        options: dict[str, Any] = {"ssl": self._tls(), **seconds} if self._tls is not None else {}
        _, talk = await self._loop.connect_accepted_socket(self._make, accepted, **options)
        return talk  # type: ignore[return-value]  # whatever makes them, makes them for the door

    def _leave(self, place: _Place) -> None:
        if self._places.pop(place, self) is self:
            return
        self._counts.open -= 1
        self._by_client[place.client] -= place.counts
        if self._by_client[place.client] <= 0:
            del self._by_client[place.client]

    def _make_room(self, reason: str, client: str | None = None) -> bool:
        """Cut some that ask for nothing, of one client or of all; return whether there were any."""
        now = self._loop.time()
        ranked = [
            (rank, place)
            for place in self._places
            if client in {None, place.client} and (rank := place.rank(now)) is not None
        ]
        ranked.sort(key=lambda one: one[0])
        going = ranked[: 1 + len(ranked) // SHARE_TO_CUT]
        for _, place in going:
            place.cut()
            self._leave(place)
        self._counts.cut[reason] += len(going)
        return bool(going)

    def _turn_away(self, accepted: socket.socket, reason: str) -> None:
        accepted.close()
        self._counts.cut[f"{reason}_full"] += 1
        self._tell(f"{reason}_full")

    def _tell(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._told_at >= QUIET_SECONDS:
            self._told_at = now
            log.warning("connections_refused", reason=reason, open=len(self._places))

    async def _sweep(self) -> None:
        while not self._closed or self._places:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._loop.time()
            for place in tuple(self._places):
                reason = place.talk.look(now) if place.talk is not None else None
                if reason is not None:
                    self._counts.cut[reason] += 1

    def _is_proxy(self, host: str) -> bool:
        if not self._proxies:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._proxies)
