"""The configuration: read it again."""

from litestar import post
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec

from healthd.api import schemas
from healthd.api.services import House, Services
from healthd.errors import NotHereError
from healthd.redact import SCRUBBER
from healthd.settings_changes import Reloaded
from healthd.settings_tree import ConfigError


@post(
    "/config/reload",
    status_code=200,
    summary="Read the configuration file again",
    tags=["process"],
    responses={
        409: ResponseSpec(schemas.Error, description="The daemon was started without a file."),
        422: ResponseSpec(schemas.Error, description="The file cannot be used: `extra` names every reason."),
        503: ResponseSpec(schemas.Error, description="The daemon stops, or the file cannot be read now."),
    },
)
async def reload(services: House) -> schemas.ConfigReload:
    """Take what has changed into effect: cameras come, go and are restarted one by one, the others notice nothing.

    A file that cannot be used changes nothing.
    """
    return _shape(await reloaded(services))


async def reloaded(services: Services) -> Reloaded:
    """Reload; raises as `Reloader.reload` does, with every problem of the file in the answer."""
    if services.reload is None:
        raise NotHereError("this daemon cannot read its configuration again: restart it")
    try:
        return await services.reload()
    except ConfigError as exc:
        problems = [
            {
                "source": problem.origin,
                "key": problem.key,
                "message": SCRUBBER.scrub(_message(problem.reason, problem.nearest)),
            }
            for problem in exc.problems
        ]
        raise HTTPException(str(exc), status_code=422, extra=problems) from None


def _message(reason: str, nearest: str | None) -> str:
    return f"{reason}; did you mean `{nearest}`?" if nearest else reason


def _shape(done: Reloaded) -> schemas.ConfigReload:
    return schemas.ConfigReload(
        added=list(done.added),
        removed=list(done.removed),
        restarted=list(done.restarted),
        changed=list(done.changed),
        restart_needed=list(done.restart_needed),
    )
