"""`healthd models`, as somebody types it, with a family that serves models and prepares none."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from healthd.models.manifest import Manifest, Source, checksums, manifest_place
from healthd.models.prepare import PrepareReport, Speed
from tests.process.daemon import environment, run_verb, until

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prepare", "counter"], 2, "FaultyFamily cannot prepare models"),
        (["prepare", "nobody-serves-this"], 2, "no installed plugin has a family"),
        (["prepare", "counter", "--imgsz", "5"], 2, "--imgsz"),
        (["verify", "absent"], 2, "there is no `absent`"),
        (["verify", "models/plain.onnx"], 2, "it has no checksums"),
        (["verify", "changed.onnx"], 1, "changed.onnx was changed"),
        (["list", "--config", "absent.toml"], 2, "absent.toml"),
        ([], 2, "usage"),
    ],
)
def test_what_is_wrong_is_told_with_an_exit_code(arguments: list[str], code: int, told: str, tmp_path: Path) -> None:
    models_of(tmp_path)
    done = run_verb("models", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_lies_in_the_directory_is_listed_with_what_it_was_made_from(tmp_path: Path) -> None:
    models_of(tmp_path)
    (tmp_path / "models" / "counter").write_bytes(b"x" * 2_500_000)
    done = run_verb("models", "list", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line.split() for line in done.stdout.splitlines() if "counter" in line]
    assert line == ["counter", "faulty", "2.5", "MB"]
    said = run_verb("models", "verify", "whole.onnx", folder=tmp_path).stdout
    assert said == "whole.onnx: 1 file, as made from whole.pt\n"


@pytest.mark.parametrize("verb", ["models verify whole.onnx", "check-config"])
def test_a_verb_that_was_cut_short_has_said_nothing(verb: str, tmp_path: Path) -> None:
    models_of(tmp_path)
    config = tmp_path / "config.toml"
    os.mkfifo(config)
    arguments = [sys.executable, "-m", "healthd", *verb.split(), "--config", str(config)]
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment()) as running:
        try:
            writing = until(lambda: opened_by_a_reader(config) or running.poll() is not None)
            for _ in range(10):  # one that comes just before a read blocks is seen when the read is over: never, here
                running.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(1)
                    break
            assert running.returncode == 143
            os.close(writing)
        finally:
            running.kill()


def opened_by_a_reader(pipe: Path) -> int | None:
    """Open a named pipe to write, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def models_of(folder: Path) -> None:
    """A models directory with one model of each kind."""
    (folder / "models").mkdir()
    for name in ("plain", "changed", "whole"):
        path = folder / "models" / f"{name}.onnx"
        path.write_bytes(b"as it was made")
        if name != "plain":
            manifest_place(path).write_text(manifest(path).model_dump_json())
        if name == "changed":
            path.write_bytes(b"as it is")


def manifest(path: Path) -> Manifest:
    speed = Speed(what="it", ms_per_picture=1.0)
    return Manifest(
        source=Source(name=f"{path.stem}.pt", sha256="0" * 64, size_bytes=1),
        options={},
        tools={},
        made_at="2026-01-01T00:00:00+00:00",
        files=checksums(path),
        report=PrepareReport(pictures="none", original=speed, prepared=(speed,), parity=()),
    )
