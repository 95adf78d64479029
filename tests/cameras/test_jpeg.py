"""JPEGs: encoded once per variant however many ask, never before somebody asks, and no old one is kept."""

import asyncio
import threading
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest

from healthd.cameras.jpeg import MAX_VARIANTS, JpegCache, JpegEncoder, Picture, Variant, encode_picture
from healthd.errors import BrokenPicture, CameraError
from healthd.frames import Frame, Image, JpegImage
from healthd.models.model import Detection
from tests.eventually import eventually
from tests.fakes import picture, prediction
from tests.jpegs import ElsewhereJpeg, jpeg, undecodable_jpeg

PLAIN = Variant(75)
OVERLAY = Variant(75, overlay=True)


def shot(number: int = 1, image: Image | JpegImage | None = None) -> Picture:
    image = picture(number) if image is None else image
    return Picture(Frame("gym", number, image, datetime.now(UTC), 0.0))


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


class SlowEncoder(JpegEncoder):
    """Encodes when the test lets it; counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked: list[tuple[int, Variant]] = []

    async def encode(self, picture: Picture, variant: Variant) -> tuple[bytes, float]:
        self.asked.append((picture.frame.frame_id, variant))
        await self.gate.wait()
        return f"{picture.frame.frame_id} {variant}".encode(), 0.001


@pytest.fixture
def encoder() -> SlowEncoder:
    return SlowEncoder()


async def test_an_older_frame_is_waited_for_only_where_it_is_encoded_alike_and_this_one_is_not(
    encoder: SlowEncoder,
) -> None:
    cache = JpegCache(encoder)
    first = cache.encoding(shot(1), PLAIN)
    assert cache.encoding(shot(1), PLAIN) is first
    assert cache.older(2, PLAIN) is first
    assert cache.older(1, PLAIN) is None
    assert cache.older(2, OVERLAY) is None
    second = cache.encoding(shot(2), PLAIN)
    assert cache.older(2, PLAIN) is None
    encoder.gate.set()
    await asyncio.gather(first, second)
    assert cache.older(3, PLAIN) is None


async def test_all_who_ask_for_one_variant_at_once_share_one_encode(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    asked = [asyncio.create_task(cache.get_or_encode(shot(), PLAIN)) for _ in range(100)]
    await eventually(lambda: encoder.asked)
    encoder.gate.set()
    jpegs = await asyncio.gather(*asked)
    assert len(encoder.asked) == cache.encodes == 1
    assert all(jpeg is jpegs[0] for jpeg in jpegs)


async def test_who_asks_later_gets_the_same_bytes_and_waits_for_nothing(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    jpeg = await cache.get_or_encode(shot(), PLAIN)
    asking = cache.get_or_encode(shot(), PLAIN)
    with pytest.raises(StopIteration) as answered:  # it ends at its first step: it has awaited nothing
        asking.send(None)
    assert answered.value.value is jpeg
    assert cache.get(shot(1).frame, PLAIN) is jpeg
    assert (cache.hits, cache.encodes) == (2, 1)


async def test_nothing_is_encoded_before_somebody_asks(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    assert cache.get(shot(1).frame, PLAIN) is None
    assert (cache.hits, cache.encodes, len(cache), encoder.asked) == (0, 0, 0, [])


async def test_each_variant_is_encoded_once(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    variants = [PLAIN, Variant(50), Variant(75, 32), OVERLAY, Variant(75, 32, overlay=True)]
    for _ in range(2):
        for variant in variants:
            assert await cache.get_or_encode(shot(), variant) == f"1 {variant}".encode()
    assert cache.encodes == len(variants)


async def test_the_variants_kept_are_bounded_and_the_oldest_leaves_first(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    for quality in range(1, MAX_VARIANTS + 3):
        await cache.get_or_encode(shot(), Variant(quality))
    assert len(cache) == MAX_VARIANTS
    assert cache.get(shot(1).frame, Variant(1)) is None
    assert cache.get(shot(1).frame, Variant(2)) is None
    assert cache.get(shot(1).frame, Variant(3)) is not None


async def test_only_the_newest_frames_variants_are_kept(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    for variant in (PLAIN, Variant(50)):
        await cache.get_or_encode(shot(1), variant)
    await cache.get_or_encode(shot(2), PLAIN)
    assert cache.get(shot(1).frame, PLAIN) is cache.get(shot(1).frame, Variant(50)) is None
    assert cache.get(shot(2).frame, PLAIN) is not None


async def test_the_drawn_variant_of_an_older_frame_stays_beside_the_newest_plain_one(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    await cache.get_or_encode(shot(1), OVERLAY)
    await cache.get_or_encode(shot(2), PLAIN)
    assert cache.get(shot(1).frame, OVERLAY) is not None
    await cache.get_or_encode(shot(2), OVERLAY)
    assert cache.get(shot(1).frame, OVERLAY) is None
    assert cache.get(shot(2).frame, PLAIN) is not None


async def test_dropping_forgets_everything(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    encoder.gate.set()
    await cache.get_or_encode(shot(), PLAIN)
    cache.drop()
    assert len(cache) == 0
    assert cache.get(shot(1).frame, PLAIN) is None


async def test_an_encode_that_ends_after_a_drop_is_not_kept(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    asking = asyncio.create_task(cache.get_or_encode(shot(), PLAIN))
    await eventually(lambda: encoder.asked)
    cache.drop()
    encoder.gate.set()
    assert await asking
    assert len(cache) == 0


async def test_a_late_encode_of_an_old_frame_is_not_kept(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    late = asyncio.create_task(cache.get_or_encode(shot(1), PLAIN))
    await eventually(lambda: encoder.asked)
    first_gate, encoder.gate = encoder.gate, asyncio.Event()
    encoder.gate.set()
    await cache.get_or_encode(shot(2), PLAIN)
    first_gate.set()
    assert await late == b"1 q75w0"
    assert cache.get(shot(1).frame, PLAIN) is None
    assert cache.get(shot(2).frame, PLAIN) is not None


async def test_a_viewer_who_leaves_does_not_take_the_picture_from_the_others(encoder: SlowEncoder) -> None:
    cache = JpegCache(encoder)
    first, second = (asyncio.create_task(cache.get_or_encode(shot(), PLAIN)) for _ in range(2))
    await eventually(lambda: encoder.asked)
    first.cancel()
    await asyncio.wait([first])
    encoder.gate.set()
    assert await second == b"1 q75w0"
    assert first.cancelled()
    assert cache.encodes == 1
    assert cache.get(shot(1).frame, PLAIN) is not None


async def test_a_frame_that_cannot_be_encoded_is_an_error_and_is_tried_again_when_asked_again() -> None:
    cache = JpegCache(JpegEncoder())
    wide = shot(1, np.zeros((1, 70_000, 3), np.uint8))
    for tries in (1, 2):
        with pytest.raises(CameraError, match="70000x1 pixels cannot be encoded"):
            await cache.get_or_encode(wide, PLAIN)
        assert cache.encodes == tries
    assert await cache.get_or_encode(shot(2), PLAIN)


async def test_encoding_runs_off_the_event_loop_and_its_time_is_reported() -> None:
    threads: set[str] = set()
    seconds: list[float] = []

    class Watched(np.ndarray):
        def __array_finalize__(self, made: object) -> None:
            threads.add(threading.current_thread().name)

    image = np.zeros((48, 64, 3), np.uint8).view(Watched)
    cache = JpegCache(JpegEncoder(), on_encoded=seconds.append)
    threads.clear()
    with_prediction = Picture(shot(1, image).frame, prediction(image))
    assert await cache.get_or_encode(with_prediction, OVERLAY)
    assert threads
    assert all(name.startswith("jpeg") for name in threads)
    assert len(seconds) == 1
    assert seconds[0] > 0


async def test_an_encoder_that_was_closed_takes_no_more() -> None:
    encoder = JpegEncoder()
    encoder.close()
    with pytest.raises(RuntimeError):
        await JpegCache(encoder).get_or_encode(shot(), PLAIN)


def test_a_jpeg_shows_the_frame_in_its_own_size() -> None:
    image = decoded(encode_picture(shot(7), PLAIN))
    assert image.shape == (48, 64, 3)
    assert abs(int(image[20, 20, 0]) - 7) < 4
    assert abs(int(image[20, 20, 2]) - 128) < 4


@pytest.mark.parametrize(
    ("width", "size"), [(32, (24, 32)), (1, (1, 1)), (63, (47, 63)), (64, (48, 64)), (640, (48, 64)), (None, (48, 64))]
)
def test_a_width_makes_the_picture_smaller_and_never_larger(width: int | None, size: tuple[int, int]) -> None:
    assert decoded(encode_picture(shot(), Variant(75, width))).shape[:2] == size


def test_a_width_that_would_enlarge_is_the_variant_without_one() -> None:
    frame = shot().frame
    assert Variant(75, 64).fitting(frame) == Variant(75, 4000).fitting(frame) == PLAIN
    assert Variant(75, 63).fitting(frame) == Variant(75, 63)
    assert Variant(75, 4000, overlay=True).fitting(frame) == OVERLAY


def test_quality_costs_bytes() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    sizes = [len(encode_picture(shot(1, noise), Variant(quality))) for quality in (1, 50, 95)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("width", [None, 32])
def test_drawing_never_touches_the_frame(width: int | None) -> None:
    image = picture(1)
    image.flags.writeable = False
    before = image.copy()
    said = prediction(image, results=(Detection((8, 8, 40, 40), 0.9, 0, "person"),))
    plain = decoded(encode_picture(Picture(shot(1, image).frame, said), Variant(95, width)))
    drawn = decoded(encode_picture(Picture(shot(1, image).frame, said), Variant(95, width, overlay=True)))
    assert (image == before).all()
    assert np.abs(plain.astype(int) - drawn.astype(int)).max() > 50


async def test_a_camera_whose_process_hangs_keeps_no_other_from_its_pictures_and_costs_one_thread() -> None:
    encoder, gate = JpegEncoder(), threading.Event()
    sick, well = JpegCache(encoder), JpegCache(encoder)
    images = [ElsewhereJpeg(jpeg(number), gate=gate) for number in (1, 2, 3)]
    shots = [shot(number, image) for number, image in enumerate(images, 1)]
    asked = [asyncio.create_task(sick.get_or_encode(one, Variant(quality))) for one in shots for quality in (50, 60)]
    try:
        await eventually(images[0].asked.is_set)
        async with asyncio.timeout(10):
            assert decoded(await well.get_or_encode(shot(9), PLAIN)).size
            assert await encoder.run(lambda: b"a sign") == b"a sign"
        assert [thread.name for thread in threading.enumerate()].count("pixels") == 1
        assert [image.asked.is_set() for image in images] == [True, False, False]
    finally:
        gate.set()
    assert all(decoded(one).shape == (48, 64, 3) for one in await asyncio.gather(*asked))
    encoder.close()


async def test_pixels_that_cannot_be_made_elsewhere_are_an_error_for_all_who_ask() -> None:
    image = ElsewhereJpeg(undecodable_jpeg())
    image.gate.set()
    cache = JpegCache(JpegEncoder())
    asked = (cache.get_or_encode(shot(1, image), Variant(quality)) for quality in (50, 60))
    assert [type(exc) for exc in await asyncio.gather(*asked, return_exceptions=True)] == [BrokenPicture] * 2
