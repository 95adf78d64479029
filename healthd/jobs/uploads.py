"""What was sent in: files in `jobs.directory`, there in full or not at all."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from healthd.jobs.errors import JobsUnavailableError, StorageFullError
from healthd.jobs.store import FULL

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PART = ".part"
SYNC_BYTES = 64 * 1024 * 1024
"""So much is written before the disk has to have it: waiting for gigabytes at the end would take too long."""

ORPHAN_SECONDS = 3600.0
"""A file of another daemon that nobody has written to for so long, and that belongs to no job, is left over."""


class Upload:
    """One file that arrives. Lives from `Uploads.begin` to `finish` or `discard`; its calls block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self._synced = 0
        self._part = path.with_name(path.name + _PART)
        with storage_errors():
            self._file = self._part.open("xb", buffering=1024 * 1024)

    def write(self, data: bytes) -> None:
        """Add to it."""
        with storage_errors():
            self._file.write(data)
            self.size += len(data)
            if self.size - self._synced >= SYNC_BYTES:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._synced = self.size

    def finish(self) -> Path:
        """Have it there for good: once this returns, no power cut loses it."""
        with storage_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
            _sync_folder(self.path.parent)
        return self.path

    def discard(self) -> None:
        """Leave nothing of it."""
        with suppress(OSError):
            self._file.close()  # what is still in its buffer may find no room
        for path in (self._part, self.path):
            with suppress(OSError):
                path.unlink()


class Uploads:
    """The folder of all of them. Lives as long as the daemon; its calls block."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "uploads"

    def begin(self, job_id: str) -> Upload:
        """Open a file for what arrives."""
        with storage_errors():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Upload(self.path(job_id))

    def path(self, job_id: str) -> Path:
        """Return where the upload of a job lies: in this folder, whatever somebody has written into a shared queue."""
        return self._folder / quote(job_id, safe="")

    def remove(self, job_id: str) -> None:
        """Remove the upload of a job, if it is there."""
        with suppress(OSError):
            self.path(job_id).unlink()

    def clean(self, keep: set[str], *, alone: bool) -> None:
        """Remove what belongs to no job; where other daemons use the folder too, only what has been lying for long."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            with suppress(OSError):
                left = alone or time.time() - path.stat().st_mtime > ORPHAN_SECONDS
                if left and path.name not in keep:
                    path.unlink()


@contextmanager
def storage_errors() -> Iterator[None]:
    """Sort what a file system raises."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            raise StorageFullError(FULL) from exc
        raise JobsUnavailableError(f"jobs.directory cannot be written to: {exc.strerror or exc}") from exc


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
