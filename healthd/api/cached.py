"""The pictures that are encoded already, answered before the router: a look-up and a write.

What is asked again and again, by pollers and wall pages, is the newest picture in a variant that somebody has asked for
before. Only that is answered here, in the very words of `CameraController.snapshot` and of all that stands around it;
every other question, every mistake and every refusal goes on to them. The HTTP server asks (`http_server.py`): neither
a scope nor a task is made for such a request.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from prometheus_client import Counter

from healthd.api.cameras import Facts, matches
from healthd.api.services import Services
from healthd.cameras.health import State
from healthd.cameras.jpeg import MAX_VARIANTS, Variant
from healthd.cameras.runner import CameraRunner
from healthd.clients import client_of
from healthd.frames import Frame

PREFIX, SUFFIX = b"/api/v1/cameras/", b"/snapshot"
TEMPLATE = f"{PREFIX.decode()}{{name}}{SUFFIX.decode()}"
MAX_KNOWN = 256
"""Heads of requests that are known by heart; the one learnt longest ago is forgotten first."""
MAX_KNOWN_BYTES = 2048
SAME_SECONDS = 0.001
"""For so long an answer stays what it is: the age that it tells of is in whole milliseconds."""
_BOUNDS = {b"q": (1, 95), b"width": (16, 8192), b"max_age": (0, 10**12)}
_BOOLEANS = {b"true": True, b"1": True, b"false": False, b"0": False}
_WAITS = {b"after", b"wait"}
_KEYS = {b"x-api-key", b"authorization"}
_SECRETS = {*_KEYS, b"cookie"}
_OTHERS = {b"origin", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
"""A request with one of these is answered elsewhere: pages of other sites get more headers, bodies have to be read."""

_FORWARDED = b"x-forwarded-for"
"""Whoever asks through a proxy of ours is told apart by the application."""

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class _Asked:
    quality: int | None = None
    width: int | None = None
    overlay: bool = False
    max_age_ms: int | None = None


_NOTHING = _Asked()


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What is told of one frame in one variant, for as long as the server's own headers stay the same: a second."""

    facts: Facts
    defaults: RawHeaders
    opening: bytes
    """The fields up to the age of the frame."""
    closing: bytes
    """The fields after it. A picture that may be shown is that of a live camera."""

    @classmethod
    def of(cls, facts: Facts, defaults: RawHeaders, headers: RawHeaders) -> "_Told":
        """Write down all but the age."""
        opening = _lines([*defaults, *facts.fixed]) + b"x-frame-age-ms: "
        return cls(facts, defaults, opening, b"\r\n" + _lines([(b"x-camera-state", State.LIVE.encode()), *headers]))


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """An answer, which is the same for as long as the age that it tells of: a millisecond."""

    until: float
    shown_id: int | None
    """The frame that the camera showed: it shows none as soon as it is lost or paused."""
    defaults: RawHeaders
    status: int
    variant: Variant
    answer: tuple[bytes, bytes]


@dataclass(slots=True, eq=False)
class Question:
    """A plain request for the newest picture of a camera, by somebody who may have it."""

    runner: CameraRunner
    asked: _Asked
    known: bytes | None
    """What `If-None-Match` says."""
    secret: bool
    """Whether a key or a cookie was sent with it: nothing of it is kept."""
    given: _Given | None = None
    """The newest answer."""


class CachedSnapshots:
    """Answers in place of the application where it can do so at once. Lives as long as the application."""

    def __init__(self, services: Services, *, is_ours: Callable[[RawHeaders], bool], headers: RawHeaders) -> None:
        """`is_ours`: whether a question was asked by a name of ours; `headers`: what every answer carries."""
        self._services = services
        self._is_ours = is_ours
        self._headers = headers
        self._root = services.settings.server.root_path.encode()
        self._has_proxies = bool(services.settings.server.trusted_proxies)
        self._told: dict[tuple[str, bool], dict[Variant, _Told]] = {}
        """By camera, plain or predicted: the variants of its newest frame that were asked for."""
        self._by_heart: dict[bytes, Question] = {}
        self._kept: deque[tuple[Question, _Given]] = deque()
        """Answers that were good a moment ago. No longer: each holds a picture, and a question may never come again."""
        self._counters: dict[int, Counter] = {}

    def forget(self) -> None:
        """Forget what was learnt: the cameras, or who may see them, are others than before."""
        self._by_heart.clear()
        self._told.clear()
        self._kept.clear()

    def known(self, request: bytes) -> Question | None:
        """Return what a request asks that came before in the same bytes."""
        return self._by_heart.get(request)

    def remember(self, request: bytes, question: Question) -> None:
        """Learn by heart what a whole request asks, from its first byte to its last."""
        if question.secret or len(request) > MAX_KNOWN_BYTES:
            return
        while len(self._by_heart) >= MAX_KNOWN:
            del self._by_heart[next(iter(self._by_heart))]
        self._by_heart[request] = question

    def question(self, url: bytes, headers: RawHeaders, peer: str) -> Question | None:
        """Read the target and the headers of a GET from an address; None: this is not for us."""
        path, _, query = url.partition(b"?")
        if self._root and path.startswith(self._root + b"/"):
            path = path[len(self._root) :]
        if not (path.endswith(SUFFIX) and path.startswith(PREFIX)) or b"#" in query:
            return None
        runner = self._services.supervisor.get(path[len(PREFIX) : -len(SUFFIX)].decode("latin-1"))
        asked = _parsed(query)
        if asked is None or runner is None or not self._is_ours(headers):
            return None
        tag: bytes | None = None
        secrets: dict[str, str] = {}
        for name, value in headers:
            if name in _OTHERS or (name == _FORWARDED and self._has_proxies):
                return None
            if name == b"if-none-match":
                tag = value if tag is None else tag + b", " + value
            elif name in _SECRETS:
                if name.decode() in secrets:
                    return None
                secrets[name.decode()] = value.decode("latin-1")
        if self._services.auth.required and not _may_read(self._services, secrets, peer):
            return None
        return Question(runner, asked, tag, bool(secrets))

    def answer(self, question: Question, defaults: RawHeaders) -> tuple[bytes, bytes] | None:
        """Return the head and the body of the answer, and count it; None: it takes more than a look-up.

        `defaults`: the headers of the server, a new object whenever they change.
        """
        try:
            return self._answer(question, defaults)
        except Exception:  # noqa: BLE001  it is answered, as every error, by the application
            return None

    def encoding(self, question: Question) -> "asyncio.Task[bytes] | None":
        """Have the picture encoded that a question asks for, or first an older one; None: it takes more than that."""
        runner, overlay = question.runner, question.asked.overlay
        try:
            picture = runner.picture(overlay=overlay)
            if not runner.waits.is_fresh(overlay=overlay):
                return None
            variant = _variant(question, picture.frame)
            if runner.jpegs.peek(picture.frame, variant) is not None:
                return None
            return runner.jpegs.older(picture.frame.frame_id, variant) or runner.jpegs.encoding(picture, variant)
        except Exception:  # noqa: BLE001  as above
            return None

    def _answer(self, question: Question, defaults: RawHeaders) -> tuple[bytes, bytes] | None:
        runner, overlay = question.runner, question.asked.overlay
        now, given = self._services.clock.monotonic(), question.given
        shown = _shown_id(runner, overlay=overlay)
        if given is None or now >= given.until or given.shown_id != shown or given.defaults is not defaults:
            given = self._made(question, defaults, now)
            self._keep(question, given, now)
            if given is None:
                return None
        self._count(given.status)
        if given.status == HTTPStatus.OK:
            runner.jpegs.count_served(given.variant)
        return given.answer

    def _keep(self, question: Question, given: _Given | None, now: float) -> None:
        """Remember an answer; let go of those, and of their pictures, that nobody can be given any more."""
        while self._kept and self._kept[0][1].until <= now:
            asked, was = self._kept.popleft()
            if asked.given is was:
                asked.given = None
        question.given = given
        if given is not None:
            self._kept.append((question, given))

    def _made(self, question: Question, defaults: RawHeaders, now: float) -> _Given | None:
        runner, asked = question.runner, question.asked
        overlay = asked.overlay
        runner.waits.asked(overlay=overlay)
        if not runner.waits.is_fresh(overlay=overlay):
            return None
        frame = runner.picture(overlay=overlay).frame
        age_ms = max(0.0, now - frame.captured_monotonic) * 1000
        if asked.max_age_ms is not None and age_ms > asked.max_age_ms:
            return None
        variant = _variant(question, frame)
        variants = self._told.setdefault((runner.name, overlay), {})
        told = variants.get(variant)
        if told is None or told.facts.frame_id != frame.frame_id or told.defaults is not defaults:
            told = _Told.of(Facts.of(self._services.boot_id, frame, variant), defaults, self._headers)
            if len(variants) >= MAX_VARIANTS:
                variants.clear()
            variants[variant] = told
        known = question.known
        if known is not None and (known == told.facts.raw_etag or matches(known.decode("latin-1"), told.facts.etag)):
            status, rest, jpeg = HTTPStatus.NOT_MODIFIED, b"", b""
        else:
            found = runner.jpegs.peek(frame, variant)
            if found is None:
                return None
            status, jpeg = HTTPStatus.OK, found
            rest = b"content-type: image/jpeg\r\ncontent-length: %d\r\n" % len(jpeg)
        line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        head = b"%b%b%.0f%b%b\r\n" % (line, told.opening, age_ms, told.closing, rest)
        shown = _shown_id(runner, overlay=overlay)
        return _Given(now + SAME_SECONDS, shown, defaults, status.value, variant, (head, jpeg))

    def _count(self, status: int) -> None:
        counter = self._counters.get(status)
        if counter is None:
            counter = self._counters[status] = self._services.metrics.requests.labels(TEMPLATE, str(status))
        counter.inc()


def _shown_id(runner: CameraRunner, *, overlay: bool) -> int | None:
    if overlay:
        predicted = runner.shown.predicted
        return predicted.frame.frame_id if predicted is not None else None
    frame = runner.shown.frame
    return frame.frame_id if frame is not None else None


def _variant(question: Question, frame: Frame) -> Variant:
    asked = question.asked
    return question.runner.tuning.variant(frame, quality=asked.quality, width=asked.width, overlay=asked.overlay)


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _parsed(query: bytes) -> _Asked | None:
    """Read a query; None: it is not plain, or asks to wait. What it says beside our parameters is ignored."""
    if not query:
        return _NOTHING
    numbers: dict[bytes, int] = {}
    overlay = False
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key in _BOUNDS:
            if key in numbers or len(value) > 12 or not value.isdigit():
                return None
            lowest, highest = _BOUNDS[key]
            number = numbers[key] = int(value)
            if not lowest <= number <= highest or b"%d" % number != value:  # `060` is no number to the router
                return None
        elif key == b"overlay":
            known = _BOOLEANS.get(value)
            if known is None:
                return None
            overlay = known
        elif key in _WAITS or b"%" in key or b"+" in key:
            return None
    return _Asked(numbers.get(b"q"), numbers.get(b"width"), overlay, numbers.get(b"max_age"))


def _may_read(services: Services, secrets: Mapping[str, str], peer: str) -> bool:
    if not secrets.keys() & {"x-api-key", "authorization"}:
        return False  # a session's cookie, or nothing: the guard knows
    identity = services.auth.identify(secrets, {}, client=client_of(peer))
    return identity is not None and identity.may("read")
