"""What a job works on: order, numbering, going on where a run has ended, and everything that may be broken."""

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from healthd.jobs import archive
from healthd.jobs.access import read_regular, resolve_allowed
from healthd.jobs.errors import MediaError, MediaTooLargeError, PathRefusedError
from healthd.jobs.media import Item, Limits, Media, check_media, kind_of, open_media
from tests.jobs.pictures import jpeg, pictures_zip, png, video, zipped

LIMITS = Limits(bytes=1_000_000, pixels=10_000_000)


OPEN: list[Media] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def opened(path: Path, **options: Any) -> Media:
    media = open_media(path, **{"limits": LIMITS, **options})
    OPEN.append(media)
    return media


def items(path: Path, *, done: int = 0, after: str | None = None, **options: Any) -> list[Item]:
    return list(opened(path, **options).items(done=done, after=after))


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -- kinds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (jpeg(), "picture"),
        (pictures_zip(1), "zip"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "video"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), "video"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "picture"),
        ((b"\x47" + bytes(187)) * 4, "video"),
        (b"\x47" + bytes(187), None),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", None),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", None),
        (b"<?xml version='1.0'?><MPD/>", None),
        (b"text", None),
        (b"", None),
    ],
)
def test_a_file_is_what_it_begins_with_whatever_its_name(tmp_path: Path, data: bytes, kind: str | None) -> None:
    path = put(tmp_path, "clip.mp4", data)
    assert kind_of(path) == kind
    if kind is None:
        with pytest.raises(MediaError, match="no video, zip or picture"):
            open_media(path, limits=LIMITS)


def test_a_real_video_is_one(tmp_path: Path) -> None:
    assert kind_of(video(tmp_path / "a.mp4", 3)) == "video"
    assert kind_of(tmp_path) == "directory"
    assert kind_of(tmp_path / "absent") is None


# -- videos ------------------------------------------------------------------------------------------------------------


def test_a_video_gives_every_frame_with_its_number_and_its_time(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 20)
    found = items(path)
    assert [item.frame for item in found] == list(range(20))
    assert [item.position_ms for item in found] == pytest.approx([number * 100 for number in range(20)], abs=1)
    for number, item in enumerate(found):
        assert item.image is not None
        assert abs(float(item.image.mean()) - number * 4) < 6
        assert not item.image.flags.writeable
    assert check_media(path, limits=LIMITS) == ("video", 20)


@pytest.mark.parametrize(("every", "done"), [(1, 7), (3, 0), (3, 2), (3, 6), (7, 3), (50, 1)])
def test_a_run_that_goes_on_gives_the_frames_behind_those_that_are_done(tmp_path: Path, every: int, done: int) -> None:
    path = video(tmp_path / "a.mp4", 20)
    whole = items(path, every=every)
    assert [item.frame for item in whole] == list(range(0, 20, every))
    rest = items(path, every=every, done=done)
    assert [(item.frame, item.position_ms) for item in rest] == [(it.frame, it.position_ms) for it in whole[done:]]
    for one, other in zip(rest, whole[done:], strict=True):
        assert one.image is not None
        assert other.image is not None
        assert np.array_equal(one.image, other.image)


def test_frames_that_are_passed_over_are_passed_over_only_as_long_as_somebody_wants_it(tmp_path: Path) -> None:
    media = opened(video(tmp_path / "a.mp4", 20))
    answers = iter([True] * 5)
    assert list(media.items(done=10, keep_on=lambda: next(answers, False))) == []
    assert media.note is None


def test_a_video_that_is_cut_off_says_so_at_the_end(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.avi", 60, size=(240, 320))
    path = put(tmp_path, "cut.avi", whole.read_bytes()[: whole.stat().st_size // 2])
    media = opened(path)
    seen = list(media.items())
    assert 0 < len(seen) < 60
    if media.total is not None and media.total > len(seen):
        assert media.note is not None
        assert "cut off or damaged" in media.note


@pytest.mark.parametrize("keep", [0.001, 0.1, 0.5, 0.95])
def test_a_video_without_its_index_is_refused(tmp_path: Path, keep: float) -> None:
    whole = video(tmp_path / "whole.mp4", 40, size=(240, 320)).read_bytes()
    path = put(tmp_path, "cut.mp4", whole[: max(64, int(len(whole) * keep))])
    with pytest.raises(MediaError, match="cannot be opened"):
        check_media(path, limits=LIMITS)


def test_a_video_with_an_index_and_no_frames_is_refused(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.avi", 10).read_bytes()
    begin = whole.index(b"movi")
    path = put(tmp_path, "empty.avi", whole[:begin] + b"movi" + bytes(len(whole) - begin - 4))
    with pytest.raises(MediaError):
        check_media(path, limits=LIMITS)


def test_frames_that_are_too_large_are_refused_before_one_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(MediaTooLargeError, match=r"inference\.max_pixels"):
        open_media(video(tmp_path / "a.mp4", 2), limits=Limits(bytes=1000, pixels=1000))


# -- zips --------------------------------------------------------------------------------------------------------------


def test_a_zip_gives_its_pictures_in_its_own_order_and_nothing_else(tmp_path: Path) -> None:
    members = {
        "b.jpg": jpeg(1),
        "folder/": b"",
        "folder/a.JPEG": jpeg(2),
        "readme.txt": b"text",
        "__MACOSX/b.jpg": b"junk",
        "folder/._a.jpg": b"junk",
        "a.png": png(np.zeros((4, 4, 3), np.uint8)),
    }
    path = put(tmp_path, "a.zip", zipped(members))
    media = opened(path)
    assert (media.total, media.skipped) == (3, 3)
    assert [item.name for item in media.items()] == ["b.jpg", "folder/a.JPEG", "a.png"]
    assert [item.name for item in items(path, done=1)] == ["folder/a.JPEG", "a.png"]
    assert items(path, done=3) == []
    assert all(item.image is not None for item in items(path))


def test_what_is_wrong_with_one_member_is_an_error_of_that_picture_alone(tmp_path: Path) -> None:
    members = {
        "fine.jpg": jpeg(1),
        "text.jpg": b"this is no picture",
        "empty.jpg": b"",
        "half.jpg": jpeg(2, size=(480, 640))[:700],
        "long.jpg": jpeg(3) + bytes(2_000_000),
        "damaged.jpg": os.urandom(5000),
        "last.jpg": jpeg(4),
    }
    data = bytearray(zipped(members, compression=zipfile.ZIP_STORED))
    at = data.index(members["damaged.jpg"])
    data[at + 100] ^= 0xFF
    found = {item.name: item for item in items(put(tmp_path, "a.zip", bytes(data)))}
    assert {name for name, item in found.items() if item.image is not None} == {"fine.jpg", "last.jpg"}
    assert "larger than 1000000 bytes" in str(found["long.jpg"].error)
    assert "cannot be unpacked" in str(found["damaged.jpg"].error)
    assert all(item.error for name, item in found.items() if name not in {"fine.jpg", "last.jpg"})


def test_an_encrypted_member_and_an_unknown_packing_are_errors_of_their_pictures(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jpg": jpeg(1), "b.jpg": jpeg(2), "c.jpg": jpeg(3)}))
    central = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    data[central[0] + 8] |= 1  # flags: encrypted
    data[central[1] + 10 : central[1] + 12] = struct.pack("<H", 98)  # packed by PPMd
    found = items(put(tmp_path, "a.zip", bytes(data)))
    assert found[0].error == "it is encrypted"
    assert "cannot be unpacked" in str(found[1].error)
    assert found[2].image is not None


def test_names_that_lead_out_of_the_folder_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    names = ["../outside.jpg", "/etc/outside.jpg", "..\\outside.jpg", "a/../../outside.jpg"]
    before = sorted(tmp_path.rglob("*"))
    path = put(tmp_path, "slip.zip", zipped(dict.fromkeys(names, jpeg())))
    assert [item.image is not None for item in items(path)] == [True] * 4
    assert not outside.exists()
    assert sorted(tmp_path.rglob("*")) == [*before, path]


def test_ten_thousand_members_are_read_one_by_one(tmp_path: Path) -> None:
    small = jpeg(1, size=(8, 8))
    path = put(tmp_path, "many.zip", zipped({f"{number}.jpg": small for number in range(10_000)}))
    media = opened(path)
    assert media.total == 10_000
    assert sum(item.image is not None for item in media.items(done=9_000)) == 1_000


def test_more_members_than_anybody_needs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "many.zip", zipped({f"{number}.jpg": b"" for number in range(100)}))
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MOST_MEMBERS", 99)
        with pytest.raises(MediaTooLargeError, match="99 files"):
            open_media(path, limits=LIMITS)
    monkeypatch.setattr(archive, "MOST_DIRECTORY_BYTES", 1000)
    with pytest.raises(MediaTooLargeError, match="the list of what is in the zip"):
        open_media(path, limits=LIMITS)


def test_a_zip_that_lies_about_the_length_of_its_list_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = put(tmp_path, "liar.zip", pictures_zip(2))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + 60_000_000)  # a hole: takes no room
        file.seek(0, os.SEEK_END)
        size, start = 59_000_000, 500
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, start, 0))
    with pytest.raises(MediaError):
        open_media(path, limits=LIMITS)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BOMB_BYTES", 10_000_000)
    path = put(tmp_path, "bomb.zip", zipped({f"{number}.bmp": b"BM" + bytes(900_000) for number in range(30)}))
    assert path.stat().st_size < 100_000
    with pytest.raises(MediaTooLargeError, match="times its size"):
        open_media(path, limits=LIMITS)
    inner = zipped({"inner.zip": path.read_bytes(), "a.jpg": jpeg()})
    assert [item.name for item in items(put(tmp_path, "nested.zip", inner))] == ["a.jpg"]


def test_a_member_that_unpacks_to_more_than_it_says_is_not_unpacked_any_further(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.bmp": b"BM" + bytes(50_000_000), "b.jpg": jpeg()}))
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(mark) + offset
        data[at : at + 4] = struct.pack("<L", 1000)
    found = items(put(tmp_path, "liar.zip", bytes(data)))
    assert found[0].error
    assert found[1].image is not None


def test_a_picture_with_too_many_pixels_is_an_error_of_its_own(tmp_path: Path) -> None:
    huge = png(np.zeros((6000, 6000, 3), np.uint8))
    assert len(huge) < LIMITS.bytes
    (found,) = items(put(tmp_path, "a.zip", zipped({"huge.png": huge})))
    assert "pixels" in str(found.error)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (zipped({}), "no picture in the zip"),
        (zipped({"readme.txt": b"text"}), "no picture in the zip"),
        (b"PK\x03\x04 and then nothing of the kind", "the zip is broken"),
        (pictures_zip(3)[:-30], "the zip is broken"),
    ],
)
def test_a_zip_with_nothing_in_it_is_refused_with_the_reason(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(MediaError, match=told):
        open_media(put(tmp_path, "a.zip", data), limits=LIMITS)


# -- directories -------------------------------------------------------------------------------------------------------


def test_a_directory_gives_its_pictures_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.jpg", "c.PNG.txt", "a.jpg", "deep/er/x.webp"):
        put(tmp_path, name, jpeg())
    media = opened(tmp_path)
    assert [item.name for item in media.items()] == ["a.jpg", "a/z.jpg", "b.jpg", "deep/er/x.webp"]
    assert (media.total, media.skipped) == (4, 1)


def test_a_run_over_a_directory_goes_on_behind_the_last_name_whatever_has_come_and_gone(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "d.jpg"):
        put(tmp_path, name, jpeg())
    assert [item.name for item in items(tmp_path)] == ["a.jpg", "b.jpg", "d.jpg"]
    put(tmp_path, "aa.jpg", jpeg())
    put(tmp_path, "c.jpg", jpeg())
    (tmp_path / "a.jpg").unlink()
    assert [item.name for item in items(tmp_path, done=2, after="b.jpg")] == ["c.jpg", "d.jpg"]


def test_names_that_are_no_text_are_shown_and_come_once_in_an_order_of_their_own(tmp_path: Path) -> None:
    for name in (b"a.jpg", b"b\xff.jpg", b"b\xfe.jpg", "ü.jpg".encode(), "\U0001f4f7.jpg".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(jpeg())
    names = [str(item.name) for item in items(tmp_path)]
    assert len(names) == 5
    assert "".join(names).isprintable()
    for done, name in enumerate(names):
        assert [item.name for item in items(tmp_path, done=done + 1, after=name)] == names[done + 1 :]


def test_links_pipes_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    put(inside, "a.jpg", jpeg())
    put(outside, "secret.jpg", jpeg())
    (inside / "link.jpg").symlink_to(outside / "secret.jpg")
    (inside / "ring.jpg").symlink_to(inside / "ring.jpg")
    (inside / "folder.d").symlink_to(outside)
    (inside / "own.jpg").symlink_to(inside / "a.jpg")
    os.mkfifo(inside / "pipe.jpg")
    media = opened(inside, within=inside)
    found = {item.name: item.error for item in media.items()}
    assert set(found) == {"a.jpg", "own.jpg", "pipe.jpg"}
    assert found["pipe.jpg"] == "it cannot be read: it is no regular file"
    assert found["own.jpg"] is None
    assert media.skipped == 2
    free = {item.name: item.error for item in items(inside)}
    assert free["link.jpg"] is None


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no picture in it"):
        open_media(tmp_path, limits=LIMITS)


def test_one_picture_is_a_job_of_one(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jpg", jpeg())
    (only,) = items(path)
    assert only.name == "a.jpg"
    assert items(path, done=1) == []
    assert read_regular(path, at_most=10) is None


# -- paths -------------------------------------------------------------------------------------------------------------


def test_only_what_lies_in_an_allowed_directory_may_be_named(tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    inside = put(allowed, "clips/a.mp4", b"x")
    outside = put(other, "b.mp4", b"x")
    (allowed / "out.mp4").symlink_to(outside)
    (allowed / "up").symlink_to(tmp_path)
    roots = [tmp_path / "absent", allowed]
    assert resolve_allowed("clips/a.mp4", roots) == inside
    assert resolve_allowed(str(inside), roots) == inside
    assert resolve_allowed("clips/../clips/a.mp4", roots) == inside
    said = set()
    for text in (
        str(outside),
        "../other/b.mp4",
        "out.mp4",
        "up/other/b.mp4",
        "absent.mp4",
        "/etc/passwd",
        "/absent",
        "a\0b",
        "x" * 5000,
        "~root",
        "clips/../../other/b.mp4",
    ):
        with pytest.raises(PathRefusedError) as refused:
            resolve_allowed(text, roots)
        said.add(str(refused.value))
    assert len(said) == 1, "who asks must not learn what is there"
