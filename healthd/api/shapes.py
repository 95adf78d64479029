"""Turns facts of the house into wire shapes. What a plugin says of itself is made fit for the wire, or left out."""

import math
from dataclasses import dataclass, replace
from datetime import datetime

from healthd.api import schemas
from healthd.cameras.isolated import IsolatedCamera
from healthd.cameras.records import PredictedFrame
from healthd.cameras.runner import CameraRunner
from healthd.frames import Image
from healthd.models.catalog import public_id
from healthd.models.model import Detection, Prediction
from healthd.redact import SCRUBBER

_NO_TUNING: tuple[float | None, float | None, int | None] = (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the plugin of a camera says of it, as it can be sent."""

    model_id: str | None = None
    codec: str | None = None
    nominal_fps: float | None = None
    recording: bool = False
    tuning: tuple[float | None, float | None, int | None] = _NO_TUNING


def camera(runner: CameraRunner, viewers: int) -> schemas.Camera:
    """Shape one camera, whatever its plugin says: a plugin that cannot be asked is an error of its own camera.

    `viewers`: its open streams.
    """
    health = runner.health
    try:
        return _camera(runner, _said(runner), viewers)
    except Exception as exc:  # noqa: BLE001  a plugin's own code runs here, and the other cameras must still be told of
        error = SCRUBBER.scrub(f"the plugin cannot be asked about its camera: {_text(_told(exc))}")
        shape = _camera(runner, _Said(), viewers)
        shape.reason = shape.reason or error
        shape.errors.append(schemas.CameraError(health.since, "plugin", error))
        return shape


def _said(runner: CameraRunner) -> _Said:
    """Ask the plugin. Its attributes are code of its own: they may raise, and be of any type."""
    source, info, model_id = runner.source, runner.info, runner.model_health.model_id
    return _Said(
        model_id=model_name(model_id) if model_id is not None else None,
        codec=_text(info.codec),
        nominal_fps=_number(info.fps),
        recording=bool(source and source.recording),
        tuning=_thresholds(runner),
    )


def _camera(runner: CameraRunner, said: _Said, viewers: int) -> schemas.Camera:
    health, frame, age = runner.health, runner.frame, runner.frame_age_seconds
    counts, model = runner.counts, runner.model_health
    return schemas.Camera(
        name=runner.name,
        plugin=runner.settings.plugin,
        source=str(runner.settings.url) if runner.settings.url is not None else None,
        state=health.state.value,
        since=health.since,
        reason=_text(health.reason),
        connected=health.connected,
        has_frame=runner.has_frame,
        fps=round(runner.fps, 2),
        predicted_fps=round(runner.predicted_fps, 2),
        frame_id=runner.newest_frame_id if frame else None,
        frame_age_ms=round(age * 1000, 1) if age is not None else None,
        width=frame.width if frame else None,
        height=frame.height if frame else None,
        codec=said.codec,
        nominal_fps=said.nominal_fps,
        recording=said.recording,
        frames=schemas.FrameCounts(counts.read, counts.predicted, dict(counts.dropped), counts.in_hand),
        reconnects=runner.reconnects,
        isolation="thread" if runner.isolated is None else "process",
        process=_process(runner.isolated),
        workers_stuck=runner.stuck_workers,
        viewers=viewers,
        model=schemas.CameraModel(said.model_id, model.state, _text(model.reason), runner.waits.model_rests),
        tuning=schemas.Tuning(runner.tuning.predict_fps, runner.tuning.quality, *said.tuning),
        errors=[_error(error.at, error.task, error.reason) for error in runner.failures.errors],
    )


def _process(isolated: IsolatedCamera | None) -> schemas.CameraProcess | None:
    if isolated is None:
        return None
    facts = isolated.facts
    return schemas.CameraProcess(facts.memory_bytes, facts.ends)


def model_name(model_id: object) -> str:
    """Return the id of a model as it may be shown: some ids are URLs, with a password or a token in them."""
    return public_id(_text(model_id) or "")


def reason(error: Exception) -> str:
    """Return what an error of ours says, as it may be shown."""
    return SCRUBBER.scrub(_text(str(error)) or type(error).__name__)


def _thresholds(runner: CameraRunner) -> tuple[float | None, float | None, int | None]:
    params = runner.source.params if runner.source else None
    return (float(params.confidence), float(params.iou), int(params.max_det)) if params else _NO_TUNING


def _error(at: datetime, task: str, reason: str) -> schemas.CameraError:
    return schemas.CameraError(at, task, _text(reason) or "")


def _number(value: object) -> float | None:
    """Return a number of whatever type (`np.float32(25)`, `"25"`) as one that JSON knows; None where it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    """Return a text of whatever type as one that UTF-8 can write."""
    return None if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _told(exc: Exception) -> str:
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001  an error that cannot even be told
        return type(exc).__name__


def result(detection: Detection) -> schemas.Result:
    """Shape one detection."""
    points = detection.keypoints
    return schemas.Result(
        box_xyxy=detection.box_xyxy,
        confidence=detection.confidence,
        class_id=detection.class_id,
        class_name=detection.class_name,
        keypoints=[(point.x, point.y, point.confidence) for point in points] if points is not None else None,
    )


def completed(prediction: Prediction, image: Image, *, model_id: str, task: str) -> Prediction:
    """Return a prediction that says what every one must: the name it was asked by, the task, the size of the image."""
    height, width = image.shape[:2]
    metadata = {"task": task, "width": width, "height": height, **prediction.metadata}
    return replace(prediction, model_id=model_id, metadata=metadata)


def envelope(prediction: Prediction) -> schemas.Envelope:
    """Shape a prediction."""
    return schemas.Envelope(
        model_id=model_name(prediction.model_id),
        inference_time_ms=prediction.inference_time_ms,
        results=[result(detection) for detection in prediction.results],
        metadata=dict(prediction.metadata),
    )


def camera_prediction(predicted: PredictedFrame, *, age_seconds: float) -> schemas.CameraPrediction:
    """Shape the prediction of a camera's frame."""
    said = envelope(predicted.prediction)
    return schemas.CameraPrediction(
        model_id=said.model_id,
        inference_time_ms=said.inference_time_ms,
        results=said.results,
        metadata=said.metadata,
        frame_id=predicted.frame.frame_id,
        captured_at=predicted.frame.captured_at,
        age_ms=round(age_seconds * 1000, 1),
    )
