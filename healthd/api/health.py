"""Process: is it alive, is it ready, how does it do."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from healthd import __version__
from healthd.api import schemas
from healthd.api.auth import TooManyAttempts, client_behind
from healthd.api.services import House, Services
from healthd.cameras.health import State
from healthd.cpus import usable_cpus
from healthd.metrics import CONTENT_TYPE
from healthd.process import process_usage, versions
from healthd.redact import SCRUBBER

OPEN = {"open": True}


@get("/healthz", opt=OPEN, summary="Does the process work", tags=["process"])
async def healthz() -> schemas.Status:
    """200 as long as the process works, during a drain too, whatever the cameras do."""
    return schemas.Status("ok")


@get(
    "/readyz",
    opt=OPEN,
    summary="Should it get traffic",
    tags=["process"],
    responses={503: ResponseSpec(schemas.Status, description="`starting` or `draining`.")},
)
async def readyz(services: House) -> Response[schemas.Status]:
    """200 `ready`; 503 `starting` or `draining`."""
    readiness = services.readiness
    return Response(
        schemas.Status(readiness),
        status_code=200 if readiness == "ready" else 503,
        headers={"Cache-Control": "no-store"},
    )


@get(
    "/health",
    opt=OPEN,
    summary="Health for people and uptime monitors",
    tags=["process"],
    responses={503: ResponseSpec(schemas.Health, description="`strict`, and an enabled camera is not live.")},
)
async def health(
    services: House,
    request: Request[Any, Any, Any],
    strict: Annotated[bool, Parameter(description="503 when an enabled camera is not live.")] = False,  # noqa: FBT002  a query parameter
) -> Response[schemas.Health]:
    """Status, uptime, cameras by state, models loaded; the version for those alone who have a key."""
    dark = [
        runner.name
        for runner in services.supervisor
        if runner.settings.enabled and runner.health.state is not State.LIVE
    ]
    body = schemas.Health(
        status=services.readiness if services.readiness != "ready" else "degraded" if dark else "ok",
        version=__version__ if await _is_known(services, request) else None,
        uptime_seconds=round(services.uptime_seconds, 1),
        cameras=dict(services.supervisor.by_state()),
        models_loaded=len(services.models.loaded()),
        safe_mode=services.settings.server.safe_mode,
    )
    return Response(body, status_code=503 if strict and dark else 200, headers={"Cache-Control": "no-store"})


@get("/metrics", opt=OPEN, summary="Prometheus metrics", tags=["process"], media_type="text/plain")
async def metrics(services: House, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Prometheus text, read at this moment; versions for those alone who have a key."""
    return Response(services.metrics.render(versions=await _is_known(services, request)), media_type=CONTENT_TYPE)


async def _is_known(services: Services, request: Request[Any, Any, Any]) -> bool:
    """Tell whether somebody asks who may read; who has tried too many keys is a stranger."""
    try:
        found = await services.auth.recognise(request.headers, request.cookies, client=client_behind(request))
    except TooManyAttempts:
        return False
    return found is not None


@get("/state", summary="The daemon at a glance", tags=["process"])
async def state(services: House) -> schemas.DaemonState:
    """Version, uptime, cameras by state, viewers, models loaded, what it is waiting for, and what it takes."""
    return daemon_state(services)


def daemon_state(services: Services) -> schemas.DaemonState:
    """Shape the state of the daemon."""
    usage, share = process_usage(), services.history.cpu_share
    return schemas.DaemonState(
        status=services.readiness,
        version=__version__,
        started_at=services.started_at,
        uptime_seconds=round(services.uptime_seconds, 3),
        cameras=dict(services.supervisor.by_state()),
        viewers=len(services.viewers),
        models_loaded=len(services.models.loaded()),
        safe_mode=services.settings.server.safe_mode,
        waiting_for=[SCRUBBER.scrub_label(what) for what in services.waiting_for],
        restart_needed=list(services.restart_needed),
        process=schemas.Process(
            cpu_seconds=round(usage.cpu_seconds, 3),
            cpu_share=round(share, 3) if share is not None else None,
            cpus=usable_cpus(),
            resident_memory_bytes=usage.resident_memory_bytes,
            threads=usage.threads,
            open_fds=usage.open_fds,
        ),
        versions={"healthd": __version__, **versions()},
    )


process_router = Router("/", route_handlers=[healthz, readyz, health, metrics])
