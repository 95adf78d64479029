"""Makes the sources of the configured cameras from the installed plugins."""

from collections.abc import Mapping
from typing import Any

import structlog

from healthd.cameras.source import CameraSource
from healthd.errors import HealthdError, SettingsError
from healthd.plugins import Plugins, validated_options
from healthd.redact import SCRUBBER, SourceUrl
from healthd.settings import CameraSettings
from healthd.worker import Worker

log = structlog.get_logger(__name__)
MAKE_SECONDS = 5.0
"""A constructor does nothing; one that takes longer is broken."""


def make_source(plugins: Plugins[type[CameraSource]], name: str, settings: CameraSettings) -> CameraSource:
    """Make the source of one camera; blocking only if the plugin breaks its contract.

    Raises:
        SettingsError: no such plugin, it is broken, or it refuses the settings; the message names key and reason.
    """
    return build_source(
        plugins.get(settings.plugin),
        name,
        plugin_name=settings.plugin,
        url=settings.url,
        options=settings.options,
        open_timeout_seconds=settings.open_timeout_seconds,
        stall_timeout_seconds=settings.stall_timeout_seconds,
    )


def build_source(
    plugin: type[CameraSource],
    name: str,
    *,
    plugin_name: str,
    url: SourceUrl | None,
    options: dict[str, Any],
    open_timeout_seconds: float,
    stall_timeout_seconds: float,
) -> CameraSource:
    """Make a source from its camera's name and settings alone, here or in another process; raises as `make_source`."""
    validated = validated_options(plugin.options_model, options, where=f"cameras.{name}.options")
    try:
        source = _complete(plugin(name, url=url, options=validated))
        source.open_timeout_seconds = open_timeout_seconds
        source.stall_timeout_seconds = stall_timeout_seconds
    except HealthdError:
        raise
    except Exception as exc:
        log.exception("source_bug", camera=name, plugin=plugin_name)
        raise SettingsError(SCRUBBER.scrub(f"plugin `{plugin_name}` failed: {type(exc).__name__}: {exc}")) from exc
    return source


def _complete(source: object) -> CameraSource:
    """Ask a new source for everything that is asked of it later outside of any retry, so that it fails here."""
    if not isinstance(source, CameraSource):
        raise TypeError(f"made {type(source).__name__}, not a CameraSource")
    _ = source.name, source.params, source.recording, source.model_id
    return source


_HUNG: dict[tuple[str, str], Worker] = {}
"""By camera and plugin: the thread that did not come back from making it. Event loop only."""


async def make_sources(
    plugins: Plugins[type[CameraSource]], cameras: Mapping[str, CameraSettings]
) -> dict[str, CameraSource | str]:
    """Make the sources of all cameras; in place of one that cannot be made stands the reason."""
    made: dict[str, CameraSource | str] = {}
    for name, settings in cameras.items():
        hung = _HUNG.pop((name, settings.plugin), None)
        if hung is not None and hung.alive:  # each reload would cost one more thread
            _HUNG[name, settings.plugin] = hung
            made[name] = SCRUBBER.scrub(f"plugin `{settings.plugin}` still hangs in making its camera: restart healthd")
            continue
        worker = Worker(f"{name}-make")
        worker.start()
        try:
            made[name] = await worker.call(
                lambda name=name, settings=settings: make_source(plugins, name, settings),  # type: ignore[misc]
                timeout=MAKE_SECONDS,
                late=f"plugin `{settings.plugin}` did not make its camera",
            )
        except HealthdError as exc:
            made[name] = SCRUBBER.scrub(str(exc))
        except RuntimeError as exc:  # a constructor that raises SystemExit, or worse
            made[name] = SCRUBBER.scrub(f"plugin `{settings.plugin}` failed: {exc}")
        finally:
            worker.close()
            if worker.busy:
                _HUNG[name, settings.plugin] = worker
    return made


def models_of(made: Mapping[str, CameraSource | str | None]) -> dict[str, str]:
    """Return the model of each camera that says which it has."""
    said: dict[str, str] = {}
    for name, source in made.items():
        if isinstance(source, CameraSource) and isinstance(model_id := source.model_id, str):
            said[name] = model_id
    return said
