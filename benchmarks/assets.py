"""The real weights and clips, and what is made of them once: an export, a film as a camera sends it.

They are found by `HEALTHD_TEST_ASSETS`, else beside the checkout. What is made of them is kept in `healthd-benchmarks`
in the user's cache, by the checksum of what it was made of; it may be deleted at any time.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import NotMeasuredError

ASSETS = Path(os.environ.get("HEALTHD_TEST_ASSETS", Path(__file__).parent.parent.parent / "shared" / "assets"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "healthd-benchmarks"
POSE = "yolo11n-pose"
STREET = "people_walking_720p.mp4"
STREET_1080P = "people_street_1080p.mp4"
MOST_REFERENCES = 4
"""So many pictures of 1080p may be referred to at level 4.0 (ITU-T H.264, table A-1: 32,768 macroblocks of 8,160)."""
QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
"""Environment in which ultralytics asks nobody for anything."""
_EXPORT = "import sys; from ultralytics import YOLO; YOLO(sys.argv[1]).export(format='onnx', dynamic=True)"
_CAMERA = (
    *("-an", "-vf", "scale=1280:720,fps=15", "-c:v", "libx264", "-preset", "veryfast", "-profile:v", "baseline"),
    *("-g", "30", "-bf", "0", "-b:v", "2M", "-maxrate", "2M", "-bufsize", "1M", "-pix_fmt", "yuv420p"),
    *("-x264-params", "repeat-headers=1:aud=1"),
)


def need(*modules: str) -> None:
    """Refuse to go on without these packages."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise NotMeasuredError(f"without {', '.join(missing)}")


def asset(folder: str, name: str) -> Path:
    """Return a file of the assets."""
    path = ASSETS / folder / name
    if not path.is_file():
        raise NotMeasuredError(f"no {name}: set HEALTHD_TEST_ASSETS")
    return path


def checkpoint(name: str = POSE) -> Path:
    """Return the `.pt` that the peers run."""
    need("ultralytics")
    return asset("weights", f"{name}.pt")


def exported(name: str = POSE) -> Path:
    """Return the same network as ONNX for pictures of any shape: exported from that very file, once."""
    source = checkpoint(name)
    need("onnx")

    def export(folder: Path) -> None:
        copy = Path(shutil.copy(source, folder))
        command = [sys.executable, "-c", _EXPORT, str(copy)]
        env = {**os.environ, **QUIET, "YOLO_CONFIG_DIR": str(folder)}
        subprocess.run(command, env=env, check=True, capture_output=True)

    return _kept(source, f"{name}.onnx", export)


def pose_network() -> Path:
    """Return the export, or the demo's small network where there are no assets."""
    try:
        return exported()
    except NotMeasuredError:
        return demo("gym-pose.onnx")


def street(ending: str = "mp4") -> Path:
    """Return a street as a camera of 720p sends it, 15 fps and 2 Mbit/s; `h264`: bare, as the RTSP server takes it.

    Without assets it is the demo's film.
    """
    return _filmed(f"street.{ending}", STREET, ())


def street_1080p(references: int) -> Path:
    """Return a street as a camera of 1080p sends it, bare; each picture refers to so many others before it."""
    if not 1 <= references <= MOST_REFERENCES:
        raise ValueError(f"1 to {MOST_REFERENCES} pictures at 1080p, by level 4 of H.264: {references}")
    profile = ("-profile:v", "high", "-refs", str(references))
    size = ("-vf", "scale=1920:1080,fps=15", "-b:v", "4M", "-maxrate", "4M", "-bufsize", "2M")
    return _filmed(f"street-1080p-{references}.h264", STREET_1080P, (*profile, *size))


def _filmed(name: str, clip: str, more: tuple[str, ...]) -> Path:
    """Return a clip as a camera sends it, encoded once; `more`: what FFmpeg is told besides, by which it is named."""
    if shutil.which("ffmpeg") is None:
        raise NotMeasuredError("without ffmpeg")
    path = ASSETS / "clips" / clip
    source = path if path.is_file() else demo("gym.mp4")

    def film(folder: Path) -> None:
        command = ["ffmpeg", "-loglevel", "error", "-y", "-i", str(source), *_CAMERA, *more, str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)

    return _kept(source, name, film)


def demo(name: str) -> Path:
    """Return a file of the demo that healthd-yolo brings along."""
    need("healthd_yolo")
    import healthd_yolo  # noqa: PLC0415  benchmarks of the house alone need no plugin

    return Path(healthd_yolo.__file__).parent / "demo" / name


def _kept(source: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return what was made of `source` before, else make it in a folder of its own."""
    recipe = _EXPORT + " ".join(_CAMERA)
    place = CACHE / hashlib.sha256(source.read_bytes() + recipe.encode()).hexdigest()[:16]
    if not (place / name).is_file():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            make(Path(folder))
            Path(folder, name).replace(place / name)
    return place / name
