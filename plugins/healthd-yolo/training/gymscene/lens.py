"""What a cheap camera does to a picture: light, blur, noise and compression."""

from dataclasses import dataclass

import cv2
import numpy as np

from gymscene.brush import Image


@dataclass(frozen=True, slots=True)
class Flaws:
    """How bad the picture is; the defaults are a clean one."""

    gain: float = 1.0
    gamma: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    vignette: float = 0.0
    blur_px: float = 0.0
    noise: float = 0.0
    jpeg_quality: int | None = None


def random_flaws(rng: np.random.Generator) -> Flaws:
    """Return the flaws of some camera in some light; half of them are mild."""
    rough = float(rng.uniform(0, 1)) ** 1.5
    warm = float(rng.normal(0, 0.06))
    return Flaws(
        gain=float(np.exp(rng.normal(0, 0.22))),
        gamma=float(np.exp(rng.normal(0, 0.18))),
        tint=(1 - warm, 1.0, 1 + warm),
        vignette=float(rng.uniform(0, 0.5)) * rough,
        blur_px=float(rng.uniform(0, 1.1)) * rough,
        noise=float(rng.uniform(0, 11)) * rough,
        jpeg_quality=int(rng.integers(45, 96)) if rng.random() < 0.5 else None,
    )


def spoil(image: Image, flaws: Flaws, rng: np.random.Generator) -> Image:
    """Return the picture (h, w, 3) as a camera with these flaws delivers it."""
    height, width = image.shape[:2]
    levels = (np.arange(256) / 255.0) ** flaws.gamma * flaws.gain
    table = np.clip(np.multiply.outer(levels, np.array(flaws.tint)) * 255, 0, 255).astype(np.uint8)
    picture = np.asarray(cv2.LUT(image, table[:, None, :]), dtype=np.float32)
    if flaws.blur_px > 0.2:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), flaws.blur_px))
    if flaws.vignette:
        x = (np.arange(width, dtype=np.float32) - width / 2) / width
        y = (np.arange(height, dtype=np.float32) - height / 2) / height
        picture *= (1 - flaws.vignette * (x[None] ** 2 + y[:, None] ** 2) * 2)[..., None]
    if flaws.noise:
        picture += rng.standard_normal(picture.shape, dtype=np.float32) * flaws.noise
    spoilt: Image = np.clip(picture, 0, 255).astype(np.uint8)
    if flaws.jpeg_quality is not None:
        _, data = cv2.imencode(".jpg", spoilt, [cv2.IMWRITE_JPEG_QUALITY, flaws.jpeg_quality])
        spoilt = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return spoilt
