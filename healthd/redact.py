"""Secret types: values that work, and that show nothing of themselves.

`SourceUrl` is the address of a camera, `Secret` any other secret text. Whatever turns one of them into text (`str`,
`repr`, `format`, JSON, a log line, a traceback) gets the redacted form; `reveal()` alone gives the truth. Both register
themselves with `SCRUBBER`, which takes the same secrets out of texts that others write.
"""

import base64
import hmac
import re
from dataclasses import dataclass
from typing import Any, NoReturn, Self
from urllib.parse import quote, unquote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from healthd.scrubber import MASK, SCRUBBER, SHORTEST_PART, Scrubber, is_telling, percent_encode
from healthd.utf8 import is_utf8

__all__ = [
    "MASK",
    "SCRUBBER",
    "Scrubber",
    "Secret",
    "SourceUrl",
    "hide_urls",
    "is_telling",
    "percent_encode",
    "user_info_span",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_URL = re.compile(rf"{_SCHEME.pattern}\S+")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Za-z:.%_~-]+\]|[\w.~-]+)(?::(?P<port>\d{1,5}))?(?=[/?#]|$)")
_USER_INFO_SAFE = "-._~!$&'()*+,;=:%"
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_A_PATH = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]|%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PATH_PASSWORD = re.compile(r"(?:pass(?:word|wd)?|pwd|pw|token|key|secret)=(.+?)(?=[&/;?#]|_[a-z]+=|$)", re.IGNORECASE)
_PLAIN_QUERY_WORDS = frozenset(
    ["true", "false", "none", "auto", "high", "main", "live", "unicast", "multicast", "video", "audio", "stream"]
) | frozenset(["rtsp", "http", "https", "h264", "h265", "hevc", "mjpeg", "jpeg"])


@dataclass(frozen=True, slots=True, repr=False)
class _Parts:
    """What a URL consists of. `host` is None where it is not certain which part is the host."""

    scheme: str | None = None
    user_info: str | None = None
    host: str | None = None
    port: int | None = None
    tail: str = ""


def _authority(rest: str, start: int) -> re.Match[str] | None:
    """Return the host and port that stand at `start`, if something stands there that can be nothing else."""
    match = _AUTHORITY.match(rest, start)
    return match if match and int(match["port"] or 0) <= 0xFFFF else None


def _split(raw: str) -> _Parts:
    """Take a URL apart, also one with a raw password, where there is exactly one way to read it."""
    scheme = _SCHEME.match(raw)
    if scheme is None:
        return _Parts()
    name, rest = scheme[1], raw[scheme.end() :]
    if name.lower() == "file" and rest.startswith("/"):
        return _Parts(scheme=name, host="", tail=rest)
    readings = [(at, match) for at in _at_signs(rest) if (match := _authority(rest, at + 1))]
    bare = _authority(rest, 0)
    if bare:
        readings.append((-1, bare))
    last = rest.rfind("@")
    readings = [(at, match) for at, match in readings if not _NOT_IN_A_PATH.search(rest[match.end() : last + 1])]
    if len(readings) != 1 or "@" in rest[readings[0][1].end() :]:
        return _Parts(scheme=name)
    at, match = readings[0]
    return _Parts(
        scheme=name,
        user_info=rest[:at] if at >= 0 else None,
        host=match["host"],
        port=int(match["port"]) if match["port"] else None,
        tail=rest[match.end() :],
    )


def user_info_span(url: str) -> tuple[int, int]:
    """Return where the user info of a URL begins and ends; an empty span where it has none.

    Of an unclear URL, the part that belongs to the user info in every way to read it.
    """
    parts, start = _split(url), url.find("://") + 3
    if parts.scheme is None:
        return (0, 0)
    if parts.host is not None:
        return (start, start + len(parts.user_info or ""))
    certain = re.match(r"[^@/?#]*(?=@)", url[start:])
    return (start, start + certain.end()) if certain else (0, 0)


def _at_signs(text: str) -> list[int]:
    return [at for at, char in enumerate(text) if char == "@"]


def _encode_user_info(user_info: str) -> str:
    """Percent-encode what may not stand in user info; what is encoded already stays as it is."""
    return quote(_LONE_PERCENT.sub("%25", user_info), safe=_USER_INFO_SAFE)


def _register_user_info(scrubber: Scrubber, user_info: str) -> None:
    """Hide one user info: all of it, the password, and what HTTP makes of it."""
    user, colon, password = user_info.partition(":")
    if colon:
        scrubber.register(user_info)
        if len(password) >= SHORTEST_PART:
            scrubber.register(password)
        else:
            scrubber.register(password, before=":", after="@")
        scrubber.register(base64.b64encode(unquote(user_info).encode("utf-8", "surrogatepass")).decode())
    elif len(user) > SHORTEST_PART:  # a lone user name is often a token
        scrubber.register(user)


def _register_query(scrubber: Scrubber, query: str) -> None:
    """Hide the values of a query; one too short or too common to be hidden alone, after its key."""
    for pair in re.split(r"[&;?#]", query):
        key, equals, value = pair.partition("=")
        if not equals:
            key, value = "", pair
        if value.lower() not in _PLAIN_QUERY_WORDS:
            scrubber.register(value)
        scrubber.register(value, before=f"{key}{equals}")


def _register(scrubber: Scrubber, raw: str, parts: _Parts) -> None:
    """Hide every part of the URL that a text must not contain; of an unclear URL, every way to read it."""
    if parts.scheme is None and not _is_doubtful(raw):
        return
    rest = raw.partition("://")[2] if parts.scheme else raw
    user_infos = [parts.user_info] if parts.host is not None else [rest[:at] for at in _at_signs(rest)]
    for user_info in user_infos:
        _register_user_info(scrubber, user_info or "")
    query = re.search(r"[?#](.*)", parts.tail if parts.host is not None else rest, re.DOTALL)
    if query:
        _register_query(scrubber, query[1])
    for value in _PATH_PASSWORD.findall(rest):
        scrubber.register(value)


def hide_urls(text: str) -> None:
    """Hide what is certainly secret in the URLs that a free text holds: user info, and what a query calls a secret."""
    for url in [text] if _SCHEME.match(text) else [match[0] for match in _URL.finditer(text)]:
        parts, rest = _split(url), url.partition("://")[2]
        for user_info in [parts.user_info or ""] if parts.host is not None else [rest[:at] for at in _at_signs(rest)]:
            if parts.host is not None or ":" in user_info:
                _register_user_info(SCRUBBER, user_info)
        for key, equals, value in (pair.partition("=") for pair in re.split(r"[?&;#]", rest)[1:]):
            if equals and is_telling(key):
                SCRUBBER.register(value)
        for value in _PATH_PASSWORD.findall(rest):
            SCRUBBER.register(value)


def _is_doubtful(path: str) -> bool:
    """Tell whether what should be a path looks like a URL, or holds one."""
    return bool("://" in path or re.search(r":.*@|\?.*=", path, re.DOTALL) or _PATH_PASSWORD.search(path))


def _shown(raw: str, parts: _Parts) -> str:
    """Return the redacted form."""
    if parts.scheme is None:
        return MASK if _is_doubtful(raw) else raw
    if parts.host is None:
        return f"{parts.scheme}://{MASK}"
    user_info = f"{MASK}@" if parts.user_info is not None else ""
    port = f":{parts.port}" if parts.port is not None else ""
    path, mark, _ = _cut(parts.tail)
    if "=" in path:  # some recorders take user and password as a part of the path
        path = f"/{MASK}"
    return f"{parts.scheme}://{user_info}{parts.host}{port}{path}{mark}{MASK if mark else ''}"


def _cut(tail: str) -> tuple[str, str, str]:
    """Split what follows the host into path, the `?` or `#` that ends it, and the rest."""
    match = re.search(r"[?#]", tail)
    return (tail[: match.start()], match[0], tail[match.end() :]) if match else (tail, "", "")


def _refuse(reason: str) -> NoReturn:
    """Raise the validation error of a secret field. It never holds the input, as pydantic's own would."""
    error = PydanticCustomError("secret_value", "{reason}", {"reason": reason})
    raise ValidationError.from_exception_data("secret", [{"type": error, "input": MASK}])


class _Hidden:
    """A text that shows only its redacted form. Immutable; equal and hashed by the true text; pickled with it."""

    __slots__ = ("_shown", "_true")
    _true: str
    _shown: str

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def __format__(self, format_spec: str) -> str:
        return format(self._shown, format_spec)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Hidden) and self._true == other._true

    def __hash__(self) -> int:
        return hash((type(self), self._true))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._true,)

    def _set(self, true: str, *, shown: str) -> None:
        object.__setattr__(self, "_true", true)
        object.__setattr__(self, "_shown", shown)

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            _refuse("must be text")
        try:
            return cls(value)  # type: ignore[call-arg]
        except ValueError as exc:
            reason = str(exc)
        _refuse(reason)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take text (or the type itself), give the redacted form to JSON."""
        del source, handler
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the field as text that goes in and never comes out."""
        del schema, handler
        return {"type": "string", "writeOnly": True}


class SourceUrl(_Hidden):
    """The address of a camera: a URL, a path (`clips/a.mp4`, `/dev/video0`) or the number of a device (`0`).

    Shown as `rtsp://***@host:554/path?***`. A raw password (`p@ss/word`) is understood where there is one way to read
    it; otherwise nothing but the scheme is shown and the URL goes to the driver as it was written.

    Raises ValueError, without the value, on an empty text, on control characters, and on bytes that are not UTF-8
    (a name of a file may have them), of which OpenCV crashes.
    """

    __slots__ = ("_parts",)
    _parts: _Parts

    def __init__(self, url: str) -> None:
        raw = url.strip()
        if not raw:
            raise ValueError("a URL must not be empty")
        if _CONTROL.search(raw):
            raise ValueError("a URL must not contain control characters")
        if not is_utf8(raw):
            raise ValueError("a URL must be UTF-8; a file whose name is something else has to be renamed")
        parts = _split(raw)
        own = Scrubber()
        for scrubber in (own, SCRUBBER):
            _register(scrubber, raw, parts)
        self._set(raw, shown=own.scrub_known(_shown(raw, parts)))
        object.__setattr__(self, "_parts", parts)

    @classmethod
    def _validate(cls, value: object) -> Self:
        device = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return super()._validate(str(value) if device else value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the field as a URL that goes in and never comes out."""
        return {**super().__get_pydantic_json_schema__(schema, handler), "format": "uri"}

    def reveal(self) -> str:
        """Return the true URL, for the driver alone: user info percent-encoded where it has to be."""
        parts = self._parts
        if parts.user_info is None:
            return self._true
        start = len(f"{parts.scheme}://")
        end = start + len(parts.user_info)
        return f"{self._true[:start]}{_encode_user_info(parts.user_info)}{self._true[end:]}"

    def written(self) -> str:
        """Return the text as it was configured, for whoever makes the same again in another process."""
        return self._true

    @property
    def scheme(self) -> str | None:
        """Scheme in lower case; None for a path or a device number."""
        return self._parts.scheme.lower() if self._parts.scheme else None

    @property
    def host(self) -> str | None:
        """Host, safe to show; None for a path, and where it is not certain which part is the host."""
        return self._parts.host or None

    @property
    def port(self) -> int | None:
        """Port, where one is written."""
        return self._parts.port

    @property
    def path(self) -> str | None:
        """The text itself when it is a path or a device number; None when it is a URL."""
        return self._true if self._parts.scheme is None else None

    @property
    def ambiguous(self) -> bool:
        """Tell whether it is not certain where the password ends: it should be percent-encoded."""
        return self._parts.scheme is not None and self._parts.host is None


class Secret(_Hidden):
    """A secret text, such as an API key. Shown as `***`."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        SCRUBBER.register(text)
        self._set(text, shown=MASK)

    def reveal(self) -> str:
        """Return the true text."""
        return self._true

    def matches(self, candidate: str) -> bool:
        """Compare in a time that does not tell how much was right."""
        return hmac.compare_digest(self._true.encode(), candidate.encode("utf-8", "surrogatepass"))
