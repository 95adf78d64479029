"""Decoded pictures are large: only so many are held at a time, and whoever waits gets its turn."""

import asyncio

import cv2
import numpy as np
import pytest

from healthd.api.decoder import HELD_PICTURES, PictureDecoder
from healthd.errors import PictureError
from tests.eventually import eventually

SIDE = 64
PICTURE = cv2.imencode(".jpg", np.zeros((SIDE, SIDE, 3), np.uint8))[1].tobytes()


async def test_no_more_is_decoded_while_what_is_held_fills_the_memory_that_there_is() -> None:
    decoder = PictureDecoder(max_pixels=SIDE * SIDE, observe=lambda _seconds: None)
    release = asyncio.Event()
    held = most = 0

    async def hold() -> None:
        nonlocal held, most
        async with decoder.decoded(PICTURE) as image:
            assert image.shape == (SIDE, SIDE, 3)
            held += 1
            most = max(most, held)
            await release.wait()
            held -= 1

    tasks = [asyncio.create_task(hold()) for _ in range(20)]
    await eventually(lambda: held >= HELD_PICTURES)
    await asyncio.sleep(0.1)
    assert most <= HELD_PICTURES + 4, "those that were being decoded already"
    assert held < 20
    tasks[-1].cancel()
    release.set()
    await asyncio.gather(*tasks[:-1])
    assert held == 0


async def test_a_broken_picture_takes_no_room_for_ever() -> None:
    decoder = PictureDecoder(max_pixels=SIDE * SIDE, observe=lambda _seconds: None)
    for _ in range(20):
        with pytest.raises(PictureError):
            async with decoder.decoded(b"no picture"):
                pass
    async with decoder.decoded(PICTURE):
        pass


async def test_a_thread_that_is_free_again_takes_the_next_picture_though_none_was_given_back() -> None:
    decoder = PictureDecoder(max_pixels=1000 * SIDE * SIDE, observe=lambda _seconds: None)
    release = asyncio.Event()
    held = 0

    async def hold() -> None:
        nonlocal held
        async with decoder.decoded(PICTURE):
            held += 1
            await release.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(20)]
    await eventually(lambda: held == 20)
    release.set()
    await asyncio.gather(*tasks)
