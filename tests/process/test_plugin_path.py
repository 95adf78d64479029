"""docs/plugins.md: from an empty folder to a wheel, word for word; what `plugin new` writes is tried on the way."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest

from tests.serving import free_port

ROOT = Path(__file__).resolve().parents[2]
PATH_TITLE = "From an empty folder to a published plugin"

pytestmark = pytest.mark.process


def blocks(markdown: str, title: str) -> list[tuple[str, str]]:
    """The code blocks of one section: language and text."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", markdown, flags=re.MULTILINE | re.DOTALL)
    assert section, title
    return re.findall(r"^```(\w+)\n(.*?)^```", section[1], flags=re.MULTILINE | re.DOTALL)


def script(of: list[tuple[str, str]], *, port: int) -> str:
    """The commands in their order; a block that begins with the name of a file is that file."""
    lines = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for language, text in of:
        if language == "sh":
            commands = text.replace("\\\n", " ").splitlines()
            lines += [f"echo $SECONDS s {shlex.quote('## ' + command)}\n{command}" for command in commands]
        else:
            name, _, content = text.partition("\n")
            assert name.startswith("# "), name
            lines.append(f"cat > {shlex.quote(name[2:])} <<'END OF FILE'\n{content}END OF FILE")
    return "\n".join([*lines, "wait"]).replace("127.0.0.1:8080", f"127.0.0.1:{port}")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The index of packages is what is installed here, and the new environment sees it."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("healthd", "pytest", "mypy"):  # as pip would have written them into the new environment
        (scripts / name).write_text(f'#!/bin/sh\nexec python -m {name} "$@"\n')
        (scripts / name).chmod(0o755)
    here = [ROOT, *(path for path in sys.path if Path(path).is_dir())]
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HEALTHD_", "PIP_", "PYTEST_"))},
        "PATH": os.pathsep.join([str(scripts), os.environ["PATH"], str(Path(sys.executable).parent)]),
        "PYTHONPATH": os.pathsep.join(map(str, here)),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this as: no isolation
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.mark.timeout(600)
def test_the_ten_minutes_of_the_document_work_word_for_word(tmp_path: Path, environment: dict[str, str]) -> None:
    place = tmp_path / "an empty folder"
    place.mkdir()
    port = free_port()
    text = script(blocks((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), PATH_TITLE), port=port)
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=place,
        env={**environment, "HEALTHD_SERVER__PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "14 passed, 0 failed, 2 skipped" in done.stdout
    project = place / "healthd-clock-face"
    shown = cv2.imread(str(project / "card.jpg"))
    assert shown is not None
    assert shown.shape == (240, 320, 3)
    (wheel,) = (project / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        points = packed.read("healthd_clock_face-0.1.0.dist-info/entry_points.txt").decode()
    assert {"healthd_clock_face/source.py", "healthd_clock_face/py.typed"} <= names
    assert "clock-face = healthd_clock_face.source:ClockFaceCamera" in points
