"""The second plugin contract: a family of models, one loaded model, and the envelope of what it says.

A plugin names a `ModelFamily` class under the entry-point group `healthd.model_families`. The smallest useful family
is two classes: one that loads, one that predicts. The words are those of the field: `box_xyxy` in pixels of the image
given, `confidence` from 0 to 1, `class_id` and `class_name` as the model itself names them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from healthd.errors import SettingsError
from healthd.frames import Image
from healthd.models.prepare import PreparedModel, PrepareProgress, PrepareRequest

Query: TypeAlias = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"[^\s\x85]")
]
"""Some words; blanks alone are none, which the pattern tells those who read the OpenAPI document."""
CONTRACT = 1
"""Version of both plugin contracts; raised when a plugin written for the old one would break."""


class InferenceParams(BaseModel):
    """What a caller asks of one prediction. One validated, frozen object goes unchanged from the edge to the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(0.25, ge=0, le=1, description="Detections below this confidence are left out.")
    iou: float = Field(0.45, ge=0, le=1, description="Overlap above which non-maximum suppression drops a detection.")
    max_det: int = Field(300, ge=1, le=1000, description="At most so many detections, the most confident first.")
    classes: tuple[str, ...] | None = Field(None, description="Names of the classes to keep; all when absent.")
    imgsz: int | None = Field(
        None, ge=32, le=4096, description="Side of the network's input in pixels; the model's own when absent."
    )
    half: bool | None = Field(None, description="Compute in half precision; the model's own choice when absent.")
    device: str | None = Field(
        None,
        max_length=40,
        pattern=r"^[A-Za-z][A-Za-z0-9_.:-]*$",
        description="Where to compute, as the family names it, e.g. `CPU`, `cuda:0`; its own choice when absent.",
    )
    text_queries: tuple[Query, ...] | None = Field(
        None, max_length=100, description="What to look for, in words, for families that take it."
    )
    question: str | None = Field(
        None, max_length=2000, description="What to answer about the picture, for families that take it."
    )


class ModelOptions(BaseModel):
    """What decides how a model is loaded. Two users of one model with equal options share it in memory.

    A family subclasses this with fields of its own; all of them must be hashable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Keypoint:
    """One point of one body, in pixels of the image given, with the confidence that it is seen (0 to 1)."""

    x: float
    y: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in one image."""

    box_xyxy: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the image given."""
    confidence: float
    class_id: int
    class_name: str
    keypoints: tuple[Keypoint, ...] | None = None
    """Points in the order of the model's own definition (COCO: 17); None where the model has none."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said of one image: the envelope, the same for every family."""

    model_id: str
    inference_time_ms: float
    """Wall time of pre-processing, network and decoding, in milliseconds; of the whole batch where it was in one."""
    results: tuple[Detection, ...]
    """Most confident first."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON-serialisable; at least `task` (e.g. `pose`), `width` and `height` of the image given.

    `batch`: how many images were predicted at once, where it was more than one.
    """


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model to load, and how."""

    model_id: str
    """As the configuration or the request names it, e.g. `yolo11n-pose.onnx`."""
    path: Path | None
    """The file or folder found for it; None when nothing is there (a family may know where to get it)."""
    directory: Path
    """`models.directory`: where a family may put what it downloads."""
    options: ModelOptions
    threads: int | None = None
    """`performance.threads`: how many threads the model may use; None: as many as the machine allows."""
    cache_directory: Path | None = None
    """`models.cache_directory`: where a family may keep what it compiles, in a folder of its own; None: nowhere."""
    cache_max_bytes: int = 0
    """`models.cache_max_bytes`: how much it may keep there."""
    allow_pickle: bool = True
    """`models.allow_pickle`; False: a family refuses files that may run code when they are read (SettingsError)."""


class Model(ABC):
    """One loaded model. Lives from `ModelFamily.load` to `close`; called by `concurrency` threads at a time."""

    task: str
    """What it does, e.g. `detect`, `pose`."""
    labels: Mapping[int, str]
    """Names of the classes by class id; empty for a model that knows none."""
    concurrency: int = 1
    """How many threads may call it at a time; `models.concurrency` may allow fewer."""
    batch_size: int = 1
    """How many images `predict_batch` should be given at most; 1: it gains nothing from more."""

    @abstractmethod
    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say what is in the image. The image is read-only.

        Raises:
            ModelError: this image or this moment; the model stays usable.
        """

    def predict_batch(
        self, images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Sequence[Prediction | Exception]:
        """Say what is in each of several images, of any sizes; called with 2 to `batch_size` of them.

        Answers in their order, with an exception for an image that it cannot do. What it raises fails the whole batch:
        then each image is predicted by itself. healthd sets `inference_time_ms` and `batch` of what it answers.
        Default: one image after the other.
        """
        return [self._predict_or_error(image, asked) for image, asked in zip(images, params, strict=True)]

    def _predict_or_error(self, image: Image, params: InferenceParams) -> Prediction | Exception:
        try:
            return self.predict(image, params)
        except Exception as exc:  # noqa: BLE001  it is raised to whoever sent this image
            return exc

    @property
    def memory_bytes(self) -> int | None:
        """About how much memory it holds; None when unknown."""
        return None

    def warm_up(self) -> None:  # noqa: B027  a hook that most models need not fill
        """Make the first prediction as fast as the later ones (default: nothing to do)."""

    def close(self) -> None:  # noqa: B027  the same
        """Give everything back. Called once, when nobody uses it any more (default: nothing to do)."""


class ModelFamily(ABC):
    """One family of models, e.g. `yolo`. Made once per process, without arguments; does nothing in its constructor."""

    contract: ClassVar[int]
    """The version of this contract that the plugin was written for, in so many words: `contract = 1`."""
    options_model: ClassVar[type[ModelOptions]] = ModelOptions

    @abstractmethod
    def serves(self, model_id: str) -> bool:
        """Whether this family is meant for a model of that name. Looks at the name only."""

    def options_for(self, params: InferenceParams) -> ModelOptions:  # noqa: ARG002  most families have no options
        """Return how to load a model for a request that asks for `params` (default: as the family does by itself)."""
        return self.options_model()

    def estimate_bytes(self, spec: ModelSpec) -> int | None:
        """Say about how much memory the model will hold, before it is loaded; None when unknown.

        Default: twice the size of its file.
        """
        return 2 * spec.path.stat().st_size if spec.path is not None and spec.path.is_file() else None

    @abstractmethod
    def load(self, spec: ModelSpec) -> Model:
        """Load a model; blocking.

        Raises:
            ParameterError: not with these options, e.g. an input size that it was not made for.
            SettingsError: it can never be loaded (missing file, missing extra, not a model), with what to do.
            ModelError: it cannot be loaded now.
        """

    def prepare(self, spec: ModelSpec, request: PrepareRequest, progress: PrepareProgress) -> PreparedModel:  # noqa: ARG002
        """Make of a model the form that runs best on this machine, into `spec.directory`; blocking, minutes.

        It may be ended at any moment, by an exception or by `kill -9`, and then called again (default: it cannot).

        Raises:
            SettingsError: not with this file, these options or what is installed; with what to do.
            ModelError: not now.
            OSError: the models directory cannot be written, or the disk is full.
        """
        raise SettingsError(f"{spec.model_id}: {type(self).__name__} cannot prepare models; use it as it is")
