"""The certificate of the server: read, checked, and read again when its files change. Knows no HTTP."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from healthd.crew import Crew
from healthd.errors import SettingsError
from healthd.metrics import Sample

log = structlog.get_logger(__name__)
SOON_SECONDS = 14 * 86_400.0
"""A certificate that expires within so long is warned of, once a day."""
LOOK_SECONDS = 5.0
DAY_SECONDS = 86_400.0
_STATE = tuple[tuple[int, int, int], ...]
_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files in PEM form."""

    cert: Path
    key: Path

    @property
    def state(self) -> _STATE:
        """Something that differs when either file has changed, links to them included."""
        found = []
        for path in (self.cert, self.key):
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    def load(self) -> "Loaded":
        """Read them, into a context of their own: half of a new pair in one that is in use would help nobody.

        Raises:
            SettingsError: they cannot be used; says which and why, and nothing of what is in them.
        """
        for name, path in (("tls_cert", self.cert), ("tls_key", self.key)):
            try:
                path.open("rb").close()
            except OSError as exc:
                raise SettingsError(f"server.{name}: cannot read {path}: {exc.strerror or exc}") from None
        try:
            ends_at = _expiry(self.cert)
        except ValueError:
            raise SettingsError(f"server.tls_cert: there is no certificate in PEM form in {self.cert}") from None
        context = _context()
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        except ssl.SSLError as exc:
            raise SettingsError(f"server.tls_key: {_reason(exc)}: {self.key}") from None
        except _PasswordAskedError:
            told = "has a password, which would have to lie beside it: write it without one (openssl pkey)"
            raise SettingsError(f"server.tls_key: {self.key} {told}") from None
        return Loaded(context, ends_at)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate and its key, ready to be used."""

    context: ssl.SSLContext
    expires_at: float
    """When the certificate expires, in seconds since 1970."""


class Tls:
    """The TLS of the server. Lives as long as the daemon; event loop only.

    New connections get what was loaded last; open ones go on with what they began with.
    """

    def __init__(self, pair: Pair) -> None:
        """Load them.

        Raises:
            SettingsError: they cannot be used.
        """
        self._pair = pair
        self._state = pair.state
        self._warned_at = -DAY_SECONDS
        self._asked = asyncio.Event()
        self._loaded = pair.load()
        self.warn_if_due()

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection begins with."""
        return self._loaded.context

    @property
    def expires_in_seconds(self) -> float:
        """How long the certificate is still good; negative when it is not."""
        return self._loaded.expires_at - time.time()

    async def keep(self) -> None:
        """Look after them until cancelled: use what lies in the files, if it is something else; warn of what expires.

        What cannot be used changes nothing, is logged once, and is looked at again when it changes again. A disk that
        hangs holds up nobody.
        """
        crew = Crew("tls", threads=1)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            self._asked.clear()
            self.warn_if_due()
            state = await crew.run(lambda: self._pair.state)
            if state != self._state:
                self._state = state
                await self._reload(crew)

    def look_soon(self) -> None:
        """Let `keep` look now."""
        self._asked.set()

    async def _reload(self, crew: Crew) -> None:
        """Use what lies in the files now, if it can be used."""
        try:
            self._loaded = await crew.run(self._pair.load)
        except (SettingsError, OSError) as exc:  # the latter: gone since it was looked at
            log.warning("tls_reload_failed", reason=str(exc))
            return
        self._warned_at = -DAY_SECONDS
        log.info("tls_reloaded", expires=_date(self._loaded.expires_at))
        self.warn_if_due()

    def samples(self) -> Iterator[Sample]:
        """Give the value of the metric."""
        yield Sample("healthd_tls_certificate_expires_seconds", self.expires_in_seconds)

    def warn_if_due(self) -> None:
        """Warn of a certificate that expires soon, or has expired; once a day."""
        now = time.monotonic()
        if self.expires_in_seconds < SOON_SECONDS and now - self._warned_at >= DAY_SECONDS:
            self._warned_at = now
            log.warning("tls_certificate_expires", expires=_date(self._loaded.expires_at))


def expiry_hint(pair: Pair) -> str | None:
    """Say that a certificate has expired, or soon will; None: it is good.

    Raises:
        SettingsError: it cannot be used.
    """
    ends_at = pair.load().expires_at
    if ends_at - time.time() >= SOON_SECONDS:
        return None
    word = "has expired" if ends_at <= time.time() else "expires soon"
    return f"server.tls_cert: the certificate {word}: {_date(ends_at)}"


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class _PasswordAskedError(Exception):
    pass


def _no_password() -> str:
    """Be asked for the password of a key; without this, OpenSSL asks on the terminal."""
    raise _PasswordAskedError


def _reason(exc: ssl.SSLError) -> str:
    if exc.reason == "KEY_VALUES_MISMATCH":
        return "the key does not belong to the certificate"
    return f"cannot be used ({exc.reason or 'no private key in PEM form'})"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _expiry(cert: Path) -> float:
    """Return when the first certificate of a file expires, in seconds since 1970.

    Raises:
        ValueError: there is none.
    """
    pem = cert.read_text(encoding="latin-1")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in pem or end not in pem:
        raise ValueError
    first = pem[pem.index(begin) :].partition(end)[0] + end
    try:
        _, certificate, _ = _read_der(ssl.PEM_cert_to_DER_cert(first))
        _, rest, _ = _read_der(certificate)
        tag, _, after = _read_der(rest)
        for _ in range(3 if tag == _VERSION else 2):  # serial number, signature, issuer
            _, _, after = _read_der(after)
        _, validity, _ = _read_der(after)
        _, _, after = _read_der(validity)
        tag, text, _ = _read_der(after)
        known = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
        return datetime.strptime(text.decode("ascii"), known[tag]).replace(tzinfo=UTC).timestamp()
    except (IndexError, KeyError) as exc:
        raise ValueError from exc


def _read_der(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the tag and the content of the first element, and what follows it."""
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    if start + size > len(data):
        raise ValueError
    return data[0], data[start : start + size], data[start + size :]
