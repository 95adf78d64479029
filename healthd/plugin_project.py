"""`healthd plugin new`: writes the project of a plugin that works and passes its own tests at once."""

import re
import sys
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from healthd import __version__
from healthd.errors import SettingsError
from healthd.plugins import SOURCES, installed

OK, FAILED, WRONG = 0, 1, 2
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 40
_PREFIX = "healthd-"
_FOLDERS = {"module": "{{module}}", "test": "tests"}
"""What folders of the templates are called in a project. Container images lose all folders that are called `tests`."""


def write_project(name: str, directory: Path) -> int:
    """Write the project into a new folder in `directory` and say what to do next; return the exit code."""
    try:
        plugin = _checked(name.removeprefix(_PREFIX), name)
        folder = directory / f"{_PREFIX}{plugin}"
        _write(folder, _words(plugin))
    except SettingsError as exc:
        return _say(str(exc), WRONG)
    except OSError as exc:
        return _say(f"{exc.filename or directory}: {exc.strerror or exc}", FAILED)
    print(  # noqa: T201  the command line prints
        f"{folder} is a plugin that works. Next:\n\n"
        f"  cd {folder}\n"
        "  pip install -e '.[dev]'\n"
        "  pytest\n\n"
        f"Then write your camera in {_words(plugin)['module']}/source.py; healthd's docs/plugins.md tells how."
    )
    return OK


def _checked(plugin: str, name: str) -> str:
    """Return the name of the plugin; raise SettingsError where it cannot be one."""
    if not _NAME.fullmatch(plugin) or len(plugin) > _LONGEST_NAME:
        near = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()))
        hint = f", e.g. {near}" if _NAME.fullmatch(near) and near != plugin and len(near) <= _LONGEST_NAME else ""
        raise SettingsError(
            f"{name!r} cannot be the name of a plugin: small letters and digits, words joined by `-`, "
            f"{_LONGEST_NAME} at most, a letter first{hint}"
        )
    for point in installed(SOURCES):
        if point.name == plugin:
            owner = point.dist.name if point.dist else "another plugin"
            raise SettingsError(f"`{plugin}` is a plugin of {owner}, which is installed: take another name")
    return plugin


def _words(plugin: str) -> dict[str, str]:
    """Return what stands for what in the templates."""
    return {
        "plugin": plugin,
        "distribution": f"{_PREFIX}{plugin}",
        "module": f"{_PREFIX}{plugin}".replace("-", "_"),
        "class": "".join(word.capitalize() for word in plugin.split("-")),
        "camera": "garage",
        "version": __version__,
    }


def _write(folder: Path, words: dict[str, str]) -> None:
    """Write all files into the folder, which must not be there yet.

    Raises:
        SettingsError: it is there.
        OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise SettingsError(f"{folder} is there already: take another name, or another --directory") from None
    for template, path in _templates(files("healthd") / "plugin_template", Path()):
        place = folder / _filled(str(path.with_suffix("")), words)
        place.parent.mkdir(exist_ok=True)
        place.write_text(_filled(template.read_text(encoding="utf-8"), words), encoding="utf-8")


def _templates(folder: Traversable, path: Path) -> list[tuple[Traversable, Path]]:
    found: list[tuple[Traversable, Path]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _templates(entry, path / _FOLDERS[entry.name])
        elif entry.name.endswith(".tpl"):
            found.append((entry, path / entry.name.replace("gitignore", ".gitignore")))
    return found


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], text)


def _say(text: str, code: int) -> int:
    print(f"healthd plugin new: {text}", file=sys.stderr)  # noqa: T201  the command line prints
    return code
