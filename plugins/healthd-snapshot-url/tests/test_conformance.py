"""The plugin keeps every rule of the contract of a camera source, at a camera on a real socket."""

from typing import Any

import pytest

from healthd.redact import SourceUrl

suites = pytest.importorskip("healthd.testing.suites")


class TestSnapshotUrl(suites.SourceConformance):
    @pytest.fixture
    def case(self, camera: Any) -> Any:
        case = pytest.importorskip("healthd.testing.case").SourceCase
        return case("snapshot-url", url=SourceUrl(camera.url), options={"interval_seconds": 0.1}, fps=10)
