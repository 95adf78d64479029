"""A network of its own for one test: a loopback that can lose packets."""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

import pytest

CLONE_NEWNET = 0x40000000
NEEDED = ("unshare", "nsenter", "ip", "iptables")


class Network:
    """A network namespace with nothing in it but loopback. Lives as long as the block; skips where none can be made."""

    def __enter__(self) -> Self:
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            pytest.skip(f"not on this machine: {', '.join(missing)}")
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "600"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._wait()
            self.run("ip", "link", "set", "lo", "up")
            self.run("iptables", "-L", "-n")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stderr is not None
        self._holder.stderr.close()

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that is to run in here."""
        return ["nsenter", "--target", str(self._holder.pid), "--net"]

    def run(self, *command: str) -> None:
        """Run a command in here; skip the test where that is not permitted."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, timeout=10, check=False)
        if done.returncode != 0:
            pytest.skip(f"this machine permits no `{command[0]}` in a network namespace: {done.stderr.strip()}")

    def socket(self) -> socket.socket:
        """Return a socket that is in here, for use anywhere in this process."""
        made: list[socket.socket | OSError] = []

        def make() -> None:  # a namespace is a thread's
            descriptor = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
                    made.append(OSError(ctypes.get_errno(), "setns"))
                else:
                    made.append(socket.socket())
            finally:
                os.close(descriptor)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join(timeout=10)
        (found,) = made
        if isinstance(found, OSError):
            raise found
        return found

    def lose(self, port: int) -> None:
        """Lose from now on whatever comes from this port or goes to it."""
        for way in ("--sport", "--dport"):
            self.run("iptables", "-A", "INPUT", "-p", "tcp", way, str(port), "-j", "DROP")

    def _wait(self) -> None:
        """Wait until the namespace is there."""
        ours, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{self._holder.pid}/ns/net")
        deadline = time.monotonic() + 10
        while theirs.readlink() == ours.readlink():
            if self._holder.poll() is not None:
                assert self._holder.stderr is not None
                pytest.skip(f"this machine permits no network namespace: {self._holder.stderr.read().decode().strip()}")
            if time.monotonic() > deadline:
                raise AssertionError("no namespace within 10 s")
            time.sleep(0.01)
