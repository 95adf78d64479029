"""A small HTTP camera for tests: Motion JPEG as `multipart/x-mixed-replace`, with its bad manners.

The pictures carry their number (see `clips.py`). Paths: `/video` is the stream, `/page` an HTML page, else 404.
"""

import base64
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import cv2

from tests.clips import numbered_picture

_NONCE, _REALM = "5ca1ab1e", "camera"


@dataclass
class MjpegBehaviour:
    """How the camera behaves; may be changed while it runs."""

    fps: float = 25
    credentials: tuple[str, str] | None = None
    digest: bool = False
    held: bool = False
    """Do not send what is produced; afterwards all of it at once."""
    stalled: bool = False
    """Produce nothing; the socket stays open."""
    dead: bool = False
    """Close every connection."""
    part: Callable[[bytes], Iterable[bytes]] | None = None
    """Makes of a JPEG what is sent of it, piece by piece; None: a part as it should be."""


class MjpegServer:
    """The camera; a context manager that starts and stops it."""

    def __init__(self, behaviour: MjpegBehaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or MjpegBehaviour()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._http.daemon_threads = True
        self._http.camera = self  # type: ignore[attr-defined]
        self.port = self._http.server_port
        self.pictures: deque[tuple[int, float, bytes]] = deque(maxlen=600)
        self.change = threading.Condition()
        self.running = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        threading.Thread(target=self._produce, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        with self.change:
            self.change.notify_all()
        self._http.shutdown()
        self._http.server_close()

    def url_of(self, path: str = "video", *, user_info: str = "") -> str:
        """URL of a path with user info as given."""
        return f"http://{user_info}{'@' if user_info else ''}127.0.0.1:{self.port}/{path}"

    def age(self, number: int, at: float) -> float:
        """Return how old the picture with this number was at a monotonic time, in seconds."""
        with self.change:
            due = [moment for index, moment, _ in self.pictures if index % 1024 == number]
        return at - max(moment for moment in due if moment <= at)

    def _produce(self) -> None:
        number, due = 0, time.monotonic()
        while self.running:
            due = max(due + 1 / self.behaviour.fps, time.monotonic() - 0.5)
            time.sleep(max(0.0, due - time.monotonic()))
            if self.behaviour.stalled:
                continue
            jpeg = cv2.imencode(".jpg", numbered_picture(number % 1024))[1].tobytes()
            with self.change:
                self.pictures.append((number, time.monotonic(), jpeg))
                self.change.notify_all()
            number += 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        camera: MjpegServer = self.server.camera  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        if not _authorised(camera.behaviour, self.headers.get("Authorization", "")):
            challenge = f'Digest realm="{_REALM}", nonce="{_NONCE}", qop="auth"'
            self._send(401, {"WWW-Authenticate": challenge if camera.behaviour.digest else f'Basic realm="{_REALM}"'})
        elif path == "/page":
            self._send(200, {"Content-Type": "text/html"}, b"<html><body>camera</body></html>")
        elif path == "/video":
            self._stream(camera)
        else:
            self._send(404, {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, camera: MjpegServer) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        sent = camera.pictures[-1][0] if camera.pictures else -1
        try:
            while camera.running and not camera.behaviour.dead:
                with camera.change:
                    camera.change.wait(0.2)
                    news = [] if camera.behaviour.held else [p for p in camera.pictures if p[0] > sent]
                for number, _, jpeg in news:
                    for piece in (camera.behaviour.part or plain_part)(jpeg):
                        self.wfile.write(piece)
                    sent = number
        except OSError:
            return


def plain_part(jpeg: bytes) -> Iterable[bytes]:
    """One part as it should be."""
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return (head.encode() + jpeg + b"\r\n",)


def _authorised(behaviour: MjpegBehaviour, authorization: str) -> bool:
    if behaviour.credentials is None:
        return True
    user, password = behaviour.credentials
    if not behaviour.digest:
        return authorization == "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    parts = authorization.removeprefix("Digest ").split(",")
    given = {name.strip(): value.strip().strip('"') for name, _, value in (part.partition("=") for part in parts)}
    names = ("uri", "response", "nc", "cnonce", "qop")
    uri, response, count, client_nonce, quality = (given.get(name, "") for name in names)
    secret, what = _md5(f"{user}:{_REALM}:{password}"), _md5(f"GET:{uri}")
    return response == _md5(f"{secret}:{_NONCE}:{count}:{client_nonce}:{quality}:{what}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
