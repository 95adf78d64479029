"""The real daemon as closed as the chart runs it: another user, no capabilities, a read-only file system.

`deploy/docker/check.sh` does the same with what the Dockerfile installs; this takes the Python that is at hand.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.test_chart import PASSWORDS, config
from tests.deploy.tools import rendered
from tests.process.daemon import Daemon, until

CLOSED = """set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /var/lib
install -d -o 10001 -g 10001 /var/lib/healthd/models /var/lib/healthd/state
install -d /var/lib/healthd/python
printf %s "$CONFIG" > /var/lib/healthd/config.toml
home=$(getent passwd 0 | cut -d: -f6)
case "$PYTHON_PREFIX" in "$home"/*) # a Python in a home where nobody else may go
  mount --bind "$PYTHON_PREFIX" /var/lib/healthd/python
  mount -t tmpfs -o mode=755 tmpfs "$home"
  mkdir -p "$PYTHON_PREFIX"
  mount --move /var/lib/healthd/python "$PYTHON_PREFIX";;
esac
mount -o remount,ro,bind /
cd /var/lib/healthd
unset CONFIG
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
PREFIX = ("unshare", "--mount", "sh", "-c", CLOSED, "closed")


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """What the closed room needs to know; skip where there can be none."""
    found = {"CONFIG": "", "PYTHON_PREFIX": sys.base_prefix, "HOME": "/var/lib/healthd/state"}
    if not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        pytest.skip("no unshare, setpriv or mount on this machine: apt-get install util-linux")
    probe = [sys.executable, "-c", f"import sys, healthd; sys.exit(sys.base_prefix != {sys.base_prefix!r})"]
    tried = subprocess.run([*PREFIX, *probe], env={**os.environ, **found}, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this machine permits no closed room, or user 10001 cannot read Python: {tried.stderr.strip()}")
    return found


@pytest.mark.process
def test_another_user_on_a_read_only_file_system_watches_a_camera(variables: dict[str, str], tmp_path: Path) -> None:
    """The demo's camera and model under the chart's configuration; only the chart's volumes may be written to."""
    demo = Path(pytest.importorskip("healthd_yolo").__file__).parent / "demo"
    camera = {
        "plugin": "yolo-pose",
        "url": str(demo / "gym.mp4"),
        "options": {"model": str(demo / "gym-pose.onnx"), "realtime": True, "loop": True},
    }
    here = {"HEALTHD_SERVER__HOST": "127.0.0.1", "HEALTHD_SERVER__PORT": "0", "HEALTHD_AUTH__MODE": "none", **PASSWORDS}
    here |= variables | {"CONFIG": config(rendered({"cameras": {"gym": camera}}))}
    arguments = ["run", "--config", "/var/lib/healthd/config.toml"]
    with Daemon(tmp_path, arguments=arguments, plugins=[], prefix=PREFIX, **here) as daemon:
        daemon.until_state("gym", "live", seconds=60)
        until(lambda: daemon.camera("gym")["predicted_fps"] > 0, seconds=60, what=daemon.story)
        status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="utf-8")
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nCapBnd:\t0000000000000000\n" in status
        room = Path(f"/proc/{daemon.pid}/root")
        assert list((room / "var/lib/healthd/state/cache/compiled").iterdir()), "compiled models are kept"
        (root,) = [
            line.split()[5].split(",")
            for line in Path(f"/proc/{daemon.pid}/mountinfo").read_text(encoding="utf-8").splitlines()
            if line.split()[4] == "/"
        ]
        assert "ro" in root
        assert daemon.errors() == []
        assert daemon.stop()[0] == 0
