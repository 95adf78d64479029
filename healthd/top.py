"""`healthd top`: a live view of a daemon, here or elsewhere, over its API.

On a terminal it draws on the other screen, as editors do; elsewhere it writes plain lines, or JSON where asked.
It goes on whatever happens to the daemon, until Ctrl-C.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

import msgspec
from rich.console import Console
from rich.control import Control
from rich.live import Live

from healthd.redact import Secret, SourceUrl
from healthd.top_client import DaemonClient
from healthd.top_report import Monitor, Report, look_once, watch
from healthd.top_view import Fitted, plain_lines, view

OK, FAILED = 0, 1
Show = Callable[[Report], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """What to watch and how to show it."""

    address: SourceUrl
    key: Secret | None = None
    once: bool = False
    as_json: bool = False
    interval_seconds: float = 1.0


async def top(options: TopOptions) -> int:
    """Show the daemon: once, returning 1 when there was no answer; or for ever, until a signal ends the process."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may know less than UTF-8
    interval = options.interval_seconds
    async with DaemonClient(options.address, options.key) as client:
        monitor = Monitor(client)
        if options.once:
            report = await look_once(monitor, interval_seconds=interval)
            _show_once(options)(report)
            return OK if report.problem is None else FAILED
        with _shown_live(options) as show:
            async for report in watch(monitor, interval_seconds=interval):
                show(report)
    return OK


def _show_once(options: TopOptions) -> Show:
    console = Console(highlight=False)
    if options.as_json:
        return _write_json
    if not _is_screen(console):
        return _write_lines
    return lambda report: console.print(view(report, width=console.width))


def _shown_live(options: TopOptions) -> AbstractContextManager[Show]:
    console = Console(highlight=False)
    if options.as_json:
        return nullcontext(_write_json)
    if not _is_screen(console):
        return nullcontext(_write_lines)
    return _screen(console, options.interval_seconds)


def _is_screen(console: Console) -> bool:
    """Tell whether there is a terminal that can be drawn on. Not as rich sees it: FORCE_COLOR makes a file one."""
    return sys.stdout.isatty() and not console.is_dumb_terminal


def _write_json(report: Report) -> None:
    sys.stdout.write(f"{msgspec.json.encode(report).decode()}\n")
    sys.stdout.flush()


def _write_lines(report: Report) -> None:
    sys.stdout.writelines(f"{line}\n" for line in plain_lines(report))
    sys.stdout.flush()


@contextmanager
def _screen(console: Console, interval_seconds: float) -> Iterator[Show]:
    """Draw on the other screen of the terminal; whatever ends the process, the terminal is as it was.

    A signal ends the process at once, from wherever it is: also while the terminal takes no output.
    """
    newest: list[Report] = []
    terminal = sys.stdout.fileno()
    enter, leave = (f"{Control.alt_screen(on)}{Control.show_cursor(not on)}".encode() for on in (True, False))

    def draw() -> None:
        for report in newest:
            body = view(report, width=console.width, interval_seconds=interval_seconds)
            live.update(Fitted(body), refresh=True)

    def end(*_: Any) -> None:
        os.write(terminal, leave)  # not through rich or Python's buffer, which may be at work just now
        os._exit(OK)

    def suspend(*_: Any) -> None:
        os.write(terminal, leave)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # returns when the shell brings it back
        signal.signal(signal.SIGTSTP, suspend)
        os.write(terminal, enter)

    def show(report: Report) -> None:
        newest[:] = [report]
        draw()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    signal.signal(signal.SIGTSTP, suspend)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, draw)
        yield show
