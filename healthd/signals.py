"""The signals of the daemon: the first to stop, the second to go at once, SIGHUP to read the configuration again."""

import asyncio
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

import structlog

log = structlog.get_logger("healthd.daemon")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_SIGNAL_SECONDS = 0.05


@contextlib.contextmanager
def own_signals(
    stop: asyncio.Event, *, force_seconds: Callable[[], float], reload: asyncio.Event | None = None
) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`; a second one ends the process at once (exit 143 or 130).

    SIGHUP sets `reload`; but where it comes because the terminal has gone that the daemon was started from, it stops.

    `timeout` and some supervisors send one signal to the process and once more to its group: what comes within
    `SAME_SIGNAL_SECONDS` is the first one still. A process that is still there `force_seconds` after the first signal
    ends with exit 1. All this is done by a thread of its own, whatever holds up the event loop and its thread.
    """
    loop = asyncio.get_running_loop()
    may_lose_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and has_terminal()  # not so under nohup

    def asked(number: signal.Signals) -> None:
        log.info("signal_received", signal=number.name)
        if number is not signal.SIGHUP:
            stop.set()
        elif reload is not None:
            reload.set()

    def first(number: signal.Signals) -> None:
        loop.call_soon_threadsafe(asked, number)

    def meant(number: int) -> int:
        lost = number == signal.SIGHUP and may_lose_terminal and not has_terminal()
        return signal.SIGTERM if lost else number

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watch = (reading, meant, first, force_seconds)
    threading.Thread(target=_watch_signals, args=watch, name="signals", daemon=True).start()
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to by Python's handler in C, at once
    before = {number: signal.signal(number, lambda *_: None) for number in (*STOP_SIGNALS, signal.SIGHUP)}
    os.register_at_fork(after_in_child=_disown_signals)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(writing)


def _watch_signals(
    reading: int,
    meant: Callable[[int], int],
    first: Callable[[signal.Signals], None],
    force_seconds: Callable[[], float],
) -> None:
    """Read the number of each signal that comes, until the pipe is closed."""
    asked_at: float | None = None
    while True:
        wait = None if asked_at is None else max(0.0, asked_at + force_seconds() - time.monotonic())
        if not select.select([reading], [], [], wait)[0]:
            os._exit(1)
        numbers = os.read(reading, 1)
        if not numbers:
            os.close(reading)
            return
        number = meant(numbers[0]) if asked_at is None else numbers[0]
        if number == signal.SIGHUP and asked_at is None:
            first(signal.SIGHUP)
        if number not in STOP_SIGNALS:
            continue
        if asked_at is None:
            asked_at = time.monotonic()
            first(signal.Signals(number))
        elif time.monotonic() - asked_at > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)


def _disown_signals() -> None:
    """Let a fork that a plugin made die of its own signals, and not write ours into the pipe it shares with us."""
    signal.set_wakeup_fd(-1)
    for number in (*STOP_SIGNALS, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def has_terminal() -> bool:
    """Whether the process has a terminal that could send it signals."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
