"""Images cross between processes with one copy, and their memory is free again when nobody holds them."""

import gc
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from healthd.children import Child, Nursery
from healthd.errors import CameraError
from healthd.shared_images import MOST_LEASED, SharedImages, SharedMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a file without a name is Linux' alone")
SIZE = 72 * 128 * 3


@pytest.fixture
def images() -> Iterator[SharedImages]:
    images = SharedImages()
    yield images
    images.close()


def memory_of(images: SharedImages) -> int:
    return os.fstat(images.descriptor).st_blocks * 512


def test_an_image_goes_to_a_child_and_comes_from_it() -> None:
    nursery, images = Nursery(), SharedImages()
    nursery.warm_up(["numpy"])
    child = Child.start("tests.child_entries:answers", name="gym", descriptors=[images.descriptor], nursery=nursery)
    slot = images.room(SIZE)
    child.call(["fill", [slot.place, [72, 128], 7]], reply=object, timeout=5)
    image = images.lease(slot, 72, 128)
    assert image.shape == (72, 128, 3)
    assert (image == 7).all()
    given = images.put(np.full((72, 128, 3), 2, np.uint8)[::-1])
    assert child.call(["total", [given.place, [72, 128]]], reply=int, timeout=5) == 2 * SIZE
    child.kill()
    child.stop()
    images.close()
    nursery.close()
    assert (image == 7).all(), "it outlives its child, and its memory's name"


def test_an_image_is_read_only_and_holds_its_slot_until_its_last_view_is_gone(images: SharedImages) -> None:
    slot = images.room(SIZE)
    view = images.lease(slot, 72, 128)[::2, ::2]
    gc.collect()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    assert images.room(SIZE).place != slot.place
    del view
    assert images.room(SIZE).place == slot.place


def test_more_images_than_may_be_held_are_copied(images: SharedImages) -> None:
    held = [images.lease(images.room(SIZE), 72, 128) for _ in range(MOST_LEASED + 3)]
    assert images.copied == 3
    assert images.used == MOST_LEASED
    held.clear()
    assert images.used == 0


def test_memory_of_another_resolution_is_given_back(images: SharedImages) -> None:
    other = SharedMemory(os.dup(images.descriptor))
    slots = [images.room(SIZE) for _ in range(4)]
    for slot in slots:
        other.write(slot.place, np.ones((72, 128, 3), np.uint8))
    held = images.lease(slots[0], 72, 128)
    for slot in slots[1:]:
        images.free(slot)
    before = memory_of(images)
    images.room(100 * SIZE)
    assert memory_of(images) <= before / 4
    assert (held == 1).all()


def test_neither_side_gets_at_what_was_not_given_to_it(images: SharedImages) -> None:
    slot = images.room(SIZE)
    other = SharedMemory(os.dup(images.descriptor))
    for height, width in ((1000, 1000), (0, 5), (-1, -1), (10**9, 10**9)):
        with pytest.raises(ValueError, match="an image of"):
            images.lease(slot, height, width)
    with pytest.raises(ValueError, match="do not fit"):
        other.write(slot.place, np.ones((1000, 1000, 3), np.uint8))
    with pytest.raises(ValueError, match="do not fit"):
        other.image(slot.place, 1000, 1000)
    for size in (0, SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(images.descriptor, size)
    with pytest.raises(CameraError, match="no room"):
        images.room(3 * 1024**3)
