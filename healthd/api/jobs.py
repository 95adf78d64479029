"""Jobs: batch work over many pictures or a video, taken in at once and done when there is time."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.exceptions import ClientException, HTTPException, NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream

from healthd.api import schemas, shapes
from healthd.api.auth import check_again
from healthd.api.errors import TryLater
from healthd.api.infer_params import PREDICT_NAMES, Parameters
from healthd.api.job_forms import Form, received
from healthd.api.services import House
from healthd.api.uploads import problem
from healthd.frames import Image
from healthd.jobs.errors import (
    JobsOffError,
    JobsUnavailableError,
    MediaError,
    MediaTooLargeError,
    PathRefusedError,
    StorageFullError,
    TooManyJobsError,
    UnknownJobError,
)
from healthd.jobs.records import Job
from healthd.jobs.service import Jobs, Order
from healthd.models.model import Prediction
from healthd.redact import SCRUBBER

NDJSON = "application/x-ndjson"
LINES_AT_ONCE = 200
MOST_EVERY = 1_000_000
MOST_INDEX = 2**31
RETRY_AFTER_SECONDS = 10
PARAMETERS = Parameters(
    wishes=("model",),
    params=PREDICT_NAMES,
)
_DIGITS = re.compile(r"[0-9]{1,20}")
_NAMES = {"confidence": "conf"}
_SAID = {
    400: "It is neither a video nor a zip, it is broken or empty, or no form.",
    404: "Unknown model.",
    408: "Nothing arrived for too long.",
    409: "Jobs are switched off here.",
    413: "Too many bytes, pixels or pictures, or a zip that unpacks to far too much.",
    415: "The body is neither a form nor JSON.",
    503: "Too many jobs, or the storage of the jobs cannot be used now; see `Retry-After`.",
    507: "There is no room left where the jobs are kept.",
}
REFUSALS = {status: ResponseSpec(schemas.Error, description=said) for status, said in _SAID.items()}
UNKNOWN = {
    404: ResponseSpec(schemas.Error, description="Unknown job."),
    **{status: REFUSALS[status] for status in (409, 503)},
}
_FILES = "video/*, application/zip"
_LOCATION = {"description": "Of the job.", "required": True, "schema": {"type": "string"}}
ID = Parameter(description="Id of a job.")


def _described() -> dict[str, Any]:
    """Describe what is sent to begin a job."""
    described = PARAMETERS.described()
    every = {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_EVERY,
        "default": 1,
        "description": "Of a video, every so many-th frame.",
    }
    path = {"type": "string", "minLength": 1, "description": "A file or folder in `jobs.allowed_directories`."}
    form = described["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = {name: schema for name, schema in form["properties"].items() if name != "file"} | {"every": every}
    file = {"type": "string", "format": "binary", "description": "A video, or a zip of pictures."}
    by_file = {**form, "required": ["file"], "properties": {"file": file, **fields}}
    by_path = {**form, "required": ["path"], "properties": {"path": path, **fields}}
    shown = {key: value for key, value in every.items() if key != "description"}
    parameter = {
        "name": "every",
        "in": "query",
        "required": False,
        "description": every["description"],
        "schema": shown,
    }
    return {
        "parameters": [*described["parameters"], parameter],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": by_file, "encoding": {"file": {"contentType": _FILES}}},
                "application/json": {"schema": by_path},
                "application/x-www-form-urlencoded": {"schema": by_path},
            },
        },
        "responses": {"202": {"headers": {"Location": _LOCATION}}},
    }


class JobController(Controller):
    """Everything under `/api/v1/jobs`."""

    path = "/jobs"
    tags = ("jobs",)

    @post(
        "/",
        status_code=202,
        opt={"described": _described()},
        summary="Begin a job",
        responses=REFUSALS,
    )
    async def begin(self, services: House, request: Request[Any, Any, Any]) -> Response[schemas.Job]:
        """Send a video or a zip of pictures as `file`, or name a `path`; once this is answered, no crash loses the job.

        Parameters stand in the query or in the form, and mean what they mean to `/api/v1/infer`.
        """
        jobs, query = services.jobs, list(request.query_params.multi_items())
        with _refusals():
            _asked(query, Form())  # what is wrong in the query is told before anything is sent
            async with jobs.admission():
                idle = services.settings.inference.upload_timeout_seconds
                async with received(request, jobs, idle_seconds=idle) as form:
                    paths = form.take("path")
                    model, params, every = _asked(query, form)
                    order = Order(model=await jobs.model_id(model), params=params, every=every)
                    check_again(request, "admin")
                    job = await _accepted(jobs, form, paths, order)
            shape = _shape(job, await jobs.now())
        root = str(request.scope.get("root_path", ""))
        return Response(shape, status_code=202, headers={"Location": f"{root}/api/v1/jobs/{job.job_id}"})

    @get("/", summary="All jobs", responses={status: REFUSALS[status] for status in (409, 503)})
    async def jobs(self, services: House) -> list[schemas.Job]:
        """Every job that waits, runs or has ended, the oldest first; an ended one for `jobs.keep_hours`."""
        with _refusals():
            found = await services.jobs.all()
            now = await services.jobs.now()
        return [_shape(job, now) for job in found]

    @get("/{job_id:str}", summary="One job", responses=UNKNOWN)
    async def job(self, services: House, job_id: Annotated[str, ID]) -> schemas.Job:
        """How far it is."""
        with _refusals(job_id):
            return _shape(await services.jobs.get(job_id), await services.jobs.now())

    @get(
        "/{job_id:str}/results",
        summary="The results of a job",
        media_type=NDJSON,
        responses={
            **UNKNOWN,
            200: ResponseSpec(schemas.JobResult, description="JSON Lines, one for each picture.", media_type=NDJSON),
        },
    )
    async def results(
        self,
        services: House,
        job_id: Annotated[str, ID],
        after: Annotated[
            int,
            Parameter(
                ge=-1,
                le=MOST_INDEX,
                schema_extra={"minimum": -1, "maximum": MOST_INDEX},  # Litestar documents no bounds of its own here
                description="Only lines behind this `index`.",
            ),
        ] = -1,
    ) -> Stream:
        """One line of JSON for each picture that has been worked on so far, in order."""
        with _refusals(job_id):
            await services.jobs.get(job_id)
            first = await services.jobs.lines(job_id, start=after + 1, count=LINES_AT_ONCE)
        return Stream(
            _lines(services.jobs, job_id, after + 1, first), media_type=NDJSON, headers={"Cache-Control": "no-store"}
        )

    @delete(
        "/{job_id:str}",
        status_code=200,
        summary="Cancel or remove a job",
        responses={**UNKNOWN, 204: ResponseSpec(None, description="It had ended, and is removed with its results.")},
    )
    async def end(self, services: House, job_id: Annotated[str, ID]) -> Response[schemas.Job | None]:
        """Cancel a job that waits or runs; its results so far stay. One that has ended is removed with its results."""
        with _refusals(job_id):
            job = await services.jobs.delete(job_id)
            if job is None:
                return Response(None, status_code=204)
            return Response(_shape(job, await services.jobs.now()))


def written(prediction: Prediction, image: Image, model_id: str, task: str) -> bytes:
    """Write the envelope of one picture of a job as JSON: the same that a request for the picture gets."""
    said = shapes.completed(prediction, image, model_id=model_id, task=task)
    return msgspec.json.encode(shapes.envelope(said))


async def _accepted(jobs: Jobs, form: Form, paths: Sequence[str], order: Order) -> Job:
    if form.upload is not None:
        if paths:
            raise problem("path", "a file was sent: send a file or name a path, not both")
        name = PurePosixPath(form.file_name.replace("\\", "/")).name or "upload"
        return await jobs.accept_upload(form.upload, name=name, order=order)
    if len(paths) != 1 or not paths[0]:
        raise problem("file", "is missing: send a video or a zip as `file`, or name a `path`")
    return await jobs.accept_path(paths[0], order=order)


def _asked(query: list[tuple[str, str]], form: Form) -> tuple[str | None, dict[str, Any], int]:
    """Check what is asked for: the model, its parameters, and how many frames of a video are passed over."""
    given = form.take("every") or [value for name, value in query if name == "every"]
    if any(not _DIGITS.fullmatch(value) or not 1 <= int(value) <= MOST_EVERY for value in given) or len(set(given)) > 1:
        raise problem("every", f"must be one whole number from 1 to {MOST_EVERY}")
    asked = PARAMETERS.read(query, form.fields)
    params = asked.params.model_dump(mode="json", exclude_unset=True)
    return asked.wish.model, params, int(given[0]) if given else 1


async def _lines(jobs: Jobs, job_id: str, start: int, first: Sequence[bytes]) -> AsyncIterator[bytes]:
    lines = first
    while lines:
        yield b"\n".join([*lines, b""])
        start += len(lines)
        lines = await jobs.lines(job_id, start=start, count=LINES_AT_ONCE) if len(lines) == LINES_AT_ONCE else ()


def _shape(job: Job, now: float) -> schemas.Job:
    rate, eta = job.rate(now), job.eta_seconds(now)
    return schemas.Job(
        id=job.job_id,
        state=job.state.value,
        kind=job.kind,
        name=SCRUBBER.scrub(job.name),
        model=shapes.model_name(job.model),
        params={_NAMES.get(name, name): value for name, value in job.params.items()},
        every=job.every,
        done=job.done,
        failed=job.failed,
        skipped=job.skipped,
        total=job.total,
        rate=round(rate, 2) if rate is not None else None,
        eta_seconds=round(eta, 1) if eta is not None else None,
        created_at=_moment(job.created_at),
        started_at=_moment(job.started_at) if job.started_at is not None else None,
        ended_at=_moment(job.ended_at) if job.ended_at is not None else None,
        error=SCRUBBER.scrub(job.error) if job.error is not None else None,
        note=job.note,
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@contextmanager
def _refusals(job_id: str | None = None) -> Iterator[None]:
    """Give each error of a job its status."""
    try:
        yield
    except UnknownJobError:
        raise NotFoundException("unknown job", extra={"job": (job_id or "")[:80]}) from None
    except JobsOffError as exc:
        raise ClientException(str(exc), status_code=409) from None
    except StorageFullError as exc:
        raise HTTPException(str(exc), status_code=507) from None
    except (JobsUnavailableError, TooManyJobsError) as exc:
        raise TryLater(str(exc), retry_after_seconds=RETRY_AFTER_SECONDS) from None
    except MediaTooLargeError as exc:
        raise ClientException(str(exc), status_code=413) from None
    except MediaError as exc:
        raise ClientException(str(exc), status_code=400) from None
    except PathRefusedError as exc:
        raise problem("path", str(exc)) from None
