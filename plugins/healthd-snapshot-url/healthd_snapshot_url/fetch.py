"""Fetches one picture after another from one address, and says in words for people why there is none.

No reason holds a user name, a password or a query, nor text that the camera chose.
"""

import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn, Self

import httpcore
import httpx

from healthd.errors import CameraError, SettingsError
from healthd.frames import JpegImage
from healthd.redact import SourceUrl
from healthd_snapshot_url import __version__
from healthd_snapshot_url.transport import Budget, BudgetTransport, TooLong, TooMuch

MOST_REDIRECTS = 3
_HEAD_BYTES = 200_000
"""What the heads of all answers of one fetch may take beside the picture."""
_HEADERS = {
    "User-Agent": f"healthd-snapshot-url/{__version__}",
    "Accept": "image/jpeg, image/*;q=0.5",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",
}
_REDIRECTS = {301, 302, 303, 307, 308}


class Flawed(CameraError):  # noqa: N818  the camera is well
    """One answer was cut short or broken; the next may be whole."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A new picture."""

    image: JpegImage
    age_seconds: float
    """How old it was when it was sent, as far as the headers of its server tell; 0 where they tell nothing."""


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server said of a picture, so that it can be asked for a newer one."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the conditions of the next request."""
        given = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in given.items() if value is not None}


class Login(httpx.Auth):
    """Basic or Digest, whichever the camera asks for; from the second request on without being asked."""

    def __init__(self, user: str, password: str) -> None:
        self._basic = httpx.BasicAuth(user, password)
        self._digest = httpx.DigestAuth(user, password)
        self._chosen: httpx.Auth | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Answer the camera's question."""
        if self._chosen is None:
            response = yield request
            offered = " ".join(response.headers.get_list("www-authenticate")).lower()
            if response.status_code != 401 or not offered:
                return
            self._chosen = self._digest if "digest" in offered else self._basic
        try:
            yield from self._chosen.auth_flow(request)
        except (KeyError, NotImplementedError):
            raise httpx.ProtocolError("this kind of Digest is not spoken") from None


class Fetcher:
    """One connection to one camera. A context manager: lives as long as a session."""

    def __init__(self, url: SourceUrl, *, verify_tls: bool, max_bytes: int, validators: Validators) -> None:
        self.validators = validators
        """Of the newest picture; may be those of an earlier session."""
        self._url, self._login = _address(url)
        self._host, self._port = self._url.host, self._url.port or {"https": 443}.get(self._url.scheme, 80)
        self._max_bytes = max_bytes
        self._budget = Budget()
        self._client = httpx.Client(
            transport=BudgetTransport(self._budget, httpx.create_ssl_context(verify=verify_tls)),
            auth=self._login,
            headers=_HEADERS,
            trust_env=False,  # a camera is in the house: no proxy stands between
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, until: float) -> Fetched | None:
        """Return the picture, or None: the camera says that it has not changed. Blocking.

        `until`: when it must be there, in seconds of the monotonic clock; only a slow name server makes it later.

        Raises:
            Flawed: this answer was cut short or is no whole JPEG.
            CameraError: the camera cannot be reached, refuses, or sends something else.
            SettingsError: it will not pass: no such user, or the address of an endless stream.
        """
        begun = time.monotonic()
        self._budget.begin(until=until, most_bytes=self._max_bytes + _HEAD_BYTES)
        try:
            return self._follow()
        except httpcore.ConnectTimeout:
            raise CameraError(f"{self._host} does not answer on port {self._port}: timed out") from None
        except (TooLong, httpcore.TimeoutException):
            waited = time.monotonic() - begun
            raise CameraError(f"the camera has not sent a whole picture within {waited:.1f} s") from None
        except TooMuch:
            self._refuse_size()
        except httpcore.ConnectError as exc:
            raise CameraError(self._why_not_connected(exc)) from None
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            raise Flawed("the camera closed the connection before its picture was complete, or sent no HTTP") from None
        except httpx.HTTPError:
            raise CameraError(
                "the camera asks for a user name and a password in a way that is not understood"
            ) from None

    def _follow(self) -> Fetched | None:
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            request = self._client.build_request("GET", url, headers=self.validators.headers())
            with _Closing(self._client.send(request, stream=True)) as answer:
                if answer.status_code not in _REDIRECTS:
                    return self._read(answer)
                _pass_over(answer)
                url = self._next(url, answer)
        raise CameraError(f"the camera redirects more than {MOST_REDIRECTS} times")

    def _next(self, url: httpx.URL, answer: httpx.Response) -> httpx.URL:
        """Return where a redirect leads, if it stays with the camera: it is sent the password."""
        target = url.join(answer.headers.get("location", "")).copy_with(userinfo=b"", fragment=None)
        if target.host != url.host or target.scheme not in {url.scheme, "https"}:
            raise CameraError(
                "the camera redirects to another host, which is not followed: set the address of the picture itself"
            )
        return target

    def _read(self, answer: httpx.Response) -> Fetched | None:
        """Read the body of an answer that is no redirect."""
        if answer.status_code == 304 and self.validators.headers():
            _pass_over(answer)
            return None
        self._refuse_status(answer.status_code)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            raise SettingsError(
                "url: this is an endless MJPEG stream, not a single picture: set the camera's address for snapshots, or"
                " use a plugin that opens streams, such as `yolo-detect`"
            )
        if kind == "text/html":
            raise CameraError("the camera sent a web page, not a JPEG: check the path of the URL, log in to it once")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise CameraError("the camera sent a compressed answer, though it was asked not to")
        if int(answer.headers.get("content-length", "0")) > self._max_bytes:
            self._refuse_size()
        data = b"".join(answer.iter_raw())
        if len(data) > self._max_bytes:
            self._refuse_size()
        try:
            image = JpegImage(data)
        except CameraError as exc:
            raise Flawed(str(exc)) from None
        self.validators = Validators(answer.headers.get("etag"), answer.headers.get("last-modified"))
        return Fetched(image, age_seconds(answer.headers))

    def _refuse_status(self, status: int) -> None:
        match status:
            case 200:
                return
            case 401 if self._login is None:
                raise SettingsError("url: the camera wants a user name and a password (401): put them into the URL")
            case 401 | 403:
                raise SettingsError(f"url: the camera refuses the user name or password ({status})")
            case 404 | 410:
                raise CameraError(f"the camera has no such picture ({status}): check the path of the URL")
            case 429 | 503:
                raise CameraError(f"the camera is too busy ({status}): ask it less often (`interval_seconds`)")
            case _:
                raise CameraError(f"the camera answered with status {status}")

    def _refuse_size(self) -> NoReturn:
        raise CameraError(f"the camera sends more than {self._max_bytes:,} bytes (`max_bytes`)")

    def _why_not_connected(self, exc: httpcore.ConnectError) -> str:
        host, port = self._host, self._port
        causes = [exc.__cause__, exc.__context__]
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
            return (
                "the camera's certificate is not trusted: set `verify_tls = false`, or name its authority's file in"
                " the environment variable SSL_CERT_FILE"
            )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return f"{host} does not speak TLS on port {port} as it should: is it `http://`?"
        if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
            return f"connection refused: nothing listens on port {port} of {host}"
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return f"the host name {host} is not known"
        return f"{host} cannot be reached on port {port}"


class _Closing:
    """Closes an answer; what is left of it is not read."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    def __enter__(self) -> httpx.Response:
        return self._answer

    def __exit__(self, *_: object) -> None:
        self._answer.close()


def _pass_over(answer: httpx.Response) -> None:
    """Read a body that nobody wants, so that the connection can be used again."""
    for _ in answer.iter_raw():
        pass


def age_seconds(headers: httpx.Headers) -> float:
    """Return how old a picture was when it was sent: by its server's own clock, and by the caches in between."""
    sent, modified = _time(headers.get("date")), _time(headers.get("last-modified"))
    made_before = (sent - modified).total_seconds() if sent is not None and modified is not None else 0.0
    cached = headers.get("age", "")
    return max(0.0, made_before) + (float(cached) if cached.isdecimal() else 0.0)


def _time(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None


def _address(url: SourceUrl) -> tuple[httpx.URL, Login | None]:
    if url.scheme not in {"http", "https"}:
        raise SettingsError("url: a snapshot camera needs `http://` or `https://`, e.g. `http://esp32.lan/capture`")
    if url.ambiguous:
        raise SettingsError("url: it is not certain which part is the host: percent-encode user and password")
    try:
        whole = httpx.URL(url.reveal())
    except (httpx.InvalidURL, ValueError):
        raise SettingsError("url: it cannot be read: host or port is malformed") from None
    login = Login(whole.username, whole.password) if whole.userinfo else None
    return whole.copy_with(userinfo=b"", fragment=None), login
