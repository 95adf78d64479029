"""The wall in a real browser, on the demo: pictures that advance, states in words, the full view, keyboard, looks."""

import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pages.browser import Open, assert_accessible, screenshot
from tests.pages.wall import SLACK_SECONDS, shown, tile, until_shown, viewers
from tests.process.daemon import Daemon, until

pytestmark = pytest.mark.process

LIGHTEST = 60_000
"""Bytes of script and style before compression, at most."""
PERSON = (76, 175, 80)
"""The colour of the box around somebody."""


def drawn_pixels(locator: Any) -> int:
    """How many pixels have the colour of the box around somebody."""
    with Image.open(io.BytesIO(locator.screenshot())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((abs(pixels - PERSON).max(axis=2) < 24).sum())


@pytest.fixture(autouse=True)
def _both_live(demo: Daemon) -> None:
    """Whatever the test before has left."""
    for name in ("gym", "rack"):
        demo.client.post(f"/api/v1/cameras/{name}/resume").raise_for_status()
        demo.until_state(name, "live")


def test_tiles_advance_and_a_paused_camera_says_so_within_two_polls(
    demo: Daemon, open_page: Open, tmp_path: Path
) -> None:
    dark = open_page(demo.url, height=520, color_scheme="dark")
    before = until_shown(dark.page, "gym", "rack")
    until(lambda: all(shown(dark.page).get(name, 0) > number for name, number in before.items()), seconds=5)
    assert "of 2 live" in dark.page.inner_text("#summary")
    weight = dark.page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => /\\.(js|css)$/.test(one.name))"
        ".reduce((sum, one) => sum + one.decodedBodySize, 0)"
    )
    assert 10_000 < weight < LIGHTEST
    until(lambda: drawn_pixels(tile(dark.page, "gym").locator(".box")) > 200, what="a box around somebody")
    screenshot(dark.page, "wall-dark", tmp_path)
    assert_accessible(dark.page)

    until(lambda: dark.page.evaluate("performance.now()") > 4000, what="the time after which changes are news")
    asked = dark.count("rack/snapshot")
    demo.client.post("/api/v1/cameras/rack/pause").raise_for_status()
    until(lambda: "rack" not in shown(dark.page), seconds=2 + SLACK_SECONDS, what="the tile that says so")
    rack = tile(dark.page, "rack")
    assert dark.count("rack/snapshot") - asked <= 2
    assert rack.locator("canvas").is_hidden()
    assert rack.get_attribute("data-frame") is None
    assert rack.get_attribute("data-state") == rack.locator(".badge").inner_text() == "paused"
    assert rack.locator(".message strong").inner_text() == "paused"
    assert rack.locator(".why").inner_text() == "paused by request"
    assert re.fullmatch(r"since \d\d:\d\d \(\d+ s\)", rack.locator(".since").inner_text())
    assert dark.page.inner_text("#changes") == "rack: paused, paused by request"
    asked = dark.count("rack/snapshot")
    assert "gym" in shown(dark.page)

    light = open_page(demo.url, height=520, color_scheme="light")
    until_shown(light.page, "gym")
    assert tile(light.page, "rack").get_attribute("data-state") == "paused"
    assert_accessible(light.page)
    screenshot(light.page, "wall-light", tmp_path)
    assert dark.count("rack/snapshot") == asked, "a camera without a picture was asked for one"
    demo.client.post("/api/v1/cameras/rack/resume").raise_for_status()
    until_shown(dark.page, "rack")
    dark.assert_quiet(refused=["rack/snapshot"])
    light.assert_quiet(refused=["rack/snapshot"])


def test_the_first_pictures_wait_for_no_timer_and_one_question_each(demo: Daemon, open_page: Open) -> None:
    """The page's time stands still but for 10 ms. How long the first picture takes in all `make bench` measures."""
    watched = open_page("about:blank")
    watched.page.clock.install(time=time.time())
    watched.page.clock.pause_at(time.time() + 60)
    watched.page.goto(demo.url)
    until(lambda: tile(watched.page, "rack").get_attribute("data-state") == "live", what="the list of cameras")
    begun = watched.page.evaluate("performance.now()")
    watched.page.clock.run_for(10)
    assert set(until_shown(watched.page, "gym", "rack")) == {"gym", "rack"}
    assert [watched.count(f"{name}/snapshot") for name in ("gym", "rack")] == [1, 1]
    assert watched.page.evaluate("performance.now()") - begun == pytest.approx(10, abs=1)
    watched.assert_quiet()


def frame_of(page: Any) -> int:
    """The number of the frame that the full view shows; 0 where it shows none."""
    return int(page.locator("#view").get_attribute("data-frame") or 0)


def assert_ended(demo: Daemon, page: Any) -> None:
    """Assert that the full view is closed, and its stream with it."""
    assert page.locator("#view").is_hidden()
    until(lambda: not viewers(demo), seconds=2, what="the end of the stream")


def test_by_keyboard_the_full_view_opens_a_stream_and_ends_it(demo: Daemon, open_page: Open, tmp_path: Path) -> None:
    watched = open_page(demo.url, color_scheme="dark")
    page, canvas = watched.page, watched.page.locator("#view canvas")
    until_shown(page, "gym", "rack")
    page.locator("#theme").focus()
    focused = []
    for key in ("Tab", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        focused.append(page.evaluate("document.activeElement.ariaLabel"))
    assert focused == ["Full view of gym", "Full view of rack", "Full view of gym"]
    page.keyboard.press("Enter")
    first = until(lambda: frame_of(page), what="a frame")
    until(lambda: frame_of(page) > first + 3, what="more frames")
    assert [(one["kind"], one["camera"]) for one in viewers(demo)] == [("mjpeg", "gym")]
    assert page.url == f"{demo.url}/#gym"
    asked = watched.count("/snapshot")
    until(lambda: drawn_pixels(canvas) > 400, what="a box around somebody")
    screenshot(page, "view", tmp_path)
    assert_accessible(page)
    assert watched.count("/snapshot") == asked, "tiles that nobody sees were asked for"
    page.keyboard.press("ArrowRight")
    until(lambda: frame_of(page) and [one["camera"] for one in viewers(demo)] == ["rack"], what="the next camera")
    page.keyboard.press("ArrowLeft")
    until(lambda: frame_of(page) and [one["camera"] for one in viewers(demo)] == ["gym"], what="the first camera")
    page.keyboard.press("Escape")
    assert_ended(demo, page)
    assert page.evaluate("document.activeElement.ariaLabel") == "Full view of gym"
    assert page.url.rstrip("/#") == demo.url
    watched.assert_quiet()


def test_the_full_view_does_as_it_is_told_and_says_why_there_is_no_picture(demo: Daemon, open_page: Open) -> None:
    watched = open_page(demo.url)
    page, view = watched.page, watched.page.locator("#view")
    tile(page, "gym").locator(".open").click()
    until(lambda: frame_of(page), what="a frame")
    view.get_by_label("Overlay").uncheck()
    until(lambda: frame_of(page) and drawn_pixels(view.locator("canvas")) < 100, what="a picture without boxes")
    view.get_by_label("Quality").select_option("low")
    until(lambda: [one["quality"] for one in viewers(demo)] == [45], what="the quality")
    demo.client.post("/api/v1/cameras/gym/pause").raise_for_status()
    until(lambda: "paused by request" in view.locator(".message").inner_text(), what="the words")
    assert view.locator("canvas").is_hidden()
    demo.client.post("/api/v1/cameras/gym/resume").raise_for_status()
    until(lambda: frame_of(page), what="a frame again")
    (viewer,) = viewers(demo)
    demo.client.delete(f"/api/v1/viewers/{viewer['id']}").raise_for_status()
    until(lambda: frame_of(page) and {one["id"] for one in viewers(demo)} - {viewer["id"]}, what="another stream")
    page.go_back()
    assert_ended(demo, page)
    assert tile(page, "gym").locator(".overlay").get_attribute("aria-pressed") == "false"
    page.reload()
    until_shown(page, "gym", "rack")
    pressed = [tile(page, name).locator(".overlay").get_attribute("aria-pressed") for name in ("gym", "rack")]
    assert pressed == ["false", "true"]
    watched.assert_quiet(refused=["gym/snapshot"])

    linked = open_page(f"{demo.url}/#rack")
    until(lambda: frame_of(linked.page), what="the camera of the link")
    linked.page.get_by_role("button", name="Close").click()
    until_shown(linked.page, "rack")
    assert linked.page.url == f"{demo.url}/"
    linked.assert_quiet()


def test_on_a_phone_and_on_a_kiosk_it_fits(demo: Daemon, open_page: Open, tmp_path: Path) -> None:
    phone = open_page(demo.url, width=390, height=844, device_scale_factor=2, is_mobile=True, has_touch=True)
    until_shown(phone.page, "gym")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
    assert "width=960" in next(url for url in phone.asked if "/snapshot" in url)
    screenshot(phone.page, "phone", tmp_path)
    tile(phone.page, "gym").locator(".open").tap()
    until(lambda: phone.page.locator("#view").get_attribute("data-frame"), what="the full view")
    assert phone.page.evaluate("document.querySelector('#view').scrollWidth") == 390
    assert_accessible(phone.page)
    phone.assert_quiet()

    kiosk = open_page("about:blank")
    kiosk.page.add_init_script(
        "window.awake = 0; navigator.wakeLock.request = () => { window.awake += 1; return Promise.resolve({}); };"
    )
    kiosk.page.clock.install()
    kiosk.page.goto(f"{demo.url}/?kiosk=1&cameras=rack,gym,attic&columns=2&overlay=0")
    until_shown(kiosk.page, "gym", "rack")
    assert kiosk.page.locator(".tile h2").all_inner_texts() == ["rack", "gym", "attic"]
    assert "unknown camera" in tile(kiosk.page, "attic").inner_text()
    assert kiosk.page.locator("header").is_hidden()
    assert kiosk.count("overlay=true") == 0
    tops = {box["y"] for name in ("rack", "gym") if (box := tile(kiosk.page, name).bounding_box())}
    assert len(tops) == 1
    assert kiosk.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert kiosk.page.evaluate("window.awake") == 1
    kiosk.page.clock.fast_forward(3100)
    until(lambda: kiosk.page.evaluate("getComputedStyle(document.body).cursor") == "none", what="no cursor")
    screenshot(kiosk.page, "kiosk", tmp_path)

    kiosk.page.route("**/api/v1/state", lambda route: route.fulfill(json={"version": "99.0"}))
    with kiosk.page.expect_event("load"):
        kiosk.page.clock.fast_forward(31_000)
    kiosk.page.evaluate("window.marker = 1")
    until_shown(kiosk.page, "gym")
    assert kiosk.page.evaluate("window.marker") == 1, "loaded more than once"
    kiosk.assert_quiet()
