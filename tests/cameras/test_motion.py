"""What moves is seen at once; noise, light and compression are not motion."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from healthd.cameras.motion import LONG_SIDE, MotionDetector, small_grey
from healthd.frames import Image
from healthd.settings import CameraSettings

DEFAULT = CameraSettings(plugin="fake")
FPS = 15.0
SIZE = (360, 640)
RNG = np.random.default_rng(5)


def room() -> np.ndarray:
    """A picture with edges, flat walls, texture, a dark corner and a clipped window."""
    height, width = SIZE
    coarse = RNG.uniform(60, 180, (height // 40, width // 40, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture[40:140, 60:200] = 255
    picture[200:, 420:] *= 0.15
    picture[180:300:6, 200:380] += 50
    return np.clip(picture, 0, 255)


ROOM = room()
GRAIN = RNG.normal(0, 1, (3 * SIZE[0], 3 * SIZE[1], 3)).astype(np.float32)


def noisy(picture: np.ndarray, sigma: float) -> Image:
    down, across = RNG.integers(2 * SIZE[0]), RNG.integers(2 * SIZE[1])
    grain = GRAIN[down : down + SIZE[0], across : across + SIZE[1]]
    return np.clip(picture + sigma * grain, 0, 255).astype(np.uint8)


def motions(pictures: Iterator[Image], *, fps: float = FPS) -> list[float]:
    """The motion in each picture but the first."""
    detector = MotionDetector(threshold=DEFAULT.motion_threshold)
    seen = [detector.look(picture, number / fps) for number, picture in enumerate(pictures)]
    return seen[1:]


def with_person(picture: np.ndarray, left: int) -> np.ndarray:
    """Someone 30 pixels wide and 110 high, in a striped shirt, whose front is at `left`."""
    drawn = picture.copy()
    if left > 0:
        drawn[200:310, max(0, left - 30) : left] = 60
        drawn[200:310:20, max(0, left - 30) : left] = 190
    return drawn


def quarter_pixel_shake(picture: np.ndarray, number: int) -> np.ndarray:
    moved = np.array([[1, 0, 0.25 * (number % 2)], [0, 1, 0.25 * (number // 2 % 2)]], np.float32)
    return cv2.warpAffine(picture, moved, (SIZE[1], SIZE[0]), borderMode=cv2.BORDER_REPLICATE)


def lamp(t: float) -> tuple[float, float]:
    """Gain and offset of an exposure that is stepped up, drifts down and is stepped down again."""
    return 1 + 0.35 * (t > 2) - 0.4 * (t > 6), -8 * min(max(t - 3, 0), 1)


@pytest.mark.parametrize("sigma", [0.0, 2.0, 12.0, 25.0])
def test_the_noise_of_day_and_night_is_no_motion(sigma: float) -> None:
    assert max(motions(noisy(ROOM, sigma) for _ in range(100))) < DEFAULT.motion_area / 2


def test_an_exposure_that_steps_and_drifts_is_no_motion() -> None:
    lit = (lamp(n / FPS) for n in range(135))
    assert max(motions(noisy(ROOM * gain + offset, 2) for gain, offset in lit)) < DEFAULT.motion_area


def test_a_camera_that_trembles_by_less_than_a_pixel_is_no_motion() -> None:
    assert max(motions(noisy(quarter_pixel_shake(ROOM, n), 2) for n in range(60))) < DEFAULT.motion_area


def test_bands_of_light_that_wander_with_the_mains_are_no_motion() -> None:
    rows = np.arange(SIZE[0])[:, None, None] / SIZE[0]
    bands = (ROOM + 5 * np.sin(8 * rows + 0.9 * n) for n in range(60))
    assert max(motions(noisy(picture, 3) for picture in bands)) < DEFAULT.motion_area


@pytest.mark.parametrize("codec", ["mp4v", "MJPG"])
def test_the_flicker_of_compression_is_no_motion(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), FPS, (SIZE[1], SIZE[0]))
    for _ in range(60):
        writer.write(noisy(ROOM, 6))
    writer.release()
    assert max(motions(read(path))) < DEFAULT.motion_area


def read(path: Path) -> Iterator[Image]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while True:
        ok, image = capture.read()
        if not ok:
            break
        yield image  # type: ignore[misc]
    capture.release()


@pytest.mark.parametrize("sigma", [2.0, 12.0])
@pytest.mark.parametrize("light", [lambda _: 1.0, lambda n: 1 + 0.02 * (n % 3)], ids=["steady", "flickering"])
def test_who_comes_in_is_seen_in_the_second_picture_and_until_he_has_left(
    sigma: float, light: Callable[[int], float]
) -> None:
    """He walks across the picture in six seconds, beginning with the 31st picture."""
    lefts = [0] * 30 + [round(8 * step) for step in range(1, 84)] + [0] * 60
    seen = motions(noisy(with_person(ROOM, left) * light(n), sigma) for n, left in enumerate(lefts))
    assert max(seen[:29]) < DEFAULT.motion_area
    first_with_more_than_a_hand = next(n for n, left in enumerate(lefts) if left >= 12)
    woken = next(n for n, motion in enumerate(seen, start=1) if motion >= DEFAULT.motion_area)
    assert woken - first_with_more_than_a_hand <= 1
    assert np.mean([motion >= DEFAULT.motion_area for motion in seen[woken:100]]) > 0.9
    assert max(seen[-15:]) < DEFAULT.motion_area, "what has left is forgotten"


def test_something_too_small_for_the_area_is_no_motion_and_a_smaller_area_sees_it() -> None:
    def pictures() -> Iterator[Image]:
        for number in range(30):
            picture = ROOM.copy()
            picture[330:338, 10 + 4 * number : 18 + 4 * number] = 255
            yield noisy(picture, 2)

    assert 0.0002 < max(motions(pictures())) < DEFAULT.motion_area


def test_a_picture_that_changes_as_a_whole_is_motion() -> None:
    other = np.roll(ROOM[:, ::-1], 70, axis=0)
    assert motions(noisy(picture, 12) for picture in [ROOM] * 20 + [other])[-1] > 0.1


def test_the_first_picture_and_one_of_another_size_are_all_change() -> None:
    detector = MotionDetector(threshold=12)
    assert detector.look(noisy(ROOM, 2), 0.0) == 1.0
    assert detector.look(noisy(ROOM, 2), 0.1) < 0.001
    assert detector.look(np.zeros((640, 360, 3), np.uint8), 0.2) == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (720, 1280), (1920, 1080), (7, 9)])
def test_pictures_of_any_shape_can_be_looked_at(size: tuple[int, int]) -> None:
    detector = MotionDetector(threshold=12)
    for at in (0.0, 0.1):
        detector.look(np.full((*size, 3), 77, np.uint8), at)
    assert max(small_grey(np.zeros((*size, 3), np.uint8)).shape) == LONG_SIDE


@pytest.mark.parametrize("clip", ["people_walking_720p", "people_street_1080p", "squat_side_3", "pushup_side_5"])
def test_real_people_are_motion_from_the_first_looks_on(assets: Path, clip: str) -> None:
    pictures = read(assets / "clips" / f"{clip}.mp4")
    seen = motions((picture for n, picture in enumerate(pictures) if n % 2 == 0 and n < 240), fps=15)
    assert np.mean([motion >= DEFAULT.motion_area for motion in seen]) > 0.95
    assert max(seen[:4]) >= DEFAULT.motion_area
