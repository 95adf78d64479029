"""The page `/try` in a real browser, with the demo's models: pictures, the webcam, the keyboard, keys, and no noise."""

import base64
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from tests.chromium import Chromium, Tab
from tests.process.daemon import Daemon, until

pytestmark = pytest.mark.process

SECONDS = 60.0
"""Until a network is compiled and has predicted, on a loaded machine."""
KEY = "k3y-of-somebody-who-tries"
DOMAINS = ("Network", "Log", "Runtime", "Page")
FAKE_WEBCAM = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """`healthd demo`: what somebody has who has just installed healthd."""
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")
    with Daemon(tmp_path_factory.mktemp("demo"), arguments=["demo", "--port", 0], plugins=[]) as running:
        yield running.until_ready(seconds=SECONDS)


@pytest.fixture(scope="module")
def frame(demo: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the demo's gym with somebody in it."""
    path = tmp_path_factory.mktemp("pictures") / "gym.jpg"

    def somebody() -> Any:
        path.write_bytes(demo.get("/api/v1/cameras/gym/snapshot", q=95).raise_for_status().content)
        answer = demo.client.post("/api/v1/infer?model=gym-pose.onnx", files={"file": path.read_bytes()})
        return answer.json()["results"]

    until(somebody, seconds=SECONDS, what="somebody in the gym")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium(*FAKE_WEBCAM) as running:
        yield running


@pytest.fixture
def tab(browser: Chromium, demo: Daemon) -> Iterator[Tab]:
    """The page, ready; whatever a test does, it asks nobody else, breaks no policy and throws nothing."""
    opened = page(browser, demo)
    until(lambda: opened.run("document.getElementById('model').options.length") >= 2, what="the models")
    yield opened
    quiet(opened, demo)
    opened.close()


def page(browser: Chromium, running: Daemon) -> Tab:
    tab = browser.tab(f"{running.url}/try", enable=DOMAINS)
    until(lambda: tab.run("document.readyState") == "complete", what="the page")
    return tab


def quiet(tab: Tab, running: Daemon, *, refusals: int = 0) -> None:
    asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
    asked += [event["url"] for event in tab.events("Network.webSocketCreated")]
    assert asked
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(running.url).netloc
    }
    assert tab.events("Runtime.exceptionThrown") == []
    assert tab.events("Page.javascriptDialogOpening") == []
    entries = [event["entry"] for event in tab.events("Log.entryAdded")]
    assert [entry for entry in entries if entry["source"] in {"security", "violation"}] == []
    loud = [entry["text"] for entry in entries if entry["level"] == "error"]
    assert len(loud) == refusals, loud


def choose(tab: Tab, path: Path) -> None:
    tab.choose("#file", path)


def text(tab: Tab, of: str) -> str:
    return str(tab.run(f"document.getElementById('{of}').textContent"))


def told(tab: Tab) -> dict[str, Any] | None:
    """The JSON beside the picture."""
    found: dict[str, Any] | None = tab.run("JSON.parse(document.getElementById('json').textContent || 'null')")
    return found


def drawn(tab: Tab) -> np.ndarray:
    """The canvas, a pixel for a pixel."""
    encoded = tab.run("document.getElementById('canvas').toDataURL('image/png').split(',')[1]")
    data = np.frombuffer(base64.b64decode(encoded), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return image


def changed(tab: Tab, picture: np.ndarray, box: list[float]) -> float:
    """How much of the left edge of a box is drawn over the picture, from 0 to 1."""
    canvas = drawn(tab).astype(int)
    assert canvas.shape == picture.shape
    x1, y1, _, y2 = (round(value) for value in box)
    rows = slice(max(y1, 0) + 2, min(y2, picture.shape[0]) - 2)
    columns = slice(max(x1 - 1, 0), max(x1, 0) + 2)  # the line lies between pixels
    difference = np.abs(canvas[rows, columns] - picture[rows, columns].astype(int)).max(axis=(1, 2))
    return float((difference > 30).mean())


def set_value(tab: Tab, name: str, value: object) -> None:
    tab.run(
        f"{{const field = document.getElementById('{name}'); field.value = '{value}';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))} 0"
    )


def test_a_picture_is_shown_with_its_boxes_and_the_json(tab: Tab, frame: Path) -> None:
    choose(tab, frame)
    said = until(lambda: told(tab), seconds=SECONDS, what="an answer")
    assert said["results"], "somebody is in the picture"
    person = said["results"][0]
    assert len(person["keypoints"]) == 17
    picture = cv2.imread(str(frame))
    assert picture is not None
    assert changed(tab, picture, person["box_xyxy"]) > 0.7
    assert said["metadata"]["width"] == picture.shape[1]
    assert text(tab, "found").startswith(f"{person['class_name']} {person['confidence']:.2f}")
    assert f"{picture.shape[1]}\u00d7{picture.shape[0]}" in text(tab, "facts")
    assert "result" in str(tab.run("document.getElementById('canvas').getAttribute('aria-label')"))
    assert tab.run("document.getElementById('alarm').hidden")


def test_thresholds_and_the_model_are_asked_for_at_once(tab: Tab, frame: Path) -> None:
    choose(tab, frame)
    until(lambda: (said := told(tab)) and said["results"], seconds=SECONDS, what="an answer")
    set_value(tab, "conf", 1)
    until(lambda: (said := told(tab)) and not said["results"], what="an answer without results")
    assert text(tab, "conf-value") == "1.00"
    set_value(tab, "conf", 0.25)
    other = tab.run("[...document.getElementById('model').options].map(o => o.value).find(v => v.includes('rack'))")
    set_value(tab, "model", other)
    until(lambda: (said := told(tab)) and said["model_id"] == other, seconds=SECONDS, what="the other model")


def test_a_cameras_picture_can_be_taken(tab: Tab) -> None:
    until(lambda: not tab.run("document.getElementById('cameras').hidden"), what="the cameras")
    tab.run("document.getElementById('take').click(); 0")
    said = until(lambda: told(tab), seconds=SECONDS, what="an answer")
    assert said["metadata"]["width"] > 100


def test_what_is_no_picture_is_told_in_the_words_of_the_api(
    browser: Chromium, demo: Daemon, frame: Path, tmp_path: Path
) -> None:
    tab = page(browser, demo)
    until(lambda: tab.run("document.getElementById('model').options.length") >= 2, what="the models")
    choose(tab, frame)
    until(lambda: told(tab), seconds=SECONDS, what="an answer")
    wrong = tmp_path / "text.jpg"
    wrong.write_text("no picture at all", encoding="utf-8")
    choose(tab, wrong)
    words = until(lambda: text(tab, "alarm"), what="words")
    refused = demo.client.post("/api/v1/infer", files={"file": ("text.jpg", wrong.read_bytes())})
    assert refused.status_code == 400
    assert words == refused.json()["detail"]
    assert told(tab) is None, "results of the picture before would look like those of this one"
    choose(tab, frame)
    until(lambda: told(tab), what="an answer")
    assert tab.run("document.getElementById('alarm').hidden")
    quiet(tab, demo, refusals=1)
    tab.close()


def test_the_webcam_is_watched_until_it_is_stopped(tab: Tab, demo: Daemon) -> None:
    def sockets() -> list[dict[str, Any]]:
        return [viewer for viewer in demo.get("/api/v1/viewers").json() if viewer["kind"] == "socket"]

    tab.run("document.getElementById('webcam').click(); 0")
    until(
        lambda: (open_now := sockets()) and open_now[0]["sent"] >= 10, seconds=SECONDS, what=lambda: text(tab, "alarm")
    )
    assert "answers/s" in text(tab, "facts")
    assert told(tab)
    first = drawn(tab)
    until(lambda: not np.array_equal(drawn(tab), first), what="the picture to move")
    assert text(tab, "webcam") == "Stop the webcam"
    set_value(tab, "conf", 0.9)  # goes with the next frame
    counted = demo.samples()['healthd_socket_frames_answered_total{status="200"}']
    until(lambda: demo.samples()['healthd_socket_frames_answered_total{status="200"}'] > counted + 3, what="answers")
    tab.run("document.getElementById('webcam').click(); 0")
    until(lambda: not sockets(), seconds=5, what="the end of the socket")
    assert text(tab, "webcam") == "Start the webcam"
    assert tab.run("document.getElementById('alarm').hidden"), "somebody wanted it to end"
    samples = demo.samples()
    answered = sum(value for name, value in samples.items() if name.startswith("healthd_socket_frames_answered_total"))
    dropped, in_hand = (samples[f"healthd_socket_frames_{name}"] for name in ("dropped_total", "in_hand"))
    assert samples["healthd_socket_frames_received_total"] == answered + dropped + in_hand


def test_why_the_webcam_ended_is_told(browser: Chromium, demo: Daemon) -> None:
    tab = page(browser, demo)
    tab.run("document.getElementById('webcam').click(); 0")
    viewer = until(
        lambda: [viewer for viewer in demo.get("/api/v1/viewers").json() if viewer["kind"] == "socket"],
        seconds=SECONDS,
        what="a socket",
    )[0]
    until(lambda: told(tab), seconds=SECONDS, what="an answer")
    assert demo.client.delete(f"/api/v1/viewers/{viewer['id']}").status_code == 204
    assert "administrator" in until(lambda: text(tab, "alarm"), what="words")
    quiet(tab, demo)
    tab.close()


def test_everything_can_be_reached_and_used_with_the_keyboard(tab: Tab) -> None:
    def focused() -> str:
        return str(tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))

    reached = []
    for _ in range(14):
        tab.press("Tab", code=9)
        reached.append(focused())
    for name in ("Wall", "theme", "file", "camera", "take", "webcam", "model", "conf", "iou", "max_det"):
        assert name in reached, reached
    outline = tab.run(
        "{document.getElementById('webcam').focus(); 0}; getComputedStyle(document.activeElement).outlineStyle"
    )
    assert outline == "solid"
    tab.press("Enter", text="\r", code=13)
    until(lambda: text(tab, "webcam") == "Stop the webcam", what="the webcam")
    until(lambda: told(tab), seconds=SECONDS, what="an answer")
    tab.run("document.getElementById('json').focus(); 0")
    assert focused() == "json", "a long one can be scrolled"
    tab.run("document.getElementById('webcam').focus(); 0")
    tab.press(" ", text=" ", code=32)
    until(lambda: text(tab, "webcam") == "Start the webcam", what="the end of it")
    tab.run("document.getElementById('conf').focus(); 0")
    before = float(tab.run("document.getElementById('conf').value"))
    tab.press("ArrowRight", code=39)
    assert float(tab.run("document.getElementById('conf').value")) == pytest.approx(before + 0.01)


def test_every_field_has_a_name(tab: Tab) -> None:
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "combobox", "slider", "spinbutton", "textbox", "image", "link"}
    nodes = [node for node in tree if node.get("role", {}).get("value") in wanted and not node["ignored"]]
    assert len(nodes) >= 8
    nameless = [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value")]
    assert nameless == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_it_fits_a_phone_and_a_desk(tab: Tab, frame: Path, width: int) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    choose(tab, frame)
    until(lambda: told(tab), seconds=SECONDS, what="an answer")
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(tab: Tab, scheme: str) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    for selector in ("a", "legend", "#facts", "summary"):
        style = f"getComputedStyle(document.querySelector('{selector}')).color"
        assert contrast(str(tab.run(style)), str(tab.run(ground))) >= 4.5, (selector, scheme)
    tab.call("Emulation.setEmulatedMedia", features=[])


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_where_keys_are_set_one_logs_in_and_then_everything_works(
    browser: Chromium, demo: Daemon, frame: Path, tmp_path: Path
) -> None:
    import healthd_yolo  # noqa: PLC0415  it is there, or the demo would not be

    weights = Path(healthd_yolo.__file__).parent / "demo" / "gym-pose.onnx"
    settings = {
        "auth": {"keys": [{"name": "somebody", "key": KEY}]},
        "models": {"directory": str(weights.parent), "default": str(weights)},
        "cameras": {},
    }
    with Daemon(tmp_path, settings, plugins=[]) as running:
        running.until_ready(seconds=SECONDS)
        tab = page(browser, running)
        assert "API key is needed" in until(lambda: text(tab, "alarm"), what="words")
        assert not tab.run("document.getElementById('login').hidden")
        log_in = (
            "{{const form = document.getElementById('login'); form.elements.key.value = '{}'; form.requestSubmit()}} 0"
        )
        tab.run(log_in.format("wrong"))
        until(lambda: "not known" in text(tab, "alarm"), what="the refusal")
        tab.run(log_in.format(KEY))
        until(lambda: tab.run("document.getElementById('login').hidden"), what="the log-in")
        assert tab.run("document.getElementById('alarm').hidden")
        choose(tab, frame)
        said = until(lambda: told(tab), seconds=SECONDS, what="an answer")
        assert said["results"]
        tab.run("document.getElementById('webcam').click(); 0")
        until(lambda: "answers/s" in text(tab, "facts"), seconds=SECONDS, what=lambda: text(tab, "alarm"))
        assert KEY not in tab.run("document.cookie + document.documentElement.innerHTML + location.href")
        code, _ = running.stop()
        assert code == 0
        until(lambda: "healthd is stopping" in text(tab, "alarm"), what=lambda: text(tab, "alarm"))
        quiet(tab, running, refusals=3)
        tab.close()
