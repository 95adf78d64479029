from collections.abc import Callable

from healthd.testing.house import RunningCamera
from healthd.testing.session import opened
from healthd.testing.suites import SourceConformance

from {{module}}.source import (
    {{class}}Camera,
    {{class}}Settings,
)


class TestContract(SourceConformance):
    """All that healthd asks of a camera source, a test each."""

    plugin = "{{plugin}}"
    fps = 25


def test_each_picture_is_lighter_than_the_one_before() -> None:
    options = {{class}}Settings(step=3, fps=50)
    source = {{class}}Camera("{{camera}}", options=options)
    with opened(source) as session:
        shades = [int(taken.image[0, 0, 0]) for taken in session.images(3, seconds=2)]
    assert shades == [3, 6, 9]


def test_healthd_shows_it_live(healthd_runner: Callable[..., RunningCamera]) -> None:
    camera = healthd_runner({{class}}Camera("{{camera}}"))
    camera.wait_until("live")
    assert camera.frame is not None
    assert camera.frame.image.shape == (120, 160, 3)
