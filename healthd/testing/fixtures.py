"""What pytest finds by itself where healthd is installed: fixtures for authors of plugins, and nothing else.

It is loaded in every test run of that environment, whoever's tests they are. So it imports nothing before a fixture is
asked for, changes nothing, and all its names begin with `healthd_`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from healthd.cameras.source import CameraSource
    from healthd.frames import Image
    from healthd.models.manager import ModelManager
    from healthd.testing.fakes import FakeClock, FakeFamily, FakeSource
    from healthd.testing.house import RunningCamera


@pytest.fixture
def healthd_frames() -> "list[Image]":
    """Ten small images, each of another shade."""
    from healthd.testing.fakes import picture  # noqa: PLC0415

    return [picture(number) for number in range(10)]


@pytest.fixture
def healthd_clock() -> "FakeClock":
    """A clock that a test moves ahead: `healthd_clock.advance(60)`. The cameras of `healthd_runner` go by it."""
    from healthd.testing.fakes import FakeClock  # noqa: PLC0415

    return FakeClock()


@pytest.fixture
def healthd_fake_camera() -> "FakeSource":
    """A camera that needs none: 200 images a second, each another."""
    from healthd.testing.fakes import FakeSource  # noqa: PLC0415

    return FakeSource()


@pytest.fixture
def healthd_fake_family() -> "FakeFamily":
    """A family of models that finds what is bright, for every model id that ends in `.fake`."""
    from healthd.testing.fakes import FakeFamily  # noqa: PLC0415

    return FakeFamily()


@pytest.fixture
def healthd_manager(healthd_fake_family: "FakeFamily", tmp_path: Path) -> "ModelManager":
    """What a source's `model()` is given: a manager that knows the family `fake`, and an empty models directory."""
    from healthd.models.manager import ModelManager  # noqa: PLC0415

    return ModelManager({"fake": healthd_fake_family}, directory=tmp_path)


@pytest.fixture
def healthd_runner(
    healthd_clock: "FakeClock", healthd_manager: "ModelManager"
) -> "Iterator[Callable[..., RunningCamera]]":
    """Return a function that runs a source as the daemon does, until the test ends.

    `camera = healthd_runner(Steps("stairs"))`; settings of `[cameras.NAME]` may follow, e.g. `stall_timeout_seconds=1`.
    """
    from healthd.testing.house import RunningCamera  # noqa: PLC0415

    with ExitStack() as stack:

        def run(source: "CameraSource", **settings: object) -> "RunningCamera":
            settings.setdefault("models", healthd_manager)
            return stack.enter_context(RunningCamera(source, clock=healthd_clock, **settings))  # type: ignore[arg-type]

        yield run
