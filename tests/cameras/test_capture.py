"""Cameras through OpenCV: real servers, real files, and pictures that tell how old they are."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from healthd.cameras.camera_child import _Camera
from healthd.cameras.capture import CaptureOptions, DirectRead, Transport, is_recording, open_camera
from healthd.cameras.ffmpeg import LARGEST_BLOCK_BYTES
from healthd.cameras.isolated_wire import Grab, Take, Taken
from healthd.cameras.source import PredictOptions, Read
from healthd.channel import Channel
from healthd.children import SUPPORTED
from healthd.cpus import set_thread_budget
from healthd.errors import CameraError, EndOfStream, SettingsError
from healthd.frames import CapturedImage, Image, StreamInfo, published_image
from healthd.redact import SourceUrl
from healthd.shared_images import SharedImages, SharedMemory
from tests.clips import (
    COUNTER_MP4,
    COUNTER_MP4_FPS,
    COUNTER_MP4_PICTURES,
    number_of,
    numbered_picture,
    write_mjpeg_avi,
)
from tests.mjpeg_server import MjpegBehaviour, MjpegServer
from tests.rtsp_server import Behaviour, RtspServer

LIVE = CaptureOptions()
NASTY = ("admin", "p@ss/?#%ü")
PROMISE_SECONDS = 1.0


@dataclass
class Watched:
    """What was read of a live camera: for each read the age of its picture, or None where it was held back."""

    opened_seconds: float = 0.0
    first_live_seconds: float = 0.0
    ages: list[float | None] = field(default_factory=list)
    infos: set[StreamInfo | None] = field(default_factory=set)

    @property
    def live(self) -> list[float]:
        return [age for age in self.ages if age is not None]


def watch(
    camera: RtspServer | MjpegServer,
    url: str,
    *,
    until: Callable[[Watched], bool],
    watched: Watched | None = None,
    options: CaptureOptions = LIVE,
    read_timeout_seconds: float = 5.0,
) -> Watched:
    """Read until a condition holds, for at most 20 seconds."""
    seen, began = watched or Watched(), time.monotonic()
    with open_camera(SourceUrl(url), options, read_timeout_seconds=read_timeout_seconds) as read:
        seen.opened_seconds = time.monotonic() - began
        while not until(seen) and time.monotonic() - began < 20:
            captured, now = read(), time.monotonic()
            if captured is None:
                seen.ages.append(None)
                continue
            assert isinstance(captured, CapturedImage)
            seen.first_live_seconds = seen.first_live_seconds or now - began
            number = number_of(captured.image)
            assert number is not None, "a smeared picture was published"
            seen.ages.append(camera.age(number, now))
            seen.infos.add(captured.info)
    return seen


def live_pictures(count: int) -> Callable[[Watched], bool]:
    return lambda seen: len(seen.live) >= count


def later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


# Opening


def test_an_rtsp_camera_opens_well_under_two_seconds_and_says_what_it_is() -> None:
    with RtspServer() as camera:
        seen = watch(camera, camera.url, until=live_pictures(15))
    assert seen.opened_seconds < 1.5
    assert seen.first_live_seconds < 2.0
    assert max(seen.live) < PROMISE_SECONDS
    assert seen.infos == {StreamInfo(320, 192, 30.0, "h264")}
    assert camera.transports == ["tcp"]


@pytest.mark.parametrize("digest", [False, True])
def test_a_password_of_nasty_characters_reaches_the_camera(*, digest: bool) -> None:
    with RtspServer(behaviour=Behaviour(credentials=NASTY, digest=digest)) as camera:
        assert watch(camera, camera.url, until=live_pictures(1)).live
    with MjpegServer(MjpegBehaviour(credentials=NASTY, digest=digest)) as camera:
        url = camera.url_of(user_info="admin:p%40ss%2F%3F%23%25%C3%BC")
        assert watch(camera, url, until=live_pictures(1)).live


def reason_of_failed_open(
    url: str, *, open_timeout_seconds: float = 10.0, options: CaptureOptions = LIVE
) -> tuple[str, float]:
    began = time.monotonic()
    with (
        pytest.raises(CameraError) as caught,
        open_camera(SourceUrl(url), options, open_timeout_seconds=open_timeout_seconds),
    ):
        pass
    return str(caught.value), time.monotonic() - began


def test_reasons_of_a_failed_open_are_told_apart_and_come_at_once() -> None:
    with RtspServer(behaviour=Behaviour(credentials=NASTY)) as camera:
        reasons = [
            reason_of_failed_open(camera.url_of()),
            reason_of_failed_open(camera.url_of(user_info="admin:wrong")),
            reason_of_failed_open(camera.url.replace("/cam", "/other")),
        ]
    reasons.append(reason_of_failed_open(camera.url_of()))
    assert all(took < 1.5 for _, took in reasons)
    words = ["wants a user name", "refuses the user name or password (401)", "no such stream", "connection refused"]
    assert all(word in reason for word, (reason, _) in zip(words, reasons, strict=True))


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(black_hole=True), "accepts the connection but does not answer"),
        (Behaviour(mute=True), "the camera answers, but no picture could be opened within"),
        (Behaviour(audio_only=True), "not a video: the stream has no video track"),
    ],
)
def test_a_camera_that_never_sends_a_picture_fails_within_the_open_timeout(behaviour: Behaviour, reason: str) -> None:
    with RtspServer(behaviour=behaviour) as camera:
        told, took = reason_of_failed_open(camera.url, open_timeout_seconds=2)
    assert reason in told
    assert took < 3.0


def test_pictures_that_a_firewall_drops_are_no_picture() -> None:
    with RtspServer(behaviour=Behaviour(loses_udp=True)) as camera:
        udp = CaptureOptions(transport="udp")
        told, took = reason_of_failed_open(camera.url, open_timeout_seconds=2, options=udp)
    assert "no picture could be opened" in told
    assert took < 3.0


def test_a_camera_that_offers_no_tcp_is_told_so_and_opens_with_udp() -> None:
    with RtspServer(behaviour=Behaviour(only_udp=True)) as camera:
        assert "try the other `transport`" in reason_of_failed_open(camera.url)[0]
        assert watch(camera, camera.url, until=live_pictures(1), options=CaptureOptions(transport="udp")).live


def test_an_html_page_is_not_a_video() -> None:
    with MjpegServer() as camera:
        told, _ = reason_of_failed_open(camera.url_of("page"))
        assert told == "not a video: the camera answers with text/html"


def test_a_camera_that_does_not_answer_delays_no_other() -> None:
    hole = RtspServer(behaviour=Behaviour(black_hole=True)).start()
    hanging = threading.Thread(target=reason_of_failed_open, args=(hole.url,), kwargs={"open_timeout_seconds": 6})
    hanging.start()
    with RtspServer() as camera:
        assert watch(camera, camera.url, until=live_pictures(1)).opened_seconds < 2.0
    assert hanging.is_alive()
    hole.stop()
    hanging.join()


def test_cameras_opened_at_once_each_get_their_own_transport() -> None:
    transports: list[Transport] = ["tcp", "udp", "tcp", "udp"]
    cameras = [RtspServer().start() for _ in transports]
    threads = [
        threading.Thread(
            target=watch,
            args=(camera, camera.url),
            kwargs={"until": live_pictures(5), "options": CaptureOptions(transport=transport)},
        )
        for camera, transport in zip(cameras, transports, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for camera in cameras:
        camera.stop()
    assert [camera.transports for camera in cameras] == [["tcp"], ["udp"], ["tcp"], ["udp"]]


def test_a_camera_that_sends_its_parameters_late_is_opened_all_the_same() -> None:
    silent = Behaviour(announce_parameters=False, from_any_picture=True)
    with RtspServer(fps=15, behaviour=silent) as camera:  # a key picture each second
        seen = watch(camera, camera.url, until=live_pictures(5))
    assert max(seen.live) < PROMISE_SECONDS


def test_nothing_that_opencv_prints_names_a_secret() -> None:
    code = """
import sys
from healthd.cameras.capture import CaptureOptions, open_camera
from healthd.errors import CameraError
from healthd.redact import SourceUrl
for url in sys.argv[1:]:
    try:
        with open_camera(SourceUrl(url), CaptureOptions(), open_timeout_seconds=2):
            print("opened")
    except CameraError as exc:
        print("reason:", exc)
"""
    with RtspServer(behaviour=Behaviour(credentials=NASTY)) as camera, MjpegServer() as mjpeg:
        info = "admin:swordfish"
        urls = [camera.url_of("cam?token=swordfish", user_info=info), mjpeg.url_of("page", user_info=info)]
        urls += [mjpeg.url_of("video?key=swordfish", user_info=info), "rtsp://admin:swordfish@127.0.0.1:9/cam"]
        ran = subprocess.run([sys.executable, "-c", code, *urls], capture_output=True, text=True, check=True)
    assert ran.stdout.count("reason:") == 3
    assert "swordfish" not in ran.stdout + ran.stderr


# Freshness


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(backlog_seconds=0), Behaviour(backlog_seconds=4), Behaviour(burst=4)],
    ids=["from-the-last-key-picture", "four-seconds-of-backlog", "bursts"],
)
def test_the_backlog_of_a_fresh_session_is_never_live(behaviour: Behaviour) -> None:
    with RtspServer(behaviour=behaviour) as camera:
        seen = watch(camera, camera.url, until=live_pictures(30))
    assert seen.ages[0] is None
    assert max(seen.live) < PROMISE_SECONDS
    assert len(seen.live) / (len(seen.live) + seen.ages[-30:].count(None)) > 0.9


def test_a_network_that_was_away_gives_no_old_picture_and_goes_on_by_itself() -> None:
    with RtspServer() as camera:
        later(1.5, camera.hold)
        later(3.5, lambda: camera.hold(held=False))
        seen = watch(camera, camera.url, until=lambda seen: len(seen.live) > 60)
    assert max(seen.live) < PROMISE_SECONDS
    first = next(i for i, age in enumerate(seen.ages) if age is not None)
    assert seen.ages[first:].count(None) > 30, "what piled up in two seconds was held back"
    assert None not in seen.ages[-20:]


@pytest.mark.parametrize("link_speed", [0.6, 0.8])
def test_a_link_that_is_too_slow_ends_the_session_before_anything_is_too_old(link_speed: float) -> None:
    seen = Watched()
    with RtspServer(behaviour=Behaviour(link_speed=link_speed)) as camera, pytest.raises(CameraError, match="lags"):
        watch(camera, camera.url, until=lambda _: False, watched=seen)
    assert max(seen.live, default=0.0) < PROMISE_SECONDS


def test_a_camera_that_hangs_is_an_error_in_bounded_time_and_shows_nothing_old() -> None:
    seen, stalled_at = Watched(), [0.0]

    def stall() -> None:
        camera.stall()
        stalled_at[0] = time.monotonic()

    with RtspServer() as camera, pytest.raises(CameraError, match="no image could be had for"):
        later(1.5, stall)
        watch(camera, camera.url, until=lambda _: False, watched=seen, read_timeout_seconds=1)
    assert time.monotonic() - stalled_at[0] < 3.0
    assert max(seen.live) < PROMISE_SECONDS


def test_a_camera_that_dies_is_an_error_at_once_and_opens_again_on_the_same_port() -> None:
    camera = RtspServer().start()
    died_at = [0.0]

    def die() -> None:
        died_at[0] = time.monotonic()
        camera.stop()

    later(1.5, die)
    with pytest.raises(CameraError, match="was lost"):
        watch(camera, camera.url, until=lambda _: False)
    assert time.monotonic() - died_at[0] < 1.0
    with RtspServer(port=camera.port) as again:
        assert watch(again, again.url, until=live_pictures(5)).first_live_seconds < 2.0


def test_leaving_closes_the_connection_also_after_a_failure() -> None:
    with RtspServer() as camera:
        with pytest.raises(ZeroDivisionError), open_camera(SourceUrl(camera.url), LIVE) as read:
            read()
            assert camera.clients == 1
            raise ZeroDivisionError
        deadline = time.monotonic() + 2
        while camera.clients and time.monotonic() < deadline:
            time.sleep(0.01)
        assert camera.clients == 0


@pytest.mark.parametrize("fps", [2, 25])
def test_a_motion_jpeg_camera_of_any_pace_is_read_without_a_made_up_fps(fps: float) -> None:
    with MjpegServer(MjpegBehaviour(fps=fps)) as camera:
        seen = watch(camera, camera.url_of(), until=live_pictures(4))
    assert max(seen.live) < PROMISE_SECONDS
    assert seen.infos == {StreamInfo(320, 192, None, "mjpeg")}


def test_what_piled_up_of_motion_jpeg_is_not_live() -> None:
    with MjpegServer() as camera:
        later(0.8, lambda: setattr(camera.behaviour, "held", True))
        later(2.3, lambda: setattr(camera.behaviour, "held", False))
        seen = watch(camera, camera.url_of(), until=live_pictures(25))
    assert max(seen.live) < PROMISE_SECONDS
    assert seen.ages.count(None) > 30


# Files


def read_all(path: Path, **options: object) -> tuple[list[int | None], list[float], str]:
    numbers, positions = [], []
    with open_camera(SourceUrl(str(path)), CaptureOptions.model_validate(options)) as read:
        try:
            while len(numbers) < 1000:
                captured = taken(read)
                numbers.append(number_of(captured.image))
                positions.append(captured.position_seconds or 0.0)
        except EndOfStream as exc:
            return numbers, positions, str(exc)
    raise AssertionError("it does not end")


def taken(read: Read) -> CapturedImage:
    captured = read()
    assert isinstance(captured, CapturedImage)
    return captured


def test_a_recording_gives_every_image_in_order_with_its_exact_position() -> None:
    numbers, positions, reason = read_all(COUNTER_MP4)
    assert numbers == list(range(COUNTER_MP4_PICTURES))
    assert positions == pytest.approx([i / COUNTER_MP4_FPS for i in range(COUNTER_MP4_PICTURES)], abs=1e-6)
    assert reason == "the recording has ended after 90 images"


@pytest.mark.parametrize(
    ("options", "threads"),
    [(CaptureOptions(), 3), (CaptureOptions(decoder_threads=2), 2), (CaptureOptions(realtime=True), 1)],
)
def test_a_recording_is_decoded_by_the_threads_that_the_process_may_use_and_a_live_camera_by_one(
    options: CaptureOptions, threads: int
) -> None:
    set_thread_budget(3)
    try:
        with open_camera(SourceUrl(str(COUNTER_MP4)), options) as read:
            assert read._session.capture.get(cv2.CAP_PROP_N_THREADS) == threads  # type: ignore[attr-defined]
    finally:
        set_thread_budget(0)


def test_each_image_is_an_array_of_its_own_that_is_published_without_a_copy() -> None:
    with open_camera(SourceUrl(str(COUNTER_MP4)), LIVE) as read:
        first, second = taken(read), taken(read)
    assert not np.shares_memory(first.image, second.image)
    assert published_image(first.image) is first.image
    assert first.info is second.info
    assert first.info == StreamInfo(320, 192, 25.0, "h264")


def test_an_image_is_made_where_it_is_wanted_if_it_has_that_shape() -> None:
    """A process of a camera saves a copy by this. It is OpenCV that keeps to it, or does not any more."""
    with open_camera(SourceUrl(str(COUNTER_MP4)), LIVE) as read:
        assert isinstance(read, DirectRead)
        read.target = np.zeros((192, 320, 3), np.uint8)
        first = taken(read)
        assert first.image is read.target
        assert number_of(first.image) == 0
        read.target = np.zeros((48, 64, 3), np.uint8)
        second = taken(read)
        assert (second.image is read.target, second.image.shape) == (False, (192, 320, 3))
        assert not read.target.any()


@pytest.mark.skipif(not SUPPORTED, reason="processes are Linux' alone")
def test_the_process_of_a_camera_copies_no_image_but_the_first_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    images = SharedImages()
    memory = SharedMemory(os.dup(images.descriptor))
    written = list[Image]()
    monkeypatch.setattr(memory, "write", lambda _place, image: written.append(image))
    near, far = socket.socketpair()
    with contextlib.ExitStack() as session, near, far, open_camera(SourceUrl(str(COUNTER_MP4)), LIVE) as read:
        session.callback(images.close)
        camera = _Camera(memory, Channel(far), session)
        camera._read = read
        for number in range(4):
            assert camera.answer(Grab()) is True
            slot = images.room(192 * 320 * 3)
            answer = camera.answer(Take((slot.place.offset, slot.place.size)))
            assert isinstance(answer, Taken)
            assert (answer.kind, answer.height, answer.width) == ("pixels", 192, 320)
            if number > 0:
                assert number_of(images.lease(slot, 192, 320)) == number
        assert len(written) == 1


def test_a_looped_recording_begins_again_without_losing_an_image() -> None:
    with open_camera(SourceUrl(str(COUNTER_MP4)), CaptureOptions(loop=True)) as read:
        captured = [taken(read) for _ in range(2 * COUNTER_MP4_PICTURES + 5)]
    assert [number_of(one.image) for one in captured] == [*range(90), *range(90), *range(5)]
    assert captured[90].position_seconds == 0.0


def test_a_file_played_as_a_camera_keeps_its_pace_and_gives_the_newest_image_to_a_slow_reader(tmp_path: Path) -> None:
    clip = write_mjpeg_avi(tmp_path / "clip.avi", pictures=20, fps=20)
    with open_camera(SourceUrl(str(clip)), CaptureOptions(realtime=True, loop=True)) as read:
        taken(read)
        began = time.monotonic()
        numbers = [number_of(taken(read).image) for _ in range(20)]
        assert time.monotonic() - began == pytest.approx(1.0, abs=0.3)
        assert numbers[-1] in (0, 1, 2, 3)
        time.sleep(0.4)
        skipped = (number_of(taken(read).image) or 0) - (numbers[-1] or 0)
    assert 6 <= skipped <= 12


def test_a_file_without_times_is_positioned_by_its_fps(tmp_path: Path) -> None:
    raw = tmp_path / "raw.h264"
    raw.write_bytes((COUNTER_MP4.parent / "counter.h264").read_bytes())
    numbers, positions, _ = read_all(raw)
    assert len(numbers) == 300
    assert np.diff(positions) == pytest.approx([positions[1]] * 299)


def test_a_damaged_recording_gives_what_can_be_read_and_says_that_there_was_more(tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(COUNTER_MP4.read_bytes()[:5000])
    numbers, _, reason = read_all(cut)
    assert numbers[:20] == list(range(20))
    assert reason.endswith("of 90: the file is cut off or damaged")


def test_a_text_is_no_video_and_a_missing_file_may_appear_later(tmp_path: Path) -> None:
    notes = tmp_path / "clip.mp4"
    assert "does not exist" in reason_of_failed_open(str(notes))[0]
    notes.write_text("notes\n" * 200)
    assert "is not a video" in reason_of_failed_open(str(notes))[0]
    write_mjpeg_avi(notes.with_suffix(".avi"), pictures=3, fps=10)
    assert read_all(notes.with_suffix(".avi"))[0] == [0, 1, 2]
    assert number_of(numbered_picture(1023)) == 1023


def test_a_device_that_is_not_there_has_a_reason() -> None:
    assert "/dev/video97 does not exist" in reason_of_failed_open("97")[0]
    assert "is not a video device" in reason_of_failed_open("/dev/null")[0]


def test_only_a_file_that_is_not_played_as_a_camera_is_a_recording() -> None:
    clip = SourceUrl("clip.mp4")
    assert is_recording(clip, LIVE)
    assert not is_recording(clip, CaptureOptions(realtime=True))
    assert not is_recording(SourceUrl("rtsp://camera/1"), LIVE)
    assert not is_recording(SourceUrl("ftp://camera/1"), LIVE)
    with pytest.raises(SettingsError, match="ftp"), open_camera(SourceUrl("ftp://camera/1"), LIVE):
        pass


def test_the_options_mix_with_those_of_a_plugin_and_refuse_what_they_do_not_know() -> None:
    class Options(CaptureOptions, PredictOptions):
        model: str = "pose"

    options = Options(transport="udp", confidence=0.5)
    assert (options.transport, options.params().confidence) == ("udp", 0.5)
    with pytest.raises(ValueError, match="extra"):
        Options.model_validate({"tranport": "udp"})


def test_no_camera_can_have_ffmpeg_take_more_memory_than_a_large_picture_needs() -> None:
    maps = Path("/proc/self/maps")
    paths = (
        [line[line.index("/") :] for line in maps.read_text().splitlines() if "/libavutil" in line]
        if maps.exists()
        else []
    )
    if not paths:
        pytest.skip("the FFmpeg of this OpenCV cannot be reached")
    library = ctypes.CDLL(paths[0])
    library.av_malloc.restype, library.av_malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.av_free.argtypes = (ctypes.c_void_p,)
    assert library.av_malloc(2 * LARGEST_BLOCK_BYTES) is None
    of_8k = library.av_malloc(7680 * 4320 * 3 // 2)
    assert of_8k is not None
    library.av_free(of_8k)
