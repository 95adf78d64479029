"""Failures of one camera are counted each time, and told to the log once."""

from structlog.testing import capture_logs

from healthd.cameras.failures import Failures
from healthd.clock import SYSTEM_CLOCK
from healthd.errors import CameraError


def test_a_camera_with_two_reasons_by_turns_is_told_once_for_each_until_it_works_again() -> None:
    failures = Failures(SYSTEM_CLOCK)
    with capture_logs() as logs:
        for attempts in range(100):
            failures.note("reader", CameraError("refused" if attempts % 2 else "reset"), attempts=attempts)
        failures.note("reader", CameraError("reset"), attempts=0)
    told = [entry["reason"] for entry in logs if entry["event"] == "session_failed"]
    assert told == ["reset", "refused", "reset"]
    assert failures.sessions["reader"] == 101
