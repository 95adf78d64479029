"""Plugins: entry points by name. One that cannot be loaded is listed with its reason and hurts nobody else."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import structlog
from pydantic import BaseModel, ValidationError

from healthd.errors import PluginError, SettingsError
from healthd.redact import SCRUBBER
from healthd.worker import Worker, WorkerTimeout

SOURCES = "healthd.camera_sources"
FAMILIES = "healthd.model_families"
DEMOS = "healthd.demos"
IMPORT_SECONDS = 20.0

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=BaseModel)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plugin(Generic[T]):
    """One installed entry point: either loaded, or broken with a reason."""

    name: str
    group: str
    distribution: str
    version: str
    target: T | None
    reason: str | None = None

    def require(self) -> T:
        """Return the loaded class.

        Raises:
            PluginError: the plugin is broken; with the reason.
        """
        if self.target is None:
            raise PluginError(f"plugin `{self.name}` ({self.distribution} {self.version}) is broken: {self.reason}")
        return self.target


class Plugins(Generic[T]):
    """The plugins of one group, by name, in the order of their names."""

    def __init__(self, group: str, plugins: Iterable[Plugin[T]]) -> None:
        self.group = group
        self._plugins = {plugin.name: plugin for plugin in sorted(plugins, key=lambda plugin: plugin.name)}

    def __iter__(self) -> Iterator[Plugin[T]]:
        return iter(self._plugins.values())

    def get(self, name: str) -> T:
        """Return the class behind a name.

        Raises:
            PluginError: no plugin of that name is installed, or it is broken.
        """
        plugin = self._plugins.get(name)
        if plugin is None:
            near = get_close_matches(name, self._plugins, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            known = ", ".join(self._plugins) or "none"
            raise PluginError(f"no plugin `{name}` is installed (installed: {known}){hint}")
        return plugin.require()


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group that are installed in this environment."""
    return tuple(entry_points(group=group))


async def load_plugins(
    group: str,
    points: Iterable[EntryPoint],
    *,
    check: Callable[[Any], T],
    timeout_seconds: float = IMPORT_SECONDS,
) -> Plugins[T]:
    """Import entry points, each on a thread of its own; `check` returns the target or raises PluginError.

    An import that fails in any way, or takes longer than `timeout_seconds`, makes a broken plugin, never an error.
    """
    return Plugins(group, _without_doubles([await _load_bounded(point, check, timeout_seconds) for point in points]))


def validated_options(model: type[OptionsT], options: dict[str, Any], *, where: str) -> OptionsT:
    """Validate what the configuration says under `options` against a plugin's own settings model.

    Raises:
        SettingsError: with every wrong key, its reason and the nearest known key; never with a value.
    """
    try:
        return model.model_validate(options)
    except ValidationError as exc:
        problems = "; ".join(
            _problem(error, model, where) for error in exc.errors(include_input=False, include_url=False)
        )
        raise SettingsError(SCRUBBER.scrub(problems)) from None


def _problem(error: Any, model: type[BaseModel], where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields)
        near = get_close_matches(key, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known) or 'none'}"
        return f"{where}.{key}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{where}.{key}: missing, but this plugin needs it"
    return f"{where}.{key}: {error['msg']}"


async def _load_bounded(point: EntryPoint, check: Callable[[Any], T], timeout_seconds: float) -> Plugin[T]:
    worker = Worker(f"import-{point.name}")
    worker.start()
    try:
        return await worker.call(lambda: _load(point, check), timeout=timeout_seconds, late="not imported")
    except WorkerTimeout as exc:
        log.warning("plugin_import_stuck", plugin=point.name, seconds=timeout_seconds)
        distribution, version = _owner(point)
        return Plugin(point.name, point.group, distribution, version, target=None, reason=str(exc))
    finally:
        worker.close()


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")


def _load(point: EntryPoint, check: Callable[[Any], T]) -> Plugin[T]:
    distribution, version = _owner(point)
    target: T | None = None
    reason: str | None = None
    try:
        target = check(point.load())
    except PluginError as exc:
        reason = str(exc)
    except BaseException as exc:  # an import may raise anything, SystemExit included
        if isinstance(exc, KeyboardInterrupt):
            raise
        reason = SCRUBBER.scrub(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)
        log.warning("plugin_broken", plugin=point.name, distribution=distribution, exc_info=True)
    return Plugin(
        name=point.name, group=point.group, distribution=distribution, version=version, target=target, reason=reason
    )


def _without_doubles(plugins: list[Plugin[T]]) -> list[Plugin[T]]:
    """Two distributions that claim one name: neither is right, both are named."""
    owners: dict[str, list[Plugin[T]]] = {}
    for plugin in plugins:
        owners.setdefault(plugin.name, []).append(plugin)
    kept = []
    for same in owners.values():
        first = same[0]
        names = sorted({plugin.distribution for plugin in same})
        if len(names) > 1:
            reason = f"several distributions claim this name: {', '.join(names)}; uninstall all but one"
            first = Plugin(first.name, first.group, ", ".join(names), first.version, None, reason)
        kept.append(first)
    return kept


def checked_class(base: type[T], *, contract: int) -> Callable[[Any], type[T]]:
    """Return a check for `load_plugins`: a concrete subclass of `base`, written for this version of the contract."""

    def check(loaded: Any) -> type[T]:
        if not isinstance(loaded, type) or not issubclass(loaded, base):
            raise PluginError(f"the entry point names {loaded!r:.80}, not a subclass of {base.__name__}")
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        if missing:
            raise PluginError(f"{loaded.__name__} does not implement {', '.join(missing)}")
        wanted = getattr(loaded, "contract", None)
        if wanted != contract:
            raise PluginError(
                f"written for contract {wanted}, this healthd speaks contract {contract}: "
                f"{'upgrade healthd' if isinstance(wanted, int) and wanted > contract else 'upgrade the plugin'}"
            )
        return loaded

    return check
