"""The process of one camera: builds its source again, opens it, and writes its images where it is told to."""

import contextlib
import importlib
import math
import socket
import threading
import time
from typing import Any

import cv2
import msgspec

from healthd.cameras.capture import DirectRead
from healthd.cameras.factory import build_source
from healthd.cameras.isolated_wire import Build, Decode, Grab, Info, Open, Opened, Request, Take, Taken
from healthd.cameras.source import CameraSource, Read, TwoStepRead
from healthd.channel import Channel
from healthd.child_side import Parent, serve
from healthd.cpus import set_thread_budget
from healthd.errors import CameraError, PluginError, SettingsError
from healthd.frames import CapturedImage, Image, JpegImage, StreamInfo, decoded_jpeg, published_image
from healthd.models.model import CONTRACT
from healthd.plugin_watch import ImportWatch
from healthd.plugins import checked_class
from healthd.redact import SourceUrl
from healthd.settings_options import protected
from healthd.shared_images import Place, SharedMemory

_UPGRADED = "if its plugin was upgraded or uninstalled, restart healthd"
_check_source = checked_class(CameraSource, contract=CONTRACT)  # type: ignore[type-abstract]  # it makes no instance
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_decodes = msgspec.msgpack.Decoder(Decode)


def main(parent: Parent) -> None:
    """Serve one session of one camera; the entry of its process."""
    cv2.setNumThreads(1)  # the cores are the models'
    with contextlib.ExitStack() as session:
        images, lane = parent.descriptors
        camera = _Camera(SharedMemory(images), Channel(socket.socket(fileno=lane)), session)
        parent.serve(lambda request: camera.answer(_requests.decode(request)))


class _Camera:
    def __init__(self, memory: SharedMemory, lane: Channel, session: contextlib.ExitStack) -> None:
        """`lane`: where the JPEGs that it delivers are asked for as pixels."""
        self._memory = memory
        self._lane: Channel | None = lane
        self._session = session
        self._source: CameraSource | None = None
        self._read: Read | None = None
        self._target: Image | None = None
        self._shape: tuple[int, ...] | None = None
        self._kept: object = None
        """An image that did not fit where it was to be written."""
        self._came_at = 0.0

    def answer(self, request: Request) -> Opened | Taken | bool:
        if isinstance(request, Build):
            self._source = _built(request)
            return True
        if isinstance(request, Open):
            return self._open()
        read = self._read
        if read is None:
            raise CameraError("the camera was not opened")
        if isinstance(request, Grab):
            self._kept = None
            new = bool(read.grab()) if isinstance(read, TwoStepRead) else True
            self._came_at = time.monotonic()
            return new
        return self._take(read, request)

    def _retrieved(self, read: TwoStepRead, place: Place) -> object:
        """Retrieve an image, right where it goes if its source can do that and it has the shape of the last one."""
        self._target = None
        if isinstance(read, DirectRead) and self._shape is not None and math.prod(self._shape) <= place.size:
            self._target = read.target = self._memory.room(place, self._shape)
        return read.retrieve()

    def _open(self) -> Opened:
        if self._source is None:
            raise CameraError("the source was not built")
        read = self._session.enter_context(self._source.camera())
        if not callable(read):
            raise TypeError(f"the plugin's camera() yielded {type(read).__name__}, not something to call")
        self._read = read
        return Opened(isinstance(read, TwoStepRead))

    def _take(self, read: Read, wanted: Take) -> Taken:
        if wanted.again:
            output, self._kept = self._kept, None
        elif isinstance(read, TwoStepRead):
            output = self._retrieved(read, Place(*wanted.place))
        else:
            output = read()
            self._came_at = time.monotonic()
        at = self._came_at
        if output is None:
            return Taken("none", at)
        captured = output if isinstance(output, CapturedImage) else None
        image = captured.image if captured else output
        try:
            image = published_image(image, copy=False)  # it is copied to where it goes
        except CameraError as exc:
            return Taken("refused", at, reason=str(exc))
        place = Place(*wanted.place)
        size = len(image.data) if isinstance(image, JpegImage) else image.nbytes
        if size > place.size:
            self._kept = output
            return Taken("too_small", at, size=size)
        if isinstance(image, JpegImage):
            self._memory.write_bytes(place, image.data)
            self._decode_on_request()
        elif image is not self._target:
            self._memory.write(place, image)
            self._shape = image.shape
        return Taken(
            "jpeg" if isinstance(image, JpegImage) else "pixels",
            at,
            size=size,
            height=image.height if isinstance(image, JpegImage) else image.shape[0],
            width=image.width if isinstance(image, JpegImage) else image.shape[1],
            captured=captured is not None,
            position_seconds=_number(captured.position_seconds) if captured else None,
            info=_info(captured.info) if captured and captured.info is not None else None,
        )

    def _decode_on_request(self) -> None:
        """Make pixels for whoever asks, from now on: beside reading, which may wait long for the next image."""
        lane, self._lane = self._lane, None
        if lane is not None:
            threading.Thread(target=serve, args=(lane, self._decoded), name="decode", daemon=True).start()

    def _decoded(self, request: bytes) -> bool:
        wanted = _decodes.decode(request)
        place = Place(*wanted.jpeg)
        image = decoded_jpeg(self._memory.read_bytes(place, place.size), wanted.orientation)
        if image is None or image.shape != (wanted.height, wanted.width, 3):
            return False
        self._memory.write(Place(*wanted.place), image)
        return True


def _built(wanted: Build) -> CameraSource:
    set_thread_budget(wanted.threads)
    plugin = imported(wanted.plugin)
    try:
        return build_source(
            plugin,
            wanted.name,
            plugin_name=wanted.plugin_name,
            url=SourceUrl(wanted.url) if wanted.url is not None else None,
            options=protected(wanted.options),
            open_timeout_seconds=wanted.open_timeout_seconds,
            stall_timeout_seconds=wanted.stall_timeout_seconds,
        )
    except SettingsError as exc:  # with the class that the daemon has imported, it could be made
        raise SettingsError(f"{exc}; {_UPGRADED}") from exc


def imported(plugin: str) -> type[CameraSource]:
    """Import the class of a plugin in this process; what that does to others, as the daemon has told, is put back.

    Raises:
        CameraError: it is not there any more, or not now: pip may be at work; or it is of another contract by now.
    """
    try:
        with ImportWatch():
            return _check_source(found(plugin))
    except Exception as exc:
        raise CameraError(f"{plugin} cannot be imported any more ({type(exc).__name__}: {exc}): {_UPGRADED}") from exc


def found(plugin: str) -> type[CameraSource]:
    """Return the class of a plugin, given as `module:name`."""
    module, _, name = plugin.partition(":")
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    if not (isinstance(target, type) and issubclass(target, CameraSource)):
        raise PluginError(f"{plugin} is no CameraSource")
    return target


def _info(info: StreamInfo) -> Info:
    """Return what a source says of its stream; whatever its types are, plain ones."""
    width, height, fps = map(_number, (info.width, info.height, info.fps))
    return Info(
        None if width is None else int(width),
        None if height is None else int(height),
        fps,
        None if info.codec is None else str(info.codec)[:100],
    )


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
