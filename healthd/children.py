"""Child processes with a channel: code that may hang or crash runs in one, and can be killed.

A `Child` is driven by its parent, strictly: one request, one reply, each call with a bound. It is forked from a nursery
(see `nursery.py`), dies with the daemon however that dies, and what it prints and logs comes out of the daemon's log.
"""

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import structlog

from healthd.channel import Channel, Gone, packed, unpacked_reply
from healthd.child_logs import CHILD_LOGS, ChildLog, current_level
from healthd.endings import Ending, oom_kills
from healthd.errors import HealthdError
from healthd.nursery import LEAVE_SECONDS, LONGEST_ORDER, STATUS

T = TypeVar("T")
log = structlog.get_logger(__name__)
SUPPORTED = sys.platform == "linux"
"""Elsewhere nothing makes sure that a child dies with its parent."""
START_SECONDS = 20.0
"""A nursery imports its modules first, from a disk that may be slow."""
REAP_SECONDS = 2.0
"""What the kernel may take to end a process after SIGKILL; only one that hangs in a driver takes longer."""
_IMPORT = "import sys; sys.path[:] = sys.argv[3:]; from healthd.nursery import main; main(*map(int, sys.argv[1:3]))"


_Order = tuple[socket.socket, threading.Event]
"""The nursery's end of its socket, and what is set when its process is there or cannot be had."""


class ChildEnded(HealthdError):  # noqa: N818  what happened; `ending` says how
    """The child has ended, or can no more be talked to. Its text follows `the process of ...`."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class ChildTimeout(HealthdError):  # noqa: N818  it is a timeout; the word says so
    """A call was not answered in time; the child cannot be called again, and is to be stopped."""


class StartFailed(HealthdError):  # noqa: N818  the noun says it
    """A child could not be started; the message says why."""


class Nursery:
    """What children are forked from. Any thread; started with the first child, or early by `warm_up`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._preload: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._has_forked = False
        self._orders: queue.SimpleQueue[_Order | None] | None = None
        """What its keeper is to do; None while there is no keeper."""

    def warm_up(self, preload: Sequence[str] = (), *, start: bool = True) -> None:
        """Let it import `preload` whenever it is started, which is now or with the first child. Returns at once.

        Whenever it is started it has the priority of who calls this, not of who needs the child: that may be a thread
        that has stepped back, and all children would step back with it.
        """
        with self._lock:
            self._preload = tuple(preload)
            with contextlib.suppress(StartFailed, RuntimeError):  # said again to whoever starts a child
                if start:
                    self._started()
                else:
                    self._keeper()

    def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> tuple[int, int | None]:
        """Fork a child that gets these descriptors, the first one for its status; return its pid and its pidfd.

        Raises:
            StartFailed: it cannot be had; within twice `START_SECONDS`, since others may wait for theirs.
        """
        if not self._lock.acquire(timeout=START_SECONDS):
            raise StartFailed(f"the process that starts others did not answer others within {START_SECONDS:g} s")
        try:
            nursery = self._started()
            nursery.settimeout(START_SECONDS)
            try:
                socket.send_fds(nursery, [json.dumps(order).encode()], descriptors)
                said, handles, _, _ = socket.recv_fds(nursery, LONGEST_ORDER, 1)
            except TimeoutError:
                self._end()
                raise StartFailed(f"the process that starts others did not answer within {START_SECONDS:g} s") from None
            except OSError as exc:
                self._end()
                raise StartFailed(f"the process that starts others is gone: {type(exc).__name__}") from None
            if not said:
                self._end()
                raise StartFailed("the process that starts others has just ended")
            answer = json.loads(said)
            if "error" in answer:
                raise StartFailed(f"no process could be made: {answer['error']}")
            self._has_forked = True
            return int(answer["pid"]), handles[0] if handles else None
        finally:
            self._lock.release()

    def close(self) -> None:
        """End it, all its children and what they started; takes `REAP_SECONDS` at most, a moment more if it forks."""
        locked = self._lock.acquire(timeout=0.5)
        try:
            self._end()
            orders, self._orders = self._orders, None
            if orders is not None:
                orders.put(None)
        finally:
            if locked:
                self._lock.release()

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def _started(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            log.warning("nursery_died", status=self._process.returncode)
            self._end()
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                made = threading.Event()
                self._keeper().put((theirs, made))
                made.wait(START_SECONDS)
            if self._process is None:
                ours.close()
                raise StartFailed("the process that starts others could not be started")
            ours.send(json.dumps({"preload": self._preload}).encode())
            self._socket, self._has_forked = ours, False
        return self._socket

    def _keeper(self) -> "queue.SimpleQueue[_Order | None]":
        """Return where the keeper takes its orders; there is one as soon as somebody asks."""
        if self._orders is None:
            orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
            threading.Thread(target=self._keep, args=(orders,), name="nursery", daemon=True).start()
            self._orders = orders
        return self._orders

    def _keep(self, orders: "queue.SimpleQueue[_Order | None]") -> None:
        """Start the process on a thread that outlives it: the kernel kills it when this thread is gone."""
        while (order := orders.get()) is not None:
            theirs, made = order
            try:
                if theirs.fileno() < 0:
                    continue  # nobody waits for it any more
                process = subprocess.Popen(  # noqa: S603  our own interpreter
                    [sys.executable, "-c", _IMPORT, str(theirs.fileno()), str(os.getpid()), *sys.path],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # the terminal's signals are the daemon's
                )
                self._process = process
            except (OSError, ValueError) as exc:  # the latter: it was closed just now
                log.error("nursery_not_started", error=repr(exc))  # noqa: TRY400  the traceback is ours, and says nothing
                continue
            finally:
                made.set()
            process.wait()

    def _end(self) -> None:
        process, self._process = self._process, None
        nursery, self._socket = self._socket, None
        if nursery is not None:
            with contextlib.suppress(OSError):
                nursery.shutdown(socket.SHUT_RDWR)  # no more orders; closed alone, it stays open to whoever waits in it
            nursery.close()
        if process is not None:
            # Killed before it has ended what its children started, it would leave what is in a session of its own.
            patience = LEAVE_SECONDS + 0.25 if self._has_forked else 0.0
            for seconds in (patience, REAP_SECONDS - patience):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                process.kill()


NURSERY = Nursery()
"""That of this process."""


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe that we read; each end is closed with its stack."""
    reading, writing = os.pipe()
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    return reading, writing


class Child:
    """A process that answers calls. Calls and `stop` belong to one thread at a time; `kill` is for any."""

    def __init__(
        self, name: str, pid: int, *, channel: Channel, status: int, handle: int | None, log_: ChildLog
    ) -> None:
        self.name = name
        self.pid = pid
        self.ending: Ending | None = None
        """How it ended; None while it lives, as far as was looked."""
        self._channel = channel
        self._status = status
        self._handle = handle
        self._log = log_
        self._in_step = True
        """Whether the last call was answered: only then it is asked to close."""
        self._asked = self._killed = False
        self._oom_kills = oom_kills()
        self._signalling = threading.Lock()
        self._over = False
        """Whether it was seen to end: its pid may be another's from then on."""

    @classmethod
    def start(
        cls,
        entry: str,
        *,
        name: str,
        descriptors: Sequence[int] = (),
        fields: dict[str, str] | None = None,
        nursery: Nursery = NURSERY,
    ) -> Self:
        """Start a child that runs `entry` (`module:function`, called with a `child_side.Parent`).

        `name` is for people; fifteen characters of it are what `ps` shows. It gets copies of `descriptors`. `fields`
        stand in each event that it logs, e.g. `{"camera": "gym"}`. No secret may stand in any of these: that is what
        the first call is for. Blocks for some milliseconds, or until the nursery is warm.

        Raises:
            StartFailed: it could not be started.
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            try:
                near, far = socket.socketpair()
                ours.callback(near.close)
                theirs.callback(far.close)
                logged, logging_ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.callback(logged.close)
                theirs.callback(logging_.close)
                printed, printing = _pipe(ours, theirs)
                status, telling = _pipe(ours, theirs)
                os.set_blocking(printing, False)
                order = {"name": name, "entry": entry, "level": current_level()}
                pid, handle = nursery.fork(order, [telling, far.fileno(), printing, logging_.fileno(), *descriptors])
                if handle is not None:
                    ours.callback(os.close, handle)
                child_log = CHILD_LOGS.watch(printed, logged, fields or {"child": name})
            except (OSError, RuntimeError) as exc:  # no descriptor, or no thread, is left
                raise StartFailed(f"no process could be made: {getattr(exc, 'strerror', None) or exc}") from None
            ours.pop_all()
        return cls(name, pid, channel=Channel(near), status=status, handle=handle, log_=child_log)

    def call(self, request: object, *, reply: type[T], timeout: float) -> T:
        """Send a request, wait for its reply, and return it as the type that it must have.

        Raises:
            ChildTimeout: there is none within `timeout` seconds.
            ChildEnded: it has ended, or what it says is no such reply.
            Exception: what it raised (see `channel.raised`).
        """
        if self.ending is not None or not self._in_step:
            raise ChildEnded(self.ending or Ending("unknown", None))
        self._in_step = False
        deadline = time.monotonic() + timeout
        try:
            self._channel.send(packed(request), timeout=timeout)
            message = self._channel.receive(timeout=max(0.0, deadline - time.monotonic()))
            self._in_step = True
            return unpacked_reply(message, reply)
        except TimeoutError:
            raise ChildTimeout(f"no answer within {timeout:g} s") from None
        except Gone as exc:
            self._in_step = False
            ending = self._ended(within=1.0)
            if ending is None:
                log.warning("child_out_of_step", child=self.name, error=str(exc))
                ending = self.stop(grace_seconds=0)
            raise ChildEnded(ending) from None

    def look(self, *, within: float = 0.0) -> Ending | None:
        """Return how it ended by itself, after so many seconds at most; None while it lives."""
        return self._ended(within=within)

    def kill(self, grace_seconds: float = 0.0) -> None:
        """Kill it; whoever waits in a call is told so. One that ends by itself within the grace says how, as ever."""
        if grace_seconds > 0 and self._ends_within(grace_seconds):
            return
        self._killed = True
        self._signal(signal.SIGKILL)

    def stop(self, *, grace_seconds: float = 1.0, term_seconds: float = 0.3) -> Ending:
        """End it: ask, where it listens, then SIGTERM, then SIGKILL; give back all that it held here.

        Takes the two and `REAP_SECONDS` at most. May be called again.
        """
        if self.ending is None:
            self._asked = True
            self._channel.close()  # that is how it is asked
            if not self._in_step or grace_seconds <= 0 or self._ended(within=grace_seconds) is None:
                self._signal(signal.SIGTERM)
                if term_seconds <= 0 or self._ended(within=term_seconds) is None:
                    self.kill()
                    self._ended(within=REAP_SECONDS)
        if self.ending is None:
            log.warning("child_not_ended", child=self.name, pid=self.pid)  # it hangs in the kernel
            self._over = True
            self.ending = Ending("unknown", None)
        self._give_back()
        return self.ending

    def _ended(self, *, within: float) -> Ending | None:
        """Wait for its end, so long at most; return how it ended."""
        if self.ending is not None:
            return self.ending
        waiting = select.poll()
        waiting.register(self._status, select.POLLIN)
        if not waiting.poll(max(0.0, within) * 1000):
            return None
        told = os.read(self._status, STATUS.size)
        status = STATUS.unpack(told)[0] if len(told) == STATUS.size else None
        if status is None:
            self._reap_orphan()
        with self._signalling:
            self._over, cause = True, self._cause(status)
        self.ending = ending = Ending(cause, status, self._log.last_output())
        return ending

    def _ends_within(self, seconds: float) -> bool:
        """Whether it ends by itself within so many seconds; on any thread, beside who reads how."""
        with self._signalling:
            if self._over or self._handle is None:
                return self._over
            try:
                handle = os.dup(self._handle)
            except OSError:  # no descriptor is left
                return False
        try:
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            return bool(waiting.poll(seconds * 1000))
        finally:
            os.close(handle)

    def _reap_orphan(self) -> None:
        """The nursery has died, and the kernel kills this child: where we are PID 1, it is ours to reap then."""
        if self._handle is not None:
            waiting = select.poll()
            waiting.register(self._handle, select.POLLIN)
            waiting.poll(REAP_SECONDS * 1000)
        with contextlib.suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)

    def _cause(self, status: int | None) -> Any:
        if status is None:
            return "asked" if self._asked else "unknown"
        if status >= 0:
            return "asked" if self._asked else "exited"
        if self._killed or (self._asked and status == -signal.SIGTERM):
            return "killed"
        if status == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return "out_of_memory"
        return "crashed"

    def _signal(self, number: signal.Signals) -> None:
        with self._signalling, contextlib.suppress(OSError):
            if self._over:
                return
            if self._handle is not None:
                signal.pidfd_send_signal(self._handle, number)
            else:
                os.kill(self.pid, number)

    def _give_back(self) -> None:
        with self._signalling:
            handle, self._handle = self._handle, None
            status, self._status = self._status, -1
        self._channel.close()
        CHILD_LOGS.leave(self._log)
        for descriptor in (handle, status):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
