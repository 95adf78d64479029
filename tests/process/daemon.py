"""The real daemon as a process of its own: started, asked over HTTP, stopped, and always cleaned up."""

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

TESTS = Path(__file__).resolve().parent.parent
INSTALLED = TESTS / "faulty_plugin" / "installed"
HANGING = TESTS / "faulty_plugin" / "hanging"
DEMO = TESTS / "faulty_plugin" / "demo"

START_SECONDS = 40.0
"""Generous: the machine may have other things to do."""

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Makes what follows PID 1 of a PID namespace of its own, as in a container."""


def until(condition: Callable[[], object], *, seconds: float = 20.0, what: object = "the condition") -> Any:
    """Wait until the condition holds and return what it returned; fail after so many seconds.

    `what` says what was waited for; a callable is called when it is too late.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what() if callable(what) else what}: not within {seconds:g} s")
        time.sleep(0.01)
    return found


def to_toml(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested tables as TOML. A JSON text is a TOML text as long as no character is escaped that needs not be."""
    lines, tables = [], []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{key}]\n{to_toml(value, f'{prefix}{key}.')}")
        elif value is not None:
            lines.append(f"{key} = {_inline(value)}\n")
    return "".join([*lines, *tables])


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def environment(plugins: Sequence[Path] = (INSTALLED,), **variables: str) -> dict[str, str]:
    """Return the environment of a daemon: ours without what would change it, with the plugins and variables given.

    It runs the code that lies beside these tests, whatever else is installed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("HEALTHD_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, [TESTS.parent, *plugins])), **variables}


def run_verb(
    *arguments: object, folder: Path, plugins: Sequence[Path] = (INSTALLED,), seconds: float = START_SECONDS, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run `healthd ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "healthd", *map(str, arguments)],
        cwd=folder,
        env=environment(plugins, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )


class Daemon:
    """One run of `healthd`. Lives from `with` to the end of the block, where it is killed if it is still there.

    `settings` become `config.toml` in `folder`, on top of a free port and short bounds; `arguments` replace
    `run --config config.toml`. `as_pid_1`: in a PID namespace of its own. `deaf`: nobody reads its log. `prefix`: a
    command that becomes the daemon. `python`: that of another environment, with the healthd that is installed there.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | str | None = None,
        *,
        arguments: Sequence[object] | None = None,
        plugins: Sequence[Path] = (INSTALLED,),
        as_pid_1: bool = False,
        deaf: bool = False,
        prefix: Sequence[str] = (),
        python: Path | None = None,
        **variables: str,
    ) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        if isinstance(settings, str):
            self.config.write_text(settings, encoding="utf-8")
        elif settings is not None:
            defaults = {"server": {"port": 0}, "shutdown": {"grace_seconds": 1, "drain_seconds": 1}}
            merged = {key: {**defaults.get(key, {}), **settings.get(key, {})} for key in [*defaults, *settings]}
            self.config.write_text(to_toml(merged), encoding="utf-8")
        self._arguments = ["run", "--config", self.config] if arguments is None else arguments
        self._python = python or sys.executable
        self._environment = environment(plugins, **variables)
        if python is not None:
            del self._environment["PYTHONPATH"]
        self._as_pid_1 = as_pid_1
        self._deaf = deaf
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._client: httpx.Client | None = None
        self._pid: int | None = None
        self._closing = threading.Event()
        self.started_at = 0.0

    # -- life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        command = [str(self._python), "-m", "healthd", *map(str, self._arguments)]
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(
            [*self._prefix, *(NAMESPACE if self._as_pid_1 else ()), *command],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        for name in ["stdout"] if self._deaf else self._lines:
            thread = threading.Thread(target=self._collect, args=(name,), daemon=True)
            thread.start()
            self._readers.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
        process = self._running()
        if process.poll() is None:
            for left in self._family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()
            process.kill()
        process.wait(timeout=10)
        for thread in self._readers:
            thread.join(timeout=5)
        if self._deaf and process.stderr is not None:
            process.stderr.close()

    @property
    def pid(self) -> int:
        """PID of the daemon itself, as this process sees it."""
        process = self._running()
        if not self._as_pid_1:
            return process.pid
        if self._pid is None:
            self._pid = until(lambda: self._child_of(process.pid), seconds=10, what="the child of unshare")
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._running().poll()

    def send(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Send a signal to the daemon; return when."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def wait(self, *, seconds: float) -> int:
        """Wait for the end of the daemon and return its exit code; fail after so many seconds."""
        try:
            return self._running().wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"healthd still runs after {seconds:g} s\n{self.story()}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 20.0) -> tuple[int, float]:
        """Send a signal; return the exit code and how many seconds it took."""
        at = self.send(number)
        code = self.wait(seconds=seconds)
        return code, time.monotonic() - at

    def left_behind(self) -> list[str]:
        """Return what still runs in the daemon's session two seconds after its end; at once if nothing does."""
        deadline = time.monotonic() + 2
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def _left(self) -> list[str]:
        mine = self._running().pid
        found = []
        for process in psutil.process_iter(["name", "status"]):
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == mine and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.info['name']}")
        return found

    def close_pipes(self) -> None:
        """Leave, as somebody who has read its output: what it writes from now on meets a broken pipe."""
        self._closing.set()
        for thread in self._readers:
            thread.join(timeout=5)

    def unread_bytes(self) -> int:
        """Return how much of the log of a deaf daemon waits to be read."""
        pipe = self._running().stderr
        assert pipe is not None
        waiting = fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(waiting, sys.byteorder)

    # -- what it says --------------------------------------------------------------------------------------------

    @property
    def stdout(self) -> str:
        """Everything it has written to standard output."""
        return "".join(self._lines["stdout"])

    @property
    def stderr(self) -> str:
        """Everything it has written to standard error: the log."""
        return "".join(self._lines["stderr"])

    def until_read(self, *, seconds: float = 2.0) -> None:
        """Wait, after its end, until all that it has written is read; no longer than so where somebody still writes."""
        for thread in self._readers:
            thread.join(timeout=seconds)

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the log, parsed; of one event, if it is named."""
        parsed = []
        for line in list(self._lines["stderr"]):
            with contextlib.suppress(json.JSONDecodeError):
                found = json.loads(line)
                if isinstance(found, dict) and event in (None, found.get("event")):
                    parsed.append(found)
        return parsed

    def errors(self) -> list[dict[str, Any]]:
        """Return what was logged as an error, or worse."""
        return [event for event in self.events() if event["level"] in {"error", "critical"}]

    def story(self) -> str:
        """Return what it has said, for a failed test."""
        return f"--- stdout\n{self.stdout}--- stderr\n{self.stderr[-6000:]}"

    # -- HTTP ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it is, once it has said so."""

        def said() -> str | None:
            match = re.search(r"^healthd is at (https?://\S+)", self.stdout, re.MULTILINE)
            if match is None and self._running().poll() is not None:
                raise AssertionError(f"healthd ended with {self._running().returncode}\n{self.story()}")
            return match[1] if match else None

        return str(until(said, seconds=START_SECONDS, what=lambda: f"the address of healthd\n{self.story()}"))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def client(self) -> httpx.Client:
        """A client of its own for each daemon."""
        if self._client is None:
            self._client = new_client(self.url)
        return self._client

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        """GET a path. Where no answer comes, the daemon says what all its threads do, and ends."""
        try:
            return self.client.get(path, params=parameters or None)
        except httpx.TimeoutException as exc:
            self.send(signal.SIGABRT)
            self.wait(seconds=10)
            raise AssertionError(f"no answer to {path}: {exc!r}\n{self.story()}") from exc

    def camera(self, name: str) -> dict[str, Any]:
        """Return what the API says of one camera."""
        answer: dict[str, Any] = self.get(f"/api/v1/cameras/{name}").raise_for_status().json()
        return answer

    def until_ready(self, *, seconds: float = START_SECONDS) -> Self:
        """Wait until it is ready."""
        until(lambda: self.get("/readyz").status_code == 200, seconds=seconds, what=lambda: f"ready\n{self._waiting()}")
        return self

    def until_state(self, name: str, *states: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until a camera is in one of these states; return what the API says of it then."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.camera(name))
            return seen["state"] in states

        until(reached, seconds=seconds, what=lambda: f"{name} to be {states}: {seen}\n{self.story()}")
        return seen

    def samples(self, text: str | None = None) -> dict[str, float]:
        """Return `/metrics` (or the text given) as `name{labels}` -> value."""
        text = self.get("/metrics").text if text is None else text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def _waiting(self) -> str:
        return f"{self.get('/api/v1/state').text}\n{self.story()}"

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def _family(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from psutil.Process(self._running().pid).children(recursive=True)

    def _collect(self, name: str) -> None:
        """Read one pipe to its end, or until `close_pipes`."""
        begun = b""
        with getattr(self._running(), name) as pipe:
            while not self._closing.is_set():
                if not select.select([pipe], [], [], 0.1)[0]:
                    continue
                chunk = os.read(pipe.fileno(), 65536)
                *lines, begun = (begun + chunk).split(b"\n")
                self._lines[name] += [line.decode("utf-8", "backslashreplace") + "\n" for line in lines]
                if not chunk:
                    break
        self._lines[name].append(begun.decode("utf-8", "backslashreplace"))

    @staticmethod
    def _child_of(pid: int) -> int | None:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return int(children[0]) if children else None


def new_client(url: str) -> httpx.Client:
    """Return a client that goes straight to this machine."""
    return httpx.Client(base_url=url, timeout=30, trust_env=False)
