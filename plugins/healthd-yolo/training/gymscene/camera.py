"""A pinhole camera in a room measured in metres: x to the right, y up, z away from the viewer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NEAR_M = 0.25
"""Nothing closer than this, in metres, is drawn."""


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the camera stands and what it sees.

    `position` in metres; `yaw`, `pitch`, `roll` in radians (all zero: looks along +z); `focal_px` in pixels of
    `size`, which is (width, height).
    """

    position: Floats
    yaw: float
    pitch: float
    roll: float
    focal_px: float
    size: tuple[int, int]

    def axes(self) -> Floats:
        """Return the camera's right, down and forward directions as the rows of a (3, 3) array."""
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        forward = np.array([sy * cp, sp, cy * cp])
        right = np.array([cy, 0.0, -sy])
        down = np.array([sy * sp, -cp, cy * sp])
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Project world points (n, 3) to pixels (n, 2) and depths (n,) in metres.

        Points behind the camera get the nearest depth that is drawn, so that the result is always finite.
        """
        local = (np.asarray(points, dtype=np.float64) - self.position) @ self.axes().T
        depth = np.maximum(local[:, 2], NEAR_M)
        centre = np.array(self.size, dtype=np.float64) / 2
        return local[:, :2] * (self.focal_px / depth)[:, None] + centre, depth

    def rays(self) -> Floats:
        """Return the direction of every pixel's ray in the world, (height, width, 3), not normalised."""
        width, height = self.size
        across = (np.arange(width) + 0.5 - width / 2) / self.focal_px
        along = (np.arange(height) + 0.5 - height / 2) / self.focal_px
        right, down, forward = self.axes()
        rays: Floats = across[None, :, None] * right + along[:, None, None] * down + forward
        return rays


def looking_at(position: Floats, target: Floats, *, roll: float, focal_px: float, size: tuple[int, int]) -> Camera:
    """Return a camera at `position` whose optical axis goes through `target`."""
    way = np.asarray(target, dtype=np.float64) - position
    yaw = float(np.arctan2(way[0], way[2]))
    pitch = float(np.arctan2(way[1], np.hypot(way[0], way[2])))
    return Camera(np.asarray(position, dtype=np.float64), yaw, pitch, roll, focal_px, size)
