"""What a prepared model was made from, and the checksums of its files: `healthd.json` in it, or beside it."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from healthd.errors import SettingsError
from healthd.models.prepare import PrepareReport

NAME = "healthd.json"
_PIECE_BYTES = 1 << 20


class Source(BaseModel):
    """The file that it was made from."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    size_bytes: int


class Manifest(BaseModel):
    """Where a prepared model comes from."""

    model_config = ConfigDict(frozen=True)

    source: Source
    options: dict[str, Any]
    """What was asked for, with `auto` replaced by what it stood for."""
    tools: dict[str, str]
    """Versions of what made it."""
    made_at: str
    """RFC 3339."""
    files: dict[str, str]
    """SHA-256 by name, `/` between folders."""
    report: PrepareReport


def manifest_place(model: Path) -> Path:
    """Return where the manifest of a model lies: in its folder, or beside its file."""
    return model / NAME if model.is_dir() else model.with_name(f"{model.name}.{NAME}")


def read_manifest(model: Path) -> Manifest | None:
    """Return the manifest of a model, None when it was not prepared here.

    Raises:
        SettingsError: it is there and cannot be read.
    """
    place = manifest_place(model)
    try:
        return Manifest.model_validate_json(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise SettingsError(
            f"{place.name} of {model.name} cannot be read ({type(exc).__name__}): prepare the model again, with --force"
        ) from exc


def damages(model: Path, manifest: Manifest) -> list[str]:
    """Compare the files of a model with their checksums; return what is wrong with which. Reads all of them."""
    there = checksums(model)
    wrong = dict.fromkeys(manifest.files.keys() - there.keys(), "is missing")
    wrong |= dict.fromkeys(there.keys() - manifest.files.keys(), "was added")
    wrong |= {name: "was changed" for name, said in manifest.files.items() if there.get(name, said) != said}
    return [f"{name} {what}" for name, what in sorted(wrong.items())]


def checksums(model: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model, or of any folder, by name; but not that of its manifest."""
    return {name: checksum(path) for name, path in _files(model)}


def total_bytes(model: Path) -> int:
    """Return the size of a model on disk."""
    return sum(path.stat().st_size for _, path in _files(model))


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; blocking, about 1 GB a second."""
    found = hashlib.sha256()
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def digest(facts: Mapping[str, Any]) -> str:
    """Return the checksum of facts, the same for equal ones."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(path)


def _files(model: Path) -> Iterator[tuple[str, Path]]:
    if not model.is_dir():
        if model.exists():
            yield model.name, model
        return
    for path in sorted(model.rglob("*")):
        if path.is_file() and path != model / NAME:
            yield path.relative_to(model).as_posix(), path
