"""What the mannequin can do: each motion is a periodic function from a phase (0 to 1, cyclic) to a posture."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gymscene.body import ANKLE_HEIGHT, FOREARM, STANDING_HIP, UPPER_ARM, Posture
from gymscene.camera import Floats

ARM = UPPER_ARM + FOREARM
_SIDES = np.array([1.0, -1.0])

Motion = Callable[[float], Posture]


def effort(phase: float) -> float:
    """Return how far into the repetition a phase is: 0 at its start and end, 1 in its middle, smooth throughout."""
    return float(0.5 - 0.5 * np.cos(2 * np.pi * phase))


def arms(outward: float, forward: float, reach: float = 0.97) -> Floats:
    """Return both hands (2, 3) seen from their shoulders.

    `outward` lifts the arm sideways and `forward` to the front, radians from hanging; `reach` 1.0 is a straight arm.
    """
    side, front = np.sin(outward) * np.cos(forward), np.sin(forward) * np.cos(min(outward, np.pi / 2))
    down = -np.cos(outward) * np.cos(forward)
    way = np.array([side, down, front])
    way = way / max(float(np.linalg.norm(way)), 1e-6) * ARM * reach
    return np.stack([way * [sign, 1, 1] for sign in _SIDES])


def feet(half_width: float, height: float = 0.0) -> Floats:
    """Return both ankles (2, 3), `half_width` metres to either side and `height` metres above standing."""
    return np.array([[sign * half_width, ANKLE_HEIGHT + height, 0.0] for sign in _SIDES])


def ways(outward: float, forward: float) -> Floats:
    """Return the directions (2, 3) to which both elbows or both knees bend."""
    return np.array([[sign * outward, 0.0, forward] for sign in _SIDES])


def standing(hands: Floats | None = None, half_width: float = 0.13) -> Posture:
    """Return the posture of standing at ease, or with the hands as given."""
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.012, 0.0]),
        lean=np.array([0.02, 0.0, 0.0]),
        head=np.array([0.03, 0.0]),
        ankles=feet(half_width),
        knee_ways=ways(0.2, 1.0),
        hands=arms(0.14, 0.06) if hands is None else hands,
        elbow_ways=ways(0.5, -1.0),
    )


def squat(phase: float, depth: float = 1.0, hands: Floats | None = None) -> Posture:
    """Return one squat per cycle, lowest at phase 0.5; without `hands` the arms rise forward for balance."""
    down = effort(phase) * depth
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.012 - 0.43 * down, -0.22 * down]),
        lean=np.array([0.02 + 0.62 * down, 0.0, 0.0]),
        head=np.array([0.03 - 0.4 * down, 0.0]),
        ankles=feet(0.17),
        knee_ways=ways(0.35, 1.0),
        hands=arms(0.14 * (1 - down), 0.06 + 1.42 * down) if hands is None else hands,
        elbow_ways=ways(0.5, -1.0 + 0.8 * down),
    )


def jumping_jack(phase: float) -> Posture:
    """Return one jumping jack per cycle: open, arms overhead, at phase 0.5; airborne on the way there and back."""
    opened = effort(phase)
    air = 0.09 * float(np.sin(2 * np.pi * phase) ** 2)
    bend = 0.045 * float(np.cos(2 * np.pi * phase) ** 2)
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.012 - bend - 0.09 * opened + air, 0.0]),
        lean=np.array([0.03, 0.0, 0.0]),
        head=np.array([0.0, 0.0]),
        ankles=feet(0.12 + 0.29 * opened, air),
        knee_ways=ways(0.4, 1.0),
        hands=arms(0.14 + 2.6 * opened, 0.05, 0.96),
        elbow_ways=ways(0.6, -0.6),
    )


def curl(phase: float, sides: tuple[bool, bool] = (True, True)) -> Posture:
    """Return one biceps curl per cycle with the arms of `sides` (left, right), highest at phase 0.5."""
    hands = []
    for side, moves in zip(_SIDES, sides, strict=True):
        flexed = 0.12 + (2.2 * effort(phase) if moves else 0.0)
        elbow = UPPER_ARM * np.array([side * 0.12, -0.99, 0.06 * flexed / 2])
        hands.append(elbow + FOREARM * np.array([side * 0.08, -np.cos(flexed), np.sin(flexed)]))
    posture = standing(np.array(hands))
    return replace(posture, lean=posture.lean - [0.05 * effort(phase), 0.0, 0.0], elbow_ways=ways(0.15, -1.0))


def overhead_press(phase: float) -> Posture:
    """Return one press per cycle: hands at the shoulders at phase 0, overhead at phase 0.5."""
    up = effort(phase)
    hands = np.array([[side * (0.13 - 0.08 * up), 0.03 + 0.49 * up, 0.13 - 0.11 * up] for side in _SIDES])
    return replace(standing(hands, 0.16), head=np.array([-0.1 * up, 0.0]), elbow_ways=ways(0.7, 0.3))


def lift(phase: float, spread: float = 0.05) -> Posture:
    """Return one lift from the floor per cycle: upright at phase 0, the hands near the floor at phase 0.5."""
    down = effort(phase)
    hands = arms(0.0, 0.08 + 0.25 * down, 0.985) + _SIDES[:, None] * np.array([spread, 0.0, 0.0])
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.012 - 0.33 * down, -0.24 * down]),
        lean=np.array([0.03 + 1.0 * down, 0.0, 0.0]),
        head=np.array([0.05 - 0.35 * down, 0.0]),
        ankles=feet(0.14),
        knee_ways=ways(0.25, 1.0),
        hands=hands,
        elbow_ways=ways(0.5, -1.0),
    )


def swing(phase: float) -> Posture:
    """Return one kettlebell swing per cycle: chest height at phase 0, between the legs at phase 0.5."""
    down = effort(phase)
    hands = arms(0.0, 1.45 - 1.35 * down, 0.97)
    hands[:, 0] = -_SIDES * 0.14
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.012 - 0.15 * down, -0.2 * down]),
        lean=np.array([0.0 + 0.85 * down, 0.0, 0.0]),
        head=np.array([0.0 - 0.3 * down, 0.0]),
        ankles=feet(0.2),
        knee_ways=ways(0.3, 1.0),
        hands=hands,
        elbow_ways=ways(0.6, -0.6),
    )


def walking(distance: float, step: float, hands: Floats | None = None) -> Posture:
    """Return the posture after `distance` metres of walking forward with steps of `step` metres.

    Feet that are on the ground stay where they are; the mannequin itself must be moved by the same distance.
    """
    ankles, swings = np.zeros((2, 3)), []
    for index, side in enumerate(_SIDES):
        cycles = distance / (2 * step) + 0.5 * index
        share = cycles % 1.0
        moving = min(share / 0.5, 1.0)
        ease = moving * moving * (3 - 2 * moving)
        ahead = (2 * ease - 0.5 - 2 * share) * step
        ankles[index] = side * 0.1, ANKLE_HEIGHT + 0.1 * np.sin(np.pi * moving) ** 2, ahead
        swings.append(-0.45 * np.sin(2 * np.pi * (share - 0.25) + np.pi) * step / 0.6)
    swung = np.array([arms(0.12, float(angle), 0.96)[index] for index, angle in enumerate(swings)])
    bob = 0.02 * np.cos(2 * np.pi * distance / step)
    return Posture(
        hips=np.array([0.0, STANDING_HIP - 0.05 - bob, 0.0]),
        lean=np.array([0.05, 0.0, 0.08 * np.sin(np.pi * distance / step)]),
        head=np.array([0.02, 0.0]),
        ankles=ankles,
        knee_ways=ways(0.08, 1.0),
        hands=swung if hands is None else hands,
        elbow_ways=ways(0.3, -1.0),
    )


def free(rng: np.random.Generator) -> Posture:
    """Return any plausible posture: a lunge or a stance, the arms anywhere, the head turned."""
    hips = np.array([rng.normal(0, 0.05), STANDING_HIP - 0.015 - abs(rng.normal(0, 0.12)), rng.normal(0, 0.06)])
    ankles = feet(float(rng.uniform(0.08, 0.3))) + np.array([[0, 0, rng.normal(0, 0.22)], [0, 0, rng.normal(0, 0.22)]])
    hands = np.array([arms(rng.uniform(0, 2.9), rng.uniform(0, 2.6), rng.uniform(0.45, 0.98))[s] for s in range(2)])
    return Posture(
        hips=hips,
        lean=np.array([rng.normal(0.12, 0.25), rng.normal(0, 0.12), rng.normal(0, 0.25)]),
        head=np.array([rng.normal(0, 0.2), rng.normal(0, 0.5)]),
        ankles=ankles,
        knee_ways=ways(float(rng.uniform(0, 0.5)), 1.0),
        hands=hands,
        elbow_ways=ways(float(rng.uniform(0.2, 0.9)), float(rng.uniform(-1.0, 0.3))),
    )
