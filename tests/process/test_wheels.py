"""Wheels, built and installed by pip into a clean environment: ours complete, others' upgraded and taken away."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemon import TESTS, Daemon, environment

ROOT = TESTS.parent
PLUGINS = ("healthd-faults", "healthd-snapshot-url", "healthd-yolo")
OURS = {"healthd": ROOT, **{name.replace("-", "_"): ROOT / "plugins" / name for name in PLUGINS}}
THEIRS = {name: TESTS / "wheel_plugins" / name for name in ("healthd-acme-steps", "healthd-acme-eyes")}
CAMERAS = {
    "steps": {"plugin": "acme-steps", "frozen_after_seconds": 0},
    "eyes": {"plugin": "acme-eyes"},
}

pytestmark = pytest.mark.process


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = environment()
    del variables["PYTHONPATH"]
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def pip(*arguments: object, folder: Path) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


class Shelf:
    """A folder of wheels, all built without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, *projects: Path) -> list[Path]:
        """Build a wheel of each; return those that are new."""
        known = set(self.folder.glob("*.whl"))
        options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", self.folder)
        pip("wheel", *options, *projects, folder=self.folder)
        return sorted(set(self.folder.glob("*.whl")) - known)

    def build_version(self, name: str, version: str, **replaced: str) -> Path:
        """Build another version of one of the plugins, with some of its text replaced."""
        project = Path(shutil.copytree(THEIRS[name], self.folder / f"{name}-{version}"))
        for file in (project / "pyproject.toml", project / f"{name.replace('-', '_')}.py"):
            text = file.read_text(encoding="utf-8").replace('version = "1.0"', f'version = "{version}"')
            for new, old in replaced.items():
                text = text.replace(old, new)
            file.write_text(text, encoding="utf-8")
        (wheel,) = self.build(project)
        return wheel


class Environment:
    """A virtual environment without healthd. What healthd needs is found where these tests find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
        assert made.returncode == 0, made.stderr
        self.python = folder / "venv" / "bin" / "python"
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        # Python reads no .pth files of a folder that a .pth file names: what is installed there as editable stays out.
        (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def install(self, *wheels: Path) -> None:
        """Install wheels and nothing else."""
        pip("--python", self.python, "install", "--no-deps", "--no-index", "--upgrade", *wheels, folder=self.folder)

    def uninstall(self, name: str) -> None:
        pip("--python", self.python, "uninstall", "--yes", name, folder=self.folder)

    def healthd(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end, by the command that the wheel brings."""
        return run(self.python.with_name("healthd"), *arguments, folder=self.folder)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    pytest.importorskip("hatchling", reason="the wheels cannot be built: pip install hatchling")
    folder = Shelf(tmp_path_factory.mktemp("wheels"))
    folder.build(*OURS.values(), *THEIRS.values())
    return folder


def test_the_wheels_hold_every_file_of_their_packages(shelf: Shelf) -> None:
    for package, project in OURS.items():
        (wheel,) = shelf.folder.glob(f"{package}-[0-9]*.whl")
        packed = set(zipfile.ZipFile(wheel).namelist())
        here = {
            path.relative_to(project).as_posix()
            for path in (project / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert f"{package}/py.typed" in here
        assert here - packed == set()
        assert {name for name in packed if ".dist-info/" not in name} - here == set()
    assert {"healthd/web/index.html", "healthd/web/panel.html"} <= set(
        zipfile.ZipFile(next(shelf.folder.glob("healthd-[0-9]*.whl"))).namelist()
    )
    assert "healthd_yolo/demo/gym-pose.onnx" in packed


@pytest.mark.timeout(300)  # three daemons, and pip a dozen times
def test_plugins_are_installed_upgraded_and_uninstalled_while_the_configuration_names_them(
    shelf: Shelf, tmp_path: Path
) -> None:
    house = Environment(tmp_path)
    house.install(*shelf.folder.glob("*-[01].*.whl"))
    assert house.healthd("--version").stdout.startswith("healthd ")
    where = run(house.python, "-c", "import healthd, healthd_yolo; print(healthd.__file__)", folder=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path), where.stderr

    demo = run(
        house.python, "-c", "import healthd_yolo.demo as d; print(d.__path__[0])", folder=tmp_path
    ).stdout.strip()
    options = {"model": f"{demo}/gym-pose.onnx", "realtime": True, "loop": True}
    gym = {"plugin": "yolo-pose", "url": f"{demo}/gym.mp4", "options": options}
    stairs = {**CAMERAS["steps"], "options": {"step": 4}}
    with Daemon(tmp_path, {"cameras": {**CAMERAS, "gym": gym, "stairs": stairs}}, python=house.python) as first:
        for name in ("steps", "eyes", "gym", "stairs"):
            first.until_state(name, "live")
            assert first.get(f"/api/v1/cameras/{name}/snapshot").headers["content-type"] == "image/jpeg"
        first.until_ready()
        assert first.get("/api/v1/cameras/eyes/prediction").json()["results"][0]["class_name"] == "thing"
        assert first.get("/admin").status_code == 200
        before = plugins(first)
        assert before["acme-steps"]["version"] == "1.0"
        assert list(before["acme-steps"]["settings"]["properties"]) == ["step"]
        for name in ("acme-steps", "acme-eyes", "yolo-pose", "snapshot-url", "faults"):
            assert (before[name]["state"], before[name]["notes"]) == ("loaded", [])

        # Upgraded below a running daemon, which goes on with what it has imported; so do the sessions that are open.
        house.install(
            shelf.build_version("healthd-acme-steps", "2.0", **{"stride: int": "step: int", ".stride": ".step"}),
            shelf.build_version("healthd-acme-eyes", "3.0", **{"contract = 2": "contract = 1"}),
        )
        seen = first.camera("steps")["frame_id"]
        assert plugins(first)["acme-steps"] == before["acme-steps"]
        assert first.camera("steps")["state"] == "live"
        assert first.camera("steps")["frame_id"] >= seen
        # A new session imports what is there now: what no longer fits the daemon is told, with the remedy.
        remedy = "written for contract 2, this healthd speaks contract 1: upgrade healthd"
        for name, state, told in (("eyes", "reconnecting", remedy), ("stairs", "failed", "step: unknown key")):
            first.client.post(f"/api/v1/cameras/{name}/restart").raise_for_status()
            reason = first.until_state(name, state)["reason"]
            assert told in reason
            assert "restart healthd" in reason
        assert first.stop()[0] == 0

    with Daemon(tmp_path, {"cameras": CAMERAS}, python=house.python) as second:
        second.until_state("steps", "live")
        listed = plugins(second)
        assert listed["acme-steps"]["version"] == "2.0"
        assert list(listed["acme-steps"]["settings"]["properties"]) == ["stride"]
        assert (listed["acme-eyes"]["state"], listed["acme-eyes"]["version"]) == ("broken", "3.0")
        assert listed["acme-eyes"]["reason"] == remedy
        assert remedy in second.until_state("eyes", "failed")["reason"]
        assert second.stop()[0] == 0

    house.uninstall("healthd-acme-steps")
    with Daemon(tmp_path, {"cameras": CAMERAS}, python=house.python) as third:
        gone = third.until_state("steps", "failed")["reason"]
        assert gone.startswith("no plugin `acme-steps` is installed (installed: ")
        assert gone.endswith("pip install the distribution that brings it")
        assert third.get("/healthz").status_code == 200
        assert third.stop()[0] == 0
    told_before = house.healthd("check-config", "--config", "config.toml")
    assert told_before.returncode == 2
    assert f"cameras.steps: {gone}" in told_before.stderr
    assert f"cameras.eyes: plugin `acme-eyes` (healthd-acme-eyes 3.0) is broken: {remedy}" in told_before.stderr


def plugins(daemon: Daemon) -> dict[str, dict[str, object]]:
    """Return the camera sources that are listed, by name."""
    listed = daemon.get("/api/v1/plugins").raise_for_status().json()
    return {plugin["name"]: plugin for plugin in listed if plugin["group"] == "healthd.camera_sources"}
