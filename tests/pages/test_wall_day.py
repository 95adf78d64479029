"""A day on a kiosk: 24 hours of the page's own timers and questions, in seconds; nothing grows."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.pages.browser import Open
from tests.pages.wall import shown
from tests.process.daemon import Daemon, until
from tests.process.streaming import PLUGINS

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("day.js").read_text(encoding="utf-8")
TILES = 12
SEEN_MINUTES = int(os.environ.get("HEALTHD_SEEN_MINUTES", "7"))
"""So much of each hour somebody looks, and the page asks at its full rate; 60 takes a minute or two."""


def held(session: Any) -> dict[str, float]:
    """What the page holds when nothing more can be collected."""
    session.send("HeapProfiler.collectGarbage")
    counters = session.send("Memory.getDOMCounters")
    return {"heap": session.send("Runtime.getHeapUsage")["usedSize"], **counters}


def hour(page: Any) -> int:
    """An hour with what happens in one: healthd is away for a minute, a camera for four; nobody looks for a while.

    Returns the questions asked.
    """
    asked = page.evaluate("house.asked")
    page.evaluate("house.silent = true; run(60)")
    assert shown(page) == {}
    page.evaluate("house.silent = false; house.paused.add('camera3'); run(240)")
    assert len(shown(page)) == TILES - 1
    seen = page.evaluate(f"house.paused.clear(); run({(SEEN_MINUTES - 5) * 60})")["asked"]
    assert len(shown(page)) == TILES
    page.evaluate(f"hide(true); run({(60 - SEEN_MINUTES) * 60})")
    assert page.evaluate("house.asked") == seen, "a hidden page asked for something"
    assert shown(page) == {}
    page.evaluate("hide(false); run(3)")
    assert len(shown(page)) == TILES
    return int(page.evaluate("house.asked") - asked)


@pytest.mark.timeout(600)
def test_after_24_hours_the_page_holds_and_asks_no_more_than_after_two(
    open_page: Open, tmp_path: Path, record_property: Any
) -> None:
    with Daemon(tmp_path, {}, plugins=PLUGINS) as daemon:
        watched = open_page("about:blank", width=480, height=400)
        page = watched.page
        page.add_init_script(SCRIPT)
        page.goto(f"{daemon.url}/?kiosk=1&columns=4")
        until(lambda: page.evaluate("run(1); document.querySelectorAll('.tile').length") == TILES, what="tiles")
        page.wait_for_timeout(200)
        session = page.context.new_cdp_session(page)
        asked, holds, timers = [], [], []
        for number in range(24):
            asked.append(hour(page))
            if number in {1, 12, 23}:
                holds.append(held(session))
                timers.append(page.evaluate("timers()"))
        record_property("day", f"{asked} {holds} {timers}")
        print(asked, holds, timers, page.evaluate("house"))
        assert min(asked) > (SEEN_MINUTES - 5) * 60 * TILES
        assert max(asked) < 1.05 * min(asked), asked
        assert holds[-1]["heap"] - holds[0]["heap"] < 400_000, holds
        assert holds[-1]["nodes"] <= holds[0]["nodes"] + 50, holds
        assert holds[-1]["jsEventListeners"] <= holds[0]["jsEventListeners"] + 5, holds
        assert max(timers) - min(timers) <= 3
        assert page.evaluate("house.urls") == 0
        watched.assert_quiet()
