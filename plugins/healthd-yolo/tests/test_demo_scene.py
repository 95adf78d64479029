"""The renderer of the demo pictures, and the clips and ground truth that it left in the package."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

PLUGIN = Path(__file__).parents[1]
DEMO = PLUGIN / "healthd_yolo" / "demo"
sys.path.insert(0, str(PLUGIN / "training"))

import clips  # noqa: E402 - found through the line above
import dataset  # noqa: E402
from gymscene import body, motions  # noqa: E402
from gymscene.body import KEYPOINT_NAMES, middle_joint, solve  # noqa: E402
from gymscene.camera import looking_at  # noqa: E402
from gymscene.equipment import CLASS_NAMES, PERSON  # noqa: E402
from gymscene.random_scene import random_picture  # noqa: E402
from gymscene.scene import Label  # noqa: E402

NAMES = ("gym", "rack")
CYCLIC = (
    motions.squat, motions.jumping_jack, motions.curl, motions.overhead_press, motions.lift, motions.swing,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> list[tuple[Any, list[Label]]]:
    return [random_picture((77, index)) for index in range(40)]


def truth(name: str) -> dict[str, Any]:
    return json.loads((DEMO / f"{name}.json").read_text())


def decoded(name: str) -> list[Any]:
    capture = cv2.VideoCapture(str(DEMO / f"{name}.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


def test_a_seed_gives_the_same_picture_and_the_same_labels_again() -> None:
    first, labels = random_picture((5, 1))
    again, labels_again = random_picture((5, 1))
    assert np.array_equal(first, again)
    assert [label.box_xyxy.tolist() for label in labels] == [label.box_xyxy.tolist() for label in labels_again]


def test_another_seed_gives_another_picture() -> None:
    first, other = random_picture((5, 1))[0], random_picture((5, 2))[0]
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_pictures_are_bgr_bytes_and_256_pixels_long(pictures: list[tuple[Any, list[Label]]]) -> None:
    for picture, _ in pictures:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert max(picture.shape[:2]) == 256


def test_boxes_lie_on_the_picture_and_have_a_known_class(pictures: list[tuple[Any, list[Label]]]) -> None:
    for picture, labels in pictures:
        height, width = picture.shape[:2]
        for label in labels:
            left, top, right, bottom = label.box_xyxy
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert 0 < label.visible_share <= 1
            assert 0 <= label.class_id < len(CLASS_NAMES)
            assert (label.keypoints is not None) == (label.class_id == PERSON)


def test_every_class_nobody_and_two_people_occur(pictures: list[tuple[Any, list[Label]]]) -> None:
    assert {label.class_id for _, labels in pictures for label in labels} == set(range(len(CLASS_NAMES)))
    people = [sum(label.class_id == PERSON for label in labels) for _, labels in pictures]
    assert {0, 1, 2} <= set(people)


def test_visible_keypoints_lie_on_the_mannequin(pictures: list[tuple[Any, list[Label]]]) -> None:
    for picture, labels in pictures:
        height, width = picture.shape[:2]
        for label in labels:
            if label.keypoints is None:
                continue
            shown = label.keypoints[label.keypoints[:, 2] == 2, :2]
            assert (shown >= label.box_xyxy[:2] - 1.5).all()
            assert (shown <= label.box_xyxy[2:] + 1.5).all()
            known = label.keypoints[label.keypoints[:, 2] > 0, :2]
            assert (known >= 0).all()
            assert (known < [width, height]).all()
            assert (label.keypoints[label.keypoints[:, 2] == 0] == 0).all()


def test_who_faces_the_camera_shows_nose_and_eyes_with_the_left_eye_to_the_right() -> None:
    joints = solve(motions.standing(), 1.0, np.array([0.0, 0.0, 3.0]), facing=0.0)
    points = joints.keypoints(1.0)
    camera = looking_at(np.array([0.0, 1.2, 0.0]), np.array([0.0, 1.0, 3.0]), roll=0.0, focal_px=300, size=(256, 256))
    places, depths = camera.project(points)
    assert places[1, 0] > places[2, 0]
    assert places[5, 0] > places[6, 0]
    assert depths[0] < depths[3]
    assert places[0, 1] < places[5, 1] < places[11, 1] < places[13, 1] < places[15, 1]


def test_bones_keep_their_length_in_every_posture() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        joints = solve(motions.free(rng), 1.0, np.zeros(3), float(rng.uniform(-3, 3)))
        for start, end, length in (
            (joints.shoulders, joints.elbows, body.UPPER_ARM),
            (joints.elbows, joints.wrists, body.FOREARM),
            (joints.hips, joints.knees, body.THIGH),
            (joints.knees, joints.ankles, body.SHIN),
        ):
            assert np.linalg.norm(end - start, axis=1) == pytest.approx([length, length], abs=1e-6)


def test_a_limb_that_cannot_reach_stretches_towards_its_target() -> None:
    _, end = middle_joint(np.zeros(3), np.array([0.0, -5.0, 0.0]), 0.4, 0.4, np.array([0.0, 0.0, 1.0]))
    assert end == pytest.approx([0, -0.8, 0], abs=2e-3)


@pytest.mark.parametrize("motion", CYCLIC)
def test_a_motion_ends_where_it_began(motion: motions.Motion) -> None:
    first, last = (solve(motion(phase), 1.0, np.zeros(3), 0.0).keypoints(1.0) for phase in (0.0, 1.0))
    assert first == pytest.approx(last, abs=1e-9)


def test_a_walking_foot_on_the_ground_stays_where_it_is() -> None:
    planted = [motions.walking(way, 0.6).ankles[0, 2] + way for way in (0.7, 0.85, 1.0, 1.15)]
    assert planted == pytest.approx([planted[0]] * 4, abs=1e-9)


def test_a_label_line_holds_shares_of_the_picture() -> None:
    keypoints = np.zeros((17, 3))
    keypoints[0] = 50, 25, 2
    label = Label(PERSON, np.array([20.0, 10.0, 60.0, 90.0]), 1.0, keypoints)
    words = dataset.label_line(label, 200, 100, keypoints=True).split()
    assert [float(w) for w in words[:8]] == pytest.approx([0, 0.2, 0.5, 0.2, 0.8, 0.25, 0.25, 2])
    assert len(words) == 5 + 3 * 17
    assert len(dataset.label_line(label, 200, 100, keypoints=False).split()) == 5


def test_mirroring_swaps_left_and_right() -> None:
    swapped = [KEYPOINT_NAMES[index] for index in dataset.FLIPPED]
    turned = [name.replace("left", "?").replace("right", "left").replace("?", "right") for name in KEYPOINT_NAMES]
    assert swapped == turned


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_matches_its_clip(name: str) -> None:
    facts, frames = truth(name), decoded(name)
    capture = cv2.VideoCapture(str(DEMO / f"{name}.mp4"))
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    assert len(frames) == facts["frame_count"] == len(facts["frames"])
    assert fps == pytest.approx(facts["fps"])
    assert facts["duration_seconds"] == pytest.approx(len(frames) / facts["fps"], abs=1e-3)
    assert 10 <= facts["duration_seconds"] <= 20
    assert [frames[0].shape[1], frames[0].shape[0]] == facts["size"]
    assert tuple(facts["class_names"]) == CLASS_NAMES
    assert tuple(facts["keypoint_names"]) == KEYPOINT_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_of_every_frame_is_on_the_picture(name: str) -> None:
    facts = truth(name)
    for frame in facts["frames"]:
        assert any(thing["class_id"] == PERSON for thing in frame["objects"])
        for thing in frame["objects"]:
            left, top, right, bottom = thing["box_xyxy"]
            assert 0 <= left < right <= facts["size"][0]
            assert 0 <= top < bottom <= facts["size"][1]
            assert len(thing.get("keypoints", [])) == (17 if thing["class_id"] == PERSON else 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_has_no_seam(name: str) -> None:
    frames = [cv2.resize(frame, (160, 90), interpolation=cv2.INTER_AREA).astype(np.int16) for frame in decoded(name)]
    steps = [float(np.abs(b - a).mean()) for a, b in pairwise(frames)]
    assert float(np.abs(frames[0] - frames[-1]).mean()) <= np.quantile(steps, 0.9)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_jumps_from_one_frame_to_the_next(name: str) -> None:
    facts = truth(name)
    people = [[t for t in frame["objects"] if t["class_id"] == PERSON][0] for frame in facts["frames"]]  # noqa: RUF015
    points = np.array([person["keypoints"] for person in people + people[:1]])
    both = (points[1:, :, 2] > 0) & (points[:-1, :, 2] > 0)
    steps = np.linalg.norm(points[1:, :, :2] - points[:-1, :, :2], axis=2)
    assert steps[both].max() < 0.12 * facts["size"][1]


def test_the_clips_can_be_rendered_again_from_the_source() -> None:
    """One frame of each is enough: the truth must be the same, the picture but for the loss of the encoding."""
    for clip in clips.clips():
        number = clip.frame_count // 3
        picture, labels = next(clips.frames(clip, number, number + 1))
        assert clips.truth_of_frame(labels) == truth(clip.name)["frames"][number]
        difference = np.abs(picture.astype(np.int16) - decoded(clip.name)[number])
        assert float(difference.mean()) < 6


def test_the_repetitions_are_where_the_truth_says() -> None:
    """At a squat's lowest moment the hips are lower, at a jack's the wrists are higher, than at its ends."""
    facts = truth("gym")
    counts = [repetition["exercise"] for repetition in facts["repetitions"]]
    assert (counts.count("squat"), counts.count("jumping_jack")) == (5, 4)
    points = np.array([frame["objects"][0]["keypoints"] for frame in facts["frames"]])
    for repetition in facts["repetitions"]:
        extreme, end = (
            round(repetition[key] * facts["fps"]) % len(points) for key in ("extreme_seconds", "end_seconds")
        )
        if repetition["exercise"] == "squat":
            assert points[extreme, 11:13, 1].mean() > points[end, 11:13, 1].mean() + 40
        else:
            assert points[extreme, 9:11, 1].mean() < points[extreme, 0, 1]


@pytest.mark.parametrize(
    ("file", "limit"), [("gym.mp4", 2e6), ("rack.mp4", 2e6), ("gym.json", 4e5), ("rack.json", 4e5)]
)
def test_the_files_stay_small(file: str, limit: float) -> None:
    assert 0 < (DEMO / file).stat().st_size <= limit


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_starts_to_play_before_it_is_read_to_its_end(name: str) -> None:
    data = (DEMO / f"{name}.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
