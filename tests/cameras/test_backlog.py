"""The backlog gate, with times that are made up: nobody sleeps here."""

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from healthd.cameras.backlog import LATE_SECONDS, SETTLE_SECONDS, BacklogGate
from healthd.errors import CameraError

FPS = 30.0
CLOCK_DIFFERENCE = 1234.5


def delivered(
    made: Iterable[float], *, away: tuple[tuple[float, float], ...] = (), opened: float = 0.0, decode: float = 0.001
) -> Iterator[tuple[float, float]]:
    """Yield when each image was made and when it arrives, over a network that is away at times."""
    last = opened
    for moment in made:
        sent = max([moment + 0.02, *(end for begin, end in away if begin <= moment < end)])
        last = max(last + decode, sent)
        yield moment, last


def every(seconds: float, *, begin: float = 0.0, fps: float = FPS) -> list[float]:
    return [begin + i / fps for i in range(int(seconds * fps))]


def judged(gate: BacklogGate, images: Iterable[tuple[float, float]]) -> list[tuple[float, float, bool]]:
    """Feed images and return when each was made, how old it was, and whether it was taken for live."""
    return [(made, arrival - made, gate.admits(arrival, made + CLOCK_DIFFERENCE)) for made, arrival in images]


def oldest_live(images: Iterable[tuple[float, float, bool]]) -> float:
    return max((age for _, age, live in images if live), default=0.0)


def test_an_orderly_camera_is_live_after_the_settle_time_and_loses_nothing_after_it() -> None:
    images = judged(BacklogGate(clocked=True), delivered(every(10)))
    assert [live for made, _, live in images if made < SETTLE_SECONDS - 0.01] == [False] * 12
    assert all(live for made, _, live in images if made > SETTLE_SECONDS + 0.05)


@pytest.mark.parametrize("backlog_seconds", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("decode", [0.001, 0.02, 0.025])
def test_the_backlog_of_an_open_is_old_however_slowly_it_is_decoded(backlog_seconds: float, decode: float) -> None:
    images = judged(BacklogGate(clocked=True), delivered(every(60, begin=-backlog_seconds), decode=decode))
    assert oldest_live(images) < 0.1
    assert images[-1][2]


def test_a_paused_network_gives_old_images_first_and_live_ones_once_it_has_caught_up() -> None:
    images = judged(BacklogGate(clocked=True), delivered(every(10), away=((3.0, 5.0),)))
    during = [live for made, _, live in images if 3.0 <= made < 4.85]
    assert during
    assert not any(during)
    assert oldest_live(images) < 0.2
    assert all(live for made, _, live in images if made > 5.05)


def test_a_camera_that_hung_with_its_clock_running_is_live_at_once() -> None:
    made = [moment for moment in every(10) if not 3.0 <= moment < 5.0]
    images = judged(BacklogGate(clocked=True), delivered(made))
    assert all(live for moment, _, live in images if moment >= 5.0)


def test_an_image_held_back_in_the_decoder_over_a_stall_is_old() -> None:
    gate = BacklogGate(clocked=True)
    judged(gate, delivered(every(3)))
    assert not gate.admits(5.0, 3.0 + CLOCK_DIFFERENCE)
    assert gate.admits(5.02, 5.0 + CLOCK_DIFFERENCE)


def test_a_clock_that_stood_still_in_a_stall_cannot_be_told_from_a_lag_and_ends_the_session() -> None:
    gate = BacklogGate(clocked=True)
    judged(gate, delivered(every(3)))
    with pytest.raises(CameraError, match=r"lags 2\.0 s behind"):
        judged(gate, [(3 + i / FPS, 5 + i / FPS) for i in range(200)])


def test_a_link_that_is_too_slow_never_shows_what_is_older_than_a_second_and_ends_the_session() -> None:
    gate, shown = BacklogGate(clocked=True), []
    with pytest.raises(CameraError, match="lags"):
        for made in every(60):
            if gate.admits(0.02 + made * 1.1, made):
                shown.append(0.02 + made * 0.1)  # noqa: PERF401  what was shown before it raised counts
    assert LATE_SECONDS - 0.1 < max(shown) < 1.0


def test_a_backlog_that_is_worked_off_is_given_its_time() -> None:
    images = judged(BacklogGate(clocked=True), delivered(every(20), away=((3.0, 9.0),), decode=0.015))
    assert oldest_live(images) < 0.2
    assert images[-1][2]


@pytest.mark.parametrize("jump", [100.0, -100.0, 1.0, -1.0])
def test_a_clock_that_jumps_costs_a_moment_and_no_more(jump: float) -> None:
    gate = BacklogGate(clocked=True)
    judged(gate, delivered(every(5)))
    after = [gate.admits(made + 0.02, made + CLOCK_DIFFERENCE + jump) for made in every(5, begin=5)]
    assert not after[0]
    assert all(after[40:])


def test_a_camera_that_sends_in_bursts_loses_nothing_once_it_is_live() -> None:
    gate = BacklogGate(clocked=True)
    arrivals = [(i / FPS, (i // 4 + 1) * 4 / FPS + 0.001 * (i % 4)) for i in range(300)]
    assert all(live for made, _, live in judged(gate, arrivals) if made > 0.7)


def test_a_network_that_wobbles_is_no_backlog() -> None:
    gate, wobble, last, live = BacklogGate(clocked=True), random.Random(1), 0.0, []
    for made in every(60):
        last = max(last, made + 0.02 + wobble.uniform(0, 0.3))
        live.append(gate.admits(last, made))
    assert live.index(True) < 40
    assert live.count(True) > 0.99 * len(live[40:])


@pytest.mark.parametrize("drift", [-0.003, -0.0001, 0.0001, 0.003])
def test_a_clock_that_runs_a_little_wrong_is_followed_for_hours(drift: float) -> None:
    gate = BacklogGate(clocked=True)
    assert all(gate.admits(t, t * (1 - drift)) for t in every(7200, fps=2) if t > 1 or gate.admits(t, t) is None)


def test_a_clock_that_runs_far_too_fast_never_becomes_live_and_says_so() -> None:
    gate = BacklogGate(clocked=True)
    with pytest.raises(CameraError, match="not caught up"):
        assert not any(gate.admits(t, t * 1.5) for t in every(40))


def test_a_stream_whose_times_do_not_move_is_judged_without_them() -> None:
    gate = BacklogGate(clocked=True)
    assert [gate.admits(t, 0.0) for t in every(10)][60:] == [True] * 240


@pytest.mark.parametrize("fps", [0.2, 1, 5, 25])
def test_without_a_clock_a_camera_of_any_pace_becomes_live(fps: float) -> None:
    gate = BacklogGate(clocked=False)
    live = [gate.admits(t) for t in every(40 / fps, fps=fps)]
    assert not live[0]
    assert all(live[12 if fps > 1 else 6 :])


def test_without_a_clock_what_comes_after_a_gap_is_old_until_the_usual_pace_is_back() -> None:
    gate = BacklogGate(clocked=False)
    images = [(at - made, gate.admits(at)) for made, at in delivered(every(10), away=((3.0, 5.0),))]
    assert max(age for age, live in images if live) < 0.1
    assert [live for _, live in images[-120:]] == [True] * 120


def test_without_a_clock_a_camera_that_slows_down_at_night_is_live_again_soon() -> None:
    gate = BacklogGate(clocked=False)
    for moment in every(10, fps=20):
        gate.admits(moment)
    assert all([gate.admits(10 + i) for i in range(40)][20:])


@settings(max_examples=60, deadline=None)
@given(
    pauses=st.lists(st.tuples(st.floats(1, 28), st.floats(0.1, 4)), max_size=4),
    backlog=st.floats(0, 4),
    fps=st.sampled_from([5.0, 12.5, 30.0]),
    jitter=st.floats(0, 0.1),
    seed=st.integers(0, 1000),
)
def test_whatever_the_network_does_nothing_is_live_that_is_older_than_a_second(
    pauses: list[tuple[float, float]], backlog: float, fps: float, jitter: float, seed: int
) -> None:
    wobble = random.Random(seed)
    away = tuple((begin, begin + length) for begin, length in pauses)
    gate, last = BacklogGate(clocked=True), 0.0
    for made, arrival in delivered(every(30 + backlog, begin=-backlog, fps=fps), away=away):
        last = max(last, arrival + wobble.uniform(0, jitter))
        try:
            live = gate.admits(last, made + CLOCK_DIFFERENCE)
        except CameraError:
            return
        assert not live or last - made < 1.0
