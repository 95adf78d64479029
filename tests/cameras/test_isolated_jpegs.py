"""JPEGs of a camera in a process of its own are decoded there, whatever that does to the decoder."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from healthd import frames
from healthd.cameras import camera_child, isolated_jpegs
from healthd.cameras.isolated import IsolatedCamera
from healthd.cameras.isolated_jpegs import IsolatedJpeg, JpegLane
from healthd.cameras.source import CameraSource, Read, SourceOptions
from healthd.children import Nursery
from healthd.errors import BrokenPicture, CameraCrashed, CameraError
from healthd.frames import Image, JpegImage
from healthd.settings import CameraSettings
from healthd.shared_images import SPACE_BYTES, SharedImages
from tests.jpegs import jpeg, pixels, turned_jpeg, undecodable_jpeg

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes for cameras are Linux' alone")


class Options(SourceOptions):
    decoder: str = "as it is"


class Snapshots(CameraSource):
    """Delivers JPEGs; its options say what is wrong with the decoder of its process."""

    contract = 1
    options_model = Options
    options: Options

    @contextmanager
    def camera(self) -> Iterator[Read]:
        if self.options.decoder == "crashes":
            camera_child.decoded_jpeg = _crash
        if self.options.decoder == "hangs":
            camera_child.decoded_jpeg = _hang
        if self.options.decoder == "fails":
            camera_child.decoded_jpeg = _fail
        if self.options.decoder == "talks nonsense":
            camera_child._Camera._decoded = lambda _self, _request: "nonsense"  # type: ignore[method-assign,assignment,return-value]
        if self.options.decoder == "exits":
            camera_child.decoded_jpeg = _exit
        said = [jpeg(1), turned_jpeg(2, 6), undecodable_jpeg(3), jpeg(4)]
        yield lambda: JpegImage(said.pop(0)) if said else None


def _crash(data: bytes, orientation: int) -> Image | None:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(10)  # another thread may take the signal, a moment later
    return None


def _hang(data: bytes, orientation: int) -> Image | None:
    time.sleep(1000)
    return None


def _fail(data: bytes, orientation: int) -> Image | None:
    raise MemoryError("it is large")


def _exit(data: bytes, orientation: int) -> Image | None:
    os._exit(3)


def camera(nursery: Nursery, decoder: str = "as it is") -> IsolatedCamera:
    wanted = CameraSettings(plugin="snapshots", options={"decoder": decoder})
    return IsolatedCamera(Snapshots("gym", url=None, options=Options(decoder=decoder)), wanted, nursery=nursery)


def a_jpeg(read: Read) -> JpegImage:
    image = read()
    assert isinstance(image, JpegImage)
    return image


def test_pixels_are_made_in_the_process_upright_and_without_a_copy(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "decoded_jpeg", _crash)  # in this process
    gym = camera(nursery)
    with gym.camera() as read:
        plain, turned, broken, last = (a_jpeg(read) for _ in range(4))
        assert plain.data == jpeg(1)
        assert np.array_equal(plain.pixels(), pixels(jpeg(1)))
        assert not plain.pixels().flags.writeable
        assert not plain.pixels().flags.owndata
        assert np.array_equal(turned.pixels(), cv2.rotate(pixels(jpeg(2)), cv2.ROTATE_90_CLOCKWISE))
        with pytest.raises(BrokenPicture, match="64x48 pixels from the camera cannot be decoded"):
            broken.pixels()
        assert np.array_equal(last.pixels(), pixels(jpeg(4)))
        assert read() is None
    assert not any(gym.facts.ends.values())


def test_many_who_ask_at_once_get_what_they_asked_for(nursery: Nursery) -> None:
    with camera(nursery).camera() as read:
        images = [a_jpeg(read), a_jpeg(read), *(a_jpeg(read) for _ in range(2))]
        wanted = [images[0], images[1], images[3]]
        shown: dict[int, Image] = {}
        asking = [
            threading.Thread(target=lambda image=image: shown.setdefault(id(image), image.pixels())) for image in wanted
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(10)
    assert np.array_equal(shown[id(images[0])], pixels(jpeg(1)))
    assert np.array_equal(shown[id(images[1])], cv2.rotate(pixels(jpeg(2)), cv2.ROTATE_90_CLOCKWISE))
    assert np.array_equal(shown[id(images[3])], pixels(jpeg(4)))


def test_a_decoder_that_crashes_costs_its_camera_one_session_and_names_the_signal(nursery: Nursery) -> None:
    gym = camera(nursery, "crashes")
    with pytest.raises(CameraError, match="SIGSEGV"), gym.camera() as read:
        image, other = a_jpeg(read), a_jpeg(read)
        for _ in range(2):  # whoever asks again is told the same
            with pytest.raises(BrokenPicture, match="ended while it decoded a JPEG"):
                image.pixels()
        with pytest.raises(BrokenPicture, match="has ended"):
            other.pixels()
        read()
    assert gym.facts.ends["crashed"] == 1


def test_a_decoder_that_hangs_is_killed(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_jpegs, "DECODE_SECONDS", 0.3)
    gym = camera(nursery, "hangs")
    with pytest.raises(CameraCrashed, match="a JPEG was not decoded within"), gym.camera() as read:
        with pytest.raises(BrokenPicture, match="not decoded within"):
            a_jpeg(read).pixels()
        read()
    assert gym.facts.ends["stalled"] == 1


def test_a_process_that_cannot_be_asked_any_more_is_ended(nursery: Nursery) -> None:
    gym = camera(nursery, "talks nonsense")
    with pytest.raises(CameraCrashed, match="did not say what became of a JPEG"), gym.camera() as read:
        with pytest.raises(BrokenPicture, match="ended while it decoded"):
            a_jpeg(read).pixels()
        read()
    assert gym.facts.ends["unknown"] == 1


def test_a_process_that_ends_by_itself_while_it_decodes_says_how(nursery: Nursery) -> None:
    gym = camera(nursery, "exits")
    with pytest.raises(CameraCrashed, match="3"), gym.camera() as read:
        with pytest.raises(BrokenPicture, match="ended while it decoded"):
            a_jpeg(read).pixels()
        read()
    assert gym.facts.ends["exited"] == 1


def test_a_decoder_that_fails_costs_one_image_and_no_memory(nursery: Nursery) -> None:
    gym = camera(nursery, "fails")
    with gym.camera() as read:
        first, second = a_jpeg(read), a_jpeg(read)
        assert second.data == turned_jpeg(2, 6)
        assert gym._images is not None
        before = gym._images.used
        for image in (first, second):
            with pytest.raises(BrokenPicture, match="it is large"):
                image.pixels()
        assert gym._images.used == before


def test_a_jpeg_for_whose_pixels_there_is_no_room_takes_none() -> None:
    images = SharedImages()
    lane = JpegLane(images)
    images.room(SPACE_BYTES - 2**16)  # the rest takes the JPEG itself
    held = images.used
    image = IsolatedJpeg(jpeg(1), lane)
    with pytest.raises(BrokenPicture, match="no room for an image"):
        image.pixels()
    assert images.used == held
    lane.close()
    images.close()


def test_a_thread_is_waited_for_until_its_process_would_have_been_killed_for_a_jpeg(nursery: Nursery) -> None:
    gym = camera(nursery)
    assert gym.bounds.read_seconds > 2 * gym._settings.stall_timeout_seconds + isolated_jpegs.PIXELS_SECONDS


def test_whose_turn_does_not_come_does_without_and_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_jpegs, "DECODE_SECONDS", 0.05)
    killed: list[bool] = []
    images = SharedImages()
    lane = JpegLane(images)
    lane.lead_to(lambda _grace: killed.append(True))
    with lane._lock, pytest.raises(BrokenPicture, match="turn"):
        IsolatedJpeg(jpeg(1), lane).pixels()
    lane.close()
    images.close()
    assert not killed


def test_whoever_waits_for_pixels_when_the_session_ends_is_told_so(nursery: Nursery) -> None:
    said: list[Exception] = []

    def ask() -> None:
        try:
            image.pixels()
        except BrokenPicture as exc:
            said.append(exc)

    with camera(nursery, "hangs").camera() as read:
        image, late = a_jpeg(read), a_jpeg(read)
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.1)
    asking.join(2)
    assert len(said) == 1
    with pytest.raises(BrokenPicture, match="has ended"):
        late.pixels()
