"""A stop while the daemon is still starting: at any moment, and whatever a plugin does at its import."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from tests.process.daemon import HANGING, INSTALLED, Daemon, until

pytestmark = pytest.mark.process

MOMENTS = [moment / 1000 for moment in range(0, 1500, 50)]
"""Seconds from the moment the process owns its signals; before that, nobody could."""

AT_A_TIME = 3


def owns_its_signals(pid: int) -> bool:
    """Tell whether the process has a handler for SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (SIGTERM - 1) & 1)


def stopped_at(folder: Path, moment: float, *, as_pid_1: bool) -> str | None:
    """Start, stop at that moment; return what was wrong."""
    folder.mkdir()
    cameras = {"fine": {"plugin": "faulty", "options": {"model": "counter"}}}
    with Daemon(folder, {"cameras": cameras}, as_pid_1=as_pid_1) as daemon:
        until(lambda: owns_its_signals(daemon.pid), seconds=30, what=daemon.story)
        time.sleep(moment)
        try:
            code, seconds = daemon.stop(seconds=30)
        except AssertionError as never:
            return f"{moment} s: {never}"
        left = daemon.left_behind()
        wrong = code != 0 or seconds > 10 or left or daemon.errors()
        return f"{moment} s: {code} after {seconds:.1f} s, left {left}\n{daemon.story()}" if wrong else None


def sweep(folder: Path, moments: list[float], *, as_pid_1: bool) -> list[str]:
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        runs = [pool.submit(stopped_at, folder / f"{at * 1000:.0f}", at, as_pid_1=as_pid_1) for at in moments]
        return [wrong for run in runs if (wrong := run.result())]


def test_sigterm_at_any_moment_of_the_start_ends_it_with_exit_code_0(tmp_path: Path) -> None:
    assert sweep(tmp_path, MOMENTS[::2], as_pid_1=False) == []


def test_sigterm_at_any_moment_of_the_start_is_never_lost_on_pid_1(pid_namespace: None, tmp_path: Path) -> None:
    assert sweep(tmp_path, MOMENTS, as_pid_1=True) == []


def test_the_signals_are_owned_before_anything_that_takes_long_is_imported() -> None:
    slow = {"asyncio", "pydantic", "numpy", "cv2", "litestar", "uvicorn", "structlog"}
    code = f"import sys, healthd.cli; print(sorted({slow!r} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_plugin_that_hangs_at_its_import_does_not_delay_a_stop(number: int, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Daemon(tmp_path, {}, plugins=[HANGING, INSTALLED], HANGING_JOURNAL=str(journal)) as daemon:
        until(journal.exists, seconds=40, what=daemon.story)
        code, seconds = daemon.stop(number)
        assert code == 0, daemon.story()
        assert seconds < 3
        assert daemon.left_behind() == []


def test_an_answer_over_an_open_connection_waits_for_no_acknowledgement(tmp_path: Path) -> None:
    with Daemon(tmp_path, {}) as daemon:
        seconds = [daemon.get("/healthz").elapsed.total_seconds() for _ in range(20)]
        assert min(seconds) < 0.02, "Nagle's algorithm and delayed acknowledgements make each of them take 40 ms"


def test_a_plugin_that_hangs_in_its_constructor_does_not_delay_a_stop(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    cameras = {"slow": {"plugin": "faulty-slow-constructor"}}
    with Daemon(tmp_path, {"cameras": cameras}, HANGING_JOURNAL=str(journal)) as daemon:
        until(journal.exists, seconds=40, what=daemon.story)
        code, seconds = daemon.stop()
        assert code == 0, daemon.story()
        assert seconds < 3
