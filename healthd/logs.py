"""One log for everything: healthd's events, uvicorn, Litestar, warnings, crashes, and what C libraries print.

Every line goes through the same processors, and the last of them before the renderer takes secrets out. Nothing that
Python prints about an error goes around it: the hooks for uncaught exceptions log too, and tracebacks show no locals.
"""

import io
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO, TypeAlias

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from healthd.log_ring import RECENT, Level
from healthd.native_log import NativeLog
from healthd.printed import log_stream
from healthd.redact import SCRUBBER

__all__ = ["Format", "Level", "NativeLog", "configure_logging"]

Format: TypeAlias = Literal["auto", "console", "json"]

_FIRST = ("timestamp", "level", "event", "logger")
_OURS = frozenset({"timestamp", "level"})
"""What healthd itself writes into every event: no secret can be in it, and a password `info` must not blank it."""

_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(0x20), 0x7F)}

_TALKATIVE = ("httpx", "httpcore")
"""They tell of each request, and of its headers: of a camera that is asked for pictures, several times a second."""

_BORROWED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "litestar", "asyncio", "py.warnings")


def configure_logging(level: Level = "info", fmt: Format = "auto", stream: TextIO | None = None) -> None:
    """Send the log of the whole process to `stream` (default: standard error, whatever it is at the time).

    May be called again; the last call counts. `auto` is the console on a terminal, else one JSON object a line.
    What uvicorn would say of single requests is logged at level `debug` alone; `healthd run` does not have it say so.
    """
    handler = _Handler(stream)
    handler.setFormatter(_formatter(fmt, handler.stream))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Handler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _BORROWED:
        borrowed = logging.getLogger(name)
        borrowed.handlers.clear()
        borrowed.propagate = True
        borrowed.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_before(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _hook_crashes()


def redact(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Take the secrets out of an event, whatever its values are; the last processor before the renderer."""
    del logger, method
    try:
        return _redacted(event_dict)
    except Exception as exc:  # noqa: BLE001  rather no event than one with a secret
        return {
            **{key: event_dict[key] for key in _OURS if key in event_dict},
            "event": "log_redaction_failed",
            "error": type(exc).__name__,
        }


def _redacted(event_dict: EventDict) -> EventDict:
    keys = [key for key in _FIRST if key in event_dict]
    keys += [key for key in event_dict if key not in _FIRST]
    clean: dict[str, Any] = {}
    for key in keys:
        if key in _OURS:
            clean[key] = event_dict[key]
        elif key in _FIRST:
            clean[key] = SCRUBBER.scrub_object(_plain(event_dict[key]))
        else:
            clean.update(SCRUBBER.scrub_object({str(key): _plain(event_dict[key])}))
    return clean


def _remember(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Keep the event for those who look at the newest lines."""
    del logger, method
    RECENT.add(event_dict)
    return event_dict


def _plain(value: Any) -> Any:
    """Return what the renderer cannot make a third text of: an object becomes its `str`, an exception its `repr`."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    if isinstance(value, MutableMapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return repr(value) if isinstance(value, BaseException) else str(value)


def _one_line(logger: WrappedLogger, method: str, event_dict: EventDict) -> EventDict:
    """Keep a text that somebody else wrote from looking like two lines, or from steering the terminal."""
    del logger, method
    event_dict["event"] = str(event_dict.get("event", "")).translate(_CONTROL)
    return event_dict


def _before() -> list[Processor]:
    """Return what every event meets first, whoever logged it."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _formatter(fmt: Format, stream: TextIO) -> logging.Formatter:
    terminal = stream.isatty()
    console = fmt == "console" or (fmt == "auto" and terminal)
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=terminal and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        )
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_before(),
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            _remember,
            *([_one_line] if console else []),
            renderer,
        ],
    )


class _Nowhere(io.StringIO):
    """Stands in for a standard error that was closed before Python began."""

    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the stream it was given, or to whatever standard error is at the time (`NativeLog` moves it)."""

    def __init__(self, stream: TextIO | None) -> None:
        self._fixed = None if stream is sys.stderr else stream
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where lines go now."""
        return self._fixed or log_stream() or _NOWHERE

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Say that a line could not be written. The standard way quotes its arguments, secrets included."""
        error = sys.exc_info()[0]
        try:
            self.stream.write(f"a log line of {record.name} was lost: {error.__name__ if error else 'unknown'}\n")
        except (OSError, ValueError):
            return


def _hook_crashes() -> None:
    """Log what Python would print by itself, so that it is redacted too."""
    logging.captureWarnings(capture=False)  # forget the function that an earlier call kept
    warnings.showwarning = _log_warning
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    sys.unraisablehook = _log_unraisable


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line
    structlog.get_logger("py.warnings").warning(
        "python_warning", text=str(message), category=category.__name__, where=f"{filename}:{lineno}"
    )


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger("healthd").critical("process_crashed", exc_info=(kind, error, traceback))


def _log_thread_crash(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    structlog.get_logger("healthd").error(
        "thread_crashed",
        thread=args.thread.name if args.thread else None,
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value
    structlog.get_logger("healthd").error(
        "exception_ignored",
        text=args.err_msg,
        exc_info=(args.exc_type, error, args.exc_traceback) if error is not None else None,
    )
