"""The wall in a real browser: how soon somebody who opens it sees a picture."""

import shutil
import statistics
import time
from typing import Any

from benchmarks.figures import Figure, NotMeasuredError
from benchmarks.process import Daemon

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-background-networking")
FIRST_PICTURE = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".tile[data-frame]")) return;
  observer.disconnect();
  window.firstPicture = performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
TIMES = "[window.firstPicture ?? 0, performance.getEntriesByType('navigation')[0].loadEventEnd]"
LATEST_SECONDS = 20.0


def _opened(browser: Any, url: str) -> tuple[float, float]:
    """Return when the first picture was there and when the page was loaded, in ms since the navigation began."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.add_init_script(FIRST_PICTURE)
        page.goto(url)
        deadline = time.monotonic() + LATEST_SECONDS
        while not all(times := page.evaluate(TIMES)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no picture within {LATEST_SECONDS:g} s")
            time.sleep(0.05)
        return float(times[0]), float(times[1])
    finally:
        context.close()


def measure(*, quick: bool) -> list[Figure]:
    """Open the demo's wall again and again, each time in a profile that knows nothing of it."""
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415  part of `.[dev]` only
    except ImportError:
        raise NotMeasuredError("without playwright (`pip install -e '.[dev]'`)") from None
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        raise NotMeasuredError(f"without a browser: {', '.join(NAMES)}")
    with Daemon("demo", "--port", "0") as daemon, sync_playwright() as playwright:
        daemon.wait_for(lambda: daemon.shows("gym") and daemon.shows("rack"))
        browser = playwright.chromium.launch(executable_path=found[0], args=list(FLAGS))
        try:
            seen = [_opened(browser, daemon.url) for _ in range(3 if quick else 15)]
        finally:
            browser.close()
    pictures, loaded = zip(*seen, strict=True)
    return [
        Figure(
            "wall: navigation to the first picture, in a browser that has never been there",
            statistics.median(pictures) / 1000,
            "s",
            ("<=", 1.0),
            f"the page itself loaded (its `load` event): {statistics.median(loaded) / 1000:.2f} s",
            f"demo, Chromium without a screen, loopback; median of {len(seen)}, worst {max(pictures) / 1000:.2f} s",
        )
    ]
