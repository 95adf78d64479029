"""Why a camera cannot be opened, in words that help and that hold no secret."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from healthd.cameras.probe import SourceKind, file_path, kind_of, why_not_open
from healthd.errors import SettingsError
from healthd.redact import SourceUrl
from tests.mjpeg_server import MjpegBehaviour, MjpegServer
from tests.rtsp_server import Behaviour, RtspServer

NASTY = ("admin", "p@ss/?#%ü")
NASTY_INFO = "admin:p%40ss%2F%3F%23%25%C3%BC"


def why(url: str, **limits: float) -> str:
    reason = why_not_open(SourceUrl(url), waited_seconds=1.0, **limits)
    assert "wrong-password" not in reason
    assert "p@ss" not in reason
    return reason


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port where connections are accepted by the kernel and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("digest", [False, True])
def test_rtsp_tells_a_wrong_password_from_a_missing_one_and_accepts_the_right_one(*, digest: bool) -> None:
    with RtspServer(behaviour=Behaviour(credentials=NASTY, digest=digest)) as camera:
        assert why(camera.url_of()) == "the camera wants a user name and a password (401)"
        wrong = camera.url_of(user_info="admin:wrong-password")
        assert why(wrong) == "the camera refuses the user name or password (401)"
        assert "(404)" in why(camera.url_of("other", user_info=NASTY_INFO))
        assert why(camera.url) == "the camera answers, but no picture could be opened within 1.0 s"


@pytest.mark.parametrize("digest", [False, True])
def test_http_tells_a_wrong_password_from_a_missing_one_and_accepts_the_right_one(*, digest: bool) -> None:
    with MjpegServer(MjpegBehaviour(credentials=NASTY, digest=digest)) as camera:
        assert why(camera.url_of()) == "the camera wants a user name and a password (401)"
        wrong = camera.url_of(user_info="admin:wrong-password")
        assert why(wrong) == "the camera refuses the user name or password (401)"
        assert "(404)" in why(camera.url_of("other", user_info=NASTY_INFO))
        assert "no picture" in why(camera.url_of(user_info=NASTY_INFO))
        assert why(camera.url_of("page", user_info=NASTY_INFO)) == "not a video: the camera answers with text/html"


def test_a_stream_of_sound_alone_is_not_a_video() -> None:
    with RtspServer(behaviour=Behaviour(audio_only=True)) as camera:
        assert why(camera.url) == "not a video: the stream has no video track"


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_refused_unknown_and_silent_hosts_are_told_apart(scheme: str, listener: socket.socket) -> None:
    port = closed_port()
    assert why(f"{scheme}://127.0.0.1:{port}/cam") == f"connection refused: nothing listens on port {port} of 127.0.0.1"
    assert why(f"{scheme}://no-such-host.invalid/cam") == "the host name no-such-host.invalid is not known"
    began = time.monotonic()
    silent = f"{scheme}://admin:wrong-password@127.0.0.1:{listener.getsockname()[1]}/cam"
    assert why(silent, limit_seconds=0.5) == "the camera accepts the connection but does not answer"
    assert time.monotonic() - began < 1.5


def test_a_camera_that_does_not_take_the_connection_times_out(listener: socket.socket) -> None:
    listener.listen(0)
    port = listener.getsockname()[1]
    waiting = []
    for _ in range(4):  # fill the queue of the kernel: the next one gets no answer at all
        waiting.append(socket.socket())
        waiting[-1].setblocking(False)
        waiting[-1].connect_ex(("127.0.0.1", port))
    reason = why(f"rtsp://127.0.0.1:{port}/cam", limit_seconds=0.5)
    for one in waiting:
        one.close()
    assert reason == f"127.0.0.1 does not answer on port {port}: timed out"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "what listens there does not speak RTSP"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "what listens there does not speak RTSP"),
        (b"", "the camera closes the connection without an answer"),
        (b"RTSP/1.0 503 wrong-password\r\n\r\n", "the camera answers with an error (503)"),
        (b"RTSP/1.0 302 Moved\r\nLocation: rtsp://wrong-password\r\n\r\n", "redirects to another address (302)"),
        (b"RTSP/1.0 403 No\r\n\r\n", "the camera forbids access to this stream (403)"),
    ],
)
def test_strange_answers_have_a_reason_too_and_are_not_repeated(
    listener: socket.socket, answer: bytes, reason: str
) -> None:
    def reply() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=reply)
    thread.start()
    assert reason in why(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/cam")
    thread.join()


def test_a_camera_without_tls_is_told_so(listener: socket.socket) -> None:
    def reply() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"RTSP/1.0 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=reply)
    thread.start()
    port = listener.getsockname()[1]
    assert why(f"rtsps://127.0.0.1:{port}/cam") == f"what listens on port {port} does not speak TLS"
    thread.join()


def test_files_have_a_reason_each(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.mp4").write_text("not a video\n" * 50)
    assert why(str(tmp_path / "none.mp4")).endswith("none.mp4 does not exist")
    assert why(f"file://{tmp_path}/none.mp4").endswith("none.mp4 does not exist")
    assert why(str(tmp_path)).endswith("is a directory, not a video")
    assert why(str(tmp_path / "empty.mp4")).endswith("empty.mp4 is empty")
    assert why(str(tmp_path / "notes.mp4")).endswith("is not a video that can be read")
    assert why(str(tmp_path / "notes.mp4" / "x")).endswith("cannot be read: Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").touch(mode=0)
    assert "may not be read" in why(str(tmp_path / "secret.mp4"))


def test_devices_have_a_reason_each() -> None:
    assert why("97") == "the device /dev/video97 does not exist: unplugged, or not passed into the container"
    assert why("/dev/no-such-camera").startswith("the device /dev/no-such-camera does not exist")
    assert why("/dev/null") == "/dev/null is not a video device"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rtsp://camera/stream", SourceKind.RTSP),
        ("RTSPS://camera/stream", SourceKind.RTSP),
        ("http://camera/video", SourceKind.HTTP),
        ("https://camera/video", SourceKind.HTTP),
        ("0", SourceKind.DEVICE),
        ("/dev/video0", SourceKind.DEVICE),
        ("/dev/v4l/by-id/camera", SourceKind.DEVICE),
        ("/dev/shm/clip.mp4", SourceKind.FILE),
        ("clips/a.mp4", SourceKind.FILE),
        ("file:///clips/a%20b.mp4", SourceKind.FILE),
    ],
)
def test_the_text_of_a_url_tells_its_kind(url: str, kind: SourceKind) -> None:
    assert kind_of(SourceUrl(url)) is kind


def test_a_file_url_is_decoded_and_a_home_directory_expanded() -> None:
    assert file_path(SourceUrl("file:///clips/a%20b.mp4")) == Path("/clips/a b.mp4")
    assert file_path(SourceUrl("~/a.mp4")) == Path.home() / "a.mp4"


@pytest.mark.parametrize("url", ["ftp://host/a.mp4", "rtsp:///stream", "udp://239.0.0.1:5000", "rtsp://host:99999/x"])
def test_what_can_never_be_opened_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError):
        kind_of(SourceUrl(url))
