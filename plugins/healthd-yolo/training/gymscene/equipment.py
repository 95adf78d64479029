"""What lies about in a gym: what the detection model must find, and furniture that it must leave alone."""

import numpy as np

from gymscene.brush import PARTS_PER_OWNER, Brush, Colour, shaded
from gymscene.camera import Floats

CLASS_NAMES = ("person", "dumbbell", "kettlebell", "barbell")
"""The detection model's classes, by class id."""
PERSON, DUMBBELL, KETTLEBELL, BARBELL = range(4)

STEEL: Colour = (188, 186, 182)
UP = np.array([0.0, 1.0, 0.0])


def _unit(vector: Floats) -> Floats:
    return np.asarray(vector, dtype=np.float64) / max(float(np.linalg.norm(vector)), 1e-9)


def dumbbell(brush: Brush, middle: Floats, axis: Floats, size: float, colour: Colour, owner: int) -> None:
    """Draw a dumbbell; `axis` runs along its handle, `size` is the radius of its heads in metres."""
    tag, axis = owner * PARTS_PER_OWNER, _unit(axis)
    half = 0.065 + 0.25 * size
    thick = 0.9 * size
    grip = np.stack([middle - half * axis, middle + half * axis])
    brush.blob(grip, np.array([0.016, 0.016]), STEEL, tag)
    for side in (-1, 1):
        inner = middle + side * half * axis
        brush.cylinder(np.stack([inner, inner + side * thick * axis]), size, colour, tag)


def kettlebell(brush: Brush, grip: Floats, up: Floats, across: Floats, size: float, colour: Colour, owner: int) -> None:
    """Draw a kettlebell that hangs from `grip`, the middle of its handle; `size` is its ball's radius in metres."""
    tag, up, across = owner * PARTS_PER_OWNER, _unit(up), _unit(across)
    ball = grip - up * kettlebell_drop(size)
    axes = size * np.stack([across, 0.95 * up, np.cross(up, across)])
    brush.ellipsoid(ball, axes, colour, tag)
    foot = ball - 0.8 * size * up
    brush.cylinder(np.stack([foot - 0.16 * size * up, foot]), 0.62 * size, shaded(colour, 0.8), tag, nearer_m=-0.01)
    band = np.stack([ball - 0.12 * size * across, ball + 0.12 * size * across]) + 0.05 * size * up
    to_camera = _unit(brush.camera.position - ball) * 0.8 * size
    brush.blob(band + to_camera, np.array([0.22, 0.22]) * size, shaded(colour, 1.6), tag, nearer_m=0.03)
    turns = np.linspace(-0.35, np.pi + 0.35, 9)
    arch = ball + size * (0.72 * np.cos(turns)[:, None] * across + (0.8 + 0.75 * np.sin(turns))[:, None] * up)
    for start in range(len(arch) - 1):
        brush.blob(arch[start : start + 2], np.array([0.17, 0.17]) * size, shaded(colour, 0.9), tag, nearer_m=0.015)


def kettlebell_drop(size: float) -> float:
    """Return how far below its grip the middle of a kettlebell's ball hangs, in metres."""
    return 1.55 * size


def kettlebell_height(size: float) -> float:
    """Return how far above the floor the grip of a standing kettlebell is, in metres."""
    return 0.96 * size + kettlebell_drop(size)


def barbell(brush: Brush, middle: Floats, axis: Floats, plates: Floats, colour: Colour, owner: int) -> None:
    """Draw a barbell of 1.8 m; `plates` (n,) are the radii in metres of the plates on either side, from the inside."""
    tag, axis = owner * PARTS_PER_OWNER, _unit(axis)
    ends = np.linspace(-0.9, 0.9, 7)
    for start in range(6):
        piece = middle + ends[start : start + 2, None] * axis
        brush.blob(piece, np.array([0.014, 0.014]), STEEL, tag)
    for side in (-1, 1):
        position = 0.64
        brush.blob(middle + side * axis * np.array([[0.62], [0.9]]), np.array([0.024, 0.024]), STEEL, tag)
        for radius in plates:
            faces = middle + side * axis * np.array([[position], [position + 0.05]])
            brush.cylinder(faces, float(radius), colour, tag)
            position += 0.06


def bench(brush: Brush, place: Floats, turn: float, colour: Colour) -> None:
    """Draw a flat bench (background)."""
    along = np.array([np.cos(turn), 0.0, np.sin(turn)])
    across = np.array([-along[2], 0.0, along[0]])
    pad = place + np.array([0.0, 0.43, 0.0])
    corners = [pad + x * 0.55 * along + z * 0.1 * across for x in (-1, 1) for z in (-1, 1)]
    brush.blob(np.array(corners), np.full(4, 0.04), colour, 0)
    for end in (-0.45, 0.45):
        leg = place + end * along
        brush.blob(np.stack([leg, leg + 0.4 * UP]), np.full(2, 0.025), (60, 60, 62), 0)
        brush.blob(np.stack([leg - 0.2 * across, leg + 0.2 * across]), np.full(2, 0.022), (60, 60, 62), 0)


def stand(brush: Brush, place: Floats, turn: float, height: float, colour: Colour) -> None:
    """Draw the two uprights on which a barbell rests at `height` metres (background)."""
    along = np.array([np.cos(turn), 0.0, np.sin(turn)])
    across = np.array([-along[2], 0.0, along[0]])
    for side in (-0.45, 0.45):
        foot = place + side * along
        brush.blob(np.stack([foot, foot + (height + 0.06) * UP]), np.full(2, 0.03), colour, 0, nearer_m=-0.02)
        brush.blob(np.stack([foot - 0.28 * across, foot + 0.28 * across]), np.full(2, 0.028), colour, 0)


SHELF_HEIGHTS = (0.404, 0.824)
"""Where things lie on a shelf, metres above the floor."""


def shelf(brush: Brush, place: Floats, turn: float, width: float, colour: Colour) -> None:
    """Draw a rack of two shelves (background)."""
    along = np.array([np.cos(turn), 0.0, np.sin(turn)])
    across = np.array([-along[2], 0.0, along[0]])
    for side in (-1, 1):
        foot = place + side * 0.5 * width * along
        brush.blob(np.stack([foot, foot + 0.95 * UP]), np.full(2, 0.03), colour, 0, nearer_m=-0.1)
        brush.blob(np.stack([foot - 0.22 * across, foot + 0.22 * across]), np.full(2, 0.028), colour, 0)
    for height in SHELF_HEIGHTS:
        for back in (-0.12, 0.12):
            rail = place + np.array([0.0, height - 0.024, 0.0]) + back * across
            ends = np.stack([rail - 0.5 * width * along, rail + 0.5 * width * along])
            brush.blob(ends, np.full(2, 0.024), shaded(colour, 1.15), 0, nearer_m=-0.1)


def loose_plate(brush: Brush, place: Floats, turn: float, radius: float, colour: Colour) -> None:
    """Draw a weight plate that leans or lies by itself (background: it is no barbell)."""
    axis = np.array([np.cos(turn), 0.12, np.sin(turn)])
    middle = place + np.array([0.0, radius, 0.0])
    brush.cylinder(np.stack([middle, middle + 0.05 * _unit(axis)]), radius, colour, 0)
