"""Train the two demo models from nothing: render pictures, train, export to ONNX, measure.

`python train.py --seed 0 --work DIR --out DIR` needs the plugin's `ultralytics` extra and no network. It leaves
`gym-pose.onnx`, `rack-detect.onnx` and `metrics.json` in `--out`; everything else stays in `--work`.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset import TRAIN_PICTURES, VAL_PICTURES, write_dataset

IMAGE_SIZE = 256
WIDTH = 0.125
"""The share of YOLO26's channels that the demo models keep (its smallest official size keeps 0.25)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one of the models is made."""

    task: str
    file_name: str
    architecture: str
    """The file of ultralytics' own that describes the full-size network."""
    epochs: int
    hyperparameters: dict[str, Any]


_COMMON: dict[str, Any] = {
    "batch": 16, "nbs": 16, "optimizer": "AdamW", "lr0": 0.002, "lrf": 0.01, "cos_lr": True, "warmup_epochs": 0.5,
    "weight_decay": 0.0005, "mosaic": 0.25, "close_mosaic": 4, "scale": 0.25, "translate": 0.08, "degrees": 3.0,
    "fliplr": 0.5, "hsv_h": 0.02, "hsv_s": 0.4, "hsv_v": 0.3,
}  # fmt: skip
PLANS = (
    Plan("pose", "gym-pose.onnx", "yolo26-pose.yaml", 14, _COMMON),
    Plan("detect", "rack-detect.onnx", "yolo26.yaml", 10, _COMMON),
)


def prepare(work: Path) -> None:
    """Keep ultralytics away from the network and from the user's own settings; call it before the first import."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(work / "config"))
    (work / "config").mkdir(parents=True, exist_ok=True)
    from ultralytics import settings  # noqa: PLC0415 - only after the environment is set

    settings.update({"sync": False, "runs_dir": str(work / "runs")})


def write_architecture(plan: Plan, work: Path) -> Path:
    """Write the description of the narrowed network and return its path; its name must keep the scale's letter."""
    from ultralytics.utils import ROOT, YAML  # noqa: PLC0415

    description = YAML.load(ROOT / "cfg" / "models" / "26" / plan.architecture)
    description["scales"] = {"n": [0.5, WIDTH, 1024]}
    target = work / plan.architecture.replace("yolo26", "yolo26n", 1)
    YAML.save(target, description)
    return target


def train(plan: Plan, data: Path, options: argparse.Namespace, *, epochs: int) -> Path:
    """Train one model from random weights and return the best checkpoint."""
    import torch  # noqa: PLC0415
    from ultralytics import YOLO  # noqa: PLC0415

    def settle(trainer: Any) -> None:
        """Take all processors, which ultralytics does not, and the memory layout that suits them."""
        torch.set_num_threads(options.threads)
        trainer.model.to(memory_format=torch.channels_last)

    model = YOLO(str(write_architecture(plan, options.work)), task=plan.task)
    model.add_callback("on_train_start", settle)
    model.train(
        data=str(data), imgsz=IMAGE_SIZE, epochs=epochs, device="cpu", workers=options.workers, cache="ram", amp=False,
        seed=options.seed, deterministic=True, project=str(options.work / "runs"), name=plan.task, exist_ok=True,
        plots=False, pretrained=False, patience=0, **plan.hyperparameters,
    )  # fmt: skip
    return Path(options.work / "runs" / plan.task / "weights" / "best.pt")


def export(checkpoint: Path, target: Path) -> None:
    """Export a checkpoint with its end-to-end head to ONNX, free of paths and of this machine's names."""
    import onnx  # noqa: PLC0415
    from ultralytics import YOLO  # noqa: PLC0415

    exported = YOLO(str(checkpoint)).export(
        format="onnx", imgsz=IMAGE_SIZE, opset=17, simplify=True, dynamic=True, nms=False, device="cpu"
    )
    model = onnx.load(exported)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    kept["description"] = f"healthd demo model {target.stem}, trained on rendered pictures"
    kept.update(author="healthd", license="AGPL-3.0 License (https://ultralytics.com/license)")
    for key in ("date", "docs", "args"):
        kept.pop(key, None)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, target)


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


def milliseconds_per_picture(model: Path, runs: int = 300) -> float:
    """Return the median time of one inference of OpenVINO on this machine's CPU, one picture of 256x256 at a time."""
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    picture = np.random.default_rng(0).random((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32)
    times = []
    for _ in range(runs + 20):
        begin = time.perf_counter()
        compiled(picture)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[20:]) * 1000)


def rendered(root: Path, seed: int) -> dict[str, Path]:
    """Return the descriptions of the data sets below `root`; render them unless an earlier run of this seed has."""
    finished = root / f"seed-{seed}"
    if not finished.exists():
        write_dataset(root, seed, (TRAIN_PICTURES, VAL_PICTURES), processes=2)
        finished.touch()
    return {task: root / f"{task}.yaml" for task in ("pose", "detect")}


def make(plan: Plan, data: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train, export and measure one model; return its figures."""
    begin = time.monotonic()
    epochs = options.epochs or plan.epochs
    checkpoint = train(plan, data, options, epochs=epochs)
    seconds = time.monotonic() - begin
    target = options.out / plan.file_name
    export(checkpoint, target)
    figures = measure(plan.task, target, data, options.work)
    return figures | {
        "epochs": epochs,
        "training_seconds": round(seconds, 1),
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
    parser.add_argument("--epochs", type=int, help="instead of each model's own number")
    parser.add_argument("--workers", type=int, default=1, help="processes that load pictures")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    options = parser.parse_args()
    options.work, options.out = options.work.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.work)
    data = rendered(options.work / "data", options.seed)
    report = options.out / "metrics.json"
    figures = json.loads(report.read_text()) if options.task and report.exists() else {}
    for plan in PLANS:
        if options.task in (None, plan.task):
            figures[plan.task] = make(plan, data[plan.task], options)
            report.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
