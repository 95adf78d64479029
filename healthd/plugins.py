"""Plugins: entry points by name. One that cannot be loaded is listed with its reason and hurts nobody else.

They are imported one after another, each on a thread of its own, and watched while they are (`plugin_watch`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar, get_args

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from healthd.errors import PluginError, SettingsError
from healthd.log_writer import drain_log
from healthd.plugin_watch import ImportWatch
from healthd.printed import flush_c_stdout
from healthd.redact import MASK, SCRUBBER
from healthd.worker import Worker, WorkerTimeout

SOURCES = "healthd.camera_sources"
FAMILIES = "healthd.model_families"
DEMOS = "healthd.demos"
IMPORT_SECONDS = 20.0
OWN = frozenset({"healthd", "healthd-yolo", "healthd-snapshot-url", "healthd-faults"})
"""The distributions that this project publishes: what safe mode loads."""
BROUGHT_BY = {"yolo-pose": "healthd-yolo", "yolo-detect": "healthd-yolo", "snapshot-url": "healthd-snapshot-url"}
"""Which of them brings a plugin: what to install when it is missing."""
SAFE_MODE = (
    "not imported in safe mode, which loads only what the healthd project publishes; start healthd without --safe-mode "
    "and server.safe_mode to load it, or uninstall it"
)
_WRITTEN_SECONDS = 0.2
_MAIN_THREAD = (
    "; a plugin is imported on a thread of its own and handles no signals, healthd does: remove that call, or make it "
    "in a process of your own"
)
_QUOTING = {"value_error", "assertion_error", "union_tag_invalid", "import_error"}
_FIXED_MESSAGES = set(get_args(ErrorType)) - _QUOTING
"""Errors of pydantic whose messages are its own; all others may quote the value."""

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=BaseModel)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plugin(Generic[T]):
    """One installed entry point: loaded, broken with a reason, or skipped: not imported, with a reason."""

    name: str
    group: str
    distribution: str
    version: str
    target: T | None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    """What it did to others while it was imported, a sentence each."""
    skipped: bool = False

    @property
    def state(self) -> Literal["loaded", "broken", "skipped"]:
        """What became of it, in the word of the API."""
        return "skipped" if self.skipped else "broken" if self.target is None else "loaded"

    def require(self) -> T:
        """Return the loaded class.

        Raises:
            PluginError: the plugin is not loaded; with the reason.
        """
        if self.target is None:
            raise PluginError(
                f"plugin `{self.name}` ({self.distribution} {self.version}) is {self.state}: {self.reason}"
            )
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
            PluginError: no plugin of that name is installed, or it is not loaded.
        """
        plugin = self._plugins.get(name)
        if plugin is None:
            near = get_close_matches(name, self._plugins, n=1)
            remedy = f"did you mean `{near[0]}`? Otherwise {_install(name)}" if near else _install(name)
            known = ", ".join(self._plugins) or "none"
            raise PluginError(f"no plugin `{name}` is installed (installed: {known}); {remedy}")
        return plugin.require()

    @property
    def skipped(self) -> dict[str, Plugin[T]]:
        """Those that were not imported, by name."""
        return {plugin.name: plugin for plugin in self if plugin.skipped}


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group that are installed in this environment."""
    return tuple(entry_points(group=group))


async def load_plugins(
    group: str,
    points: Iterable[EntryPoint],
    *,
    check: Callable[[Any], T],
    timeout_seconds: float = IMPORT_SECONDS,
    safe_mode: bool = False,
) -> Plugins[T]:
    """Import entry points, each on a thread of its own; `check` returns the target or raises PluginError.

    An import that fails in any way, or takes longer than `timeout_seconds`, makes a broken plugin, never an error.
    `safe_mode`: only those of the project's own distributions are imported.
    """
    loading = _Loading(check, timeout_seconds)
    return Plugins(
        group,
        _without_doubles(
            [_skipped(point) if safe_mode and not _own(point) else await loading.of(point) for point in points]
        ),
    )


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


class _Loading(Generic[T]):
    """Imports entry points, one at a time. Lives for the plugins of one group."""

    def __init__(self, check: Callable[[Any], T], timeout_seconds: float) -> None:
        self._check = check
        self._timeout_seconds = timeout_seconds
        self._given_up: dict[str, tuple[str, Worker]] = {}
        """By module: the plugin whose import did not end, and the thread that it may still run on."""

    async def of(self, point: EntryPoint) -> Plugin[T]:
        """Import one; it becomes a plugin in any case."""
        if point.module in self._given_up:  # it would wait for the same import, as long again
            first = self._given_up[point.module][0]
            return _failed(point, f"its module is that of `{first}`, which was not imported in time")
        distribution, version = _owner(point)
        log.info("plugin_importing", plugin=point.name, distribution=distribution, version=version)
        worker = Worker(f"import-{point.name}")
        worker.start()
        error: BaseException | None = None
        with ImportWatch() as watch:
            try:
                plugin, error = await worker.call(
                    lambda: _load(point, self._check), timeout=self._timeout_seconds, late="not imported"
                )
            except WorkerTimeout as exc:
                others = "".join(f", or it waits for the import of `{name}`" for name in self._running())
                plugin = _failed(
                    point, f"{exc}: open cameras and load models in camera() and model(), not at import{others}"
                )
                self._given_up[point.module] = (point.name, worker)
            finally:
                worker.close()
        if worker.abandoned:
            seconds = self._timeout_seconds
            log.warning("plugin_import_stuck", plugin=point.name, distribution=distribution, seconds=seconds)
        elif plugin.target is None:
            reason = plugin.reason
            log.warning("plugin_broken", plugin=point.name, distribution=distribution, reason=reason, exc_info=error)
        return self._noted(plugin, watch)

    def _running(self) -> list[str]:
        """Return the plugins whose import was given up and goes on."""
        return [name for name, worker in self._given_up.values() if worker.alive]

    def _noted(self, plugin: Plugin[T], watch: ImportWatch) -> Plugin[T]:
        notes = list(watch.notes)
        others = [name for name in self._running() if name != plugin.name]
        if notes and others:
            notes.append(f"or it was {', '.join(others)}, whose import was given up and still runs")
        who = {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
        if watch.printed.text.strip():
            log.info("plugin_printed", **who, text=SCRUBBER.scrub(watch.printed.text.strip()), cut=watch.printed.cut)
        if notes:
            log.warning("plugin_misbehaved", **who, did=notes)
        return replace(plugin, notes=tuple(notes))


def _own(point: EntryPoint) -> bool:
    return re.sub(r"[-_.]+", "-", _owner(point)[0]).lower() in OWN


def _owner(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown", "unknown"
    return point.dist.name or "unknown", point.dist.version or "unknown"


def _install(name: str) -> str:
    brought_by = BROUGHT_BY.get(name)
    return f"pip install {brought_by}" if brought_by else "pip install the distribution that brings it"


def _skipped(point: EntryPoint) -> Plugin[Any]:
    return Plugin(point.name, point.group, *_owner(point), target=None, reason=SAFE_MODE, skipped=True)


def _failed(point: EntryPoint, reason: str) -> Plugin[Any]:
    return Plugin(point.name, point.group, *_owner(point), target=None, reason=SCRUBBER.scrub(reason))


def _load(point: EntryPoint, check: Callable[[Any], T]) -> tuple[Plugin[T], BaseException | None]:
    """Import and check one, on the thread of its import; return it and, of a bug, the error."""
    drain_log(_WRITTEN_SECONDS)  # an import that ends the process leaves `plugin_importing` as the last line
    try:
        return Plugin(point.name, point.group, *_owner(point), target=check(point.load())), None
    except PluginError as exc:
        return _failed(point, str(exc)), None
    except BaseException as exc:  # noqa: BLE001  an import may raise anything: SystemExit, and worse
        return _failed(point, _told(exc)), exc
    finally:
        flush_c_stdout()


def _told(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  an error that cannot even be told
        text = ""
    told = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    return told + _MAIN_THREAD if isinstance(exc, ValueError) and text.startswith("signal only works in main") else told


def _without_doubles(plugins: list[Plugin[T]]) -> list[Plugin[T]]:
    """Two distributions that claim one name: neither is right, both are named. One that is skipped claims nothing."""
    owners: dict[str, list[Plugin[T]]] = {}
    for plugin in sorted(plugins, key=lambda plugin: plugin.skipped):
        same = owners.setdefault(plugin.name, [])
        if not plugin.skipped or not same:
            same.append(plugin)
    kept = []
    for same in owners.values():
        first = same[0]
        names = sorted({plugin.distribution for plugin in same})
        if len(names) > 1:
            reason = f"several distributions claim this name: {', '.join(names)}; uninstall all but one"
            notes = tuple(note for plugin in same for note in plugin.notes)
            first = Plugin(first.name, first.group, ", ".join(names), first.version, None, reason, notes)
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
        _check_contract(loaded, contract)
        return loaded

    return check


def _check_contract(loaded: type, contract: int) -> None:
    """Compare the version of the contract that a plugin was written for, which no class of healthd says for it."""
    wanted = getattr(loaded, "contract", None)
    if type(wanted) is int and wanted == contract:
        return
    speaks = f"this healthd speaks contract {contract}"
    if wanted is None:
        raise PluginError(
            f"{loaded.__name__} does not say which contract it was written for, {speaks}: upgrade the plugin; its "
            f"author adds the line `contract = {contract}` to {loaded.__name__}"
        )
    if type(wanted) is int and wanted > contract:
        raise PluginError(f"written for contract {wanted}, {speaks}: upgrade healthd")
    raise PluginError(
        f"written for contract {wanted!r:.40}, {speaks}: upgrade the plugin; its author adapts it and writes "
        f"`contract = {contract}` in {loaded.__name__}"
    )
