"""Which plugin is tried, and with what: found by its name or given as a class, made as the daemon makes it."""

import asyncio
import functools
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar

from healthd.cameras.factory import make_source
from healthd.cameras.source import CameraSource
from healthd.daemon import check_family, check_source
from healthd.errors import PluginError
from healthd.frames import Image
from healthd.models.model import ModelFamily, ModelOptions, ModelSpec
from healthd.plugins import FAMILIES, SOURCES, Plugin, Plugins, installed, load_plugins, validated_options
from healthd.redact import SourceUrl
from healthd.settings import CameraSettings

T = TypeVar("T", CameraSource, ModelFamily)
_CACHE_BYTES = 1 << 30
CAMERA = "conformance"
"""The name that the camera has while it is tried."""


@dataclass(frozen=True, slots=True)
class SourceCase:
    """A camera source and the settings with which it is tried."""

    plugin: str | type[CameraSource]
    """Name of the entry point, as in a configuration; or the class itself."""
    url: SourceUrl | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fps: float | None = None
    """Images per second that it shall deliver; None: whatever it does."""
    gone_url: SourceUrl | None = None
    """An address of the same kind where no camera is; None: made from `url`."""
    models_directory: Path = Path("models")
    open_timeout_seconds: float = 10.0
    stall_timeout_seconds: float = 5.0

    def source_class(self) -> type[CameraSource]:
        """Return the class behind the name; raise PluginError as the daemon would tell it."""
        return _named(SOURCES, self.plugin) if isinstance(self.plugin, str) else check_source(self.plugin)

    def make(self, url: SourceUrl | None, *, open_timeout_seconds: float | None = None) -> CameraSource:
        """Make the source for an address, as the daemon does.

        Raises:
            SettingsError: the plugin is broken or refuses the settings.
        """
        name = self.plugin if isinstance(self.plugin, str) else self.plugin.__name__
        plugin = Plugin(name, SOURCES, "this", "0", self.source_class())
        settings = CameraSettings(
            plugin=name,
            url=url,
            options=dict(self.options),
            open_timeout_seconds=open_timeout_seconds or self.open_timeout_seconds,
            stall_timeout_seconds=self.stall_timeout_seconds,
        )
        return make_source(Plugins(SOURCES, [plugin]), CAMERA, settings)

    def somewhere_else(self) -> SourceUrl | None:
        """Return an address of the same kind at which no camera is; None: nobody knows one."""
        if self.gone_url is not None or self.url is None:
            return self.gone_url
        if self.url.path is not None:
            return SourceUrl(f"{self.url.path}.gone")
        if self.url.scheme == "file":
            return SourceUrl(f"{self.url.reveal()}.gone")
        return SourceUrl(f"{self.url.scheme}://127.0.0.1:{_closed_port()}/gone")


@dataclass(frozen=True, slots=True)
class FamilyCase:
    """A family of models and the model with which it is tried."""

    plugin: str | type[ModelFamily]
    """Name of the entry point; or the class itself."""
    model: str = ""
    """A path, or a name in `models_directory`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    picture: Image | None = None
    """A picture in which the model finds something; without one some rules cannot be tried."""
    models_directory: Path = Path("models")
    cache_directory: Path | None = None
    """Where the family may keep what it compiles; None: nowhere."""
    predict_timeout_seconds: float = 60.0

    def family_class(self) -> type[ModelFamily]:
        """Return the class behind the name; raise PluginError as the daemon would tell it."""
        return _named(FAMILIES, self.plugin) if isinstance(self.plugin, str) else check_family(self.plugin)

    def family(self) -> ModelFamily:
        """Make the family, as the daemon does."""
        return self.family_class()()

    def spec(self, path: Path | None = None) -> ModelSpec:
        """Return which model to load, and how; of another file, if one is given.

        Raises:
            SettingsError: the family refuses the options.
        """
        options: ModelOptions = validated_options(
            self.family_class().options_model, dict(self.options), where="options"
        )
        if path is not None:
            return self._spec(path.name, path if path.exists() else None, path.parent, options)
        places = (Path(self.model), self.models_directory / self.model)
        found = next((place for place in places if self.model and place.exists()), None)
        return self._spec(self.model, found, self.models_directory, options)

    def _spec(self, model_id: str, path: Path | None, directory: Path, options: ModelOptions) -> ModelSpec:
        cache = self.cache_directory
        return ModelSpec(model_id, path, directory, options, cache_directory=cache, cache_max_bytes=_CACHE_BYTES)


def _named(group: str, name: str) -> Any:
    points = tuple(point for point in installed(group) if point.name == name)
    if not points:
        others = ", ".join(sorted({point.name for point in installed(group)})) or "none"
        raise PluginError(f"no plugin `{name}` is installed under {group} (installed: {others}); pip install it first")
    return _imported(group, points).get(name)


@functools.cache
def _imported(group: str, points: tuple[EntryPoint, ...]) -> Plugins[Any]:
    check: Any = check_source if group == SOURCES else check_family
    return asyncio.run(load_plugins(group, points, check=check))


def import_notes(plugin: str, *, family: bool) -> tuple[str, ...]:
    """Import what `importable_name` names as the daemon does, for the first time; return what that did to others.

    Raises:
        PluginError: it is broken.
    """
    group = FAMILIES if family else SOURCES
    named = tuple(point for point in installed(group) if point.name == plugin)
    loaded = _imported(group, named or (EntryPoint(plugin, plugin, group),))
    loaded.get(plugin)
    return tuple(note for one in loaded for note in one.notes)


def importable_name(plugin: str | type[Any]) -> str | None:
    """Return how another process finds the class: the name of its entry point, or `module:Class`; None: not at all."""
    if isinstance(plugin, str):
        return plugin
    module = sys.modules.get(plugin.__module__)
    reachable = module is not None and getattr(module, plugin.__qualname__, None) is plugin
    in_a_test = module is None or module.__name__ == "__main__" or "test_" in module.__name__.rpartition(".")[2]
    return f"{plugin.__module__}:{plugin.__qualname__}" if reachable and not in_a_test else None


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
