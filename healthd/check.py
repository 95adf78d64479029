"""What can be found wrong before anything is started."""

from healthd.cameras.factory import make_sources
from healthd.daemon import load_installed_plugins
from healthd.settings import Settings


async def check_cameras(settings: Settings) -> list[str]:
    """Make the source of every enabled camera; return what is wrong, a line each. No camera and no model is opened."""
    plugins = await load_installed_plugins()
    made = await make_sources(plugins.sources, {n: c for n, c in settings.cameras.items() if c.enabled})
    return [f"cameras.{name}: {reason}" for name, reason in made.items() if isinstance(reason, str)]


async def list_plugins() -> list[str]:
    """Return a line for every installed plugin; broken ones say why."""
    plugins = await load_installed_plugins()
    lines = [
        f"{plugin.name:<20} {plugin.group:<24} {plugin.distribution} {plugin.version}  "
        + ("loaded" if plugin.target is not None else f"BROKEN: {plugin.reason}")
        for group in (plugins.sources, plugins.families)
        for plugin in group
    ]
    return lines or ["no plugin is installed: pip install healthd-yolo"]
