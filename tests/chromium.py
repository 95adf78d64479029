"""A real browser without a window, told what to do over the DevTools protocol on a pipe: no package is needed."""

import base64
import contextlib
import itertools
import json
import os
import queue
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--remote-debugging-pipe",
    "--window-size=800,600",
)
START_SECONDS = 60.0


class Chromium:
    """A browser with a profile of its own. Lives as long as the block; skips where there is none."""

    def __init__(self, *flags: str) -> None:
        self._flags = (*FLAGS, *flags)

    def __enter__(self) -> Self:
        found = [path for name in NAMES if (path := shutil.which(name))]
        if not found:
            pytest.skip(f"no browser on this machine: {', '.join(NAMES)}")
        self._profile = tempfile.TemporaryDirectory(prefix="healthd-chromium-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'  # the two that the protocol is spoken on
        self._process = subprocess.Popen(
            ["sh", "-c", command, "sh", found[0], *self._flags, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=theirs_in,
            stdout=theirs_out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        """What it told without being asked, of the domains that were enabled."""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, name="chromium", daemon=True)
        self._reader.start()
        try:
            self.call("Browser.getVersion", seconds=START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close", seconds=5)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait(timeout=10)
        self._closing.set()
        self._reader.join(timeout=10)
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, *, session: str | None = None, seconds: float = 20.0, **params: Any) -> dict[str, Any]:
        """Ask for something and return the result."""
        number = next(self._numbers)
        answer = self._answers[number] = queue.SimpleQueue()
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        try:
            found = answer.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"{method}: the browser has not answered within {seconds:g} s") from None
        finally:
            del self._answers[number]
        assert "error" not in found, f"{method}: {found['error']}"
        result: dict[str, Any] = found["result"]
        return result

    def tab(self, url: str, *, enable: Sequence[str] = ()) -> "Tab":
        """Open a page; `enable`: domains of the protocol whose events are wanted."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        for domain in enable:
            tab.call(f"{domain}.enable")
        tab.call("Page.navigate", url=url)
        return tab

    def _read(self) -> None:
        data = b""
        while not self._closing.is_set():
            if not select.select([self._in], [], [], 0.1)[0]:
                continue
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                return
            *messages, data = (data + chunk).split(b"\0")
            for message in map(json.loads, messages):
                waiting = self._answers.get(message.get("id", 0))
                if waiting is not None:
                    waiting.put(message)
                elif "method" in message:
                    self.events.append(message)


class Tab:
    """One page of the browser."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def events(self, method: str) -> list[dict[str, Any]]:
        """What this page has told of itself."""
        mine = (event for event in self._browser.events if event.get("sessionId") == self._session)
        return [event["params"] for event in mine if event["method"] == method]

    def press(self, key: str, *, text: str = "", code: int = 0) -> None:
        """Press a key on whatever has the focus."""
        parts = {"key": key, "code": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **parts)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parts)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in a field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=[str(path)])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something of this page."""
        return self._browser.call(method, session=self._session, **params)

    def run(self, script: str) -> Any:
        """Run a script, wait for its promise, and return its value."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> np.ndarray:
        """What is on the screen, a pixel for a pixel."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image

    def close(self) -> None:
        """Close the page, as its user does."""
        self._browser.call("Target.closeTarget", targetId=self._target)
