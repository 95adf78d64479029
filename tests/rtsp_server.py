"""A small RTSP camera for tests: one H.264 track over TCP or UDP, with all the bad manners of real ones.

Standard library only. It *produces* a picture every 1/fps seconds, whoever watches, and remembers when each was due, so
that a test can say how old a picture is that it was given. By hand:

    python tests/rtsp_server.py 8554 [--clip clip.h264] [--user NAME:PASSWORD] [--digest]

    SIGUSR1 toggles a stall (the socket stays open, no pictures), SIGUSR2 drops every client.
"""

import argparse
import base64
import hashlib
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

DEFAULT_CLIP = Path(__file__).parent / "data" / "counter.h264"
_NONCE, _REALM = "5ca1ab1e", "camera"
_PAYLOAD_BYTES = 1400
_HISTORY_SECONDS = 6


class AnnexB:
    """The access units of an H.264 file with one slice per picture, parameter sets included."""

    def __init__(self, path: Path) -> None:
        nals = [nal.rstrip(b"\0") for nal in path.read_bytes().split(b"\0\0\1") if nal.strip(b"\0")]
        self.sps = next(nal for nal in nals if nal[0] & 31 == 7)
        self.pps = next(nal for nal in nals if nal[0] & 31 == 8)
        self.units: list[list[bytes]] = []
        unit: list[bytes] = []
        for nal in nals:
            kind = nal[0] & 31
            if kind == 9:  # delimiters are not sent over RTP
                continue
            unit.append(nal)
            if kind in (1, 5):
                self.units.append(unit)
                unit = []
        self.keys = [any(nal[0] & 31 == 5 for nal in unit) for unit in self.units]


@dataclass
class Behaviour:
    """How the camera behaves; may be changed while it runs."""

    credentials: tuple[str, str] | None = None
    digest: bool = False
    black_hole: bool = False
    """Accept connections and never answer."""
    mute: bool = False
    """Answer everything, send no picture."""
    audio_only: bool = False
    announce_parameters: bool = True
    """Whether the SDP holds the parameter sets; many cameras send them only with the key pictures."""
    backlog_seconds: float | None = None
    """A new client is first given pictures at least so old, at once (0: from the last key picture); None: none."""
    from_any_picture: bool = False
    """A new client is first given pictures that it cannot decode: those that follow a key picture."""
    only_udp: bool = False
    loses_udp: bool = False
    """Take UDP and send nothing there, as through a firewall."""
    burst: int = 1
    """Send pictures in groups, as cameras on Wi-Fi do."""
    link_speed: float | None = None
    """How fast the link is, as a ratio to what the pictures need; below 1 it lags ever more."""
    clock_stops_in_stall: bool = False
    """Whether the timestamps go on after a stall as if nothing had happened."""
    spoil: Callable[[list[bytes]], list[bytes]] | None = None
    """Changes the NAL units of each picture before they are sent; a picture without any is not sent."""


@dataclass
class _Picture:
    index: int
    due: float
    timestamp: int


@dataclass(eq=False)
class _Client:
    connection: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)
    udp: tuple[socket.socket, tuple[str, int]] | None = None
    playing: bool = False
    gone: bool = False

    def reply(self, text: str) -> None:
        with self.lock:
            self.connection.sendall(text.encode())

    def send_rtp(self, packet: bytes) -> None:
        if self.udp is not None:
            self.udp[0].sendto(packet, self.udp[1])
            return
        with self.lock:
            self.connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)


class RtspServer:
    """The camera. Lives from `start` to `stop`; a context manager that does both."""

    def __init__(
        self,
        clip: Path = DEFAULT_CLIP,
        *,
        fps: float = 30,
        host: str = "127.0.0.1",
        port: int = 0,
        behaviour: Behaviour | None = None,
    ) -> None:
        self.clip = AnnexB(clip)
        self.fps = fps
        self.behaviour = behaviour or Behaviour()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(16)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        """Method and URI of every request so far."""
        self.transports: list[str] = []
        """`tcp` or `udp` for every track set up so far."""
        self._change = threading.Condition()
        now = time.monotonic()
        count = int(_HISTORY_SECONDS * fps)
        self._pictures = deque(
            (_Picture(i, now - (count - i) / fps, int(i * 90000 / fps)) for i in range(count)), maxlen=int(30 * fps)
        )
        self._clients: set[_Client] = set()
        self._running = True
        self._stalled = False
        self._held = False
        self._skip_ticks = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """URL with the right user and password, percent-encoded."""
        user_info = ""
        if self.behaviour.credentials:
            user_info = ":".join(quote(part, safe="") for part in self.behaviour.credentials) + "@"
        return f"rtsp://{user_info}127.0.0.1:{self.port}/cam"

    def url_of(self, path: str = "cam", *, user_info: str = "") -> str:
        """URL of another path or with other user info."""
        return f"rtsp://{user_info}{'@' if user_info else ''}127.0.0.1:{self.port}/{path}"

    def start(self) -> Self:
        for target in (self._produce, self._accept):
            threading.Thread(target=target, daemon=True, name=f"rtsp-{target.__name__}").start()
        return self

    def stop(self) -> None:
        """Die: drop every client and free the port."""
        with self._change:
            self._running = False
            self._change.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which would hold the port
        self._listener.close()
        self.drop_clients()

    def stall(self, *, stalled: bool = True) -> None:
        """Stop producing, or go on; the sockets stay open."""
        with self._change:
            self._stalled = stalled

    def hold(self, *, held: bool = True) -> None:
        """Stop sending what is produced, or send all of it at once: a network that was away."""
        with self._change:
            self._held = held
            self._change.notify_all()

    def jump_clock(self, seconds: float) -> None:
        """Let the timestamps jump, as a camera does that sets its clock."""
        with self._change:
            self._skip_ticks += int(seconds * 90000)

    def drop_clients(self) -> None:
        """Close every connection."""
        for client in list(self._clients):
            client.gone = True
            with suppress(OSError):
                client.connection.shutdown(socket.SHUT_RDWR)

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def age(self, number: int, at: float) -> float:
        """Return how old the picture with this number was at a monotonic time, in seconds: the youngest it can be."""
        with self._change:
            due = [picture.due for picture in self._pictures if picture.index % len(self.clip.units) == number]
        return at - max(moment for moment in due if moment <= at)

    def _produce(self) -> None:
        index = self._pictures[-1].index + 1
        timestamp = self._pictures[-1].timestamp
        last = due = time.monotonic()
        while self._running:
            due += 1 / self.fps
            time.sleep(max(0.0, due - time.monotonic()))
            if self._stalled:
                due = time.monotonic()
                continue
            lost = due - last - 1 / self.fps
            if lost > 1 / self.fps and not self.behaviour.clock_stops_in_stall:
                timestamp += int(lost * 90000)
            timestamp += int(90000 / self.fps)
            with self._change:
                timestamp += self._skip_ticks
                self._skip_ticks = 0
                self._pictures.append(_Picture(index, due, timestamp))
                self._change.notify_all()
            last, index = due, index + 1

    def _accept(self) -> None:
        while self._running:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(connection)
            self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True, name="rtsp-client").start()

    def _serve(self, client: _Client) -> None:
        try:
            for method, uri, headers in _requests(client.connection):
                self.requests.append(f"{method} {uri}")
                if self.behaviour.black_hole:
                    continue
                client.reply(self._answer(client, method, uri, headers))
                if method == "TEARDOWN":
                    return
                if method == "PLAY" and not client.playing:
                    client.playing = True
                    threading.Thread(target=self._pump, args=(client,), daemon=True, name="rtsp-pump").start()
        except OSError:
            return
        finally:
            client.gone = True
            self._clients.discard(client)
            client.connection.close()

    def _answer(self, client: _Client, method: str, uri: str, headers: dict[str, str]) -> str:
        status, extra, body = "200 OK", [], ""
        if method != "OPTIONS" and not self._authorised(method, headers.get("authorization", "")):
            status, extra = "401 Unauthorized", [f"WWW-Authenticate: {self._challenge()}"]
        elif method == "OPTIONS":
            extra = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"]
        elif method == "DESCRIBE" and uri.partition("?")[0].rstrip("/").rsplit("/", 1)[-1] != "cam":
            status = "404 Not Found"
        elif method == "DESCRIBE":
            extra, body = ["Content-Type: application/sdp", f"Content-Base: {uri.rstrip('/')}/"], self._sdp()
        elif method == "SETUP" and self.behaviour.only_udp and "TCP" in headers.get("transport", ""):
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            self.transports.append("tcp" if "TCP" in headers.get("transport", "") else "udp")
            extra = [f"Transport: {_set_up(client, headers.get('transport', ''))}", "Session: 1;timeout=60"]
        elif method == "PLAY":
            extra = ["Session: 1", "Range: npt=now-"]
        lines = [f"RTSP/1.0 {status}", f"CSeq: {headers.get('cseq', '0')}", *extra]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", body])

    def _challenge(self) -> str:
        return f'Digest realm="{_REALM}", nonce="{_NONCE}"' if self.behaviour.digest else f'Basic realm="{_REALM}"'

    def _authorised(self, method: str, authorization: str) -> bool:
        if self.behaviour.credentials is None:
            return True
        user, password = self.behaviour.credentials
        if not self.behaviour.digest:
            return authorization == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        given = dict(part.strip().partition("=")[::2] for part in authorization.removeprefix("Digest ").split(","))
        uri, response = given.get("uri", "").strip('"'), given.get("response", "").strip('"')
        return response == _md5(f"{_md5(f'{user}:{_REALM}:{password}')}:{_NONCE}:{_md5(f'{method}:{uri}')}")

    def _sdp(self) -> str:
        head = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0"]
        if self.behaviour.audio_only:
            return "\r\n".join([*head, "m=audio 0 RTP/AVP 0", "a=control:track0", ""])
        format_parameters = "packetization-mode=1"
        if self.behaviour.announce_parameters:
            sets = ",".join(base64.b64encode(nal).decode() for nal in (self.clip.sps, self.clip.pps))
            format_parameters += f";profile-level-id={self.clip.sps[1:4].hex()};sprop-parameter-sets={sets}"
        media = ["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000", f"a=fmtp:96 {format_parameters}"]
        return "\r\n".join([*head, *media, f"a=framerate:{self.fps:g}", "a=control:track0", ""])

    def _pump(self, client: _Client) -> None:
        sequence, index = 1, self._first_index()
        try:
            while not client.gone:
                picture = self._wait_for(index)
                if picture is None:
                    return
                unit = self.clip.units[picture.index % len(self.clip.units)]
                if self.behaviour.spoil is not None:
                    unit = self.behaviour.spoil(unit)
                for payload, last in _payloads(unit):
                    marker = 0x80 if last else 0
                    header = struct.pack(
                        ">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, picture.timestamp & 0xFFFFFFFF, 0xCAFE
                    )
                    if client.udp is None or not self.behaviour.loses_udp:
                        client.send_rtp(header + payload)
                    sequence += 1
                index += 1
                if self.behaviour.link_speed is not None:
                    time.sleep(1 / (self.fps * self.behaviour.link_speed))
        except OSError:
            client.gone = True
        finally:
            if client.udp is not None:
                client.udp[0].close()

    def _first_index(self) -> int:
        """Number of the first picture for a new client; it always begins with a key picture."""
        newest, keys = self._pictures[-1].index, self.clip.keys
        if self.behaviour.backlog_seconds is None:
            following = next(i for i in range(newest + 1, newest + 1 + len(keys)) if keys[i % len(keys)])
            return following + (1 if self.behaviour.from_any_picture else 0)
        oldest = self._pictures[0].index
        wanted = max(oldest, newest - round(self.behaviour.backlog_seconds * self.fps))
        return next(i for i in range(wanted, oldest - 1, -1) if keys[i % len(keys)])

    def _wait_for(self, index: int) -> _Picture | None:
        """Wait until a picture may be sent; None when the server stops."""
        group_end = index + (-index - 1) % self.behaviour.burst
        with self._change:
            self._change.wait_for(
                lambda: (
                    not self._running
                    or (self._pictures[-1].index >= group_end and not self._held and not self.behaviour.mute)
                )
            )
            return self._pictures[index - self._pictures[0].index] if self._running else None


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _set_up(client: _Client, transport: str) -> str:
    """Answer SETUP: TCP interleaved, or UDP to the port the client named."""
    if "TCP" in transport:
        return "RTP/AVP/TCP;unicast;interleaved=0-1"
    port = int(transport.partition("client_port=")[2].partition("-")[0])
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("127.0.0.1", 0))
    own = sender.getsockname()[1]
    client.udp = (sender, ("127.0.0.1", port))
    return f"RTP/AVP;unicast;client_port={port}-{port + 1};server_port={own}-{own + 1}"


def _requests(connection: socket.socket) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield method, URI and headers of each request; skip what the client sends interleaved."""
    buffer = b""
    while True:
        while buffer[:1] == b"$" and len(buffer) >= 4 and len(buffer) >= 4 + int.from_bytes(buffer[2:4], "big"):
            buffer = buffer[4 + int.from_bytes(buffer[2:4], "big") :]
        if buffer[:1] != b"$" and b"\r\n\r\n" in buffer:
            request, buffer = buffer.split(b"\r\n\r\n", 1)
            first, *lines = request.decode("latin-1").split("\r\n")
            method, uri = first.split()[:2]
            pairs = (line.partition(":") for line in lines)
            yield method, uri, {name.strip().lower(): value.strip() for name, _, value in pairs}
            continue
        received = connection.recv(65536)
        if not received:
            return
        buffer += received


def _payloads(unit: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Cut an access unit into RTP payloads (RFC 6184, FU-A for large ones); the last is marked."""
    for position, nal in enumerate(unit):
        last_nal = position == len(unit) - 1
        if len(nal) <= _PAYLOAD_BYTES:
            yield nal, last_nal
            continue
        head, body = nal[0], nal[1:]
        starts = range(0, len(body), _PAYLOAD_BYTES - 2)
        for start in starts:
            first, last = start == 0, start == starts[-1]
            flags = (0x80 if first else 0) | (0x40 if last else 0) | head & 31
            yield bytes([head & 0xE0 | 28, flags]) + body[start : start + _PAYLOAD_BYTES - 2], last_nal and last


def main() -> None:
    """Serve one clip until interrupted."""
    parser = argparse.ArgumentParser(description="A small RTSP camera for tests.")
    parser.add_argument("port", type=int)
    parser.add_argument("--clip", type=Path, default=DEFAULT_CLIP)
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--user", help="NAME:PASSWORD")
    parser.add_argument("--digest", action="store_true")
    arguments = parser.parse_args()
    credentials = tuple(arguments.user.split(":", 1)) if arguments.user else None
    behaviour = Behaviour(credentials=credentials, digest=arguments.digest)
    with RtspServer(arguments.clip, fps=arguments.fps, port=arguments.port, behaviour=behaviour) as server:
        stalled = threading.Event()

        def toggle_stall(*_: object) -> None:
            (stalled.clear if stalled.is_set() else stalled.set)()
            server.stall(stalled=stalled.is_set())

        signal.signal(signal.SIGUSR1, toggle_stall)
        signal.signal(signal.SIGUSR2, lambda *_: server.drop_clients())
        print("ready", server.url, flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
