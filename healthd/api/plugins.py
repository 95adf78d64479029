"""Plugins: what is installed, what is broken and why, who uses it."""

from collections.abc import Iterator
from typing import Any

import structlog
from litestar import get
from pydantic import BaseModel

from healthd.api import schemas
from healthd.api.services import House, Services
from healthd.plugins import Plugins

log = structlog.get_logger(__name__)


@get("/plugins", summary="Installed plugins", tags=["plugins"])
async def plugins(services: House) -> list[schemas.Plugin]:
    """Every installed plugin: state and reason, what it did at import, who uses it, its settings as JSON Schema."""
    return plugins_of(services)


def plugins_of(services: Services) -> list[schemas.Plugin]:
    """Shape all plugins."""
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
            state=plugin.state,
            reason=plugin.reason,
            notes=list(plugin.notes),
            cameras=users,
            settings=None if target is None else _json_schema(target.options_model),
        )


def _json_schema(model: type[BaseModel]) -> dict[str, Any] | None:
    """Describe the settings of a plugin; None where they cannot be described, so that the others still are."""
    try:
        return model.model_json_schema()
    except Exception as exc:  # noqa: BLE001  a plugin's own code runs here
        log.warning("plugin_settings_undescribed", model=model.__name__, error=repr(exc))
        return None
