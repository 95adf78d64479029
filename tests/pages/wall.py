"""What the tests of the wall read off the page."""

from typing import Any

from tests.process.daemon import Daemon, until

POLL_SECONDS = 1.0
LIST_SECONDS = 2.0
SLACK_SECONDS = 1.5
"""What a machine that has other things to do may take longer."""


def tile(page: Any, name: str) -> Any:
    """The tile of a camera."""
    return page.locator(f".tile[data-camera={name}]")


def shown(page: Any) -> dict[str, int]:
    """The number of the frame that each tile shows; tiles without a picture are left out."""
    found = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.tile')]"
        ".filter((tile) => !tile.querySelector('canvas').hidden)"
        ".map((tile) => [tile.dataset.camera, Number(tile.dataset.frame)]))"
    )
    return dict(found)


def until_shown(page: Any, *names: str, seconds: float = 20.0) -> dict[str, int]:
    """Wait until these tiles show pictures."""
    until(lambda: set(names) <= set(shown(page)), seconds=seconds, what=lambda: page.inner_text("main"))
    return shown(page)


def viewers(daemon: Daemon) -> list[dict[str, Any]]:
    """The open streams."""
    found: list[dict[str, Any]] = daemon.get("/api/v1/viewers").json()
    return found
