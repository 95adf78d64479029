"""The pictures of a zip, read from it one by one, with a bound on everything that a zip may lie about."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

from healthd.jobs.errors import MediaError, MediaTooLargeError
from healthd.jobs.media import Item, Limits, Media, is_picture_name, picture_item

MOST_MEMBERS = 50_000
MOST_DIRECTORY_BYTES = 8 * 1024 * 1024
"""Of the list of members, which is read as a whole: 50,000 names of ordinary length take half of it."""

BOMB_RATIO = 200
BOMB_BYTES = 1024**3
"""A zip that unpacks to more than this, and to so many times its size, is a bomb: pictures hardly shrink."""

_ENCRYPTED = 0x1
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)
"""Whatever the parts of the standard library raise on a member that is damaged, or packed in a way of its own."""


class _Guarded(io.FileIO):
    """A file that reads no more at a time than the list of members may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; refuse what cannot be meant."""
        if size is None or size < 0:
            here = self.tell()
            size = max(0, self.seek(0, io.SEEK_END) - here)
            self.seek(here)
        if size > MOST_DIRECTORY_BYTES:
            raise MediaTooLargeError(f"the list of what is in the zip has more than {MOST_DIRECTORY_BYTES} bytes")
        return super().read(size) or b""


class ZipMedia(Media):
    """The pictures of a zip in the order in which it lists them; folders and what is no picture are skipped."""

    kind = "zip"

    def __init__(self, path: Path, *, limits: Limits) -> None:
        self._limits = limits
        self._file = _Guarded(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members = self._pictures(path.stat().st_size)
        except zipfile.BadZipFile as exc:
            self._file.close()
            raise MediaError(f"the zip is broken: {exc}") from exc
        except (NotImplementedError, ValueError, UnicodeError) as exc:
            self._file.close()
            raise MediaError(f"the zip cannot be read: {exc}") from exc
        except BaseException:
            self._file.close()
            raise
        self.total = len(self._members)

    def close(self) -> None:
        """Let go of the file."""
        self._zip.close()
        self._file.close()

    def items(
        self, *, done: int = 0, after: str | None = None, keep_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Item]:
        """Give the pictures."""
        del after
        for member in takewhile(lambda _: keep_on(), self._members[done:]):
            yield self._item(member)

    def _pictures(self, packed_bytes: int) -> list[zipfile.ZipInfo]:
        members = self._zip.infolist()
        if len(members) > MOST_MEMBERS:
            raise MediaTooLargeError(f"there is more in the zip than {MOST_MEMBERS} files")
        pictures = [member for member in members if not member.is_dir() and is_picture_name(member.filename)]
        self.skipped = sum(not member.is_dir() for member in members) - len(pictures)
        if not pictures:
            raise MediaError("there is no picture in the zip: .jpg, .jpeg, .png, .webp or .bmp")
        unpacked = sum(member.file_size for member in pictures if member.file_size <= self._limits.bytes)
        if unpacked > max(BOMB_BYTES, BOMB_RATIO * packed_bytes):
            raise MediaTooLargeError(f"the zip unpacks to {unpacked} bytes, {unpacked // packed_bytes} times its size")
        return pictures

    def _item(self, member: zipfile.ZipInfo) -> Item:
        if member.flag_bits & _ENCRYPTED:
            return Item(name=member.filename, error="it is encrypted")
        try:
            return picture_item(member.filename, self._read(member), self._limits)
        except _UNREADABLE as exc:
            return Item(name=member.filename, error=f"it cannot be unpacked: {exc}")

    def _read(self, member: zipfile.ZipInfo) -> bytes | None:
        """Unpack one member in memory, as far as it may go; None: it goes farther, whatever its header says."""
        if member.file_size > self._limits.bytes:
            return None
        with self._zip.open(member) as file:
            data = file.read(self._limits.bytes + 1)
        return None if len(data) > self._limits.bytes else data
