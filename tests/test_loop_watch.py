"""A loop that had no turn and a wall clock that was set are told of, once each, and nothing else is."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from healthd.clock import Clock
from healthd.loop_watch import LoopWatch

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("gone", "by_the_wall", "told"),
    [
        (1.0, 1.0, {}),
        (1.9, 2.1, {}),
        (1.0, 2.9, {}),
        (11.0, 11.0, {"loop_late": 10.0}),
        (1.0, 3601.0, {"clock_jumped": 3600.0}),
        (1.0, -3599.0, {"clock_jumped": -3600.0}),
        (6.0, 66.0, {"loop_late": 5.0, "clock_jumped": 60.0}),
    ],
)
def test_what_is_late_and_what_jumps_is_told_and_counted(
    gone: float, by_the_wall: float, told: dict[str, float]
) -> None:
    watch = LoopWatch(Clock(monotonic=lambda: 100.0 + gone, now=lambda: BEGUN + timedelta(seconds=by_the_wall)))
    with capture_logs() as logs:
        watch.look(100.0, BEGUN)
    assert {line["event"]: line["seconds"] for line in logs} == told
    assert all(line["log_level"] == "warning" and line["reason"] for line in logs)
    assert {sample.name: sample.value for sample in watch.samples()} == {
        "healthd_loop_late_total": "loop_late" in told,
        "healthd_clock_jumps_total": "clock_jumped" in told,
    }
