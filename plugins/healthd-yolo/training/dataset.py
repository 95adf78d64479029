"""Render the data sets of the two demo models in the layout that ultralytics reads.

`python dataset.py --seed 0 --out DIR` writes DIR/pose and DIR/detect with the same pictures and each model's labels,
split in `train` and `val`. The two splits come from different seeds, so no picture, room or mannequin is in both.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from gymscene.body import KEYPOINT_NAMES
from gymscene.equipment import CLASS_NAMES, PERSON
from gymscene.random_scene import GYM, RACK, WIDE, random_picture
from gymscene.scene import Label

SPLITS = ("train", "val")
FLIPPED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""Which keypoint takes whose place in a mirrored picture."""
_FACE = 5
"""The first five keypoints; hidden ones have no label, as in COCO, so that confidence tells front from back."""


SCENES = {"wide": WIDE, "gym": GYM, "rack": RACK}
AMOUNTS = {"wide": (3000, 400), "gym": (2000, 400), "rack": (2000, 400)}
"""Pictures to train on and held out, by scenes."""


def label_line(label: Label, width: int, height: int, *, keypoints: bool) -> str:
    """Return one line of an ultralytics label file: class, centre, size, keypoints; all as shares of the picture."""
    left, top, right, bottom = (float(v) for v in label.box_xyxy)
    box = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    words = [str(label.class_id), *(f"{v:.6f}" for v in box)]
    if keypoints and label.keypoints is not None:
        for index, (x, y, visibility) in enumerate(label.keypoints):
            if visibility == 0 or (visibility == 1 and index < _FACE):
                words += ["0", "0", "0"]
                continue
            words += [f"{x / width:.6f}", f"{y / height:.6f}", str(int(visibility))]
    return " ".join(words)


def write_example(root: Path, scenes: str, split: str, seed: int, index: int) -> None:
    """Render one picture and write it, with its labels, into both data sets."""
    cv2.setNumThreads(1)
    picture, labels = random_picture((seed, SPLITS.index(split), index), SCENES[scenes])
    height, width = picture.shape[:2]
    name = f"{index:05d}"
    for task in ("pose", "detect"):
        target = root / task / "images" / split / f"{name}.png"
        if task == "pose":
            cv2.imwrite(str(target), picture)
        else:
            target.unlink(missing_ok=True)
            os.link(root / "pose" / "images" / split / f"{name}.png", target)
        wanted = [label for label in labels if task == "detect" or label.class_id == PERSON]
        lines = [label_line(label, width, height, keypoints=task == "pose") for label in wanted]
        (root / task / "labels" / split / f"{name}.txt").write_text("\n".join(lines))


def write_dataset(
    root: Path, seed: int, amounts: tuple[int, int], processes: int, scenes: str = "gym"
) -> dict[str, Path]:
    """Render (train, val) `amounts` of pictures below `root`; return the path of each task's description, by task."""
    for task in ("pose", "detect"):
        for split in SPLITS:
            for kind in ("images", "labels"):
                (root / task / kind / split).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes) as pool:
        for split, count in zip(SPLITS, amounts, strict=True):
            for _ in pool.map(partial(write_example, root, scenes, split, seed), range(count), chunksize=25):
                pass
    return {"pose": _describe(root, "pose", ("person",)), "detect": _describe(root, "detect", CLASS_NAMES)}


def _describe(root: Path, task: str, names: tuple[str, ...]) -> Path:
    lines = [f"path: {(root / task).resolve()}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {index}: {name}" for index, name in enumerate(names)]
    if task == "pose":
        lines += [f"kpt_shape: [{len(KEYPOINT_NAMES)}, 3]", f"flip_idx: {list(FLIPPED)}"]
    description = root / f"{task}.yaml"
    description.write_text("\n".join(lines) + "\n")
    return description


def main() -> None:
    """Read the command line and render."""
    parser = argparse.ArgumentParser(description="Render the data sets of the demo models.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", choices=SCENES, default="gym")
    parser.add_argument("--train", type=int)
    parser.add_argument("--val", type=int)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    train, val = AMOUNTS[options.scenes]
    amounts = (train if options.train is None else options.train, val if options.val is None else options.val)
    write_dataset(options.out, options.seed, amounts, options.processes, options.scenes)


if __name__ == "__main__":
    main()
