"""Figures between one run and the next, in a file: a run of an hour may be cut into several."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from benchmarks.figures import Figure


class Part(BaseModel):
    """The figures of one part, from one run."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    begun: str
    """When the run began that measured it: day and time, UTC, to the minute."""
    figures: list[Figure]


_PARTS: TypeAdapter[dict[str, Part]] = TypeAdapter(dict[str, Part])


def beside(file: Path, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Put these parts into the file, in place of those of before; return all that is there."""
    before = _PARTS.validate_json(file.read_bytes()) if file.exists() else {}
    together = {**before, **parts}
    file.write_bytes(_PARTS.dump_json(together, indent=1))
    return together


def other_runs(parts: Mapping[str, Part]) -> dict[str, list[str]]:
    """Return the parts that are not from the newest run, by the beginning of theirs."""
    newest = max((part.begun for part in parts.values()), default="")
    older: dict[str, list[str]] = {}
    for name, part in parts.items():
        if part.begun != newest:
            older.setdefault(part.begun, []).append(name)
    return older
