"""Children that a process has not started but adopted: as PID 1 of a container it is given whatever loses its parent.

Nobody else waits for them, and one that has ended holds its number until somebody does.
"""

import contextlib
import os
from pathlib import Path


def children() -> list[int]:
    """Return the children of the main thread, which adopts for all; none on a kernel that does not list them."""
    mine = os.getpid()
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/{mine}/task/{mine}/children").read_text(encoding="ascii").split()]
    return []


class Orphans:
    """Reaps adopted children. Lives as long as the process; one look at a time, on any thread."""

    def __init__(self) -> None:
        self._ended: set[int] = set()
        """What had ended at the last look."""

    def reap(self) -> None:
        """Reap what had ended at the last look already.

        A plugin may have started some of them itself: who asks for the status of a child of its own has had a look's
        time for it. What a thread has started is its own, and left alone, for as long as that thread lives.
        """
        ended = {pid for pid in children() if _has_ended(pid)}
        for pid in ended & self._ended:
            with contextlib.suppress(OSError):  # somebody has just asked
                os.waitpid(pid, os.WNOHANG)
        self._ended = ended - self._ended


def _has_ended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False
