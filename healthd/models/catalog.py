"""Which models a request may name, and what stands behind each name.

A request may use what the configuration names (cameras, `models.preload`, `models.default`) and what lies in the models
directory. It names nothing else: a path that leaves the directory, by `..` or by a link, is as unknown as a file that
is not there.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import structlog

from healthd.errors import UnknownModelError
from healthd.models.model import ModelFamily, ModelSpec
from healthd.redact import SCRUBBER
from healthd.settings import ModelsSettings
from healthd.utf8 import is_utf8

log = structlog.get_logger(__name__)
MOST_FILES = 1000
"""Entries of the models directory that are looked at; what comes after them is not listed."""
DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One model that a request may name."""

    model_id: str
    """As requests name it and as it is shown: holds no secret and no path of this machine."""
    family: str
    spec_id: str
    """As the family gets it."""
    cameras: tuple[str, ...] = ()
    """The configured cameras that use it."""
    pinned: bool = False
    """Whether the configuration has it loaded from the start and kept."""


def public_id(spec_id: str) -> str:
    """Return the id of a model as people see it: the file's name for a path of this machine, no secret of a URL."""
    label = SCRUBBER.scrub_label(spec_id)
    return PurePosixPath(label).name or label if label.startswith(("/", "~")) else label


def shown_id(spec_id: str, directory: Path) -> str:
    """Return the id of a model as people see it: of one in the models directory, its path below that."""
    below = str(directory).rstrip("/") + "/"
    return SCRUBBER.scrub_label(spec_id.removeprefix(below)) if spec_id.startswith(below) else public_id(spec_id)


def without_paths(text: str, spec: ModelSpec) -> str:
    """Return a text about a model with its id in place of every path that leads to it here. Reads the disk."""
    shown = shown_id(spec.model_id, spec.directory)
    places = {str(spec.directory / spec.model_id), *([spec.model_id] if spec.model_id.startswith("/") else [])}
    folders = {f"{spec.directory}/"}
    with contextlib.suppress(OSError, RuntimeError):  # a loop of links
        folders.add(f"{spec.directory.resolve()}/")
    if spec.path is not None:
        places.add(str(spec.path))
        folders.add(f"{spec.path.parent}/")
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, shown)
    for folder in sorted((one for one in folders if one.startswith("/") and one != "/"), key=len, reverse=True):
        text = text.replace(folder, "")
    return text


class Catalog:
    """All models that a request may name. Lives as long as the daemon; thread-safe; its calls read the disk."""

    def __init__(
        self,
        families: Mapping[str, ModelFamily],
        *,
        directory: Path,
        cameras: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
        default: str | None = None,
    ) -> None:
        """Take the models of the configuration; `cameras`: the model of each camera that has one."""
        self._families = families
        self._directory = directory
        self._configured: dict[str, Entry] = {}
        self._default: str | None = None
        users: dict[str, list[str]] = {}
        for camera, spec_id in (cameras or {}).items():
            users.setdefault(spec_id, []).append(camera)
        for spec_id in dict.fromkeys((*((default,) if default else ()), *users, *preload)):
            family = self._family_of(spec_id)
            if family is None:
                if spec_id not in users:  # a camera's plugin may have its own ways
                    log.warning("model_without_family", model=public_id(spec_id))
                continue
            name, number = shown_id(spec_id, directory), 2
            shown = name
            while shown in self._configured:  # two files of one name
                shown, number = f"{name}~{number}", number + 1
            entry = Entry(shown, family, spec_id, tuple(users.get(spec_id, ())), spec_id in preload)
            self._configured[shown] = entry
            self._default = self._default or shown

    @property
    def pinned(self) -> tuple[Entry, ...]:
        """The models that are loaded from the start."""
        return tuple(entry for entry in self._configured.values() if entry.pinned)

    def configured(self, model_id: str | None) -> Entry | None:
        """Return the model of that name where the configuration names it; None: `models.default`. Does not block."""
        if model_id is None:
            return self._configured[self._default] if self._default is not None else None
        return self._configured.get(model_id)

    def find(self, model_id: str | None) -> Entry:
        """Return the model of that name; None: `models.default`, else that of the first camera.

        Raises:
            UnknownModelError: there is none, with the nearest names that there are.
        """
        if model_id is None:
            if self._default is None:
                raise UnknownModelError(
                    "no model was named and none is configured: say `model=`, or set models.default"
                )
            return self._configured[self._default]
        entry = self._configured.get(model_id) or self._by_spec(model_id) or self._in_directory(model_id)
        if entry is None:
            raise UnknownModelError(self._unknown(model_id))
        return entry

    def entries(self) -> Sequence[Entry]:
        """Return all models, those of the configuration first."""
        known = {name for entry in self._configured.values() for name in (entry.model_id, entry.spec_id)}
        found = (entry for entry in self._files() if not {entry.model_id, entry.spec_id} & known)
        return (*self._configured.values(), *sorted(found, key=lambda entry: entry.model_id))

    def _family_of(self, spec_id: str) -> str | None:
        for name in sorted(self._families):
            try:
                if self._families[name].serves(spec_id):
                    return name
            except Exception as exc:  # noqa: BLE001  a plugin's bug must not hide the models of the others
                log.warning("family_cannot_be_asked", family=name, error=repr(exc))
        return None

    def _by_spec(self, model_id: str) -> Entry | None:
        for entry in self._configured.values():
            if model_id in (entry.spec_id, SCRUBBER.scrub_label(entry.spec_id)):
                return entry
        return None

    def _in_directory(self, model_id: str) -> Entry | None:
        given = PurePosixPath(model_id)
        if given.is_absolute() or ".." in given.parts or not given.parts or "\0" in model_id or not is_utf8(model_id):
            return None
        family = self._family_of(model_id)
        if family is None:
            return None
        try:
            path = self._directory / given
            inside = path.resolve(strict=True).is_relative_to(self._directory.resolve())
        except (OSError, RuntimeError):  # not there, too long a name, a loop of links
            return None
        return Entry(str(given), family, str(path)) if inside else None

    def _files(self) -> Iterator[Entry]:
        """Give what lies in the models directory and a family serves, some levels deep."""
        places = [(self._directory, PurePosixPath(), 0)]
        looked_at = 0
        while places:
            folder, prefix, depth = places.pop(0)
            try:
                names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            except OSError:
                continue
            for name in names:
                looked_at += 1
                if looked_at > MOST_FILES:
                    return
                relative = prefix / name
                entry = self._in_directory(str(relative))
                if entry is not None:
                    yield entry
                elif depth < DEEPEST and (folder / name).is_dir() and not (folder / name).is_symlink():
                    places.append((folder / name, relative, depth + 1))

    def _unknown(self, model_id: str) -> str:
        names = [entry.model_id for entry in self.entries()]
        shown = public_id(model_id[:200])
        if not names:
            return f"unknown model `{shown}`: there is none, neither configured nor in models.directory"
        near = get_close_matches(model_id[:200], names, n=3, cutoff=0.5) or names[:5]
        return f"unknown model `{shown}`: there is {', '.join(f'`{name}`' for name in near)}"


def wrong_models(
    wanted: ModelsSettings, families: Collection[ModelFamily] | None, *, watching: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Say which models nobody serves, and whether all that must stay loaded may be: key and reason.

    `families`: None where some are left out by safe mode, so that nobody knows; `watching`: the models of cameras.
    """
    for key, names in (("preload", wanted.preload), ("default", (wanted.default,) if wanted.default else ())):
        for name in names:
            if families is not None and not any(_serves(family, name) for family in families):
                yield f"models.{key}", f"no installed plugin serves `{public_id(name)}`"
    needed = len({*watching, *wanted.preload})
    if needed > wanted.max_loaded:
        reason = f"{wanted.max_loaded} models may be loaded, and cameras and preload need {needed}"
        yield "models.max_loaded", reason


def _serves(family: ModelFamily, name: str) -> bool:
    try:
        return family.serves(name)
    except Exception as exc:  # noqa: BLE001  a plugin's bug
        log.warning("family_cannot_be_asked", family=type(family).__name__, error=repr(exc))
        return False


def found(model_id: str, directory: Path) -> Path | None:
    """Find the file or folder of a model: a path as it is, else a name in `directory`."""
    if not model_id:
        return None
    try:
        given = Path(model_id).expanduser()
        for candidate in (given, directory / given):
            if candidate.exists():
                return candidate.resolve()
    except (OSError, RuntimeError, ValueError):  # no name of a file: too long, `~nobody`, a NUL
        return None
    return None


def as_it_is(spec: ModelSpec) -> str:
    """Return what stands for a model's file, or folder, as it is now: of one that was replaced it is another."""
    if spec.path is None:
        return spec.model_id
    try:
        files = sorted(spec.path.iterdir()) if spec.path.is_dir() else [spec.path]
        marks = [f"{mark.st_ino}-{mark.st_size}-{mark.st_mtime_ns}" for mark in (file.stat() for file in files)]
    except OSError:  # gone, or not ours to read: whoever loads it says so
        marks = []
    return " ".join([str(spec.path), *marks])
