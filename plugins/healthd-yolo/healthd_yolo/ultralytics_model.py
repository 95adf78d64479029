"""The engine `ultralytics`: any format it loads, on torch. Beside `ultralytics_predictor` no module sees their types.

ultralytics is imported with the first model that needs it, into a setting of its own: usage statistics, settings sync
and automatic installs off, its configuration in a private folder that goes with the import instead of the home
directory, and checkpoints read with the classes that ultralytics knows and no others (a `.pt` file is a program
otherwise).
"""

import errno
import importlib
import importlib.util
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from healthd.cpus import usable_cpus
from healthd.errors import ModelError, ParameterError, SettingsError
from healthd.frames import Image
from healthd.models.model import Detection, InferenceParams, Model, ModelSpec, Prediction
from healthd_yolo.downloads import Downloads
from healthd_yolo.engines import check_program
from healthd_yolo.envelope import check_image, records
from healthd_yolo.labels import class_ids
from healthd_yolo.letterbox import Size
from healthd_yolo.metadata import TASKS
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.ultralytics_device import batch_size, current, require_cuda, set_threads

INSTALL = 'pip install "healthd-yolo[ultralytics]"'

_OUTSIDE = ("escapes model directory", "outside model directory", "Absolute path not allowed")
"""What onnxruntime says of weights that an `.onnx` wants from outside its folder."""
_WARM_UP_SIZE = (720, 1280)
_importing = threading.Lock()
_downloads = Downloads()


class UltralyticsYolo(Model):
    """One model of ultralytics. Lives from load to `close`; called by one thread at a time, not always the same."""

    def __init__(self, model_id: str, path: Path, options: YoloModelOptions) -> None:
        """Load and set up; blocking, some seconds.

        Raises:
            ParameterError: the device is not there, or cannot do what is asked.
            SettingsError: the file is no model, or its task is not one of ours.
            ModelError: it cannot be loaded now.
        """
        self.model_id = model_id
        self._arguments = _arguments(options)
        vendor = _ultralytics()
        require_cuda(options.device, path)
        from healthd_yolo.ultralytics_predictor import Feed, letterbox_of, predictor_class  # noqa: PLC0415  torch

        with _as_load_error(path.name):
            self._yolo = vendor.YOLO(str(path))
        self.task = str(self._yolo.task)
        if self.task not in TASKS:
            raise SettingsError(f"{model_id} is a `{self.task}` model; healthd-yolo knows {' and '.join(TASKS)}")
        self._feed = Feed()
        self._predictor_class = predictor_class(self.task, self._feed)
        self._current: Callable[[], AbstractContextManager[Any]] = nullcontext
        with _as_load_error(path.name):
            self._run([_black()], [_wish(InferenceParams(), None)])
            self.labels: Mapping[int, str] = {int(key): str(name) for key, name in self._yolo.names.items()}
        predictor = self._yolo.predictor
        self._letterbox = partial(letterbox_of, predictor)
        self._device = str(predictor.device)
        self._current = partial(current, predictor.device)
        self._precision = "f16" if predictor.model.fp16 else "f32"
        if options.precision == "f16" and self._precision != "f16":
            raise ParameterError(f"precision: torch has no f16 on {self._device}; take `f32`, or a GPU")
        self.batch_size = batch_size(options.batch, predictor.model)
        set_threads(options.threads, self._device)
        self._memory_bytes = _memory_bytes(self._yolo, path)

    @property
    def memory_bytes(self) -> int:
        """About what it holds: the size of its parameters, or of its file where they are not torch's."""
        return self._memory_bytes

    def warm_up(self) -> None:
        """Predict once on black: the load did so on the loading thread, torch warms up per thread."""
        self.predict(_black(), InferenceParams())
        if self.batch_size > 1:
            self.predict_batch([_black()] * self.batch_size, [InferenceParams()] * self.batch_size)

    def predict(self, image: Image, params: InferenceParams) -> Prediction:
        """Say what is in the image, (height, width, 3) uint8 BGR of any size.

        Raises:
            ModelError: it is no such image, or ultralytics failed on it.
            SettingsError: `params` names a class that the model does not have.
        """
        answer = self.predict_batch([image], [params])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def predict_batch(
        self, images: Sequence[Image], params: Sequence[InferenceParams]
    ) -> Sequence[Prediction | Exception]:
        """Say what is in each image; those that come to inputs of one size are computed together.

        Raises:
            ModelError: ultralytics failed.
        """
        begun = perf_counter()
        answers: dict[int, Prediction | Exception] = {}
        groups: dict[Size, list[tuple[int, dict[str, Any]]]] = {}
        for place, (image, asked) in enumerate(zip(images, params, strict=True)):
            try:
                wish = _wish(asked, class_ids(self.labels, asked.classes))
                groups.setdefault(self._letterbox(check_image(image)).input, []).append((place, wish))
            except (ModelError, SettingsError) as exc:
                answers[place] = exc
        for group in groups.values():
            try:
                results = self._run([images[place] for place, _ in group], [wish for _, wish in group])
                found = [_detections(result, self.labels) for result in results]
            except Exception as exc:
                raise ModelError(f"ultralytics failed on this image: {_first_line(exc)}") from exc
            milliseconds = (perf_counter() - begun) * 1e3
            for (place, _), detections in zip(group, found, strict=True):
                answers[place] = self._prediction(images[place], detections, milliseconds)
        return [answers[place] for place in range(len(images))]

    def close(self) -> None:
        """Let go of the network."""
        self._yolo = None

    def _prediction(self, image: Image, found: tuple[Detection, ...], milliseconds: float) -> Prediction:
        facts = {
            "task": self.task,
            "width": image.shape[1],
            "height": image.shape[0],
            "engine": "ultralytics",
            "device": self._device,
            "precision": self._precision,
        }
        return Prediction(model_id=self.model_id, inference_time_ms=milliseconds, results=found, metadata=facts)

    def _run(self, images: list[Image], wishes: list[dict[str, Any]]) -> Any:
        """Return a result of theirs for each image; all of them come to inputs of one size."""
        self._feed.wishes = wishes
        most = max(wish["max_det"] for wish in wishes)  # end-to-end heads are told once for all
        with self._current():
            return self._yolo.predict(
                images,
                predictor=self._predictor_class,
                verbose=False,
                save=False,
                **{**wishes[0], "max_det": most},
                **self._arguments,
            )


def load_ultralytics(spec: ModelSpec, options: YoloModelOptions) -> UltralyticsYolo:
    """Load a model; a known weight name that is nowhere on this machine is downloaded into `models.directory`.

    Raises:
        SettingsError: the extra is not installed, there is no such model, or the file is none.
        ModelError: it cannot be downloaded or loaded now.
    """
    _require_extra(spec.model_id)
    if spec.model_id.lower().endswith((".yaml", ".yml")):
        raise SettingsError(f"{spec.model_id} describes a network and holds no weights; name a model file")
    check_program(spec)
    return UltralyticsYolo(spec.model_id, spec.path or download_weights(spec), options)


def _require_extra(model_id: str) -> None:
    missing = [name for name in ("ultralytics", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{model_id} needs the engine `ultralytics`, and {' and '.join(missing)} is not installed: {INSTALL}"
        )


def download_weights(spec: ModelSpec) -> Path:
    """Download a known weight name into `models.directory`.

    Raises:
        SettingsError: ultralytics knows no such name, or it is forbidden.
        ModelError: not now.
    """
    vendor = _ultralytics()
    name = spec.model_id
    if name not in vendor.utils.downloads.GITHUB_ASSETS_NAMES:
        raise SettingsError(
            f"model: there is no `{name}`, neither as a path nor in models.directory ({spec.directory}),"
            " and it is no weight name that ultralytics knows"
        )
    if vendor.utils.env_bool("YOLO_OFFLINE"):
        raise SettingsError(f"model: `{name}` is not in models.directory, and YOLO_OFFLINE forbids to download it")
    spec.directory.mkdir(parents=True, exist_ok=True)
    fetch = partial(vendor.utils.downloads.attempt_download_asset, progress=False)
    return _downloads.get(spec.directory / name, fetch)


def exported(path: Path, tasks: Sequence[str], *, form: str, imgsz: int | None, name: str) -> Path:
    """Export a checkpoint with dynamic shapes, beside it; blocking, some seconds. `name`: how it is called in errors.

    Raises:
        SettingsError: it is no checkpoint, its task is not one of these, or it cannot be exported.
        ModelError: not now.
    """
    vendor = _ultralytics()
    with _as_load_error(name):
        yolo = vendor.YOLO(str(path))
    if str(yolo.task) not in tasks:
        raise SettingsError(f"{name} is a `{yolo.task}` model; healthd-yolo knows {' and '.join(tasks)}")
    wishes = {"imgsz": imgsz, "simplify": False if form == "onnx" else None}
    with _as_load_error(name, "exported"):
        said = yolo.export(
            format=form,
            dynamic=True,
            device="cpu",
            verbose=False,
            **{key: value for key, value in wishes.items() if value is not None},
        )
    return Path(str(said))


def _ultralytics() -> Any:
    """Return ultralytics, imported by whoever comes first while the others wait."""
    with _importing:
        return _import_ultralytics()


@cache
def _import_ultralytics() -> Any:
    """Import ultralytics with everything off that a camera daemon must not do."""
    with (
        # Gone with the import: a process of healthd ends without a clean-up, and nobody asks for it later.
        tempfile.TemporaryDirectory(prefix="healthd-ultralytics-", ignore_cleanup_errors=True) as folder,
        _environment(
            YOLO_CONFIG_DIR=folder,
            MPLCONFIGDIR=folder,
            TORCHINDUCTOR_CACHE_DIR=os.environ.get("TORCHINDUCTOR_CACHE_DIR", folder),
            YOLO_AUTOINSTALL="false",
            YOLO_VERBOSE="false",
            YOLO_OFFLINE="true",  # at import only: no name look-up, and statistics stay off for good
            ULTRALYTICS_SAFE_LOAD=os.environ.get("ULTRALYTICS_SAFE_LOAD", "true"),
            OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(usable_cpus())),
        ),
    ):
        try:
            import ultralytics  # noqa: PLC0415  only when a model needs it
            import ultralytics.utils.downloads  # noqa: PLC0415
            from ultralytics import YOLO  # noqa: F401, PLC0415  pulls in torch now, inside this environment
        except ImportError as exc:
            raise SettingsError(f"ultralytics cannot be imported ({_first_line(exc)}): {INSTALL}") from exc
        with suppress(Exception):  # what is wrong with it the first prediction tells; that would make a folder of torch
            importlib.import_module("torchvision")
    _switch_off(ultralytics)
    return ultralytics


def _switch_off(vendor: Any) -> None:
    """Say it once more at run time, for the case that somebody else imported ultralytics before us.

    The settings are changed in memory only: that somebody's file stays as it is. What ultralytics logs goes where the
    rest of the process logs.
    """
    from ultralytics.utils import checks, events  # noqa: PLC0415  not before _import_ultralytics

    checks.AUTOINSTALL = False
    events.events.enabled = False
    dict.__setitem__(vendor.settings, "sync", False)  # not `[]=`, which writes their file
    dict.__setitem__(vendor.settings, "openvino_msg", False)  # an export shows it once and writes that down
    logger = logging.getLogger("ultralytics")
    logger.handlers.clear()
    logger.propagate = True


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _as_load_error(name: str, what: str = "loaded") -> Iterator[None]:
    """Sort what a load may raise: a lack of memory may pass, a bad file or a missing package will not."""
    try:
        yield
    except (MemoryError, ConnectionError) as exc:
        raise ModelError(f"{name} cannot be {what} now: {_first_line(exc)}") from exc
    except ImportError as exc:
        raise SettingsError(f"{name} needs a package that is not installed: {_first_line(exc)}") from exc
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            raise
        if any(words in str(exc) for words in _OUTSIDE):  # where they would be is nobody's business
            raise SettingsError(f"{name} wants weights from outside its folder; put them beside it") from None
        if type(exc).__name__ == "OutOfMemoryError":
            raise ModelError(f"{name} cannot be {what} now: {_first_line(exc)}") from exc
        raise SettingsError(f"{name} cannot be {what} by ultralytics: {_first_line(exc)}") from exc


def _arguments(options: YoloModelOptions) -> dict[str, Any]:
    if options.precision in ("bf16", "int8"):
        raise ParameterError(
            f"precision: engine `ultralytics` has no {options.precision}; take `f32` or `f16`, or export the model"
        )
    half = options.precision in ("f16", "half")
    wishes = {"imgsz": options.imgsz, "device": options.device, "quantize": 16 if half else None}
    return {name: value for name, value in wishes.items() if value is not None}


def _wish(params: InferenceParams, keep: frozenset[int] | None) -> dict[str, Any]:
    """Return what is asked of one image, in the words of ultralytics."""
    return {
        "conf": params.confidence,
        "iou": params.iou,
        "max_det": params.max_det,
        "classes": None if keep is None else sorted(keep),
    }


def _black() -> Image:
    return np.zeros((*_WARM_UP_SIZE, 3), dtype=np.uint8)


def _memory_bytes(yolo: Any, path: Path) -> int:
    network = yolo.predictor.model
    held = sum(int(weights.numel() * weights.element_size()) for weights in network.parameters())
    if held:
        return held
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _detections(result: Any, labels: Mapping[int, str]) -> tuple[Detection, ...]:
    boxes = result.boxes.data.cpu().numpy().astype(np.float32)
    points = None if result.keypoints is None else result.keypoints.data.cpu().numpy().astype(np.float32)
    return records(boxes[:, :4], boxes[:, 4], boxes[:, 5].astype(np.intp), points, labels=labels)


def _first_line(exc: BaseException) -> str:
    """Return type and first line of an error, without the ornaments that ultralytics puts around it."""
    lines = [line.strip() for line in str(exc).encode("ascii", "ignore").decode().splitlines() if line.strip()]
    told = lines[0].removeprefix("ERROR").strip() if lines else ""
    return f"{type(exc).__name__}: {told[:200]}" if told else repr(exc)
