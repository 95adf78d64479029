"""Ways to hang, and a journal of what was done."""

import os
import threading
import time
from pathlib import Path
from typing import Literal, NoReturn

Way = Literal["lock", "read", "spin", "swallow"]


def hang(way: Way) -> NoReturn:
    """Never return: in a lock, in a system call, computing, or asleep and deaf to every exception."""
    while True:
        try:
            if way == "lock":
                lock = threading.Lock()
                lock.acquire()
                lock.acquire()
            elif way == "read":
                os.read(os.pipe()[0], 1)
            elif way == "swallow":
                time.sleep(3600)
        except BaseException:  # noqa: BLE001  it ignores everything, that is the point
            continue


def note(journal: str | None, event: str) -> None:
    """Append a line to the journal, whole whoever else writes."""
    if journal is None:
        return
    descriptor = os.open(Path(journal), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{event}\n".encode())
    finally:
        os.close(descriptor)
