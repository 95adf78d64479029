"""TLS by the daemon itself: what is served over it, and what becomes of its certificate."""

import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import make_certificate
from tests.process.daemon import Daemon, run_verb, until

CAMERA = {"gym": {"plugin": "faulty", "options": {"model": "counter"}}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    cert, key = make_certificate(home)
    settings = {
        "server": {"tls_cert": cert.name, "tls_key": key.name, "header_timeout_seconds": 2, "hsts_seconds": 600},
        "auth": {"keys": [{"name": "panel", "key": "k3y-of-the-panel!", "scope": "admin"}]},
        "cameras": CAMERA,
    }
    with Daemon(home, settings) as running:
        assert running.url.startswith("https://")
        yield running


def trusting(daemon: Daemon, cert: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(cert))
    return httpx.Client(base_url=daemon.url, verify=context, trust_env=False, timeout=20)


def serial_of(daemon: Daemon) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", daemon.port), 10) as plain, context.wrap_socket(plain) as secure:
        return secure.getpeercert(binary_form=True) or b""


def test_pages_pictures_and_streams_come_over_tls_and_the_cookie_stays_there(daemon: Daemon, home: Path) -> None:
    with trusting(daemon, home / "server.crt") as client:
        answer = client.post("/api/v1/auth/login", json={"key": "k3y-of-the-panel!"})
        assert answer.status_code == 200
        assert "secure" in answer.headers["set-cookie"].lower()
        assert answer.headers["strict-transport-security"] == "max-age=600"
        until(lambda: client.get("/api/v1/cameras/gym/snapshot").status_code == 200)
        for _ in range(3):  # the first is encoded, the others are answered before the router
            picture = client.get("/api/v1/cameras/gym/snapshot", headers={"X-Api-Key": "k3y-of-the-panel!"})
            assert picture.content[:2] == b"\xff\xd8"
            assert len(picture.content) == int(picture.headers["content-length"])
        with client.stream("GET", "/api/v1/cameras/gym/stream") as stream:
            begun = b""
            for piece in stream.iter_raw():
                begun += piece
                if begun.count(b"image/jpeg") > 2:
                    break
        metrics = client.get("/metrics").text
        left = next(line for line in metrics.splitlines() if line.startswith("healthd_tls_certificate_expires_seconds"))
        assert 86_400 < float(left.rpartition(" ")[2]) <= 2 * 86_400


def test_whoever_speaks_no_tls_or_an_old_one_gets_nothing(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), 10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in plain.recv(4096)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", daemon.port), 10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    assert not daemon.errors()


def test_a_new_certificate_is_taken_without_a_restart_and_a_broken_one_is_not(daemon: Daemon, home: Path) -> None:
    before = serial_of(daemon)
    key = (home / "server.key").read_text()
    (home / "server.key").write_text("no key at all")
    until(lambda: daemon.events("tls_reload_failed"), seconds=40, what=daemon.story)
    assert serial_of(daemon) == before
    assert key.splitlines()[1] not in daemon.stderr
    make_certificate(home)
    until(lambda: daemon.events("tls_reloaded"), seconds=40, what=daemon.story)
    assert serial_of(daemon) != before


def test_a_file_that_hangs_holds_up_nobody(daemon: Daemon, home: Path) -> None:
    key = home / "server.key"
    text = key.read_text()
    key.unlink()
    os.mkfifo(key)  # who reads it waits for a writer
    daemon.send(signal.SIGHUP)
    until(lambda: daemon.events("config_reloaded"), what=daemon.story)
    with trusting(daemon, home / "server.crt") as client:
        for _ in range(10):
            assert client.get("/healthz", timeout=5).status_code == 200
            time.sleep(0.05)
    failures = len(daemon.events("tls_reload_failed"))
    with key.open("w"):
        key.unlink()  # it is gone when it is read
    until(lambda: len(daemon.events("tls_reload_failed")) > failures, seconds=40, what=daemon.story)
    served = len(daemon.events("tls_reloaded"))
    key.write_text(text)
    until(lambda: len(daemon.events("tls_reloaded")) > served, seconds=40, what=daemon.story)


def test_it_stops_in_time_though_somebody_looks(daemon: Daemon, home: Path) -> None:
    headers = {"X-Api-Key": "k3y-of-the-panel!"}
    with (
        trusting(daemon, home / "server.crt") as client,
        client.stream("GET", "/api/v1/cameras/gym/stream", headers=headers) as stream,
    ):
        next(stream.iter_raw())
        code, seconds = daemon.stop()
    assert (code, seconds < 4) == (0, True)


def test_what_is_wrong_with_a_certificate_is_said_before_the_start(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    _, other = make_certificate(tmp_path, "other")
    expired, expired_key = make_certificate(tmp_path, "expired", days=-1)
    for pair, told, code in (
        ((cert, other), "server.tls_key: the key does not belong to the certificate", 2),
        ((cert, tmp_path / "none.key"), "server.tls_key: cannot read", 2),
        ((key, key), "server.tls_cert: there is no certificate in PEM form", 2),
        ((expired, expired_key), "hint: server.tls_cert: the certificate has expired: 20", 0),
    ):
        config = tmp_path / "config.toml"
        config.write_text(f'[server]\ntls_cert = "{pair[0]}"\ntls_key = "{pair[1]}"\n')
        done = run_verb("check-config", "--config", config, folder=tmp_path)
        assert told in done.stderr
        assert done.returncode == code, done.stderr
    config.write_text(f'[server]\nport = 0\ntls_cert = "{cert}"\ntls_key = "{other}"\n')
    done = run_verb("run", "--config", config, folder=tmp_path)
    assert (done.returncode, "does not belong" in done.stderr) == (1, True)
