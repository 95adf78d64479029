"""References that the values of settings may hold, in the file and in the environment.

`${NAME}` stands for a variable of the environment, in any text; `$${` is a plain `${`. `file:/path` as the whole value
of a URL or of a secret stands for the content of that file; in the options of a plugin, of a value whose key calls it
a secret.
"""

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from healthd.redact import SCRUBBER, SourceUrl, is_telling, percent_encode, user_info_span
from healthd.settings_tree import Notes, Path, bare, child, is_secret

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TELLING_NAME = re.compile(r"PASS|PWD|TOKEN|KEY|SECRET|CREDENTIAL", re.IGNORECASE)
_LARGEST_SECRET_BYTES = 64 * 1024


def replace_references(data: Mapping[str, Any], annotation: Any, notes: Notes) -> dict[str, Any]:
    """Return the tree of settings with every reference in it replaced. `annotation` is the model of the tree."""
    return {key: _replace(value, child(annotation, key), notes, path=(key,)) for key, value in data.items()}


def _replace(value: Any, annotation: Any, notes: Notes, *, path: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace(inner, child(annotation, key), notes, path=(*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, child(annotation, at), notes, path=(*path, at)) for at, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    text = _fill_in(value, notes, path=path, url=bare(annotation) is SourceUrl)
    if _may_be_in_a_file(annotation, path) and text.startswith("file:/") and not text.startswith("file://"):
        return _content(FilePath(text.removeprefix("file:")), notes, path=path)
    return text


def _may_be_in_a_file(annotation: Any, path: Path) -> bool:
    if bare(annotation) is not Any:
        return is_secret(annotation)
    _camera, options = path[:3], path[3:]
    return any(is_telling(str(key)) for key in options)


def _fill_in(text: str, notes: Notes, *, path: Path, url: bool) -> str:
    """Replace `${NAME}`; in the user info and the query of a URL percent-encoded, so that any password fits."""
    template = _REFERENCE.sub("0", text)
    start, end = user_info_span(template) if url else (0, 0)
    query = template.find("?", end) if url and "://" in template else -1
    shift = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal shift
        at = match.start() - shift
        shift += len(match[0]) - 1
        if match["name"] is None:
            return "${"
        value = _variable(match["name"], notes, path=path)
        return percent_encode(value) if start <= at < end or -1 < query < at else value

    return _REFERENCE.sub(replacement, text)


def _variable(name: str, notes: Notes, *, path: Path) -> str:
    if not _VARIABLE.fullmatch(name):
        notes.problem(path, "`${...}` must hold the name of a variable (a plain `${` is written `$${`)")
        return ""
    value = notes.environ.get(name)
    if value is None:
        notes.problem(path, f"the environment has no variable {name}")
        return ""
    if _TELLING_NAME.search(name):
        SCRUBBER.register(value)
    return value


def _content(file: FilePath, notes: Notes, *, path: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST_SECRET_BYTES + 1)
        text = data.decode("utf-8").strip()
    except OSError as exc:
        notes.problem(path, f"the file {file} cannot be read: {exc.strerror}")
        return ""
    except UnicodeDecodeError:
        notes.problem(path, f"the file {file} is not UTF-8")
        return ""
    if not text or len(data) > _LARGEST_SECRET_BYTES:
        notes.problem(path, f"the file {file} is {'too large' if text else 'empty'}")
    return text
