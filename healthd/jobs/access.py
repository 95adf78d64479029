"""Which files on this machine a job may name, and how they are opened."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from healthd.jobs.errors import PathRefusedError


def resolve_allowed(text: str, allowed: Sequence[Path]) -> Path:
    """Return the file or folder that a caller names, all links followed; a relative path is one of an allowed folder.

    Raises:
        PathRefusedError: it is in no allowed directory, or not there; who asks is not told which.
    """
    for root in allowed:
        try:
            home = root.resolve(strict=True)
            found = (home / text).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # not there, a ring of links, a name that no file can have
            continue
        if found.is_relative_to(home):
            return found
    raise PathRefusedError(
        "there is no such file in jobs.allowed_directories"
        if allowed
        else "a job may name no path here: jobs.allowed_directories is empty; send the file itself"
    )


def read_regular(path: Path, *, at_most: int) -> bytes | None:
    """Read a file; None when it has more than `at_most` bytes.

    Raises:
        OSError: it cannot be read, or is no regular file (a pipe would never end, a device may be anything).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123  it is open already
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        data = file.read(at_most + 1)
    return None if len(data) > at_most else data
