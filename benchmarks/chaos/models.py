"""Faults of models: files that go or change, predictions that raise, lie, hang or leak.

The patient is a camera with a model of its own that goes wrong; the witness beside it has another one.
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos.faults import SkippedError, fault
from benchmarks.chaos.host_tools import Cgroup
from benchmarks.chaos.stage import RECONNECT_SECONDS, Sees, Stage, patient
from healthd.settings import ModelsSettings
from tests.process.daemon import Daemon, until

PREDICT_SECONDS = 2.0
"""`predict_timeout_seconds` of the patient."""
TOLD_SECONDS = 2.0
HUNG_SECONDS = PREDICT_SECONDS + 1.0
AGAIN_SECONDS = RECONNECT_SECONDS + 2.0
"""The next attempt, and two seconds."""
PREDICTOR = 'healthd_camera_failures_total{camera="patient",task="predictor"}'
MOST_BOXES = 300
"""`max_det`, where nobody asks for another one."""
YOLO = Path(__file__).parent.parent.parent / "plugins" / "healthd-yolo"
DEMO = YOLO / "healthd_yolo" / "demo"


class _Broken:
    """A camera with the model `broken`, and the file that tells it what to do."""

    def __init__(self, stage: Stage, *, prefix: Any = (), **models: Any) -> None:
        self._stage = stage
        self._file = stage.folder / "fault"
        self.tell("")
        camera = stage.camera()
        watched = patient(camera.url, options={"model": "broken"}, predict_timeout_seconds=PREDICT_SECONDS)
        settings = {"models": models} if models else None
        self.daemon = stage.open({"patient": watched}, settings=settings, prefix=prefix, CHAOS_FAULT=str(self._file))
        until(lambda: self.predicted() > 0, what="a first prediction")

    def tell(self, what: str) -> None:
        """Say what it does wrong from now on."""
        beside = self._file.with_suffix(".new")
        beside.write_text(what, encoding="ascii")
        beside.replace(self._file)

    def predicted(self) -> int:
        """Return how many frames of the patient have a prediction."""
        count: int = self.daemon.camera("patient")["frames"]["predicted"]
        return count

    def recovered(self, *, when: Sees | None = None) -> None:
        """Wait until there are predictions again; pictures must have gone on all the time."""
        before = self.predicted()
        self._stage.recovered(
            lambda seen: (
                seen["frames"]["predicted"] > before and seen["model"]["state"] == "ready" and (not when or when(seen))
            )
        )

    def pictures_go_on(self, seconds: float) -> None:
        """Look whether its pictures are live, whatever its model does."""
        self._stage.holds(seconds, lambda: self._stage.patient_state() == "live", "its pictures did not go on")


def _says(text: str) -> Sees:
    return lambda seen: text in (seen["model"]["reason"] or "") or any(text in str(one) for one in seen["errors"])


@fault(
    "predict raises once", noticed=TOLD_SECONDS, recovered=AGAIN_SECONDS, reason="does not want to", metric=PREDICTOR
)
def raises_once(stage: Stage) -> None:
    """One prediction of the patient's model raises."""
    broken = _Broken(stage)
    stage.broken()
    broken.tell("once")
    stage.noticed(_says("does not want to"))
    broken.recovered()
    broken.pictures_go_on(1)


@fault(
    "predict raises always", noticed=TOLD_SECONDS, recovered=AGAIN_SECONDS, reason="does not want to", metric=PREDICTOR
)
def raises_always(stage: Stage) -> None:
    """Each prediction raises, for five seconds: the pictures go on."""
    broken = _Broken(stage)
    stage.broken()
    broken.tell("raise")
    stage.noticed(_says("does not want to"))
    broken.pictures_go_on(5)
    broken.tell("")
    stage.mended()
    broken.recovered()


@fault("predict returns NaN", noticed=TOLD_SECONDS, recovered=AGAIN_SECONDS, reason="not finite", metric=PREDICTOR)
def returns_nan(stage: Stage) -> None:
    """For three seconds boxes hold NaN and infinity: no client may get them."""
    broken = _Broken(stage)
    stage.broken()
    broken.tell("nan")
    stage.noticed(_says("finite"))
    for _ in range(30):
        answer = broken.daemon.get("/api/v1/cameras/patient/prediction")
        if answer.status_code == httpx.codes.OK and re.search(r"NaN|Infinity|\[[^]]*null", answer.text):
            stage.problem(f"a client got {answer.text[:200]}")
            break
        time.sleep(0.1)
    broken.tell("")
    stage.mended()
    broken.recovered()


@fault(
    "predict returns ten thousand boxes",
    noticed=TOLD_SECONDS,
    recovered=AGAIN_SECONDS,
    event=None,
    metric="healthd_model_detections_total",
    unseen="no failure: each answer says how many were left out",
)
def returns_ten_thousand(stage: Stage) -> None:
    """For five seconds each prediction holds 10,000 boxes: clients get the 300 most confident ones."""
    broken = _Broken(stage)
    before = stage.memory_mb()
    stage.broken()
    broken.tell("many")
    seen: dict[str, Any] = {}

    def many(_: object) -> bool:
        seen.update(broken.daemon.get("/api/v1/cameras/patient/prediction").json())
        return len(seen["results"]) > 1

    stage.noticed(many)
    if len(seen["results"]) > MOST_BOXES:
        stage.problem(f"a client got {len(seen['results'])} boxes, bound {MOST_BOXES}")
    broken.pictures_go_on(5)
    stage.note(
        f"{len(seen['results'])} came, {seen['metadata'].get('left_out', 0)} were left out; memory rose by "
        f"{stage.memory_mb() - before:.0f} MB."
    )
    broken.tell("")
    stage.mended()
    broken.recovered(when=lambda _: not many(None))


def _hangs(stage: Stage, **models: Any) -> _Broken:
    broken = _Broken(stage, **models)
    stage.broken()
    broken.tell("hang")
    stage.noticed(lambda seen: "stalled" in f"{seen['model']['state']} {seen['model']['reason']}")
    broken.tell("")
    stage.mended()
    broken.pictures_go_on(1)
    return broken


@fault(
    "predict hangs", noticed=HUNG_SECONDS, recovered=HUNG_SECONDS + AGAIN_SECONDS, reason="stalled", metric=PREDICTOR
)
def hangs(stage: Stage) -> None:
    """A prediction does not return (`predict_timeout_seconds = 2`); the model is loaded anew on another thread.

    It sleeps. A call that hangs with Python's lock in its hands would stop the whole daemon here
    (`models.isolation = "thread"`, the default): only a process of its own can be ended then.
    """
    _hangs(stage).recovered()


def _needs_processes() -> None:
    if "isolation" not in ModelsSettings.model_fields:
        raise SkippedError("this healthd has no models.isolation")


@fault(
    "predict hangs, in a process of its own",
    noticed=HUNG_SECONDS,
    recovered=HUNG_SECONDS + AGAIN_SECONDS,
    reason="stalled",
    metric=PREDICTOR,
)
def hangs_isolated(stage: Stage) -> None:
    """The same with `models.isolation = "process"`: its process is killed, no thread is left."""
    _needs_processes()
    broken = _hangs(stage, isolation="process")
    broken.recovered()
    if left := stage.stuck_threads():
        stage.problem(f"{left} threads are stuck")


LEAKED_MB, LEAK_SECONDS = 250, 30.0


@fault(
    "predict leaks, in a process of its own",
    noticed=LEAK_SECONDS,
    recovered=AGAIN_SECONDS,
    reason="SIGKILL .out of memory",
    metric=PREDICTOR,
    limit=120,
)
def leaks(stage: Stage) -> None:
    """Each prediction keeps 8 MB, in a control group with room for 250 MB more: the kernel has to kill something.

    It must be the process of that model (`models.isolation = "process"`), and nothing else. With the default, `thread`,
    the memory is the daemon's own, and the kernel ends the daemon.
    """
    _needs_processes()
    group = stage.enter(Cgroup("memory"))
    broken = _Broken(stage, prefix=group.prefix, isolation="process")
    group.limit_memory(group.used_bytes() + LEAKED_MB * 10**6)
    stage.broken()
    broken.tell("leak")
    stage.noticed(lambda seen: seen["model"]["state"] != "ready")
    broken.tell("")
    stage.mended()
    broken.recovered()
    broken.pictures_go_on(1)


# -- the file ------------------------------------------------------------------------------------------------------


class _Watched:
    """A camera with a real YOLO network in a folder of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.file = stage.folder / "models" / "model.onnx"
        self.file.parent.mkdir()
        shutil.copy(DEMO / "gym-pose.onnx", self.file)
        options = {"model": self.file.name}
        camera = stage.camera()
        watched = patient(camera.url, plugin="yolo-pose", options=options, predict_fps=5)
        kept = {"directory": str(self.file.parent), "cache_directory": str(stage.folder / "cache")}
        settings = {"models": {**kept, "isolation": "process"}}
        self.daemon: Daemon = stage.open({"patient": watched}, settings=settings, plugins=[YOLO])
        until(lambda: self.predicted() > 0, what="a first prediction")

    def predicted(self) -> int:
        """Return how many frames of the patient have a prediction."""
        count: int = self.daemon.camera("patient")["frames"]["predicted"]
        return count

    def goes_on(self) -> None:
        """Look whether the model that is loaded goes on, whatever became of its file."""
        before = self.predicted()
        time.sleep(2)
        if self.predicted() <= before + 2:
            self._stage.problem("the loaded model did not go on")

    def end_process(self) -> None:
        """Kill the process that the model is in: it is loaded again, from its file."""
        for child in self._stage.process().children(recursive=True):
            if Path(f"/proc/{child.pid}/comm").read_text(encoding="utf-8").startswith(f"model {self.file.stem}"):
                child.kill()


def _file(stage: Stage, spoil: Callable[[Path], object]) -> None:
    _needs_processes()
    watched = _Watched(stage)
    stage.broken()
    spoil(watched.file)
    watched.goes_on()
    begun = time.monotonic()
    watched.end_process()
    stage.noticed(
        lambda seen: (
            seen["model"]["state"] not in {"ready", "loading"} and "SIGKILL" not in (seen["model"]["reason"] or "")
        )
    )
    stage.outcome.noticed = time.monotonic() - begun
    other = watched.file.with_suffix(".whole")
    shutil.copy(DEMO / "gym-pose.onnx", other)
    other.replace(watched.file)
    before = watched.predicted()
    watched.daemon.client.delete(f"/api/v1/models/{watched.file.name}")  # a model that was loaded would be shared
    watched.daemon.client.post("/api/v1/cameras/patient/restart")
    stage.mended()
    stage.recovered(lambda seen: seen["frames"]["predicted"] > before and seen["model"]["state"] == "ready")


LOADED_SECONDS = 10.0
MODEL_FILE: dict[str, Any] = {"noticed": LOADED_SECONDS, "recovered": LOADED_SECONDS, "metric": PREDICTOR}


@fault("file deleted", reason="there is no `model.onnx`", **MODEL_FILE)
def model_deleted(stage: Stage) -> None:
    """The file goes while the model works, which goes on; then its process is killed, and it is loaded again: in vain.

    The file comes back, and the camera is told to start anew.
    """
    _file(stage, Path.unlink)


@fault("file replaced by garbage, in place", reason="not a model", **MODEL_FILE)
def model_garbage(stage: Stage) -> None:
    """Noise is written over the file of a model that works; the rest as before."""
    _file(stage, lambda path: path.write_bytes(os.urandom(500_000)))


@fault("file replaced by another model", reason="`detect` model", **MODEL_FILE)
def model_other(stage: Stage) -> None:
    """A detection model is moved over the file of a pose model that works; the rest as before, and it is unloaded."""

    def replace(path: Path) -> None:
        other = path.with_suffix(".other")
        shutil.copy(DEMO / "rack-detect.onnx", other)
        other.replace(path)

    _file(stage, replace)
