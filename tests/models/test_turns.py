"""Who goes next: cameras first, requests in order, nobody starves, nobody is counted twice."""

import random
import threading
import time
from collections import Counter

import pytest

from healthd.models.turns import HOLD_SECONDS, REQUEST_SHARE, Rank, Turn, Turns

CAMERA, REQUEST = Rank.CAMERA, Rank.REQUEST


class Line:
    """A line with a clock that a test moves; what is held is let in when the time has come."""

    def __init__(self, concurrency: int = 1) -> None:
        self.seconds = 100.0
        self.later: list[tuple[float, object]] = []
        self.turns = Turns(concurrency, now=lambda: self.seconds, later=self._later)

    def _later(self, seconds: float, function: object) -> None:
        self.later.append((self.seconds + seconds, function))

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        due = [one for one in self.later if one[0] <= self.seconds]
        self.later = [one for one in self.later if one not in due]
        for _, function in due:
            function()  # type: ignore[operator]

    def spend(self, turn: Turn, seconds: float) -> None:
        assert turn.granted_at is not None
        self.pass_time(seconds)
        self.turns.leave(turn)


def test_requests_come_in_the_order_in_which_they_asked() -> None:
    line = Line()
    order: list[int] = []
    waiting = [line.turns.enter(REQUEST, lambda number=number: order.append(number)) for number in range(5)]  # type: ignore[misc]
    for turn in waiting:
        line.spend(turn, 0.01)
    assert order == [0, 1, 2, 3, 4]


def test_a_camera_goes_before_the_requests_that_wait() -> None:
    line = Line()
    inside, first, second = (line.turns.enter(REQUEST) for _ in range(3))
    camera = line.turns.enter(CAMERA)
    line.spend(inside, 0.01)
    assert camera.granted_at is not None
    assert first.granted_at is second.granted_at is None
    assert line.turns.waiting == 2


def test_of_the_cameras_that_wait_the_one_with_the_oldest_frame_goes_first() -> None:
    line = Line()
    inside = line.turns.enter(CAMERA, since=99.0)
    newer, oldest, old, now = (line.turns.enter(CAMERA, since=since) for since in (99.9, 99.2, 99.5, None))
    order = []
    turn = inside
    for _ in range(4):
        line.spend(turn, 0.01)
        turn = next(one for one in (newer, oldest, old, now) if one.granted_at is not None and not one.left)
        order.append(turn)
    assert order == [oldest, old, newer, now]


def test_cameras_with_frames_of_one_moment_go_in_the_order_in_which_they_came() -> None:
    line = Line()
    inside, first, second = (line.turns.enter(CAMERA, since=99.0) for _ in range(3))
    line.spend(inside, 0.01)
    assert (first.granted_at is not None, second.granted_at is not None) == (True, False)


def test_the_place_is_kept_for_a_camera_a_moment_after_its_turn() -> None:
    line = Line()
    camera = line.turns.enter(CAMERA)
    request = line.turns.enter(REQUEST)
    line.spend(camera, 0.0)
    assert request.granted_at is None
    again = line.turns.enter(CAMERA)
    assert again.granted_at is not None
    line.spend(again, 0.0)
    line.pass_time(HOLD_SECONDS)
    assert request.granted_at is not None


def test_who_is_held_goes_in_at_once_when_no_thread_is_left_to_wake_it() -> None:
    def no_thread(_seconds: float, _function: object) -> None:
        raise RuntimeError("can't start new thread")

    turns = Turns(now=lambda: 100.0, later=no_thread)
    camera, request = turns.enter(CAMERA), turns.enter(REQUEST)
    turns.leave(camera)
    assert request.granted_at is not None
    turns.leave(request)
    assert turns.enter(CAMERA).granted_at is not None


def test_a_camera_that_takes_all_there_is_leaves_requests_their_share() -> None:
    line = Line()
    taken: Counter[Rank] = Counter()
    camera, request = line.turns.enter(CAMERA), line.turns.enter(REQUEST)
    for _ in range(3000):
        if camera.granted_at is not None:
            taken[CAMERA] += 1
            line.spend(camera, 0.02)
            camera = line.turns.enter(CAMERA)
        elif request.granted_at is not None:
            taken[REQUEST] += 1
            line.spend(request, 0.02)
            request = line.turns.enter(REQUEST)
        else:
            line.pass_time(HOLD_SECONDS)
    share = taken[REQUEST] / taken.total()
    assert share == pytest.approx(REQUEST_SHARE, rel=0.1)
    assert share < 0.1, "a camera keeps nine tenths of its rate"


def test_nothing_is_saved_up_for_a_burst_of_requests() -> None:
    line = Line()
    for _ in range(100):
        line.spend(line.turns.enter(CAMERA), 1.0)
    line.pass_time(1.0)
    inside = line.turns.enter(CAMERA)
    requests = [line.turns.enter(REQUEST) for _ in range(5)]
    cameras = [line.turns.enter(CAMERA) for _ in range(3)]
    line.spend(inside, 0.001)
    for camera in cameras[:2]:
        if requests[0].granted_at is not None and not requests[0].left:  # the first has no measured length yet
            line.spend(requests[0], 1.0)
        assert camera.granted_at is not None
        line.spend(camera, 0.001)
    assert [request.granted_at for request in requests[1:]] == [None] * 4


def test_who_leaves_before_its_turn_is_passed_over_and_leaving_twice_is_leaving_once() -> None:
    line = Line()
    inside, gone, next_one = (line.turns.enter(REQUEST) for _ in range(3))
    line.turns.leave(gone)
    line.turns.leave(gone)
    line.spend(inside, 0.01)
    line.turns.leave(inside)
    assert gone.granted_at is None
    assert next_one.granted_at is not None
    assert line.turns.busy_since == next_one.granted_at
    line.turns.leave(next_one)
    assert line.turns.busy_since is None


def test_so_many_are_inside_as_may_be() -> None:
    line = Line(concurrency=3)
    turns = [line.turns.enter(REQUEST) for _ in range(5)]
    assert [turn.granted_at is not None for turn in turns] == [True, True, True, False, False]
    line.turns.leave(turns[1])
    assert turns[3].granted_at is not None


def test_threads_that_come_and_go_at_random_never_meet_inside_and_never_wait_for_ever() -> None:
    turns = Turns(2)
    inside, most, served = [0], [0], Counter()  # type: ignore[var-annotated]
    lock = threading.Lock()

    def user(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            rank = rng.choice([CAMERA, REQUEST, REQUEST])
            turn = turns.enter(rank)
            if not turn.wait(rng.choice([0.0, 0.001, 5.0])):
                turns.leave(turn)
                continue
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(rng.random() / 2000)
            with lock:
                inside[0] -= 1
                served[rank] += 1
            turns.leave(turn)

    threads = [threading.Thread(target=user, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "somebody waits for ever"
    assert most[0] <= 2
    assert served[CAMERA]
    assert served[REQUEST]
    assert turns.busy_since is None
    assert turns.waiting == 0
