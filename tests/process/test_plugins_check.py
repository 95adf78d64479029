"""`healthd plugins check`: a line for each rule, and an exit code that a script can go by."""

import sys
import time
from pathlib import Path

import pytest

from healthd.plugin_check import CheckOptions, check_plugin
from healthd.plugins import load_plugins
from healthd.testing.family_rules import FAMILY_RULES
from healthd_yolo import demo
from tests.installing import GOOD, after, install
from tests.process.daemon import run_verb

DEMO = Path(demo.__file__).parent
POSE = str(DEMO / "gym-pose.onnx")
NOTHING = CheckOptions(name="", url=None, model=None, options={}, config=None, camera=None, fps=None, picture=None)


def asked(name: str, **more: object) -> CheckOptions:
    return CheckOptions(**{**{key: getattr(NOTHING, key) for key in CheckOptions.__slots__}, "name": name, **more})  # type: ignore[arg-type]


def test_a_family_without_faults_passes_with_a_line_for_each_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = tmp_path / "healthd_lamp-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: healthd-lamp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[healthd.model_families]\nlamp = healthd.testing.fakes:FakeFamily\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = check_plugin(asked("lamp", model="a.fake"))
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    del lines[: lines.index("lamp, a family of models")]  # the log, which goes elsewhere in a process of its own
    assert [line.split()[1] for line in lines[1:-1]] == [rule.name for rule in FAMILY_RULES]
    assert "  skipped  boxes-in-pixels            it needs a picture in which the model finds something" in lines
    assert lines[-1] == "12 passed, 0 failed, 3 skipped"


@pytest.mark.process
def test_a_camera_with_faults_is_told_which_and_what_to_do(tmp_path: Path) -> None:
    done = run_verb("plugins", "check", "faulty", "--option", "do=grey", folder=tmp_path, seconds=60)
    assert done.returncode == 1, done.stdout
    assert "  FAILED   opens                      the plugin returned uint8 (" in done.stdout
    assert "what to do: return a NumPy array, uint8, of shape (height, width, 3), in BGR, or a JpegImage" in done.stdout
    assert "  skipped  images                     it could not be opened, see above" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("end", "how"), [("os._exit(0)", "with exit code 0"), ("os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV")]
)
def test_a_plugin_that_ends_its_process_has_not_passed(tmp_path: Path, end: str, how: str) -> None:
    code = GOOD.replace("yield lambda: None", f"yield {end}")
    install(tmp_path, "leaving", after("import os, signal", code))
    done = run_verb("plugins", "check", "leaving", folder=tmp_path, plugins=[tmp_path])
    assert done.returncode == 1
    assert f"the plugin ended the process {how}" in done.stderr


@pytest.mark.process
def test_a_broken_plugin_is_told_with_its_reason(tmp_path: Path) -> None:
    done = run_verb("plugins", "check", "faulty-import", folder=tmp_path)
    assert done.returncode == 2
    assert "ImportError: libwonder.so.1" in done.stderr
    assert done.stdout == ""


def test_a_plugin_whose_import_hangs_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "hangs_at_import", "import threading\ngo_on = threading.Event()\ngo_on.wait(60)")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(load_plugins.__kwdefaults__, "timeout_seconds", 0.3)
    began = time.monotonic()
    assert check_plugin(asked("hangs-at-import")) == 2
    assert time.monotonic() - began < 30
    assert "not imported within 0.3 s: open cameras and load models in camera() and model()" in capsys.readouterr().err
    sys.modules["hangs_at_import"].go_on.set()


def test_a_camera_of_the_configuration_is_tried_and_its_password_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[cameras.gym]\nplugin = "yolo-pose"\nurl = "rtsp://admin:hunter2hunter2@127.0.0.1:9/1"\n'
        f'[cameras.gym.options]\nmodel = "{POSE}"\n'
    )
    assert check_plugin(asked("yolo-pose", config=config, camera="gym")) == 1
    told = capsys.readouterr().out
    assert "  FAILED   opens                      CameraError: connection refused: nothing listens on port 9" in told
    assert "  passed   fails-the-right-way" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (asked("yolo-poes"), "no plugin `yolo-poes` is installed (installed: "),
        (asked("yolo"), "say which to try with --model"),
        (asked("yolo", model=POSE, options={"imgzs": "64"}), "options.imgzs: unknown key; did you mean `imgsz`?"),
        (asked("yolo", model=POSE, picture=DEMO / "gym.json"), "is no picture that can be read"),
        (asked("yolo-pose"), "model: missing, but this plugin needs it"),
        (asked("yolo-pose", camera="attic"), "--camera: no camera `attic` in the environment"),
        (asked("yolo-pose", config=Path("nowhere.toml")), "nowhere.toml"),
    ],
)
def test_what_cannot_be_tried_is_told_before_anything_is(
    options: CheckOptions, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_plugin(options) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "passed" not in printed.out
