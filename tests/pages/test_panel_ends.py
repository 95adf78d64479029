"""The panel below a path of nginx: a log-in that expires, a daemon that is gone and comes back."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pages.browser import Open
from tests.process.daemon import Daemon, until
from tests.process.streaming import PLUGINS
from tests.process.test_streams_proxy import nginx
from tests.serving import free_port

pytestmark = pytest.mark.process

KEY = "k3y-of-the-admin-panel"
ROOT = "/lab/cams"
SESSION_SECONDS = 9
SECONDS = 40.0


def settings(port: int) -> dict[str, Any]:
    return {
        "server": {"port": port, "root_path": ROOT},
        "auth": {
            "session_hours": SESSION_SECONDS / 3600,
            "keys": [{"name": "panel", "key": KEY, "scope": "admin"}],
        },
        "cameras": {"gym": {"plugin": "noisy", "options": {"fps": 5, "width": 320, "height": 180}}},
    }


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def url(port: int, tmp_path: Path) -> Iterator[str]:
    """Where nginx shows what listens on the port."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    location = f"location {ROOT}/ {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $http_host; }}"
    with nginx(folder, 9, more=location) as found:
        yield f"http://127.0.0.1:{found}{ROOT}/"


def log_in(page: Any) -> None:
    field = page.get_by_label("API key")
    field.wait_for(timeout=SECONDS * 1000)
    field.fill(KEY)
    page.keyboard.press("Enter")
    badge = page.locator("#section-cameras .badge")
    until(lambda: badge.count() and badge.is_visible() and badge.inner_text() == "live", seconds=SECONDS, what="gym")


def test_a_log_in_expires_and_the_panel_outlives_its_daemon(
    url: str, port: int, tmp_path: Path, open_page: Open
) -> None:
    with Daemon(tmp_path, settings(port), plugins=PLUGINS) as daemon:
        daemon.until_ready()
        watched = open_page(f"{url}admin")
        page = watched.page
        log_in(page)
        page.get_by_label("API key").wait_for(timeout=SECONDS * 1000)
        assert not page.locator("#panel").is_visible()
        asked = len(watched.asked)
        page.wait_for_timeout(2500)
        assert len(watched.asked) == asked, "nothing is asked while nobody is logged in"
        log_in(page)
        daemon.send(signal.SIGKILL)
        daemon.wait(seconds=10)
        until(lambda: page.locator("#silent").is_visible(), what="that nobody answers")
        assert page.inner_text("#silent").startswith("healthd does not answer")
        assert "what stands here is from" in page.inner_text("#silent")
    with Daemon(tmp_path, settings(port), plugins=PLUGINS):
        log_in(page)
        assert not page.locator("#silent").is_visible()
    assert all(one.startswith(url) for one in watched.asked)
    watched.assert_quiet(refused=["/api/v1/"])
