"""Nobody reads what it writes: standard output and standard error are pipes that are full from the beginning."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.daemon import INSTALLED, environment, new_client, to_toml, until
from tests.process.test_stop import camera

pytestmark = pytest.mark.process

STOP_SECONDS = 2.5
"""Both streams are waited for, half a second each; the rest is for a loaded machine."""

LOUD = {**camera(do="spew", fps=50), "url": f"rtsp://camera.example/{'x' * 400}"}


@pytest.fixture
def full() -> Iterator[int]:
    """The writing end of a pipe that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 1024)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


@contextlib.contextmanager
def process(full: int, folder: Path, *command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output nobody reads."""
    started = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment([INSTALLED]),
        stdin=subprocess.DEVNULL,
        stdout=full,
        stderr=full,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait(timeout=10)


@contextlib.contextmanager
def unread(full: int, folder: Path, **settings: Any) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A daemon whose output nobody reads, and a client of it, as soon as it answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config = folder / "config.toml"
    config.write_text(to_toml({"server": {"port": port}, "log": {"level": "debug"}, **settings}), encoding="utf-8")

    def answers(client: httpx.Client) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return client.get("/readyz").status_code == 200
        return False

    with (
        process(full, folder, "-m", "healthd", "run", "--config", config) as daemon,
        new_client(f"http://127.0.0.1:{port}") as client,
    ):
        until(lambda: answers(client), seconds=40, what="ready")
        yield daemon, client


def test_it_goes_on_answering_and_stops_as_ever(full: int, tmp_path: Path) -> None:
    shutdown = {"grace_seconds": 1, "drain_seconds": 1}
    with unread(full, tmp_path, shutdown=shutdown, cameras={"loud": LOUD, "fine": camera()}) as (daemon, client):
        newest = 0
        for _ in range(20):
            assert client.get("/healthz", timeout=3).status_code == 200
            frame = client.get("/api/v1/cameras/loud").json()["frame_id"]
            assert frame > newest, "the camera waits for the log"
            newest = frame
            time.sleep(0.25)
        begun = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
        assert time.monotonic() - begun < STOP_SECONDS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(number: signal.Signals, code: int, full: int, tmp_path: Path) -> None:
    cameras = {"loud": LOUD, "hung": camera(do="hang", after=5)}
    with unread(full, tmp_path, shutdown={"drain_seconds": 60}, cameras=cameras) as (daemon, client):
        until(lambda: client.get("/api/v1/cameras/hung").json()["frame_id"] == 5)
        daemon.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        time.sleep(0.2)
        begun = time.monotonic()
        daemon.send_signal(number)
        assert daemon.wait(timeout=20) == code
        assert time.monotonic() - begun < 1


@pytest.mark.parametrize("error", ["RuntimeError('a bug')", "d.StartError('the port is taken')"])
def test_a_crash_and_a_start_that_fails_end_it_too(error: str, full: int, tmp_path: Path) -> None:
    script = f"""
import healthd.daemon as d, healthd.cli
async def serve(*args, **kwargs):
    print("something")
    raise {error}
d.serve = serve
healthd.cli.main(["run"])
"""
    with process(full, tmp_path, "-c", script) as crashed:
        assert crashed.wait(timeout=30) == 1
