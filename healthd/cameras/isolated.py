"""A camera in a process of its own: opened, read and closed as any other, and killed when it hangs.

Stands between the reader and the source. The source is built again in the child, from its plugin's name and settings;
images come through shared memory, and are copied once on their way.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import structlog

from healthd.cameras.backlog import LATE_SECONDS
from healthd.cameras.camera_child import found
from healthd.cameras.isolated_jpegs import DECODE_SECONDS, PIXELS_SECONDS, IsolatedJpeg, JpegLane
from healthd.cameras.isolated_wire import Build, Grab, Info, Open, Opened, Take, Taken
from healthd.cameras.probe import SourceKind, kind_of
from healthd.cameras.source import CameraSource, Delivered, Read, TwoStepRead
from healthd.children import NURSERY, START_SECONDS, SUPPORTED, Child, ChildEnded, ChildTimeout, Nursery, StartFailed
from healthd.endings import Ending
from healthd.errors import CameraCrashed, CameraError, HealthdError, SettingsError
from healthd.frames import CapturedImage, Image, JpegImage, Refused, StreamInfo
from healthd.plugins import Plugins
from healthd.settings import CameraSettings
from healthd.shared_images import SharedImages, Slot
from healthd.worker import WorkerTimeout

T = TypeVar("T")
log = structlog.get_logger(__name__)
Isolation: TypeAlias = Literal["process", "thread"]
End: TypeAlias = Literal["stalled", "crashed", "out_of_memory", "exited", "unknown"]
ENDS: tuple[End, ...] = ("stalled", "crashed", "out_of_memory", "exited", "unknown")
"""Why a camera's process ended though its session should have gone on."""
PRELOAD = ("numpy", "cv2", "healthd.cameras.camera_child", "healthd.cameras.capture")
ENTRY = "healthd.cameras.camera_child:main"
MARGIN_SECONDS = 1.0
"""So much later than the source itself should give up opening, it is given up: it shall say why."""
CLOSE_SECONDS = 1.0
"""A camera that does not close within this is killed."""
LEAVE_SECONDS = 1.0
"""The same for one that is in a call when it is left."""
BESIDE_SECONDS = 5.0
"""So much later than the process should be killed, the thread that drives it is given up: never, that is to say."""


class CameraLeft(CameraError):  # noqa: N818  it is no error of anybody
    """The camera's process was killed because the camera is to be closed and it hung. No failure."""


class Bounds(NamedTuple):
    """How long a session of the reader waits for its thread."""

    enter_seconds: float
    read_seconds: float
    close_seconds: float


def isolation_of(settings: CameraSettings, source: CameraSource) -> Isolation:
    """Return where a camera is read: as configured, or in a process unless it is a file."""
    if settings.isolation is not None:
        return settings.isolation if SUPPORTED else "thread"
    return "process" if SUPPORTED and not (source.recording or _is_file(settings)) else "thread"


def may_need_processes(settings: CameraSettings) -> bool:
    """Whether a camera may be read in a process, as far as its settings tell."""
    wanted = settings.isolation != "thread" if settings.isolation else not _is_file(settings)
    return SUPPORTED and settings.enabled and wanted


def isolated_camera(
    name: str,
    camera: CameraSettings,
    source: CameraSource | str,
    plugins: Plugins[type[CameraSource]],
    *,
    threads: int = 0,
) -> "IsolatedCamera | None":
    """Return the process that a camera is read in; None: it is read on a thread. `threads`: `performance.threads`."""
    if not camera.enabled or not isinstance(source, CameraSource):
        return None
    impossible = why_impossible(camera, source, plugins)
    if impossible is not None:
        log.warning("isolation_impossible", camera=name, reason=impossible)
    if impossible is not None or isolation_of(camera, source) == "thread":
        return None
    return IsolatedCamera(source, camera, threads=threads)


def why_impossible(camera: CameraSettings, source: CameraSource, plugins: Plugins[type[CameraSource]]) -> str | None:
    """Say why a camera that should have a process of its own cannot have one; None: it can, or should not."""
    if not SUPPORTED:
        return "processes for cameras are Linux' alone" if camera.isolation == "process" else None
    if isolation_of(camera, source) == "thread":
        return None
    if plugins.get(camera.plugin) is not type(source) or place_of(type(source)) is None:
        return f"its class {type(source).__qualname__} is not found by its name"
    return None


def place_of(plugin: type[CameraSource]) -> str | None:
    """Return where a child finds the class of a plugin, as `module:name`; None where it cannot be found again."""
    place = f"{plugin.__module__}:{plugin.__qualname__}"
    with contextlib.suppress(ImportError, AttributeError, HealthdError):
        return place if found(place) is plugin else None
    return None


def _is_file(settings: CameraSettings) -> bool:
    try:
        return settings.url is not None and kind_of(settings.url) is SourceKind.FILE
    except SettingsError:  # an address that only its plugin understands
        return False


@dataclass(frozen=True, slots=True)
class IsolatedFacts:
    """How the process of a camera has done, for people and metrics."""

    ends: dict[str, int]
    """How often it ended though it should have gone on, by reason."""
    copied: int
    """Images that were copied a second time, because too many were held."""
    memory_bytes: int | None
    """What it holds for itself alone, the last time it was looked; None without a process."""


class IsolatedCamera:
    """The processes of one camera, one for each session. Lives as long as its runner.

    What `camera` returns belongs to the reader's thread; the rest to the event loop.
    """

    def __init__(
        self, source: CameraSource, settings: CameraSettings, *, threads: int = 0, nursery: Nursery = NURSERY
    ) -> None:
        self._source = source
        self._settings = settings
        self._threads = threads
        self._nursery = nursery
        self._child: Child | None = None
        self._images: SharedImages | None = None
        self._lane: JpegLane | None = None
        self._ends: Counter[End] = Counter(dict.fromkeys(ENDS, 0))
        self._copied = 0
        self._measured: tuple[Child, int | None] | None = None
        """A process, and what memory it held."""
        self._sessions = 0
        self._leaving: Child | None = None
        """The process that is to be killed if it does not close by itself."""
        self._left_early = False
        """The session is to end, and its process has not been started yet."""

    @property
    def bounds(self) -> Bounds:
        """The process is bounded more tightly than the thread: what hangs is killed, and the thread comes back."""
        wanted = self._settings
        return Bounds(
            wanted.open_timeout_seconds + MARGIN_SECONDS + 3 * START_SECONDS + BESIDE_SECONDS,
            2 * wanted.stall_timeout_seconds + PIXELS_SECONDS + BESIDE_SECONDS,  # motion is looked for in each image
            CLOSE_SECONDS + BESIDE_SECONDS,
        )

    @property
    def facts(self) -> IsolatedFacts:
        """How it has done."""
        images = self._images
        copied = self._copied + (images.copied if images is not None else 0)
        child, held = self._measured or (None, None)
        return IsolatedFacts(
            {str(end): n for end, n in self._ends.items()}, copied, held if child is self._child else None
        )

    def measure(self) -> None:
        """Look how much memory the process holds. Some milliseconds: not for the event loop."""
        child = self._child
        self._measured = (child, private_bytes(child.pid)) if child is not None else None

    def leave(self) -> None:
        """Say that the session is to end: a process that does not let go of its call within a moment is killed."""
        child = self._child
        self._left_early = child is None
        if child is not None and child is not self._leaving:
            self._leaving = child
            asyncio.get_running_loop().call_later(LEAVE_SECONDS, child.kill)

    def camera(self) -> AbstractContextManager[Read]:
        """Begin a session, and return what opens the camera in a process of its own; as `CameraSource.camera`.

        One that was given up, and ends or even starts only now, has no part in the next one.

        Raises:
            CameraError: its process cannot be started, or has ended; with how.
            WorkerTimeout: it did not answer in time, and was killed.
        """
        self._sessions += 1
        self._left_early = False
        self._child = self._images = self._lane = None
        return self._opened(self._sessions)

    @contextmanager
    def _opened(self, session: int) -> Iterator[Read]:
        with contextlib.ExitStack() as held:
            try:
                images = SharedImages()
                held.callback(images.close)
                lane = JpegLane(images)
                held.callback(lane.close)
            except OSError as exc:
                raise CameraError(f"no memory for its images could be had: {exc.strerror}") from None
            try:
                child = self._start(images, lane)
            except StartFailed as exc:
                raise CameraError(f'{exc}; isolation = "thread" does without') from None
            held.pop_all()
        if session == self._sessions:
            self._images, self._lane, self._child = images, lane, child
        try:
            if self._left_early or session != self._sessions:
                raise CameraLeft("the camera was left")
            self._call(child, self._order(), bool, START_SECONDS, "its plugin could not be loaded")
            timeout = self._settings.open_timeout_seconds + MARGIN_SECONDS
            opened = self._call(child, Open(), Opened, timeout, "the camera did not open")
            ask = functools.partial(self._taken, child)
            take = _Taker(images, ask, lane, recording=self._source.recording).take
            yield _TwoSteps(functools.partial(self._grab, child), take) if opened.two_steps else take  # type: ignore[misc]
        finally:
            if child.stop(grace_seconds=CLOSE_SECONDS).cause == "killed" and self._leaving is not child:
                log.info("camera_process_killed", camera=self._source.name, pid=child.pid)
            if self._child is child:
                self._child = self._images = self._lane = self._measured = None
            self._copied += images.copied
            lane.close()
            images.close()

    def _start(self, images: SharedImages, lane: JpegLane) -> Child:
        name = self._source.name
        descriptors = [images.descriptor, lane.far.fileno()]
        child = Child.start(ENTRY, name=name, descriptors=descriptors, fields={"camera": name}, nursery=self._nursery)
        lane.lead_to(child.kill)
        return child

    def _order(self) -> Build:
        wanted = self._settings
        plugin = type(self._source)
        return Build(
            plugin=f"{plugin.__module__}:{plugin.__qualname__}",
            plugin_name=wanted.plugin,
            name=self._source.name,
            url=wanted.url.written() if wanted.url is not None else None,
            options=dict(wanted.options),
            open_timeout_seconds=wanted.open_timeout_seconds,
            stall_timeout_seconds=wanted.stall_timeout_seconds,
            threads=self._threads,
        )

    def _grab(self, child: Child) -> bool:
        return self._call(child, Grab(), bool, self._settings.stall_timeout_seconds, "no image")

    def _taken(self, child: Child, request: Take) -> Taken:
        return self._call(child, request, Taken, self._settings.stall_timeout_seconds, "no image")

    def _call(self, child: Child, request: object, reply: type[T], timeout: float, late: str) -> T:
        """Call the process. What it raises is raised; when it hangs it is killed, when it is gone it is told how."""
        try:
            return child.call(request, reply=reply, timeout=timeout)
        except ChildTimeout:
            child.stop(grace_seconds=0)
            self._ends["stalled"] += 1
            raise WorkerTimeout(f"{late} within {timeout:g} s") from None
        except ChildEnded as exc:
            if self._leaving is child:
                raise CameraLeft("the camera was left") from None
            if self._lane is not None and self._lane.hung:
                self._ends["stalled"] += 1
                raise CameraCrashed(f"a JPEG was not decoded within {DECODE_SECONDS:g} s") from None
            self._note(exc.ending)
            if self._lane is not None and self._lane.broken and exc.ending.cause == "killed":
                raise CameraCrashed("the camera's process did not say what became of a JPEG") from None
            raise CameraCrashed(f"the camera's process {exc.ending}") from None

    def _note(self, ending: Ending) -> None:
        cause = ending.cause
        reason: End = cause if cause in {"crashed", "out_of_memory", "exited"} else "unknown"
        self._ends[reason] += 1
        log.warning(
            "camera_process_ended", camera=self._source.name, ending=str(ending), last_output=list(ending.last_output)
        )


class _Taker:
    """Makes room for the images of one session, and makes of what was written there what the source delivered."""

    def __init__(self, images: SharedImages, ask: Callable[[Take], Taken], lane: JpegLane, *, recording: bool) -> None:
        """`recording`: every image is wanted, however long it took."""
        self._images = images
        self._ask = ask
        self._lane = lane
        self._longest_seconds = math.inf if recording else LATE_SECONDS
        self._usual_bytes = 1
        self._info: tuple[Info, StreamInfo] | None = None

    def take(self) -> Delivered | Refused | None:
        """Return the next image; of an error nothing has to be given back, because the session ends with it."""
        slot = self._images.room(self._usual_bytes)
        taken = self._ask(Take(slot.place))
        if taken.kind == "too_small":
            self._images.free(slot)
            slot = self._images.room(taken.size)
            taken = self._ask(Take(slot.place, again=True))
        if taken.kind in {"pixels", "jpeg"} and time.monotonic() - taken.at > self._longest_seconds:
            self._images.free(slot)  # the daemon was stopped, or had no turn, while it lay here
            return None
        image = self._image(slot, taken)
        if image is None or isinstance(image, Refused) or not taken.captured:
            return image
        return CapturedImage(image, taken.position_seconds, self._stream_info(taken.info))

    def _image(self, slot: Slot, taken: Taken) -> Image | JpegImage | Refused | None:
        try:
            if taken.kind == "pixels":
                self._usual_bytes = taken.size
                return self._images.lease(slot, taken.height, taken.width)
            if taken.kind == "jpeg":
                self._usual_bytes = max(self._usual_bytes, taken.size * 3 // 2)  # they differ from one to the next
                return IsolatedJpeg(self._images.copied_bytes(slot, taken.size), self._lane)
        except ValueError as exc:
            raise CameraError(f"the camera's process said what cannot be: {exc}") from None
        self._images.free(slot)
        return None if taken.kind == "none" else Refused(taken.reason)

    def _stream_info(self, info: Info | None) -> StreamInfo | None:
        """Return the same object for every image of which the same is said."""
        if info is None:
            return None
        if self._info is None or self._info[0] != info:
            self._info = info, StreamInfo(info.width, info.height, info.fps, info.codec)
        return self._info[1]


class _TwoSteps(TwoStepRead):
    """Asks the process to wait for an image, and for its pixels only where they are wanted."""

    def __init__(self, grab: Callable[[], bool], take: Callable[[], Delivered | Refused | None]) -> None:
        self._grab = grab
        self._take = take

    def grab(self) -> bool:
        """Wait for the next image."""
        return self._grab()

    def retrieve(self) -> Delivered:
        """Have it written where it can be seen."""
        return self._take()  # type: ignore[return-value]  # whatever the source's own `retrieve` returns


def private_bytes(pid: int) -> int | None:
    """Return the memory that a process shares with no other; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return None
