"""JPEGs of a camera in a process of its own, decoded there: what a camera sends may crash a decoder, not the daemon."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from healthd.cameras.isolated_wire import Decode
from healthd.channel import Channel, ChildBug, Gone, packed, unpacked_reply
from healthd.errors import BrokenPicture, HealthdError
from healthd.frames import Image, JpegImage
from healthd.shared_images import SharedImages, Slot

DECODE_SECONDS = 5.0
"""A decoder that takes longer is killed with its process."""
PIXELS_SECONDS = 2 * DECODE_SECONDS
"""Longer than this nobody waits for pixels: for his turn, and then for the decoder."""
END_SECONDS = 1.0
"""A process that does not answer as it should is ending, or killed after this."""


class JpegLane:
    """Where the process of a session is asked for the pixels of what it delivered, one at a time. Any thread.

    Beside the channel over which it is asked for images: that one may be waiting for the next image.
    """

    def __init__(self, images: SharedImages) -> None:
        """Raises OSError where no descriptor is left."""
        self._images = images
        self._end, self.far = socket.socketpair()
        self._channel = Channel(self._end)
        self._kill: Callable[[float], None] = _nothing
        self._lock = threading.Lock()
        self._over = False
        self.hung = False
        """Whether the process was killed because it did not decode within its time."""
        self.broken = False
        """Whether the process was killed, if it did not end by itself, because it can no more be asked."""

    def lead_to(self, kill: Callable[[float], None]) -> None:
        """Say how the process is killed which has the far end now, unless it ends by itself within so many seconds."""
        self._kill = kill
        self.far.close()

    def pixels(self, jpeg: JpegImage) -> Image | None:
        """Return its pixels, read-only; None where it cannot be decoded. Takes `PIXELS_SECONDS` at most.

        Raises:
            BrokenPicture: the process has ended, perhaps of this picture, or was killed because it took too long; or
                so many others asked before that its turn did not come.
        """
        if not self._lock.acquire(timeout=DECODE_SECONDS):  # no sign that the decoder hangs: nothing is killed
            raise BrokenPicture(f"the turn of a JPEG to be decoded did not come within {DECODE_SECONDS:g} s")
        try:
            if self._over:
                raise BrokenPicture("the camera's process has ended")
            try:
                return self._asked(jpeg)
            except TimeoutError:
                self._over = self.hung = True
                self._kill(0.0)
                raise BrokenPicture(f"a JPEG from the camera was not decoded within {DECODE_SECONDS:g} s") from None
            except (Gone, OSError):
                self._over = self.broken = True
                self._kill(END_SECONDS)  # it would deliver JPEGs for ever that nobody can decode
                raise BrokenPicture("the camera's process ended while it decoded a JPEG") from None
            except (HealthdError, ChildBug) as exc:  # no room here, or no memory there
                raise BrokenPicture(str(exc)) from None
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ask nothing more; whoever waits is told so."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)  # closed under a thread that waits, its number could be another's
        with self._lock:
            self._over = True
            self._channel.close()
        self.far.close()

    def _asked(self, jpeg: JpegImage) -> Image | None:
        slots = [self._images.put_bytes(jpeg.data)]
        try:
            slots.append(self._images.room(jpeg.height * jpeg.width * 3))
            made = self._answered(jpeg, *slots)
        except (HealthdError, ChildBug):  # after any other error the process may still read and write there
            for slot in slots:
                self._images.free(slot)
            raise
        written, room = slots
        self._images.free(written)
        if made:
            return self._images.lease(room, jpeg.height, jpeg.width)
        self._images.free(room)
        return None

    def _answered(self, jpeg: JpegImage, written: Slot, room: Slot) -> bool:
        place = (written.place.offset, len(jpeg.data))
        request = Decode(place, jpeg.orientation, jpeg.height, jpeg.width, (room.place.offset, room.place.size))
        deadline = time.monotonic() + DECODE_SECONDS
        self._channel.send(packed(request), timeout=DECODE_SECONDS)
        return unpacked_reply(self._channel.receive(timeout=max(0.0, deadline - time.monotonic())), bool)


class IsolatedJpeg(JpegImage):
    """A JPEG whose pixels are made in its camera's process."""

    __slots__ = ("_lane",)

    def __init__(self, data: bytes, lane: JpegLane) -> None:
        super().__init__(data)
        self._lane = lane

    @property
    def waits(self) -> bool:
        """As `JpegImage.waits`: until its pixels were made, or could not be."""
        return not self.made

    def make_pixels(self) -> Image | None:
        """Have it decoded; as `JpegImage.make_pixels`."""
        return self._lane.pixels(self)


def _nothing(_grace_seconds: float) -> None:
    """There is no process yet."""
