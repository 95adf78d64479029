"""What a plugin does to others while it is imported: noticed, named, and put back where it can be.

One process has one set of signal handlers, one root logger, one locale. A plugin that changes them at import may cost
the daemon its stop, its log or its floats, and nobody would know whose fault it is. Looked at before and after each
import, which come one after another, so that it is certain who it was.
"""

import asyncio
import contextlib
import gc
import locale
import logging
import multiprocessing
import os
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from healthd.printed import Printed
from healthd.redact import SCRUBBER
from healthd.signal_actions import put_back_actions, signal_actions, signal_names

_LOGGERS = ("healthd", "uvicorn", "litestar", "asyncio", "py.warnings")
_ORDINARY: tuple[object, ...] = (logging.NOTSET, False, True, (), ())
_LONGEST_SHOWN = 100
_CONTROL = dict.fromkeys((*range(0x20), 0x7F))


@dataclass(frozen=True, slots=True)
class _Shared:
    """One thing that belongs to all of the process: how it is read, compared by `!=`, and put back."""

    what: str
    read: Callable[[], Any]
    put_back: Callable[[Any], object] | None = None
    told: Callable[[Any, Any], str] = lambda _before, _after: ""
    """Says more about the change."""


class ImportWatch:
    """While entered, watches what one import does. Enter and leave it on the same thread.

    Lives for one import. The import itself runs on another thread, which may be given up.
    """

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()
        """What it did, a sentence each; nothing secret. There after leaving, as is `printed`."""
        self.printed = Printed()
        self._before: list[object] = []
        self._threads: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        self._before = [_read(shared) for shared in _SHARED]
        self._threads = set(threading.enumerate())
        self.printed.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.printed.__exit__()
        notes = [f"it replaced {name}; put back" for name in self.printed.replaced]
        for shared, before in zip(_SHARED, self._before, strict=True):
            after = _read(shared)
            if after != before:
                notes.append(_undone(shared, before, after))
        notes += [
            f"it started a thread that goes on: {_shown(thread.name)}"
            for thread in threading.enumerate()
            if thread not in self._threads and not thread.name.startswith("import-")
        ]
        if lines := self.printed.text.strip().splitlines():
            count = f"{len(lines)} line{'' if len(lines) == 1 else 's'}"
            notes.append(f"it printed {'more than ' if self.printed.cut else ''}{count}: {_shown(lines[0])}")
        self.notes = tuple(SCRUBBER.scrub(note) for note in notes)


def _undone(shared: _Shared, before: Any, after: Any) -> str:
    more = shared.told(before, after)
    note = f"it changed {shared.what}{f' ({more})' if more else ''}"
    if shared.put_back is None:
        return f"{note}; left so"
    try:
        shared.put_back(before)
    except Exception as exc:  # noqa: BLE001  whatever a plugin has put there
        return f"{note}; it could not be put back: {type(exc).__name__}"
    return f"{note}; put back"


def _read(shared: _Shared) -> Any:
    try:
        return shared.read()
    except Exception as exc:  # noqa: BLE001  whatever a plugin has put there
        return f"unreadable: {type(exc).__name__}"


def _shown(text: str) -> str:
    """Return the beginning of a line: scrubbed before it is cut, or half a secret could be left."""
    clean = SCRUBBER.scrub(text).translate(_CONTROL).strip()
    return clean if len(clean) <= _LONGEST_SHOWN else f"{clean[:_LONGEST_SHOWN]}..."


def _root_logger() -> object:
    return (logging.root.level, logging.root.disabled, tuple(logging.root.handlers), tuple(logging.root.filters))


def _put_back_root_logger(before: Any) -> None:
    logging.root.level, logging.root.disabled, handlers, filters = before
    logging.root.handlers[:], logging.root.filters[:] = handlers, filters
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]  # noqa: SLF001  as `setLevel` does


def _our_loggers() -> dict[str, tuple[object, ...]]:
    """Return the loggers of the daemon that are not as a new one is."""
    found: dict[str, tuple[object, ...]] = {}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.startswith(_LOGGERS):
            state = (logger.level, logger.disabled, logger.propagate, tuple(logger.handlers), tuple(logger.filters))
            if state != _ORDINARY:
                found[name] = state
    return found


def _put_back_loggers(before: dict[str, tuple[Any, ...]]) -> None:
    for name in {*before, *_our_loggers()}:
        logger = logging.getLogger(name)
        level, logger.disabled, logger.propagate, handlers, filters = before.get(name, _ORDINARY)
        logger.handlers[:], logger.filters[:] = handlers, filters
        logger.setLevel(level)


def _structlog() -> dict[str, Any]:
    config = structlog.get_config()
    return {**config, "processors": list(config["processors"])}


def _hooks() -> tuple[Any, ...]:
    return (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)


def _put_back_hooks(before: tuple[Any, ...]) -> None:
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = before


def _error_filters() -> list[Any]:
    return [entry for entry in warnings.filters if entry[0] == "error"]


def _put_back_error_filters(before: list[Any]) -> None:
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters[:] = [entry for entry in filters if entry[0] != "error" or entry in before]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001  as `simplefilter` does


def _policy() -> object:
    """Return the event-loop policy; None for Python's own, which is made when it is first asked for."""
    policy = getattr(asyncio.events, "_event_loop_policy", None)  # the public way would make one
    return None if type(policy).__module__.startswith("asyncio") else policy


def _umask() -> int | None:
    """Read the mask without setting it: other threads make files."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def _our_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("HEALTHD_")}


def _put_back_variables(before: dict[str, str]) -> None:
    for name in _our_variables():
        del os.environ[name]
    os.environ.update(before)


def _put_back_certificates(before: Any) -> None:
    ssl._create_default_https_context = before  # noqa: SLF001  the door that everybody uses


_SHARED = (
    _Shared("how signals are handled", signal_actions, put_back_actions, signal_names),
    _Shared("the root logger", _root_logger, _put_back_root_logger),
    _Shared("the loggers of healthd", _our_loggers, _put_back_loggers),
    _Shared("logging.disable", lambda: logging.root.manager.disable, logging.disable),
    _Shared("the configuration of structlog", _structlog, lambda config: structlog.configure(**config)),
    _Shared("the hooks for uncaught errors and warnings", _hooks, _put_back_hooks),
    _Shared("warnings into errors", _error_filters, _put_back_error_filters),
    _Shared("the event-loop policy", _policy, asyncio.set_event_loop_policy),
    _Shared("the working directory", os.getcwd, os.chdir),
    _Shared("the umask", _umask, os.umask),
    _Shared("the locale", lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
    _Shared("HEALTHD_ variables", _our_variables, _put_back_variables),
    _Shared("the default timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Shared(
        "whether urllib checks certificates",
        lambda: ssl._create_default_https_context,  # noqa: SLF001  the same
        _put_back_certificates,
    ),
    _Shared("how often threads take turns", sys.getswitchinterval, sys.setswitchinterval),
    _Shared("the garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    _Shared(
        "how multiprocessing starts processes",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda method: multiprocessing.set_start_method(method, force=True),
    ),
    _Shared("sys.path", lambda: list(sys.path)),
)
