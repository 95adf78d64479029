"""The panel in a real browser, against a real daemon with the demo's cameras: each section, each order, no noise."""

import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.pages.browser import Open, Watched, assert_accessible, opener, screenshot
from tests.process.daemon import INSTALLED, TESTS, Daemon, new_client, until

pytestmark = pytest.mark.process

SECONDS = 60.0
"""Until a network is compiled and has predicted, on a loaded machine."""
READ_KEY, ADMIN_KEY = "k3y-of-the-wall-page", "k3y-of-the-admin-panel"
PASSWORD, TOKEN = "hunter2-of-the-attic", "t0ken-of-the-attic"
SECRETS = (READ_KEY, ADMIN_KEY, PASSWORD, TOKEN)
HISTORY = "/api/v1/cameras/gym/history"
SECTIONS = ("cameras", "viewers", "models", "plugins", "jobs", "settings", "logs", "process")

FILLED = "#section-{0} :is(tbody tr, .empty:not([hidden]), .log li, .facts > div)"
DARK = {("dark", name) for name in ("cameras", "models", "logs")}
"""What is checked in both: all colours that there are."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The cameras of the demo, one that nobody can reach, and keys."""
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")
    from healthd_yolo.demo import config  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("panel")
    attic = {"plugin": "faulty-capture", "url": f"rtsp://onlooker:{PASSWORD}@127.0.0.1:9/1?token={TOKEN}"}
    settings = {
        "cameras": {**config()["cameras"], "attic": {**attic, "reconnect_max_seconds": 60}},
        "auth": {
            "keys": [
                {"name": "wall", "key": READ_KEY},
                {"name": "panel", "key": ADMIN_KEY, "scope": "admin"},
            ]
        },
        "jobs": {"directory": str(folder / "jobs")},
    }
    plugins = (INSTALLED, TESTS.parent / "plugins" / "healthd-yolo")
    with Daemon(folder, settings, plugins=plugins, HEALTHD_STREAMS__MAX_VIEWERS="50") as running:
        running.client.headers["X-Api-Key"] = ADMIN_KEY
        running.until_ready(seconds=SECONDS)
        for name in ("gym", "rack"):
            until(lambda name=name: running.camera(name)["predicted_fps"] > 0, seconds=SECONDS, what=running.story)
        yield running


@pytest.fixture(scope="module")
def admin(browser: Any, daemon: Daemon) -> Iterator[Watched]:
    """One page for most tests, as somebody has it who leaves it open; who holds a key of scope admin."""
    with opener(browser) as open_page:
        yield logged_in(open_page, daemon, ADMIN_KEY)


@pytest.fixture
def panel(admin: Watched) -> Iterator[Watched]:
    """That page; what it asked for and complained of in one test is looked at there."""
    admin.asked.clear()
    admin.heard().clear()
    yield admin
    if admin.page.locator("#dismiss").is_visible():
        admin.page.locator("#dismiss").click()


def logged_in(open_page: Open, daemon: Daemon, key: str) -> Watched:
    watched = open_page(f"{daemon.url}/admin")
    watched.page.get_by_label("API key").fill(key)
    watched.page.keyboard.press("Enter")
    watched.page.locator("#section-cameras").wait_for()
    return watched


def section(watched: Watched, name: str) -> Any:
    """Go to a section; return the page."""
    watched.page.locator(f"#sections a[href='#{name}']").click()
    watched.page.locator(f"#section-{name}").wait_for()
    return watched.page


def details(page: Any, name: str) -> Any:
    """Open what stands below a camera."""
    toggle = page.get_by_role("button", name=name, exact=True)
    if toggle.get_attribute("aria-expanded") == "false":
        toggle.click()
    return page.locator(f"#more-{name}")


def said(page: Any, words: str) -> None:
    """Wait until the panel says this of what was ordered."""
    until(lambda: words in page.inner_text("#said"), what=lambda: f"{words}: {page.inner_text('#said')}")


def row(page: Any, section: str, name: str) -> Any:
    """The row of a table that stands for a name."""
    return page.locator(f"#section-{section} tbody > tr[data-key='{name}']")


def camera(page: Any, name: str) -> Any:
    return row(page, "cameras", f"row {name}")


def badge(page: Any, name: str) -> str:
    return str(camera(page, name).locator(".badge").inner_text())


def chart(page: Any, of: str) -> str:
    """What a chart of the gym says of itself."""
    return str(page.locator(f"svg[aria-label^='{of} of gym']").get_attribute("aria-label"))


def until_state(daemon: Daemon, page: Any, name: str, state: str) -> None:
    """Wait until the API and the panel say so."""
    daemon.until_state(name, state)
    until(lambda: badge(page, name) == state, seconds=5, what=lambda: f"{state}, not {badge(page, name)}")


# -- who may do what ---------------------------------------------------------------------------------------------------


def test_one_logs_in_with_a_key_and_out_again(daemon: Daemon, open_page: Open) -> None:
    watched = open_page(f"{daemon.url}/admin")
    page = watched.page
    page.get_by_label("API key").fill("n0t-the-key-of-anybody")
    page.keyboard.press("Enter")
    until(lambda: page.get_by_role("alert").inner_text() == "this key is not known", what="the API's own words")
    assert not page.locator("#panel").is_visible()
    page.get_by_label("API key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    until(lambda: badge(page, "gym") == "live", what="the cameras")
    assert re.match(r"panel \(admin\), until .*\d", page.inner_text("#who"))
    assert page.inner_text("#summary") == "2 of 3 cameras live"
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("API key").wait_for()
    assert not page.locator("#panel").is_visible()
    watched.assert_quiet(refused=["/auth/login"])


def test_a_key_that_may_read_sees_everything_and_is_told_why_it_can_change_nothing(
    daemon: Daemon, open_page: Open
) -> None:
    watched = logged_in(open_page, daemon, READ_KEY)
    page = watched.page
    until(lambda: badge(page, "gym") == "live", what="the cameras")
    details(page, "gym").locator("input[type=range]").first.wait_for()
    for control in page.locator("main [data-changes]").all():
        assert control.is_disabled()
        reason = page.inner_text(f"#{control.get_attribute('aria-describedby')}")
        assert reason.startswith("The key wall may only read")
    assert page.locator("main [data-changes]").count() > 10
    camera(page, "gym").get_by_text("Pause").evaluate("button => (button.disabled = false, button.click())")
    said(page, "the key `wall` may only read; this needs one with scope `admin`")
    assert daemon.camera("gym")["state"] == "live"
    watched.assert_quiet(refused=["/cameras/gym/pause"])


# -- cameras -----------------------------------------------------------------------------------------------------------


def test_a_camera_is_paused_resumed_and_restarted(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "cameras")
    gym = camera(page, "gym")
    gym.get_by_text("Pause").click()
    said(page, "gym is paused")
    until_state(daemon, page, "gym", "paused")
    assert "paused by request" in gym.inner_text()
    gym.get_by_text("Resume").click()
    said(page, "gym is being opened")
    until_state(daemon, page, "gym", "live")
    sessions = daemon.camera("gym")["reconnects"]
    gym.get_by_text("Restart").click()
    said(page, "gym begins anew")
    until(lambda: daemon.camera("gym")["reconnects"] > sessions, what="another session")
    until_state(daemon, page, "gym", "live")
    assert badge(page, "attic") in {"starting", "reconnecting"}
    errors = details(page, "attic").locator(".errors")
    until(lambda: "reader: " in errors.inner_text(), what="the last errors")
    panel.assert_quiet()


def test_a_hot_change_of_predict_fps_is_seen_in_the_chart(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "cameras")

    def rate() -> float:
        return float(re.search(r"predictions: now ([\d.]+)", chart(page, "Frames per second"))[1])  # type: ignore[index]

    until(lambda: "now" in chart(page, "Frames per second"), what="the past, as soon as the page is there")
    number = details(page, "gym").locator("input[type=number][name=predict_fps]")
    number.wait_for()
    change = daemon.get("/schema").json()["components"]["schemas"]["CameraChange"]["properties"]["predict_fps"]
    for kind in ("number", "range"):
        field = page.locator(f"#more-gym input[type={kind}][name=predict_fps]")
        assert float(field.get_attribute("min")) == change["minimum"]
        assert float(field.get_attribute("max")) == change["maximum"]
    until(number.is_enabled, what="what it is now")
    number.fill("1")
    number.press("Enter")
    said(page, "gym: predictions per second, at most: 1")
    assert daemon.camera("gym")["tuning"]["predict_fps"] == 1
    until(lambda: rate() <= 1.3, seconds=25, what=lambda: chart(page, "Frames per second"))
    points = daemon.get(HISTORY).json()["points"]
    assert points[-1]["predicted_fps"] <= 1.3
    slider = page.locator("#more-gym input[type=range][name=quality]")
    slider.focus()
    slider.press("ArrowLeft")
    said(page, "gym: jpeg quality: 74")
    assert daemon.camera("gym")["tuning"]["quality"] == 74
    panel.asked.clear()
    for _ in range(20):  # a key that is held
        slider.press("ArrowLeft")
    said(page, "gym: jpeg quality: 54")
    assert daemon.camera("gym")["tuning"]["quality"] == 54
    assert sum(url.endswith("/cameras/gym") for url in panel.asked) <= 8, "each step was sent"
    panel.assert_quiet()
    daemon.client.patch("/api/v1/cameras/gym", json={"predict_fps": 10, "quality": 75})


def test_the_past_of_a_daemon_of_before_is_not_drawn_before_that_of_the_next(panel: Watched) -> None:
    """It counts anew, and may have come as far as the last one while nobody looked."""
    now, started_anew = datetime.now(UTC), False
    fields = {"state": "live", "predicted_fps": 1, "predict_ms": 1, "frame_age_ms": 1, "dropped": {}}

    def points(count: int, fps: float, end: datetime) -> list[dict[str, Any]]:
        times = [(end - timedelta(seconds=5 * (count - number))).isoformat() for number in range(1, count + 1)]
        return [{"id": number, "at": at, "fps": fps, **fields} for number, at in enumerate(times, 1)]

    def answer(route: Any) -> None:
        after = int(parse_qs(urlsplit(route.request.url).query).get("after", ["0"])[0])
        told = points(5, 5.0, now) if started_anew else points(3, 99.0, now - timedelta(hours=1))
        route.fulfill(json={"points": [point for point in told if point["id"] > after]})

    page = section(panel, "cameras")
    page.route("**/cameras/gym/history*", answer)
    for least in ("99.0", "5.0"):
        started_anew = least == "5.0"
        section(panel, "models")
        section(panel, "cameras")
        words = f"frames: now {least}, between {least} and {least}"
        until(lambda words=words: words in chart(page, "Frames per second"), seconds=4, what=words)
    page.unroute("**/cameras/gym/history*")
    panel.assert_quiet()


# -- viewers, models, plugins, jobs ------------------------------------------------------------------------------------


def test_a_viewer_is_ended(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "viewers")
    with daemon.client.stream("GET", "/api/v1/cameras/rack/stream") as stream:
        rack = page.locator("#section-viewers tbody tr", has_text="rack")
        rack.wait_for()
        assert "mjpeg" in rack.inner_text()
        rack.get_by_text("End").click()
        said(page, "is ended")
        for _ in stream.iter_raw():  # to its end
            continue
    until(lambda: rack.count() == 0, what="the row to go")
    panel.assert_quiet()


def test_however_many_viewers_come_and_go_the_panel_asks_seldom(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "viewers")
    page.locator("#section-viewers tbody tr", has_text="events").wait_for()
    panel.asked.clear()
    begun = time.monotonic()
    for _ in range(12):
        with daemon.client.stream("GET", "/api/v1/cameras/rack/stream"):
            continue
    page.wait_for_timeout(600)
    assert 1 <= panel.count("/api/v1/viewers") <= 2 + (time.monotonic() - begun) / 0.5
    panel.assert_quiet()


def test_a_model_that_a_camera_holds_is_not_unloaded_in_the_apis_own_words(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "models")
    model = row(page, "models", "gym-pose.onnx")
    until(lambda: re.search(r"[\d.]+/s", model.inner_text()), what="its rate")
    model.get_by_text("Unload").click()
    refused = daemon.client.delete("/api/v1/models/gym-pose.onnx")
    assert refused.status_code == 409
    said(page, refused.json()["detail"])
    panel.assert_quiet(refused=["/models/gym-pose.onnx"])


def test_a_broken_plugin_says_why(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "plugins")
    broken = next(one for one in daemon.get("/api/v1/plugins").json() if one["state"] == "broken")
    told = row(page, "plugins", f"{broken['group']} {broken['name']}")
    told.wait_for()
    assert broken["reason"] in told.inner_text()
    assert version("healthd-yolo") in row(page, "plugins", "healthd.camera_sources yolo-pose").inner_text()
    panel.assert_quiet()


def test_a_job_is_shown_and_removed(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "jobs")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("gym.jpg", daemon.get("/api/v1/cameras/gym/snapshot").raise_for_status().content)
    files = {"file": ("reps.zip", archive.getvalue())}
    daemon.client.post("/api/v1/jobs?model=gym-pose.onnx", files=files).raise_for_status()
    job = page.locator("#section-jobs tbody tr", has_text="reps.zip")
    until(lambda: job.locator(".badge").inner_text() == "done", seconds=SECONDS, what="the end of the job")
    assert "1 of 1" in job.inner_text()
    job.get_by_text("Remove").click()
    job.get_by_text("Really remove?").click()
    said(page, "reps.zip is removed")
    until(lambda: job.count() == 0, what="the row to go")
    panel.assert_quiet()


# -- settings, log, process --------------------------------------------------------------------------------------------


def test_settings_show_their_sources_and_no_secret(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "settings")
    row(page, "settings", "server.port").wait_for()
    text = page.inner_text("#section-settings table")
    assert not [secret for secret in SECRETS if secret in text]
    assert row(page, "settings", "auth.keys[0].key").inner_text().split("\t") == [
        "auth.keys[0].key",
        "***",
        "file: config.toml",
    ]
    assert "rtsp://***@127.0.0.1:9/1?***" in row(page, "settings", "cameras.attic.url").inner_text()
    page.get_by_role("button", name="Reload configuration").click()
    said(page, "nothing has changed")
    page.get_by_label("no defaults").check()
    page.get_by_label("Show").fill("environment")
    until(lambda: page.locator("#section-settings tbody tr").count() == 1, what="the filter")
    assert "HEALTHD_STREAMS__MAX_VIEWERS" in page.inner_text("#section-settings tbody")
    panel.assert_quiet()


def test_the_log_is_followed_chosen_and_halted(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "logs")

    def lines() -> list[str]:
        found = page.locator("#section-logs .log li:visible").all_inner_texts()
        return [str(line) for line in found]

    until(lambda: any("daemon_started" in line for line in lines()), what="the lines of before")
    page.locator("select[name=camera]").select_option("rack")
    until(lambda: lines() and all(" rack " in line for line in lines()), what="the camera's lines alone")
    before = len(lines())
    daemon.client.post("/api/v1/cameras/rack/restart").raise_for_status()
    until(lambda: len(lines()) > before, what="a line as it is written")
    page.get_by_label("Text").fill("model_loaded")
    until(lambda: all("model_loaded" in line for line in lines()), what="the text")
    page.get_by_label("Text").fill("")
    page.locator("select[name=camera]").select_option("")
    page.locator("select[name=level]").select_option("warning")
    until(lambda: lines() and not [line for line in lines() if " info " in line], what="warnings alone")
    assert any("session_failed" in line and "attic" in line for line in lines())
    page.locator("select[name=level]").select_option("info")
    until(lambda: any(" info " in line for line in lines()), what="all again")
    page.get_by_role("button", name="Halt").click()
    before = len(lines())
    daemon.client.post("/api/v1/cameras/rack/restart").raise_for_status()
    until(lambda: re.search("halted: [1-9]", page.inner_text("#section-logs .filters")), what="what is held back")
    assert len(lines()) == before
    page.get_by_role("button", name="Halt").click()
    assert len(lines()) > before
    assert not [secret for secret in SECRETS if secret in page.inner_text("#section-logs")]
    daemon.until_state("rack", "live")
    panel.assert_quiet()


def test_the_diagnostics_are_downloaded_without_secrets(daemon: Daemon, panel: Watched, tmp_path: Path) -> None:
    page = section(panel, "process")
    until(lambda: f"healthd\n{daemon.get('/health').json()['version']}" in page.inner_text("main"), what="versions")
    assert re.search(r"memory\n\d+ MB", page.inner_text("main"))
    assert re.search(r"CPU\n[\d.]+ of \d+ cores", page.inner_text("main"))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download diagnostics").click()
    name = waiting.value.suggested_filename
    assert re.fullmatch(r"healthd-diagnostics-\d{8}-\d{6}\.zip", name)
    said(page, name)
    waiting.value.save_as(tmp_path / name)
    with zipfile.ZipFile(tmp_path / name) as archive:
        parts = {one: archive.read(one).decode() for one in archive.namelist()}
    assert {camera["name"] for camera in json.loads(parts["cameras.json"])} == {"gym", "rack", "attic"}
    leaks = [(secret, part) for secret in (*SECRETS, "onlooker") for part, text in parts.items() if secret in text]
    assert not leaks
    panel.assert_quiet()


# -- how it looks, and what goes on while nobody does ------------------------------------------------------------------


@pytest.mark.timeout(500)  # for the docs it waits for charts that are worth looking at
def test_every_section_is_accessible_dark_and_light_and_fits_a_phone(
    daemon: Daemon, panel: Watched, tmp_path: Path
) -> None:
    page = section(panel, "cameras")
    details(page, "gym")
    if os.environ.get("HEALTHD_WRITE_SCREENSHOTS") == "1":
        until(lambda: len(daemon.get(HISTORY).json()["points"]) > 50, seconds=300, what="a few minutes")
    for scheme, width, height in (("light", 1280, 800), ("dark", 1280, 800), ("light", 390, 844)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        for name in reversed(SECTIONS):
            section(panel, name)
            until(lambda name=name: page.locator(FILLED.format(name)).count(), what=name)
            if (scheme == "light" and width > 500) or (scheme, name) in DARK:
                assert_accessible(page)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        until(lambda: page.locator("svg.chart path.line[d^=M]").count() >= 6, what="the charts")
        screenshot(page, "panel-phone" if width < 500 else f"panel-{scheme}", tmp_path)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 800})
    panel.assert_quiet()


def test_a_page_that_nobody_sees_asks_for_nothing(daemon: Daemon, panel: Watched) -> None:
    page = section(panel, "logs")
    until(lambda: len(daemon.get("/api/v1/viewers").json()) == 2, what="events and the log")
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true})")
    page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: daemon.get("/api/v1/viewers").json() == [], what="the streams to end")
    asked = len(panel.asked)
    page.wait_for_timeout(2500)
    assert panel.asked[asked:] == []
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    until(lambda: len(daemon.get("/api/v1/viewers").json()) == 2, what="the streams to begin again")
    panel.assert_quiet()


def test_the_daemon_lets_nobody_in_who_has_no_key(daemon: Daemon) -> None:
    with new_client(daemon.url) as stranger:
        assert stranger.get("/admin").status_code == 200
        for path in ("settings", "logs", "diagnostics", "cameras/gym/history"):
            answer: httpx.Response = stranger.get(f"/api/v1/{path}")
            assert answer.status_code == 401, path
