"""Run `healthd demo` and see that it predicts, draws and stops; exit 1 if not.

    python smoke.py [COMMAND ...]     default: python -m healthd

Run while the image is built: it shows that nothing is missing.
"""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

PATIENCE_SECONDS = 120


def main(command: list[str]) -> None:
    """Start the demo, look at it, stop it."""
    with subprocess.Popen([*command, "demo", "--port", "0"], stdout=subprocess.PIPE, text=True) as daemon:  # noqa: S603
        try:
            _look(daemon)
            daemon.terminate()
            code = daemon.wait(timeout=30)
        finally:
            daemon.kill()
    if code != 0:
        sys.exit(f"smoke: the stop ended with exit code {code}")


def _look(daemon: subprocess.Popen[str]) -> None:
    line = daemon.stdout.readline() if daemon.stdout else ""
    found = re.search(r"http://\S+", line)
    if found is None:
        sys.exit(f"smoke: it did not start: {line!r}")
    url = found[0]

    def get(path: str) -> bytes:
        with urllib.request.urlopen(url + path, timeout=10) as answer:  # noqa: S310  our own daemon
            return bytes(answer.read())

    def predicted() -> bool:
        cameras = json.loads(get("/api/v1/cameras"))
        return len(cameras) == 2 and all(camera["state"] == "live" and camera["predicted_fps"] for camera in cameras)

    _until(predicted, "both cameras are live and predicted")
    for camera in json.loads(get("/api/v1/cameras")):
        picture = get(f"/api/v1/cameras/{camera['name']}/snapshot?overlay=true")
        if not picture.startswith(b"\xff\xd8"):
            sys.exit("smoke: a snapshot is no JPEG")
        print(f"{camera['name']}: {camera['predicted_fps']} predictions a second, a picture of {len(picture)} bytes")  # noqa: T201


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"smoke: not within {PATIENCE_SECONDS} s: {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable, "-m", "healthd"])
