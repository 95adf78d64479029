"""A small camera on a real socket, which answers what a test tells it to, byte for byte."""

import base64
import hashlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
import pytest

Answer: TypeAlias = bytes | Iterator[bytes]
"""What is sent: at once, or piece by piece. The connection is kept alive if it ends."""


@dataclass
class Request:
    """What the camera was asked."""

    path: str
    headers: dict[str, str]
    connection: int


@dataclass
class TinyCamera:
    """Answers each request with what `answers` returns for it, given its number from 1."""

    answers: Callable[[int, Request], Answer | None] = lambda number, _: TinyCamera.answer(TinyCamera.jpeg(number))
    """None: the connection is closed without an answer."""
    tls: ssl.SSLContext | None = None
    login: tuple[str, str, str] | None = None
    """Scheme, user and password."""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    refused: int = 0
    hang_up: bytes = b""
    """As the last piece of an answer: the connection is closed after it."""

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.open: set[socket.socket] = set()
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/capture"
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def jpeg(number: int = 1) -> bytes:
        """A JPEG that differs from every other number's."""
        image = np.full((48, 64, 3), number * 40 % 250, np.uint8)
        ok, data = cv2.imencode(".jpg", image)
        assert ok
        return bytes(data)

    @staticmethod
    def answer(
        body: bytes, status: str = "200 OK", *, kind: str = "image/jpeg", length: int | None = None, **headers: str
    ) -> bytes:
        """An answer of HTTP with its body."""
        said = {"Content-Type": kind, "Content-Length": str(len(body) if length is None else length)}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body

    @staticmethod
    def drip(data: bytes, *, pause: float) -> Iterator[bytes]:
        """Send byte by byte."""
        for at in range(len(data)):
            yield data[at : at + 1]
            time.sleep(pause)

    @staticmethod
    def endless(head: bytes) -> Iterator[bytes]:
        """Never end."""
        yield head
        while True:
            yield bytes(65_536)

    def close(self) -> None:
        """Stop to answer, on every connection."""
        for one in [self._listening, *self.open]:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.open.add(connection)
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            while (head := self._head(connection)) and self._answer(connection, head, number):
                pass
        except OSError:
            return
        finally:
            self.open.discard(connection)
            connection.close()

    def _head(self, connection: socket.socket) -> str | None:
        """Read one request, which has no body."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = connection.recv(4096)
            data += more
            if data.startswith(b"\x16"):  # somebody speaks TLS
                connection.sendall(self.answer(b"", "400 Bad Request"))
                return None
            if not more:
                return None
        return data.decode()

    def _answer(self, connection: socket.socket, head: str, number: int) -> bool:
        """Answer one request; False: the connection is over."""
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        request = Request(first.split()[1], headers, number)
        if not self._let_in(request):
            self.refused += 1
            connection.sendall(self._challenge())
            return True
        self.requests.append(request)
        said = self.answers(len(self.requests), request)
        for piece in [said] if isinstance(said, bytes) else said or [b""]:
            connection.sendall(piece)
            if not piece:
                return False
        return True

    def _challenge(self) -> bytes:
        assert self.login is not None
        nonce = ', nonce="abc", qop="auth"' if self.login[0] == "Digest" else ""
        return self.answer(
            b"who?", "401 Unauthorized", kind="text/plain", WWW_Authenticate=f'{self.login[0]} realm="cam"{nonce}'
        )

    def _let_in(self, request: Request) -> bool:
        if self.login is None:
            return True
        scheme, user, password = self.login
        given = request.headers.get("authorization", "")
        if scheme == "Basic":
            return given == f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
        said = dict(re.findall(r'(\w+)="?([^",]*)"?', given))
        if said.get("username") != user:
            return False
        one, two = (
            hashlib.md5(text.encode()).hexdigest() for text in (f"{user}:cam:{password}", f"GET:{request.path}")
        )
        whole = f"{one}:abc:{said['nc']}:{said['cnonce']}:auth:{two}"
        return said["response"] == hashlib.md5(whole.encode()).hexdigest()


@pytest.fixture
def camera() -> Iterator[TinyCamera]:
    """A camera that delivers a new picture each time, until a test tells it otherwise."""
    one = TinyCamera()
    yield one
    one.close()
