"""Solid shapes in space become shaded polygons on the picture, with a record of which thing owns which pixel."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from gymscene.camera import NEAR_M, Camera, Floats

Colour = tuple[float, float, float]
"""Blue, green, red, 0 to 255."""
Image = NDArray[np.uint8]
Tags = NDArray[np.uint16]

PARTS_PER_OWNER = 32
"""A tag is `owner * PARTS_PER_OWNER + part`; tag 0 is the background."""

_SHIFT = 4
_CIRCLE = np.stack([np.cos(t := np.arange(18) * (2 * np.pi / 18)), np.sin(t)], axis=1)
_RING = np.stack([np.cos(t := np.arange(28) * (2 * np.pi / 28)), np.sin(t)], axis=1)
_SHADES = (0.6, 0.76, 0.88, 0.98, 1.06)


@dataclass(frozen=True, slots=True)
class Shape:
    """One convex silhouette: polygons from the outermost (the silhouette itself) to the innermost highlight."""

    depth: float
    tag: int
    layers: tuple[tuple[NDArray[np.int32], Colour], ...]


def shaded(colour: Colour, gain: float) -> Colour:
    """Return the colour brightened or darkened by a factor, kept within 0 to 255."""
    blue, green, red = (min(255.0, max(0.0, c * gain)) for c in colour)
    return blue, green, red


def _fixed(points: Floats) -> NDArray[np.int32]:
    """Turn pixel positions (n, 2) into the fixed-point integers that OpenCV's sub-pixel drawing wants."""
    limited = np.clip(points, -4000, 8000)
    return np.round((limited - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _hull(points: Floats) -> Floats:
    """Return the convex hull of pixel positions (n, 2), in order."""
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)


def _across(axis: Floats) -> tuple[Floats, Floats]:
    """Return two unit vectors at right angles to `axis` and to each other."""
    upright = abs(axis[1]) >= 0.9 * float(np.linalg.norm(axis))
    helper = np.array([1.0, 0.0, 0.0]) if upright else np.array([0.0, 1.0, 0.0])
    one = np.cross(axis, helper)
    one /= np.linalg.norm(one)
    two = np.cross(axis, one)
    return one, two / np.linalg.norm(two)


@dataclass(slots=True)
class Brush:
    """Collects the shapes of one picture; `light` is where light comes from on the picture, a vector of length <= 1."""

    camera: Camera
    light: tuple[float, float] = (-0.5, -0.7)
    shapes: list[Shape] = field(default_factory=list)

    def blob(
        self,
        points: Floats,
        radii: Floats,
        colour: Colour,
        tag: int,
        *,
        nearer_m: float = 0.0,
        at: Floats | None = None,
    ) -> None:
        """Draw the smooth solid around spheres: one sphere is a ball, two are a limb, four are a chest.

        `points` (n, 3) and `radii` (n,) in metres. In the order of painting it stands where the points `at` (n, 3) are
        (default: where it is), `nearer_m` metres nearer.
        """
        centres, depth = self.camera.project(np.asarray(points, dtype=np.float64))
        if float(depth.min()) <= NEAR_M:
            return
        radius_px = np.asarray(radii, dtype=np.float64) * self.camera.focal_px / depth
        light = np.array(self.light)
        layers = []
        for step, gain in enumerate(_SHADES):
            inner = radius_px * (1 - 0.19 * step)
            moved = centres + light * (radius_px * 0.15 * step)[:, None]
            outline = (moved[:, None] + _CIRCLE[None] * inner[:, None, None]).reshape(-1, 2)
            layers.append((_fixed(_hull(outline)), shaded(colour, gain)))
        order = depth if at is None else self.camera.project(at)[1]
        self.shapes.append(Shape(float(order.mean()) - nearer_m, tag, tuple(layers)))

    def ellipsoid(self, centre: Floats, axes: Floats, colour: Colour, tag: int, *, nearer_m: float = 0.0) -> None:
        """Draw an ellipsoid from its three half axes, the rows of `axes` (3, 3), in metres."""
        (middle,), (depth,) = self.camera.project(centre[None])
        if depth <= NEAR_M:
            return
        flat = (axes @ self.camera.axes()[:2].T) * (self.camera.focal_px / depth)
        turn, size, _ = np.linalg.svd(flat.T)
        light = np.array(self.light)
        layers = []
        for step, gain in enumerate(_SHADES):
            outline = (_RING * size * (1 - 0.17 * step)) @ turn.T
            layers.append((_fixed(middle + outline + light * size.min() * 0.15 * step), shaded(colour, gain)))
        self.shapes.append(Shape(float(depth) - nearer_m, tag, tuple(layers)))

    def cylinder(self, ends: Floats, radius: float, colour: Colour, tag: int, *, nearer_m: float = 0.0) -> None:
        """Draw a flat-ended cylinder such as a weight plate; `ends` (2, 3) are the centres of its faces."""
        one, two = _across(ends[1] - ends[0])
        rim = radius * (_RING[:, :1] * one + _RING[:, 1:] * two)
        rims, depths = self.camera.project(np.concatenate([ends[0] + rim, ends[1] + rim]))
        if float(depths.min()) <= NEAR_M:
            return
        _, (first, second) = self.camera.project(ends)
        near = rims[: len(rim)] if first < second else rims[len(rim) :]
        middle = near.mean(axis=0)
        layers = [(_fixed(_hull(rims)), shaded(colour, 0.65))]
        for scale, gain in ((0.97, 0.95), (0.72, 0.82), (0.62, 1.0), (0.2, 0.6)):
            layers.append((_fixed(middle + (near - middle) * scale), shaded(colour, gain)))
        self.shapes.append(Shape(float(min(first, second)) - nearer_m, tag, tuple(layers)))

    def flat(self, corners: Floats, colour: Colour, tag: int, *, nearer_m: float = 0.0) -> None:
        """Draw a flat convex polygon with corners (n, 3) in metres."""
        outline, depth = self.camera.project(corners)
        if float(depth.min()) > NEAR_M:
            self.shapes.append(Shape(float(depth.mean()) - nearer_m, tag, ((_fixed(_hull(outline)), colour),)))

    def paint(self, image: Image) -> Tags:
        """Paint all shapes into `image` (h, w, 3), far ones first, and return the owner's tag of every pixel (h, w)."""
        tags = np.zeros(image.shape[:2], dtype=np.uint16)
        for shape in sorted(self.shapes, key=lambda s: -s.depth):
            cv2.fillConvexPoly(tags, shape.layers[0][0], shape.tag, cv2.LINE_8, _SHIFT)
            for polygon, colour in shape.layers:
                cv2.fillConvexPoly(image, polygon, colour, cv2.LINE_AA, _SHIFT)
        return tags

    def silhouette_area(self, owner: int) -> int:
        """Return how many pixels of the picture `owner` would cover if nothing stood before it."""
        width, height = self.camera.size
        alone = np.zeros((height, width), dtype=np.uint8)
        for shape in self.shapes:
            if shape.tag // PARTS_PER_OWNER == owner:
                cv2.fillConvexPoly(alone, shape.layers[0][0], 1, cv2.LINE_8, _SHIFT)
        return int(cv2.countNonZero(alone))
