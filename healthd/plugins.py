"""Plugins: entry points by name. One that cannot be loaded is listed with its reason and hurts nobody else."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, get_args

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from healthd.errors import PluginError, SettingsError
from healthd.redact import MASK, SCRUBBER
from healthd.worker import Worker, WorkerTimeout

SOURCES = "healthd.camera_sources"
FAMILIES = "healthd.model_families"
DEMOS = "healthd.demos"
IMPORT_SECONDS = 20.0
_QUOTING = {"value_error", "assertion_error", "union_tag_invalid", "import_error"}
_FIXED_MESSAGES = set(get_args(ErrorType)) - _QUOTING
"""Errors of pydantic whose messages are its own; all others may quote the value."""

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
        problems = "; ".join(_problem(error, model, where) for error in exc.errors(include_url=False))
    except Exception as exc:
        log.exception("options_bug", model=model.__name__, where=where)
        problems = f"{where}: {model.__name__} of the plugin failed at them: {type(exc).__name__}"
    raise SettingsError(SCRUBBER.scrub(problems)) from None


def _problem(error: Any, model: type[BaseModel], where: str) -> str:
    key = ".".join([where, *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest_key(model, error['loc'])}"
    if error["type"] == "missing":
        return f"{key}: missing, but this plugin needs it"
    quoting = error["type"] not in _FIXED_MESSAGES
    return f"{key}: {_without_values(error['msg'], error.get('input'), quoting=quoting)}"


def _nearest_key(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """Say which key may have been meant, or which there are."""
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ""
        model = inner
    near = get_close_matches(str(path[-1]), model.model_fields, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(model.model_fields) or 'none'}"


def _without_values(message: str, value: object, *, quoting: bool) -> str:
    """Take what was configured out of a message: it may be a secret. `quoting`: the message may quote it."""
    texts = {text for leaf in _leaves(value) for text in (leaf, repr(leaf)[1:-1]) if quoting or len(text) >= 4}
    for text in sorted(texts, key=len, reverse=True):
        whole_word = re.escape(text) if len(text) >= 4 else rf"(?<!\w){re.escape(text)}(?!\w)"
        message = re.sub(whole_word, MASK, message)
    return message


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool) and str(value):
        yield str(value)


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
    if point.dist is None:
        return "unknown", "unknown"
    return point.dist.name or "unknown", point.dist.version or "unknown"


def _load(point: EntryPoint, check: Callable[[Any], T]) -> Plugin[T]:
    distribution, version = _owner(point)
    target: T | None = None
    reason: str | None = None
    try:
        target = check(point.load())
    except PluginError as exc:
        reason = SCRUBBER.scrub(str(exc))
    except BaseException as exc:  # an import may raise anything: SystemExit, and worse
        reason = SCRUBBER.scrub(_told(exc))
        log.warning("plugin_broken", plugin=point.name, distribution=distribution, reason=reason, exc_info=True)
    return Plugin(
        name=point.name, group=point.group, distribution=distribution, version=version, target=target, reason=reason
    )


def _told(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  an error that cannot even be told
        text = ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


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
        options = getattr(loaded, "options_model", None)
        if not (isinstance(options, type) and issubclass(options, getattr(base, "options_model", BaseModel))):
            raise PluginError(f"{loaded.__name__}.options_model is {options!r:.80}, not a model of pydantic for this")
        wanted = getattr(loaded, "contract", None)
        if wanted != contract:
            raise PluginError(
                f"written for contract {wanted}, this healthd speaks contract {contract}: "
                f"{'upgrade healthd' if isinstance(wanted, int) and wanted > contract else 'upgrade the plugin'}"
            )
        return loaded

    return check
