"""What was compiled and found out once, kept on disk for the next start. Knows bytes only; no engine's types.

Each entry is one file: a checksum, facts as JSON, and bytes. It appears under its name at once and complete, so any
number of daemons may share the folder; what is damaged, or was made by another version, is as good as absent. Nothing
here is ever a reason not to load a model: a folder that cannot be used is told once and left alone.
"""

import contextlib
import hashlib
import json
import os
import platform
import stat
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from healthd_yolo import __version__

log = structlog.get_logger(__name__)
FORMAT = 2
"""Raised when what is compiled from the same file changes: older entries are then not found."""

_SUFFIX = ".compiled"
_TEMPORARY = ".unfinished"
_STALE_SECONDS = 3600.0
_SHARED_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Entry:
    """What was kept."""

    facts: Mapping[str, Any]
    blob: bytes


class CompiledCache:
    """A folder of entries, the ones used longest ago given up first. Safe between threads and processes."""

    def __init__(self, directory: Path | None, *, max_bytes: int) -> None:
        """Look at nothing yet; `directory` None, or `max_bytes` 0: keep nothing."""
        self._folder = directory / "compiled" if directory is not None and max_bytes > 0 else None
        self._max_bytes = max_bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._folder is not None

    def get(self, key: Mapping[str, Any]) -> Entry | None:
        """Return the entry made under an equal key, None when there is none."""
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            self._check(self._folder)
            entry = _read(path.read_bytes())
            if entry is not None:
                os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as exc:
            self._give_up(exc)
            return None
        return entry

    def put(self, key: Mapping[str, Any], facts: Mapping[str, Any], blob: bytes = b"") -> None:
        """Keep an entry; what does not fit is given up, the entries used longest ago first."""
        if self._folder is None or len(blob) > self._max_bytes:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check(self._folder)
            _write(self._path(self._folder, key), _packed(facts, blob))
            _trim(self._folder, self._max_bytes)
        except OSError as exc:
            self._give_up(exc)

    @staticmethod
    def _path(folder: Path, key: Mapping[str, Any]) -> Path:
        whole = json.dumps({**key, "format": FORMAT, "version": __version__, "machine": machine()}, sort_keys=True)
        return folder / (hashlib.sha256(whole.encode()).hexdigest()[:40] + _SUFFIX)

    @staticmethod
    def _check(folder: Path) -> None:
        """Refuse a folder into which somebody else may write: compiled models are read as they lie there."""
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & _SHARED_WRITE:
            raise PermissionError("others may write into the folder")

    def _give_up(self, exc: OSError) -> None:
        log.warning("compiled_cache_unusable", error=repr(exc.strerror or str(exc)))
        self._folder = None


@cache
def machine() -> str:
    """Return what tells processors apart: compiled networks are made for one kind of them."""
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(f"{platform.machine()} {platform.system()} {flags}".encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """Return the checksum of a model file, or of all files in its folder; blocking, about 1 GB a second.

    Raises:
        OSError: it cannot be read.
    """
    found = hashlib.sha256()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else _with_neighbours(path)
    for file in files:
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def _with_neighbours(path: Path) -> list[Path]:
    """Return the file and those that are read with it: metadata, and weights that lie in a file of their own.

    Of an `.xml` they are in the `.bin`; of an `.onnx` in `NAME.onnx.data`, `NAME.onnx_data` or `NAME.data`. A copy that
    somebody puts beside it is none of them.
    """
    beside = {path.with_suffix(".bin").name} if path.suffix == ".xml" else {path.with_suffix(".data").name}
    beside.add("metadata.yaml")
    pieces = (f"{path.name}.data", f"{path.name}_data")
    others = (file for file in path.parent.iterdir() if file.name in beside or file.name.startswith(pieces))
    return [path, *sorted(file for file in others if file != path and file.is_file())]


def _packed(facts: Mapping[str, Any], blob: bytes) -> bytes:
    payload = json.dumps(facts).encode() + b"\n" + blob
    return hashlib.sha256(payload).digest() + payload


def _read(data: bytes) -> Entry | None:
    size = hashlib.sha256().digest_size
    payload = memoryview(data)[size:]
    if hashlib.sha256(payload).digest() != data[:size]:
        return None
    end = data.index(b"\n", size)
    return Entry(json.loads(data[size:end]), bytes(payload[end + 1 - size :]))


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(suffix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _trim(folder: Path, max_bytes: int) -> None:
    """Give up the entries used longest ago until the rest fits, and what a killed process left unfinished."""
    entries = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another daemon was faster
            found = file.stat()
            if file.suffix == _SUFFIX:
                entries.append((found.st_mtime, found.st_size, file))
            elif file.suffix == _TEMPORARY and time.time() - found.st_mtime > _STALE_SECONDS:
                file.unlink()
    total = sum(size for _, size, _ in entries)
    for _, size, file in sorted(entries):
        if total <= max_bytes:
            break
        file.unlink(missing_ok=True)
        total -= size
