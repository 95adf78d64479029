"""Everything that somebody needs who is to help, in one file, and nothing that must not be seen."""

from collections import Counter
from typing import Any

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from healthd import __version__, bundle
from healthd.api import schemas, shapes
from healthd.api.errors import TryLater
from healthd.api.health import daemon_state
from healthd.api.history import history_of
from healthd.api.logs import shape as log_line
from healthd.api.models import infos
from healthd.api.plugins import plugins_of
from healthd.api.services import House, Services
from healthd.api.settings import settings_of
from healthd.api.viewers import viewers_of
from healthd.errors import HealthdError
from healthd.worker import Worker, WorkerTimeout

PACK_SECONDS = 20.0
LATER = ResponseSpec(schemas.Error, description="It could not be packed in time; see `Retry-After`.")
_READ_ME = """healthd {version}, {at}

What a daemon says of itself, for somebody who is to help: settings and where each comes from, cameras and their last
minutes, models, plugins, open streams, jobs by state, the newest lines of the log, metrics, and what each thread and
task is doing (names of functions, no values).

Not in here: pictures, predictions, API keys, passwords, the user info and query of URLs, the environment, addresses of
those who look, names of files that were sent. Host names of cameras and names that you gave are in here: look through
it before you show it to everybody.
"""


@get(
    "/diagnostics",
    summary="A bundle of diagnostics",
    tags=["process"],
    media_type="application/zip",
    opt={"scope": "admin"},
    responses={200: ResponseSpec(bytes, description="A zip.", media_type="application/zip"), 503: LATER},
)
async def diagnostics(services: House) -> Response[bytes]:
    """Settings, state, cameras, models, plugins, viewers, log, metrics and threads, redacted, fit for an issue."""
    now = services.clock.now()
    parts = {"README.txt": _READ_ME.format(version=__version__, at=now.isoformat(timespec="seconds"))}
    worker = Worker("diagnostics")
    worker.start()
    try:
        collected = {**parts, **await _collected(services)}
        packed = await worker.call(lambda: bundle.packed(collected, at=now), timeout=PACK_SECONDS, late="not packed")
    except WorkerTimeout as exc:
        raise TryLater(str(exc)) from None
    finally:
        worker.close()
    name = f"healthd-diagnostics-{now:%Y%m%d-%H%M%S}.zip"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(packed, media_type="application/zip", headers=headers)


async def _collected(services: Services) -> dict[str, Any]:
    """Return the parts by the name of their file. A part that cannot be had says why."""
    return {
        "state.json": _plain(daemon_state(services)),
        "settings.json": _plain(settings_of(services)),
        "cameras.json": [_plain(shapes.camera(one, services.viewers.count(one.name))) for one in services.supervisor],
        "history.json": [_plain(history_of(services, one.name)) for one in services.supervisor],
        "models.json": await _models(services),
        "plugins.json": [{**_plain(one), "settings": None} for one in plugins_of(services)],
        "viewers.json": _plain(viewers_of(services)),
        "jobs.json": await _jobs(services),
        "log.jsonl": [_plain(log_line(line)) for line in services.log_ring.lines()],
        "metrics.txt": services.metrics.render().decode(),
        "threads.txt": bundle.threads(),
        "tasks.txt": bundle.tasks(),
    }


async def _models(services: Services) -> Any:
    try:
        return _plain(await infos(services))
    except HealthdError as exc:
        return {"error": shapes.reason(exc)}


async def _jobs(services: Services) -> dict[str, Any]:
    try:
        return dict(Counter(job.state.value for job in await services.jobs.all()))
    except HealthdError as exc:
        return {"error": shapes.reason(exc)}


def _plain(shape: object) -> Any:
    return msgspec.to_builtins(shape)
