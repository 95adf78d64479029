"""What every test of the plugin may use: real weights, real frames, exports made on the spot."""

import importlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from healthd.frames import Image
from healthd.models.model import Model, ModelSpec
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions

ROOT = Path(__file__).resolve().parents[3]

Load = Callable[..., Model]
Export = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled models of the tests go where the tests' other files go, in the daemons they start as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real weights and clips; the test is skipped where they are absent."""
    folder = Path(os.environ.get("HEALTHD_TEST_ASSETS", ROOT.parent / "shared" / "assets"))
    if not (folder / "weights").is_dir():
        pytest.skip(f"no real weights: set HEALTHD_TEST_ASSETS (looked in {folder.name}/ beside the repository)")
    return folder


@pytest.fixture(scope="session")
def weights(assets: Path) -> Path:
    return assets / "weights"


@pytest.fixture(scope="session")
def vendor() -> Any:
    """ultralytics, imported as the plugin does it; the test is skipped without the extra."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("the extra healthd-yolo[ultralytics] is not installed")
    return importlib.import_module("healthd_yolo.ultralytics_model")._ultralytics()


@pytest.fixture(scope="session")
def pictures(vendor: Any) -> dict[str, Image]:
    """The two pictures that ultralytics brings along."""
    folder = Path(vendor.__file__).parent / "assets"
    return {name: _read(folder / f"{name}.jpg") for name in ("bus", "zidane")}


@pytest.fixture(scope="session")
def clip_frames(assets: Path) -> list[Image]:
    """Fifty frames, evenly from the real clips."""
    clips = sorted((assets / "clips").glob("*.mp4"))
    return [frame for turn, clip in enumerate(clips) for frame in _frames(clip, 50 // 6 + (turn < 50 % 6))]


@pytest.fixture(scope="session")
def images(pictures: dict[str, Image], clip_frames: list[Image]) -> list[Image]:
    """Every fifth of the pictures and frames; all of them with `HEALTHD_ALL_FRAMES=1`."""
    return [*pictures.values(), *clip_frames][:: 1 if os.environ.get("HEALTHD_ALL_FRAMES") else 5]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a model file as the family does, in f32 unless told: `load(path, engine="openvino", ...)`.

    What was compiled is kept for the session, as it is for the next start, unless a test brings a `cache` of its own.
    """
    kept = tmp_path_factory.mktemp("kept")

    def load_model(path: Path, *, cache: Path = kept, **options: Any) -> Model:
        found = path if path.exists() else None
        wishes = YoloModelOptions(**{"precision": "f32", **options})
        spec = ModelSpec(path.name, found, path.parent, wishes, cache_directory=cache, cache_max_bytes=1 << 30)
        return YoloFamily().load(spec)

    return load_model


@pytest.fixture(scope="session")
def export(weights: Path, vendor: Any, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a real `.pt` once per session: `export("yolo26n-pose", nms=False)` returns the file or folder."""
    pytest.importorskip("onnx", reason="exports need onnx")
    made: dict[str, Path] = {}

    def export_model(name: str, **arguments: Any) -> Path:
        key = "_".join([name, *(f"{word}{value}" for word, value in sorted(arguments.items()))])
        if key not in made:
            source = tmp_path_factory.mktemp(key) / f"{name}.pt"
            shutil.copyfile(weights / source.name, source)
            wishes = {"format": "onnx", "simplify": False, **arguments}
            if wishes["format"] != "onnx":
                del wishes["simplify"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's tracer warns of itself
                made[key] = Path(vendor.YOLO(str(source)).export(verbose=False, **wishes))
        return made[key]

    return export_model


def _read(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None, path
    return image.astype(np.uint8, copy=False)


def _frames(clip: Path, count: int) -> list[Image]:
    capture = cv2.VideoCapture(str(clip))
    try:
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = {int((turn + 0.5) * total / count) for turn in range(count)}
        frames = []
        for number in range(max(wanted) + 1):
            assert capture.grab(), clip
            if number in wanted:
                frames.append(capture.retrieve()[1])
        return frames
    finally:
        capture.release()
