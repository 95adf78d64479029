"""What a real browser shows: the newest picture, that there is none, and what it tells when its tab is closed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import Chromium, Tab
from tests.faulty_plugin.installed.healthd_faulty.stamps import Stamp, now_ms, stamp_of
from tests.process.daemon import Daemon, until
from tests.process.streaming import EVENTS, SLACK_SECONDS, STREAM, daemon, ended, epoch, opened

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


def show(browser: Chromium, running: Daemon, *, query: str = "") -> Tab:
    """Open a page of the daemon's own origin with nothing but the stream on it, whatever its policy allows."""
    tab = browser.tab("about:blank", enable=["Page"])
    tab.call("Page.setBypassCSP", enabled=True)
    tab.call("Page.navigate", url=f"{running.url}/healthz")
    until(lambda: tab.run("location.href").startswith(running.url), what="the page")
    tab.run(f'document.documentElement.innerHTML = \'<body style="margin:0"><img src="{STREAM}?{query}"></body>\'; 0')
    return tab


def stamp(tab: Tab) -> Stamp | None:
    """What the picture on the screen tells of itself; None where it is a sign, or none yet."""
    found = stamp_of(tab.picture()[:72, :320])
    return found if found and found.number else None


def is_sign(tab: Tab) -> bool:
    """Whether the picture on the screen is one of words, on its plain ground."""
    picture = tab.picture()[:180, :320].astype(int)
    return bool(abs(picture[:20] - 56).max() < 4 and picture.max() > 150)


def test_a_browser_shows_the_newest_frame_and_not_the_one_before(browser: Chromium, tmp_path: Path) -> None:
    """With two frames a second there is no doubt which one is the newest."""
    with daemon(tmp_path, fps=2, height=200) as running:
        running.until_state("gym", "live")
        tab = show(browser, running)
        until(lambda: stamp(tab), what="a picture")
        tried = shown = 0
        while shown < 4:
            tried += 1
            assert tried < 15, "this machine is too slow to say"
            newest = running.camera("gym")["frame_id"]
            newest = until(lambda n=newest: (i := running.camera("gym")["frame_id"]) > n and i, what="a new frame")
            time.sleep(0.2)
            seen = stamp(tab)
            if running.camera("gym")["frame_id"] == newest:  # no other came meanwhile
                assert seen is not None
                assert seen.number == newest
                shown += 1
        tab.close()


def test_closing_the_tab_frees_the_session_and_so_does_another_picture(browser: Chromium, tmp_path: Path) -> None:
    with daemon(tmp_path, fps=15, height=200) as running:
        running.until_state("gym", "live")
        tabs = [show(browser, running) for _ in range(2)]
        for tab in tabs:
            until(lambda t=tab: stamp(t), what="a picture")
        ages = []
        for _ in range(5):
            seen = stamp(tabs[0])
            assert seen is not None
            ages.append(now_ms() - seen.made_ms)
        assert min(ages) < 1000, f"ages of what is on the screen, the screenshot included, in ms: {ages}"
        first, second = opened(running)
        closed_at = time.time()
        tabs[0].close()
        until(lambda: first in ended(running), seconds=5, what=running.story)
        assert epoch(ended(running)[first]) - closed_at < 0.5 + SLACK_SECONDS
        assert second not in ended(running)
        tabs[1].run("document.images[0].src = '/nowhere'; 0")
        until(lambda: second in ended(running), seconds=5, what=running.story)
        assert {event["reason"] for event in ended(running).values()} == {"client"}
        tabs[1].close()


def test_a_browser_shows_that_the_camera_is_off_and_that_the_stream_has_ended(
    browser: Chromium, tmp_path: Path
) -> None:
    with daemon(tmp_path, fps=10, height=360, width=640) as running:
        running.until_state("gym", "live")
        tab = show(browser, running)
        until(lambda: stamp(tab), what="a picture")
        running.client.post("/api/v1/cameras/gym/pause")
        until(lambda: is_sign(tab), seconds=5, what="the sign")
        running.client.post("/api/v1/cameras/gym/resume")
        until(lambda: stamp(tab), seconds=5, what="the picture again")
        tab.run(
            f"window.told = []; const source = new EventSource('{EVENTS}');"
            "for (const name of ['camera', 'viewer']) source.addEventListener(name, e => told.push([name, e.data])); 0"
        )
        until(lambda: tab.run("told.length"), what="an event")
        assert tab.run("JSON.parse(told[0][1]).name") == "gym"
        assert running.stop()[0] == 0
        until(lambda: is_sign(tab), seconds=5, what="the sign that says that it is over")
        tab.close()
