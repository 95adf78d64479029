"""Whether the model has to look at a frame: always, or only where something moves (`predict_when`)."""

import math

import numpy as np

from healthd.cameras.motion import MotionDetector
from healthd.clock import Clock
from healthd.frames import Frame
from healthd.models.model import Detection, Prediction
from healthd.settings import CameraSettings

WATCHED_SECONDS = 3.0
"""Who has asked for a prediction, drawn or not, within this still looks."""
WATCHED_INTERVAL_SECONDS = 1.0
"""While somebody looks, even a scene in which nothing moves is predicted so often."""
SURE = 0.5
"""A detection of this confidence that comes, goes or moves is a change; a weaker one may flicker."""
TOLERANCE = 0.02
"""A box that moves by less than this share of the picture's longer side stands still: models jitter."""


class Attention:
    """Says which frames of one camera are predicted. Event loop only; lives as long as its runner.

    Time is that of the frames: of capture, for a recording the position in it.
    """

    def __init__(self, settings: CameraSettings, *, recording: bool, clock: Clock) -> None:
        self._settings = settings
        self._recording = recording
        self._clock = clock
        self._newest_at = -math.inf
        self._awake_until = -math.inf
        self._predicted_at = -math.inf
        self._asked_at = -math.inf
        self._stirred_at = -math.inf
        """When something last moved or changed."""
        self._woke_at = -math.inf
        """When motion last ended a rest, in seconds of the monotonic clock."""
        self._reference: tuple[Detection, ...] = ()
        """The detections of when they last changed."""

    def adapt(self, settings: CameraSettings) -> None:
        """Take settings that do not need a new session of the camera."""
        self._settings = settings

    @property
    def by_motion(self) -> bool:
        """Whether the model rests while nothing moves."""
        return self._settings.predict_when == "motion"

    @property
    def idle(self) -> bool:
        """Whether the model rests now."""
        return self.by_motion and self._newest_at > self._awake_until

    def has_rested_since(self, captured_monotonic: float) -> bool:
        """Whether the model rests now, or did after a frame that was captured then."""
        return self.idle or captured_monotonic < self._woke_at

    def detector(self) -> MotionDetector | None:
        """Make what looks for motion in one session of the camera; None where nobody has to."""
        return MotionDetector(threshold=self._settings.motion_threshold) if self.by_motion else None

    def asked(self) -> None:
        """Somebody asked for a prediction, or for a picture with one drawn on it."""
        self._asked_at = self._clock.monotonic()

    def saw(self, frame: Frame, motion: float | None) -> None:
        """A frame came; `motion` is the share of it that moves, None where nobody looked."""
        at = self._time_of(frame)
        if at < self._newest_at:  # the recording begins again
            self._awake_until = self._predicted_at = self._stirred_at = -math.inf
        rested, self._newest_at = self.idle, at
        if motion is not None and motion >= self._settings.motion_area:
            self._stirred_at = at
            self._awake_until = max(self._awake_until, at + self._settings.motion_hold_seconds)
            if rested:
                self._woke_at = frame.captured_monotonic

    def predicted(self, frame: Frame, prediction: Prediction) -> None:
        """A frame got its prediction; where its detections are others than before, something is going on.

        Detections that are the same keep the model awake for a while too: somebody who stands still is still there.
        """
        if not self.by_motion:
            return
        at = self._time_of(frame)
        self._predicted_at = at
        if _differ(prediction.results, self._reference, tolerance=TOLERANCE * max(frame.width, frame.height)):
            self._reference = prediction.results
            self._stirred_at = max(self._stirred_at, at)
        hold = self._settings.motion_hold_seconds
        if _sure(prediction.results):
            hold = max(hold, self._settings.motion_detections_hold_seconds)
        self._awake_until = self._stirred_at + hold

    def begin(self) -> None:
        """The model was loaded: whatever it sees, it looks once."""
        self._predicted_at = -math.inf

    def wants(self, frame: Frame) -> bool:
        """Tell whether the frame is to be predicted."""
        at = self._time_of(frame)
        return not self.by_motion or at <= self._awake_until or at - self._predicted_at >= self._interval_seconds

    @property
    def _interval_seconds(self) -> float:
        longest = self._settings.motion_max_interval_seconds or math.inf
        watched = self._clock.monotonic() - self._asked_at < WATCHED_SECONDS
        return min(longest, WATCHED_INTERVAL_SECONDS) if watched else longest

    def _time_of(self, frame: Frame) -> float:
        if self._recording and frame.position_seconds is not None:
            return frame.position_seconds
        return frame.captured_monotonic


def _differ(now: tuple[Detection, ...], before: tuple[Detection, ...], *, tolerance: float) -> bool:
    """Tell whether a sure detection of either has none like it in the other, sure or not."""
    return _lacks(now, before, tolerance) or _lacks(before, now, tolerance)


def _lacks(some: tuple[Detection, ...], others: tuple[Detection, ...], tolerance: float) -> bool:
    sure = _sure(some)
    if not sure or not others:
        return bool(sure)
    alike = _classes(sure)[:, None] == _classes(others)
    for ours, theirs in zip(_sides(sure), _sides(others), strict=True):  # one table of all pairs at a time
        alike &= np.abs(ours[:, None] - theirs) <= tolerance
    return not bool(alike.any(axis=1).all())


def _sure(detections: tuple[Detection, ...]) -> tuple[Detection, ...]:
    return tuple(detection for detection in detections if detection.confidence >= SURE)


def _sides(detections: tuple[Detection, ...]) -> np.ndarray:
    """Return the left, upper, right and lower sides of all boxes, (4, n)."""
    return np.array([detection.box_xyxy for detection in detections], np.float32).T


def _classes(detections: tuple[Detection, ...]) -> np.ndarray:
    return np.array([detection.class_id for detection in detections])
