"""The settings as people may see them: key by key, without secrets, and where each value comes from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from healthd.redact import SCRUBBER
from healthd.settings import Settings, settings_sources, source_of
from healthd.settings_tree import Origin, Path, dotted


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting."""

    key: str
    value: Any
    """Secrets are `***`, URLs without user info and query."""
    origin: Origin
    name: str | None
    """Of the file, the variable, or what was said on the command line; None for a default."""


def shown_settings(settings: Settings) -> Iterator[ShownSetting]:
    """Give every setting, in the order of the reference; cameras in that of the file."""
    sources = settings_sources(settings)
    for path, value in _leaves(settings.model_dump(mode="json")):
        key = dotted(path)
        source = source_of(sources, key)
        yield ShownSetting(SCRUBBER.scrub(key), SCRUBBER.scrub_object(value), source.origin, source.name)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Give each value with its place; an empty table, and a list of plain values, is a value too."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for at, inner in enumerate(value):
            yield from _leaves(inner, (*path, at))
    else:
        yield path, value
