"""The model of a camera source, tried on an image of its camera."""

import asyncio
import contextlib
from pathlib import Path

from healthd.cameras.source import CameraSource
from healthd.daemon import load_installed_plugins
from healthd.errors import HealthdError, InUseError, ModelError
from healthd.frames import Image
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams
from healthd.testing.envelope import check_prediction
from healthd.testing.lane import Lane
from healthd.testing.rules import Broken, NotTried

_LOAD_SECONDS = 120.0
_PREDICT_SECONDS = 30.0


def predicts(source: CameraSource, image: Image, *, models_directory: Path) -> None:
    """Load the model of a source, predict on the image, give the model back.

    Raises:
        Broken, NotTried: it does not what it should; it has no model.
        HealthdError: as the source said it.
    """
    plugins = asyncio.run(load_installed_plugins())
    families = {plugin.name: plugins.made[plugin.target] for plugin in plugins.families if plugin.target is not None}
    models = ModelManager(families, directory=models_directory)
    lane = Lane("model")
    try:
        manager = source.model(models)
        if manager is None:
            raise NotTried("nobody watches this camera: it has no model")
        try:
            predict = lane.call(manager.__enter__, seconds=_LOAD_SECONDS, what="loading the model")
        except (HealthdError, Broken):
            raise
        except Exception as exc:
            raise Broken(
                f"model() raised {type(exc).__name__}: {exc}",
                "make it from name, url and options alone: camera() may be entered on another object, elsewhere",
            ) from exc
        try:
            said = lane.call(lambda: predict(image), seconds=_PREDICT_SECONDS, what="predict()")
        except (ModelError, Broken):
            raise
        except Exception as exc:
            raise Broken(
                f"predict() raised {type(exc).__name__}: {exc}", "raise ModelError for what may pass, with the reason"
            ) from exc
        finally:
            lane.call(lambda: manager.__exit__(None, None, None), seconds=10, what="leaving the model")
        check_prediction(said, image, source.params or InferenceParams(confidence=0, max_det=1000), {})
        used = [loaded.model_id for loaded in models.loaded() if loaded.users]
        if used:
            raise Broken(f"it did not give back {', '.join(used)}", "use `with models.use(...)` in model()")
    finally:
        lane.close()
        for loaded in models.loaded():
            with contextlib.suppress(InUseError):
                models.unload(loaded.family, loaded.model_id)
