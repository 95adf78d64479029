"""What the mannequins of the two demo clips do, second by second; both choreographies end where they begin."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gymscene import motions
from gymscene.body import Joints, Posture, solve
from gymscene.camera import Floats
from gymscene.equipment import kettlebell_height


@dataclass(frozen=True, slots=True)
class Beat:
    """A stretch of a choreography; `posture` maps the share of it that has passed (0 to 1) to a posture."""

    seconds: float
    posture: Callable[[float], Posture]
    exercise: str = ""
    walks_m: float = 0.0
    """How far the mannequin comes forward during this beat, in metres."""
    turns: float = 0.0
    """By how much `facing` grows during this beat, in radians."""
    carries: bool = False


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the mannequin is and what it does at one time of a choreography."""

    posture: Posture
    place: Floats
    facing: float
    carries: bool


@dataclass(frozen=True, slots=True)
class Choreography:
    """Beats from a place and a facing, played in a loop."""

    beats: tuple[Beat, ...]
    start: Floats
    facing: float

    @property
    def seconds(self) -> float:
        """Return how long one round takes."""
        return sum(beat.seconds for beat in self.beats)

    def starts(self) -> list[float]:
        """Return the time in seconds at which each beat begins."""
        return [sum(beat.seconds for beat in self.beats[:index]) for index in range(len(self.beats))]

    def at(self, seconds: float) -> Moment:
        """Return the moment `seconds` after the beginning of a round."""
        left, place, facing = seconds % self.seconds, self.start.copy(), self.facing
        for beat in self.beats:
            share = min(left / beat.seconds, 1.0)
            place = place + beat.walks_m * _paced(share) * np.array([np.sin(facing), 0.0, -np.cos(facing)])
            facing += beat.turns * eased(share)
            if left < beat.seconds:
                return Moment(beat.posture(share), place, facing, beat.carries)
            left -= beat.seconds
        return self.at(0.0)


def eased(share: float) -> float:
    """Return the share with a soft start and a soft end."""
    return share * share * (3 - 2 * share)


def _paced(share: float) -> float:
    """Return the share of a way that has been walked: steady, but for its first and its last tenth."""
    ramp = 0.1
    if share < ramp:
        return share * share / (2 * ramp * (1 - ramp))
    if share > 1 - ramp:
        return 1 - _paced(1 - share)
    return (share - ramp / 2) / (1 - ramp)


def _blend(first: Callable[[], Posture], last: Callable[[], Posture]) -> Callable[[float], Posture]:
    return lambda share: first().blended(last(), eased(share))


SQUAT_SECONDS, JACK_SECONDS = 1.75, 1.2


def gym_choreography() -> Choreography:
    """Return the gym clip: five squats, then four jumping jacks; 15 s."""
    rest = Beat(0.35, lambda _: motions.squat(0.0))
    squat = Beat(SQUAT_SECONDS, motions.squat, "squat")
    jack = Beat(JACK_SECONDS, motions.jumping_jack, "jumping_jack")
    ready = Beat(0.5, _blend(lambda: motions.squat(0.0), lambda: motions.jumping_jack(0.0)))
    relax = Beat(0.6, _blend(lambda: motions.jumping_jack(0.0), lambda: motions.squat(0.0)))
    beats = (rest, *[squat] * 5, ready, *[jack] * 4, relax)
    return Choreography(beats, np.array([0.0, 0.0, 2.9]), 0.45)


PICK_UP, PUT_DOWN = "pick_up", "put_down"

CARRIED_SIZE = 0.115
"""Radius in metres of the kettlebell that is carried about."""
_TOGETHER = -0.14
"""How far the hands move inward to meet at one handle, in metres."""


def _empty(share: float = 0.0) -> Posture:
    """Stand with nothing in the hands; `share` looks over to the camera and back."""
    return replace(motions.standing(), head=np.array([0.03, -1.0 * motions.effort(share)]))


def _lowered(phase: float) -> Posture:
    return motions.lift(phase, _TOGETHER)


def grips(joints: Joints) -> Floats:
    """Return the middles of what both hands close around (2, 3), in metres."""
    return 0.35 * joints.wrists + 0.65 * joints.fingers


def _reach_phase() -> float:
    """Return the phase of a lift at which the hands are at the handle of a kettlebell that stands on the floor."""
    low, high = 0.0, 0.5
    for _ in range(30):
        middle = (low + high) / 2
        joints = solve(_lowered(middle), 1.0, np.zeros(3), 0.0)
        above = grips(joints).mean(axis=0)[1] > kettlebell_height(CARRIED_SIZE)
        low, high = (middle, high) if above else (low, middle)
    return low


def _holding() -> Posture:
    """Stand with the kettlebell held before the chest."""
    hands = np.array([[side * _TOGETHER, -0.24, 0.3] for side in (1.0, -1.0)])
    return replace(motions.standing(hands), elbow_ways=motions.ways(0.45, -0.8))


def _raised(share: float, reach: float) -> Posture:
    """Come up with the kettlebell, from the floor (share 0) to before the chest (share 1)."""
    straight = _lowered(reach * (1 - eased(min(1.0, 1.5 * share))))
    return straight.blended(_holding(), eased(max(0.0, 2 * share - 1)))


def _stepping(share: float) -> Posture:
    """Stand with the kettlebell and step in place, one foot after the other, to turn."""
    posture = _holding()
    lifted = [max(0.0, np.sin(2 * np.pi * share)), max(0.0, -np.sin(2 * np.pi * share))]
    raised = posture.ankles + np.array([[0.0, 0.07 * height, 0.0] for height in lifted])
    return replace(posture, ankles=raised)


def _carrying(share: float, way_m: float) -> Posture:
    """Walk `way_m` metres in all with the kettlebell before the chest."""
    still = _holding()
    walk = motions.walking(way_m * _paced(share), way_m / 4, still.hands)
    walk = replace(walk, elbow_ways=still.elbow_ways)
    return still.blended(walk, eased(min(1.0, 6 * share, 6 * (1 - share))))


def rack_choreography() -> Choreography:
    """Return the rack clip: a kettlebell is picked up, carried, put down, and brought back; 17.6 s."""
    reach, way_m = _reach_phase(), 1.7

    def bend(share: float) -> Posture:
        return _empty().blended(_lowered(reach * eased(share)), eased(min(1.0, 1.6 * share)))

    grab = Beat(1.1, bend, PICK_UP)
    rise = Beat(1.2, lambda share: _raised(share, reach), carries=True)
    lower = Beat(1.2, lambda share: _raised(1 - share, reach), PUT_DOWN, carries=True)
    leave = Beat(1.0, lambda share: bend(1 - share))
    walk = Beat(2.6, lambda share: _carrying(share, way_m), walks_m=way_m, carries=True)
    turn = Beat(1.0, _stepping, turns=-np.pi, carries=True)
    back = replace(turn, turns=np.pi)
    pause, rest = Beat(0.4, lambda _: _empty()), Beat(1.0, _empty)
    beats = (pause, grab, rise, walk, lower, leave, rest, grab, rise, turn, walk, back, lower, leave)
    return Choreography(beats, np.array([-1.05, 0.0, 2.9]), np.pi / 2)
