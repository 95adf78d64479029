"""Neither engine phones home, writes to the home directory or loads more than it needs; each in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.assets

PROGRAM = """
import json, os, pathlib, socket, sys
from pathlib import Path

calls = []

def watched(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        calls.append([event, repr(arguments)])
    if event == "subprocess.Popen":
        calls.append([event, repr(arguments)])

sys.addaudithook(watched)

import structlog

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # its default is standard output
import healthd_yolo.family, healthd_yolo.model_options, healthd_yolo.sources
light = sorted(name for name in ("openvino", "torch", "ultralytics") if name in sys.modules)

import numpy as np
from healthd.models.model import InferenceParams, ModelSpec
from healthd_yolo.family import YoloFamily
from healthd_yolo.model_options import YoloModelOptions

path = Path(sys.argv[1])
spec = ModelSpec(path.name, path, path.parent, YoloModelOptions(engine=sys.argv[2]))
model = YoloFamily().load(spec)
model.warm_up()
model.predict(np.zeros((72, 128, 3), np.uint8), InferenceParams())
loaded = sorted(name for name in ("openvino", "torch", "ultralytics", "openvino_telemetry") if name in sys.modules)
print(json.dumps({"light": light, "loaded": loaded, "calls": calls}), flush=True)
os._exit(0)  # as the daemon and the processes of models do
"""


def run(path: Path, engine: str, home: Path) -> dict[str, Any]:
    """Load and predict in a fresh process with an empty home, which is its folder for temporary files too."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("YOLO", "XDG", "CI", "MPL"))
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), engine],
        env={**environment, "HOME": str(home), "TMPDIR": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "something else was printed to standard output"
    result: dict[str, Any] = json.loads(lines[0])
    return result


def test_openvino_needs_no_torch_and_no_network_and_leaves_no_file(weights: Path, tmp_path: Path) -> None:
    result = run(weights / "yolo11n.onnx", "auto", tmp_path)
    assert result == {"light": [], "loaded": ["openvino"], "calls": []}
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.usefixtures("vendor")
def test_ultralytics_needs_no_network_and_leaves_no_file(weights: Path, tmp_path: Path) -> None:
    result = run(weights / "yolo11n-pose.pt", "auto", tmp_path)
    assert result["light"] == []
    assert result["loaded"] == ["torch", "ultralytics"]
    assert [call for call in result["calls"] if call[0].startswith("socket.")] == []
    assert list(tmp_path.rglob("*")) == []
