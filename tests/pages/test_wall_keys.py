"""The wall where a key is needed, below a path of nginx: log in, out, and nothing that a stranger may see."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages.browser import Open, assert_accessible
from tests.pages.wall import shown, until_shown
from tests.process.daemon import TESTS, Daemon, until
from tests.process.streaming import PLUGINS
from tests.process.test_streams_proxy import nginx

pytestmark = pytest.mark.process

KEY = "k3y-of-the-wall-page"
ROOT = "/cams"


def location(daemon: Daemon) -> str:
    """What the docs say."""
    page = (TESTS.parent / "docs" / "wall.md").read_text(encoding="utf-8")
    found = re.search(rf"^location {ROOT}/ \{{.*?^\}}", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[0].replace("127.0.0.1:8080", f"127.0.0.1:{daemon.port}")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where nginx shows a daemon that asks for a key."""
    settings = {
        "server": {"port": 0, "root_path": ROOT},
        "auth": {"keys": [{"name": "wall", "key": KEY}]},
        "cameras": {"gym": {"plugin": "noisy", "options": {"fps": 5, "width": 320, "height": 180}}},
    }
    folder = tmp_path_factory.mktemp("nginx")
    with (
        Daemon(tmp_path_factory.mktemp("locked"), settings, plugins=PLUGINS) as daemon,
        nginx(folder, daemon.port, more=location(daemon)) as port,
    ):
        yield f"http://127.0.0.1:{port}{ROOT}/"


def test_below_a_path_of_nginx_one_logs_in_with_a_key_and_out_again(url: str, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(url)
    page = watched.page
    page.get_by_label("API key").fill("n0t-the-key-of-anybody")
    assert_accessible(page)
    page.get_by_role("button", name="Log in").click()
    until(lambda: page.get_by_role("alert").inner_text() == "this key is not known", what="the API's own words")
    assert page.locator(".tile").count() == 0
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    until_shown(page, "gym")
    assert page.get_by_label("API key").count() == 0
    page.locator(".open").click()
    until(lambda: page.locator("#view").get_attribute("data-frame"), what="the full view")
    page.keyboard.press("Escape")
    until_shown(page, "gym")
    leave = page.get_by_role("button", name="Log out")
    page.route("**/auth/session", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        leave.click()
    page.unroute("**/auth/session")
    page.wait_for_timeout(100)
    assert leave.is_visible(), "one is still logged in"
    leave.click()
    page.get_by_label("API key").wait_for()
    assert shown(page) == {}
    assert all(one.startswith(url) for one in watched.asked)
    watched.assert_quiet(refused=["/api/v1/"])
