"""Somebody who looks on from a process of their own: what a snapshot waits for from the moment it is due.

The viewers of the load share one process, and what that is late with is no wait of the daemon's. Here is one connection
and nothing else to do. What waits is counted from when a snapshot is due, not from when the answer before it let it be
asked: of a freeze of two seconds all the snapshots are late that were due in it, not one ("coordinated omission", Gil
Tene, https://github.com/giltene/wrk2). There is one connection: where an answer takes longer than the time to the next
one for long, waits grow.

`python -m benchmarks.soak_probe URL CAMERAS`, the key in `HEALTHD_API_KEY`: a line for each snapshot, when it was due
(seconds of the monotonic clock) and milliseconds. Ends with its standard input.
"""

import http.client
import os
import select
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

PER_SECOND = 20
TIMEOUT_SECONDS = 15.0


class Probe(AbstractContextManager["Probe"]):
    """Such a process. Lives as long as its block."""

    def __init__(self, url: str, *, cameras: int, key: str, folder: Path) -> None:
        self._seen = folder / "waits"
        self._written: IO[bytes] = self._seen.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_probe", url, str(cameras)],
            env={**os.environ, "HEALTHD_API_KEY": key},
            stdin=subprocess.PIPE,
            stdout=self._written,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._written.close()

    def waits(self, begun: float) -> list[tuple[float, float]]:
        """Return minute since `begun` (`time.monotonic`) and milliseconds of each snapshot; after the block.

        Raises:
            RuntimeError: the process broke.
        """
        if self._process.returncode != 0:
            raise RuntimeError(f"the probe has ended with {self._process.returncode}")
        lines = (line.split() for line in self._seen.read_text(encoding="ascii").splitlines())
        return [((float(due) - begun) / 60, float(milliseconds)) for due, milliseconds in lines]


def look(url: str, cameras: int, key: str) -> None:
    """Ask for one snapshot after the other, `PER_SECOND`, until standard input ends."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=TIMEOUT_SECONDS)
    begun, number = time.monotonic(), 0
    while True:
        due = begun + number / PER_SECOND
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            return
        try:
            connection.request("GET", f"/api/v1/cameras/c{number % cameras}/snapshot", headers={"X-Api-Key": key})
            answer = connection.getresponse()
            answer.read()
            told = answer.status in {200, 404}  # one that is lost is told as fast
            if not told and answer.status != 503:
                sys.exit(f"the daemon answers {answer.status}")
        except (OSError, http.client.HTTPException):
            connection.close()
            told = False
        if told:
            print(f"{due:.6f} {(time.monotonic() - due) * 1000:.3f}")
            number += 1
        else:
            time.sleep(0.01)  # the same again: it is due since then


if __name__ == "__main__":
    look(sys.argv[1], int(sys.argv[2]), os.environ["HEALTHD_API_KEY"])
