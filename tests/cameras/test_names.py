"""Looking up a camera's name is bounded, however long the resolver takes."""

import socket
import threading
import time

import pytest

from healthd.cameras.capture import CaptureOptions, open_camera
from healthd.cameras.names import addresses
from healthd.errors import CameraError
from healthd.redact import SourceUrl


def test_a_resolver_that_hangs_is_asked_once_and_costs_each_attempt_its_bound_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answer = [], threading.Event()

    def resolve(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        assert answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    begun = time.monotonic()
    for _ in range(3):
        with pytest.raises(CameraError, match="name server does not answer"):
            addresses("gym-cam.example", 9, seconds=0.05)
    assert time.monotonic() - begun < 2
    assert asked == ["gym-cam.example"]
    answer.set()
    assert addresses("gym-cam.example", 9)[0][4] == ("127.0.0.1", 9)


def test_a_camera_whose_name_cannot_be_looked_up_is_not_given_to_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    url = SourceUrl("rtsp://gym-cam.example/cam")
    with pytest.raises(CameraError, match="name server does not answer"), open_camera(url, CaptureOptions()):
        pass
