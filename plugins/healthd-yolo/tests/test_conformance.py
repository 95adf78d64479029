"""The plugin keeps the contract: the conformance suite of healthd, with the models and clips that it brings along."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from healthd.frames import Image
from healthd.redact import SourceUrl
from healthd.testing.case import FamilyCase
from healthd.testing.session import opened
from healthd.testing.suites import FamilyConformance, SourceConformance
from healthd_yolo import demo
from healthd_yolo.options import YoloOptions
from healthd_yolo.sources import YoloPose

DEMO = Path(demo.__file__).parent


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled models are kept from one rule to the next."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def someone() -> Image:
    """A frame with somebody in it."""
    source = YoloPose("gym", url=SourceUrl(str(DEMO / "gym.mp4")), options=YoloOptions(model="any.onnx"))
    with opened(source) as session:
        return session.images(30, seconds=5)[-1].image


class TestPose(SourceConformance):
    plugin = "yolo-pose"
    url = str(DEMO / "gym.mp4")
    options: ClassVar[dict[str, Any]] = {"model": str(DEMO / "gym-pose.onnx")}


class TestDetectInRealTime(SourceConformance):
    plugin = "yolo-detect"
    url = str(DEMO / "rack.mp4")
    options: ClassVar[dict[str, Any]] = {"model": str(DEMO / "rack-detect.onnx"), "realtime": True, "loop": True}


class TestFamily(FamilyConformance):
    plugin = "yolo"
    model = str(DEMO / "gym-pose.onnx")

    @pytest.fixture
    def case(self, someone: Image, cache: Path) -> FamilyCase:
        return FamilyCase(self.plugin, model=self.model, picture=someone, cache_directory=cache)
