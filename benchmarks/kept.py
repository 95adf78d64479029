"""Figures between one run and the next, in a file: a run of an hour may be cut into several."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.figures import Figure

_PARTS: TypeAdapter[dict[str, list[Figure]]] = TypeAdapter(
    dict[str, list[Figure]], config={"ser_json_inf_nan": "constants"}
)


def beside(file: Path, parts: Mapping[str, list[Figure]]) -> dict[str, list[Figure]]:
    """Put the figures of these parts into the file, in place of those of before; return all that is there."""
    before = _PARTS.validate_json(file.read_bytes()) if file.exists() else {}
    together = {**before, **parts}
    file.write_bytes(_PARTS.dump_json(together, indent=1))
    return together
