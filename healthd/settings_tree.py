"""The settings as a tree of keys, whatever models they are made of, and what can be wrong with them.

`server.port`, `cameras.NAME.url`, `auth.keys[].name`: this is how people read and write keys, in the file, in errors
and in the docs. Everything here is derived from the models, so that a new section needs no second list of its keys.
"""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

from healthd.errors import SettingsError
from healthd.redact import SCRUBBER, Secret, SourceUrl

Path = tuple[str | int, ...]
"""Where a value stands: keys of tables and places in lists, from the root on."""


Origin: TypeAlias = Literal["file", "environment", "command", "default"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the value of a setting comes from."""

    origin: Origin
    name: str | None = None
    """Of the file (without its folder), the variable, or the word on the command line; None for a default."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration. Names where and why, never the value."""

    origin: str
    """The file, or `environment`."""
    key: str
    reason: str
    nearest: str | None = None
    """The known key that was probably meant."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.origin, self.key) if part)
        hint = f"; did you mean `{self.nearest}`?" if self.nearest else ""
        return SCRUBBER.scrub(f"{where}: {self.reason}{hint}")


class ConfigError(SettingsError):
    """The configuration cannot be used. Carries every problem at once; its text is a line for each, with no secret."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems" if len(self.problems) != 1 else "a problem"
        super().__init__("\n".join([f"the configuration has {count}:", *(f"  {problem}" for problem in self.problems)]))


@dataclass(frozen=True, slots=True)
class Notes:
    """What is gathered while settings are read: who set which key, and what is wrong."""

    environ: Mapping[str, str]
    file: str
    """The file as people know it; `settings` where there is none."""
    origins: dict[Path, str] = field(default_factory=dict)
    """By key: the name of the file, or of the variable."""
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path, reason: str, *, nearest: str | None = None) -> None:
        """Note what is wrong with the value at `path`, unless something about it is noted already."""
        here = path
        while here and here not in self.origins:
            here = here[:-1]
        origin, key = self.origins.get(here, self.file), dotted(path)
        if origin != self.file:
            origin, key = "environment", f"{origin} ({key})"
        if not any((known.origin, known.key) == (origin, key) for known in self.problems):
            self.problems.append(Problem(origin, key, reason, nearest))


def bare(annotation: Any) -> Any:
    """Return the annotation without `Annotated` and without `| None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return bare(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        others = [arg for arg in get_args(annotation) if arg is not type(None)]
        return bare(others[0]) if len(others) == 1 else annotation
    return annotation


def model_at(annotation: Any) -> type[BaseModel] | None:
    """Return the model that describes a table of this type; None when it is no such table."""
    kind = bare(annotation)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def item_at(annotation: Any) -> Any:
    """Return the type of the values of a table of free keys (`dict[str, X]`); None when it is no such table."""
    kind = bare(annotation)
    return get_args(kind)[1] if get_origin(kind) in (dict, Mapping) else None


def element_at(annotation: Any) -> Any:
    """Return the type of the elements of a list; None when it is none."""
    kind = bare(annotation)
    return get_args(kind)[0] if get_origin(kind) in (list, tuple) else None


def child(annotation: Any, key: str | int) -> Any:
    """Return the type of what stands under `key`; `Any` where the tree does not know."""
    model = model_at(annotation)
    if model is not None:
        known = model.model_fields.get(str(key))
        return known.annotation if known else Any
    found = element_at(annotation) if isinstance(key, int) else item_at(annotation)
    return Any if found is None else found


def is_secret(annotation: Any) -> bool:
    """Tell whether a value of this type must not be shown."""
    kind = bare(annotation)
    return isinstance(kind, type) and issubclass(kind, Secret | SourceUrl)


def dotted(path: Path) -> str:
    """Write a path as people do: `auth.keys[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def known_keys(annotation: Any, *, prefix: str = "") -> Iterator[str]:
    """Yield every key below the type: `server.port`, `cameras.NAME.url`, `auth.keys[].name`."""
    model = model_at(annotation)
    if model is not None:
        for name, info in model.model_fields.items():
            yield from known_keys(info.annotation, prefix=f"{prefix}.{name}".lstrip("."))
    elif model_at(item_at(annotation)) is not None:
        yield from known_keys(item_at(annotation), prefix=f"{prefix}.NAME")
    elif model_at(element_at(annotation)) is not None:
        yield from known_keys(element_at(annotation), prefix=f"{prefix}[]")
    else:
        yield prefix


def nearest_key(root: type[BaseModel], path: Path) -> str | None:
    """Return the known key that an unknown one was probably meant to be."""
    *parents, wrong = path
    here: Any = root
    for part in parents:
        here = child(here, part)
    model = model_at(here)
    near = difflib.get_close_matches(str(wrong).lower(), list(model.model_fields) if model else [], n=1)
    if near:
        return dotted((*parents, near[0]))
    by_name: dict[str, list[str]] = {}
    for key in known_keys(root):
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    likeness = 1.0 if parents else 0.75  # inside a section, only the same name is meant
    elsewhere = [by_name[name] for name in difflib.get_close_matches(str(wrong).lower(), by_name, 1, likeness)]
    return elsewhere[0][0] if elsewhere and len(elsewhere[0]) == 1 else None


def leaves(value: Any, *, path: Path = ()) -> Iterator[Path]:
    """Yield where each value stands that is no table."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, path=(*path, key))
    else:
        yield path
