"""Train the two demo models from nothing: render pictures, train, export to ONNX, measure.

`python train.py --seed 0 --work DIR --out DIR` needs the plugin's `ultralytics` extra and no network. It leaves
`gym-pose.onnx`, `rack-detect.onnx` and `metrics.json` in `--out`; everything else stays in `--work`.
"""

import argparse
import copy
import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import AMOUNTS, write_dataset
from onnx_export import export

IMAGE_SIZE = 256
SCALE = [0.5, 0.125, 512]
"""Depth, width and most channels of YOLO26, as shares; its smallest official size is [0.5, 0.25, 1024]."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of the trainer; it starts from what the stage before has learnt."""

    epochs: int
    image_size: int
    end2end: bool
    """Whether the second head, which needs no NMS, is trained beside the first."""
    hyperparameters: dict[str, Any]
    scenes: str = "gym"
    """Which pictures it learns on; see dataset.SCENES."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one of the models is made."""

    task: str
    file_name: str
    architecture: str
    """The file of ultralytics' own that describes the full-size network."""
    stages: tuple[Stage, ...]
    starts_from: str | None = None
    """The task whose first stage lends its features, so that they need not be learnt twice."""


_COMMON: dict[str, Any] = {
    "batch": 16, "nbs": 16, "optimizer": "AdamW", "cos_lr": True, "warmup_epochs": 0.5, "weight_decay": 0.0005,
    "close_mosaic": 0, "translate": 0.08, "degrees": 3.0, "fliplr": 0.5, "hsv_h": 0.02, "hsv_s": 0.4, "hsv_v": 0.3,
}  # fmt: skip
_SMALL = _COMMON | {"lr0": 0.002, "lrf": 0.1, "mosaic": 0.0, "scale": 0.2}
_FULL = _COMMON | {"lr0": 0.0015, "lrf": 0.01, "mosaic": 0.0, "scale": 0.15}
PLANS = (
    Plan(
        "pose", "gym-pose.onnx", "yolo26-pose.yaml",
        (
            Stage(18, 160, end2end=False, hyperparameters=_SMALL, scenes="wide"),
            Stage(6, 256, end2end=True, hyperparameters=_FULL),
        ),
    ),
    Plan(
        "detect", "rack-detect.onnx", "yolo26.yaml",
        (Stage(12, 256, end2end=True, hyperparameters=_FULL | {"lr0": 0.002}, scenes="rack"),),
        starts_from="pose",
    ),
)  # fmt: skip


def prepare(work: Path) -> None:
    """Keep ultralytics away from the network and from the user's own settings; call it before the first import."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(work / "config"))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    (work / "config").mkdir(parents=True, exist_ok=True)
    from ultralytics import settings  # noqa: PLC0415 - only after the environment is set

    settings.update({"sync": False, "runs_dir": str(work / "runs")})


def write_architecture(plan: Plan, stage: Stage, work: Path) -> Path:
    """Write the description of the narrowed network and return its path; its name must keep the scale's letter."""
    from ultralytics.utils import ROOT, YAML  # noqa: PLC0415

    description = YAML.load(ROOT / "cfg" / "models" / "26" / plan.architecture)
    description |= {"scales": {"n": SCALE}, "end2end": stage.end2end}
    target = work / plan.architecture.replace("yolo26", "yolo26n", 1)
    YAML.save(target, description)
    return target


def hand_over(learnt: Path, target: Path) -> Path:
    """Write a checkpoint whose second head begins as a copy of the first, which `learnt` has trained alone."""
    import torch  # noqa: PLC0415
    from ultralytics.nn.tasks import load_checkpoint  # noqa: PLC0415

    model, _ = load_checkpoint(learnt)
    head = model.model[-1]
    for name, module in list(head.named_children()):
        if name.startswith("cv"):
            head.add_module(f"one2one_{name}", copy.deepcopy(module))
    torch.save({"model": model, "train_args": {}}, target)
    return target


def train(plan: Plan, options: argparse.Namespace) -> Path:
    """Train one model through all its stages and return the best checkpoint of the last."""
    runs = options.work / "runs"
    learnt = runs / f"{plan.starts_from}-0" / "weights" / "best.pt" if plan.starts_from else None
    for number, stage in enumerate(plan.stages):
        begins = hand_over(learnt, options.work / f"{plan.task}-{number}.pt") if learnt and stage.end2end else learnt
        name = f"{plan.task}-{number}"
        learnt = runs / name / "weights" / "best.pt"
        if number >= options.from_stage:
            data = rendered(options.work / "data" / stage.scenes, options.seed, stage.scenes)[plan.task]
            run_stage(write_architecture(plan, stage, options.work), stage, data, begins, options, name)
    assert learnt is not None  # noqa: S101 - every plan has a stage
    return Path(learnt)


def run_stage(
    architecture: Path, stage: Stage, data: Path, begins: Path | None, options: argparse.Namespace, name: str
) -> None:
    """Train one stage from the weights in `begins`, or from random ones."""
    import torch  # noqa: PLC0415
    from ultralytics import YOLO  # noqa: PLC0415

    def settle(trainer: Any) -> None:
        """Take all processors, which ultralytics does not, and the memory layout that suits them."""
        torch.set_num_threads(options.threads)
        trainer.model.to(memory_format=torch.channels_last)

    model = YOLO(str(architecture), task="pose" if "pose" in architecture.stem else "detect")
    model.add_callback("on_train_start", settle)
    model.train(
        data=str(data), imgsz=stage.image_size, epochs=stage.epochs, device="cpu", workers=options.workers, cache="ram",
        amp=False, seed=options.seed, deterministic=True, project=str(options.work / "runs"), name=name,
        exist_ok=True, plots=False, pretrained=str(begins) if begins else False, patience=0, **stage.hyperparameters,
    )  # fmt: skip


def measure(task: str, model: Path, data: Path, work: Path) -> dict[str, float]:
    """Return the accuracy of an exported model on the held-out pictures."""
    from ultralytics import YOLO  # noqa: PLC0415

    metrics = YOLO(str(model), task=task).val(
        data=str(data), imgsz=IMAGE_SIZE, batch=1, rect=False, device="cpu", workers=0, plots=False, verbose=True,
        project=str(work / "runs"), name=f"{task}-val", exist_ok=True,
    )  # fmt: skip
    figures = {"box_map50": float(metrics.box.map50), "box_map50_95": float(metrics.box.map)}
    if task == "pose":
        figures |= {"pose_map50": float(metrics.pose.map50), "pose_map50_95": float(metrics.pose.map)}
    else:
        for index, class_id in enumerate(metrics.box.ap_class_index):
            figures[f"box_map50_{metrics.names[int(class_id)]}"] = float(metrics.box.ap50[index])
    return figures


_SINGLE_PICTURE = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


def milliseconds_per_picture(model: Path, runs: int = 300) -> float:
    """Return the median time of one inference of OpenVINO on this machine's CPU, one picture of 256x256 at a time."""
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    compiled = openvino.Core().compile_model(model, "CPU", _SINGLE_PICTURE)
    picture = np.random.default_rng(0).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    times = []
    for _ in range(runs + 20):
        begin = time.perf_counter()
        compiled(picture)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[20:]) * 1000)


def rendered(root: Path, seed: int, scenes: str) -> dict[str, Path]:
    """Return the descriptions of the data sets below `root`; render them unless an earlier run of this seed has."""
    finished = root / f"seed-{seed}"
    if not finished.exists():
        write_dataset(root, seed, AMOUNTS[scenes], processes=2, scenes=scenes)
        finished.touch()
    return {task: root / f"{task}.yaml" for task in ("pose", "detect")}


def training_seconds(plan: Plan, work: Path) -> float:
    """Return how long all stages of a plan took, from ultralytics' own records."""
    total = 0.0
    for number in range(len(plan.stages)):
        with (work / "runs" / f"{plan.task}-{number}" / "results.csv").open() as rows:
            total += max(float(row["time"]) for row in csv.DictReader(rows))
    return total


def make(plan: Plan, options: argparse.Namespace) -> dict[str, float]:
    """Train, export and measure one model; return its figures."""
    checkpoint = train(plan, options)
    scenes = plan.stages[-1].scenes
    data = rendered(options.work / "data" / scenes, options.seed, scenes)[plan.task]
    target = options.out / plan.file_name
    export(checkpoint, target, IMAGE_SIZE)
    figures = measure(plan.task, target, data, options.work)
    return figures | {
        "epochs": sum(stage.epochs for stage in plan.stages),
        "training_seconds": round(training_seconds(plan, options.work)),
        "file_bytes": target.stat().st_size,
        "ms_per_picture": round(milliseconds_per_picture(target), 2),
    }


def main() -> None:
    """Read the command line, make both models, print and write the figures."""
    parser = argparse.ArgumentParser(description="Render, train, export and measure the demo models.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="pictures, checkpoints and logs")
    parser.add_argument("--out", type=Path, required=True, help="the models and metrics.json")
    parser.add_argument("--task", choices=[plan.task for plan in PLANS], help="only this model")
    parser.add_argument("--from-stage", type=int, default=0, help="take the stages before from an earlier run")
    parser.add_argument("--workers", type=int, default=1, help="processes that load pictures")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    options = parser.parse_args()
    options.work, options.out = options.work.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.work)
    report = options.out / "metrics.json"
    figures = json.loads(report.read_text()) if options.task and report.exists() else {}
    for plan in PLANS:
        if options.task in (None, plan.task):
            figures[plan.task] = make(plan, options)
            report.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
