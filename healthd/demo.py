"""The demo: cameras and models that an installed plugin brings along, so that no camera and no network is needed."""

from healthd.errors import SettingsError
from healthd.plugins import DEMOS, installed
from healthd.settings import CameraSettings, Settings, load_settings


def demo_settings(*, port: int | None = None) -> Settings:
    """Return the settings of the demo: the environment's, with the cameras of the first plugin that has a demo.

    Raises:
        SettingsError: no installed plugin brings a demo, or a `HEALTHD_` variable is wrong.
    """
    points = sorted(installed(DEMOS), key=lambda point: point.name)
    if not points:
        raise SettingsError("no installed plugin brings a demo: pip install healthd-yolo")
    cameras = {name: CameraSettings.model_validate(camera) for name, camera in points[0].load()()["cameras"].items()}
    settings = load_settings(None)
    server = settings.server if port is None else settings.server.model_copy(update={"port": port})
    return settings.model_copy(update={"cameras": cameras, "server": server})
