"""What a plugin says of an image, checked where it enters healthd: nothing that JSON cannot hold gets further."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import msgspec

from healthd.errors import ModelError
from healthd.models.model import Detection, Prediction

MOST_DETECTIONS = 1000
"""As many as `InferenceParams.max_det` may ask for."""
MOST_KEYPOINTS = 1000
"""Of one detection."""
LONGEST_NAME = 4000
"""Characters of a class name."""
MOST_METADATA_BYTES = 65_536
"""As JSON."""
LEFT_OUT = "left_out"


def checked(said: object, who: str, *, most: int = MOST_DETECTIONS) -> Prediction:
    """Return a prediction as it may go on: at most so many detections, plain numbers, metadata that JSON can hold.

    Of too many detections the most confident stay; `left_out` in the metadata says how many went.

    Args:
        said: what the plugin returned.
        who: whose answer it is, for the message.
        most: how many detections were asked for at most.

    Raises:
        ModelError: a number is not finite, or something is too large.
        TypeError: it is no prediction as the contract has it: a bug of the plugin.
    """
    if not isinstance(said, Prediction):
        raise TypeError(f"{who} returned {type(said).__name__}, not a Prediction")
    _check_number(said.inference_time_ms, f"{who}: inference_time_ms")
    if not isinstance(said.model_id, str):
        raise TypeError(f"{who}: model_id is {type(said.model_id).__name__}, not str")
    if not isinstance(said.results, Sequence):
        raise TypeError(f"{who}: results is {type(said.results).__name__}, not a tuple of Detection")
    for number, detection in enumerate(said.results):
        _check_detection(detection, f"{who}: result {number}")
    results, metadata = tuple(said.results), _plain(said.metadata, f"{who}: metadata")
    if len(results) > most:
        metadata[LEFT_OUT] = len(results) - most
        results = tuple(sorted(results, key=_confidence, reverse=True)[:most])
    return replace(said, results=results, metadata=metadata)


def _check_detection(detection: object, where: str) -> None:
    if not isinstance(detection, Detection):
        raise TypeError(f"{where} is {type(detection).__name__}, not a Detection")
    keypoints = detection.keypoints or ()
    try:
        left, top, right, bottom = detection.box_xyxy
        total = left + top + right + bottom + detection.confidence + detection.class_id
        for point in keypoints:
            total += point.x + point.y + point.confidence
        if len(keypoints) > MOST_KEYPOINTS:
            raise ModelError(f"{where} has {len(keypoints)} keypoints, at most {MOST_KEYPOINTS} are taken")
    except (TypeError, ValueError, AttributeError) as exc:
        raise TypeError(f"{where} is not as the contract has it: {exc}") from None
    _check_number(total, where)  # one number that is not plain, or not finite, makes the sum so
    name = detection.class_name
    if not isinstance(name, str):
        raise TypeError(f"{where}: class_name is {type(name).__name__}, not str")
    if len(name) > LONGEST_NAME:
        raise ModelError(f"{where}: class_name has {len(name)} characters, at most {LONGEST_NAME} are taken")


def _check_number(value: Any, where: str) -> None:
    if type(value) is not float and type(value) is not int:
        raise TypeError(f"{where} holds {type(value).__name__}, where float and int of Python are needed")
    if not isfinite(value):
        raise ModelError(f"{where} is not finite (NaN or infinity): the model computes nonsense")


def _plain(metadata: object, where: str) -> dict[str, Any]:
    """Return metadata as JSON has it: numbers that are not finite become null."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"{where} is {type(metadata).__name__}, not a mapping")
    try:
        encoded = msgspec.json.encode(metadata)
    except Exception as exc:  # noqa: BLE001  whatever is in there, it cannot be told to anybody
        raise TypeError(f"{where} cannot be written as JSON: {exc}") from None
    if len(encoded) > MOST_METADATA_BYTES:
        raise ModelError(f"{where} has {len(encoded)} bytes as JSON, at most {MOST_METADATA_BYTES} are taken")
    plain: dict[str, Any] = msgspec.json.decode(encoded)
    return plain


def _confidence(detection: Detection) -> float:
    return detection.confidence
