"""A family of models that predict nothing much, and that are told by their name what to do wrong."""

import os
import time
from collections.abc import Mapping

from healthd.errors import ModelError, SettingsError
from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd_faulty.misdeeds import hang, note
from healthd_faulty.stamps import stamp_of

NOTING_SECONDS = 0.03


class FaultyModelOptions(ModelOptions):
    """Where to note what is done."""

    journal: str | None = None


class FaultyModel(Model):
    """Says of each picture the number that it carries."""

    task = "count"
    labels: Mapping[int, str] = {0: "picture"}

    def __init__(self, journal: str | None, model_id: str) -> None:
        self._journal = journal
        self._model_id = model_id

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        if self._model_id == "slow":
            time.sleep(0.05)
        elif self._model_id == "stuck":
            hang("lock")
        return counted(image)

    def close(self) -> None:
        note(self._journal, "model-closed")


class NotingModel(FaultyModel):
    """Takes its time, and notes every picture that it has seen; `noting-stuck` never comes back from the fifth."""

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        self._seen = getattr(self, "_seen", 0) + 1
        if self._model_id == "noting-stuck" and self._seen == 5:
            note(self._journal, "stuck")
            hang("lock")
        time.sleep(NOTING_SECONDS)
        said = counted(image)
        note(self._journal, f"predicted {said.metadata['number']}")
        return said


class FaultyFamily(ModelFamily):
    """Serves `counter`, `slow`, `stuck` (in a prediction), `hang` (while it is loaded), `error`, `wrong` and `bug`.

    And `noting` and `noting-stuck`, whose journal is the one that the variable `FAULTY_JOURNAL` names.
    """

    contract = 1

    options_model = FaultyModelOptions

    def serves(self, model_id: str) -> bool:
        return model_id in {"counter", "slow", "stuck", "hang", "error", "wrong", "bug", "noting", "noting-stuck"}

    def load(self, spec: ModelSpec) -> Model:
        journal = getattr(spec.options, "journal", None) or os.environ.get("FAULTY_JOURNAL")
        note(journal, "model-loaded")
        match spec.model_id:
            case "noting" | "noting-stuck":
                return NotingModel(journal, spec.model_id)
            case "hang":
                hang("read")
            case "error":
                raise ModelError("the accelerator is busy")
            case "wrong":
                raise SettingsError("there is no such model")
            case "bug":
                raise ZeroDivisionError("in the loader")
        return FaultyModel(journal, spec.model_id)


def counted(image: Image) -> Prediction:
    """Return a prediction that tells the number of the picture."""
    height, width = image.shape[:2]
    stamp = stamp_of(image)
    detection = Detection((20.0, 120.0, 140.0, 180.0), 1.0, 0, "picture")  # below the stamp
    metadata = {"task": "count", "width": width, "height": height, "number": stamp.number if stamp else None}
    return Prediction("counter", 0.1, (detection,), metadata)
