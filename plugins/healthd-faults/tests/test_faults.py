"""Faults on request: each does what its name says, when its schedule says, and nothing else ever goes wrong."""

import itertools
import math
import re
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from healthd.cameras.source import Read
from healthd.errors import CameraError, ModelError, SettingsError
from healthd.frames import CapturedImage, Image, JpegImage, published_image
from healthd.models.model import InferenceParams, ModelSpec, Prediction
from healthd_faults.family import FaultsFamily, FaultsModelOptions
from healthd_faults.options import FaultsOptions, ModelFault
from healthd_faults.picture import number_of, numbered_picture
from healthd_faults.schedule import Moment, Schedule
from healthd_faults.source import Faults


def source_of(*faults: dict[str, Any], **options: Any) -> Faults:
    source = Faults("drill", options=FaultsOptions.model_validate({"fps": 200, "faults": list(faults), **options}))
    source.stall_timeout_seconds = 0.3
    return source


def image_of(delivered: object) -> Image:
    assert isinstance(delivered, CapturedImage)
    image = delivered.image
    return image.pixels() if isinstance(image, JpegImage) else image


def outcome(read: Read) -> str:
    """What one read gave, in a word."""
    try:
        delivered = read()
        image = published_image(delivered.image if isinstance(delivered, CapturedImage) else delivered)
        return str((image.pixels() if isinstance(image, JpegImage) else image).shape[1])
    except (CameraError, ZeroDivisionError, StopIteration, SettingsError, SystemExit) as exc:
        return type(exc).__name__


@pytest.mark.parametrize("jpeg", [False, True])
@pytest.mark.parametrize("size", [(320, 240), (64, 64), (1920, 1080)])
def test_without_faults_it_is_a_camera_of_numbered_pictures(size: tuple[int, int], jpeg: bool) -> None:  # noqa: FBT001
    with source_of(width=size[0], height=size[1], jpeg=jpeg).camera() as read:
        images = [image_of(read()) for _ in range(5)]
    assert [number_of(image) for image in images] == [1, 2, 3, 4, 5]
    assert all(image.shape == (size[1], size[0], 3) for image in images)


def test_it_keeps_its_rate() -> None:
    with source_of(fps=50).camera() as read:
        begun = time.monotonic()
        for _ in range(20):
            read()
    assert 0.36 < time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("when", "on"),
    [
        ({}, range(1, 21)),
        ({"after_frames": 5, "for_frames": 3}, [6, 7, 8]),
        ({"every_frames": 5}, [5, 10, 15, 20]),
        ({"every_frames": 5, "for_frames": 2}, [5, 6, 10, 11, 15, 16, 20]),
        ({"every_frames": 5, "after_frames": 2}, [3, 8, 13, 18]),
        ({"after_seconds": 0.7}, range(7, 21)),
        ({"after_seconds": 0.7, "for_seconds": 0.3}, [7, 8, 9]),
        ({"every_seconds": 1, "for_seconds": 0.2}, [10, 11, 20]),
        ({"every_seconds": 1, "for_seconds": 0.2, "after_seconds": 0}, [1, 10, 11, 20]),
        ({"after_seconds": 1, "every_frames": 4}, [12, 16, 20]),
    ],
)
def test_a_fault_is_on_when_its_schedule_says(when: dict[str, Any], on: Any) -> None:
    """Ten frames a second, the first one a tenth of a second after the start."""
    schedule = Schedule.model_validate(when)
    assert [n for n in range(1, 21) if schedule.left_seconds(Moment(n / 10 + 0.001, n)) is not None] == list(on)


def test_it_is_known_how_long_a_fault_goes_on() -> None:
    schedule = Schedule(every_seconds=60, for_seconds=10)
    assert schedule.left_seconds(Moment(62, 1)) == 8
    assert Schedule().left_seconds(Moment(62, 1)) == math.inf


def test_chance_is_the_same_each_time_and_another_for_another_seed() -> None:
    schedule = Schedule(probability=0.3)
    drawn = [
        [schedule.left_seconds(Moment(0, n, seed)) is not None for n in range(1000)] for seed in ("1:0", "1:0", "2:0")
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 250 < sum(drawn[0]) < 350


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [
        ({"kind": "drop", "every_frames": 3}, ["320", "320", "CameraError", "320", "320", "CameraError"]),
        ({"kind": "end", "after_frames": 1}, ["320", "EndOfStream"]),
        ({"kind": "error", "every_frames": 2}, ["320", "ZeroDivisionError"] * 2),
        ({"kind": "error", "error": "stop_iteration"}, ["StopIteration"]),
        ({"kind": "error", "error": "system_exit"}, ["SystemExit"]),
        ({"kind": "error", "error": "settings"}, ["SettingsError"]),
        ({"kind": "resize", "after_frames": 2}, ["320", "320", "160", "320", "240", "160"]),
        ({"kind": "corrupt"}, ["CameraError"] * 4 + ["BrokenPicture", "CameraError"]),
        ({"kind": "corrupt", "corrupt": "shape", "every_frames": 2}, ["320", "CameraError"]),
        ({"kind": "half_open", "after_frames": 1, "for_frames": 1}, ["320", "CameraError", "320"]),
    ],
)
def test_reads_end_as_they_were_asked_to(fault: dict[str, Any], outcomes: list[str]) -> None:
    with source_of(fault).camera() as read:
        assert [outcome(read) for _ in outcomes] == outcomes


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("at", ["open", "read", "close"])
def test_it_hangs_where_and_for_as_long_as_it_is_asked_to(at: str, spin: bool) -> None:  # noqa: FBT001
    source = source_of({"kind": "hang", "at": at, "seconds": 0.5, "for_frames": 1, "spin": spin})
    times = [time.monotonic()]
    with source.camera() as read:
        times.append(time.monotonic())
        read()
        read()
        times.append(time.monotonic())
    times.append(time.monotonic())
    long = [after - before > 0.45 for before, after in itertools.pairwise(times)]
    assert long == [at == "open", at == "read", at == "close"]


def test_a_hang_ends_with_its_time_and_one_without_end_does_not() -> None:
    with source_of({"kind": "hang", "after_seconds": 0.1, "for_seconds": 0.2}).camera() as read:
        begun = time.monotonic()
        while time.monotonic() - begun < 0.4:
            read()
        assert time.monotonic() - begun < 3
    done = threading.Event()

    def for_ever() -> None:
        with source_of({"kind": "hang"}).camera() as read:
            read()
        done.set()

    threading.Thread(target=for_ever, daemon=True).start()
    assert not done.wait(0.2)


def test_frozen_pictures_are_the_same_and_then_go_on() -> None:
    with source_of({"kind": "freeze", "after_frames": 2, "for_frames": 3}).camera() as read:
        assert [number_of(image_of(read())) for _ in range(7)] == [1, 2, 2, 2, 2, 6, 7]


def test_after_a_burst_old_pictures_are_told_as_old() -> None:
    """What piled up is backlog, by the same gate as for RTSP; then it is live again."""
    source = source_of({"kind": "burst", "after_frames": 40, "for_frames": 1, "seconds": 0.8}, fps=40)
    with source.camera() as read:
        delivered = [read() for _ in range(110)]
    numbers = [None if one is None else number_of(image_of(one)) for one in delivered]
    assert all(shown in {None, number} for number, shown in enumerate(numbers, 1)), "every picture came, in order"
    assert numbers[39] == 40
    assert numbers[40:80].count(None) >= 5
    assert numbers[109] == 110


def test_what_leaks_stays_and_ends_at_its_limit() -> None:
    process = psutil.Process()
    for leak, count in (("descriptor", process.num_fds), ("thread", process.num_threads)):
        before = count()
        with source_of({"kind": "leak", "leak": leak, "most": 7}).camera() as read:
            for _ in range(20):
                read()
        assert count() - before == 7
    code = (  # in a process of its own: here, what others have given back would be used again
        "import psutil; from healthd_faults.source import Faults; from healthd_faults.options import FaultsOptions\n"
        "leak = dict(kind='leak', leak='memory', size_bytes=10_000_000, most=5)\n"
        "process, faults = psutil.Process(), Faults('drill', options=FaultsOptions(faults=[leak]))\n"
        "with faults.camera() as read:\n"
        "    before = process.memory_info().rss; [read() for _ in range(8)]; print(process.memory_info().rss - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert 45e6 < int(run.stdout) < 70e6


@pytest.mark.parametrize(("crash", "status"), [("segv", -11), ("exit", 3)])
def test_a_crash_ends_the_process_that_allowed_it(crash: str, status: int) -> None:
    code = (
        "from healthd_faults.source import Faults; from healthd_faults.options import FaultsOptions\n"
        f"options = FaultsOptions(allow_crash=True, faults=[dict(kind='crash', crash={crash!r}, after_frames=1)])\n"
        "with Faults('drill', options=options).camera() as read:\n"
        "    read(); print('one', flush=True); read(); print('two')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (run.returncode, run.stdout) == (status, "one\n"), run.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"faults": [{"kind": "crash"}]}, "set `allow_crash = true`"),
        ({"model": "faults", "model_faults": [{"kind": "crash"}]}, "set `allow_crash = true`"),
        ({"model_faults": [{"kind": "hang"}]}, 'set model = "faults"'),
        ({"faults": [{"kind": "freeze", "at": "open"}]}, "in `read` alone"),
        ({"faults": [{"kind": "drop", "every_seconds": 5}]}, "needs a for_seconds that is shorter"),
        ({"faults": [{"kind": "drop", "every_frames": 2, "for_frames": 3}]}, "that is not longer"),
        ({"faults": [{"kind": "explode"}]}, "kind"),
    ],
)
def test_what_makes_no_sense_or_is_too_dangerous_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        FaultsOptions.model_validate(options)


def answers(*faults: dict[str, Any], frames: int = 3) -> list[Any]:
    """What a model with these faults says of the first frames."""
    options = FaultsModelOptions(faults=tuple(ModelFault.model_validate(fault) for fault in faults))
    said: list[Any] = []
    try:
        model = FaultsFamily().load(ModelSpec("faults", None, Path(), options))
    except (ModelError, ZeroDivisionError) as exc:
        return [exc]
    for number in range(1, frames + 1):
        try:
            said.append(model.predict(numbered_picture(number, width=320, height=240), InferenceParams()))
        except (ModelError, ZeroDivisionError, SystemExit) as exc:
            said.append(exc)
    model.close()
    return said


def test_the_model_sees_the_square_where_it_is() -> None:
    said = answers()
    assert [one.metadata["number"] for one in said] == [1, 2, 3]
    x1, y1, x2, y2 = (round(value) for value in said[2].results[0].box_xyxy)
    picture = numbered_picture(3, width=320, height=240)
    assert (picture[y1:y2, x1:x2] == (0, 165, 255)).all()
    assert np.count_nonzero((picture == (0, 165, 255)).all(axis=2)) == (x2 - x1) * (y2 - y1)


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ({"kind": "fail", "for_frames": 1}, ["ModelError", "Prediction", "Prediction"]),
        ({"kind": "fail"}, ["ModelError"] * 3),
        ({"kind": "error", "every_frames": 2}, ["Prediction", "ZeroDivisionError", "Prediction"]),
        ({"kind": "error", "error": "system_exit", "for_frames": 1}, ["SystemExit", "Prediction", "Prediction"]),
        ({"kind": "type", "after_frames": 2}, ["Prediction", "Prediction", "dict"]),
        ({"kind": "fail", "at": "load"}, ["ModelError"]),
    ],
)
def test_a_model_fails_as_it_is_asked_to(fault: dict[str, Any], kinds: list[str]) -> None:
    assert [type(one).__name__ for one in answers(fault)] == kinds


def test_a_model_says_what_cannot_be_true() -> None:
    nan, many, garbage = (answers({"kind": kind}, frames=1)[0] for kind in ("nan", "many", "garbage"))
    assert all(isinstance(one, Prediction) for one in (nan, many, garbage))
    assert math.isnan(nan.results[0].confidence)
    assert len(many.results) == 10_000
    assert garbage.results[0].confidence > 1


def test_a_slow_model_takes_its_time() -> None:
    begun = time.monotonic()
    answers({"kind": "slow", "seconds": 0.1}, {"kind": "hang", "seconds": 0.1, "for_frames": 1})
    assert 0.4 <= time.monotonic() - begun < 3


def test_no_request_can_ask_for_a_fault_by_name() -> None:
    assert FaultsFamily().serves("faults")
    assert not FaultsFamily().serves("faults-hang")


def test_the_examples_of_the_readme_are_settings() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    blocks = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", readme, flags=re.DOTALL)]
    cameras = {name: camera["options"] for block in blocks for name, camera in block["cameras"].items()}
    assert len(cameras) == 8
    for options in cameras.values():
        FaultsOptions.model_validate(options)
