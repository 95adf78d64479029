"""Packs what is known of a process for somebody who is to help. Strangers read it: all is scrubbed once more."""

import asyncio
import io
import json
import re
import sys
import sysconfig
import threading
import traceback
import zipfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from healthd.redact import MASK, SCRUBBER

_PRIVATE = frozenset({"client"})
"""Fields that say who asked: no secret, and nobody else's business."""
_ASKED_BY = re.compile(r"^\S+(?= - \")")
"""Where the HTTP server writes who asked."""


def packed(parts: Mapping[str, object], *, at: datetime, home: Path | None = None) -> bytes:
    """Return a zip with a file for each part: a text as it is, a list of lines as JSON Lines, all else as JSON.

    Takes some milliseconds for each hundred lines of log: not for the event loop. `home`: the folder that is written
    `~`, by default the user's.
    """
    private = _home() if home is None else str(home)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, part in parts.items():
            text = _written(part, lines=name.endswith(".jsonl"))
            info = zipfile.ZipInfo(name, at.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, text.replace(private, "~") if private else text)
    return archive.getvalue()


def threads() -> str:
    """Say what each thread does, the innermost call first: file, line and function, no values and no code."""
    frames = sys._current_frames()  # noqa: SLF001  the documented way, for debuggers
    told = []
    for thread in sorted(threading.enumerate(), key=lambda thread: thread.name):
        frame = frames.get(thread.ident or 0)
        walked = traceback.walk_stack(frame) if frame is not None else ()
        stack = traceback.StackSummary.extract(walked, limit=30, lookup_lines=False)  # no code: it lies on the disk
        told.append(f"{thread.name}{' (daemon)' if thread.daemon else ''}\n{_stack(stack)}")
    return "\n".join(told)


def tasks() -> str:
    """Say where each task of the event loop waits. Event loop only."""
    told = []
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        name = getattr(task.get_coro(), "__qualname__", "")
        stack = [
            traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, lookup_line=False)
            for frame in task.get_stack(limit=10)
        ]
        told.append(f"{task.get_name()} {name}\n{_stack(stack)}")
    return "\n".join(told)


def _stack(stack: Iterable[traceback.FrameSummary]) -> str:
    return "".join(f"  {_place(one.filename)}:{one.lineno} {one.name}\n" for one in stack)


def _place(filename: str) -> str:
    """Return a path below the folder that Python found it in: where that lies is nobody's business."""
    folders = [*sys.path, sysconfig.get_path("stdlib")]
    inside = [folder for folder in folders if folder and filename.startswith(f"{folder}/")]
    return filename.removeprefix(f"{max(inside, key=len)}/") if inside else Path(filename).name


def _written(part: object, *, lines: bool) -> str:
    if isinstance(part, str):
        return SCRUBBER.scrub(part)
    clean = SCRUBBER.scrub_object(_without_people(part))  # in this order: a word that is secret may be a key
    if lines and isinstance(clean, list):
        return "".join(f"{json.dumps(line, default=str)}\n" for line in clean)
    return json.dumps(clean, indent=1, default=str, ensure_ascii=False) + "\n"


def _without_people(value: Any) -> Any:
    if isinstance(value, dict):
        clean = {key: MASK if key in _PRIVATE else _without_people(inner) for key, inner in value.items()}
        if str(clean.get("logger", "")).startswith("uvicorn"):
            clean["event"] = _ASKED_BY.sub(MASK, str(clean.get("event", "")))
        return clean
    if isinstance(value, list):
        return [_without_people(inner) for inner in value]
    return value


def _home() -> str:
    try:
        home = str(Path.home())
    except RuntimeError:  # a user without one
        return ""
    return home if len(home) > 1 else ""
