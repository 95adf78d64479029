"""The two rooms in which the demo clips play, their cameras and what stands in them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gymscene import equipment
from gymscene.body import Look
from gymscene.brush import Brush, Colour
from gymscene.camera import Camera, Floats, looking_at
from gymscene.room import Panel, Room
from gymscene.scene import Item

UP = np.array([0.0, 1.0, 0.0])
SIZE = (640, 360)
"""Width and height of the clips in pixels."""
DARK: Colour = (52, 46, 44)
Furniture = Callable[[Brush], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """A furnished room as one fixed camera sees it, and the mannequin that will move in it."""

    camera: Camera
    room: Room
    look: Look
    furniture: tuple[Furniture, ...]
    items: tuple[Item, ...]
    shadows: tuple[tuple[Floats, float], ...]


def _dumbbell(x: float, z: float, axis: tuple[float, float], colour: Colour, size: float, height: float = 0.0) -> Item:
    middle = np.array([x, height + size, z])

    def draw(brush: Brush, owner: int) -> None:
        equipment.dumbbell(brush, middle, np.array([axis[0], 0.0, axis[1]]), size, colour, owner)

    return Item(equipment.DUMBBELL, draw)


def _kettlebell(x: float, z: float, colour: Colour, size: float, height: float = 0.0) -> Item:
    return kettlebell(np.array([x, height + equipment.kettlebell_height(size), z]), (1.0, 0.15), colour, size)


def kettlebell(grip: Floats, across: tuple[float, float], colour: Colour, size: float) -> Item:
    """Return an upright kettlebell by its grip (3,); `across` (x, z) is the direction of its handle."""

    def draw(brush: Brush, owner: int) -> None:
        equipment.kettlebell(brush, grip, UP, np.array([across[0], 0.0, across[1]]), size, colour, owner)

    return Item(equipment.KETTLEBELL, draw)


def _barbell(middle: Floats, axis: tuple[float, float], plates: tuple[float, ...], colour: Colour) -> Item:
    def draw(brush: Brush, owner: int) -> None:
        equipment.barbell(brush, middle, np.array([axis[0], 0.0, axis[1]]), np.array(plates), colour, owner)

    return Item(equipment.BARBELL, draw)


def _mat(x: float, z: float, half: tuple[float, float], colour: Colour) -> Furniture:
    corners = np.array([[x + i * half[0], 0.0, z + j * half[1]] for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    return lambda brush: brush.flat(corners, colour, 0, nearer_m=-20.0)


def gym_stage() -> Stage:
    """Return the room of `gym.mp4`: a mat in the middle, windows, a board, a bench, a few weights at the wall."""
    bench_place = np.array([1.75, 0.0, 4.1])
    windows = [Panel(x, x + 1.15, 1.25, 2.35, (236, 222, 196), 0.25) for x in (-2.9, -1.55)]
    board = Panel(0.25, 2.9, 0.35, 2.2, (176, 170, 160), 0.5)
    return Stage(
        camera=looking_at(np.array([0.55, 1.45, -0.75]), np.array([0.0, 1.02, 2.9]), roll=0.0, focal_px=560, size=SIZE),
        room=Room(3.6, 2.9, 5.0, (104, 132, 158), (206, 208, 204), 2, 3, (*windows, board), (0.0, 2.6), 0.9),
        look=Look((148, 176, 220), (38, 46, 62), (172, 116, 44), (66, 58, 54), (238, 238, 240), long_trousers=False),
        furniture=(
            _mat(0.0, 2.9, (0.85, 0.5), (112, 96, 62)),
            lambda brush: equipment.bench(brush, bench_place, 0.25, (58, 52, 150)),
        ),
        items=(
            _kettlebell(-1.55, 4.2, (60, 120, 205), 0.105),
            _kettlebell(-1.95, 4.35, DARK, 0.12),
            _dumbbell(1.1, 3.3, (0.5, -0.85), DARK, 0.075),
            _dumbbell(1.42, 3.22, (0.6, -0.8), DARK, 0.075),
        ),
        shadows=((bench_place, 0.45), (np.array([-1.55, 0, 4.2]), 0.14), (np.array([-1.95, 0, 4.35]), 0.16)),
    )


def rack_stage() -> Stage:
    """Return the room of `rack.mp4`: a barbell on its stand, dumbbells in a rack, kettlebells on the floor."""
    shelf, stand = np.array([1.35, 0.0, 4.25]), np.array([-1.15, 0.0, 4.4])
    door = Panel(2.3, 3.2, 0.0, 2.1, (92, 118, 140), 0.15)
    window = Panel(-0.2, 1.1, 1.5, 2.4, (238, 226, 204), 0.25)
    low, high = equipment.SHELF_HEIGHTS
    weights = [_dumbbell(1.35 + dx, 4.25, (0.0, 1.0), DARK, 0.085, low) for dx in (-0.5, -0.17, 0.16, 0.5)]
    weights += [_dumbbell(1.35 + dx, 4.25, (0.0, 1.0), (62, 84, 176), 0.07, high) for dx in (-0.5, -0.2, 0.1)]
    return Stage(
        camera=looking_at(np.array([0.1, 1.55, -1.0]), np.array([0.05, 0.9, 2.9]), roll=0.0, focal_px=545, size=SIZE),
        room=Room(3.6, 2.9, 5.3, (92, 92, 94), (186, 194, 192), 3, 1, (door, window), (0.2, 2.6), 0.9),
        look=Look((96, 128, 176), (26, 28, 34), (76, 140, 92), (74, 60, 52), (60, 60, 200), long_sleeves=True),
        furniture=(
            lambda brush: equipment.shelf(brush, shelf, 0.0, 1.35, (70, 66, 62)),
            lambda brush: equipment.stand(brush, stand, 0.0, 1.02, (58, 70, 160)),
        ),
        items=(
            *weights,
            _barbell(stand + 1.05 * UP, (1.0, 0.0), (0.2, 0.16), (150, 84, 40)),
            _kettlebell(2.15, 3.5, (66, 150, 190), 0.11),
        ),
        shadows=((shelf, 0.7), (stand, 0.6), (np.array([2.15, 0, 3.5]), 0.15)),
    )
