"""What the tests of cameras in processes share."""

from collections.abc import Iterator

import pytest

from healthd.children import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """What the processes are forked from; one for each file."""
    nursery = Nursery()
    nursery.warm_up(["numpy", "cv2", "healthd.cameras.camera_child"])
    yield nursery
    nursery.close()
