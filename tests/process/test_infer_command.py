"""`healthd infer`, as somebody types it: what comes out, in which order, with which exit code, and when it is ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.faulty_plugin.installed.healthd_faulty.stamps import Stamp, stamped_picture
from tests.jobs.pictures import video
from tests.process.daemon import environment, run_verb, until
from tests.process.jobs import stamped_zip

pytestmark = pytest.mark.process


def folder_of(path: Path, count: int) -> Path:
    path.mkdir(parents=True)
    for number in range(count):
        assert cv2.imwrite(str(path / f"{number:03d}.png"), stamped_picture(Stamp(number, 0)))
    return path


def parsed(text: str) -> list[dict[str, Any]]:
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_every_picture_of_every_input_becomes_a_line(tmp_path: Path) -> None:
    folder_of(tmp_path / "folder", 3)
    (tmp_path / "a.zip").write_bytes(stamped_zip(2, first=50))
    video(tmp_path / "clip.mp4", 7, size=(192, 320))
    done = run_verb(
        "infer", "folder", "a.zip", "clip.mp4", "folder/001.png", "--model", "counter", "--every", 3, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = parsed(done.stdout)
    assert [(line["input"], line["index"]) for line in lines] == [
        *(("folder", number) for number in range(3)),
        *(("a.zip", number) for number in range(2)),
        *(("clip.mp4", number) for number in range(3)),
        ("folder/001.png", 0),
    ]
    assert [line["envelope"]["metadata"]["number"] for line in lines[:5]] == [0, 1, 2, 50, 51]
    assert [line["frame"] for line in lines[5:8]] == [0, 3, 6]
    assert lines[8]["name"] == "001.png"
    assert all(line["envelope"]["model_id"] == "counter" for line in lines)
    assert "9 pictures, 0 failed" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "clip.mp4", "folder"]


def test_the_output_is_not_written_over_unless_it_is_said(tmp_path: Path) -> None:
    folder_of(tmp_path / "folder", 2)
    arguments = ["infer", "folder", "--model", "counter", "--output", "out.jsonl"]
    first = run_verb(*arguments, folder=tmp_path)
    assert (first.returncode, first.stdout) == (0, "")
    written = (tmp_path / "out.jsonl").read_text()
    assert len(parsed(written)) == 2
    again = run_verb(*arguments, folder=tmp_path)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert (tmp_path / "out.jsonl").read_text() == written
    assert run_verb(*arguments, "--overwrite", folder=tmp_path).returncode == 0


def test_drawn_pictures_stand_below_the_folder_that_was_named_and_nowhere_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder_of(home / "folder", 2)
    (home / "slip.zip").write_bytes(stamped_zip(1).replace(b"000000.png", b"../aaa.png"))
    video(home / "clip.mp4", 3, size=(192, 320))
    before = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    inputs = ["folder", "folder/000.png", "slip.zip", "clip.mp4", "clip.mp4"]
    done = run_verb("infer", *inputs, "--model", "counter", "--annotate", "drawn", folder=home)
    assert done.returncode == 0, done.stderr
    new = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {name for name in new if not name.startswith("home/drawn/")} == set()
    assert {name.removeprefix("home/drawn/") for name in new} == {
        *("folder/000.png.jpg", "folder/001.png.jpg", "000.png.jpg"),
        *(name for name in (n.removeprefix("home/drawn/") for n in new) if name.startswith("slip/")),
        *(f"clip/{number:06d}.jpg" for number in range(3)),
        *(f"clip/{number:06d}-2.jpg" for number in range(3)),
    }
    assert any(name.startswith("home/drawn/slip/") for name in new)
    plain = cv2.imread(str(home / "folder" / "000.png"))
    drawn = cv2.imread(str(home / "drawn" / "folder" / "000.png.jpg"))
    assert plain is not None
    assert drawn is not None
    assert drawn.shape == plain.shape
    assert abs(drawn.astype(int) - plain.astype(int)).max() > 100, "nothing is drawn on it"


def test_what_fails_is_a_line_and_an_exit_code(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", 2)
    (folder / "000a.jpg").write_text("no picture")
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(5000))
    done = run_verb("infer", "broken.mp4", "folder", "--model", "counter", folder=tmp_path)
    assert done.returncode == 1
    lines = parsed(done.stdout)
    assert [("error" in line) for line in lines] == [True, False, True, False]
    assert lines[0]["input"] == "broken.mp4"
    assert "4 pictures, 2 failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["absent.jpg", "--model", "counter"], 2, "absent.jpg"),
        (["folder"], 2, "say --model"),
        (["folder", "--model", "nobody-serves-this"], 2, "nobody-serves-this"),
        (["folder", "--model", "error"], 1, "the accelerator is busy"),
        (["folder", "--model", "counter", "--conf", "2"], 2, "--conf"),
        (["folder", "--model", "counter", "--max-det", "x"], 2, "--max-det"),
        (["folder", "--model", "counter", "--every", "0"], 2, "--every"),
        (["folder", "--model", "counter", "--output", "absent/out.jsonl"], 1, "absent/out.jsonl"),
        (["folder", "--model", "counter", "--config", "absent.toml"], 2, "absent.toml"),
        ([], 2, "usage"),
    ],
)
def test_what_is_wrong_is_told_with_an_exit_code(arguments: list[str], code: int, told: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "folder", 1)
    done = run_verb("infer", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_written_by_the_time_somebody_ends_it_is_whole(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    folder_of(tmp_path / "folder", 300)
    command = [sys.executable, "-m", "healthd", "infer", "folder", "--model", "noting", "--output", "out.jsonl"]
    output = tmp_path / "out.jsonl"
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as running:
        try:
            until(lambda: output.exists() and output.read_text().count("\n") > 5, seconds=30)
            begun = time.monotonic()
            running.send_signal(number)
            assert running.wait(timeout=10) == code
            assert time.monotonic() - begun < 2
            assert running.stderr is not None
            assert "Traceback" not in running.stderr.read()
        finally:
            running.kill()
    lines = parsed(output.read_text())
    assert 5 < len(lines) < 300
    assert [line["index"] for line in lines] == list(range(len(lines)))


def test_a_model_that_hangs_does_not_hold_ctrl_c(tmp_path: Path) -> None:
    folder_of(tmp_path / "folder", 10)
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "healthd", "infer", "folder", "--model", "noting-stuck"]
    variables = environment(FAULTY_JOURNAL=str(journal))
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True) as running:
        try:
            until(lambda: journal.exists() and "stuck" in journal.read_text(), seconds=30)
            running.send_signal(signal.SIGINT)
            assert running.wait(timeout=5) == 130
            assert running.stdout is not None
            assert len(parsed(running.stdout.read())) == 4
        finally:
            running.kill()


def test_a_progress_bar_is_shown_on_a_terminal_alone(tmp_path: Path) -> None:
    folder_of(tmp_path / "folder", 30)
    main, terminal = os.openpty()
    command = [sys.executable, "-m", "healthd", "infer", "folder", "--model", "noting"]
    shown = b""
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=terminal, text=True
    ) as running:
        os.close(terminal)
        try:
            while chunk := os.read(main, 65536):
                shown += chunk
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(main)
        assert running.stdout is not None
        assert len(parsed(running.stdout.read())) == 30
        assert running.wait(timeout=10) == 0
    assert b"/30" in shown
    assert b"/s" in shown


@pytest.mark.assets
@pytest.mark.thorough
def test_real_weights_find_people_in_real_pictures(tmp_path: Path, assets: Path) -> None:
    pictures = assets / "coco8-pose" / "images" / "val"
    model = assets / "weights" / "yolov8n-pose.onnx"
    done = run_verb("infer", pictures, "--model", model, "--conf", 0.5, folder=tmp_path, plugins=[], seconds=60)
    assert done.returncode == 0, done.stderr
    lines = parsed(done.stdout)
    assert len(lines) == 4
    assert all(line["envelope"]["model_id"] == "yolov8n-pose.onnx" for line in lines)
    assert sum(len(line["envelope"]["results"]) for line in lines) >= 5
    assert str(assets) not in "".join(json.dumps(line["envelope"]) for line in lines)
