"""What is said over a WebSocket: reads what comes in, shapes what goes out. Knows no socket."""

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import ValidationError

from healthd.api import shapes
from healthd.api.errors import status_of
from healthd.api.infer_params import PREDICT_NAMES
from healthd.api.schemas import Error
from healthd.errors import BusyError, HealthdError, PictureError
from healthd.models.model import InferenceParams, Prediction
from healthd.redact import SCRUBBER

_WIRE = {name: wire for wire, name in PREDICT_NAMES.items()}
_FIELDS = {"type", "model_id", "image", "frame_id", *PREDICT_NAMES}
MAX_FRAME_ID = 2**53 - 1
"""The largest integer that every reader of JSON keeps."""
_MAX_MODEL_ID = 500


Problem = dict[str, str]
"""What is wrong with a field: `key` and `message`."""


class BadMessage(HealthdError):  # noqa: N818  it says what it is
    """A message that cannot be answered with a prediction; the status says why, as for a request."""

    def __init__(self, status_code: int, detail: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.problems = problems
        self.frame_id: int | None = None


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
        raise _bad("type", "must be `ping` or `picture`, or absent")
    if unknown := sorted(said.keys() - _FIELDS):
        raise _bad(unknown[0][:80], f"is unknown; known are {', '.join(sorted(_FIELDS))}")
    image = said.get("image")
    if not isinstance(image, str):
        raise _bad("image", "must be a picture in base64")
    asked = {name: said[wire] for wire, name in PREDICT_NAMES.items() if wire in said}
    params = otherwise.params
    if asked:
        asked = {**params.model_dump(exclude_none=True), **asked}
        try:
            params = InferenceParams.model_validate_json(msgspec.json.encode(asked), strict=True)
        except ValidationError as exc:
            raise wrong([_problem(error) for error in exc.errors(include_url=False, include_input=False)]) from None
    model_id = _model_id(said.get("model_id", otherwise.model_id))
    return Picture(frame_id=frame_id, wishes=Wishes(model_id=model_id, params=params), data=image)


def _frame_id(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FRAME_ID:
        return value
    raise _bad("frame_id", f"must be an integer from 0 to {MAX_FRAME_ID}")


def _model_id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and 0 < len(value) <= _MAX_MODEL_ID):
        return value
    raise _bad("model_id", f"must be a text of 1 to {_MAX_MODEL_ID} characters")


def _problem(error: Mapping[str, Any]) -> Problem:
    """Name a parameter that is wrong as the wire names it."""
    name = str(error["loc"][0]) if error["loc"] else "message"
    return {"key": _WIRE.get(name, name), "message": error["msg"]}


def _bad(key: str, message: str) -> BadMessage:
    return wrong([{"key": key, "message": message}])


def wrong(problems: Sequence[Problem]) -> BadMessage:
    """Return the error of a message whose fields are wrong."""
    return BadMessage(422, "; ".join(f"{one['key']}: {one['message']}" for one in problems), problems)


def told(exc: HealthdError) -> Error:
    """Shape an error as an answer to a request is shaped."""
    extra: Any = {}
    status = status_of(exc)
    if isinstance(exc, BadMessage):
        status, extra = exc.status_code, list(exc.problems)
    elif isinstance(exc, BusyError):
        extra = {"retry_after_seconds": exc.retry_after_seconds}
    return Error(status, SCRUBBER.scrub(str(exc)), SCRUBBER.scrub_object(extra or {}))


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
