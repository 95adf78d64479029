"""The mannequin: a posture is solved to joints in space, joints are drawn, and joints give the 17 COCO keypoints."""

from dataclasses import dataclass, fields

import numpy as np

from gymscene.brush import PARTS_PER_OWNER, Brush, Colour, shaded
from gymscene.camera import Floats

KEYPOINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
"""The order of the COCO keypoints; left and right are the mannequin's own."""

# Lengths of a mannequin of size 1.0, in metres; it stands about 1.78 m tall.
THIGH, SHIN, ANKLE_HEIGHT = 0.43, 0.43, 0.08
TORSO, SHOULDER_HALF, HIP_HALF = 0.49, 0.185, 0.10
UPPER_ARM, FOREARM, HAND = 0.29, 0.25, 0.10
NECK = 0.19
"""From the line between the shoulders to the middle of the head."""
STANDING_HIP = ANKLE_HEIGHT + THIGH + SHIN - 0.005

_SIDES = np.array([1.0, -1.0])
HEAD, CHEST, PELVIS, NECK_PART = 1, 2, 3, 4
ARM_PARTS, LEG_PARTS = 5, 11
"""First part number of (upper arm, forearm, hand) and (thigh, shin, foot), left first, three parts each."""


@dataclass(frozen=True, slots=True)
class Posture:
    """What the mannequin does, in its own frame: x to its left, y up, z forward; metres and radians.

    Left limbs come first in the (2, 3) arrays. `hands` are the wrists, as seen from the shoulder of the same side;
    `elbow_ways` and `knee_ways` say to which side the middle joint bends.
    """

    hips: Floats
    lean: Floats
    """(3,): forward, to the left, twist of the shoulders against the hips."""
    head: Floats
    """(2,): nod down, turn to the left; on top of the torso's."""
    ankles: Floats
    knee_ways: Floats
    hands: Floats
    elbow_ways: Floats

    def blended(self, other: "Posture", share: float) -> "Posture":
        """Return the posture between this one (share 0) and `other` (share 1)."""
        return Posture(*((1 - share) * getattr(self, f.name) + share * getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Look:
    """The colours of one mannequin, its size (1.0: 1.78 m) and its girth (1.0: average)."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    size: float = 1.0
    girth: float = 1.0
    long_sleeves: bool = False
    long_trousers: bool = True
    bald: bool = False


@dataclass(frozen=True, slots=True)
class Joints:
    """Solved joints in the world, in metres; limbs are (2, 3), left first. `head_axes` rows: left, up, forward."""

    shoulders: Floats
    elbows: Floats
    wrists: Floats
    fingers: Floats
    hips: Floats
    knees: Floats
    ankles: Floats
    toes: Floats
    head: Floats
    head_axes: Floats

    def keypoints(self, size: float) -> Floats:
        """Return the COCO keypoints (17, 3) in the world, in metres."""
        face = np.array(
            [[0, -0.015, 0.098], [0.032, 0.02, 0.084], [-0.032, 0.02, 0.084], [0.076, 0.0, 0.0], [-0.076, 0.0, 0.0]]
        )
        points = [self.head + size * face @ self.head_axes]
        points += [self.shoulders, self.elbows, self.wrists, self.hips, self.knees, self.ankles]
        return np.concatenate(points)


def middle_joint(start: Floats, end: Floats, upper: float, lower: float, way: Floats) -> tuple[Floats, Floats]:
    """Bend a limb of two bones from `start` towards `end`; return its middle joint and where it really ends."""
    line = end - start
    distance = float(np.linalg.norm(line)) or 1e-9
    line = line / distance
    reach = min(max(distance, abs(upper - lower) + 1e-3), (upper + lower) * 0.999)
    along = (reach**2 + upper**2 - lower**2) / (2 * reach)
    aside = way - line * float(way @ line)
    norm = float(np.linalg.norm(aside))
    aside = aside / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])
    return start + line * along + aside * np.sqrt(max(upper**2 - along**2, 0.0)), start + line * reach


def turned(about: str, angle: float) -> Floats:
    """Return a (3, 3) rotation about one axis of the mannequin's frame; it acts on column vectors."""
    c, s = np.cos(angle), np.sin(angle)
    if about == "x":  # positive: forward, nod
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if about == "y":  # positive: turn to the left
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])  # positive: to the left


def solve(posture: Posture, size: float, place: Floats, facing: float) -> Joints:
    """Solve a posture to joints in the world.

    `place` (3,) is the point on the floor between the feet; `facing` is 0 when the mannequin looks towards -z (to a
    viewer at the origin) and pi/2 when it looks towards +x.
    """
    torso = turned("x", posture.lean[0]) @ turned("z", posture.lean[1])
    chest = torso @ turned("y", posture.lean[2])
    hips = posture.hips + _SIDES[:, None] * HIP_HALF * np.array([1.0, 0.0, 0.0])
    top = posture.hips + torso @ np.array([0.0, TORSO, 0.0])
    shoulders = top + _SIDES[:, None] * (chest @ np.array([SHOULDER_HALF, 0.0, 0.0]))
    skull = chest @ turned("y", posture.head[1]) @ turned("x", posture.head[0])
    limbs = []
    for side in range(2):
        elbow, wrist = middle_joint(
            shoulders[side], shoulders[side] + posture.hands[side], UPPER_ARM, FOREARM, posture.elbow_ways[side]
        )
        knee, ankle = middle_joint(hips[side], posture.ankles[side], THIGH, SHIN, posture.knee_ways[side])
        fingers = wrist + (wrist - elbow) / FOREARM * HAND
        toe_way = posture.knee_ways[side] * np.array([1.0, 0.0, 1.0])
        toes = ankle + np.array([0, -0.045, 0]) + 0.17 * toe_way / (float(np.linalg.norm(toe_way)) or 1.0)
        limbs.append((elbow, wrist, fingers, knee, ankle, toes))
    elbows, wrists, fingers, knees, ankles, toes = (np.array(points) for points in zip(*limbs, strict=True))
    frame = np.array([[np.cos(facing), 0, np.sin(facing)], [0, 1, 0], [np.sin(facing), 0, -np.cos(facing)]])

    def world(points: Floats) -> Floats:
        moved: Floats = place + size * points @ frame
        return moved

    return Joints(
        world(shoulders), world(elbows), world(wrists), world(fingers), world(hips), world(knees), world(ankles),
        world(toes), world(top + skull @ np.array([0.0, NECK, 0.015])), skull.T @ frame,
    )  # fmt: skip


def draw(brush: Brush, joints: Joints, look: Look, owner: int) -> None:
    """Draw the mannequin; its pixels belong to `owner`, its parts are numbered as the constants above say."""
    tag = owner * PARTS_PER_OWNER
    unit = look.size * look.girth
    _draw_torso(brush, joints, look, tag, unit)
    _draw_head(brush, joints, look, tag)
    for side in range(2):
        _draw_arm(brush, joints, look, tag + ARM_PARTS + 3 * side, side)
        _draw_leg(brush, joints, look, tag + LEG_PARTS + 3 * side, side)


def _draw_torso(brush: Brush, joints: Joints, look: Look, tag: int, unit: float) -> None:
    shoulder, hip = joints.shoulders.mean(axis=0), joints.hips.mean(axis=0)
    waist = 0.62 * hip + 0.38 * shoulder
    chest = 0.86 * joints.shoulders + 0.14 * shoulder
    sides = 0.62 * (joints.hips - hip)
    trunk = np.concatenate([chest + 0.07 * (hip - shoulder), waist + sides])
    brush.blob(trunk, unit * np.array([0.095, 0.095, 0.1, 0.1]), look.shirt, tag + CHEST)
    low = np.concatenate([waist + sides - 0.12 * (shoulder - hip), joints.hips])
    brush.blob(low, unit * np.array([0.1, 0.1, 0.105, 0.105]), look.trousers, tag + PELVIS, nearer_m=-0.03)
    collar = np.stack([shoulder, joints.head - 0.06 * look.size * joints.head_axes[1]])
    brush.blob(collar, look.size * np.array([0.062, 0.056]), shaded(look.skin, 0.9), tag + NECK_PART, nearer_m=-0.01)


def _draw_head(brush: Brush, joints: Joints, look: Look, tag: int) -> None:
    left, up, forward = joints.head_axes * look.size
    brush.ellipsoid(joints.head, np.stack([0.074 * left, 0.118 * up, 0.092 * forward]), look.skin, tag + HEAD)
    if not look.bald:
        middle = joints.head + 0.035 * up - 0.026 * forward
        brush.ellipsoid(middle, np.stack([0.081 * left, 0.1 * up, 0.086 * forward]), look.hair, tag + HEAD)
    to_camera = brush.camera.position - joints.head
    to_camera = to_camera / np.linalg.norm(to_camera) * look.size
    for side in (1, -1):
        ear = joints.head + side * 0.076 * left
        if float((side * left + 0.15 * forward) @ to_camera) > -0.05:
            brush.blob(ear[None], np.array([0.02 * look.size]), shaded(look.skin, 0.85), tag + HEAD, nearer_m=0.09)
        eye = joints.head + side * 0.032 * left + 0.02 * up + 0.084 * forward
        if float((forward + 0.45 * side * left) @ to_camera) > 0.12:
            brush.blob(eye[None], np.array([0.0155 * look.size]), (235, 238, 240), tag + HEAD, nearer_m=0.1)
            brush.blob(eye[None], np.array([0.0085 * look.size]), (45, 35, 30), tag + HEAD, nearer_m=0.105)
    if float(forward @ to_camera) > 0.0:
        nose = joints.head + np.array([[0.02], [-0.015]]) * up + np.array([[0.088], [0.098]]) * forward
        brush.blob(nose, look.size * np.array([0.009, 0.016]), shaded(look.skin, 0.9), tag + HEAD, nearer_m=0.1)
    if float(forward @ to_camera) > 0.35:
        mouth = joints.head - 0.055 * up + 0.08 * forward + np.array([[0.022], [-0.022]]) * left
        brush.blob(mouth, look.size * np.array([0.006, 0.006]), (70, 60, 140), tag + HEAD, nearer_m=0.1)


def _draw_arm(brush: Brush, joints: Joints, look: Look, tag: int, side: int) -> None:
    unit = look.size * look.girth
    shoulder, elbow, wrist, fingers = (
        part[side] for part in (joints.shoulders, joints.elbows, joints.wrists, joints.fingers)
    )
    lower = look.shirt if look.long_sleeves else look.skin
    brush.blob(np.stack([shoulder, elbow]), unit * np.array([0.056, 0.043]), lower, tag, nearer_m=0.04)
    if not look.long_sleeves:
        sleeve = np.stack([shoulder, shoulder + 0.45 * (elbow - shoulder)])
        limb = np.stack([shoulder, elbow])
        brush.blob(sleeve, unit * np.array([0.064, 0.058]), look.shirt, tag, nearer_m=0.041, at=limb)
    brush.blob(np.stack([elbow, wrist]), unit * np.array([0.042, 0.031]), lower, tag + 1, nearer_m=0.05)
    brush.blob(np.stack([wrist, fingers]), unit * np.array([0.03, 0.036]), look.skin, tag + 2, nearer_m=0.055)


def _draw_leg(brush: Brush, joints: Joints, look: Look, tag: int, side: int) -> None:
    unit = look.size * look.girth
    hip, knee, ankle, toes = (part[side] for part in (joints.hips, joints.knees, joints.ankles, joints.toes))
    lower = look.trousers if look.long_trousers else look.skin
    brush.blob(np.stack([hip, knee]), unit * np.array([0.088, 0.06]), lower, tag, nearer_m=0.02)
    if not look.long_trousers:
        leg = np.stack([hip, hip + 0.6 * (knee - hip)])
        brush.blob(leg, unit * np.array([0.095, 0.082]), look.trousers, tag, nearer_m=0.021, at=np.stack([hip, knee]))
    brush.blob(np.stack([knee, ankle]), unit * np.array([0.058, 0.04]), lower, tag + 1, nearer_m=0.02)
    heel = ankle + np.array([0.0, -0.035 * look.size, 0.0])
    brush.blob(np.stack([heel, toes]), unit * np.array([0.046, 0.036]), look.shoes, tag + 2, nearer_m=0.025)
