"""One bad plugin never hurts another camera, and everybody is told what is wrong with it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installing import GOOD, install
from tests.process.daemon import Daemon, run_verb, to_toml, until

pytestmark = pytest.mark.process

BROKEN_SOURCES = {
    "faulty-import": "ImportError: libwonder.so.1",
    "faulty-exit": "SystemExit: this machine has no licence",
    "faulty-module": "ModuleNotFoundError",
    "faulty-name": "NoSuchName",
    "faulty-class": "not a subclass of CameraSource",
    "faulty-function": "not a subclass of CameraSource",
    "faulty-method": "does not implement camera",
    "faulty-contract": "contract 99",
    "faulty-twin": "healthd-faulty, healthd-twin",
}
"""Plugins that cannot be loaded, and what must be said of each."""

BROKEN_FAMILIES = {
    "faulty-family": "not a subclass of ModelFamily",
    "faulty-family-constructor": "RuntimeError: no accelerator",
}

NEVER_MADE = {
    **{name: (name, {}, reason) for name, reason in BROKEN_SOURCES.items()},
    "constructor": ("faulty-constructor", {}, "RuntimeError: no route to nowhere"),
    "slow-constructor": ("faulty-slow-constructor", {}, "did not make its camera"),
    "no-plugin": ("faultty", {}, "did you mean `faulty`"),
    "wrong-option": ("faulty", {"fsp": 3}, "did you mean `fps`"),
    "wrong-value": ("faulty", {"fps": -1}, "options.fps"),
}
"""Cameras that cannot be made: plugin, options, and what must be said."""

FAILED = {
    "settings-open": ({"do": "settings-open"}, "does not fit this camera"),
    "wrong-model": ({"model": "wrong"}, "there is no such model"),
    "no-family-model": ({"model": "hang", "do": "settings-open"}, "does not fit"),
}
"""Cameras that fail for good once they run: options and reason."""

RETRIED = {
    "bug-open": ({"do": "bug-open"}, "LookupError"),
    "lose-open": ({"do": "lose-open"}, "nobody answers"),
    "not-callable": ({"do": "not-callable"}, "not something to call"),
    "bug": ({"do": "bug"}, "ZeroDivisionError: in read()"),
    "exit": ({"do": "exit"}, "SystemExit"),
    "stop-iteration": ({"do": "stop-iteration"}, "StopIteration"),
    "end": ({"do": "end"}, "the stream has ended"),
    "hang-open": ({"do": "hang-open"}, "did not open"),
    "hang-read": ({"do": "hang"}, "no image"),
    "floats": ({"do": "floats"}, "float32"),
    "grey": ({"do": "grey"}, "not an image"),
    "empty": ({"do": "empty"}, "not empty"),
    "text": ({"do": "text"}, "returned str"),
    "bug-close": ({"do": "bug-close", "after": 0, "model": None}, None),
    "none": ({"do": "none"}, "only old images"),
}
"""Cameras that never deliver, and are tried again and again: options and reason (None: it is live after all)."""

LIVE_WITHOUT_PREDICTIONS = {
    "hang-load": ({"model": "own", "model_do": "hang-load"}, "retrying", "the model was not loaded within 1.5 s"),
    "shared-hang": ({"model": "hang"}, "retrying", "the model was not loaded within 1.5 s"),
    "lose-load": ({"model": "own", "model_do": "lose-load"}, "retrying", "the accelerator is busy"),
    "bug-load": ({"model": "own", "model_do": "bug-load"}, "retrying", "LookupError"),
    "shared-bug": ({"model": "bug"}, "retrying", "ZeroDivisionError"),
    "shared-error": ({"model": "error"}, "retrying", "the accelerator is busy"),
    "model-not-callable": ({"model": "own", "model_do": "not-callable"}, "retrying", "not something to call"),
    "hang-predict": ({"model": "own", "model_do": "hang"}, "stalled", "predictor stalled: no prediction"),
    "bug-predict": ({"model": "own", "model_do": "bug"}, "retrying", "ZeroDivisionError: in predict()"),
    "lose-predict": ({"model": "own", "model_do": "lose"}, "retrying", "the accelerator is busy"),
    "rubbish-predict": ({"model": "own", "model_do": "rubbish"}, "retrying", "returned dict"),
    "write-predict": ({"model": "own", "model_do": "write"}, "retrying", "ValueError"),
}
"""Cameras that show pictures though their model is broken: options, the model's state and reason."""

FINE = {
    "fine": {"fps": 20, "model": "counter"},
    "changing-size": {"do": "changing-size", "model": "own"},
    "same-buffer": {"do": "same-buffer", "model": "own"},
}
"""Cameras that work, or whose sins healthd forgives."""


def camera(options: dict[str, Any], *, plugin: str = "faulty") -> dict[str, Any]:
    return {
        "plugin": plugin,
        "stall_timeout_seconds": 0.7,
        "open_timeout_seconds": 0.7,
        "predict_timeout_seconds": 0.7,
        "reconnect_max_seconds": 3,
        "max_abandoned_workers": 3,
        "options": {"fps": 5, **options},
    }


def all_cameras() -> dict[str, Any]:
    cameras = {name: camera(options) for name, options in FINE.items()}
    for name, (plugin, options, _) in NEVER_MADE.items():
        cameras[name] = {"plugin": plugin, "options": options}
    for group in (FAILED, RETRIED, LIVE_WITHOUT_PREDICTIONS):
        for name, (options, *_) in group.items():
            cameras[name] = camera(options)
    for name in ("hang-read", "hang-open"):  # in a process they would be killed, and tried again for ever
        cameras[name]["isolation"] = "thread"
    return cameras


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon with every faulty camera at once, beside a few that work."""
    settings = {"models": {"load_timeout_seconds": 1.5}, "cameras": all_cameras()}
    with Daemon(tmp_path_factory.mktemp("plugins"), settings) as running:
        for name in FINE:
            running.until_state(name, "live", seconds=40)
        yield running
        assert running.stop()[0] == 0, running.story()
        assert running.left_behind() == []


def reasons(seen: dict[str, Any]) -> str:
    """Everything that is said of what is wrong with a camera."""
    return " | ".join(filter(None, [seen["reason"], *(error["reason"] for error in seen["errors"])]))


@pytest.mark.parametrize("name", NEVER_MADE)
def test_a_camera_that_cannot_be_made_is_failed_with_the_reason(name: str, daemon: Daemon) -> None:
    seen = daemon.camera(name)
    assert seen["state"] == "failed"
    assert NEVER_MADE[name][2] in seen["reason"]
    picture = daemon.get(f"/api/v1/cameras/{name}/snapshot")
    assert picture.status_code == 404
    assert picture.json()["extra"]["state"] == "failed"
    assert picture.json()["extra"]["reason"] == seen["reason"]


@pytest.mark.parametrize("name", FAILED)
def test_what_will_not_pass_by_itself_is_failed_and_not_tried_again(name: str, daemon: Daemon) -> None:
    seen = daemon.until_state(name, "failed")
    assert FAILED[name][1] in seen["reason"]


@pytest.mark.parametrize("name", RETRIED)
def test_what_may_pass_is_tried_again_and_says_why_there_is_no_picture(name: str, daemon: Daemon) -> None:
    reason = RETRIED[name][1]
    if reason is None:
        daemon.until_state(name, "live")
        return
    until(lambda: reason in reasons(daemon.camera(name)), what=lambda: daemon.camera(name))
    until(
        lambda: len(daemon.camera(name)["errors"]) > 1 or daemon.camera(name)["state"] == "failed",
        what=lambda: daemon.camera(name),
    )
    assert daemon.get(f"/api/v1/cameras/{name}/snapshot").status_code == 404


@pytest.mark.parametrize("name", LIVE_WITHOUT_PREDICTIONS)
def test_a_broken_model_takes_the_predictions_and_leaves_the_pictures(name: str, daemon: Daemon) -> None:
    _, state, reason = LIVE_WITHOUT_PREDICTIONS[name]
    if not name.startswith(("hang-", "shared-hang")):  # these are given up once three threads hang
        daemon.until_state(name, "live")
        until(lambda: daemon.camera(name)["model"]["state"] == state, what=lambda: daemon.camera(name))
        assert daemon.get(f"/api/v1/cameras/{name}/snapshot").status_code == 200
    until(lambda: reason in str(daemon.camera(name)), what=lambda: daemon.camera(name))
    answer = daemon.get(f"/api/v1/cameras/{name}/prediction")
    assert answer.status_code == 404
    assert answer.json()["extra"]["reason"]


@pytest.mark.parametrize("name", ["hang-read", "hang-open", "hang-predict", "hang-load", "shared-hang"])
def test_a_camera_whose_threads_hang_again_and_again_is_given_up(name: str, daemon: Daemon) -> None:
    seen = daemon.until_state(name, "failed", seconds=30)
    assert "3 threads hang" in seen["reason"]
    reading = name in {"hang-read", "hang-open"}
    assert ('set isolation = "process"' in seen["reason"]) == reading
    assert ('set models.isolation = "process"' in seen["reason"]) == (not reading)
    assert seen["workers_stuck"] == 3
    samples = daemon.samples()
    assert samples[f'healthd_camera_workers_stuck{{camera="{name}"}}'] == 3
    assert samples[f'healthd_camera_workers_abandoned_total{{camera="{name}"}}'] >= 3


def test_the_healthy_cameras_beside_them_keep_their_rate(daemon: Daemon) -> None:
    before, begun = daemon.camera("fine"), time.monotonic()
    until(lambda: time.monotonic() > begun + 2)
    after, seconds = daemon.camera("fine"), time.monotonic() - begun
    assert (after["frame_id"] - before["frame_id"]) / seconds > 12, "20 a second were made"
    assert after["frames"]["predicted"] - before["frames"]["predicted"] > 12 * seconds
    assert (after["errors"], after["reconnects"]) == ([], 0)
    for name in FINE:
        assert daemon.camera(name)["state"] == "live"
        assert daemon.get(f"/api/v1/cameras/{name}/prediction").status_code == 200


def test_the_api_lists_every_plugin_and_says_why_the_broken_ones_are(daemon: Daemon) -> None:
    listed = {(plugin["group"], plugin["name"]): plugin for plugin in daemon.get("/api/v1/plugins").json()}
    for group, broken in (("camera_sources", BROKEN_SOURCES), ("model_families", BROKEN_FAMILIES)):
        for name, reason in broken.items():
            plugin = listed[f"healthd.{group}", name]
            assert plugin["state"] == "broken"
            assert reason in plugin["reason"]
            assert plugin["distribution"].startswith("healthd-faulty")
            assert plugin["settings"] is None
            assert plugin["cameras"] == ([name] if name in BROKEN_SOURCES else [])
    faulty = listed["healthd.camera_sources", "faulty"]
    assert (faulty["state"], faulty["distribution"], faulty["version"]) == ("loaded", "healthd-faulty", "1.0")
    assert "fine" in faulty["cameras"]
    assert "fps" in faulty["settings"]["properties"]
    assert listed["healthd.model_families", "faulty"]["state"] == "loaded"


def test_it_is_ready_and_healthy_though_most_of_its_cameras_are_not(daemon: Daemon) -> None:
    daemon.until_ready(seconds=60)
    health = daemon.get("/health").json()
    assert health["status"] == "degraded"
    assert sum(health["cameras"].values()) == len(all_cameras())
    assert daemon.get("/health", strict="true").status_code == 503
    assert daemon.get("/healthz").status_code == 200


def test_the_frames_of_every_camera_are_accounted_for_in_one_scrape(daemon: Daemon) -> None:
    samples = daemon.samples()
    for name in all_cameras():
        camera = f'{{camera="{name}"}}'
        read, predicted = (samples[f"healthd_camera_frames_{what}_total{camera}"] for what in ("read", "predicted"))
        start = f'healthd_camera_frames_dropped_total{{camera="{name}",'
        dropped = sum(value for sample, value in samples.items() if sample.startswith(start))
        in_hand = samples[f"healthd_camera_frames_in_hand{camera}"]
        assert read == predicted + dropped + in_hand, name
        assert in_hand >= 0, name


def test_plugins_that_compute_for_ever_take_no_other_camera_off_the_wall(tmp_path: Path) -> None:
    spinning = camera({"do": "hang", "way": "spin", "after": 3})
    cameras = {"one": spinning, "two": spinning, "fine": {"plugin": "faulty", "options": {"fps": 20, "model": "own"}}}
    with Daemon(tmp_path, {"cameras": cameras}) as busy:
        for name in ("one", "two"):
            until(lambda n=name: "no image" in reasons(busy.camera(n)), seconds=40, what=busy.story)
        before, begun = busy.camera("fine")["frames"]["read"], time.monotonic()
        for _ in range(20):
            assert busy.get("/api/v1/cameras/fine/snapshot", max_age=2000).status_code == 200
        until(lambda: busy.camera("fine")["frames"]["read"] > before + 20, what=lambda: busy.camera("fine"))
        assert time.monotonic() - begun < 10
        assert busy.stop()[0] == 0


def test_the_verb_plugins_lists_the_broken_ones_and_exits_with_0(tmp_path: Path) -> None:
    told = run_verb("plugins", folder=tmp_path)
    assert told.returncode == 0
    lines = {(line.split()[1], line.split()[0]): line for line in told.stdout.splitlines()}
    for group, broken in (("camera_sources", BROKEN_SOURCES), ("model_families", BROKEN_FAMILIES)):
        for name, reason in broken.items():
            assert "BROKEN" in lines[f"healthd.{group}", name]
            assert reason in lines[f"healthd.{group}", name]
    assert lines["healthd.camera_sources", "faulty"].endswith("loaded")


def test_check_config_names_every_camera_that_cannot_be_made_and_starts_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    cameras = all_cameras()
    del cameras["slow-constructor"]  # found by the fixture above, and it takes five seconds
    for name in ("fine", "hang-read", "hang-load"):
        cameras[name]["options"]["journal"] = str(journal)
    (tmp_path / "c.toml").write_text(to_toml({"server": {"port": 1}, "cameras": cameras}), encoding="utf-8")
    told = run_verb("check-config", "--config", "c.toml", folder=tmp_path)
    assert told.returncode == 2
    lines = told.stderr.splitlines()
    for name, (_, _, reason) in NEVER_MADE.items():
        if name not in cameras:
            continue
        (line,) = [line for line in lines if f"cameras.{name}: " in line]
        assert reason in line
    assert not [line for line in lines for name in FINE if f"cameras.{name}" in line]
    assert not journal.exists()


def test_check_config_of_a_camera_that_can_be_made_exits_with_0_and_opens_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    options = {"journal": str(journal), "do": "hang-open", "model": "hang"}
    (tmp_path / "c.toml").write_text(to_toml({"cameras": {"gym": camera(options)}}), encoding="utf-8")
    told = run_verb("check-config", "--config", "c.toml", folder=tmp_path)
    assert (told.returncode, told.stdout.strip()) == (0, "c.toml: ok, 1 camera"), told.stderr
    assert not journal.exists()


def test_check_config_tells_of_a_camera_that_can_have_no_process_of_its_own(tmp_path: Path) -> None:
    install(tmp_path, "hidden", GOOD + "\n    Source.__qualname__ = 'Elsewhere'\n")
    (tmp_path / "c.toml").write_text('[cameras.gym]\nplugin = "hidden"\n')
    told = run_verb("check-config", "--config", "c.toml", folder=tmp_path, plugins=[tmp_path])
    assert told.returncode == 0
    reason = "no process of its own, but a thread: its class Elsewhere is not found by its name"
    assert f"hint: cameras.gym: {reason}" in told.stderr


def test_the_check_names_models_that_nobody_serves_and_a_limit_that_is_too_low(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[models]\npreload = ["a.onnx", "b.onnx", "words.nonsense"]\ndefault = "c.zip"\nmax_loaded = 2\n'
    )
    told = run_verb("check-config", "--config", "c.toml", folder=tmp_path)
    assert told.returncode == 2
    for line in (
        "models.preload: no installed plugin serves `words.nonsense`",
        "models.default: no installed plugin serves `c.zip`",
        "models.max_loaded: 2 models may be loaded, and cameras and preload need 3",
    ):
        assert line in told.stderr
