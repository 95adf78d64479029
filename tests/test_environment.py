"""What is installed is what healthd was made for."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT, *sorted(ROOT.glob("plugins/healthd-*"))]
NAMES = [folder.name if folder != ROOT else "healthd" for folder in FOLDERS]


def test_the_headless_build_of_opencv_is_the_one_that_is_imported() -> None:
    """`ultralytics` brings `opencv-python`, which owns the same folder; see docs/dependencies.md."""
    gui = next(line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line)
    assert gui.split(":")[1].strip() == "NONE"


def test_constraints_name_versions_only_and_no_place_to_get_them_from() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 40
    for pin in pins:
        name, exact = pin.split("==")
        assert name
        assert exact[0].isdigit()
        assert not set(pin) & set("/@:; ")


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_the_licence_is_said_where_the_distribution_is_made(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = "AGPL-3.0-or-later" if folder.name == "healthd-yolo" else "Apache-2.0"
    assert project["license"] == expected
    words = "GNU AFFERO GENERAL PUBLIC LICENSE" if expected.startswith("AGPL") else "Apache License"
    assert words in (folder / "LICENSE").read_text(encoding="utf-8")
    assert version(project["name"])


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_every_direct_dependency_has_its_line_in_the_docs(folder: Path) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    wanted = [*project["dependencies"], *(d for ds in project.get("optional-dependencies", {}).values() for d in ds)]
    for dependency in wanted:
        name = dependency.split(">")[0].split("=")[0].split("<")[0].strip()
        assert name in text, f"{name} has no line in docs/dependencies.md"
