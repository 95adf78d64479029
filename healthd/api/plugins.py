"""Plugins: what is installed, what is broken and why, who uses it."""

from collections.abc import Iterator
from typing import Any

from litestar import get

from healthd.api import schemas
from healthd.api.services import Services
from healthd.plugins import Plugins


@get("/plugins", summary="Installed plugins", tags=["plugins"])
async def plugins(services: Services) -> list[schemas.Plugin]:
    """Every installed plugin: state, reason, the cameras that use it, its settings as JSON Schema."""
    return [*_shapes(services, services.sources, sources=True), *_shapes(services, services.families, sources=False)]


def _shapes(services: Services, group: Plugins[Any], *, sources: bool) -> Iterator[schemas.Plugin]:
    for plugin in group:
        users = [runner.name for runner in services.supervisor if sources and runner.settings.plugin == plugin.name]
        target = plugin.target
        yield schemas.Plugin(
            name=plugin.name,
            group=plugin.group,
            distribution=plugin.distribution,
            version=plugin.version,
            state="broken" if target is None else "loaded",
            reason=plugin.reason,
            cameras=users,
            settings=None if target is None else target.options_model.model_json_schema(),
        )
