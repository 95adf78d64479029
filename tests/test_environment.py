"""What is installed is what healthd was made for."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT, *sorted(ROOT.glob("plugins/healthd-*"))]
NAMES = [folder.name if folder != ROOT else "healthd" for folder in FOLDERS]

IMPORTED_AS = {"opencv-python-headless": {"cv2"}, "pyyaml": {"yaml"}, "pillow": {"PIL"}}
IMPORTED_AS["pydantic"] = {"pydantic", "pydantic_core"}  # of exactly one version, as pydantic says
NEVER_RUN = {"_typeshed"}


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


def modules_of(requirements: Iterable[str]) -> set[str]:
    names = [re.split(r"[^A-Za-z0-9-]", requirement, maxsplit=1)[0] for requirement in requirements]
    return {module for name in names for module in IMPORTED_AS.get(name, {name.replace("-", "_")})}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether only in a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {inner for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            yield node.module, node in lazy


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_what_is_imported_is_declared_and_extras_are_imported_where_they_are_used(folder: Path) -> None:
    """Here everything is installed, so that a dependency that is missing in `pyproject.toml` fails nothing else."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = folder / project["name"].replace("-", "_")
    declared = modules_of(project["dependencies"]) | sys.stdlib_module_names | {package.name}
    optional = project.get("optional-dependencies", {})
    extras = modules_of(name for extra, names in optional.items() if extra != "dev" for name in names)
    found = [(path, *one) for path in package.rglob("*.py") for one in imports(path)]
    at_once = {name for _, name, lazy in found if not lazy}
    for path, name, lazy in found:
        top = name.partition(".")[0]
        here = ".".join(path.relative_to(folder).with_suffix("").parts)
        if top in declared | NEVER_RUN or (top == "pytest" and "testing" in path.parts):  # whose users have pytest
            continue
        assert top in extras, f"{here} imports {name}, which no dependency brings"
        assert lazy or here not in at_once, f"{here} imports {name} of an extra, and is itself imported by all"
