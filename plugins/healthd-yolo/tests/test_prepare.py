"""`healthd models prepare`, as somebody types it, on real weights: what it makes, what it survives, what it refuses."""

import contextlib
import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from healthd.errors import SettingsError
from healthd.models.model import Detection, Keypoint, ModelSpec
from healthd.models.prepare import Parity, PrepareReport, PrepareRequest, Speed
from healthd_yolo import prepare_child
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions
from healthd_yolo.parity import Changes, beyond
from healthd_yolo.prepare import Preparation
from healthd_yolo.sample_pictures import Sample, divided, images, samples

RESULT = "yolo11n-pose_openvino_model"
WORK = f".prepare-{RESULT}"

WATCHER = """
import os, sys

def watched(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") or event == "socket.gethostbyname":
        with open(os.environ["WATCHER_CALLS"], "a") as calls:
            calls.write(f"{event} {arguments!r}\\n")

sys.addaudithook(watched)
for name in os.environ.get("WATCHER_ABSENT", "").split():
    sys.modules[name] = None
"""
"""What every process of ours imports at its start: writes down who uses the network, and hides packages."""

LIGHT = """
import json, sys
from pathlib import Path
import cv2
from healthd.models.model import InferenceParams, ModelSpec
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions

path = Path(sys.argv[1])
model = YoloFamily().load(ModelSpec(path.name, path, path.parent, YoloModelOptions(precision=sys.argv[3])))
said = model.predict(cv2.imread(sys.argv[2]), InferenceParams())
found = [[one.box_xyxy, one.confidence, [[p.x, p.y] for p in one.keypoints]] for one in said.results]
print(json.dumps({"task": model.task, "labels": dict(model.labels), "found": found, "said": dict(said.metadata)}))
"""


class House:
    """A folder with a models directory, an empty home, and processes that are watched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.home = folder / "home"
        self.calls = folder / "calls"
        for made in (self.models, self.home, folder / "watcher"):
            made.mkdir()
        (folder / "watcher" / "sitecustomize.py").write_text(WATCHER)

    def environment(self, *, absent: str = "", **variables: str) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEALTHD_", "YOLO", "MPL"))}
        found = [str(self.folder / "watcher"), *(str(Path(place).absolute()) for place in sys.path if place)]
        return {
            **kept,
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join(found),
            "WATCHER_CALLS": str(self.calls),
            "WATCHER_ABSENT": absent,
            **variables,
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "healthd", "models", *map(str, arguments)]

    def run(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=380,
            check=False,
        )

    def predictions(self, name: str, picture: Path, precision: str) -> Any:
        """What the prepared model says, in a process in which torch and ultralytics cannot be imported."""
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, str(self.models / name), str(picture), precision],
            env=self.environment(absent="torch ultralytics"),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def started(self, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
        with subprocess.Popen(
            self.command(*arguments), cwd=self.folder, env=self.environment(), stderr=subprocess.PIPE, text=True
        ) as running:
            try:
                yield running
            finally:
                running.kill()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def checkpoint(house: House, weights: Path) -> Path:
    place = house.models / "yolo11n-pose.pt"
    place.symlink_to(weights / place.name)
    return place


def until(condition: Any, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def names(house: House) -> list[str]:
    return sorted(path.name for path in house.models.iterdir())


def stages(house: House) -> set[str]:
    with contextlib.suppress(OSError, ValueError):
        return set(json.loads((house.models / WORK / "stages.json").read_bytes()))
    return set()


@pytest.mark.assets
@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("checkpoint", "vendor")
def test_what_is_made_of_a_checkpoint_survives_kills_and_runs_without_torch(
    house: House, vendor: Any, pictures: Mapping[str, Any]
) -> None:
    with house.started("prepare", "yolo11n-pose.pt") as running:
        until((house.models / WORK / "export").exists, seconds=60)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 130
        assert running.stderr is not None
        told = running.stderr.read()
        assert "goes on after the last stage" in told
        assert "Traceback" not in told
    assert names(house) == ["yolo11n-pose.pt"], "nothing was done yet, so nothing is left"

    with house.started("prepare", "yolo11n-pose.pt") as running:
        until(lambda: "export" in stages(house), seconds=120)
        running.kill()
    exported = house.models / WORK / "export" / RESULT / "yolo11n-pose.bin"
    made_at = exported.stat().st_mtime_ns
    assert not (house.models / RESULT).exists()

    done = house.run("prepare", "yolo11n-pose.pt")
    assert done.returncode == 0, done.stderr
    assert names(house) == ["yolo11n-pose.pt", RESULT]
    assert (house.models / RESULT / "yolo11n-pose.bin").stat().st_mtime_ns == made_at, "exported a second time"
    assert f'model = "{RESULT}"' in done.stdout
    report = json.loads((house.models / RESULT / "healthd.json").read_bytes())["report"]
    exact = report["parity"][0]
    assert (exact["asked"], exact["found"], exact["new"]) == (6, 6, 0)
    assert exact["lowest_iou"] > 0.9999
    assert exact["keypoints_px"] < 0.1
    assert report["original"]["ms_per_picture"] > 0

    picture = Path(vendor.__file__).parent / "assets" / "bus.jpg"
    light = house.predictions(RESULT, picture, "f32")
    assert (light["task"], light["labels"]) == ("pose", {"0": "person"})
    assert light["said"]["input_shape"] == [640, 480], "it takes the picture's shape"
    said = vendor.YOLO(str(house.models / "yolo11n-pose.pt")).predict(
        pictures["bus"], conf=0.25, iou=0.45, verbose=False
    )[0]
    assert len(light["found"]) == len(said.boxes)
    for (box, confidence, points), row, body in zip(
        light["found"], said.boxes.data.tolist(), said.keypoints.xy.tolist(), strict=True
    ):
        assert box == pytest.approx(row[:4], abs=0.05)
        assert confidence == pytest.approx(row[4], abs=1e-4)
        assert np.array(points) == pytest.approx(np.array(body), abs=0.1)

    again = house.run("prepare", "yolo11n-pose.pt")
    assert again.returncode == 0, again.stderr
    assert "already prepared" in again.stdout
    assert house.run("verify", RESULT).returncode == 0
    weights = house.models / RESULT / "yolo11n-pose.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    for verb in (("verify", RESULT), ("prepare", "yolo11n-pose.pt")):
        refused = house.run(*verb)
        assert refused.returncode != 0
        assert "yolo11n-pose.bin was changed" in refused.stderr
        assert "--force" in refused.stderr
    assert not house.calls.exists(), house.calls.read_text()
    assert list(house.home.rglob("*")) == [], "something was written to the home directory"


@pytest.mark.assets
@pytest.mark.process
@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("checkpoint", "vendor")
def test_int8_is_quantized_with_pictures_of_ones_own(house: House, assets: Path) -> None:
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("the extra healthd-yolo[quantize] is not installed")
    calibration = house.folder / "pictures"
    calibration.mkdir()
    for number, image in enumerate(images(samples(assets / "clips" / "people_walking_720p.mp4")[::26])):
        cv2.imwrite(str(calibration / f"{number:02d}.jpg"), image)
    wishes = ["--int8", "--calibration", calibration, "--imgsz", "320", "--output", "gym_openvino_model"]
    done = house.run("prepare", "yolo11n-pose.pt", *wishes)
    name = "gym_openvino_model"
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((house.models / name / "healthd.json").read_bytes())["report"]
    assert report["prepared"][-1]["what"] == "openvino, int8"
    assert report["parity"][-1]["asked"] > 5
    light = house.predictions(name, calibration / "00.jpg", "auto")
    assert light["said"]["precision"] == "int8"
    assert light["said"]["input_shape"] == [192, 320]
    assert light["found"]
    assert not house.calls.exists(), house.calls.read_text()
    assert list(house.home.rglob("*")) == []


class Deaf:
    """Nobody wants to know how far it is."""

    def stage(self, title: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...


@pytest.mark.parametrize(
    ("name", "wishes", "absent", "told"),
    [
        ("here.onnx", {}, (), r"only a \.pt file"),
        ("here.pt", {}, ("ultralytics", "torch"), r'pip install "healthd-yolo\[ultralytics\]"'),
        ("here.pt", {"format": "onnx"}, ("onnx",), "pip install onnx"),
        ("here.pt", {"format": "tflite"}, (), "only auto, openvino and onnx"),
        ("here.pt", {"format": "onnx", "int8": True}, (), "openvino only"),
        ("here.pt", {"int8": True}, (), "--calibration FOLDER"),
        ("here.pt", {"int8": True, "calibration": "."}, ("nncf",), r'pip install "healthd-yolo\[quantize\]"'),
        ("here.pt", {"calibration": "empty"}, (), "holds no picture"),
        ("here.pt", {"calibration": "absent"}, (), "there is no .*absent"),
        ("here.pt", {"output": "x"}, (), "_openvino_model"),
        ("there.pt", {}, (), "there_openvino_model is there and was not made by .*--force"),
    ],
)
@pytest.mark.usefixtures("vendor")
def test_what_cannot_be_done_is_told_before_anything_is_done(
    name: str, wishes: dict[str, Any], absent: Sequence[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("here.pt", "here.onnx", "there.pt"):
        (tmp_path / file).write_bytes(b"no model")
    for folder in ("there_openvino_model", "empty"):
        (tmp_path / folder).mkdir()
    for package in absent:
        monkeypatch.setitem(sys.modules, package, None)
    before = sorted(tmp_path.rglob("*"))
    given = {**wishes, "calibration": tmp_path / wishes["calibration"]} if "calibration" in wishes else wishes
    spec = ModelSpec(name, tmp_path / name, tmp_path, YoloModelOptions())
    with pytest.raises(SettingsError, match=told):
        YoloFamily().prepare(spec, PrepareRequest(**given), Deaf())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize(
    ("arguments", "variables", "code", "told"),
    [
        (["here.pt"], {}, 2, r"here\.pt cannot be loaded by ultralytics"),
        (["yolo11s-pose.pt"], {"YOLO_OFFLINE": "1"}, 2, "YOLO_OFFLINE forbids"),
        (["here.txt"], {}, 2, "no installed plugin has a family"),
        (["models/here.pt"], {"HEALTHD_MODELS__DIRECTORY": "file"}, 1, "file: File exists"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    arguments: list[str], variables: Mapping[str, str], code: int, told: str, house: House
) -> None:
    (house.models / "here.pt").write_bytes(b"no model")
    (house.folder / "file").write_bytes(b"")
    before = sorted(house.models.rglob("*"))
    done = house.run("prepare", *arguments, **variables)
    assert done.returncode == code, done.stderr
    assert re.search(told, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(house.models.rglob("*")) == before


def person(confidence: float, left: float) -> Detection:
    return Detection((left, 0.0, left + 10, 20.0), confidence, 0, "person", (Keypoint(left, 5.0, 0.9),))


def test_what_strays_too_far_is_said_by_each_precisions_own_limits() -> None:
    there = Changes()
    there.note([person(0.9, 0), person(0.8, 50), person(0.3, 90)], [person(0.85, 0.1)], scale=0.5)
    parity = there.told("a model", new=0)
    assert (parity.asked, parity.found) == (2, 1)
    assert parity.confidence == pytest.approx(0.05)
    assert parity.keypoints_px == pytest.approx(0.05)
    assert "1 of 2 detections are lost or new, where 0 may be" in str(beyond(parity, "f32"))
    assert beyond(parity, "bf16") is None, "one may always change"
    loose = Parity(what="a model", asked=100, found=98, new=3, mean_iou=0.96)
    assert "5 of 100" in str(beyond(loose, "bf16"))
    assert beyond(loose, "int8") is None
    assert "overlap by 0.940" in str(beyond(loose.model_copy(update={"mean_iou": 0.94}), "int8"))
    assert beyond(Parity(what="a model", asked=0, found=0, new=0), "f32") is None


def test_pictures_are_compared_that_were_not_calibrated_with() -> None:
    found = [Sample(Path("clip.mp4"), frame) for frame in range(1000)]
    calibrating, comparing = divided(found, calibrating=300, comparing=24)
    assert (len(calibrating), len(comparing)) == (300, 24)
    assert not set(calibrating) & set(comparing)
    few = found[:3]
    assert divided(few, calibrating=300, comparing=24) == (few, few)


@pytest.mark.skipif(not importlib.util.find_spec("ultralytics"), reason="needs ultralytics")
def test_pictures_or_tools_that_changed_are_compared_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def child(task: str, arguments: Mapping[str, Any], *, folder: Path, **_: Any) -> Mapping[str, Any]:
        done.append(task)
        if task == "export":
            (Path(arguments["folder"]) / RESULT).mkdir()
        speed = Speed(what="it", ms_per_picture=1.0)
        return PrepareReport(
            pictures="some", original=speed, prepared=(speed,), parity=(), beyond="too far"
        ).model_dump()

    monkeypatch.setattr("healthd_yolo.prepare.in_child", child)
    (tmp_path / "yolo11n-pose.pt").write_bytes(b"weights")
    picture = tmp_path / "pictures" / "one.png"
    picture.parent.mkdir()
    picture.write_bytes(b"before")
    spec = ModelSpec("yolo11n-pose.pt", tmp_path / "yolo11n-pose.pt", tmp_path, YoloModelOptions())

    class Silent:
        def stage(self, title: str) -> None: ...

        def advance(self, done: int, total: int) -> None: ...

    def prepare() -> None:
        assert not Preparation(spec, PrepareRequest(calibration=picture.parent), Silent()).run().in_place

    prepare()
    prepare()
    assert done == ["export", "compare"]
    picture.write_bytes(b"and after")
    prepare()
    assert done == ["export", "compare", "compare"]
    monkeypatch.setattr("healthd_yolo.prepare.version", lambda name: "99")
    prepare()
    assert done[3:] == ["export", "compare"]


def test_a_child_whose_libraries_fail_on_a_full_disk_says_that_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    left = SimpleNamespace(free=100_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: left)
    vague = SettingsError("a.pt cannot be exported by ultralytics: RuntimeError: basic_ios::clear: iostream error")
    assert prepare_child.told(vague) == {"error": str(vague), "kind": "settings"}
    assert prepare_child.told(RuntimeError("a bug")) is None
    left.free = 0
    for error in (vague, RuntimeError("basic_ios::clear: iostream error")):
        said = prepare_child.told(error)
        assert said == {"error": "No space left on device", "kind": "system", "errno": errno.ENOSPC}
