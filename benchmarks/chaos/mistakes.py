"""What no fault may bring about unless it says so: errors in the log, and tracebacks."""

import json
from collections import Counter
from collections.abc import Collection
from typing import Any

_TRACEBACK = "Traceback (most recent call last)"


def mistakes(text: str, *, named: Collection[str]) -> list[str]:
    """Return the events of a log that are errors or hold a traceback, but for those that are named; each once."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        event = _event(line)
        name = str(event.get("event", ""))
        wrong = event.get("level") in {"error", "critical"} or _TRACEBACK in line
        if wrong and name not in named:
            told = str(event.get("reason") or event.get("error") or event.get("exception") or "").strip()
            found[f"`{name}`: {told.splitlines()[-1] if told else '-'}" if name else line.strip()] += 1
    return [text if count == 1 else f"{text} ({count} times)" for text, count in found.items()]


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
