"""What a request for a prediction may say, in its query or in its form: checked once, and described from the same."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from litestar.exceptions import ValidationException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from healthd.api.uploads import RAW_TYPES
from healthd.models.model import InferenceParams

Pairs = Iterable[tuple[str, str]]
PREDICT_NAMES = {
    "conf": "confidence",
    "iou": "iou",
    "max_det": "max_det",
    "imgsz": "imgsz",
    "half": "half",
    "device": "device",
    "text_queries": "text_queries",
    "question": "question",
}
"""The names of the parameters of a prediction on the wire, and in `InferenceParams`."""


class Wish(BaseModel):
    """What a request may say beside the parameters of its model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        None, min_length=1, max_length=500, description="Model to ask, see `/api/v1/models`; absent: the default one."
    )
    annotated: bool = Field(False, description="Answer the picture as JPEG, with the results drawn on it.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for."""

    wish: Wish
    params: InferenceParams


class Parameters:
    """The parameters of one route. Each may stand in the query or in the form; in both only with the same value."""

    def __init__(self, *, wishes: Iterable[str], params: Mapping[str, str]) -> None:
        """Take the fields of `Wish` that the route knows, and its names for those of `InferenceParams`."""
        self._wishes = tuple(wishes)
        self._params = dict(params)
        self._schemas = {name: _schema(Wish, name) for name in self._wishes}
        self._schemas |= {name: _schema(InferenceParams, field) for name, field in self._params.items()}

    def read(self, query: Pairs, form: Pairs = ()) -> Asked:
        """Check everything at once. Unknown names are ignored in a query, where pollers may add some, not in a form.

        Raises:
            ValidationException: with each parameter that is wrong, and why.
        """
        problems: list[dict[str, str]] = []
        asked, sent = _grouped(query), _grouped(form)
        for name in sent.keys() - self._schemas.keys():
            near = get_close_matches(name, self._schemas, n=1, cutoff=0.5)
            told = f"is no parameter here{f'; is `{near[0]}` meant?' if near else ''}"
            problems.append({"key": name[:80], "message": told, "source": "body"})
        values: dict[str, Any] = {}
        for name, schema in self._schemas.items():
            given = [values for values in (asked.get(name), sent.get(name)) if values]
            if not given:
                continue
            if schema["type"] != "array":
                given = [[value] for value in dict.fromkeys(value for values in given for value in values)]
            if any(values != given[0] for values in given):
                problems.append(_problem(name, "was given twice, with different values", in_form=name in sent))
            values[name] = given[0] if schema["type"] == "array" else given[0][0]
        wish = self._checked(Wish, {name: values[name] for name in self._wishes if name in values}, sent, problems)
        renamed = {field: values[name] for name, field in self._params.items() if name in values}
        params = self._checked(InferenceParams, renamed, sent, problems)
        if problems or wish is None or params is None:
            raise ValidationException(extra=problems)
        return Asked(wish, params)

    def _checked(
        self, model: type[Any], values: dict[str, Any], sent: Mapping[str, Any], problems: list[dict[str, str]]
    ) -> Any:
        try:
            return model.model_validate(values)
        except ValidationError as exc:
            names = {field: name for name, field in self._params.items()}
            for error in exc.errors(include_url=False, include_context=False, include_input=False):
                name = names.get(str(error["loc"][0]), str(error["loc"][0]))
                problems.append(_problem(name, _words(error["msg"]), in_form=name in sent))
            return None

    def described(self) -> dict[str, Any]:
        """Describe query and body for OpenAPI."""
        parameters = [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema["description"],
                "schema": {key: value for key, value in schema.items() if key != "description"},
            }
            for name, schema in self._schemas.items()
        ]
        picture = {"type": "string", "format": "binary"}
        form = {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {**picture, "description": "The picture: JPEG, PNG, WebP or BMP."},
                **self._schemas,
            },
            "additionalProperties": False,
        }
        encoding = {"file": {"contentType": ", ".join(RAW_TYPES)}}
        content: dict[str, Any] = {"multipart/form-data": {"schema": form, "encoding": encoding}}
        content |= {kind: {"schema": picture} for kind in RAW_TYPES}
        return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


def _grouped(pairs: Pairs) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped


def _problem(name: str, message: str, *, in_form: bool) -> dict[str, str]:
    return {"key": name, "message": message, "source": "body" if in_form else "query"}


def _words(message: str) -> str:
    return re.sub(r"^(Input|String|Value|Tuple) ", "", message).replace("should ", "must ", 1)


def _schema(model: type[BaseModel], field: str) -> dict[str, Any]:
    """Return the JSON Schema of one field; a field that may be absent is not null on the wire but left out."""
    described = dict(model.model_json_schema()["properties"][field])
    described.pop("title")
    if described.get("default", ...) is None:
        del described["default"]
    inner = [one for one in described.pop("anyOf", []) if one["type"] != "null"]
    return {**(inner[0] if inner else {}), **described}
