"""The model family `yolo`: which engine loads which file."""

from typing import ClassVar

from healthd.errors import SettingsError
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec
from healthd.models.prepare import PreparedModel, PrepareProgress, PrepareRequest
from healthd_yolo.compiled_cache import CompiledCache
from healthd_yolo.engines import automatic_engine, is_model_name
from healthd_yolo.model_options import ACTIVATIONS_PER_INPUT, YoloModelOptions, precision_of

_USUAL_SIDE = 640


class YoloFamily(ModelFamily):
    """YOLOv8, YOLO11 and YOLO26, detect and pose."""

    contract = 1
    options_model: ClassVar[type[ModelOptions]] = YoloModelOptions

    def serves(self, model_id: str) -> bool:
        """Whether the name is that of a file or folder which one of the engines loads."""
        return is_model_name(model_id)

    def options_for(self, params: InferenceParams) -> ModelOptions:
        """Return how to load a model for a request that asks for `params`."""
        return YoloModelOptions(
            imgsz=params.imgsz, precision=precision_of("auto", half=params.half), device=params.device
        )

    def estimate_bytes(self, spec: ModelSpec) -> int | None:
        """Say about how much memory a network will take: weights as read and as repacked, and one inference."""
        if spec.path is None:
            return None
        files = [spec.path] if spec.path.is_file() else list(spec.path.iterdir())
        side = spec.options.imgsz if isinstance(spec.options, YoloModelOptions) else None
        weights = sum(file.stat().st_size for file in files if file.is_file())
        return 2 * weights + ACTIVATIONS_PER_INPUT * (side or _USUAL_SIDE) ** 2 * 3 * 4

    def load(self, spec: ModelSpec) -> Model:
        """Load a model with the engine that its options or its name ask for.

        Raises:
            SettingsError: it can never be loaded (missing file, missing extra, not a model), with what to do.
            ModelError: it cannot be loaded now.
        """
        options = spec.options if isinstance(spec.options, YoloModelOptions) else YoloModelOptions()
        engine = automatic_engine(spec.model_id, spec.path) if options.engine == "auto" else options.engine
        if options.threads is None:
            options = options.model_copy(update={"threads": spec.threads})
        if engine == "openvino":
            return _load_openvino(spec, options)
        from healthd_yolo.ultralytics_model import load_ultralytics  # noqa: PLC0415  engines are imported on need

        return load_ultralytics(spec, options)

    def prepare(self, spec: ModelSpec, request: PrepareRequest, progress: PrepareProgress) -> PreparedModel:
        """Make of a `.pt` file what runs best in the engine `openvino`."""
        from healthd_yolo.prepare import Preparation  # noqa: PLC0415  a command needs it, no daemon does

        return Preparation(spec, request, progress).run()


def _load_openvino(spec: ModelSpec, options: YoloModelOptions) -> Model:
    from healthd_yolo.openvino_model import load_openvino  # noqa: PLC0415  engines are imported on need

    is_folder = spec.path is not None and spec.path.is_dir()
    if automatic_engine(spec.model_id, spec.path) != "openvino" and not is_folder:
        raise SettingsError(
            f"{spec.model_id} is not for engine `openvino`, which reads .onnx and OpenVINO directories; set"
            f" engine = `ultralytics`, or export it: `yolo export model={spec.model_id} format=onnx`"
        )
    if spec.path is None:
        raise SettingsError(
            f"model: there is no `{spec.model_id}`, neither as a path nor in models.directory ({spec.directory})"
        )
    cache = CompiledCache(spec.cache_directory, max_bytes=spec.cache_max_bytes)
    return load_openvino(spec.model_id, spec.path, options, cache)
