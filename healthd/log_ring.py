"""The last lines of the log, kept in memory for those who look at the panel. What is kept has been scrubbed already."""

import itertools
import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]
LEVELS: tuple[Level, ...] = get_args(Level)
MOST_LINES = 1000
MOST_CHARACTERS = 1_000_000
LONGEST_TEXT = 4000
"""Characters of one field that are kept; of a traceback the last ones, which say what happened."""
LONGEST_LINE = 20_000
"""A line with more than that keeps its name alone."""
_CUT = "... "


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log."""

    line_id: int
    """Grows with every line; begins with 1 in each process."""
    at: str
    """RFC 3339, UTC."""
    level: str
    event: str
    logger: str | None
    camera: str | None
    fields: str
    """All other fields, as a JSON object."""

    @property
    def size(self) -> int:
        """Characters that are kept."""
        return len(self.event) + len(self.fields) + len(self.logger or "") + len(self.camera or "")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines somebody wants to see."""

    level: Level = "debug"
    """This one and those that are more severe."""
    event: str | None = None
    camera: str | None = None

    def includes(self, line: LogLine) -> bool:
        """Whether a line is among them."""
        severe = line.level not in LEVELS[: LEVELS.index(self.level)]
        return severe and self.event in {None, line.event} and self.camera in {None, line.camera}


class LogRing:
    """Keeps the newest lines: `MOST_LINES` at most, `MOST_CHARACTERS` at most. Any thread may add, any may look."""

    def __init__(self, *, most_lines: int = MOST_LINES, most_characters: int = MOST_CHARACTERS) -> None:
        self._lock = threading.RLock()  # a finalizer may log while it is held
        self._lines: deque[LogLine] = deque()
        self._ids = itertools.count(1)
        self._size = 0
        self._most_lines = most_lines
        self._most_characters = most_characters
        self.newest_id = 0
        """Id of the newest line; 0 before the first."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Keep an event as the log writes it."""
        rest = {key: _short(key, value) for key, value in event.items() if key not in _OWN}
        fields = _writable(json.dumps(rest, default=str, ensure_ascii=False)) if rest else "{}"
        camera, logger = event.get("camera"), event.get("logger")
        with self._lock:
            line = LogLine(
                line_id=next(self._ids),
                at=str(event.get("timestamp", "")),
                level=str(event.get("level", "info")),
                event=_writable(_short("event", str(event.get("event", "")))),
                logger=None if logger is None else _writable(_short("logger", str(logger))),
                camera=None if camera is None else _writable(_short("camera", str(camera))),
                fields=fields if len(fields) <= LONGEST_LINE else '{"cut": true}',
            )
            self._lines.append(line)
            self._size += line.size
            while len(self._lines) > self._most_lines or self._size > self._most_characters:
                self._size -= self._lines.popleft().size
            self.newest_id = line.line_id

    def lines(self, wanted: Wanted = Wanted(), *, after: int = 0, limit: int = MOST_LINES) -> list[LogLine]:
        """Return the newest lines that are wanted, the oldest first: at most `limit`, none up to the id `after`."""
        with self._lock:
            newest_first = list(itertools.takewhile(lambda line: line.line_id > after, reversed(self._lines)))
        return list(itertools.islice((line for line in newest_first if wanted.includes(line)), limit))[::-1]


_OWN = frozenset({"timestamp", "level", "event", "logger", "camera"})


def _writable(text: str) -> str:
    """Return a text that UTF-8 can write: a name of a file may hold what it cannot."""
    return text.encode("utf-8", "replace").decode()


def _short(key: str, value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= LONGEST_TEXT:
        return value
    return _CUT + value[-LONGEST_TEXT:] if key == "exception" else value[:LONGEST_TEXT] + _CUT.rstrip()


RECENT = LogRing()
"""The lines of this process."""
