"""The second half of check.sh: what the chart does, as user 10001 on a read-only file system."""

import os
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

WORK = Path(os.environ["WORK"])
SHARE = WORK / "usr" / "share" / "healthd"
CONFIG = Path("/tmp/config.toml")  # noqa: S108  a tmpfs of our own
PLUGINS = Path("/var/lib/healthd/plugins")
PYTHON = [sys.executable, "-m", "healthd"]


def run(*command: object) -> str:
    """Run a command to its end; leave when it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def expect(condition: object, what: str) -> None:
    """Leave unless the condition holds."""
    if not condition:
        sys.exit(f"not so: {what}")
    print(f"ok: {what}", flush=True)  # noqa: T201


def main() -> None:
    """Check what the image promises."""
    expect(
        os.getuid() == 10001 and "CapBnd:\t0000000000000000" in Path("/proc/self/status").read_text("utf-8"), "a user"
    )
    for place in ("/", "/etc", WORK, Path.cwd()):
        try:
            Path(place, "healthd-was-here").touch()
        except OSError:
            continue
        sys.exit(f"{place} can be written to")
    text = (WORK / "src" / "deploy" / "docker" / "config.toml").read_text("utf-8").replace("0.0.0.0", "127.0.0.1")
    keys = '\n[[auth.keys]]\nname = "admin"\nkey = "${ADMIN_API_KEY}"\nscope = "admin"\n'
    CONFIG.write_text(text + keys + "[cameras.shop]\nplugin = 'shop'\n", "utf-8")
    bad = subprocess.run([*PYTHON, "check-config", "--config", CONFIG], capture_output=True, text=True, check=False)  # noqa: S603
    expect(bad.returncode == 2 and "shop" in bad.stderr, "check-config names a plugin that is not installed")

    wheel()
    run(sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", PLUGINS)
    python = PLUGINS / "bin" / "python"
    arguments = ["--no-cache-dir", "--disable-pip-version-check", "--constraint", SHARE / "installed.txt"]
    offline = ["--no-index", "--find-links", "/tmp"]  # noqa: S108
    run(sys.executable, "-m", "pip", "--python", python, "install", *arguments, *offline, "healthd-shop==1.2")
    installed = sorted(path.name for path in PLUGINS.glob("lib/python3*/site-packages/*.dist-info"))
    expect(
        installed == ["healthd_shop-1.2.dist-info"], "a plugin comes from a wheel, offline, and brings nothing twice"
    )
    expect("1 camera" in run(python, "-m", "healthd", "check-config", "--config", CONFIG), "check-config knows it now")

    begun = time.monotonic()
    with subprocess.Popen([python, "-m", "healthd", "run", "--config", CONFIG]) as daemon:  # noqa: S603
        while subprocess.run([sys.executable, SHARE / "alive.py", CONFIG], capture_output=True, check=False).returncode:  # noqa: S603
            expect_running(daemon, begun)
        with urllib.request.urlopen("http://127.0.0.1:8080/readyz", timeout=30) as answer:
            expect(answer.status == 200, f"ready after {time.monotonic() - begun:.1f} s")
        daemon.terminate()
        expect(daemon.wait(timeout=30) == 0, "it stops with exit code 0")


def expect_running(daemon: subprocess.Popen[bytes], begun: float) -> None:
    """Leave when the daemon has ended, or has not answered for two minutes."""
    if daemon.poll() is not None or time.monotonic() - begun > 120:
        sys.exit("healthd does not answer")
    time.sleep(0.2)


def wheel() -> None:
    """Write the wheel of a plugin: a camera that shows one grey."""
    code = """import contextlib, time, numpy
from healthd.cameras.source import CameraSource

class Shop(CameraSource):
    contract = 1

    @contextlib.contextmanager
    def camera(self):
        def read():
            time.sleep(0.1)
            return numpy.full((48, 64, 3), int(time.time()) % 256, numpy.uint8)
        yield read
"""
    info = "healthd_shop-1.2.dist-info/"
    files = {
        "healthd_shop.py": code,
        info + "METADATA": "Metadata-Version: 2.1\nName: healthd-shop\nVersion: 1.2\nRequires-Dist: healthd\n",
        info + "WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "entry_points.txt": "[healthd.camera_sources]\nshop = healthd_shop:Shop\n",
    }
    files[info + "RECORD"] = "".join(f"{name},,\n" for name in [*files, info + "RECORD"])
    with zipfile.ZipFile("/tmp/healthd_shop-1.2-py3-none-any.whl", "w") as archive:  # noqa: S108
        for name, text in files.items():
            archive.writestr(name, text)


if __name__ == "__main__":
    main()
