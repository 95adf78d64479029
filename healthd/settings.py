"""All settings of the daemon: one TOML file, the environment on top.

`load_settings` reads them from a file and the environment, and reports everything that is wrong at once. The sections
stand in `settings_sections.py` and `settings_server.py`; a new one is a model there and a field of `Settings` here.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from healthd.redact import SourceUrl
from healthd.settings_base import Name, Section
from healthd.settings_env import EnvironmentSource
from healthd.settings_file import FileSource, read_toml
from healthd.settings_sections import (
    CameraSettings,
    ConfigSettings,
    InferenceSettings,
    JobsSettings,
    LogSettings,
    ModelsSettings,
    PerformanceSettings,
    ShutdownSettings,
    SnapshotsSettings,
    StreamsSettings,
)
from healthd.settings_server import SHORTEST_KEY, ApiKey, AuthSettings, Scope, ServerSettings
from healthd.settings_tree import ConfigError, Notes, Origin, Problem, Source, dotted, nearest_key
from healthd.settings_tree import Path as KeyPath

__all__ = [
    "SHORTEST_KEY",
    "ApiKey",
    "AuthSettings",
    "CameraSettings",
    "ConfigError",
    "ConfigSettings",
    "InferenceSettings",
    "JobsSettings",
    "LogSettings",
    "ModelsSettings",
    "Origin",
    "PerformanceSettings",
    "Problem",
    "Scope",
    "Section",
    "ServerSettings",
    "Settings",
    "ShutdownSettings",
    "SnapshotsSettings",
    "Source",
    "StreamsSettings",
    "in_safe_mode",
    "is_loopback",
    "load_settings",
    "open_door",
    "settings_hints",
    "settings_origin",
    "settings_source",
    "settings_sources",
    "source_of",
    "with_command",
]

_SOURCES: ContextVar[tuple[PydanticBaseSettingsSource, ...] | None] = ContextVar(
    "healthd_settings_sources", default=None
)


class Settings(BaseSettings):
    """All settings. Made by `load_settings`; made directly, it takes its arguments alone and reads nothing else."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    server: ServerSettings = Field(ServerSettings(), description="Where healthd listens.")
    auth: AuthSettings = Field(AuthSettings(), description="Who may call the API.")
    shutdown: ShutdownSettings = Field(ShutdownSettings(), description="How long a stop may take.")
    log: LogSettings = Field(LogSettings(), description="What is logged, and how.")
    config: ConfigSettings = Field(ConfigSettings(), description="How changes of the file are noticed.")
    snapshots: SnapshotsSettings = Field(SnapshotsSettings(), description="The pictures that are served.")
    streams: StreamsSettings = Field(StreamsSettings(), description="Open streams of pictures and events.")
    models: ModelsSettings = Field(ModelsSettings(), description="The models that watch the cameras.")
    inference: InferenceSettings = Field(InferenceSettings(), description="Pictures that are sent in.")
    jobs: JobsSettings = Field(JobsSettings(), description="Batch work over many pictures or a video.")
    performance: PerformanceSettings = Field(PerformanceSettings(), description="How much of the machine is taken.")
    cameras: dict[Name, CameraSettings] = Field(
        default_factory=dict, description="The cameras by name, in the order of the file."
    )

    _sources: dict[KeyPath, Source] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the sources of the `load_settings` that is running; outside of one, the arguments alone."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return _SOURCES.get() or (init_settings,)

    @field_validator("auth")
    @classmethod
    def _no_open_door(cls, auth: AuthSettings, info: ValidationInfo) -> AuthSettings:
        server = info.data.get("server")
        reason = open_door(server.host if server else "localhost", auth)
        if reason:
            raise PydanticCustomError("open_door", "{reason}", {"reason": reason})
        return auth


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def open_door(host: str, auth: AuthSettings) -> str | None:
    """Return why healthd must not start with this address and these keys; None when it may."""
    if auth.mode == "keys" and not auth.keys:
        return 'mode is "keys", but there is no key: add one as [[auth.keys]], or set auth.mode = "none"'
    if auth.mode is None and not auth.keys and not is_loopback(host):
        return (
            f"server.host {host} can be reached from other machines, and there is no API key: add one as [[auth.keys]] "
            '(name and key), or say auth.mode = "none" if everybody may look and change'
        )
    return None


def settings_origin(settings: Settings, key: str) -> Origin:
    """Tell where the value of a key, such as `cameras.gym.url` or `auth.keys[0].name`, comes from."""
    return settings_source(settings, key).origin


def settings_source(settings: Settings, key: str) -> Source:
    """Tell where the value of a key comes from, and by which name."""
    return source_of(settings_sources(settings), key)


def settings_sources(settings: Settings) -> dict[str, Source]:
    """Return where the values of keys come from that are no defaults; a key may stand for all below it."""
    return {dotted(path): source for path, source in settings._sources.items()}  # noqa: SLF001  load_settings put it


def source_of(sources: Mapping[str, Source], key: str) -> Source:
    """Look a key up, then the tables that it stands in."""
    while key:
        if key in sources:
            return sources[key]
        key = re.sub(r"(^|\.)[^.\[]*$|\[\d+\]$", "", key)
    return Source("default")


def with_command(settings: Settings, update: Mapping[str, object], said: Mapping[KeyPath, str]) -> Settings:
    """Return the settings with sections that the command line decided; `said` names what decided each key."""
    changed = settings.model_copy(update=dict(update))
    changed._sources = {**settings._sources, **{key: Source("command", name) for key, name in said.items()}}  # noqa: SLF001
    return changed


def in_safe_mode(settings: Settings) -> Settings:
    """Return the settings as `--safe-mode` has them."""
    server = settings.server.model_copy(update={"safe_mode": True})
    return with_command(settings, {"server": server}, {("server", "safe_mode"): "--safe-mode"})


def settings_hints(settings: Settings) -> tuple[str, ...]:
    """Return what is allowed but was probably not meant, a sentence each."""
    return tuple(
        f"cameras.{name}.url: it is not certain where the password ends; write @ as %40 and / as %2F inside it"
        for name, camera in settings.cameras.items()
        if camera.url is not None and camera.url.ambiguous
    )


def load_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the file, if one is named, and from the environment, which wins.

    Relative paths are relative to the folder of the file; without a file, to the working directory.

    Raises ConfigError with every problem that was found.
    """
    notes = Notes(environ, file=str(path) if path else "settings")
    data = read_toml(path) if path else {}
    found: Settings | None = None
    token = _SOURCES.set(
        (EnvironmentSource(Settings, notes, file_data=data), FileSource(Settings, notes, data=data)),
    )
    try:
        found = Settings()
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
    finally:
        _SOURCES.reset(token)
    if found is None:
        for error in errors:
            _note(error, notes)
    if found is None or notes.problems:
        raise ConfigError(notes.problems)
    if path:
        found = _anchored(found, path.absolute().parent)
    found._sources = {  # noqa: SLF001
        key: Source("file", path.name) if path and origin == notes.file else Source("environment", origin)
        for key, origin in notes.origins.items()
    }
    return found


_WORDS = {
    "missing": "is required",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
}


def _note(error: ErrorDetails, notes: Notes) -> None:
    """Note an error of pydantic in our words, without its input."""
    path: KeyPath = tuple(error["loc"])
    if path[-1:] == ("[key]",):
        notes.problem(path[:-1], "a name has 1 to 64 letters, digits, _ or -")
    elif error["type"] == "extra_forbidden":
        reason, nearest = "unknown key", nearest_key(Settings, path)
        if len(path) == 3 and path[0] == "cameras" and not (nearest and nearest.startswith("cameras.")):
            reason += f" (settings of the plugin stand in [cameras.{path[1]}.options])"
        notes.problem(path, reason, nearest=nearest)
    else:
        reason = _WORDS.get(error["type"]) or error["msg"].replace("Input should be", "must be")
        notes.problem(path, reason)


def _anchored(settings: Settings, folder: Path) -> Settings:
    """Make relative paths absolute."""
    cache = settings.models.cache_directory
    models = settings.models.model_copy(
        update={
            "directory": folder / settings.models.directory,
            "cache_directory": None if cache is None else folder / cache,
        }
    )
    jobs = settings.jobs.model_copy(
        update={
            "directory": folder / settings.jobs.directory,
            "allowed_directories": tuple(folder / allowed for allowed in settings.jobs.allowed_directories),
        }
    )
    cameras = {
        name: camera.model_copy(update={"url": SourceUrl(str(folder / camera.url.path))})
        if camera.url is not None and camera.url.path is not None and _is_relative(camera.url.path)
        else camera
        for name, camera in settings.cameras.items()
    }
    said = {"tls_cert": settings.server.tls_cert, "tls_key": settings.server.tls_key}
    update = {key: folder / path for key, path in said.items() if path is not None}
    server = settings.server.model_copy(update=update)
    return settings.model_copy(update={"server": server, "models": models, "jobs": jobs, "cameras": cameras})


def _is_relative(path: str) -> bool:
    """Tell whether the address of a camera is a relative path: no device number, pipeline or `v4l2:` form."""
    return not (
        path.isdigit() or "!" in path or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path) or Path(path).is_absolute()
    )
