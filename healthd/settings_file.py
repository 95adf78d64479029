"""Settings from the TOML file."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from healthd.settings_references import replace_references
from healthd.settings_tree import ConfigError, Notes, Problem, leaves


class FileSource(PydanticBaseSettingsSource):
    """What the file says, without what a source above it has said already."""

    def __init__(self, settings_cls: type[BaseSettings], notes: Notes, *, data: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._notes = notes
        self._data = data

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: the file is read as a whole, so that an unknown key is noticed."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Return the nested settings of the file."""
        rest = _without(self._data, self.current_state)
        for path in leaves(rest):
            self._notes.origins.setdefault(path, self._notes.file)
        return replace_references(rest, self.settings_cls, self._notes)


def _without(data: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, value in data.items():
        if key not in above:
            rest[key] = value
        elif isinstance(value, Mapping) and isinstance(above[key], Mapping):
            rest[key] = _without(value, above[key])
    return rest


def read_toml(path: Path) -> dict[str, Any]:
    """Read the file.

    Raises ConfigError when it is missing, no file, unreadable, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        reason = "no such file"
    except IsADirectoryError:
        reason = "is a directory"
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror}"
    except UnicodeDecodeError as exc:
        reason = f"is not UTF-8 (byte {exc.start})"
    except tomllib.TOMLDecodeError as exc:
        place = re.search(r"\(at ([^()]*)\)$", str(exc))  # the rest of the message may quote the line
        reason = f"is not valid TOML at {place[1]}" if place else "is not valid TOML"
    raise ConfigError([Problem(str(path), "", reason)])
