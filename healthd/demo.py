"""The demo: cameras and models that an installed plugin brings along, so that no camera and no network is needed."""

import os
from importlib.metadata import EntryPoint
from pathlib import Path

import structlog

from healthd.errors import SettingsError
from healthd.plugins import DEMOS, installed
from healthd.redact import SCRUBBER
from healthd.settings import CameraSettings, Settings, load_settings, with_command

log = structlog.get_logger(__name__)


def demo_settings(*, port: int | None = None) -> Settings:
    """Return the settings of the demo: the environment's, with the cameras of the first plugin that has a demo.

    Raises:
        SettingsError: no installed plugin brings a demo that works, or a `HEALTHD_` variable is wrong.
    """
    cameras = _first_demo(sorted(installed(DEMOS), key=lambda point: point.name))
    settings = load_settings(None)
    said: dict[tuple[str | int, ...], str] = {("cameras",): "demo"}
    update: dict[str, object] = {"cameras": cameras}
    if port is not None:
        update["server"] = settings.server.model_copy(update={"port": port})
        said["server", "port"] = "--port"
    if "directory" not in settings.jobs.model_fields_set:  # nothing shall appear where somebody tries the demo
        update["jobs"] = settings.jobs.model_copy(update={"directory": _state_folder() / "healthd" / "demo-jobs"})
        said["jobs", "directory"] = "demo"
    return with_command(settings, update, said)


def _state_folder() -> Path:
    """Return where programs of this user keep what they have to remember (XDG Base Directory Specification)."""
    named = os.environ.get("XDG_STATE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".local" / "state"


def _first_demo(points: list[EntryPoint]) -> dict[str, CameraSettings]:
    """Return the cameras of the first demo that can be made; one that cannot is named in the log."""
    reasons = []
    for point in points:
        try:
            cameras = point.load()()["cameras"]
            return {name: CameraSettings.model_validate(camera) for name, camera in cameras.items()}
        except Exception as exc:  # noqa: BLE001  a plugin's bug, whatever it is, must not hide the next one's demo
            reasons.append(SCRUBBER.scrub(f"{point.name}: {exc!r}"))
            log.warning("demo_broken", demo=point.name, error=repr(exc))
    why = "; ".join(reasons) or "none is installed"
    raise SettingsError(f"no plugin brings a demo that works ({why}): pip install healthd-yolo")
