"""A video in a process of its own shows the same frames, and what kills its decoder costs one job."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from healthd import children
from healthd.channel import packed_reply, unpacked_reply
from healthd.children import Nursery
from healthd.jobs import isolated_video
from healthd.jobs.errors import MediaError, MediaTooLargeError
from healthd.jobs.isolated_video import IsolatedVideo
from healthd.jobs.media import Limits, VideoMedia, check_media, open_media
from healthd.jobs.video_child import Grabbed, Retrieved
from tests.eventually import until_true
from tests.jobs.pictures import video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes for videos are Linux' alone")
LIMITS = Limits(bytes=1_000_000, pixels=10_000_000)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def opened(nursery: Nursery, tmp_path: Path) -> Iterator[IsolatedVideo]:
    with closing(IsolatedVideo(video(tmp_path / "a.mp4", 60), threads=1, nursery=nursery)) as one:
        yield one


def test_frames_and_times_are_those_that_are_decoded_here(nursery: Nursery, tmp_path: Path) -> None:
    path = video(tmp_path / "café.mp4", 20)
    here = list(open_media(path, limits=LIMITS, every=3).items(done=1))
    with closing(VideoMedia(IsolatedVideo(path, threads=1, nursery=nursery), limits=LIMITS, every=3)) as media:
        there = list(media.items(done=1))
        assert media.total == 7
    assert [(item.frame, item.position_ms) for item in there] == [(item.frame, item.position_ms) for item in here]
    assert [item.frame for item in there] == [3, 6, 9, 12, 15, 18]
    for one, other in zip(here, there, strict=True):
        assert one.image is not None
        assert other.image is not None
        assert np.array_equal(one.image, other.image)
        assert not other.image.flags.writeable


def test_jobs_decode_videos_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", None)
    assert check_media(video(tmp_path / "a.mp4", 20), limits=LIMITS, isolated=True) == ("video", 20)


def test_frames_that_are_larger_than_the_header_says_are_shown_whole(opened: IsolatedVideo) -> None:
    opened.facts = opened.facts._replace(width=2, height=2)
    assert opened.grab() is not None
    opened._images.room(10_000_000)  # so that no other slot fits
    image = opened.retrieve()
    assert image is not None
    assert image.shape == (48, 64, 3)


def test_a_decoder_that_crashes_is_told_with_its_signal_and_where(opened: IsolatedVideo) -> None:
    for _ in range(3):
        opened.grab()
    os.kill(opened._child.pid, signal.SIGSEGV)
    with pytest.raises(MediaError, match="was ended by SIGSEGV, at frame 3"):
        opened.grab()
    with pytest.raises(MediaError, match="SIGSEGV"):
        opened.retrieve()


def test_a_decoder_that_hangs_is_killed(opened: IsolatedVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_video, "FRAME_SECONDS", 0.3)
    os.kill(opened._child.pid, signal.SIGSTOP)
    with pytest.raises(MediaError, match="frame 0 of the video was not decoded"):
        opened.grab()
    until_true(lambda: not psutil.pid_exists(opened._child.pid))


def test_what_cannot_be_opened_says_the_same_as_here(nursery: Nursery, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(1000))
    with pytest.raises(MediaError, match="it is broken, cut off"):
        IsolatedVideo(broken, threads=1, nursery=nursery)
    large = video(tmp_path / "large.mp4", 2)
    with pytest.raises(MediaTooLargeError):
        VideoMedia(
            IsolatedVideo(large, threads=1, nursery=nursery), limits=Limits(bytes=1_000_000, pixels=1000), every=1
        )


@pytest.mark.parametrize("isolated", [True, False])
def test_a_name_that_is_no_utf8_is_refused_since_opencv_crashes_of_it(tmp_path: Path, *, isolated: bool) -> None:
    named = video(tmp_path / "a.mp4", 2).rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    with pytest.raises(MediaError, match="the name of the video is not UTF-8: rename the file"):
        open_media(named, limits=LIMITS, isolated=isolated)


def test_nothing_is_left_behind(nursery: Nursery, tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 3)

    def once() -> None:
        with closing(IsolatedVideo(path, threads=1, nursery=nursery)) as one:
            one.grab()
            one.retrieve()

    once()
    before = psutil.Process().num_fds()
    for _ in range(5):
        once()
    until_true(lambda: psutil.Process().num_fds() <= before)
    until_true(lambda: not psutil.Process(nursery.pid).children())


@pytest.mark.parametrize("shape", [(-1, -1), (0, 4), (4, -2)])
def test_a_process_that_says_what_no_image_can_be_is_an_error_of_the_video(
    opened: IsolatedVideo, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(
        children, "unpacked_reply", lambda _, kind: unpacked_reply(packed_reply(Retrieved(shape)), kind)
    )
    with pytest.raises(MediaError):
        opened.retrieve()


def test_times_that_are_no_numbers_are_an_error_of_the_video(
    opened: IsolatedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = packed_reply(Grabbed(float("nan")))
    monkeypatch.setattr(children, "unpacked_reply", lambda _, kind: unpacked_reply(said, kind))
    with pytest.raises(MediaError, match="what cannot be"):
        opened.grab()
