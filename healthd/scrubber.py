"""Takes secrets out of text, whatever wrote the text: the last gate before a log line, an error body or a page.

Two nets, one behind the other. The first knows the secrets of this process by heart and finds them in every common
spelling (raw, percent-encoded at any depth, escaped by JSON, by Python or by HTML). The second knows nothing and looks
for places where secrets stand: the user info of a URL, `password=`, an `Authorization` header.

Both would rather hide too much than too little.
"""

import html
import re
import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

MASK = "***"

SHORTEST_PART = 4
"""A shorter secret is never searched for alone: blanking every `a` would hide the log, not the secret."""

_HIDDEN = rf"\g<1>{MASK}\g<2>"

_UNSAFE_TAIL = 4096
"""Where a text was cut, half a secret may stand that nobody recognizes: so much before the cut is not shown."""
_WIDEST = 12
"""As many characters as one of a secret takes in its longer spellings; more in none that is common."""
CUT = " ..."
"""At the end of a text of which that is not all."""

_DEEPEST = 24
"""Nested deeper than this, an object is cut off; also what ends a cycle."""

_RUN = r"\\(?:(?<!\\\\)\\+)?"
"""Backslashes: from the first of a run as many as may be, else one: no run is searched to its end from each of them."""


def _spellings(char: str) -> str:
    """Return the source of a pattern that finds `char` raw or in any of its escaped forms."""
    if char.isascii() and char.isalnum():
        return char
    code = ord(char)
    units = char.encode("utf-16-be", "surrogatepass")
    octets = char.encode("utf-8", "surrogatepass")
    forms = [
        "".join(rf"%(?:25)*{octet:02x}" for octet in octets),
        "".join(rf"{_RUN}u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)),
        rf"{_RUN}U{code:08x}",
        "".join(rf"{_RUN}x{octet:02x}" for octet in octets),
        rf"&(?:amp;)*#(?:x0*{code:x}|0*{code});",
    ]
    if code < 0x100:
        forms.append(rf"{_RUN}x{code:02x}")
    escaped = html.escape(char)
    if escaped != char:
        forms.append(re.escape(escaped))
    if char == " ":
        forms.append(r"\+")
    if char in "\t\n\r":
        forms.append(_RUN + {"\t": "t", "\n": "n", "\r": "r"}[char])
    raw = [r"\\"] if char == "\\" else [re.escape(char), _RUN + re.escape(char)]
    return f"(?:{'|'.join([*raw, *map(_any_case, forms)])})"


def _any_case(form: str) -> str:
    """Let case not matter behind the first character, which has none: by it the search finds where to look."""
    first = 2 if form.startswith("\\") else 1
    return f"{form[:first]}(?i:{form[first:]})"


def _source(text: str) -> str:
    """Return the source of a pattern that finds the text in any spelling."""
    parts = []
    for char, run in groupby(text):
        if char == "\\":  # each layer of escaping doubles them: their number says nothing
            parts.append(f"{_spellings(char)}+")
        else:
            parts.append(_spellings(char) * len(list(run)))
    return "".join(parts)


_SLASHES = r"(?::|%(?:25)*3a)(?:\\*/|%(?:25)*2f){2}"
_SEPARATOR = rf"(?P<sep>{_SLASHES})"
_AT = r"(?P<at>@|%(?:25)*40)"
_USER = rf"(?:[^\s/?#@:%]|(?!{_SLASHES})%){{0,256}}:"
_NO_SPACES = rf"(?:[^\s\"'<>`:%]|(?!{_SLASHES})[:%]){{0,1024}}"
_WITH_SPACES = rf"{_USER}(?!\d{{1,5}}(?:[/?#\s\"']|$))(?:[^\n:%]|(?!{_SLASHES})[:%]){{0,1024}}"
"""None of them passes the beginning of another URL: a text of many would be searched to its end from each."""
_TELLING = r"(?:pass|pwd|token|secret|key|auth|sig|credential|session|login|user|account)"

_GENERIC: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(rf"{_SEPARATOR}(?!(?<=file://)/)(?:{_WITH_SPACES}|{_NO_SPACES}){_AT}", re.IGNORECASE),
        rf"\g<sep>{MASK}\g<at>",
    ),
    (
        re.compile(rf"([?&;][\w.-]{{0,32}}?{_TELLING}[\w.-]{{0,32}}=)[^&;#\s\"'<>]+", re.IGNORECASE),
        rf"\g<1>{MASK}",
    ),
    (
        re.compile(
            r"((?:password|passwd|passphrase|pwd|api[_-]?key|secret|access_token)=[\"']?)[^\s\"'&;,<>]+", re.IGNORECASE
        ),
        rf"\g<1>{MASK}",
    ),
    (
        re.compile(
            r"\b((?:(?:proxy-)?authorization|x-api-key|(?:set-)?cookie)[\"']?"
            r"\s*[:=,]\s*(?:b(?=[\"']))?[\"']?)[^\n]+",
            re.IGNORECASE,
        ),
        rf"\g<1>{MASK}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\g<1>{MASK}"),
)

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_TELLING_WORD = re.compile(
    r"pass|pw|keys?|cookies?|authorization|bearer"
    r"|\w*(?:password|passwd|passphrase|passcode|pwd|secret|token|apikey|credential)s?"
)
_MOST_LABELS = 1024

_SECRET_KEYS = frozenset(
    {"password", "passwd", "pwd", "passphrase", "secret", "token", "access_token", "api_key", "apikey", "x-api-key"}
    | {"authorization", "proxy-authorization", "cookie", "set-cookie", "credentials"}
)


def _forms(secret: str, before: str, after: str) -> set[tuple[str, str, str]]:
    """Return what is searched for to hide a secret."""
    forms = {(before, form, after) for form in (secret, unquote(secret), unquote_plus(secret)) if form.strip("*")}
    return {form for form in forms if sum(map(len, form)) >= SHORTEST_PART}


class Scrubber:
    """Knows secrets and takes them out of texts and objects. Safe to share between threads; forgets nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], re.Pattern[str]] = {}
        self._patterns: tuple[re.Pattern[str], ...] = ()
        self._longest = 0
        """Characters of the longest secret, with its neighbours."""
        self._labels: dict[str, str] = {}
        self._watcher: Callable[[tuple[str, str, str]], object] | None = None

    def watch(self, watcher: Callable[[tuple[str, str, str]], object]) -> None:
        """Call `watcher` with each secret, and what stands before and after it, before it is hidden from then on."""
        self._watcher = watcher

    def register(self, secret: str, *, before: str = "", after: str = "") -> None:
        """Hide the secret from now on, in every common spelling; with `before` and `after`, only between these.

        A secret that has fewer than `SHORTEST_PART` characters together with its neighbours is left out.
        """
        with self._lock:
            new = _forms(secret, before, after) - self._known.keys()
            if not new:
                return
            if self._watcher is not None:
                self._watcher((secret, before, after))
            self._longest = max(self._longest, *(sum(map(len, form)) for form in new))
            for form in new:
                left, middle, right = map(_source, form)
                # without neighbours also without groups: these cost the search its fast path
                self._known[form] = re.compile(f"({left}){middle}({right})" if left or right else middle)
            longest_first = sorted(self._known, key=lambda form: len(form[1]), reverse=True)
            self._patterns = tuple(self._known[form] for form in longest_first)
            self._labels = {}  # after the patterns: whoever still holds the old one fills what nobody reads any more

    def knows(self, secret: str, *, before: str = "", after: str = "") -> bool:
        """Whether to register it would change nothing."""
        return _forms(secret, before, after) <= self._known.keys()

    def scrub(self, text: str) -> str:
        """Return the text with `***` wherever a known secret, or something in the place of one, stood."""
        text = self.scrub_known(text)
        for pattern, replacement in _GENERIC:
            text = pattern.sub(replacement, text)
        return text

    def scrub_start(self, text: str, most: int) -> str:
        """Return `most` characters of the scrubbed text, and `CUT` where that is not all of it.

        What is cut off is not searched, but for as much as half a secret before the cut could need to be recognized.
        """
        unsafe = max(_UNSAFE_TAIL, _WIDEST * self._longest)
        searched = text[: most + 2 * unsafe]
        shown = self.scrub(searched)
        if len(searched) < len(text):
            shown = shown[:-unsafe]
        elif len(shown) <= most:
            return shown
        return shown[:most] + CUT

    def scrub_label(self, text: str) -> str:
        """As `scrub`, remembered: for names that come again and again, such as the id of a model."""
        labels = self._labels
        label = labels.get(text)
        if label is None:
            label = self.scrub(text)
            if len(labels) < _MOST_LABELS:
                labels[text] = label
        return label

    def scrub_known(self, text: str) -> str:
        """Return the text with `***` wherever a registered secret stood; what only looks like one stays."""
        for pattern in self._patterns:
            text = pattern.sub(_HIDDEN if pattern.groups else MASK, text)
        return text

    def scrub_object(self, obj: Any) -> Any:
        """Return the object with every text inside it scrubbed: keys, values, bytes, at any depth.

        Mappings become dicts, tuples plain tuples. The value of a key such as `password` is hidden whatever it is.
        Numbers are kept. Any other object is kept when neither its `str` nor its `repr` tells a secret, and becomes
        its scrubbed text when one does.
        """
        return self._scrub_object(obj, depth=0)

    def _scrub_object(self, obj: Any, *, depth: int) -> Any:
        if obj is None or isinstance(obj, bool | int | float):
            return obj
        if isinstance(obj, str):
            return self.scrub(obj)
        if isinstance(obj, bytes | bytearray | memoryview):
            return self._scrub_bytes(bytes(obj))
        if isinstance(obj, Mapping | list | tuple | AbstractSet):
            return self._scrub_container(obj, depth=depth) if depth < _DEEPEST else MASK
        return self._scrub_other(obj)

    def _scrub_container(self, obj: Any, *, depth: int) -> Any:
        if isinstance(obj, Mapping):
            return {
                self._scrub_object(key, depth=depth + 1): self._scrub_value(key, value, depth=depth + 1)
                for key, value in obj.items()
            }
        kind = tuple if isinstance(obj, tuple) else list if isinstance(obj, list) else set
        return kind(self._scrub_object(item, depth=depth + 1) for item in obj)

    def _scrub_value(self, key: Any, value: Any, *, depth: int) -> Any:
        if value is not None and isinstance(key, str) and key.lower() in _SECRET_KEYS:
            return MASK
        return self._scrub_object(value, depth=depth)

    def _scrub_bytes(self, data: bytes) -> bytes:
        return self.scrub(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def _scrub_other(self, obj: Any) -> Any:
        try:
            texts = (str(obj), repr(obj))
        except Exception:  # noqa: BLE001  a broken __repr__ must not stop a log line
            return f"<{type(obj).__name__}>"
        if all(self.scrub(text) == text for text in texts):
            return obj
        return self.scrub(texts[0])


def is_telling(key: str) -> bool:
    """Tell whether a key, such as `password`, `apiKey` or `webhook-token`, says that its value is a secret."""
    return any(_TELLING_WORD.fullmatch(word.lower()) for word in _WORD.findall(key))


def percent_encode(text: str) -> str:
    """Return the text so that it can stand anywhere in the user info of a URL."""
    return quote(text, safe="")


SCRUBBER = Scrubber()
"""The secrets of this process. `SourceUrl` and `Secret` register themselves here when they are made."""
