"""What is said over a WebSocket: reads what comes in, shapes what goes out. Knows no socket."""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import ValidationError

from healthd.api import shapes
from healthd.api.errors import STATUSES
from healthd.api.schemas import Error
from healthd.errors import BusyError, HealthdError, PictureError, PictureTooLarge
from healthd.models.model import InferenceParams, Prediction
from healthd.redact import SCRUBBER

PARAMETERS = {
    "conf": "confidence",
    **{name: name for name in ("iou", "max_det", "imgsz", "half", "device", "text_queries", "question")},
}
"""How the wire names what a caller may ask of a prediction."""
_WIRE = {name: wire for wire, name in PARAMETERS.items()}
_FIELDS = {"type", "model_id", "image", "frame_id", *PARAMETERS}
MAX_FRAME_ID = 2**53 - 1
"""The largest integer that every reader of JSON keeps."""
_MAX_MODEL_ID = 500
_STATUS = ((PictureTooLarge, 413), (PictureError, 400), *STATUSES)


class BadMessage(HealthdError):  # noqa: N818  it says what it is
    """A message that cannot be answered with a prediction; the status says why, as for a request."""

    def __init__(self, status_code: int, detail: str, *, key: str | None = None, frame_id: int | None = None) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.key = key
        self.frame_id = frame_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Which model shall look, and how."""

    model_id: str | None = None
    """None: the default one."""
    params: InferenceParams = field(default_factory=InferenceParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture that somebody sent."""

    frame_id: int
    wishes: Wishes
    data: bytes | str
    """The file; as text: in base64, with or without the head of a `data:` URL."""

    def file(self) -> bytes:
        """Return the bytes of the file. Takes a while for a large one.

        Raises:
            PictureError: the text is no base64.
        """
        if isinstance(self.data, bytes):
            return self.data
        text = self.data.partition(",")[2] if self.data.startswith("data:") else self.data
        try:
            return binascii.a2b_base64(text)
        except ValueError:
            raise PictureError("`image` is not base64") from None


def read_wishes(query: Mapping[str, Sequence[str]]) -> Wishes:
    """Read the parameters of a query, by name all that were given; those that it does not know are ignored.

    Raises:
        BadMessage: one is wrong (422).
    """
    asked: dict[str, Any] = {}
    for wire, name in PARAMETERS.items():
        if values := query.get(wire):
            asked[name] = list(values) if name == "text_queries" else values[-1]
    names = [*query.get("model_id", ()), *query.get("model", ())]
    try:
        return Wishes(model_id=_model_id(names[-1] if names else None), params=InferenceParams.model_validate(asked))
    except ValidationError as exc:
        raise _wrong(exc) from None


def read_message(text: str, *, number: int, otherwise: Wishes) -> Picture | None:
    """Read a text message; None for a ping. `number` is the id of a picture that names none.

    Raises:
        BadMessage: it is neither (400, 422).
    """
    try:
        said = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
        raise BadMessage(400, f"not JSON: {exc}") from None
    if not isinstance(said, dict):
        raise BadMessage(422, "a message is a JSON object")
    if said.get("type") == "ping":
        return None
    said = {key: value for key, value in said.items() if value is not None}
    frame_id = _frame_id(said.get("frame_id", number))
    try:
        return _picture(said, frame_id, otherwise)
    except BadMessage as exc:
        exc.frame_id = frame_id
        raise


def _picture(said: dict[str, Any], frame_id: int, otherwise: Wishes) -> Picture:
    if said.get("type", "picture") != "picture":
        raise BadMessage(422, "must be `ping` or `picture`, or absent", key="type")
    if unknown := sorted(said.keys() - _FIELDS):
        raise BadMessage(422, f"is unknown; known are {', '.join(sorted(_FIELDS))}", key=unknown[0][:80])
    image = said.get("image")
    if not isinstance(image, str):
        raise BadMessage(422, "must be a picture in base64", key="image")
    asked = {name: said[wire] for wire, name in PARAMETERS.items() if wire in said}
    params = otherwise.params
    if asked:
        asked = {**params.model_dump(exclude_none=True), **asked}
        try:
            params = InferenceParams.model_validate_json(msgspec.json.encode(asked), strict=True)
        except ValidationError as exc:
            raise _wrong(exc) from None
    model_id = _model_id(said.get("model_id", otherwise.model_id))
    return Picture(frame_id=frame_id, wishes=Wishes(model_id=model_id, params=params), data=image)


def _frame_id(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FRAME_ID:
        return value
    raise BadMessage(422, f"must be an integer from 0 to {MAX_FRAME_ID}", key="frame_id")


def _model_id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_MODEL_ID):
        return value or None
    raise BadMessage(422, f"must be a text of at most {_MAX_MODEL_ID} characters", key="model_id")


def _wrong(exc: ValidationError) -> BadMessage:
    """Name the first parameter that is wrong as the wire names it."""
    first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "message"
    return BadMessage(422, first["msg"], key=_WIRE.get(name, name))


def told(exc: HealthdError) -> Error:
    """Shape an error as an answer to a request is shaped."""
    extra: Any = {}
    if isinstance(exc, BadMessage):
        status, detail = exc.status_code, str(exc)
        if exc.key is not None:
            extra = [{"key": exc.key, "message": detail}]
            detail = f"{exc.key}: {detail}"
    else:
        status, detail = next((code for kind, code in _STATUS if isinstance(exc, kind)), 500), str(exc)
        if isinstance(exc, BusyError):
            extra = {"retry_after_seconds": exc.retry_after_seconds}
    return Error(status, SCRUBBER.scrub(detail), SCRUBBER.scrub_object(extra))


def ready(wishes: Wishes, limits: Mapping[str, float]) -> str:
    """Return the first message of a socket."""
    model = shapes.model_name(wishes.model_id) if wishes.model_id is not None else None
    return _text({"type": "ready", "model_id": model, "limits": limits})


def pong() -> str:
    """Return the answer to a ping."""
    return _text({"type": "pong"})


def predicted(frame_id: int, prediction: Prediction, dropped: Sequence[int]) -> str:
    """Return the answer to a picture."""
    said = msgspec.to_builtins(shapes.envelope(prediction))
    return _text({"type": "prediction", "frame_id": frame_id, "dropped": dropped, **said})


def failed(frame_id: int | None, error: Error, dropped: Sequence[int]) -> str:
    """Return the answer to a picture or message that cannot be answered otherwise."""
    return _text({"type": "error", "frame_id": frame_id, "dropped": dropped, **msgspec.to_builtins(error)})


def _text(message: Mapping[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
