"""A wall page that never sleeps: asks for snapshots again and again, and remembers every answer."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np


@dataclass(frozen=True)
class Answer:
    """One answer to one question; times are seconds of the monotonic clock."""

    sent: float
    received: float
    status: int
    frame_id: int | None = None
    said_age: float | None = None
    """Age in seconds, as the answer itself says."""
    state: str | None = None
    reason: str | None = None
    jpeg: bytes = b""

    @property
    def picture(self) -> np.ndarray:
        """The picture, decoded."""
        return cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)


class Watcher:
    """Asks for one camera's snapshots from `start` to `stop`, on a thread of its own.

    `follow`: with `after` and `wait`, as a page that wants every new picture at once.
    """

    def __init__(
        self, port: int, camera: str, *, query: str = "", follow: bool = False, every_seconds: float = 0.07
    ) -> None:
        self.answers: list[Answer] = []
        self.failure: Exception | None = None
        self._port = port
        self._path = f"/api/v1/cameras/{camera}/snapshot"
        self._query = query
        self._follow = follow
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{camera}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def _watch(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        last = 0
        try:
            while not self._stop.wait(self._every):
                follow = f"&after={last}&wait=400" if self._follow else ""
                answer = _asked(connection, f"{self._path}?{self._query}{follow}")
                last = answer.frame_id or last
                self.answers.append(answer)
        except Exception as exc:  # noqa: BLE001  the test reads it
            self.failure = exc
        finally:
            connection.close()


def _asked(connection: http.client.HTTPConnection, path: str) -> Answer:
    sent = time.monotonic()
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    received = time.monotonic()
    if response.status in {200, 304}:
        frame_id, age = response.headers["X-Frame-Id"], response.headers["X-Frame-Age-Ms"]
        return Answer(sent, received, response.status, int(frame_id), float(age) / 1000, jpeg=body)
    extra = json.loads(body)["extra"]
    return Answer(sent, received, response.status, state=extra.get("state"), reason=extra.get("reason"))


def ids_that_went_back(answers: Sequence[Answer]) -> list[tuple[int, int]]:
    """Return (id, later id) wherever an answer that was asked for later has an older frame."""
    found, newest = [], 0
    done = sorted((answer for answer in answers if answer.frame_id), key=lambda answer: answer.received)
    waiting = iter(done)
    ahead = next(waiting, None)
    for answer in sorted(done, key=lambda answer: answer.sent):
        while ahead is not None and ahead.received <= answer.sent:
            newest = max(newest, ahead.frame_id or 0)
            ahead = next(waiting, None)
        if answer.frame_id is not None and answer.frame_id < newest:
            found.append((newest, answer.frame_id))
    return found


def ids_used_twice(answers: Sequence[Answer], number_of: Callable[[np.ndarray], int | None]) -> list[int]:
    """Return the ids under which two different pictures were given."""
    numbers: dict[int, int | None] = {}
    twice = []
    for answer in answers:
        if answer.status == 200 and answer.frame_id is not None:
            number = number_of(answer.picture)
            if numbers.setdefault(answer.frame_id, number) != number:
                twice.append(answer.frame_id)
    return twice
