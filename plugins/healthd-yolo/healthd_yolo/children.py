"""Work that happens in a process of its own, because it needs torch, or gigabytes, or may crash.

The child is `healthd_yolo.prepare_child`. It gets one task as a line of JSON, tells its progress in lines of JSON, and
ends when its input does: a parent that was killed leaves nobody behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from healthd.errors import ModelError, SettingsError
from healthd.models.prepare import PrepareProgress

LOG = "last-child.log"
_OUT_OF_MEMORY = "out of memory?"


def in_child(
    task: str, arguments: Mapping[str, Any], *, folder: Path, lock: int, progress: PrepareProgress
) -> Mapping[str, Any]:
    """Run a task of `prepare_child` in a process of its own and return its answer; blocking.

    Args:
        task: name of the function.
        arguments: its keyword arguments, as JSON knows them.
        folder: for its temporary files and its log.
        lock: descriptor of a lock that must hold until the process is gone.
        progress: who hears how far it is.

    Raises:
        SettingsError, ModelError, OSError: what the task raised, or that the process died.
    """
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "healthd_yolo.prepare_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(folder),
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C in a terminal is for us; we end the child
        )
    try:
        return _talk(child, json.dumps({"task": task, "arguments": arguments}), folder / LOG, progress)
    finally:
        _end(child)


def _talk(child: "subprocess.Popen[bytes]", order: str, log: Path, progress: PrepareProgress) -> Mapping[str, Any]:
    if child.stdin is None or child.stdout is None:
        raise AssertionError("both were asked for")
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit says why
        child.stdin.write(order.encode() + b"\n")
        child.stdin.flush()
    for line in child.stdout:
        said = json.loads(line)
        if "progress" in said:
            progress.advance(*said["progress"])
        elif "answer" in said:
            answer: Mapping[str, Any] = said["answer"]
            return answer
        elif said["kind"] == "system":
            raise OSError(said["errno"], said["error"])
        else:
            raise (SettingsError if said["kind"] == "settings" else ModelError)(said["error"])
    code = child.wait()
    raise ModelError(f"the process that did it died ({_cause(code)}): {_last_line(log)}")


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill it, and what it started; what it left unfinished does not count."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _environment(folder: Path) -> dict[str, str]:
    """Return ours, so that it imports what we import, with its temporary files in a folder that is cleared by us."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    found = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)  # noqa: PTH100  pathlib resolves links
    return {
        # torch's threads wait for each other by spinning: beside other work a picture then takes seconds, not 0.1
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "TMPDIR": str(temporary.absolute()),
        "PYTHONPATH": found,
    }


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, {_OUT_OF_MEMORY}" if -code == signal.SIGKILL else name


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
