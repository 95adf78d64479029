"""JPEGs: what a hit costs, what a first request costs, how many encodes a crowd causes."""

import asyncio
import time
from datetime import UTC, datetime

import cv2
import numpy as np

from benchmarks.figures import Figure
from benchmarks.plugin.healthd_bench import room_picture
from healthd.cameras.jpeg import JpegCache, JpegEncoder, Picture, Variant
from healthd.frames import Frame


def _picture(frame_id: int) -> Picture:
    return Picture(Frame("bench", frame_id, room_picture(frame_id), datetime.now(UTC), time.monotonic()))


async def _measure(*, quick: bool) -> list[Figure]:
    encoder, variant = JpegEncoder(), Variant(75)
    cache = JpegCache(encoder)
    first: list[float] = []
    for frame_id in range(1, 11 if quick else 41):
        picture = _picture(frame_id)
        begun = time.perf_counter()
        jpeg = await cache.get_or_encode(picture, variant)
        first.append(time.perf_counter() - begun)
    hits = 200_000
    frame = picture.frame
    begun = time.perf_counter()
    for _ in range(hits):
        cache.get(frame, variant)
    hit = (time.perf_counter() - begun) / hits
    crowd = JpegCache(encoder)
    crowded = _picture(999)
    await asyncio.gather(*(crowd.get_or_encode(crowded, variant) for _ in range(100)))
    begun = time.perf_counter()
    for _ in range(20):
        cv2.imencode(".jpg", crowded.frame.image, [cv2.IMWRITE_JPEG_QUALITY, 75])
    bare = (time.perf_counter() - begun) / 20
    median = float(np.median(first))
    encoder.close()
    return [
        Figure("JPEG: cache hit", hit * 1e6, "us", ("<=", 1.0), detail=f"mean of {hits:,} look-ups"),
        Figure(
            "JPEG: first request, 720p",
            median * 1000,
            "ms",
            peer=f"bare cv2.imencode: {bare * 1000:.2f} ms ({median / bare:.2f} x)",
            detail=f"median of {len(first)}, {len(jpeg) / 1000:.0f} kB, off the event loop",
        ),
        Figure("JPEG: encodes for 100 concurrent requests of one variant", crowd.encodes, "", ("==", 1)),
    ]


def measure(*, quick: bool) -> list[Figure]:
    """Measure the cache."""
    return asyncio.run(_measure(quick=quick))
