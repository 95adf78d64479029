"""The settings in effect."""

from litestar import get

from healthd.api.panel_schemas import Setting
from healthd.api.services import House, Services
from healthd.models.catalog import public_id
from healthd.settings_view import shown_settings

_MODELS = ("models.default", "models.preload")


@get("/settings", summary="The settings in effect", tags=["process"])
async def settings(services: House) -> list[Setting]:
    """Every setting without secrets, and where its value comes from."""
    return settings_of(services)


def settings_of(services: Services) -> list[Setting]:
    """Shape the settings."""
    return [
        Setting(shown.key, _public(shown.value) if shown.key in _MODELS else shown.value, shown.origin, shown.name)
        for shown in shown_settings(services.settings)
    ]


def _public(value: object) -> object:
    return [_public(one) for one in value] if isinstance(value, list) else public_id(str(value)) if value else value
