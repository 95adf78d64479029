"""`healthd plugin new`: what cannot be a plugin is refused before a file is written, and the wheel has the templates.

What is written passes ruff and mypy as it is. That it passes its own tests is shown by
tests/process/test_plugin_path.py, which then writes a camera of its own in its place.
"""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from healthd import __version__
from healthd.plugin_project import write_project

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "cannot be the name of a plugin"),
        ("BarnDoor", "a letter first, e.g. barn-door"),
        ("barn_door", "e.g. barn-door"),
        ("2nd", "cannot be the name of a plugin"),
        ("../evil", "e.g. evil"),
        ("barn-", "e.g. barn"),
        ("b" * 41, "40 at most"),
        ("sc\u00e8ne", "cannot be the name of a plugin"),
        ("yolo-pose", "`yolo-pose` is a plugin of healthd-yolo, which is installed: take another name"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(
    name: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_project(name, tmp_path) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "healthd-barn").mkdir()
    assert write_project("barn", tmp_path) == 2
    assert "is there already: take another name, or another --directory" in capsys.readouterr().err
    assert list((tmp_path / "healthd-barn").iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert write_project("barn", tmp_path / "file") == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["source", "true", "image", "healthd-barn-door", "x"])
def test_whatever_it_is_called_its_files_are_sound(name: str, tmp_path: Path) -> None:
    """Also where the name is a word of Python, or of healthd."""
    assert write_project(name, tmp_path) == 0
    plugin = name.removeprefix("healthd-")
    folder = tmp_path / f"healthd-{plugin}"
    module = f"healthd_{plugin.replace('-', '_')}"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *(".gitignore", "README.md", "pyproject.toml", "tests/test_source.py"),
        *(f"{module}/{file}" for file in ("__init__.py", "py.typed", "source.py")),
    }
    for path in folder.rglob("*.py"):
        compile(path.read_text(), path, "exec")
    assert not [path for path in folder.rglob("*") if path.is_file() and "{{" in path.read_text()]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][0] == f"healthd>={__version__}"
    (target,) = project["entry-points"]["healthd.camera_sources"].values()
    assert f"class {target.partition(':')[2]}(CameraSource)" in (folder / module / "source.py").read_text()
    assert "contract = 1" in (folder / module / "source.py").read_text()


def test_what_is_written_passes_ruff_and_mypy_whatever_length_its_name_has(tmp_path: Path) -> None:
    names = ("x", "garage-thermal-camera", "b" * 40)
    for name in names:
        assert write_project(name, tmp_path) == 0
        for tool in (["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"]):
            passes(*tool, folder=tmp_path / f"healthd-{name}")
    passes("mypy", "--cache-dir", str(tmp_path / "cache"), folder=tmp_path / f"healthd-{names[-1]}")


def passes(tool: str, *arguments: str, folder: Path) -> None:
    """Run a tool in a project, where it finds the project's own configuration."""
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{folder.name}: {tool} {' '.join(arguments)}\n{done.stdout}{done.stderr}"


def test_the_wheel_of_healthd_has_the_templates_and_the_fixtures(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        points = packed.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "healthd" / "plugin_template").rglob("*.tpl")}
    assert len(templates) == 7
    assert templates <= names
    assert "[pytest11]\nhealthd = healthd.testing.fixtures" in points
