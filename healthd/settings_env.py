"""Settings from the environment: `HEALTHD_SERVER__PORT=9000`, `HEALTHD_CAMERAS__GYM__URL=...`.

Every `HEALTHD_` variable must mean something: a misspelt one is a problem, not silence. The exceptions are those that
Kubernetes puts into each container for a Service whose name starts with `healthd`.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from healthd.redact import is_telling
from healthd.settings_references import replace_references
from healthd.settings_tree import Notes, Path, Problem, bare, child, element_at, item_at, model_at
from healthd.utf8 import is_utf8

PREFIX = "HEALTHD_"

NOT_SETTINGS = frozenset(
    f"HEALTHD_{name}" for name in ("ALL_FRAMES", "API_KEY", "FUZZ_EXAMPLES", "FUZZ_SEED", "TEST_ASSETS")
)
"""Variables of ours that are no settings: the key of `healthd top`, and what tests need."""

_SERVICE = re.compile(r"HEALTHD_(?:[A-Z0-9_]+_)?SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)")
_SERVICE_LINK = re.compile(r"HEALTHD_(?:[A-Z0-9_]+_)?PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?")
_SERVICE_PORT = re.compile(r"(HEALTHD(?:_[A-Z0-9_]+)?)_PORT")


class _Unknown(Exception):  # noqa: N818  never leaves this file
    """The variable matches nothing."""


class EnvironmentSource(PydanticBaseSettingsSource):
    """What the environment says. Values stay text (but for lists and plugin options): the models read them.

    An empty variable counts as not set. Named tables (cameras) are matched to those of `file_data`.
    """

    def __init__(
        self,
        settings_cls: type[BaseSettings],
        notes: Notes,
        *,
        file_data: Mapping[str, Any],
    ) -> None:
        super().__init__(settings_cls)
        self._notes = notes
        self._environ = notes.environ
        self._file_data = file_data

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: variables look for their field, so that one without a field is noticed."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """Return the nested settings that the environment names."""
        data: dict[str, Any] = {}
        for name, text in sorted(self._environ.items()):
            upper = name.upper()
            if upper.startswith(PREFIX) and text and not is_foreign(upper, self._environ):
                self._take(data, name, text)
        return replace_references(data, self.settings_cls, self._notes)

    def _take(self, data: dict[str, Any], name: str, text: str) -> None:
        try:
            path, annotation = self._find(name.upper().removeprefix(PREFIX))
        except _Unknown as unknown:
            nearest = None if unknown.args else self._nearest(name)
            reason = str(unknown) or "matches no setting"
            self._notes.problems.append(Problem("environment", name, reason, nearest))
            return
        if not is_utf8(text):
            self._notes.problems.append(Problem("environment", name, "must be UTF-8"))
            return
        try:
            value = _parse(text, annotation)
        except ValueError:
            self._notes.problems.append(Problem("environment", name, "must be a list or table in JSON"))
            return
        if annotation is Any and not isinstance(value, str | list | dict) and is_telling(str(path[-1])):
            value = text  # a password of digits is a password
        if path in self._notes.origins:
            self._notes.problems.append(Problem("environment", name, f"says the same as {self._notes.origins[path]}"))
            return
        self._notes.origins[path] = name
        table = data
        for key in path[:-1]:
            table = table.setdefault(str(key), {})
        last = str(path[-1])
        if isinstance(value, dict) and isinstance(table.get(last), dict):
            value = {**value, **table[last]}  # OPTIONS__CONFIDENCE says it closer than OPTIONS
        table[last] = value

    def _find(self, rest: str) -> tuple[Path, Any]:
        """Return the key that the rest of a variable's name stands for, and its type."""
        if rest.endswith("__"):
            raise _Unknown
        path: Path = ()
        annotation: Any = self.settings_cls
        while rest:
            if model_at(annotation) is not None:
                word, _, rest = rest.partition("__")
                key = word.lower()
                if key not in annotation_fields(annotation):
                    raise _Unknown
            elif model_at(item_at(annotation)) is not None:
                key, rest = self._find_named(path, rest)
            elif item_at(annotation) is not None:
                keys = self._free_keys(path, rest.split("__"))
                return (*path, *keys), item_at(annotation)
            else:
                raise _Unknown
            path, annotation = (*path, key), child(annotation, key)
        if model_at(annotation) is not None or model_at(item_at(annotation)) is not None:
            raise _Unknown  # a section is no setting
        return path, annotation

    def _find_named(self, path: Path, rest: str) -> tuple[str, str]:
        """Return the named table (a camera) that `rest` starts with, and what follows its name."""
        names = [name for name in self._table(path) if rest.startswith(f"{spelled(name)}__")]
        if not names:
            word, _, after = rest.partition("__")
            plugin = f"{PREFIX}{'__'.join(str(part).upper() for part in path)}__{word}__PLUGIN"
            if after and self._environ.get(plugin):
                return word.lower(), after
            raise _Unknown
        longest = max(len(name) for name in names)
        names = [name for name in names if len(name) == longest]
        if len(names) > 1:
            raise _Unknown(f"fits {' and '.join(names)}: rename one of them")
        return names[0], rest[longest + 2 :]

    def _free_keys(self, path: Path, words: list[str]) -> list[str]:
        """Return the keys in the spelling of the file where it has them, else in lower case."""
        keys: list[str] = []
        for word in words:
            same = [key for key in self._table((*path, *keys)) if spelled(key) == word]
            keys.append(same[0] if same else word.lower())
        if not all(keys):
            raise _Unknown
        return keys

    def _table(self, path: Path) -> Mapping[str, Any]:
        """Return the table of the file at `path`; an empty one where there is none."""
        table: Any = self._file_data
        for part in path:
            table = table.get(part) if isinstance(table, Mapping) else None
        return table if isinstance(table, Mapping) else {}

    def _nearest(self, name: str) -> str | None:
        known = list(self._names(self.settings_cls, PREFIX.removesuffix("_"), (), "_"))
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.75)
        return near[0] if near else None

    def _names(self, annotation: Any, prefix: str, path: Path, joint: str = "__") -> Iterator[str]:
        """Yield the name of every variable that would match."""
        if model_at(annotation) is not None:
            keys = list(annotation_fields(annotation))
        elif model_at(item_at(annotation)) is not None:
            keys = list(self._table(path))
        else:
            yield prefix
            return
        for key in keys:
            yield from self._names(child(annotation, key), f"{prefix}{joint}{spelled(key)}", (*path, key))


def annotation_fields(annotation: Any) -> Mapping[str, FieldInfo]:
    """Return the fields of the model that an annotation names."""
    model: type[BaseModel] | None = model_at(annotation)
    return model.model_fields if model else {}


def spelled(key: str) -> str:
    """Write a key as in a variable's name: upper case, `_` for `-`."""
    return key.upper().replace("-", "_")


def is_foreign(name: str, environ: Mapping[str, str]) -> bool:
    """Tell whether a `HEALTHD_` variable is none of our settings: a Service's of Kubernetes, or a test's."""
    if name in NOT_SETTINGS or name == "HEALTHD_PORT":
        return True
    if "__" in name:
        return False
    if _SERVICE.fullmatch(name) or _SERVICE_LINK.fullmatch(name):
        return True
    port = _SERVICE_PORT.fullmatch(name)  # HEALTHD_SERVER_PORT alone may be a slip for HEALTHD_SERVER__PORT
    return port is not None and f"{port[1]}_SERVICE_HOST" in environ


def _parse(text: str, annotation: Any) -> Any:
    """Read lists, tables and free values as JSON; leave the rest as text.

    Raises ValueError when a list or a table cannot be read.
    """
    if annotation is Any:
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            return text
    if bare(element_at(annotation)) is str and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",")]
    if element_at(annotation) is not None or item_at(annotation) is not None:
        return json.loads(text, parse_constant=_refuse_constant)
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
