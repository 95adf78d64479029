"""A camera that any plugin can reuse: RTSP, HTTP, a V4L2 device or a video file, through OpenCV.

    class Garage(CameraSource):
        contract = 1
        options_model = CaptureOptions

        @property
        def recording(self):
            return is_recording(self.url, self.options)

        def camera(self):
            return open_camera(self.url, self.options)

Two facts of OpenCV 5 shape this file, both measured (see docs/cameras.md). Opening holds one lock for the whole
process unless `OPENCV_FFMPEG_IS_THREAD_SAFE` is set: one camera that does not answer would delay every other by its
timeout. And what FFmpeg is told of RTSP can be said in an environment variable only, which each open reads first.
"""

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import cv2
from pydantic import Field

from healthd.cameras.backlog import BacklogGate
from healthd.cameras.ffmpeg import limit_blocks
from healthd.cameras.names import LOOK_UP_SECONDS
from healthd.cameras.probe import PROBE_SECONDS, SourceKind, device_path, file_path, kind_of, look_up, why_not_open
from healthd.cameras.source import Read, SourceOptions, TwoStepRead
from healthd.cpus import thread_budget
from healthd.errors import CameraError, EndOfStream, SettingsError
from healthd.frames import CapturedImage, Image, StreamInfo
from healthd.redact import SourceUrl

Transport: TypeAlias = Literal["tcp", "udp"]

_MOST_FAILED_GRABS = 600
"""So many failures in a row are the end: each costs a picture that cannot be decoded, or 4 us where nothing comes."""

_ANALYSE_SECONDS = 0.5
"""How much of a stream FFmpeg looks at before it is open (its own choice: 5 s, which is also what it then lags)."""

_ANALYSE_LONGER_SECONDS = 5.0
"""The same for a camera that sends its parameters with the key pictures only."""

_LONGEST_SLEEP_SECONDS = 2.0
_CODECS = {"avc1": "h264", "hvc1": "hevc", "hev1": "hevc", "mjpg": "mjpeg", "mp4v": "mpeg4", "fmp4": "mpeg4"}

os.environ["OPENCV_FFMPEG_IS_THREAD_SAFE"] = "1"
limit_blocks()
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # what fails is said in a CameraError, once


class CaptureOptions(SourceOptions):
    """How a camera is opened. A plugin inherits it in its own options."""

    transport: Transport = Field(
        "tcp", description="How RTSP pictures travel: `tcp`, or `udp` where TCP is not offered."
    )
    realtime: bool = Field(False, description="Play a file like a camera: paced by its fps, the newest image wins.")
    loop: bool = Field(False, description="Begin a file again when it has ended.")
    device_width: int | None = Field(None, ge=1, description="Width to ask of a V4L2 device, in pixels.")
    device_height: int | None = Field(None, ge=1, description="Height to ask of a V4L2 device, in pixels.")
    device_fps: float | None = Field(None, gt=0, description="Images per second to ask of a V4L2 device.")
    device_format: str | None = Field(
        None, pattern="^[A-Z0-9]{4}$", description="Pixel format to ask of a V4L2 device, e.g. `MJPG` or `YUYV`."
    )
    read_timeout_seconds: float | None = Field(
        None,
        ge=0.1,
        le=3600,
        description="A read without an image fails after so long; absent: the camera's `stall_timeout_seconds`.",
    )
    decoder_threads: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Threads that decode; by default 1 for a live camera, `performance.threads` for a recording.",
    )


def is_recording(url: SourceUrl, options: CaptureOptions) -> bool:
    """Tell whether the URL is a recording: a file whose every image is wanted, in order. Never raises."""
    try:
        return kind_of(url) is SourceKind.FILE and not options.realtime
    except SettingsError:  # it will be said when it is opened
        return False


@contextmanager
def open_camera(
    url: SourceUrl,
    options: CaptureOptions,
    *,
    open_timeout_seconds: float = 10.0,
    read_timeout_seconds: float | None = None,
) -> Iterator[Read]:
    """Open a camera; yield a callable that waits for the next image. Blocking; all of it belongs on one thread.

    Entering takes at most `open_timeout_seconds`, of which up to three are kept for finding out why it failed. The
    callable returns a `CapturedImage`, whose pixels belong to the caller, or None for an image that is old (backlog). A
    read without an image fails after one to two times `read_timeout_seconds` (None: as in the options, or 5). Leaving
    releases the camera.

    `position_seconds` is the position in the file, exact, beginning at 0 with each loop; for RTSP the time on the
    stream's own clock; None for HTTP and devices, which have none.

    Raises:
        CameraError: it cannot be opened now, or was lost; the message says why and holds no secret.
        EndOfStream: the file has ended.
        SettingsError: the URL names nothing that can ever be opened.
    """
    session = _Session(url, options, open_timeout_seconds, read_timeout_seconds or options.read_timeout_seconds or 5.0)
    session.open()
    try:
        yield _FileReader(session) if session.kind is SourceKind.FILE else _LiveReader(session)
    finally:
        session.release()


class _CaptureOptionsVariable:
    """The environment variable with the options of FFmpeg, which OpenCV reads at the beginning of each open.

    It is set and left: only who needs another value than the last waits, until those who began before have read theirs.
    So cameras of one transport never wait for each other, and nobody ever waits for a camera.
    """

    NAME = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    READ_BY_THEN_SECONDS = 0.1

    def __init__(self) -> None:
        self._users = os.environ.get(self.NAME)
        self._lock = threading.Lock()
        self._last_open = -math.inf

    def set_for_open(self, transport: Transport, analyse_seconds: float) -> None:
        """Set the options for an open that follows at once. What the user has set stays, but for the transport."""
        own = f"analyzeduration;{int(analyse_seconds * 1e6)}|rtsp_transport;{transport}"
        value = f"{self._users}|{own}" if self._users else own
        with self._lock:
            if os.environ.get(self.NAME) != value:
                time.sleep(max(0.0, self._last_open + self.READ_BY_THEN_SECONDS - time.monotonic()))
                os.environ[self.NAME] = value
            self._last_open = time.monotonic()


_ffmpeg_options = _CaptureOptionsVariable()


class _Session:
    """One `cv2.VideoCapture` from open to release, again for each loop of a file."""

    def __init__(self, url: SourceUrl, options: CaptureOptions, open_timeout: float, read_timeout: float) -> None:
        self.kind = kind_of(url)
        self.options = options
        self._url = url
        self._open_timeout = open_timeout
        self._read_timeout = read_timeout
        self._capture: cv2.VideoCapture | None = None
        self._info: StreamInfo | None = None

    @property
    def capture(self) -> cv2.VideoCapture:
        if self._capture is None:
            raise CameraError("the camera was released")
        return self._capture

    def open(self) -> None:
        """Open, or find out why it cannot be opened."""
        began = time.monotonic()
        look_up(self._url, seconds=min(LOOK_UP_SECONDS, self._open_timeout / 2))
        timeout = max(self._open_timeout / 2, self._open_timeout - PROBE_SECONDS - 0.2)
        opened = self._open_device() if self.kind is SourceKind.DEVICE else self._open_ffmpeg(timeout, _ANALYSE_SECONDS)
        took = time.monotonic() - began
        if opened and not self._has_size() and took < timeout / 2:
            self.release()
            opened = self._open_ffmpeg(timeout - took, _ANALYSE_LONGER_SECONDS)
            took = time.monotonic() - began
        if opened and self._has_size():
            return
        self.release()
        limit = min(PROBE_SECONDS, self._open_timeout - took - 0.1)
        raise CameraError(why_not_open(self._url, waited_seconds=took, limit_seconds=limit))

    def release(self) -> None:
        """Give the camera back; once for each that was opened."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def grab(self) -> None:
        """Wait for the next image and decode it.

        A grab that took as long as the timeout is a failure even where it delivers: the decoder has then handed out
        what it held, an old image, and can no more be used.
        """
        began = time.monotonic()
        for _ in range(_MOST_FAILED_GRABS):
            grabbed = self.capture.grab()
            waited = time.monotonic() - began
            if waited >= self._read_timeout:
                raise CameraError(f"no image could be had for {waited:.1f} s")
            if grabbed:
                return
        if self.kind is SourceKind.FILE:
            raise EndOfStream("the file has ended")
        raise CameraError("the camera was lost: it delivers no more images")

    def retrieve(self, position_seconds: float | None, target: Image | None = None) -> CapturedImage:
        """Return the image that was grabbed, as an array of its own, or in `target` if it has that shape."""
        ok, image = self.capture.retrieve(target)
        if not ok:
            raise CameraError("an image could not be converted")
        height, width = image.shape[:2]
        if self._info is None or (self._info.width, self._info.height) != (width, height):
            self._info = self._describe(width, height)
        return CapturedImage(image, position_seconds, self._info)  # type: ignore[arg-type]

    def _open_ffmpeg(self, timeout: float, analyse_seconds: float) -> bool:
        live = self.kind is not SourceKind.FILE
        threads = self.options.decoder_threads or (1 if live or self.options.realtime else thread_budget())
        timeouts = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: int(timeout * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: int(self._read_timeout * 1000),
            cv2.CAP_PROP_N_THREADS: threads,
        }
        source = self._url.reveal() if live else str(file_path(self._url))
        parameters = [number for pair in timeouts.items() for number in pair]
        _ffmpeg_options.set_for_open(self.options.transport, analyse_seconds)
        self._capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, parameters)
        return self._capture.isOpened()

    def _open_device(self) -> bool:
        self._capture = cv2.VideoCapture(str(device_path(self._url)), cv2.CAP_V4L2)
        wanted = self.options
        asked = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*wanted.device_format) if wanted.device_format else None,
            cv2.CAP_PROP_FRAME_WIDTH: wanted.device_width,
            cv2.CAP_PROP_FRAME_HEIGHT: wanted.device_height,
            cv2.CAP_PROP_FPS: wanted.device_fps,
        }
        for key, value in asked.items():
            if value is not None and self._capture.isOpened():
                self._capture.set(key, value)  # what the device does not know it rounds, and the info tells
        return self._capture.isOpened()

    def _has_size(self) -> bool:
        return self.capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0

    def _describe(self, width: int, height: int) -> StreamInfo:
        fps = self.capture.get(cv2.CAP_PROP_FPS)
        four = int(self.capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        codec = four.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ").lower()
        codec = _CODECS.get(codec, codec)
        made_up = self.kind is SourceKind.HTTP and codec == "mjpeg"  # FFmpeg says 25
        return StreamInfo(width, height, None if made_up else _plausible_fps(fps), codec or None)


def _plausible_fps(fps: float) -> float | None:
    return fps if math.isfinite(fps) and 0 < fps < 1000 else None


class DirectRead(TwoStepRead):
    """A read that can make its pixels where they are wanted, and saves whoever wants them there a copy."""

    target: Image | None = None
    """Where the next image is to be written if it has this shape; then it is what `retrieve` returns."""


class _LiveReader(DirectRead):
    """Reads a live camera, and tells live images from old ones where a network is in between."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._clocked = session.kind is SourceKind.RTSP
        self._gate = None if session.kind is SourceKind.DEVICE else BacklogGate(clocked=self._clocked)
        self._position: float | None = None

    def grab(self) -> bool:
        """Wait for the next image and decode it."""
        self._session.grab()
        self._position = self._session.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 if self._clocked else None
        return self._gate is None or self._gate.admits(time.monotonic(), self._position)

    def retrieve(self) -> CapturedImage:
        """Convert it."""
        return self._session.retrieve(self._position, self.target)


class _FileReader(DirectRead):
    """Reads a file: every image, or paced by its clock when `realtime`; again and again when `loop`."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._count = 0
        self._expected = session.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._interval = 1 / (_plausible_fps(session.capture.get(cv2.CAP_PROP_FPS)) or 25)
        self._first_raw = 0.0
        self._position = 0.0
        self._due: float | None = None

    def grab(self) -> bool:
        """Go to the next image, or to the one that is due now."""
        self._advance()
        if self._session.options.realtime:
            self._keep_pace()
        return True

    def retrieve(self) -> CapturedImage:
        """Convert it."""
        return self._session.retrieve(self._position, self.target)

    def _advance(self) -> None:
        """Go to the next image; begin again at the end when the file loops."""
        try:
            self._session.grab()
        except EndOfStream:
            self._begin_again()
            self._session.grab()
        raw = self._session.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        step = self._interval
        if self._count == 0:
            self._first_raw, self._position = raw, 0.0
        else:
            # some containers carry no times, or none for the last images
            step = raw - self._first_raw - self._position
            step = step if step > 0 else self._interval
            self._position += step
        self._count += 1
        if self._due is not None:
            self._due += min(step, _LONGEST_SLEEP_SECONDS)

    def _begin_again(self) -> None:
        if self._count == 0:
            raise CameraError("the file holds no image that can be read")
        if not self._session.options.loop:
            cut_off = self._expected > self._count
            of_how_many = f" of {self._expected:.0f}: the file is cut off or damaged" if cut_off else ""
            raise EndOfStream(f"the recording has ended after {self._count} images{of_how_many}")
        self._session.release()
        self._session.open()
        self._count = 0

    def _keep_pace(self) -> None:
        """Sleep until the image is due; pass over those whose successor is due already."""
        began = time.monotonic()
        if self._due is None:
            self._due = began
        while (late := time.monotonic() - self._due) > self._interval:
            if time.monotonic() - began > 0.5:  # slower than the file: play it slowly
                self._due = time.monotonic()
                return
            self._advance()
        time.sleep(min(max(0.0, -late), _LONGEST_SLEEP_SECONDS))
