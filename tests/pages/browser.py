"""A real browser for the pages: watches what each page asks for and complains of, checks it, and takes its picture."""

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from benchmarks.wall import FLAGS, NAMES

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

SCREENSHOTS = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
FAILED = "Failed to load resource"
"""How Chromium begins its own line on every answer that is no success, and on every address that nobody listens on."""

GRAVE = {"serious", "critical"}


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yield a running browser of playwright, Debian's Chromium. Skips where there is none."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no browser on this machine: {', '.join(NAMES)}")
    with playwright_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found[0], args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()


class Watched:
    """A page and all that it asked for and complained of since it was opened."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        """Every address it asked for, over HTTP or as a WebSocket."""
        self.complaints: list[str] = []
        """Errors and warnings of its console, exceptions nobody caught, violations of the policy."""
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))

    def _note(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def heard(self) -> list[str]:
        """Its complaints up to now: playwright tells of them while it is asked for something."""
        self.page.title()
        return self.complaints

    def count(self, part: str) -> int:
        """How many of the addresses asked for contain `part`."""
        return sum(part in url for url in self.asked)

    def assert_quiet(self, *hosts: str, refused: Sequence[str] = ()) -> None:
        """Assert that it asked only its own host (and `hosts`), and complained of nothing.

        `refused`: parts of addresses that may have been answered with an error, such as a snapshot of a paused camera.
        """
        heard = self.heard()
        own = {urlsplit(self.page.url).netloc, *hosts}
        foreign = [
            url for url in self.asked if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc not in own
        ]
        assert not foreign, foreign
        left = [line for line in heard if not (FAILED in line and any(part in line for part in refused))]
        assert not left, left


Open = Callable[..., Watched]
"""`open_page(url, width=1280, height=800, **options of a browser's context)`: a page with a profile of its own."""


@contextlib.contextmanager
def opener(browser: Any) -> Iterator[Open]:
    """Yield a function that opens pages; they are closed with the block."""
    with contextlib.ExitStack() as stack:

        def open_page(url: str, *, width: int = 1280, height: int = 800, **options: Any) -> Watched:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            stack.callback(context.close)
            watched = Watched(context.new_page())
            watched.page.set_default_timeout(15_000)
            watched.page.goto(url)
            return watched

        yield open_page


def assert_accessible(page: Any) -> None:
    """Assert that axe finds nothing serious on the page as it is now."""
    found = axe_api.Axe().run(page).response["violations"]
    grave = [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:160] for node in one['nodes']]}"
        for one in found
        if one["impact"] in GRAVE
    ]
    assert not grave, "\n".join(grave)


def screenshot(page: Any, name: str, folder: Path) -> Path:
    """Take the picture of a page; for the docs where `HEALTHD_WRITE_SCREENSHOTS` is set, else for `folder`."""
    target = SCREENSHOTS if os.environ.get("HEALTHD_WRITE_SCREENSHOTS") == "1" else folder
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.webp"
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.save(path, quality=85, method=6)
    return path
