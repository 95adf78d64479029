"""A demo that cannot be made, and one behind it that can."""

from typing import Any, NoReturn


def config() -> NoReturn:
    """Look for files that are not there."""
    raise FileNotFoundError("the clips are missing")


def working() -> dict[str, Any]:
    """Return a demo of one camera."""
    return {"cameras": {"shown": {"plugin": "faulty"}}}
