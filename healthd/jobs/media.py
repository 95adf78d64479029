"""What a job works on: the pictures of a video, a zip, a directory, or one picture, one after the other.

Nothing is unpacked to disk, and no more than one picture is held. A picture that cannot be had (broken, too large,
encrypted) is an item with an error; only what makes the whole impossible is raised.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from healthd.children import SUPPORTED
from healthd.cpus import thread_budget
from healthd.errors import PictureError
from healthd.frames import Image
from healthd.jobs.access import read_regular
from healthd.jobs.errors import MediaError, MediaTooLargeError
from healthd.jobs.isolated_video import IsolatedVideo
from healthd.jobs.records import MediaKind
from healthd.jobs.video import OpenCvVideo, Video
from healthd.pictures import decode_picture

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_LOOKED_AT_BYTES = 4096
_TS_PACKET = 188
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_VIDEO_BEGINNINGS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x00\x01",  # H.264 and H.265 as they are
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG-1 and 2
    b"OggS",
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
)
_CUT_OFF = 0.9
"""A video that ends before so much of what its header promises is told of."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may have at most."""

    bytes: int
    """As it is stored."""
    pixels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture, or why it cannot be had."""

    image: Image | None = None
    error: str | None = None
    name: str | None = None
    """Its name within what was sent or named; None for a frame."""
    frame: int | None = None
    """Of a video, the number of the frame, from 0."""
    position_ms: float | None = None
    """Of a video, the time of the frame from the beginning."""


class Media(ABC):
    """What a job works on. Lives as long as one run of it; one thread at a time."""

    kind: MediaKind
    total: int | None = None
    """How many pictures there are; None where nobody knows; of a video, what its header says."""
    skipped: int = 0
    """What is no picture by its name."""
    note: str | None = None
    """What people should know at the end."""

    @abstractmethod
    def items(
        self, *, done: int = 0, after: str | None = None, keep_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Item]:
        """Give one picture after the other; of a run that goes on, those behind the first `done`.

        `after`: the name of the last of those, where they have names. `keep_on`: asked now and then; once it says no,
        nothing more comes.

        Raises:
            MediaError: it cannot be read any further.
        """

    def close(self) -> None:  # noqa: B027  most have nothing open between two pictures
        """Let go of the file."""


def kind_of(path: Path) -> MediaKind | None:
    """Look at what a file begins with, never at its name; None: nothing that could be worked on.

    What FFmpeg would open without asking (playlists that name other files and addresses) is not known here on purpose.
    """
    if path.is_dir():
        return "directory"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_LOOKED_AT_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or head[:4] + head[8:12] == b"RIFFWEBP":
        return "picture"
    if head.startswith(_VIDEO_BEGINNINGS) or head[:4] + head[8:12] == b"RIFFAVI " or head[4:8] in _MP4_BOXES:
        return "video"
    packets = head[::_TS_PACKET]
    return "video" if len(packets) > 1 and set(packets) == {0x47} else None


def open_media(
    path: Path, *, limits: Limits, every: int = 1, within: Path | None = None, isolated: bool = False
) -> Media:
    """Open a video, a zip, a directory or a picture.

    `every`: of a video, every so many-th frame. `within`: links in a directory are followed inside of this folder only.
    `isolated`: a video is decoded in a process of its own (on Linux), which may crash or hang.

    Raises:
        MediaTooLargeError: its frames are larger than the limit, it has too many pictures, or unpacks to far too much.
        MediaError: it is none of these, empty, or broken; the message says what.
    """
    from healthd.jobs.archive import ZipMedia  # noqa: PLC0415  it is a kind of media itself

    try:
        match kind_of(path):
            case "video":
                kind = IsolatedVideo if isolated and SUPPORTED else OpenCvVideo
                return VideoMedia(kind(path, threads=thread_budget()), limits=limits, every=every)
            case "zip":
                return ZipMedia(path, limits=limits)
            case "directory":
                return DirectoryMedia(path, limits=limits, within=within)
            case "picture":
                return PictureMedia(path, limits=limits)
    except OSError as exc:
        raise MediaError(f"it cannot be read: {exc.strerror or exc}") from exc
    raise MediaError(
        "it is no video, zip or picture: MP4, MOV, MKV, WebM, AVI, MPEG, a zip of pictures, JPEG, PNG, WebP or BMP"
    )


def is_picture_name(name: str) -> bool:
    """Whether a file of this name should be a picture; files that macOS leaves behind should not."""
    path = Path(name)
    return (
        path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith("._") and not name.startswith("__MACOSX/")
    )


def picture_item(name: str, data: bytes | None, limits: Limits) -> Item:
    """Decode a picture; `data` None: it has more bytes than it may."""
    shown = _shown(name)
    if data is None:
        return Item(name=shown, error=f"larger than {limits.bytes} bytes (inference.max_upload_bytes)")
    try:
        return Item(name=shown, image=decode_picture(data, max_pixels=limits.pixels))
    except PictureError as exc:
        return Item(name=shown, error=str(exc))


def _shown(name: str) -> str:
    """Return a name that UTF-8 can write: those of files may be any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


class PictureMedia(Media):
    """One picture."""

    kind = "picture"

    def __init__(self, path: Path, *, limits: Limits) -> None:
        self.total = 1
        self._path = path
        self._limits = limits

    def items(
        self, *, done: int = 0, after: str | None = None, keep_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Item]:
        """Give it."""
        del after, keep_on
        if not done:
            yield _from_file(self._path, self._path.name, self._limits)


class DirectoryMedia(Media):
    """The pictures of a folder and the folders in it, in the order of their paths."""

    kind = "directory"

    def __init__(self, path: Path, *, limits: Limits, within: Path | None) -> None:
        self._path = path
        self._limits = limits
        self._within = within
        self._names = sorted(self._find(), key=_shown)
        self.total = len(self._names)
        if not self._names:
            raise MediaError("there is no picture in it: .jpg, .jpeg, .png, .webp or .bmp")

    def items(
        self, *, done: int = 0, after: str | None = None, keep_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Item]:
        """Give the pictures; a run that goes on begins after the name, whatever has come or gone since."""
        names = [name for name in self._names if _shown(name) > after] if after is not None else self._names[done:]
        self.total = done + len(names)
        for name in takewhile(lambda _: keep_on(), names):
            yield _from_file(self._path / name, name, self._limits)

    def _find(self) -> Iterator[str]:
        for folder, _, files in os.walk(self._path):
            for file in files:
                path = Path(folder, file)
                if is_picture_name(file) and self._may_follow(path):
                    yield path.relative_to(self._path).as_posix()
                else:
                    self.skipped += 1

    def _may_follow(self, path: Path) -> bool:
        if self._within is None or not path.is_symlink():
            return True
        try:
            return path.resolve(strict=True).is_relative_to(self._within)
        except (OSError, RuntimeError):
            return False


def _from_file(path: Path, name: str, limits: Limits) -> Item:
    try:
        data = read_regular(path.resolve(strict=True), at_most=limits.bytes)
    except (OSError, RuntimeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        return Item(name=_shown(name), error=f"it cannot be read: {reason}")
    return picture_item(name, data, limits)


class VideoMedia(Media):
    """The frames of a video, every one or every `every`-th."""

    kind = "video"

    def __init__(self, video: Video, *, limits: Limits, every: int) -> None:
        self.video = video
        self._every = every
        facts = video.facts
        if facts.width * facts.height > limits.pixels:
            video.close()
            raise MediaTooLargeError(f"its frames have more than {limits.pixels} pixels (inference.max_pixels)")
        self._limits = limits
        self._promised = int(facts.frames) if 0 < facts.frames < 1e9 else 0
        self.total = math.ceil(self._promised / every) if self._promised else None
        self.fps = facts.fps or 25.0

    def close(self) -> None:
        """Let go of the file."""
        self.video.close()

    def items(
        self, *, done: int = 0, after: str | None = None, keep_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Item]:
        """Give the frames. Those before are decoded too: a seek lands where the container likes, not on the frame."""
        del after
        number, first = 0, 0.0
        while keep_on():
            position = self.video.grab()
            if position is None:
                break
            if number == 0:
                first = position
            if number >= done * self._every and number % self._every == 0:
                yield self._item(number, position - first)
            number += 1
        if not keep_on():
            return
        if number == 0:
            raise MediaError("no frame of the video can be decoded")
        if number < self._promised * _CUT_OFF:
            self.note = f"the video ended after {number} of {self._promised} frames: it is cut off or damaged"

    def _item(self, number: int, position_ms: float) -> Item:
        if position_ms <= 0 < number:  # some containers carry no times
            position_ms = number / self.fps * 1000
        image = self.video.retrieve()
        error = None
        if image is None:
            error = "the frame cannot be decoded"
        elif image.shape[0] * image.shape[1] > self._limits.pixels:  # more than the header promised
            image, error = None, f"it has more than {self._limits.pixels} pixels (inference.max_pixels)"
        return Item(frame=number, position_ms=round(position_ms, 3), image=image, error=error)


def check_media(
    path: Path, *, limits: Limits, within: Path | None = None, isolated: bool = False
) -> tuple[MediaKind, int | None]:
    """Open and close it, and see that there is something in it; return its kind and how many pictures it has.

    Raises as `open_media` does.
    """
    with closing(open_media(path, limits=limits, within=within, isolated=isolated)) as media:
        if media.kind == "video" and next(iter(media.items()), None) is None:
            raise MediaError("no frame of the video can be decoded")
        return media.kind, media.total
