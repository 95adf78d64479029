"""Which cameras are read in a process of their own, and what crosses from there."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from healthd.cameras import isolated
from healthd.cameras.backlog import LATE_SECONDS
from healthd.cameras.camera_child import imported
from healthd.cameras.isolated import (
    MARGIN_SECONDS,
    CameraLeft,
    IsolatedCamera,
    isolation_of,
    may_need_processes,
    place_of,
)
from healthd.cameras.isolated_wire import Open
from healthd.cameras.source import CameraSource, Read, SourceOptions, TwoStepRead
from healthd.children import Child, Nursery
from healthd.errors import CameraError, EndOfStream, SettingsError
from healthd.frames import CapturedImage, Image, JpegImage, Refused, StreamInfo, published_image
from healthd.redact import SourceUrl
from healthd.settings import CameraSettings
from healthd.worker import WorkerTimeout
from tests.eventually import eventually, until_true
from tests.fakes import make_runner
from tests.installing import GOOD, after, install

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes for cameras are Linux' alone")


class Options(SourceOptions):
    say: str = "images"


class Talking(CameraSource):
    """Delivers what its options say; `url`: its address, as text, in an error."""

    contract = 1
    options_model = Options
    options: Options

    @contextmanager
    def camera(self) -> Iterator[Read]:
        if self.options.say == "settings":
            raise SettingsError("never")
        if self.options.say == "late":
            time.sleep(self.open_timeout_seconds)
            raise CameraError("it accepts the connection but does not answer")
        yield Steps() if self.options.say == "steps" else getattr(self, f"_{self.options.say}")(self)

    @staticmethod
    def _images(source: "Talking") -> Callable[[], Any]:
        info = StreamInfo(None, 5, np.float32(25), "h264")  # type: ignore[arg-type]
        said: list[Any] = [
            np.full((48, 64, 3), 1, np.uint8),
            CapturedImage(np.full((48, 64, 3), 2, np.uint8)[::-1, ::-1], np.float64(0.5), info),  # type: ignore[arg-type]
            None,
            np.full((480, 640, 3), 3, np.uint8),
            JpegImage(cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()),
            "no image",
            EndOfStream("that was all"),
        ]

        def read() -> Any:
            if isinstance(said[0], Exception):
                raise said[0]
            return said.pop(0)

        return read

    @staticmethod
    def _secret(source: "Talking") -> Callable[[], Any]:
        def read() -> Any:
            raise CameraError(f"no answer from {source.url.reveal() if source.url else ''}")

        return read

    @staticmethod
    def _steady(source: "Talking") -> Callable[[], Any]:
        def read() -> Image:
            time.sleep(0.05)
            return np.random.default_rng().integers(0, 255, (48, 64, 3), np.uint8)

        return read

    @staticmethod
    def _hang(source: "Talking") -> Callable[[], Any]:
        return lambda: time.sleep(1000)


class Steps(TwoStepRead):
    number = 0

    def grab(self) -> bool:
        self.number += 1
        return self.number != 2

    def retrieve(self) -> Image:
        return np.full((48, 64, 3), self.number, np.uint8)


def camera(nursery: Nursery, say: str, url: str | None = None, **settings: Any) -> IsolatedCamera:
    wanted = CameraSettings(plugin="talking", url=url, options={"say": say}, stall_timeout_seconds=3, **settings)
    source = Talking("gym", url=wanted.url, options=Options(say=say))
    source.open_timeout_seconds = wanted.open_timeout_seconds
    return IsolatedCamera(source, wanted, nursery=nursery)


def test_what_a_source_delivers_arrives_as_it_was(nursery: Nursery) -> None:
    with camera(nursery, "images").camera() as read:
        first: Any = read()
        assert first.shape == (48, 64, 3)
        assert (first == 1).all()
        assert published_image(first, copy=False) is first, "not copied again"
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 0
        second = read()
        assert isinstance(second, CapturedImage)
        assert (second.position_seconds, second.info) == (0.5, StreamInfo(None, 5, 25.0, "h264"))
        assert (second.image == 2).all()
        assert read() is None
        larger: Any = read()
        assert larger.shape == (480, 640, 3)
        assert isinstance(read(), JpegImage)
        refused: Any = read()
        assert isinstance(refused, Refused)
        with pytest.raises(CameraError, match="returned str, not an image"):
            published_image(refused)
        with pytest.raises(EndOfStream, match="that was all"):
            read()
        assert (first == 1).all()
        assert (larger == 3).all()


def test_what_the_import_of_a_plugin_does_to_others_is_put_back_in_its_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else what the camera logs is lost in its own process, and a path beside the configuration is not found there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "noisy_import", after("import logging, os\nlogging.disable()\nos.chdir('/')\nprint('hello')"))
    here = Path.cwd()
    assert imported("noisy_import:Source").__module__ == "noisy_import"
    assert (logging.root.manager.disable, Path.cwd()) == (logging.NOTSET, here)
    assert capfd.readouterr().out == ""


def test_a_plugin_that_was_uninstalled_below_the_daemon_is_told_as_that() -> None:
    with pytest.raises(CameraError, match=r"gone_plugin:Gone cannot be imported any more .*restart healthd"):
        imported("gone_plugin:Gone")


def test_a_plugin_that_was_upgraded_to_another_contract_is_not_run_with_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "newer_plugin", GOOD.replace("contract = 1", "contract = 2"))
    with pytest.raises(CameraError, match=r"written for contract 2, this healthd speaks contract 1.*restart healthd"):
        imported("newer_plugin:Source")


def test_options_that_the_daemon_took_and_the_process_does_not_are_told_as_an_upgrade(nursery: Nursery) -> None:
    wanted = CameraSettings(plugin="talking", options={"tell": "images"})
    with pytest.raises(SettingsError, match=r"options\.tell: unknown key.*restart healthd"):
        IsolatedCamera(Talking("gym"), wanted, nursery=nursery).camera().__enter__()


def test_pixels_of_frames_that_nobody_wants_are_not_made(nursery: Nursery) -> None:
    with camera(nursery, "steps").camera() as read:
        assert isinstance(read, TwoStepRead)
        assert [read.grab(), read.grab(), read.grab()] == [True, False, True]
        image: Any = read.retrieve()
        assert (image == 3).all()


def test_an_image_that_lay_in_the_process_for_long_is_not_delivered_as_new(nursery: Nursery) -> None:
    """The daemon was stopped for a while; the process of its camera was not."""
    with camera(nursery, "steps").camera() as read:
        assert isinstance(read, TwoStepRead)
        assert read.grab()
        time.sleep(LATE_SECONDS + 0.1)
        assert read.retrieve() is None
        assert [read.grab(), read.grab()] == [False, True]
        image: Any = read.retrieve()
        assert (image == 3).all()


def test_of_a_recording_an_image_that_lay_there_for_long_is_delivered(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Talking, "recording", True)
    with camera(nursery, "steps").camera() as read:
        assert isinstance(read, TwoStepRead)
        assert read.grab()
        time.sleep(LATE_SECONDS + 0.1)
        assert read.retrieve() is not None


def test_errors_are_those_of_the_source_and_tell_no_secret(nursery: Nursery) -> None:
    with pytest.raises(SettingsError, match="never"), camera(nursery, "settings").camera():
        pass
    url = "rtsp://admin:sesame-open@cam.lan/1"
    with camera(nursery, "secret", url).camera() as read, pytest.raises(CameraError) as told:
        read()
    assert str(told.value) == "no answer from rtsp://***@cam.lan/1"


def test_a_read_that_hangs_is_a_stall_and_is_counted(nursery: Nursery) -> None:
    hung = camera(nursery, "hang")
    hung._settings = hung._settings.model_copy(update={"stall_timeout_seconds": 0.2})
    with hung.camera() as read, pytest.raises(WorkerTimeout, match=r"no image within 0.2 s"):
        read()
    assert hung.facts.ends["stalled"] == 1
    assert hung.facts.memory_bytes is None


@pytest.mark.parametrize(
    ("url", "isolation"),
    [
        ("rtsp://cam.lan/1", "process"),
        ("http://cam.lan/video", "process"),
        ("0", "process"),
        ("/dev/video0", "process"),
        ("onvif-thing://cam.lan", "process"),
        (None, "process"),
        ("clips/squat.mp4", "thread"),
        ("file:///clips/squat.mp4", "thread"),
    ],
)
def test_all_but_files_are_read_in_a_process_unless_said_otherwise(url: str | None, isolation: str) -> None:
    settings = CameraSettings(plugin="talking", url=SourceUrl(url) if url else None)
    source = Talking("gym", url=settings.url)
    assert isolation_of(settings, source) == isolation
    assert may_need_processes(settings) == (isolation == "process")
    for wanted in ("process", "thread"):
        chosen = settings.model_copy(update={"isolation": wanted})
        assert isolation_of(chosen, source) == wanted
        assert may_need_processes(chosen) == (wanted == "process")


def test_a_class_that_cannot_be_found_again_is_not_looked_for_in_a_process() -> None:
    class Local(Talking):
        pass

    assert place_of(Local) is None
    assert place_of(Talking) == f"{Talking.__module__}:Talking"


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """Take all file descriptors of this process but so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = list[int]()
    try:
        highest = max(int(descriptor.name) for descriptor in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_session_without_descriptors_fails_as_a_camera_and_takes_none_with_it(nursery: Nursery) -> None:
    with camera(nursery, "images").camera() as read:
        read()
    gc.collect()
    before = psutil.Process().num_fds()
    for left in range(12):  # one is missing at each place where one is needed
        with (
            few_descriptors(left),
            pytest.raises(CameraError, match="Too many open files"),
            camera(nursery, "images").camera(),
        ):
            pass
    until_true(lambda: psutil.Process().num_fds() <= before)
    with camera(nursery, "images").camera() as read:
        assert read() is not None


def test_a_camera_that_takes_all_of_its_time_to_open_still_says_why(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, bounds = Child.call, []

    def patient(child: Child, request: object, *, reply: type[Any], timeout: float) -> Any:
        """Note the bound, and wait for longer: this machine may have much else to do."""
        if isinstance(request, Open):
            bounds.append(timeout)
        return call(child, request, reply=reply, timeout=timeout + 30)

    monkeypatch.setattr(Child, "call", patient)
    late = camera(nursery, "late", open_timeout_seconds=0.3)
    with pytest.raises(CameraError, match="accepts the connection"), late.camera():
        pass
    assert late.facts.ends["stalled"] == 0
    assert bounds == [pytest.approx(0.3 + MARGIN_SECONDS)]
    assert MARGIN_SECONDS >= 0.5, "the process says why a moment after its source has given up"


def test_a_camera_that_is_left_while_its_process_is_started_is_not_opened(nursery: Nursery) -> None:
    left = camera(nursery, "late", open_timeout_seconds=60)

    class Leaving(Nursery):
        def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> tuple[int, int | None]:
            left.leave()
            return nursery.fork(order, descriptors)

    left._nursery = Leaving()
    began = time.monotonic()
    with pytest.raises(CameraLeft), left.camera():
        pass
    assert time.monotonic() - began < 30


def test_a_camera_that_is_left_before_its_thread_begins_is_not_opened(nursery: Nursery) -> None:
    left = camera(nursery, "images")
    session = left.camera()
    left.leave()
    with pytest.raises(CameraLeft), session:
        pass


def test_a_session_that_was_given_up_has_no_part_in_the_next_one(nursery: Nursery) -> None:
    steady = camera(nursery, "steady")
    with contextlib.ExitStack() as given_up:
        given_up.enter_context(steady.camera())
        late, following = steady.camera(), steady.camera()
        with following as read:
            child = steady._child
            given_up.close()
            with pytest.raises(CameraLeft), late:
                pass
            assert steady._child is child
            steady.measure()
            assert (steady.facts.memory_bytes or 0) > 100_000
            assert read() is not None
    assert steady._child is None


def test_memory_is_that_of_a_process_that_is_there(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    steady = camera(nursery, "steady")
    session = steady.camera()
    session.__enter__()

    def looked(pid: int) -> int:
        session.__exit__(None, None, None)
        return pid

    monkeypatch.setattr(isolated, "private_bytes", looked)
    steady.measure()
    assert steady.facts.memory_bytes is None
    with steady.camera():
        assert steady.facts.memory_bytes is None, "nobody has looked yet"


async def test_a_camera_that_is_resumed_at_once_has_a_session_that_stays(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "LEAVE_SECONDS", 0.3)
    steady = camera(nursery, "steady")
    runner = make_runner(steady._source, stall_timeout_seconds=3, stale_after_seconds=30)
    assert runner._reader is not None
    runner.isolated = runner._reader._isolated = steady
    task = asyncio.create_task(runner.run())
    try:
        await eventually(lambda: runner.has_frame, seconds=20)
        left = steady._child
        runner.pause()
        runner.resume()
        await eventually(lambda: runner.has_frame, seconds=20)
        child, newest = steady._child, runner.newest_frame_id
        assert child is not left
        await eventually(lambda: runner.newest_frame_id >= newest + 10, seconds=20)
        assert steady._child is child
        assert not runner.failures.errors
    finally:
        runner.request_stop()
        await task
