"""Render the two demo clips, encode them with ffmpeg and write their ground truth beside them.

`python clips.py --out DIR` writes `gym.mp4`, `gym.json`, `rack.mp4` and `rack.json`. The clips loop: the frame after
the last one is the first one.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymscene.body import KEYPOINT_NAMES, solve
from gymscene.brush import Image
from gymscene.camera import Floats
from gymscene.choreography import CARRIED_SIZE, PUT_DOWN, Choreography, grips, gym_choreography, rack_choreography
from gymscene.equipment import CLASS_NAMES
from gymscene.lens import Flaws, spoil
from gymscene.room import paint_room
from gymscene.scene import SUPERSAMPLING, Label, Person, Scene, render
from gymscene.sets import SIZE, Stage, gym_stage, kettlebell, rack_stage

FPS = 15
_FLAWS = Flaws(gain=1.02, vignette=0.18, noise=1.5)
_CARRIED_COLOUR = (50, 60, 196)


@dataclass(frozen=True, slots=True)
class Clip:
    """A stage, what happens on it, and the name of the files."""

    name: str
    stage: Stage
    choreography: Choreography

    @property
    def frame_count(self) -> int:
        """Return how many frames one round has."""
        return round(self.choreography.seconds * FPS)


def clips() -> tuple[Clip, Clip]:
    """Return both demo clips."""
    return Clip("gym", gym_stage(), gym_choreography()), Clip("rack", rack_stage(), rack_choreography())


def frames(clip: Clip, first: int = 0, last: int | None = None) -> Iterator[tuple[Image, list[Label]]]:
    """Yield the frames of a clip, (360, 640, 3) each, with their labels."""
    stage, camera = clip.stage, clip.stage.camera
    large = replace(
        camera, size=(SIZE[0] * SUPERSAMPLING, SIZE[1] * SUPERSAMPLING), focal_px=camera.focal_px * SUPERSAMPLING
    )
    backdrop = paint_room(stage.room, large, np.random.default_rng(0))
    resting = _resting_grip(clip)
    for number in range(first, clip.frame_count if last is None else last):
        seconds = number / FPS
        moment = clip.choreography.at(seconds)
        joints = solve(moment.posture, stage.look.size, moment.place, moment.facing)
        shadow = (np.array([1.0, 0.0, 1.0]) * joints.hips.mean(axis=0), 0.34)
        scene = Scene(
            camera, backdrop, people=[Person(joints, stage.look)], items=list(stage.items),
            furniture=list(stage.furniture), shadows=[*stage.shadows, shadow],
        )  # fmt: skip
        if clip.name == "rack":
            grip = grips(joints).mean(axis=0) if moment.carries else resting(seconds)
            across = (joints.shoulders[0] - joints.shoulders[1])[[0, 2]]
            handle = (float(across[0]), float(across[1])) if moment.carries else (0.0, 1.0)
            scene.items.append(kettlebell(grip, handle, _CARRIED_COLOUR, CARRIED_SIZE))
            scene.shadows.append((np.array([grip[0], 0.0, grip[2]]), 0.15))
        picture, labels = render(scene)
        yield spoil(picture, _FLAWS, np.random.default_rng(number)), labels


def _resting_grip(clip: Clip) -> Callable[[float], Floats]:
    """Return where the carried kettlebell stands at a time at which nobody carries it: where it was put down last."""
    choreography = clip.choreography
    spots: list[tuple[float, Floats]] = []
    for beat, start in zip(choreography.beats, choreography.starts(), strict=True):
        if beat.exercise == PUT_DOWN:
            end = start + beat.seconds - 1e-6
            moment = choreography.at(end)
            joints = solve(moment.posture, clip.stage.look.size, moment.place, moment.facing)
            spots.append((end, grips(joints).mean(axis=0)))

    def at(seconds: float) -> Floats:
        before: list[Floats] = [spot for time, spot in spots if time <= seconds]
        return before[-1] if before else spots[-1][1]

    return at


def events(clip: Clip) -> list[dict[str, Any]]:
    """Return the clip's repetitions: what is done, when it starts and ends, and when it is at its extreme."""
    beats, starts = clip.choreography.beats, clip.choreography.starts()
    return [
        {
            "exercise": beat.exercise,
            "start_seconds": round(start, 3),
            "extreme_seconds": round(start + beat.seconds * (1.0 if clip.name == "rack" else 0.5), 3),
            "end_seconds": round(start + beat.seconds, 3),
        }
        for beat, start in zip(beats, starts, strict=True)
        if beat.exercise
    ]


def truth_of_frame(labels: list[Label]) -> dict[str, Any]:
    """Return one frame's ground truth as it stands in the JSON file."""
    objects = []
    for label in labels:
        entry: dict[str, Any] = {
            "class_id": label.class_id,
            "box_xyxy": [round(float(v), 1) for v in label.box_xyxy],
            "visible_share": round(label.visible_share, 2),
        }
        if label.keypoints is not None:
            entry["keypoints"] = [[round(float(x), 1), round(float(y), 1), int(v)] for x, y, v in label.keypoints]
        objects.append(entry)
    return {"objects": objects}


def encode(clip: Clip, target: Path) -> list[dict[str, Any]]:
    """Render a clip into an H.264 file and return the truth of its frames."""
    command = (
        f"ffmpeg -hide_banner -loglevel error -y -f rawvideo -pix_fmt bgr24 -s {SIZE[0]}x{SIZE[1]} -r {FPS} -i -"
        f" -an -c:v libx264 -preset slow -crf 22 -profile:v high -pix_fmt yuv420p -g {2 * FPS} -bf 0 -threads 1"
        " -x264-params open-gop=0:scenecut=0 -colorspace bt709 -color_primaries bt709 -color_trc bt709"
        " -movflags +faststart -fflags +bitexact -flags:v +bitexact -map_metadata -1"
    ).split()
    truth = []
    with subprocess.Popen([*command, str(target)], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        for picture, labels in frames(clip):
            process.stdin.write(picture.tobytes())
            truth.append(truth_of_frame(labels))
    if process.returncode:
        message = f"ffmpeg ended with {process.returncode}"
        raise RuntimeError(message)
    return truth


def write_clip(clip: Clip, folder: Path) -> None:
    """Write a clip and its ground truth; in the truth, each frame is a line."""
    truth = encode(clip, folder / f"{clip.name}.mp4")
    head = {
        "clip": f"{clip.name}.mp4",
        "size": list(SIZE),
        "fps": FPS,
        "frame_count": len(truth),
        "duration_seconds": round(len(truth) / FPS, 3),
        "class_names": list(CLASS_NAMES),
        "keypoint_names": list(KEYPOINT_NAMES),
        "repetitions": events(clip),
    }
    keys = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items())
    lines = ",\n".join(json.dumps(frame, separators=(",", ":")) for frame in truth)
    (folder / f"{clip.name}.json").write_text(f'{{{keys},\n"frames": [\n{lines}\n]}}\n')


def main() -> None:
    """Read the command line and write the clips."""
    parser = argparse.ArgumentParser(description="Render the demo clips and their ground truth.")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for clip in clips():
        write_clip(clip, options.out)
        print(f"{clip.name}: {clip.frame_count} frames, {clip.choreography.seconds:.2f} s")


if __name__ == "__main__":
    main()
