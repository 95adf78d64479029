"""The process that children are forked from: small, without threads, with their modules imported already.

Run by `children.Nursery` as a process of its own. Forking the daemon itself would copy its threads' locks in whatever
state they are; starting Python anew would cost each child half a second and all the pages that it could have shared.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from healthd.memory import limit_arenas
from healthd.orphans import children

LEAVE_SECONDS = 0.5
"""How long it goes on ending what it has when there are no more orders: what hangs in the kernel cannot be ended."""
LONGEST_ORDER = 64 * 1024
MOST_DESCRIPTORS = 128
STATUS = struct.Struct("<i")
"""What is written, once, into the pipe of a child that has ended: as `os.waitstatus_to_exitcode` says it."""
MARK = "_HEALTHD_CHILD"
"""Variable with the pid of the child whose environment this is: it tells whose a program is that left its group."""
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36


def main(descriptor: int, parent: int) -> NoReturn:
    """Fork a child for each order that comes over a socket, until the parent is gone."""
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the daemon, not beside it
        signal.signal(number, signal.SIG_IGN)
    call_process("healthd-nursery")
    _take_orphans()
    limit_arenas()
    parent_socket = socket.socket(fileno=descriptor)
    gc.disable()  # a collection would write into every object, and a page that is written to is no longer shared
    for module in ("healthd.child_side", *json.loads(parent_socket.recv(LONGEST_ORDER))["preload"]):
        with contextlib.suppress(Exception):  # the child that needs it says why it fails
            importlib.import_module(module)
    gc.freeze()
    _Nursery(parent_socket).serve()


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as the thread that made it ends, however it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it was said
        os._exit(0)


def call_process(name: str) -> None:
    """Set the name that `ps` and `top` show; fifteen bytes of it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def _die_together(leash: tuple[int, ...]) -> None:
    """Have the kernel kill this process and all that it starts as soon as one end of a pair of sockets is closed.

    What dies with its parent takes nothing along, and its parent can do nothing any more. Nobody has to: what ends
    closes its sockets before it is missed, and the signal of the other end goes to the whole group.
    """
    with contextlib.suppress(OSError):
        for end in leash:
            fcntl.fcntl(end, fcntl.F_SETOWN, -os.getpid())
            fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC)


def _take_orphans() -> None:
    """Become the parent of what children started and left behind: PID 1 of a container may be the daemon itself."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _ended_child() -> int | None:
    """Return the pid of a child that has ended, not yet reaped; None while there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None


def _adopted(own: Collection[int]) -> dict[int, str]:
    """Return the children that are not our own, and what their environment says whose they are; "": nothing.

    That of our own is not looked at: to read it waits for whoever changes the memory of that process, and a driver
    may hang in doing so.
    """
    found = {}
    for pid in children():
        if pid in own:
            continue
        variables = b""
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes()
        marks = [one[len(MARK) + 1 :] for one in variables.split(b"\0") if one.startswith(f"{MARK}=".encode())]
        found[pid] = marks[0].decode("ascii", "replace") if marks else ""
    return found


def _kill(pid: int) -> None:
    """Kill a child that is not reaped yet, with its group if it leads one."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


class _Nursery:
    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._woken, waking = os.pipe()
        for end in (self._woken, waking):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._own = (self._woken, waking)
        self._pipes: dict[int, tuple[int, int]] = {}
        """Of each child that lives, by its pid: the pipe for its status, and our end of its leash."""

    def serve(self) -> NoReturn:
        while True:
            ready, _, _ = select.select([self._parent.fileno(), self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._parent.fileno() in ready:
                self._obey()

    def _reap(self) -> None:
        while (pid := _ended_child()) is not None:
            if pid in self._pipes:  # one that was adopted may have left the rest of its group to a child that lives
                _kill(pid)
            self._end_strays(pid)
            _, status = os.waitpid(pid, 0)
            pipes = self._pipes.pop(pid, None)
            if pipes is not None:
                with contextlib.suppress(OSError):  # nobody wants to know
                    os.write(pipes[0], STATUS.pack(os.waitstatus_to_exitcode(status)))
                for pipe in pipes:
                    os.close(pipe)

    def _end_strays(self, ended: int) -> None:
        """End what has left the group of a child that has ended: it is ours now, as whatever somebody left behind.

        What a child has that lives, because it started it in the background, goes on; so does, while one lives, what
        does not tell whose it is.
        """
        living = {str(pid) for pid in self._pipes.keys() - {ended}}
        spared = living | {""} if living else living
        for pid, whose in _adopted({ended, *self._pipes}).items():
            if whose not in spared:
                _kill(pid)

    def _leave(self) -> NoReturn:
        """End all children, whatever they started, and at last this process."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while (left := {*self._pipes, *children()}) and time.monotonic() < deadline:
            for pid in left:
                _kill(pid)
            time.sleep(0.005)
            while (ended := _ended_child()) is not None:  # what it has started is a child of ours by now
                os.waitpid(ended, 0)
                self._pipes.pop(ended, None)
        os._exit(0)  # the kernel kills its children, and what they started

    def _obey(self) -> None:
        order, descriptors = b"", list[int]()
        with contextlib.suppress(ConnectionError):  # the parent is gone and has not read the last answer
            order, descriptors, _, _ = socket.recv_fds(self._parent, LONGEST_ORDER, MOST_DESCRIPTORS)
        if not order:
            self._leave()
        said: dict[str, Any] = json.loads(order)
        status_pipe, *theirs = descriptors
        mine = os.getpid()
        try:
            leash = tuple(end.detach() for end in socket.socketpair())
            descriptors += leash
            pid = os.fork()
        except OSError as exc:
            self._answer({"error": f"{type(exc).__name__}: {exc.strerror}"})
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if pid == 0:
            others = itertools.chain.from_iterable(self._pipes.values())
            self._become(said, mine, theirs, leash=leash, not_theirs=(status_pipe, *others))
        for descriptor in (*theirs, leash[0]):
            os.close(descriptor)
        self._pipes[pid] = status_pipe, leash[1]
        # Nobody else has waited for it yet: this descriptor is that child's, not of another one with its number.
        with contextlib.ExitStack() as stack:
            handles = []
            with contextlib.suppress(OSError, AttributeError):
                handles = [os.pidfd_open(pid)]
                stack.callback(os.close, handles[0])
            self._answer({"pid": pid}, handles)

    def _answer(self, answer: dict[str, Any], descriptors: list[int] | None = None) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self._parent, [json.dumps(answer).encode()], descriptors or [])

    def _become(
        self,
        said: dict[str, Any],
        nursery: int,
        theirs: list[int],
        *,
        leash: tuple[int, ...],
        not_theirs: tuple[int, ...],
    ) -> NoReturn:
        """Be the child: it ends here, whatever it does."""
        status = 1
        try:
            die_with(nursery)
            os.setpgid(0, 0)
            os.environ[MARK] = str(os.getpid())
            _die_together(leash)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (*self._own, leash[1], *not_theirs):
                os.close(descriptor)
            self._parent.close()
            gc.enable()
            importlib.import_module("healthd.child_side").run(said, theirs)
            status = 0
        except BaseException:  # noqa: BLE001  a fork must never go on as what it was forked from
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)
