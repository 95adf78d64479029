"""What each setting needs to be changed while the daemon runs, and what differs between two configurations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from healthd.settings import CameraSettings, Settings, open_door, settings_source
from healthd.settings_tree import ConfigError, Problem

Effect: TypeAlias = Literal["hot", "camera", "daemon"]
"""`hot`: counts at once. `camera`: that camera alone is restarted. `daemon`: counts from the next start on."""

SECTION_EFFECTS: dict[str, dict[str, Effect]] = {
    "server": {
        **dict.fromkeys(("host", "port", "root_path", "cors_origins", "allowed_hosts", "safe_mode"), "daemon"),
        **dict.fromkeys(("embed_origins", "trusted_proxies", "tls_cert", "tls_key", "hsts_seconds"), "daemon"),
        **dict.fromkeys(("max_connections", "max_connections_per_client", "header_timeout_seconds"), "daemon"),
    },
    "auth": dict.fromkeys(("mode", "keys", "session_hours", "session_idle_hours"), "hot"),
    "shutdown": dict.fromkeys(("grace_seconds", "drain_seconds"), "hot"),
    "log": dict.fromkeys(("level", "format"), "hot"),
    "config": {"watch": "hot"},
    "snapshots": {"quality": "hot"},
    "streams": {
        **dict.fromkeys(("max_viewers", "max_viewers_per_camera", "max_viewers_per_client"), "hot"),
        **dict.fromkeys(("write_timeout_seconds", "max_seconds"), "hot"),
    },
    "models": {
        **dict.fromkeys(("idle_unload_seconds", "load_timeout_seconds", "failed_load_seconds"), "hot"),
        **dict.fromkeys(("preload", "default", "max_loaded", "memory_budget_bytes"), "hot"),
        **dict.fromkeys(("queue_size", "queue_timeout_seconds"), "hot"),
        **dict.fromkeys(
            ("directory", "cache_directory", "cache_max_bytes", "allow_pickle", "concurrency", "isolation"), "daemon"
        ),
        "batch_window_ms": "daemon",
    },
    "inference": {
        **dict.fromkeys(("max_upload_bytes", "max_pixels", "max_uploads", "upload_timeout_seconds"), "hot"),
        **dict.fromkeys(("max_uploads_per_client", "max_sockets", "max_sockets_per_client"), "hot"),
    },
    "jobs": {
        **dict.fromkeys(("allowed_directories", "max_upload_bytes", "max_jobs", "keep_hours"), "hot"),
        **dict.fromkeys(("enabled", "directory", "redis_url", "workers"), "daemon"),
    },
    "performance": {"threads": "daemon"},
}
"""By section and key. A setting that does not stand here counts as `daemon`."""

CAMERA_EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(("predict_fps", "quality", "reconnect_max_seconds", "max_abandoned_workers"), "hot"),
    **dict.fromkeys(("motion_area", "motion_hold_seconds", "motion_detections_hold_seconds"), "hot"),
    **dict.fromkeys(("motion_max_interval_seconds",), "hot"),
    **dict.fromkeys(("max_crashes", "crash_window_seconds", "crash_cooldown_seconds"), "hot"),
    **dict.fromkeys(("plugin", "url", "enabled", "isolation", "predict_when", "motion_threshold"), "camera"),
    **dict.fromkeys(("stall_timeout_seconds", "stale_after_seconds", "frozen_after_seconds"), "camera"),
    **dict.fromkeys(("open_timeout_seconds", "predict_timeout_seconds", "options"), "camera"),
}
"""Of one camera. A setting that does not stand here restarts it."""

THRESHOLDS = frozenset({"confidence", "iou", "max_det", "classes"})
"""Of the `options` of a plugin that takes them, these count at once."""


def effect_of(section: str, key: str) -> Effect:
    """Say what a change of a setting takes; `cameras` is the section of all cameras."""
    if section == "cameras":
        return CAMERA_EFFECTS.get(key, "camera")
    return SECTION_EFFECTS.get(section, {}).get(key, "daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What came of a reload."""

    added: tuple[str, ...] = ()
    """Cameras."""
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    """Cameras that were left and opened anew, with other settings."""
    changed: tuple[str, ...] = ()
    """Settings that count at once, by key."""
    restart_needed: tuple[str, ...] = ()
    """Settings that wait for the next start of the daemon, those of earlier reloads included."""

    @property
    def nothing(self) -> bool:
        """Whether all is as it was."""
        return not (self.added or self.removed or self.restarted or self.changed)


@dataclass(frozen=True, slots=True)
class CameraDifference:
    """What differs between two configurations of one camera."""

    keys: frozenset[str]
    """Settings of healthd."""
    options: frozenset[str]
    """Those of the plugin, the outermost keys alone."""

    @property
    def restart(self) -> bool:
        """Whether the camera must be left, if its plugin takes thresholds."""
        keys = (key for key in self.keys if key != "options")
        return any(effect_of("cameras", key) != "hot" for key in keys) or not self.options <= THRESHOLDS


def camera_difference(before: CameraSettings, after: CameraSettings) -> CameraDifference:
    """Compare two configurations of one camera."""
    one, other = before.options, after.options
    options = {key for key in one.keys() | other.keys() if _unlike(one.get(key, ...), other.get(key, ...))}
    keys = {key for key in _differing(before, after) if key != "options"} | ({"options"} if options else set())
    return CameraDifference(frozenset(keys), frozenset(options))


def section_differences(before: Settings, after: Settings, effect: Effect) -> list[str]:
    """Return the keys outside of the cameras whose values differ and whose change takes just this."""
    return [
        f"{section}.{key}"
        for section in type(before).model_fields
        if section != "cameras"
        for key in _differing(getattr(before, section), getattr(after, section))
        if effect_of(section, key) == effect
    ]


def in_effect(started: Settings, wanted: Settings) -> Settings:
    """Return the settings of which everything counts now that can: the others stay as they were at the start.

    Raises:
        ConfigError: the two together are no configuration that may be: the keys go, and the open address stays.
    """
    update: dict[str, Any] = {}
    for section in type(started).model_fields:
        if section == "cameras":
            continue
        old, new = getattr(started, section), getattr(wanted, section)
        kept = {key: getattr(old, key) for key in _differing(old, new) if effect_of(section, key) == "daemon"}
        if kept:
            update[section] = new.model_copy(update=kept)
    found = wanted.model_copy(update=update)
    reason = open_door(found.server.host, found.auth)
    if reason is not None:
        origin = settings_source(wanted, "auth").name or "settings"
        raise ConfigError([Problem(origin, "auth", f"{reason} (server.host changes with a restart of healthd alone)")])
    return found


def _differing(before: BaseModel, after: BaseModel) -> Iterator[str]:
    return (key for key in type(before).model_fields if getattr(before, key) != getattr(after, key))


def _unlike(one: object, other: object) -> bool:
    """Compare by type too: to a plugin, `1` is not `true`."""
    return type(one) is not type(other) or one != other


Fingerprint: TypeAlias = tuple[int, int, int, int]


@dataclass(slots=True)
class ConfigFile:
    """The file that the daemon was started with, and how it was when it was last read. Not thread-safe."""

    path: Path
    read: Callable[[], Settings] = field(repr=False)
    """Reads it, as at the start; blocking; raises ConfigError."""
    seen: Fingerprint | None = None

    def load(self) -> Settings:
        """Read the file; what is written to it meanwhile is a change that comes after.

        Raises:
            ConfigError: it cannot be used.
        """
        self.seen = fingerprint(self.path)
        return self.read()


def fingerprint(path: Path) -> Fingerprint | None:
    """Tell one state of a file from another: its content, and the file that a link leads to; None: there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
