"""The empty gym: a box of floor, walls and ceiling whose surfaces are painted by casting a ray through each pixel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gymscene.brush import Colour, Image, shaded
from gymscene.camera import Camera, Floats

_FLOOR, _CEILING, _BACK, _SIDE_LEFT, _SIDE_RIGHT, _BEHIND = range(6)


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle on a wall: window, poster, mirror or door; metres along the wall and above the floor."""

    left: float
    right: float
    bottom: float
    top: float
    colour: Colour
    gradient: float = 0.0
    """How much brighter its top left is than its bottom right."""


@dataclass(frozen=True, slots=True)
class Room:
    """A room of which the camera sees the inside; `half_width`, `height` and `back` (the far wall's z) in metres."""

    half_width: float
    height: float
    back: float
    floor: Colour
    wall: Colour
    floor_pattern: int
    """0 plain, 1 tiles, 2 planks, 3 rubber with specks."""
    wall_pattern: int
    """0 plain, 1 bricks, 2 boards, 3 two colours."""
    panels: tuple[Panel, ...] = ()
    lamp: tuple[float, float] = (0.0, 3.0)
    """Where the light falls on the floor, (x, z) in metres."""
    contrast: float = 1.0


def paint_room(room: Room, camera: Camera, rng: np.random.Generator) -> Image:
    """Return the picture (h, w, 3) of the empty room as `camera` sees it."""
    rays, origin = camera.rays(), camera.position
    rays = np.where(np.abs(rays) < 1e-6, 1e-6, rays)
    low = np.array([-room.half_width, 0.0, -6.0])
    high = np.array([room.half_width, room.height, room.back])
    distance = np.where(rays > 0, (high - origin) / rays, (low - origin) / rays)
    surface_axis = distance.argmin(axis=2)
    hit = origin + rays * distance.min(axis=2)[..., None]
    positive = np.take_along_axis(rays, surface_axis[..., None], axis=2)[..., 0] > 0
    picture = np.empty((*surface_axis.shape, 3))
    floor, ceiling = (surface_axis == 1) & ~positive, (surface_axis == 1) & positive
    sides, ends = surface_axis == 0, surface_axis == 2
    picture[floor] = _floor(room, hit[floor], rng)
    picture[ceiling] = shaded(room.wall, 1.05)
    picture[sides] = _wall(room, hit[sides][:, [2, 1]]) * 0.86
    picture[ends] = _wall(room, hit[ends][:, [0, 1]])
    back = ends & positive
    for panel in room.panels:
        _put_panel(picture, hit, back, panel)
    picture *= _light(room, hit, surface_axis)[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def _light(room: Room, hit: Floats, axis: NDArray[np.intp]) -> Floats:
    """Return the brightness of every pixel: a pool of light on the floor, corners darker."""
    away = np.hypot(hit[..., 0] - room.lamp[0], hit[..., 2] - room.lamp[1])
    pool = 1.12 - room.contrast * 0.07 * away
    corner = np.minimum(hit[..., 1], 0.6) / 0.6
    light: Floats = np.clip(pool, 0.45, 1.15) * np.where(axis == 1, 1.0, 0.8 + 0.2 * corner)
    return light


def _floor(room: Room, hit: Floats, rng: np.random.Generator) -> Floats:
    """Return the floor's colours (n, 3) at the points (n, 3)."""
    x, z = hit[:, 0], hit[:, 2]
    gain = np.ones(len(hit))
    if room.floor_pattern == 1:
        gain += 0.06 * ((np.floor(x / 0.6) + np.floor(z / 0.6)) % 2)
        gain[(x % 0.6 < 0.012) | (z % 0.6 < 0.012)] = 0.8
    elif room.floor_pattern == 2:
        board = np.floor(x / 0.14)
        gain += 0.05 * np.sin(board * 12.9898) + 0.02 * np.sin(z * 9 + board * 3)
        gain[(x % 0.14 < 0.008) | ((z + 0.37 * board) % 1.4 < 0.012)] = 0.75
    elif room.floor_pattern == 3:
        cell = (np.floor(x / 0.025) * 73 + np.floor(z / 0.025) * 179).astype(np.int64) % 997
        gain += 0.25 * rng.random(997)[cell] ** 12
        gain[(x % 1.0 < 0.012) | (z % 1.0 < 0.012)] *= 0.8
    colours: Floats = np.array(room.floor) * gain[:, None]
    return colours


def _wall(room: Room, hit: Floats) -> Floats:
    """Return a wall's colours (n, 3) at the points (n, 2): metres along it, metres above the floor."""
    along, up = hit[:, 0], hit[:, 1]
    gain = np.ones(len(hit))
    if room.wall_pattern == 1:
        row = np.floor(up / 0.12)
        shifted = along + 0.15 * (row % 2)
        gain += 0.05 * np.sin(np.floor(shifted / 0.3) * 7.7 + row * 3.1)
        gain[(up % 0.12 < 0.014) | (shifted % 0.3 < 0.014)] = 1.12
    elif room.wall_pattern == 2:
        gain += 0.04 * np.sin(np.floor(along / 0.4) * 5.3)
        gain[along % 0.4 < 0.012] = 0.82
    elif room.wall_pattern == 3:
        gain[up < 1.05] = 0.72
        gain[np.abs(up - 1.05) < 0.03] = 1.15
    gain[up < 0.1] = 0.6
    colours: Floats = np.array(room.wall) * gain[:, None]
    return colours


def _put_panel(picture: Floats, hit: Floats, wall: NDArray[np.bool_], panel: Panel) -> None:
    x, y = hit[..., 0], hit[..., 1]
    inside = wall & (x > panel.left) & (x < panel.right) & (y > panel.bottom) & (y < panel.top)
    frame = wall & (x > panel.left - 0.04) & (x < panel.right + 0.04)
    frame &= (y > panel.bottom - 0.04) & (y < panel.top + 0.04)
    picture[frame] *= 0.55
    across = (x[inside] - panel.left) / (panel.right - panel.left)
    down = (panel.top - y[inside]) / (panel.top - panel.bottom)
    picture[inside] = np.array(panel.colour) * (1 + panel.gradient * (0.5 - 0.5 * (across + down)))[:, None]


def random_room(rng: np.random.Generator) -> Room:
    """Return a room of any size, colour and pattern."""
    back = float(rng.uniform(4.5, 9.0))
    panels = []
    for _ in range(int(rng.integers(0, 5))):
        left, bottom = float(rng.uniform(-4, 3)), float(rng.uniform(0.1, 1.6))
        colour = random_colour(rng, 20, 250, saturation=0.6)
        right, top = left + float(rng.uniform(0.4, 2.2)), bottom + float(rng.uniform(0.4, 1.4))
        panels.append(Panel(left, right, bottom, top, colour, float(rng.uniform(-0.5, 0.5))))
    return Room(
        half_width=float(rng.uniform(2.8, 6.0)),
        height=float(rng.uniform(2.5, 4.0)),
        back=back,
        floor=random_colour(rng, 35, 190, saturation=0.25),
        wall=random_colour(rng, 50, 235, saturation=0.3),
        floor_pattern=int(rng.integers(4)),
        wall_pattern=int(rng.integers(4)),
        panels=tuple(panels),
        lamp=(float(rng.uniform(-2, 2)), float(rng.uniform(1, back))),
        contrast=float(rng.uniform(0.3, 1.8)),
    )


def random_colour(rng: np.random.Generator, low: float, high: float, saturation: float = 1.0) -> Colour:
    """Return a colour whose channels lie between `low` and `high`; saturation 0 is grey."""
    grey = rng.uniform(low, high)
    blue, green, red = (float(c) for c in (1 - saturation) * grey + saturation * rng.uniform(low, high, 3))
    return blue, green, red
