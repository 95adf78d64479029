"""The plugin keeps every rule of the contract of a camera source, at a camera on a real socket."""

from typing import Any

import pytest

from healthd.redact import SourceUrl
from healthd.testing import suites
from healthd.testing.case import SourceCase


class TestSnapshotUrl(suites.SourceConformance):
    @pytest.fixture
    def case(self, camera: Any) -> Any:
        return SourceCase("snapshot-url", url=SourceUrl(camera.url), options={"interval_seconds": 0.1}, fps=10)
