"""A gym scene with people and equipment, rendered to a picture with its exact ground truth."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from gymscene import body
from gymscene.brush import PARTS_PER_OWNER, Brush, Image, Tags
from gymscene.camera import Camera, Floats
from gymscene.equipment import PERSON

SUPERSAMPLING = 2
"""A scene is drawn this many times larger and then shrunk, for smooth edges."""

Drawer = Callable[[Brush, int], None]
"""Draws one thing; its pixels belong to the owner whose number it gets."""

_LEAST_VISIBLE = 0.25
_LEAST_SIDE_PX = 6.0
_LEAST_AREA_PX = 36.0


@dataclass(frozen=True, slots=True)
class Person:
    """A mannequin in its place, solved and ready to be drawn."""

    joints: body.Joints
    look: body.Look


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of equipment: its class id and how to draw it."""

    class_id: int
    draw: Drawer


@dataclass(slots=True)
class Scene:
    """Everything before the camera.

    `backdrop` (h, w, 3) is the empty room at `SUPERSAMPLING` times the camera's size.
    """

    camera: Camera
    backdrop: Image
    light: tuple[float, float] = (-0.4, -0.6)
    people: list[Person] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    furniture: list[Callable[[Brush], None]] = field(default_factory=list)
    shadows: list[tuple[Floats, float]] = field(default_factory=list)
    """Where something stands on the floor, and how wide it is in metres."""


@dataclass(frozen=True, slots=True)
class Label:
    """The truth about one thing on a picture, in pixels of that picture.

    `box_xyxy` (4,) encloses what is visible of it. `keypoints` (17, 3) are x, y and COCO's visibility (0 not on the
    picture, 1 hidden, 2 visible) of a person, None for equipment.
    """

    class_id: int
    box_xyxy: Floats
    visible_share: float
    keypoints: Floats | None = None


def render(scene: Scene) -> tuple[Image, list[Label]]:
    """Return the scene's picture (h, w, 3) BGR and the labels of all that can be seen on it."""
    width, height = scene.camera.size
    large = replace(
        scene.camera,
        size=(width * SUPERSAMPLING, height * SUPERSAMPLING),
        focal_px=scene.camera.focal_px * SUPERSAMPLING,
    )
    brush = Brush(large, scene.light)
    for furniture in scene.furniture:
        furniture(brush)
    for owner, person in enumerate(scene.people, start=1):
        body.draw(brush, person.joints, person.look, owner)
    for owner, item in enumerate(scene.items, start=1 + len(scene.people)):
        item.draw(brush, owner)
    picture = _shadowed(scene.backdrop, large, scene.shadows)
    tags = brush.paint(picture)
    small = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return small, list(_labels(scene, brush, tags))


def _shadowed(backdrop: Image, camera: Camera, shadows: list[tuple[Floats, float]]) -> Image:
    """Return a copy of the backdrop with a soft shadow on the floor under everything that stands there."""
    if not shadows:
        return backdrop.copy()
    height, width = backdrop.shape[:2]
    mask = np.zeros((height // 4, width // 4), dtype=np.uint8)
    turns = np.arange(20) * (np.pi / 10)
    ring = np.stack([np.cos(turns), np.zeros(20), np.sin(turns)], axis=1)
    for place, radius in shadows:
        outline, depth = camera.project(place + radius * ring)
        if float(depth.min()) > 0.3:
            cv2.fillConvexPoly(mask, np.round(outline / 4).astype(np.int32), 150, cv2.LINE_AA)
    soft = cv2.GaussianBlur(mask, (0, 0), max(1.0, camera.focal_px * 0.006))
    factor = 255 - cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    shaded = cv2.multiply(backdrop, cv2.merge([factor] * 3), scale=1 / 255)
    return np.asarray(shaded, dtype=np.uint8)


def _labels(scene: Scene, brush: Brush, tags: Tags) -> list[Label]:
    owners = tags // PARTS_PER_OWNER
    labels = []
    things: list[Person | Item] = [*scene.people, *scene.items]
    for owner, thing in enumerate(things, start=1):
        mine = owners == owner
        area = int(np.count_nonzero(mine))
        if area < _LEAST_AREA_PX * SUPERSAMPLING**2:
            continue
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SUPERSAMPLING
        share = area / max(brush.silhouette_area(owner), 1)
        if share < _LEAST_VISIBLE or min(edges[2:] - edges[:2]) < _LEAST_SIDE_PX:
            continue
        if isinstance(thing, Person):
            labels.append(Label(PERSON, edges, share, _keypoints(thing, brush, tags, owner)))
        else:
            labels.append(Label(thing.class_id, edges, share))
    return labels


def _keypoints(person: Person, brush: Brush, tags: Tags, owner: int) -> Floats:
    """Return a person's keypoints (17, 3) in pixels of the small picture, with COCO's visibility."""
    points = person.joints.keypoints(person.look.size)
    place, _ = brush.camera.project(points)
    height, width = tags.shape
    result = np.zeros((17, 3))
    for index, (x, y) in enumerate(place):
        column, row = int(np.floor(x)), int(np.floor(y))
        if not (0 <= column < width and 0 <= row < height):
            continue
        near = tags[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        allowed = owner * PARTS_PER_OWNER + np.array(_PARTS_AT[index])
        seen = bool(np.isin(near, allowed).any()) and _faces(person, brush.camera, index)
        result[index] = (x / SUPERSAMPLING, y / SUPERSAMPLING, 2 if seen else 1)
    return result


def _faces(person: Person, camera: Camera, index: int) -> bool:
    """Tell whether a point of the head is on the side towards the camera; always so for the other keypoints."""
    if index not in _FACE_WAYS:
        return True
    way = np.array(_FACE_WAYS[index]) @ person.joints.head_axes
    to_camera = camera.position - person.joints.head
    return float(way @ to_camera) > 0.1 * float(np.linalg.norm(to_camera))


_FACE_WAYS = {0: (0, 0, 1), 1: (0.45, 0, 0.9), 2: (-0.45, 0, 0.9), 3: (0.98, 0, 0.15), 4: (-0.98, 0, 0.15)}
"""Which way (left, up, forward) the points of the head look."""


def _parts_at() -> tuple[tuple[int, ...], ...]:
    """Return for each keypoint the body parts that may lie under it when it is visible."""
    arm, leg = body.ARM_PARTS, body.LEG_PARTS
    table: list[tuple[int, ...]] = [(body.HEAD,)] * 5
    table += [(body.CHEST, arm + 3 * s) for s in range(2)]
    table += [(arm + 3 * s, arm + 3 * s + 1) for s in range(2)]
    table += [(arm + 3 * s + 1, arm + 3 * s + 2) for s in range(2)]
    table += [(body.PELVIS, body.CHEST, leg + 3 * s) for s in range(2)]
    table += [(leg + 3 * s, leg + 3 * s + 1) for s in range(2)]
    table += [(leg + 3 * s + 1, leg + 3 * s + 2) for s in range(2)]
    return tuple(table)


_PARTS_AT = _parts_at()
