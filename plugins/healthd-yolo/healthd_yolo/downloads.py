"""Downloads with an end: a transfer may take long, but not stand still."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from healthd.errors import ModelError

Fetch = Callable[[Path], object]
"""Blocking: put the file at that path, complete or not at all."""

PATIENCE_SECONDS = 20.0
"""How long a transfer may make no progress before it is left to itself."""


class Download:
    """One transfer on a thread of its own, which does not hold the process at exit. Lives until the thread ends."""

    def __init__(self, target: Path, fetch: Fetch) -> None:
        self._target = target
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(fetch,), name=f"download-{target.name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is still at it."""
        return self._thread.is_alive()

    def wait(self, patience_seconds: float) -> None:
        """Wait as long as bytes arrive; return when the file is there.

        Raises:
            ModelError: it failed, or stood still for `patience_seconds`; the transfer may yet finish for a later try.
        """
        before = self._arrived_bytes()
        while self.running:
            self._thread.join(patience_seconds)
            now = self._arrived_bytes()
            if self.running and now == before:  # less of it means that it begins anew, which is no standstill
                raise ModelError(f"{self._target.name}: the download stands still for {patience_seconds:g} s")
            before = now
        if self._error is not None or not self._target.is_file():
            reason = repr(self._error) if self._error is not None else "it left no file"
            raise ModelError(
                f"{self._target.name} is not in {self._target.parent} and could not be downloaded ({reason});"
                " put the file there, or let this machine reach github.com"
            ) from self._error

    def _run(self, fetch: Fetch) -> None:
        try:
            fetch(self._target)
        except Exception as exc:  # noqa: BLE001  whatever it is goes to the one who waits
            self._error = exc

    def _arrived_bytes(self) -> int:
        """Size of the file and of whatever partial file carries its name."""
        total = 0
        for file in self._target.parent.glob(f"*{self._target.name}*"):
            with suppress(FileNotFoundError):  # a partial file was just given its name
                total += file.stat().st_size
        return total


class Downloads:
    """All transfers of a process: one per target, however many wait for it. Thread-safe."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._running: dict[Path, Download] = {}

    def get(self, target: Path, fetch: Fetch) -> Path:
        """Download to `target`, or wait for the transfer that is already under way; return the target.

        Raises:
            ModelError: it failed, or stands still.
        """
        with self._lock:
            download = self._running.get(target)
            if download is None or not download.running:
                download = self._running[target] = Download(target, fetch)
        download.wait(self._patience_seconds)
        return target
