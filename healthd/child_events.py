"""How large an event of a child's log may be. The child makes it fit; what does not fit all the same is left out."""

import json
from typing import Any

LONGEST_EVENT = 16 * 1024
"""Bytes of its JSON. Each is searched for secrets, which keeps all other threads of the daemon waiting meanwhile."""
LONGEST_NAME = 100
"""Characters of the name of a logger; a longer one is none."""
_LONGEST_TEXTS = (4000, 1000, 200)
"""Characters of one field; the second where many are long, the last where nothing but the name of the event is left."""
_NAMING = ("event", "level", "logger", "timestamp")
_CUT = "..."


def fitted(line: bytes) -> bytes:
    """Return an event, as JSON, so that it fits: what is too long is cut, and says so by `...`."""
    if len(line) <= LONGEST_EVENT:
        return line
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict):
        return line
    *longer, least = _LONGEST_TEXTS
    for most in longer:
        line = _json({key: _shortened(key, value, most) for key, value in event.items()})
        if len(line) <= LONGEST_EVENT:
            return line
    return _json({key: _shortened(key, event[key], least) for key in _NAMING if key in event} | {"cut": True})


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _shortened(key: str, value: Any, most: int) -> Any:
    """Return a value of that length at most; of a traceback its end, which says what happened.

    It is cut between words: half a word may be half a secret, of which only the daemon knows.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= most:
        return value
    if key == "exception":
        line, _, rest = text[-most:].partition("\n")
        return f"{_CUT} {rest or line}"
    rest, _, word = text[:most].rpartition(" ")
    return f"{rest or word} {_CUT}"
