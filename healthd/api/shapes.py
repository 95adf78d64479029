"""Turns facts of the house into wire shapes."""

from healthd.api import schemas
from healthd.cameras.records import PredictedFrame
from healthd.cameras.runner import CameraRunner
from healthd.models.model import Detection, Prediction


def camera(runner: CameraRunner, viewers: int) -> schemas.Camera:
    """Shape one camera; `viewers`: its open streams."""
    health, frame, age = runner.health, runner.frame, runner.frame_age_seconds
    counts, model = runner.counts, runner.model_health
    return schemas.Camera(
        name=runner.name,
        plugin=runner.settings.plugin,
        source=str(runner.settings.url) if runner.settings.url is not None else None,
        state=health.state.value,
        since=health.since,
        reason=health.reason,
        connected=health.connected,
        has_frame=runner.has_frame,
        fps=round(runner.fps, 2),
        predicted_fps=round(runner.predicted_fps, 2),
        frame_id=frame.frame_id if frame else None,
        frame_age_ms=round(age * 1000, 1) if age is not None else None,
        width=frame.width if frame else None,
        height=frame.height if frame else None,
        codec=runner.info.codec,
        nominal_fps=runner.info.fps,
        recording=bool(runner.source and runner.source.recording),
        frames=schemas.FrameCounts(counts.read, counts.predicted, dict(counts.dropped), counts.in_hand),
        reconnects=runner.reconnects,
        viewers=viewers,
        model=schemas.CameraModel(model.model_id, model.state, model.reason),
        tuning=tuning(runner),
        errors=[schemas.CameraError(error.at, error.task, error.reason) for error in runner.failures.errors],
    )


def tuning(runner: CameraRunner) -> schemas.Tuning:
    """Shape what PATCH can change."""
    params = runner.source.params if runner.source else None
    return schemas.Tuning(
        predict_fps=runner.tuning.predict_fps,
        quality=runner.tuning.quality,
        confidence=params.confidence if params else None,
        iou=params.iou if params else None,
        max_det=params.max_det if params else None,
    )


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


def envelope(prediction: Prediction) -> schemas.Envelope:
    """Shape a prediction."""
    return schemas.Envelope(
        model_id=prediction.model_id,
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
