"""Health: rates that decay to nothing, pictures that do not change, states with a since and a reason."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from healthd.cameras.health import FreezeDetector, Health, HealthRecord, RateWindow, State
from healthd.clock import Clock
from healthd.frames import Image
from tests.fakes import picture


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.begun = datetime(2026, 1, 1, tzinfo=UTC)

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.seconds, now=lambda: self.begun + timedelta(seconds=self.seconds - 1000))


@pytest.fixture
def time() -> Time:
    return Time()


def fill(rate: RateWindow, time: Time, *, events: int, every: float) -> None:
    for number in range(events):
        time.seconds += every if number else 0
        rate.add()


def test_a_rate_is_the_events_per_second(time: Time) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=200, every=0.05)
    assert rate.rate() == pytest.approx(20, rel=0.02)


def test_a_rate_does_not_dip_between_two_events(time: Time) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=200, every=0.1)
    before = rate.rate()
    time.seconds += 0.099
    assert rate.rate() == pytest.approx(before, rel=0.03)


def test_a_rate_decays_to_zero_when_events_stop(time: Time) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=200, every=0.05)
    seen = []
    for _ in range(60):
        seen.append(rate.rate())
        time.seconds += 0.1
    assert seen == sorted(seen, reverse=True)
    assert seen[20] < 0.8 * seen[0]
    assert seen[-1] == 0.0


@pytest.mark.parametrize("events", [0, 1])
def test_less_than_two_events_are_no_rate(time: Time, events: int) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=events, every=1)
    assert rate.rate() == 0.0


def test_two_events_at_the_same_moment_are_no_rate(time: Time) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=2, every=0)
    assert rate.rate() == 0.0


def test_a_cleared_rate_begins_from_nothing(time: Time) -> None:
    rate = RateWindow(time.clock)
    fill(rate, time, events=10, every=0.1)
    rate.clear()
    assert rate.rate() == 0.0
    rate.add()
    assert rate.rate() == 0.0


def test_a_picture_that_stays_the_same_is_frozen_for_as_long_as_it_did(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=30)
    assert detector.frozen_seconds(picture(1)) is None
    time.seconds += 29.9
    assert detector.frozen_seconds(picture(1)) is None
    time.seconds += 0.1
    assert detector.frozen_seconds(picture(1)) == pytest.approx(30)
    time.seconds += 30
    assert detector.frozen_seconds(picture(1)) == pytest.approx(60)


def test_any_change_of_the_picture_ends_a_freeze(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=30)
    detector.frozen_seconds(picture(1))
    time.seconds += 40
    assert detector.frozen_seconds(picture(1)) is not None
    time.seconds += 1
    assert detector.frozen_seconds(picture(2)) is None
    time.seconds += 29
    assert detector.frozen_seconds(picture(2)) is None


def scene() -> Image:
    return np.random.default_rng(7).integers(0, 255, (360, 640, 3), np.uint8)


def test_the_noise_of_a_sensor_in_an_empty_room_is_no_freeze(time: Time) -> None:
    detector, noise = FreezeDetector(time.clock, after_seconds=5), np.random.default_rng(8)
    room = scene().astype(int)
    for _ in range(12):
        noisy = np.clip(room + noise.integers(-2, 3, room.shape), 0, 255).astype(np.uint8)
        assert detector.frozen_seconds(noisy) is None
        time.seconds += 1


def test_a_small_thing_that_moves_is_no_freeze(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=5)
    for step in range(40):
        image = scene()
        image[100:110, step * 10 : step * 10 + 10] = 255
        assert detector.frozen_seconds(image) is None
        time.seconds += 0.5


def test_a_new_session_begins_anew(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=30)
    detector.frozen_seconds(picture(1))
    time.seconds += 40
    detector.reset()
    assert detector.frozen_seconds(picture(1)) is None
    time.seconds += 29
    assert detector.frozen_seconds(picture(1)) is None


def test_zero_seconds_turn_the_detector_off(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=0)
    for _ in range(5):
        assert detector.frozen_seconds(picture(1)) is None
        time.seconds += 100


def test_pictures_are_compared_a_few_times_a_second_at_most(time: Time) -> None:
    detector = FreezeDetector(time.clock, after_seconds=30, checks_per_second=4)
    detector.frozen_seconds(picture(1))
    time.seconds += 0.1
    changed = picture(2)
    assert detector.frozen_seconds(changed) is None
    assert detector._look is not None
    before = detector._look
    time.seconds += 0.2
    detector.frozen_seconds(changed)
    assert detector._look != before


def test_a_state_keeps_its_since_while_only_the_reason_changes(time: Time) -> None:
    changes: list[tuple[Health, Health]] = []
    record = HealthRecord(time.clock, lambda before, after: changes.append((before, after)))
    assert record.current == Health(State.STARTING, time.begun, None)
    time.seconds += 5
    record.set(State.RECONNECTING, "no route to host")
    since = record.current.since
    assert since == time.begun + timedelta(seconds=5)
    time.seconds += 5
    record.set(State.RECONNECTING, "connection refused")
    assert (record.current.since, record.current.reason) == (since, "connection refused")
    time.seconds += 5
    record.set(State.LIVE)
    assert (record.current.since, record.current.reason) == (time.begun + timedelta(seconds=15), None)
    assert [(before.state.value, after.state.value) for before, after in changes] == [
        ("starting", "reconnecting"),
        ("reconnecting", "reconnecting"),
        ("reconnecting", "live"),
    ]


def test_the_same_again_is_no_change(time: Time) -> None:
    changes: list[Health] = []
    record = HealthRecord(time.clock, lambda _, after: changes.append(after))
    record.set(State.LIVE)
    record.set(State.LIVE)
    assert len(changes) == 1


@pytest.mark.parametrize("state", State)
def test_connected_means_that_frames_are_coming(state: State) -> None:
    assert Health(state, datetime.now(UTC)).connected is (state in {State.LIVE, State.FROZEN})
