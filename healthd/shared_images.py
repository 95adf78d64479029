"""Images that two processes see: one side makes room and says where, the other writes there, or reads.

The memory is a file without a name: nothing of it can be left behind, however a process ends. It cannot be made
smaller, so nothing that the child does takes pages away under the parent. The parent alone decides what lies where.
"""

import fcntl
import math
import mmap
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from healthd.errors import CameraError
from healthd.frames import Image

SPACE_BYTES = 2 * 1024**3
"""Addresses, not memory: pages are had when they are first written to."""
MOST_LEASED = 12
"""Images of one sharer that may be held at a time without a copy."""
_PAGE = mmap.PAGESIZE
_GRAIN = 16 * _PAGE


class Place(NamedTuple):
    """Where an image, or what else, is to be written or read, in bytes."""

    offset: int
    size: int


@dataclass(slots=True, eq=False)
class Slot:
    """A piece of the shared memory, a whole number of pages."""

    place: Place
    used: bool = False


class SharedImages:
    """The side that makes room. Any thread; lives as long as somebody holds it or one of its images."""

    def __init__(self, *, most_leased: int = MOST_LEASED) -> None:
        """Take addresses; raises OSError where there are none, or no descriptor."""
        self.descriptor = os.memfd_create("healthd-images", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, SPACE_BYTES)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            # Also to be written to where only the other side writes: what frees memory is a write.
            self._memory = mmap.mmap(self.descriptor, SPACE_BYTES)
        except OSError:
            self.close()
            raise
        self._lock = threading.Lock()
        self._slots: list[Slot] = []
        self._returned: deque[Slot] = deque()
        self._most_leased = most_leased
        self.copied = 0
        """Images that were copied, because too many were held already."""

    def room(self, size: int) -> Slot:
        """Return a slot of at least `size` bytes; for `lease`, `put`, `copied_bytes` or `free`.

        Raises:
            CameraError: there is no such room, because what is held takes it all.
        """
        with self._lock:
            while self._returned:  # the newest last: its pages are warm
                slot = self._returned.popleft()
                slot.used = False
                self._slots.remove(slot)
                self._slots.append(slot)
            free = [slot for slot in self._slots if not slot.used]
            for slot in reversed(free):
                if size <= slot.place.size <= 2 * size + _GRAIN:
                    slot.used = True
                    return slot
            for slot in free:  # of another resolution
                self._give_back(slot)
            slot = Slot(self._gap(-(-max(size, 1) // _GRAIN) * _GRAIN), used=True)
            self._slots.append(slot)
            return slot

    def lease(self, slot: Slot, height: int, width: int) -> Image:
        """Return the image that the other side wrote into a slot, read-only; the slot is free when nobody holds it.

        Raises:
            ValueError: it has no room for such an image.
        """
        size = height * width * 3
        if height < 1 or width < 1 or size > slot.place.size:
            raise ValueError(f"an image of {width}x{height} is not what a slot of {slot.place.size} bytes can hold")
        shown: Image = np.ndarray((height, width, 3), np.uint8, buffer=self._memory, offset=slot.place.offset)
        if self.used > self._most_leased:
            own = shown.copy()
            own.flags.writeable = False
            self.copied += 1
            self.free(slot)
            return own
        shown.flags.writeable = False
        # Views keep this array alive. Nothing here may lock: garbage may be collected while the lock is held.
        weakref.finalize(shown, self._returned.append, slot).atexit = False
        return shown

    def put(self, image: Image) -> Slot:
        """Copy an image into a slot for the other side to read; to be freed when it has."""
        slot = self.room(image.nbytes)
        np.copyto(np.ndarray(image.shape, np.uint8, buffer=self._memory, offset=slot.place.offset), image)
        return slot

    def put_bytes(self, data: bytes) -> Slot:
        """Copy bytes into a slot for the other side to read; to be freed when it has."""
        slot = self.room(len(data))
        self._memory[slot.place.offset : slot.place.offset + len(data)] = data
        return slot

    def copied_bytes(self, slot: Slot, size: int) -> bytes:
        """Return what the other side wrote into a slot, as bytes; the slot is free.

        Raises:
            ValueError: it has no such room.
        """
        if not 0 <= size <= slot.place.size:
            raise ValueError(f"{size} bytes are not what a slot of {slot.place.size} bytes can hold")
        data = self._memory[slot.place.offset : slot.place.offset + size]
        self.free(slot)
        return data

    def free(self, slot: Slot) -> None:
        """Say that a slot is not used any more."""
        self._returned.append(slot)

    @property
    def used(self) -> int:
        """How many slots are used now."""
        with self._lock:
            return sum(slot.used for slot in self._slots) - len(self._returned)

    def close(self) -> None:
        """Take nothing more; the memory is given back when nobody holds an image of it any more."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(
                descriptor
            )  # the mapping must not be closed: images stand on it, and NumPy does not say so to mmap

    def _give_back(self, slot: Slot) -> None:
        self._slots.remove(slot)
        self._memory.madvise(mmap.MADV_REMOVE, slot.place.offset, slot.place.size)

    def _gap(self, size: int) -> Place:
        """Return where there is room for so many bytes, the first place."""
        at = 0
        for place in sorted(slot.place for slot in self._slots):
            if place.offset - at >= size:
                break
            at = place.offset + place.size
        if at + size > SPACE_BYTES:
            raise CameraError(f"no room for an image of {size / 1e6:.0f} MB beside those that are held")
        return Place(at, size)


class SharedMemory:
    """The other side: writes, or reads, where it is told to. Takes over the descriptor."""

    def __init__(self, descriptor: int, *, writes: bool = True) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writes else 0)
        self._memory = mmap.mmap(descriptor, SPACE_BYTES, prot=access)
        os.close(descriptor)

    def write(self, place: Place, image: Image) -> None:
        """Copy an image there, whatever its strides.

        Raises:
            ValueError: it does not fit.
        """
        np.copyto(self.room(place, image.shape), image)

    def room(self, place: Place, shape: tuple[int, ...]) -> Image:
        """Return an array that lies there, to be written to until the request is answered.

        Raises:
            ValueError: it does not fit.
        """
        self._check(place, math.prod(shape))
        return np.ndarray(shape, np.uint8, buffer=self._memory, offset=place.offset)

    def write_bytes(self, place: Place, data: bytes) -> None:
        """Copy bytes there.

        Raises:
            ValueError: they do not fit.
        """
        self._check(place, len(data))
        self._memory[place.offset : place.offset + len(data)] = data

    def read_bytes(self, place: Place, size: int) -> bytes:
        """Return the bytes that lie there.

        Raises:
            ValueError: there are not as many.
        """
        self._check(place, size)
        return self._memory[place.offset : place.offset + size]

    def image(self, place: Place, height: int, width: int) -> Image:
        """Return the image that lies there, read-only, without a copy: valid until the next request."""
        self._check(place, height * width * 3)
        image: NDArray[np.uint8] = np.ndarray((height, width, 3), np.uint8, buffer=self._memory, offset=place.offset)
        image.flags.writeable = False
        return image

    def _check(self, place: Place, size: int) -> None:
        if size > place.size:
            raise ValueError(f"{size} bytes do not fit into {place.size}")
