"""What schemathesis is told beyond its own checks. Loaded by its command line, not by pytest: see `test_openapi.py`."""

import json
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure

METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}
LONGEST_WAIT_MS = 300
FORMS = ("/api/v1/infer", "/api/v1/detect", "/api/v1/jobs")


def _picture(extension: str) -> bytes:
    done, encoded = cv2.imencode(extension, np.full((48, 64, 3), 90, np.uint8))
    assert done
    return encoded.tobytes()


for _kind in ("jpeg", "png", "webp", "bmp"):
    schemathesis.openapi.media_type(f"image/{_kind}", st.just(_picture(f".{_kind}")))
schemathesis.openapi.media_type("video/mp4", st.just(Path(os.environ["JOB_PATH"]).read_bytes()))


@schemathesis.hook
def before_load_schema(_context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Let no answer hide behind `default`: each status counts only where it is described by its number."""
    for item in raw_schema["paths"].values():
        for method in METHODS & item.keys():
            item[method]["responses"].pop("default", None)


@schemathesis.hook
def before_call(_context: HookContext, case: Case, _kwargs: dict[str, Any]) -> None:
    """Make of what a schema lets through what is right beyond it, or would take too long."""
    query = case.query if isinstance(case.query, dict) else {}
    if str(query.get("wait", "")).isdecimal():
        query["wait"] = min(int(query["wait"]), LONGEST_WAIT_MS)  # a minute of silence is right, and long
    body = case.body if isinstance(case.body, dict) else {}
    if case.path in FORMS:
        for name in query.keys() & body.keys():  # in the query or in the form, not in both with different values
            del query[name]
    right = case.meta is not None and case.meta.generation.mode.is_positive
    if case.path == "/api/v1/jobs" and right and "path" in body:  # no schema knows which files there are
        body["path"] = os.environ["JOB_PATH"]


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case, _response: Response) -> bool:
    """Drop what cannot be refused: in a form every field is text, so that 0 in place of a text is the text `0`.

    schemathesis knows that too, but not of forms with a file.
    """
    changes = len(re.findall(r"violates ", failure.message))
    texts = len(re.findall(r"\(was string, became (integer|number|boolean|null)\)", failure.message))
    in_form = isinstance(failure, AcceptedNegativeData) and case.media_type == "multipart/form-data"
    return not (in_form and changes == texts > 0)


@schemathesis.check
def every_error_has_one_shape(_ctx: CheckContext, response: Response, case: Case) -> None:
    """Every error is `{"status_code", "detail", "extra"}`; the probes answer 503 in words of their own."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    assert response.headers["content-type"] == ["application/json"]
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    told = json.loads(response.content)
    if case.path in {"/readyz", "/health"} and response.status_code == 503:
        return
    assert set(told) == {"status_code", "detail", "extra"}
    assert told["status_code"] == response.status_code
    assert told["detail"]
    if response.status_code == 503:
        assert int(response.headers["retry-after"][0]) >= 1


@schemathesis.check
def every_answer_keeps_browsers_from_guessing(_ctx: CheckContext, response: Response, _case: Case) -> None:
    """No answer is without the headers that all carry."""
    assert response.headers["x-content-type-options"] == ["nosniff"]
    assert response.headers["referrer-policy"] == ["no-referrer"]


NEVER_THERE = {"DELETE /api/v1/viewers/{viewer_id}"}
"""Nobody looks while this runs."""


@schemathesis.check
class every_operation_does_what_it_is_for:  # noqa: N801  its name is what is reported
    """Each operation has answered at least once that all went well: else nothing but refusals would be looked at."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._done: set[str] = set()

    def after_response(self, _ctx: CheckContext, response: Response, case: Case) -> None:
        self._asked.add(case.operation.label)
        if response.status_code < 300:
            self._done.add(case.operation.label)

    def after_run(self, _ctx: CheckContext) -> None:
        never = self._asked - self._done - NEVER_THERE
        assert not never, f"never done: {', '.join(sorted(never))}"
