"""The hidden folder in which one model is prepared, stage by stage; what is done there survives the process.

It lies in the models directory, so that the result gets to its place by a rename. What a stage made counts as long as
it was made from the same inputs and its files have their checksums; anything else is made anew.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from healthd.errors import ModelError
from healthd.models.manifest import Manifest, checksums, digest, manifest_place, write_whole

LOCK_PATIENCE_SECONDS = 10.0
"""How long a process that was killed may take to be gone, with what it had started."""
_STAGES = "stages.json"
_POLL_SECONDS = 0.1


class Workshop:
    """The place where one model is prepared. Lives as long as its block, in which nobody else prepares this model."""

    def __init__(self, target: Path) -> None:
        """Touch nothing yet; `target`: where the result will lie."""
        self.target = target
        self.folder = target.with_name(f".prepare-{target.name}")
        self._lock_path = target.with_name(f".prepare-{target.name}.lock")
        self._lock = -1

    def __enter__(self) -> Self:
        """Wait a moment for whoever is at work on the same model.

        Raises:
            ModelError: somebody goes on working on it.
            OSError: the folder cannot be made.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        try:
            self.folder.mkdir(exist_ok=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if not self._stages():  # nothing was done that is worth keeping
            self.clear()
        with contextlib.suppress(OSError):
            self._lock_path.unlink()
        os.close(self._lock)

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock: a child that inherits it keeps others out until it is gone."""
        return self._lock

    def stage(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Return the folder of a stage; `make` fills it, unless that was done from equal inputs before."""
        place = self.folder / name
        key = digest(inputs)
        known = self._stages().get(name, {})
        if known.get("key") == key and known.get("files") == checksums(place):
            return place
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            make(place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)  # perhaps it is what fills the disk
            raise
        self._write({**self._stages(), name: {"key": key, "files": checksums(place)}})
        return place

    def publish(self, result: Path, manifest: Manifest) -> None:
        """Put a result in its place, with its manifest, and clear the folder. What lies there is replaced.

        Raises:
            OSError: the disk is full, or the models directory cannot be written; what was done is kept.
        """
        final = self.folder / "final"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        ready = final / self.target.name
        try:
            _copy(result, ready)
            write_whole(manifest_place(ready), manifest.model_dump_json(indent=2).encode() + b"\n")
        except OSError:
            shutil.rmtree(final, ignore_errors=True)
            raise
        if ready.is_dir():
            if self.target.exists():  # a folder cannot be renamed over another
                self.target.rename(final / "replaced")
        else:
            manifest_place(ready).replace(manifest_place(self.target))
        ready.replace(self.target)
        self.clear()

    def clear(self) -> None:
        """Forget what was done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stages(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / _STAGES).read_bytes())
            if isinstance(found, dict):
                return found
        return {}

    def _write(self, stages: Mapping[str, Any]) -> None:
        write_whole(self.folder / _STAGES, json.dumps(stages).encode())

    def _locked(self) -> int:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            held = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_named(held):
                    return held
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(held)
                    raise ModelError(
                        f"another `healthd models prepare` is at work on {self.target.name}: wait for it, or end it"
                    ) from None
                time.sleep(_POLL_SECONDS)
            except BaseException:
                os.close(held)
                raise
            os.close(held)  # whoever had it took the name away on leaving

    def _is_named(self, held: int) -> bool:
        """Whether the file that is locked is the one that others will find."""
        try:
            found, named = os.fstat(held), self._lock_path.stat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (named.st_dev, named.st_ino)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder on the same disk, without taking room for it where the disk can do so."""
    if source.is_dir():
        target.mkdir()
        for file in source.iterdir():
            _copy(file, target / file.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
