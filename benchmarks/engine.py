"""Pose predictions per second on 720p frames, end to end: healthd, ultralytics on the same weights, OpenVINO alone.

A frame is a 720p array in memory on both sides, a prediction what a user gets of it. ultralytics runs the `.pt` in a
process of its own, with the threads it chooses; healthd runs the export of that very file, in the process in which
OpenVINO's bare `infer` is measured on a tensor that lies ready. They take turns, round after round; of each the best
round counts.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.assets import POSE, checkpoint, exported, need, pose_network, street
from benchmarks.figures import Figure, NotMeasuredError, Plot, not_measured
from healthd.cpus import usable_cpus
from healthd.models.manager import ModelManager
from healthd.models.model import InferenceParams

PEER = Path(__file__).parent / "peers" / "ultralytics_loop.py"
GOALS = {"auto": 4.5, "f32": 2.8}
OF_BARE = 0.90
FRAMES = 20

Turn = Callable[[float], float]
"""Predicts for so many seconds; returns the milliseconds one prediction took."""


def _turn(predict: Callable[[int], object]) -> Turn:
    def turn(seconds: float) -> float:
        begun, count = time.perf_counter(), 0
        while (lasted := time.perf_counter() - begun) < seconds:
            predict(count)
            count += 1
        return 1000 * lasted / count

    return turn


def _frames(clip: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(clip))
    frames = [image for ok, image in (capture.read() for _ in range(FRAMES)) if ok]
    capture.release()
    return frames  # type: ignore[return-value]


@contextmanager
def _healthd(network: Path, precision: str, frames: list[np.ndarray]) -> Iterator[tuple[Turn, Mapping[str, Any]]]:
    """Give the engine as cameras use it, and what it says of its precision and the shape of its input."""
    from healthd_yolo.family import YoloFamily  # noqa: PLC0415
    from healthd_yolo.model_options import YoloModelOptions  # noqa: PLC0415

    manager = ModelManager({"yolo": YoloFamily()}, directory=network.parent, threads=usable_cpus())
    options = YoloModelOptions(precision=precision)  # type: ignore[arg-type]
    with manager.use("yolo", network.name, options) as shared:
        params = InferenceParams()
        said = shared.predict(frames[0], params).metadata
        yield _turn(lambda count: shared.predict(frames[count % len(frames)], params)), said


def _bare(network: Path, precision: str, shape: Sequence[int]) -> Turn:
    """Return OpenVINO alone, on one tensor of the height and width that healthd computes for the picture."""
    from healthd_yolo.openvino_runtime import core  # noqa: PLC0415

    model = core().read_model(str(network))
    model.reshape([1, 3, *shape])
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
    request = core().compile_model(model, "CPU", hints).create_infer_request()
    tensor = np.random.default_rng(1).random((1, 3, *shape), np.float32)
    return _turn(lambda _: request.infer({0: tensor}, share_inputs=True, share_outputs=True))


@contextmanager
def _ultralytics(weights: Path, clip: Path, *more: str) -> Iterator[Turn]:
    command = [sys.executable, str(PEER), str(weights), str(clip), "--measure", *more]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if "predicted" not in process.stdout.readline():
                raise NotMeasuredError("the loop of ultralytics did not start")

            def turn(seconds: float) -> float:
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
                return float(process.stdout.readline())

            yield turn
        finally:
            process.kill()


def _rounds(turns: dict[str, Turn], rounds: int, seconds: float) -> dict[str, float]:
    """Return the least milliseconds of each, all of them having had their turn in each round."""
    for turn in turns.values():
        turn(seconds / 4)
    took: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            took[name].append(turn(seconds))
    return {name: min(each) for name, each in took.items()}


def _told(ms: float) -> str:
    return f"{1000 / ms:.1f} per s ({ms:.1f} ms)"


def measure(*, quick: bool) -> list[Figure]:
    """Measure the engine beside both."""
    need("healthd_yolo", "openvino")
    rounds, seconds = (3, 0.4) if quick else (7, 2.0)
    missing, clip = "", street()
    try:
        weights, network = checkpoint(), exported()
    except NotMeasuredError as exc:
        missing, network = str(exc), pose_network()
    frames, chosen, turns = _frames(clip), {}, {}
    with ExitStack() as stack:
        for precision in GOALS:
            turns[precision], said = stack.enter_context(_healthd(network, precision, frames))
            chosen[precision] = str(said["precision"])
            turns[f"bare {precision}"] = _bare(network, chosen[precision], said["input_shape"])
        if not missing:
            turns["ultralytics"] = stack.enter_context(_ultralytics(weights, clip))
            turns["all cores"] = stack.enter_context(_ultralytics(weights, clip, "--all-cores"))
        ms = _rounds(turns, rounds, seconds)
    how = f"{network.stem}, 720p, best of {rounds} interleaved rounds of {seconds:g} s"
    what = "pose predictions, 720p, end to end"
    beside = [figure for name in GOALS for figure in _beside(f"{what}, `{name}`", name, ms, chosen[name], how, missing)]
    return [Figure(what, 1000 / ms["auto"], "per s", detail=how, plot=_plot(ms, chosen)), *beside]


def _beside(what: str, precision: str, ms: dict[str, float], chosen: str, how: str, missing: str) -> Iterator[Figure]:
    ours = f"healthd: {_told(ms[precision])} in {chosen}; {how}"
    peer, goal = f"{what}: beside ultralytics `predict()` of the `.pt`", (">=", GOALS[precision])
    if missing:
        yield not_measured(peer, missing, goal)
    else:
        told = f"ultralytics: {_told(ms['ultralytics'])}; told to take all cores: {_told(ms['all cores'])}"
        ratio, of_all = (ms[name] / ms[precision] for name in ("ultralytics", "all cores"))
        yield Figure(peer, ratio, "times", goal, f"{told}, then it is {of_all:.2f} times", ours)
    bare = ms[f"bare {precision}"]
    name = f"{what}: beside OpenVINO's bare `infer` on a ready tensor"
    of_bare = None if missing else (">=", OF_BARE)  # the goal is for the real network; the demo's is too small
    yield Figure(name, bare / ms[precision], "of its rate", of_bare, f"bare: {_told(bare)}", ours)


def _plot(ms: dict[str, float], chosen: dict[str, str]) -> Plot:
    names = {"auto": f"healthd, auto ({chosen['auto']})", "f32": "healthd, f32"}
    names |= {f"bare {name}": f"OpenVINO alone, {chosen[name]}" for name in GOALS}
    names |= {"ultralytics": f"ultralytics, {POSE}.pt", "all cores": "ultralytics, told to take all cores"}
    bars = {names[name]: 1000 / each for name, each in sorted(ms.items(), key=lambda one: one[1])}
    title = "Pose predictions per second on 720p frames, end to end"
    return Plot("engine", title, "", "predictions per second", bars=bars)
