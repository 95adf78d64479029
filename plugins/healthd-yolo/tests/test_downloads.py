"""A download may take long but not stand still, and nobody starts it twice."""

import threading
from pathlib import Path

import pytest

from healthd.errors import ModelError
from healthd_yolo.downloads import Downloads


def test_the_file_is_there_when_the_wait_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.pt"
    assert Downloads().get(target, lambda path: path.write_bytes(b"weights")) == target
    assert target.read_bytes() == b"weights"


def test_a_failure_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    def fetch(_: Path) -> None:
        raise ConnectionError("no route")

    with pytest.raises(ModelError, match=r"a\.pt .* could not be downloaded .*no route.*put the file there"):
        Downloads().get(tmp_path / "a.pt", fetch)


def test_a_fetch_that_leaves_nothing_behind_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="left no file"):
        Downloads().get(tmp_path / "a.pt", lambda _: None)


def test_a_transfer_that_stands_still_is_left_to_itself_and_joined_by_the_next_try(tmp_path: Path) -> None:
    go_on, calls = threading.Event(), []

    def fetch(path: Path) -> None:
        calls.append(path)
        go_on.wait(30)
        path.write_bytes(b"weights")

    downloads = Downloads(patience_seconds=0.05)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"stands still for 0\.05 s"):
            downloads.get(tmp_path / "a.pt", fetch)
    go_on.set()
    assert downloads.get(tmp_path / "a.pt", fetch).read_bytes() == b"weights"
    assert len(calls) == 1


def test_a_transfer_that_makes_progress_may_take_longer_than_the_patience(tmp_path: Path) -> None:
    pause = threading.Event()

    def fetch(path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        with part.open("wb", buffering=0) as file:
            for _ in range(45):
                file.write(b"x")
                pause.wait(0.05)
        part.rename(path)

    assert Downloads(patience_seconds=2.0).get(tmp_path / "a.pt", fetch).stat().st_size == 45


def test_a_transfer_that_begins_anew_does_not_stand_still(tmp_path: Path) -> None:
    looked, pause = threading.Event(), threading.Event()

    def fetch(path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(b"x" * 1000)
        looked.wait(30)
        with part.open("wb", buffering=0) as file:
            for _ in range(40):
                file.write(b"x")
                pause.wait(0.05)
        part.rename(path)

    downloads = Downloads(patience_seconds=1.0)
    with pytest.raises(ModelError, match="stands still"):
        downloads.get(tmp_path / "a.pt", fetch)
    threading.Timer(0.5, looked.set).start()
    assert downloads.get(tmp_path / "a.pt", fetch).stat().st_size == 40
