"""Signs: a picture in words where there is no picture, drawn once however many look."""

import asyncio
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from healthd.cameras.signs import FRESH_SECONDS, MAX_SIGNS, SignCache, draw_sign
from tests.warped import warped


class FakeEncoder:
    """Makes nothing, at once; or fails."""

    def __init__(self) -> None:
        self.made = 0
        self.failure: Exception | None = None

    async def run(self, make: Callable[[], bytes]) -> bytes:
        self.made += 1
        number = self.made
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return b"sign %d" % number


def cache() -> tuple[SignCache, FakeEncoder]:
    encoder = FakeEncoder()
    return SignCache(encoder), encoder  # type: ignore[arg-type]  # a fake


@warped
async def test_a_sign_is_drawn_once_however_many_look_and_however_long() -> None:
    signs, encoder = cache()
    for _ in range(100):
        seen = await asyncio.gather(*(signs.get("gym", "paused", "paused by request", width=None) for _ in range(50)))
        assert set(seen) == {b"sign 1"}
        await asyncio.sleep(1)
    assert encoder.made == signs.encodes == 1


@warped
async def test_a_sign_whose_reason_changes_is_drawn_anew_at_most_once_a_second() -> None:
    signs, encoder = cache()
    for number in range(100):
        await signs.get("gym", "stalled", f"no image for {number / 10} s", width=None)
        await asyncio.sleep(0.1)
    assert 10 <= encoder.made <= 10 / FRESH_SECONDS + 1


@warped
async def test_another_state_or_width_is_another_sign_and_what_is_kept_is_bounded() -> None:
    signs, encoder = cache()
    for _ in range(3):
        assert await signs.get("gym", "stalled", None, width=320) != await signs.get("gym", "failed", None, width=320)
        assert await signs.get("gym", "failed", None, width=640) == await signs.get("gym", "failed", None, width=None)
    assert encoder.made == 3
    assert await signs.get("rack", "failed", None, width=320) != await signs.get("gym", "failed", None, width=320)
    for width in range(100, 200):
        await signs.get("gym", "failed", None, width=width)
    assert len(signs._signs) == MAX_SIGNS


@warped
async def test_a_sign_that_could_not_be_drawn_is_tried_again() -> None:
    signs, encoder = cache()
    encoder.failure = RuntimeError("no memory")
    with pytest.raises(RuntimeError):
        await signs.get("gym", "stalled", None, width=None)
    encoder.failure = None
    assert await signs.get("gym", "stalled", None, width=None) == b"sign 2"


@warped
async def test_one_who_leaves_does_not_take_the_sign_from_the_others() -> None:
    signs, _ = cache()
    first = asyncio.create_task(signs.get("gym", "stalled", None, width=None))
    second = asyncio.create_task(signs.get("gym", "stalled", None, width=None))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"sign 1"


@pytest.mark.parametrize("width", [16, 100, 320, 640, 1280])
def test_a_sign_has_the_width_that_was_asked_for_and_says_something(width: int) -> None:
    image = draw_sign("gym", "reconnecting", "no route to host", width=width)
    assert image.shape == (max(9, width * 9 // 16), width, 3)
    assert image.std() > 5
    assert cv2.imencode(".jpg", image)[0]


def test_signs_differ_by_camera_state_and_reason() -> None:
    words = [("gym", "stalled", None), ("rack", "stalled", None), ("gym", "failed", None), ("gym", "stalled", "why")]
    drawn = [draw_sign(*word, width=640) for word in words]
    for number, first in enumerate(drawn):
        for second in drawn[number + 1 :]:
            assert (first != second).any()


def test_long_words_stay_inside_the_picture() -> None:
    image = draw_sign("x" * 64, "reconnecting", "é" * 500, width=320)
    margin = np.concatenate([image[:, :2].reshape(-1), image[:, -2:].reshape(-1), image[-2:].reshape(-1)])
    assert set(margin.tolist()) == {56}
