"""The wall while things come and go: the daemon, cameras, the tab, the tiles' place on the screen, pages of others."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import Chromium
from tests.pages.browser import Open
from tests.pages.wall import LIST_SECONDS, SLACK_SECONDS, shown, tile, until_shown
from tests.process.daemon import Daemon, until
from tests.process.streaming import PLUGINS
from tests.serving import free_port

pytestmark = pytest.mark.process

STILL_SECONDS = 6.0
"""After so long a picture that nobody confirms has gone."""
NAMES = [f"camera{number}" for number in range(12)]
OTHERS = b"""<!doctype html><title>a page of others</title><img id=picture><pre id=told></pre><script type=module>
const base = new URLSearchParams(location.search).get("healthd");
const cameras = await (await fetch(`${base}/api/v1/cameras`)).json();
const used = cameras.map(({ name, source, fps, connected }) => ({ name, source, fps, connected }));
told.textContent = JSON.stringify(used);
const poll = async () => {
  const answer = await fetch(`${base}/api/v1/cameras/${cameras[0].name}/snapshot?t=${Date.now()}`);
  const old = picture.src;
  picture.src = URL.createObjectURL(await answer.blob());
  picture.dataset.frame = answer.headers.get("X-Frame-Id");
  URL.revokeObjectURL(old);
};
await poll();
setInterval(poll, 1000);
</script>"""


class OthersPage(BaseHTTPRequestHandler):
    """A page that other people wrote, on a server of its own."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(OTHERS)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def others() -> Iterator[str]:
    """The origin of a page of others."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OthersPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class House:
    """A daemon on a port of its own that can be killed and started anew."""

    def __init__(self, folder: Path, origin: str) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.server = {"port": free_port(), "cors_origins": [origin]}
        self.url = f"http://127.0.0.1:{self.server['port']}"
        self.daemon: Daemon

    def start(self, names: Sequence[str] = NAMES) -> None:
        options = {"fps": 3, "width": 320, "height": 180}
        cameras = {name: {"plugin": "noisy", "options": options} for name in names}
        daemon = Daemon(self._folder, {"server": self.server, "cameras": cameras}, plugins=PLUGINS)
        self.daemon = self._stack.enter_context(daemon)
        self.daemon.until_ready().until_state(names[-1], "live")

    def kill(self) -> None:
        self.daemon.send(signal.SIGKILL)
        self.daemon.wait(seconds=10)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, others: str) -> Iterator[House]:
    running = House(tmp_path_factory.mktemp("house"), others)
    running.start()
    yield running
    running.close()


def asked_of(urls: Sequence[str]) -> set[str]:
    """The cameras whose pictures were asked for."""
    return {url.split("/cameras/")[1].split("/")[0] for url in urls if "/snapshot" in url}


def test_only_tiles_that_can_be_seen_ask_and_each_for_one_picture_at_a_time(house: House, open_page: Open) -> None:
    watched = open_page("about:blank", width=500, height=640)
    page, running, most = watched.page, set(), 0

    def begin(request: Any) -> None:
        nonlocal most
        if "/snapshot" in request.url:
            most = max(most, sum(one.url == request.url for one in running) + 1)
            running.add(request)

    page.on("request", begin)
    for event in ("requestfinished", "requestfailed"):
        page.on(event, lambda request: running.discard(request))  # noqa: PLW0108  playwright marks what it is given
    page.goto(house.url)
    until_shown(page, NAMES[0])
    page.wait_for_timeout(1500)
    first = asked_of(watched.asked)
    assert NAMES[0] in first
    assert not first & set(NAMES[4:])
    page.locator(".tile").last.scroll_into_view_if_needed()
    until_shown(page, NAMES[-1])
    assert NAMES[0] not in shown(page), "what was scrolled away would be old when it is seen again"
    watched.asked.clear()
    page.wait_for_timeout(2100)
    assert NAMES[-1] in asked_of(watched.asked)
    assert not asked_of(watched.asked) & set(NAMES[:8])
    assert 1 <= watched.count(f"{NAMES[-1]}/snapshot") <= 3
    assert most == 1
    watched.assert_quiet()


def test_a_hidden_tab_asks_for_nothing_and_shows_nothing_old_when_it_is_seen_again(house: House) -> None:
    shows = "document.querySelectorAll('canvas:not([hidden])').length"
    with Chromium() as browser:
        wall = browser.tab(house.url, enable=["Network"])
        until(lambda: wall.run(shows), what="pictures")
        wall.run(
            "document.addEventListener('visibilitychange', () => { window.seen = [document.hidden, "
            + shows
            + "]; }); 0"
        )
        other = browser.tab("about:blank")
        until(lambda: wall.run("window.seen"), what="the tab to be hidden")
        assert wall.run("window.seen") == [True, 0]
        time.sleep(0.5)
        before = len(wall.events("Network.requestWillBeSent"))
        time.sleep(LIST_SECONDS + 1)
        assert len(wall.events("Network.requestWillBeSent")) == before
        assert wall.run(shows) == 0
        other.close()
        browser.call("Target.activateTarget", targetId=wall._target)
        until(lambda: wall.run(shows), seconds=5, what="pictures again")
        assert wall.run("window.seen") == [False, 0]


def test_an_answer_that_comes_when_nobody_looks_any_more_leads_to_no_question(house: House, open_page: Open) -> None:
    watched = open_page(house.url, width=500, height=640)
    page, held = watched.page, []
    until_shown(page, NAMES[0])
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away})")
    page.route("**/api/v1/cameras", lambda route: held.append(route))  # noqa: PLW0108  playwright marks what it is given
    for away in ("true", "false"):
        page.evaluate(f"window.away = {away}; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(100)
    page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
    watched.asked.clear()
    held[-1].continue_()
    page.wait_for_timeout(500)
    assert watched.asked == []
    assert shown(page) == {}
    watched.assert_quiet()


def test_who_clicks_twice_to_leave_the_full_view_stays_on_the_wall(house: House, open_page: Open) -> None:
    page = open_page(house.url, width=500, height=640).page
    until_shown(page, NAMES[0])
    tile(page, NAMES[0]).locator(".open").click()
    until(lambda: page.locator("#view").get_attribute("data-frame"), what="the stream")
    page.evaluate("const close = document.getElementById('view-close'); close.click(); close.click()")
    page.wait_for_timeout(500)
    assert page.url.rstrip("/#") == house.url
    until_shown(page, NAMES[0])
    tile(page, NAMES[0]).locator(".open").click()
    page.keyboard.press("Escape")
    until(lambda: page.locator("#view").is_hidden(), what="the wall again")


def test_a_stream_that_makes_no_sense_is_not_read_on(house: House, open_page: Open) -> None:
    watched = open_page(f"{house.url}/?cameras=nobody")
    told = watched.page.evaluate(
        """async () => {
          let cancelled = false;
          const pull = (stream) => stream.enqueue(new Uint8Array(5000));
          window.fetch = async () => new Response(new ReadableStream({ pull, cancel: () => (cancelled = true) }));
          const { readStream } = await import(new URL("static/mjpeg.js", location));
          const failed = await readStream("x", { onPart: () => {} }).catch((error) => error.message);
          return [failed, cancelled];
        }"""
    )
    assert told == ["this is no stream of healthd", True]


def test_a_page_that_the_browser_has_kept_shows_nothing_old_when_one_goes_back_to_it(house: House) -> None:
    shows = "document.querySelectorAll('canvas:not([hidden])').length"
    with Chromium() as browser:
        wall = browser.tab(house.url)
        until(lambda: wall.run(shows), what="pictures")
        wall.run(f"addEventListener('pageshow', (event) => {{ window.back = [event.persisted, {shows}]; }}); 0")
        wall.call("Page.navigate", url=f"{house.url}/try")
        until(lambda: wall.run("document.title") == "healthd: try a model", what="another page")
        history = wall.call("Page.getNavigationHistory")
        before = history["entries"][history["currentIndex"] - 1]
        wall.call("Page.navigateToHistoryEntry", entryId=before["id"])
        until(lambda: wall.run("window.back"), what="the page as it was kept")
        assert wall.run("window.back") == [True, 0]
        until(lambda: wall.run(shows), seconds=5, what="pictures again")


def test_after_the_machine_slept_no_picture_of_before_is_shown(house: House, open_page: Open) -> None:
    watched = open_page("about:blank", width=500, height=640)
    page = watched.page
    page.clock.install()
    page.goto(house.url)
    until_shown(page, NAMES[0])
    page.route("**/api/**", lambda route: None)  # the network takes its time to come back
    page.clock.fast_forward(3_600_000)
    page.wait_for_timeout(50)
    assert shown(page) == {}
    page.unroute("**/api/**")
    page.clock.fast_forward(6000)
    until_shown(page, NAMES[0], seconds=10)


def test_a_page_of_others_gets_what_it_needs_where_its_origin_is_named(
    house: House, others: str, open_page: Open
) -> None:
    watched = open_page(f"{others}/?healthd={house.url}")
    picture = watched.page.locator("#picture")
    first = int(until(lambda: picture.get_attribute("data-frame"), what="a picture"))
    until(lambda: int(picture.get_attribute("data-frame")) > first, seconds=5, what="the next picture")
    assert watched.page.evaluate("picture.naturalWidth") == 320
    cameras = watched.page.evaluate("JSON.parse(told.textContent)")
    assert [camera["name"] for camera in cameras] == NAMES
    assert all(isinstance(camera["fps"], int | float) and camera["connected"] for camera in cameras)
    assert {camera["source"] for camera in cameras} == {None}
    watched.assert_quiet(house.url.removeprefix("http://"))
    stranger = open_page(f"{others.replace('127.0.0.1', 'localhost')}/?healthd={house.url}")
    until(lambda: "CORS" in " ".join(stranger.heard()), what="the refusal")
    assert stranger.page.inner_text("#told") == ""


def test_a_daemon_that_hangs_leaves_no_picture_behind(house: House, open_page: Open) -> None:
    watched = open_page(f"{house.url}/#{NAMES[0]}")
    page, view = watched.page, watched.page.locator("#view")
    until(lambda: view.get_attribute("data-frame"), what="the stream")
    house.daemon.send(signal.SIGSTOP)
    try:
        until(lambda: view.locator("canvas").is_hidden(), seconds=STILL_SECONDS + SLACK_SECONDS, what="no picture")
        house.daemon.send(signal.SIGCONT)
        until(lambda: view.get_attribute("data-frame"), what="the stream again")
        page.keyboard.press("Escape")
        until_shown(page, NAMES[0])
        house.daemon.send(signal.SIGSTOP)
        until(lambda: not shown(page), seconds=STILL_SECONDS + SLACK_SECONDS, what="no picture")
    finally:
        house.daemon.send(signal.SIGCONT)
    until_shown(page, NAMES[0])
    watched.assert_quiet(refused=[house.url])


def test_the_wall_heals_without_a_reload_when_the_daemon_was_killed(house: House, open_page: Open) -> None:
    """It comes back with another set of cameras, in another order."""
    watched = open_page(house.url, width=1600, height=1200)
    page = watched.page
    until_shown(page, *NAMES)
    page.evaluate("window.marker = 1")
    house.kill()
    until(lambda: not shown(page), seconds=LIST_SECONDS + SLACK_SECONDS, what="no picture")
    until(lambda: "healthd does not answer" in page.inner_text("#note"), seconds=5, what="the words")
    first = tile(page, NAMES[0])
    assert first.locator(".badge").inner_text() == "no contact"
    assert first.locator(".why").inner_text() == "healthd does not answer"
    asked = len(watched.asked)
    page.wait_for_timeout(1500)
    assert len(watched.asked) - asked <= 4, "one question at a time is enough to know when it is back"
    names = ["garage", *NAMES[1:]]
    house.start(names)
    until_shown(page, *names, seconds=10)
    assert page.locator(".tile h2").all_inner_texts() == names
    assert page.evaluate("window.marker") == 1
    until(lambda: page.locator("#note").is_hidden(), seconds=2)
    watched.assert_quiet(refused=[house.url])
