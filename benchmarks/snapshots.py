"""A cached snapshot over HTTP: requests a second of one core, beside nginx with the file and FastAPI with a cache.

Each server gets one core, wrk the other one; they are measured in turn, several rounds, and each round is a ratio.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import psutil

from benchmarks.figures import Figure
from benchmarks.plugin.healthd_bench import room_picture
from benchmarks.process import Daemon
from benchmarks.streams import _url_of

CONNECTIONS = 16
PEER = Path(__file__).parent / "peers" / "fastapi_snapshot.py"
QUALITIES = (88, 94)
"""Make a picture of the room about 120 and 190 kB."""
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    types {{ image/jpeg jpg; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _nginx(picture: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        folder.chmod(0o755)
        (folder / "room.jpg").write_bytes(picture)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port), encoding="utf-8")
        process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            _pin(process.pid)
            yield f"http://127.0.0.1:{port}/room.jpg"
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _fastapi(picture: bytes, quality: int) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(picture)
        file.flush()
        process = subprocess.Popen(
            [sys.executable, str(PEER), file.name, str(quality)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = _url_of(process)
            _pin(process.pid)
            yield f"{url}/cameras/room"
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


@contextlib.contextmanager
def _healthd(quality: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(
            f'[server]\nport = 0\n[snapshots]\nquality = {quality}\n[cameras.room]\nplugin = "bench-room"\n',
            encoding="utf-8",
        )
        with Daemon("run", "--config", str(config)) as daemon:
            path = "/api/v1/cameras/room/snapshot"
            daemon.wait_for(lambda: daemon.get(path)[0] == 200)
            _pin(daemon.process.pid)
            yield daemon.url + path


def _pin(pid: int) -> None:
    """Keep a server, its children and all their threads on the first core."""
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        for thread in one.threads():
            os.sched_setaffinity(thread.id, {0})


def _rate(url: str, seconds: int) -> float:
    """Return requests per second, all of them answered well."""
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert found is not None
    return float(found[1])


def measure(*, quick: bool) -> list[Figure]:
    """Measure cached snapshots over HTTP."""
    missing = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    missing += [name for name in ("fastapi",) if importlib.util.find_spec(name) is None]
    if missing or len(os.sched_getaffinity(0)) < 2:
        print(f"cached snapshots: skipped, without {', '.join(missing) or 'a second core'}")
        return []
    return [figure for quality in QUALITIES for figure in _compare(quality, quick=quick)]


def _compare(quality: int, *, quick: bool) -> list[Figure]:
    picture = cv2.imencode(".jpg", room_picture(1), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    rounds, seconds = (3, 1) if quick else (7, 2)
    rates: dict[str, list[float]] = {name: [] for name in ("healthd", "nginx", "cached", "encoded")}
    with _healthd(quality) as ours, _nginx(picture) as nginx, _fastapi(picture, quality) as fastapi:
        urls = {"healthd": ours, "nginx": nginx, "cached": f"{fastapi}/snapshot", "encoded": f"{fastapi}/encoded"}
        for _ in range(rounds):
            for name, url in urls.items():
                rates[name].append(_rate(url, seconds))
    told = {name: f"{statistics.median(values):,.0f} per s" for name, values in rates.items()}
    size = f"{len(picture) / 1000:.0f} kB"
    how = f"{told['healthd']}; {CONNECTIONS} connections, one core for the server; healthd's camera goes on meanwhile"
    goals: tuple[tuple[str, tuple[str, float] | None, str], ...] = (
        ("nginx", (">=", 1.0), "nginx with the file, one worker"),
        ("cached", (">=", 5.0), "FastAPI `def` route with a cache"),
        ("encoded", None, "FastAPI `def` route that encodes"),
    )
    figures = []
    for peer, goal, what in goals:
        ratio = statistics.median(a / b for a, b in zip(rates["healthd"], rates[peer], strict=True))
        label = f"cached snapshot of {size}, requests per second, beside {what}"
        figures.append(Figure(label, ratio, "times", goal, told[peer], how))
    return figures
