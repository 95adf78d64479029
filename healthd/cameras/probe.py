"""Why a camera could not be opened: OpenCV says only that it could not.

Everything here is blocking, bounded to about three seconds, and speaks to people: no reason contains a user name, a
password or a query, nor text that the other side chose.
"""

import base64
import fcntl
import hashlib
import os
import re
import secrets
import socket
import ssl
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from healthd.cameras.names import addresses
from healthd.errors import CameraError, SettingsError
from healthd.redact import SourceUrl

PROBE_SECONDS = 3.0
"""How long finding out may take; a name server that does not answer may add two."""

_CONNECT_SECONDS = 2.0

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_SCHEMES = ", ".join(f"{scheme}://" for scheme in _PORTS)
_TLS = ("rtsps", "https")
_VIDEO_TYPES = re.compile(r"multipart/|image/|video/|application/(octet|ogg|mp4|x-)|$")
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')
_LONGEST_ANSWER_BYTES = 65536
_VIDIOC_QUERYCAP = 0x80685600
_V4L2_CAP_VIDEO_CAPTURE = 0x1 | 0x1000  # single- and multi-planar
_V4L2_CAP_DEVICE_CAPS = 0x80000000


class SourceKind(StrEnum):
    """What a camera's URL names."""

    RTSP = "rtsp"
    HTTP = "http"
    DEVICE = "device"
    FILE = "file"


def kind_of(url: SourceUrl) -> SourceKind:
    """Tell what a URL names, by its text alone.

    Raises:
        SettingsError: nothing that can be opened.
    """
    if url.path is not None:
        device = url.path.isdecimal() or re.match("/dev/(?!shm/)", url.path)
        return SourceKind.DEVICE if device else SourceKind.FILE
    if url.scheme == "file":
        return SourceKind.FILE
    if url.scheme not in _PORTS:
        raise SettingsError(f"{url.scheme}:// cannot be opened: use {_SCHEMES}, a device or a file")
    if url.ambiguous or not _split(url).hostname:
        raise SettingsError("it is not certain which part of the URL is the host: percent-encode user and password")
    return SourceKind.RTSP if url.scheme.startswith("rtsp") else SourceKind.HTTP


def file_path(url: SourceUrl) -> Path:
    """Return the path of a file, given as a path or as `file://`."""
    return Path(url.path if url.path is not None else unquote(_split(url).path)).expanduser()


def device_path(url: SourceUrl) -> Path:
    """Return the path of a device, given by number or path."""
    text = url.path or ""
    return Path(f"/dev/video{text}" if text.isdecimal() else text)


def why_not_open(url: SourceUrl, *, waited_seconds: float, limit_seconds: float = PROBE_SECONDS) -> str:
    """Find out why an attempt to open that took `waited_seconds` failed; blocking, about `limit_seconds` at most."""
    kind = kind_of(url)
    try:
        if kind is SourceKind.FILE:
            return _why_not_file(file_path(url), shown=str(url))
        if kind is SourceKind.DEVICE:
            return _why_not_device(device_path(url))
        return _why_not_network(url, kind, waited_seconds, time.monotonic() + limit_seconds)
    except CameraError as exc:
        return str(exc)


def _split(url: SourceUrl) -> SplitResult:
    try:
        parts = urlsplit(url.reveal())
        _ = parts.port
    except ValueError:
        raise SettingsError("the URL cannot be read: host or port is malformed") from None
    return parts


# Files and devices


def _why_not_file(path: Path, *, shown: str) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"the file {shown} does not exist"
    except OSError as exc:
        return f"the file {shown} cannot be read: {os.strerror(exc.errno or 0)}"
    if stat.S_ISDIR(status.st_mode):
        return f"{shown} is a directory, not a video"
    if not os.access(path, os.R_OK):
        return f"the file {shown} may not be read by this user"
    if status.st_size == 0 and stat.S_ISREG(status.st_mode):
        return f"the file {shown} is empty"
    return f"the file {shown} is not a video that can be read"


def _why_not_device(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return f"the device {path} does not exist: unplugged, or not passed into the container"
    except PermissionError:
        return f"the device {path} may not be used by this user: it mostly has to be in the group `video`"
    except OSError as exc:
        return f"the device {path} cannot be opened: {os.strerror(exc.errno or 0)}"
    try:
        answer = fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, bytes(104))
    except OSError:
        return f"{path} is not a video device"
    finally:
        os.close(descriptor)
    capabilities, of_this_node = struct.unpack_from("=II", answer, 84)
    own = of_this_node if capabilities & _V4L2_CAP_DEVICE_CAPS else capabilities
    if not own & _V4L2_CAP_VIDEO_CAPTURE:
        return f"{path} delivers no pictures: a camera often has several nodes, try the one before"
    return f"the device {path} is used by another program, or delivers no format that can be read"


# The network


def look_up(url: SourceUrl, *, seconds: float) -> None:
    """Look the host of a camera up, before somebody does who knows no bound; nothing to do for files and devices.

    Blocking for so many seconds at most.

    Raises:
        CameraError: it is not known, or the name server does not answer.
    """
    if kind_of(url) in {SourceKind.RTSP, SourceKind.HTTP}:
        parts = _split(url)
        addresses(parts.hostname or "", parts.port or _PORTS[parts.scheme.lower()], seconds=seconds)


class _Answer(NamedTuple):
    """The answer of a camera to one request."""

    status: int
    challenges: tuple[str, ...]
    content_type: str
    body: str


def _why_not_network(url: SourceUrl, kind: SourceKind, waited_seconds: float, deadline: float) -> str:
    parts = _split(url)
    answer = _ask(parts, kind, deadline, authorization=None)
    if answer.status == HTTPStatus.UNAUTHORIZED and parts.username is not None:
        authorization = _authorization(answer.challenges, parts, kind)
        if authorization is None:
            return "the camera wants a way to sign in that is not known here (401)"
        answer = _ask(parts, kind, deadline, authorization=authorization)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return "the camera refuses the user name or password (401)"
    if answer.status != HTTPStatus.OK:
        return _why_status(answer.status)
    return _why_not_video(answer, kind, waited_seconds)


def _why_status(status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return "the camera wants a user name and a password (401)"
    if status == HTTPStatus.FORBIDDEN:
        return "the camera forbids access to this stream (403)"
    if status == HTTPStatus.NOT_FOUND:
        return "no such stream on the camera (404): check the path of the URL"
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"the camera redirects to another address ({status}), and no video could be opened there"
    return f"the camera answers with an error ({status})"


def _why_not_video(answer: _Answer, kind: SourceKind, waited_seconds: float) -> str:
    if kind is SourceKind.RTSP and not re.search(r"^m=video\b", answer.body, re.MULTILINE):
        return "not a video: the stream has no video track"
    if kind is SourceKind.HTTP and not _VIDEO_TYPES.match(answer.content_type):
        plain = re.fullmatch(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}", answer.content_type)
        return f"not a video: the camera answers with {answer.content_type if plain else 'something else'}"
    if kind is SourceKind.RTSP and waited_seconds < 1:
        return "the camera answers, but does not send this stream: try the other `transport`"
    return f"the camera answers, but no picture could be opened within {waited_seconds:.1f} s"


def _ask(parts: SplitResult, kind: SourceKind, deadline: float, *, authorization: str | None) -> _Answer:
    """Send one request on a connection of its own and read the answer's head, and its body for RTSP."""
    with _connected(parts, deadline) as connection:
        connection.sendall(_request(parts, kind, authorization))
        with suppress(TimeoutError):
            return _receive(connection, kind, deadline)
    raise CameraError("the camera accepts the connection but does not answer")


def _request(parts: SplitResult, kind: SourceKind, authorization: str | None) -> bytes:
    host = parts.netloc.rpartition("@")[2]
    lines = [f"GET {_target(parts, kind)} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if kind is SourceKind.RTSP:
        lines = [f"DESCRIBE {_target(parts, kind)} RTSP/1.0", "CSeq: 1", "Accept: application/sdp"]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    return "\r\n".join([*lines, "User-Agent: healthd", "", ""]).encode()


def _target(parts: SplitResult, kind: SourceKind) -> str:
    """Return what is asked for, without user info; it goes to the camera alone."""
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    if kind is SourceKind.HTTP:
        return target or "/"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{target}"


def _receive(connection: socket.socket, kind: SourceKind, deadline: float) -> _Answer:
    received = b""
    while b"\r\n\r\n" not in received and (more := _some(connection, deadline, received)):
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = re.match(r"(?:RTSP|HTTP)/\d\.\d (\d{3})\b", first)
    if not received:
        raise CameraError("the camera closes the connection without an answer")
    if status is None or first[:4] != kind.name:
        raise CameraError(f"what listens there does not speak {kind.name}")
    pairs = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    headers = dict(pairs)
    length = headers.get("content-length", "0")
    wanted = int(length) if kind is SourceKind.RTSP and length.isdecimal() else 0
    while len(body) < wanted and (more := _some(connection, deadline, body)):
        body += more
    challenges = tuple(value for name, value in pairs if name == "www-authenticate")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return _Answer(int(status[1]), challenges, content_type, body.decode("latin-1"))


def _some(connection: socket.socket, deadline: float, so_far: bytes) -> bytes:
    """Receive what is there; nothing at the end, or when it gets too long."""
    connection.settimeout(max(0.05, deadline - time.monotonic()))
    return connection.recv(4096) if len(so_far) < _LONGEST_ANSWER_BYTES else b""


@contextmanager
def _connected(parts: SplitResult, deadline: float) -> Iterator[socket.socket]:
    """Connect to the camera, with TLS where the URL says so: unverified, as the driver does; cameras sign their own."""
    host = parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme.lower()]
    connection = _connect(host, port, deadline)
    try:
        if parts.scheme.lower() in _TLS:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection = context.wrap_socket(connection, server_hostname=host)
        yield connection
    except ssl.SSLError:
        raise CameraError(f"what listens on port {port} does not speak TLS") from None
    except TimeoutError:
        raise CameraError("the camera accepts the connection but does not answer") from None
    except OSError as exc:
        raise CameraError(f"the connection broke: {os.strerror(exc.errno or 0)}") from None
    finally:
        connection.close()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    reason = f"{host} does not answer in time"
    for family, kind, protocol, _, address in addresses(host, port):
        remaining = min(_CONNECT_SECONDS, deadline - time.monotonic())
        if remaining <= 0:
            break
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(remaining)
        try:
            connection.connect(address)
        except ConnectionRefusedError:
            reason = f"connection refused: nothing listens on port {port} of {host}"
        except TimeoutError:
            reason = f"{host} does not answer on port {port}: timed out"
        except OSError as exc:
            reason = f"{host} cannot be reached: {os.strerror(exc.errno or 0)}"
        else:
            return connection
        connection.close()
    raise CameraError(reason)


# Signing in


def _authorization(challenges: tuple[str, ...], parts: SplitResult, kind: SourceKind) -> str | None:
    """Answer a challenge, Digest rather than Basic; None when neither is offered."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    for challenge in challenges:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "digest":
            method = "DESCRIBE" if kind is SourceKind.RTSP else "GET"
            return _digest(rest, user, password, method=method, uri=_target(parts, kind))
    if any(challenge.lower().startswith("basic") for challenge in challenges):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return None


def _digest(challenge: str, user: str, password: str, *, method: str, uri: str) -> str:
    """Answer a Digest challenge (RFC 7616, MD5 and SHA-256, with or without `qop`)."""
    given = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(challenge)}
    name = given.get("algorithm", "MD5")

    def digest(*fields: str) -> str:
        text = ":".join(fields).encode()
        return (hashlib.sha256(text) if name.upper().startswith("SHA-256") else hashlib.md5(text)).hexdigest()  # noqa: S324

    realm, nonce = given.get("realm", ""), given.get("nonce", "")
    secret, what = digest(user, realm, password), digest(method, uri)
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": uri}
    extra = f", algorithm={name}" if "algorithm" in given else ""
    if "auth" in given.get("qop", "").replace(" ", "").split(","):
        client_nonce = secrets.token_hex(8)
        fields |= {"cnonce": client_nonce, "response": digest(secret, nonce, "00000001", client_nonce, "auth", what)}
        extra += ", qop=auth, nc=00000001"
    else:
        fields["response"] = digest(secret, nonce, what)
    if "opaque" in given:
        fields["opaque"] = given["opaque"]
    return "Digest " + ", ".join(f'{key}="{value}"' for key, value in fields.items()) + extra
