"""Two cameras that need no camera: made-up scenes and the small networks that were trained on them.

They exist so that `healthd demo` shows the whole house on a machine without cameras, weights or network.
"""

from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def config() -> dict[str, Any]:
    """Return the settings of a daemon that shows both scenes."""
    return {
        "cameras": {
            "gym": _camera("yolo-pose", clip="gym.mp4", model="gym-pose.onnx"),
            "rack": _camera("yolo-detect", clip="rack.mp4", model="rack-detect.onnx", imgsz=640),  # small things
        }
    }


def _camera(plugin: str, *, clip: str, model: str, imgsz: int | None = None) -> dict[str, Any]:
    return {
        "plugin": plugin,
        "url": str(_HERE / clip),
        "predict_fps": 10,
        "options": {"model": str(_HERE / model), "imgsz": imgsz, "realtime": True, "loop": True},
    }
