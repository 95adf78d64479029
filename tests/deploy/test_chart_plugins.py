"""The init containers of the chart, run: plugins come from wheels on a claim, offline, beside what the image has."""

import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.tools import ROOT, one, rendered

pytestmark = pytest.mark.process

NO_INDEX = "http://127.0.0.1:1/"
SHOP = """
import contextlib
from healthd.cameras.source import CameraSource

class Shop(CameraSource):
    contract = 1

    @contextlib.contextmanager
    def camera(self):
        yield lambda: None
"""


def wheel(folder: Path, name: str, *requirements: str, code: str = "") -> None:
    """Write a wheel of version 1.2: with code, that of a plugin."""
    info = f"{name}-1.2.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    written = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[healthd.camera_sources]\nshop = {name}:Shop\n" if code else "",
    }
    with zipfile.ZipFile(folder / f"{name}-1.2-py3-none-any.whl", "w") as archive:
        for path, text in [*written.items(), (f"{info}/RECORD", "".join(f"{path},,\n" for path in written))]:
            archive.writestr(path, text)


class Pod:
    """The places that its containers know, in a folder; the image is the environment of these tests."""

    def __init__(self, folder: Path) -> None:
        self.places = {
            "/var/lib/healthd/plugins": folder / "plugins",
            "/wheels": folder / "wheels",
            "/usr/local/share/healthd/installed.txt": folder / "installed.txt",
            "/etc/healthd/config.toml": folder / "config.toml",
        }
        self.plugins, self.wheels, installed, self.config = self.places.values()
        self.wheels.mkdir()
        installed.write_text(f"healthd=={version('healthd')}\nnumpy=={version('numpy')}\n", encoding="utf-8")
        beside = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        # What a virtual environment in the image would see of it by --system-site-packages, one of a test does not.
        seen = f"{ROOT}:{sysconfig.get_path('purelib')}"
        self.environment = {"HOME": str(folder), "PATH": beside, "PYTHONPATH": seen, "ADMIN_API_KEY": "k" * 40}
        self.environment |= {"PIP_INDEX_URL": NO_INDEX, "PIP_RETRIES": "0"}

    def run(self, container: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run the command of a container to its end."""
        command = []
        for word in container["command"]:
            for there, here in self.places.items():
                word = word.replace(there, str(here))  # noqa: PLW2901
            command.append(word)
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.wheels,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )


def containers(*plugins: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the two init containers for some plugins, and the configuration they look at."""
    values = {"plugins": {"pip": [*plugins], "wheelsClaim": "wheels"}, "cameras": {"till": {"plugin": "shop"}}}
    objects = rendered(values)
    install, check = one(objects, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    (config,) = [item["data"]["config.toml"] for item in objects.values() if "config.toml" in item.get("data", {})]
    return install, check, config


def test_a_plugin_is_installed_from_a_claim_and_then_the_configuration_is_right(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    wheel(pod.wheels, "healthd_shop", "healthd", "numpy", code=SHOP)
    wheel(pod.wheels, "numpy")  # another one than the image has
    install, check, config = containers("healthd-shop==1.2")
    pod.config.write_text(config, encoding="utf-8")
    done = pod.run(install)
    assert done.returncode == 0, done.stderr
    assert NO_INDEX not in done.stdout + done.stderr, "nothing is asked but the claim"
    assert [path.name for path in pod.plugins.glob("lib/python3*/site-packages/*.dist-info")] == [
        "healthd_shop-1.2.dist-info"
    ]
    assert "include-system-site-packages = true" in (pod.plugins / "pyvenv.cfg").read_text(encoding="utf-8")
    told = pod.run(check)
    assert told.returncode == 0, told.stderr
    assert "1 camera" in told.stdout


def test_a_plugin_that_wants_another_version_than_the_image_has_is_refused_with_the_reason(tmp_path: Path) -> None:
    pod = Pod(tmp_path)
    wheel(pod.wheels, "healthd_shop", "numpy==1.2", code=SHOP)
    wheel(pod.wheels, "numpy")
    done = pod.run(containers("healthd-shop")[0])
    assert done.returncode != 0
    assert "numpy==1.2" in done.stdout
    assert "conflicting dependencies" in done.stderr
