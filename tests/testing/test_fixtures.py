"""What authors of plugins are given: fixtures that pytest finds by itself, and that cost nobody anything else."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from healthd.errors import CameraError, SettingsError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams
from healthd.testing import fixtures
from healthd.testing.fakes import FakeClock, FakeFamily, FakeSource, listed, picture, prediction
from healthd.testing.house import RunningCamera

Run = Callable[..., RunningCamera]


def test_a_source_runs_as_in_the_daemon_and_is_stopped(healthd_fake_camera: FakeSource, healthd_runner: Run) -> None:
    camera = healthd_runner(healthd_fake_camera)
    camera.wait_until("live")
    assert camera.frame is not None
    assert camera.frame.frame_id >= 1
    assert healthd_fake_camera.opened == 1


def test_a_camera_that_is_lost_comes_back_and_one_that_is_set_wrong_does_not(healthd_runner: Run) -> None:
    steps: list[object] = [picture(1), CameraError("nobody answers"), *(picture(2 + number) for number in range(500))]
    lost = healthd_runner(FakeSource(read=listed(steps), recording=True))
    lost.wait_for(lambda camera: camera.reconnects)

    def refuse() -> None:
        raise SettingsError("url: this camera needs one")

    wrong = healthd_runner(FakeSource("wrong", on_open=refuse))
    wrong.wait_until("failed")
    assert wrong.health.reason == "url: this camera needs one"


def test_the_clock_moves_at_once(healthd_runner: Run, healthd_clock: FakeClock) -> None:
    same = picture(7)
    camera = healthd_runner(FakeSource(read=same.copy), frozen_after_seconds=30)
    camera.wait_until("live")
    healthd_clock.advance(31)
    camera.wait_until("frozen")


def test_a_camera_that_does_not_get_there_says_where_it_is(healthd_runner: Run) -> None:
    camera = healthd_runner(FakeSource(read=listed([picture(1)]), recording=True))
    with pytest.raises(AssertionError, match=r"not within 0.3 s; the camera is ended: the recording has ended"):
        camera.wait_until("paused", seconds=0.3)


def test_the_model_of_a_source_predicts(healthd_runner: Run) -> None:
    camera = healthd_runner(FakeSource(predict=prediction))
    camera.wait_for(lambda camera: camera.model_health.state == "ready" and camera.frame)
    camera.wait_for(lambda camera: camera.prediction.model_id == "fake")


def test_the_fake_family_finds_what_is_bright(
    healthd_manager: ModelManager, healthd_fake_family: FakeFamily, healthd_frames: list[Image]
) -> None:
    bright = healthd_frames[0].copy()
    bright[10:20, 30:50] = 255
    with healthd_manager.use("fake", "lamp.fake") as model:
        assert [found.box_xyxy for found in model.predict(bright, InferenceParams()).results] == [(30, 10, 50, 20)]
        assert model.predict(healthd_frames[1], InferenceParams()).results == ()
    assert len(healthd_fake_family.loaded) == 1


def test_pytest_starts_as_quickly_where_healthd_is_installed() -> None:
    """The fixtures are found through the entry point, and import nothing of healthd's before one is asked for."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import healthd.testing.fixtures\n"
        "new = {name for name in set(sys.modules) - before if not name.startswith(('_pytest', 'pytest', 'pluggy'))}\n"
        "print(sorted(name for name in new if name.split('.')[0] in {'healthd', 'numpy', 'cv2', 'pydantic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['healthd', 'healthd.testing', 'healthd.testing.fixtures']"


def test_all_fixtures_are_described_and_named_so_that_they_hurt_nobody() -> None:
    names = [name for name, value in vars(fixtures).items() if type(value).__name__ == "FixtureFunctionDefinition"]
    assert len(names) == 6
    assert all(name.startswith("healthd_") for name in names)


def test_healthd_itself_needs_no_pytest() -> None:
    """The rules run where pytest is not installed; nothing but `fixtures` and `suites` imports it."""
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "import healthd.cli, healthd.plugin_check, healthd.plugin_project, healthd.daemon, healthd.testing.house\n"
        "from healthd.testing.case import FamilyCase\n"
        "from healthd.testing.fakes import FakeFamily\n"
        "from healthd.testing.family_rules import FAMILY_RULES\n"
        "from healthd.testing.rules import verdicts\n"
        "case = FamilyCase(FakeFamily, model='a.fake')\n"
        "print({one.outcome for one in verdicts(FAMILY_RULES[3:6], case)} <= {'passed', 'skipped'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr
