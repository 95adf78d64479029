"""What changes the host under a daemon (its clock, its disk, its share of memory and CPU), and how old pictures are."""

import contextlib
import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import psutil

from benchmarks.chaos.faults import SkippedError
from tests.clips import COUNTER_H264_PICTURES, number_of

CGROUPS = Path("/sys/fs/cgroup")
_CLOCK_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t none, *offset = &none;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
  real = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("CHAOS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *seen = file < 0 ? MAP_FAILED : mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
  if (seen != MAP_FAILED) offset = seen;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, at);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
  return failed;
}

time_t time(time_t *kept) {
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  if (kept) *kept = at.tv_sec;
  return at.tv_sec;
}

int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


class WallClock:
    """CLOCK_REALTIME of a daemon that is started with `variables`; CLOCK_MONOTONIC stays as it is.

    A library that is loaded before the C library adds an offset: no kernel gives a process a wall clock of its own.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise SkippedError("no C compiler, which the wall clock of a single process needs")
        library, offset = folder / "clock.so", folder / "clock"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), "-x", "c", "-", "-ldl"]
        subprocess.run(command, input=_CLOCK_SOURCE, text=True, check=True, capture_output=True)
        offset.write_bytes(bytes(8))
        self.variables: Mapping[str, str] = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(offset)}
        self._file = offset

    def jump(self, seconds: int) -> None:
        """Set it so many seconds away from the real one."""
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            shared[:] = struct.pack("=q", seconds)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """Mount a small disk of its own on a folder; raises SkippedError where that may not be."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(folder))
    try:
        yield folder
    finally:
        while folder.is_mount():  # and what `remount` has put over it
            subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def remount(folder: Path, how: str) -> None:
    """Mount it again, `ro` or `rw`; what is open for writing keeps no file system from becoming read-only here.

    `ro` puts a read-only view over it where files are open for writing in it.
    """
    if how == "ro":
        _mount("--bind", str(folder), str(folder))
        _mount("-o", "remount,bind,ro", str(folder))
    else:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        told = exc.stderr.decode().strip() if isinstance(exc, subprocess.CalledProcessError) else str(exc)
        raise SkippedError(f"no disk of its own can be mounted here: {told}") from exc


def fill(folder: Path) -> Path:
    """Write a file until the disk is full; return it."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 8, 1):
            with contextlib.suppress(OSError):
                while True:
                    if file.write(bytes(size)) < size:
                        raise OSError(errno.ENOSPC, "full")
    return path


class Cgroup:
    """A control group of its own, made for as long as the block lasts: version 1 `kind`, or version 2."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._unified = not (CGROUPS / kind).is_dir()
        base = CGROUPS if self._unified else CGROUPS / kind
        self.folder = base / f"healthd-chaos-{os.getpid()}"

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir()
            if self._unified and self._kind not in (self.folder / "cgroup.controllers").read_text().split():
                self.folder.rmdir()
                raise SkippedError(f"no control of {self._kind} in the control groups of this machine")
        except OSError as exc:
            raise SkippedError(f"no control group can be made here: {exc.strerror}") from exc
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(int(pid)).kill()
        deadline = time.monotonic() + 5
        while self.folder.is_dir() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            time.sleep(0.05)

    @property
    def prefix(self) -> Sequence[str]:
        """A command that enters it and becomes what follows."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh"]

    def limit_cpu(self, cores: float, *, period_seconds: float) -> None:
        """Give it so many cores."""
        period = int(period_seconds * 1e6)
        if self._unified:
            self._write("cpu.max", f"{int(cores * period)} {period}")
        else:
            self._write("cpu.cfs_period_us", str(period))
            self._write("cpu.cfs_quota_us", str(int(cores * period)))

    def used_bytes(self) -> int:
        """Return how much memory it takes now, caches of files included."""
        return int(self.usage.read_text())

    @property
    def usage(self) -> Path:
        """The file that says so."""
        return self.folder / ("memory.current" if self._unified else "memory.usage_in_bytes")

    def limit_memory(self, size: int) -> None:
        """Let it have so many bytes, at most."""
        self._write("memory.max" if self._unified else "memory.limit_in_bytes", str(size))

    def limit_hits(self) -> int:
        """Return how often something in it wanted more memory than it may have, and caches had to go."""
        return self._counted("memory.events", "max") if self._unified else int(self._read("memory.failcnt"))

    def killed(self) -> int:
        """Return how many processes were killed in it because it had no more memory."""
        return self._counted("memory.events" if self._unified else "memory.oom_control", "oom_kill")

    def throttled(self) -> tuple[int, int]:
        """Return in how many periods something wanted to run, and in how many of them its turn was taken away."""
        return self._counted("cpu.stat", "nr_periods"), self._counted("cpu.stat", "nr_throttled")

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="ascii")

    def _counted(self, name: str, what: str) -> int:
        return int(dict(line.split() for line in self._read(name).splitlines())[what])

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="ascii")


_BALLAST = """
import sys
usage, held = open(sys.argv[1]), []
for line in sys.stdin:
    while True:
        usage.seek(0)
        missing = int(line) - int(usage.read())
        if missing <= 0:
            break
        held.append(bytes([1]) * min(missing, 1 << 20))
    print("full", flush=True)
"""


class Ballast:
    """A process in a control group that takes memory and gives none back, for as long as the block lasts."""

    def __init__(self, group: Cgroup) -> None:
        self._command = [*group.prefix, sys.executable, "-S", "-E", "-c", _BALLAST, str(group.usage)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.fill(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def runs(self) -> bool:
        """Whether nobody has killed it."""
        return self._process.poll() is None

    def fill(self, size: int) -> None:
        """Fill the group until it has so many bytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


class Ages:
    """How old a camera's pictures are, by the number that each carries."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._cycle = COUNTER_H264_PICTURES / fps
        self._phase = 0.0

    def begin(self, jpeg: bytes, at: float) -> None:
        """Take the freshest of the first pictures as new."""
        phase = (at - _number(jpeg) / self._fps) % self._cycle
        if self._phase == 0.0 or (phase - self._phase) % self._cycle > self._cycle / 2:
            self._phase = phase

    def of(self, jpeg: bytes, at: float) -> float:
        """Return how old it is, in seconds."""
        age = (at - _number(jpeg) / self._fps - self._phase) % self._cycle
        return age if age < self._cycle - 1 else age - self._cycle


def _number(jpeg: bytes) -> int:
    found = number_of(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    if found is None:
        raise SkippedError("a picture carries no number")
    return found
