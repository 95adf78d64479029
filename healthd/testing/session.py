"""One session of a camera, as the daemon has it: made, opened, read and left on a thread of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from healthd.cameras.source import CameraSource, TwoStepRead
from healthd.errors import CameraError, EndOfStream, HealthdError
from healthd.frames import CapturedImage, Image, JpegImage, published_image
from healthd.testing.lane import Lane
from healthd.testing.rules import Broken

_LEAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Taken:
    """One image that the camera delivered."""

    image: Image
    """Read-only, as the daemon publishes it."""
    position_seconds: float | None
    at: float
    """When it came, in seconds of the monotonic clock."""


class Session:
    """From opening a camera until it is left. What takes too long, or raises what it should not, is `Broken`."""

    def __init__(self, source: CameraSource, *, patience: float = 1.0) -> None:
        """`patience`: seconds that the source may take longer than it was told, for a machine that is busy."""
        self._source = source
        self._patience = patience
        self._lane = Lane(source.name)
        self._manager: AbstractContextManager[Any] | None = None
        self._read: Any = None

    def open(self) -> None:
        """Open the camera.

        Raises:
            HealthdError: as the source said it.
        """
        seconds = self._source.open_timeout_seconds + self._patience

        def enter() -> None:
            manager = self._source.camera()
            if not hasattr(manager, "__enter__") or not hasattr(manager, "__exit__"):
                raise Broken(
                    f"camera() returned {type(manager).__name__}, not a context manager",
                    "write @contextmanager above it, and `yield` the callable",
                )
            self._read = manager.__enter__()
            self._manager = manager

        _of_its_kind(lambda: self._lane.call(enter, seconds=seconds, what="opening"), "opening", CameraError)
        if not callable(self._read):
            raise Broken(
                f"camera() yielded {type(self._read).__name__}, not a callable",
                "yield the function that reads an image",
            )

    def image(self) -> Taken:
        """Wait for the next image; those that are too old to be shown are passed over.

        Raises:
            CameraError: as the source said it; EndOfStream at the end.
        """
        seconds = self._source.stall_timeout_seconds + self._patience
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            output = self._read_once(seconds)
            if output is not None:
                return self._taken(output)
        raise Broken(f"it called every image too old for {seconds:g} s", "return None for backlog alone")

    def image_while(self, other: Callable[[], None]) -> Taken:
        """Return the next image, and do something else while it is waited for."""
        seconds = self._source.stall_timeout_seconds + self._patience
        answer = self._lane.begin(self._read)
        other()
        output = _of_its_kind(lambda: answer.result(timeout=seconds), "read()", CameraError)
        return self.image() if output is None else self._taken(output)

    def burst(self, count: int, *, seconds: float) -> int:
        """Return how many images come in so many seconds, `count` at most, read on its thread without a pause."""
        read = self._read

        def take() -> int:
            until, taken = time.monotonic() + seconds, 0
            while taken < count and time.monotonic() < until:
                taken += read() is not None
            return taken

        limit = self._source.stall_timeout_seconds + seconds + self._patience
        took: int = _of_its_kind(lambda: self._lane.call(take, seconds=limit, what="read()"), "read()", CameraError)
        return took

    def images(self, count: int, *, seconds: float) -> list[Taken]:
        """Return so many images, or fewer where the time is over or a recording has ended.

        Raises:
            Broken: it gave none, or a live camera has ended.
        """
        until, taken = time.monotonic() + seconds, list[Taken]()
        while len(taken) < count and (time.monotonic() < until or not taken):
            try:
                taken.append(self.image())
            except EndOfStream as exc:
                if taken and self._source.recording:
                    break
                raise Broken(
                    f"it ended after {len(taken)} images ({exc}), and is "
                    + ("a recording of none" if self._source.recording else "no recording"),
                    "say so with `recording = True` if it has an end; raise CameraError where a live camera is lost",
                ) from exc
        return taken

    def leave(self) -> None:
        """Close the camera, in order."""
        manager, self._manager = self._manager, None
        if manager is None:
            return
        try:
            self._lane.call(lambda: manager.__exit__(None, None, None), seconds=_LEAVE_SECONDS, what="closing")
        except Broken:
            raise
        except Exception as exc:
            raise Broken(
                f"closing raised {type(exc).__name__}: {exc}", "close what can be closed, and let the rest be"
            ) from exc

    def end(self) -> None:
        """Let the thread go, whatever became of the session."""
        self._read = None
        self._lane.close()

    def _read_once(self, seconds: float) -> object:
        read = self._read
        what = "grab()" if isinstance(read, TwoStepRead) else "read()"
        call = self._lane.call
        if not isinstance(read, TwoStepRead):
            return _of_its_kind(lambda: call(read, seconds=seconds, what=what), what, CameraError)
        if not _of_its_kind(lambda: call(read.grab, seconds=seconds, what=what), what, CameraError):
            return None
        output: object = _of_its_kind(
            lambda: call(read.retrieve, seconds=seconds, what="retrieve()"), "retrieve()", CameraError
        )
        if output is None:
            raise Broken("retrieve() returned None", "say in grab() whether an image is too old")
        return output

    def _taken(self, output: object) -> Taken:
        at = time.monotonic()
        captured = output if isinstance(output, CapturedImage) else None
        try:
            image = published_image(captured.image if captured else output)
            image = image.pixels() if isinstance(image, JpegImage) else image
        except CameraError as exc:
            raise Broken(
                str(exc), "return a NumPy array, uint8, of shape (height, width, 3), in BGR, or a JpegImage"
            ) from exc
        return Taken(image, captured.position_seconds if captured else None, at)


def _of_its_kind(call: Any, what: str, kind: type[HealthdError]) -> Any:
    """Call it; let errors of healthd through, and tell all others for what they are."""
    try:
        return call()
    except (HealthdError, Broken):
        raise
    except Exception as exc:
        raise Broken(
            f"{what} raised {type(exc).__name__}: {exc}",
            f"raise {kind.__name__} for what may pass, SettingsError for what will not, with the reason in words",
        ) from exc


@contextmanager
def opened(source: CameraSource) -> Iterator[Session]:
    """Open a session for as long as the block lasts; then close it, in order."""
    session = Session(source)
    try:
        session.open()
        try:
            yield session
        except BaseException:
            session_left_quietly(session)
            raise
        session.leave()
    finally:
        session.end()


def session_left_quietly(session: Session) -> None:
    """Close a session of which something else has gone wrong already."""
    try:
        session.leave()
    except Broken:
        return
