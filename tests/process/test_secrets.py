"""A password in the configuration is shown by no way out: no log line, no answer, no error, no page."""

import base64
import html
import io
import json
import random
import string
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP
from typing import Any
from urllib.parse import quote, quote_plus

import httpx
import pytest

from tests.process.daemon import Daemon, run_verb, to_toml, until
from tests.rtsp_server import Behaviour, RtspServer

pytestmark = pytest.mark.process

SHORTEST_PART = 4
_CHANCE = random.Random(20261121)  # always the same, so that a failure can be looked at again

SEPARATORS = ["@", "/", "?", "#", "%", "@/?#%", '"', "'", "\\", " ", "é✓", ":", "&=+;", "%4", "-", "@zqx/"]
"""What stands between the parts of a password."""

OTHER_FORMS = ["encoded", "variable", "file", "query"]
"""How a password gets into the configuration, if not raw."""


@dataclass(frozen=True)
class Password:
    """A password that stands nowhere else, in pieces that nobody would write by chance."""

    text: str

    @property
    def parts(self) -> set[str]:
        """Everything that must not be seen: every part of it, and its encoded forms as a whole."""
        windows = {self.text[at : at + SHORTEST_PART] for at in range(len(self.text) - SHORTEST_PART + 1)}
        forms = {quote(self.text, safe=""), quote_plus(self.text), json.dumps(self.text)[1:-1], html.escape(self.text)}
        return windows | forms | {base64.b64encode(f"user:{self.text}".encode()).decode()}


def password(separator: str) -> Password:
    """Three pieces of two upper, a digit and two lower case letters, with the separator in between."""
    pieces = [
        "".join(_CHANCE.sample("GHJKQVWXYZ", 2))
        + _CHANCE.choice(string.digits)
        + "".join(_CHANCE.sample("jkqvwxyz", 2))
        for _ in range(3)
    ]
    return Password(separator.join(pieces))


class Shown:
    """Texts that somebody may see, and which of the passwords can be seen in them."""

    def __init__(self, passwords: list[Password]) -> None:
        self._parts = {part: known for known in passwords for part in known.parts}
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: str) -> None:
        self.texts.append((where, text))

    def leaks(self) -> list[str]:
        """Return where a part of a password stands, with the line."""
        found = []
        for where, text in self.texts:
            for part, known in self._parts.items():
                if part in text:
                    at = text.index(part)
                    found.append(f"{where}: {part!r} of {known.text!r}: {text[max(0, at - 150) : at + 60]!r}")
        return found


class House:
    """A configuration full of passwords, and everything that is needed to write it."""

    def __init__(self, folder: Path, rtsp: RtspServer, *, thorough: bool = False) -> None:
        """`thorough`: each separator in both forms for both kinds of camera, else one for each."""
        self.folder = folder
        self.cameras: dict[str, Any] = {}
        self.passwords: list[Password] = []
        self.variables: dict[str, str] = {}
        self._rtsp = rtsp
        for number, separator in enumerate(SEPARATORS):
            other = OTHER_FORMS[number // 2 % len(OTHER_FORMS)]
            if thorough or number % 2:
                self._add_leaking(separator, "raw")
                self._add_captured(separator, other)
            if thorough or not number % 2:
                self._add_leaking(separator, other)
                self._add_captured(separator, "raw")

    def _add_leaking(self, separator: str, form: str) -> None:
        """A camera whose plugin shouts its URL, in one way or another."""
        number = len(self.cameras)
        ways: list[dict[str, Any]] = [
            {"do": "leak-open"},
            {"do": "leak", "after": 1},
            {"do": "lose-leak", "after": 1},
            {"do": "spew"},
            {"model": "own", "model_do": "leak-load"},
            {"model": "own", "model_do": "leak"},
        ]
        chosen = ways[number // 2 % (len(ways) + 1) - 1]
        raising = number // 2 % (len(ways) + 1) == len(ways)
        self._add(
            "faulty-constructor" if raising else "faulty",
            self._url(separator, form, host="camera.example", path="stream1"),
            {} if raising else {"fps": 4, **chosen},
        )

    def _add_captured(self, separator: str, form: str) -> None:
        """A camera whose host, port or password is wrong."""
        number = len(self.cameras)
        host = ["no-such-host.invalid", "127.0.0.1:9", f"127.0.0.1:{self._rtsp.port}"][number // 2 % 3]
        self._add("faulty-capture", self._url(separator, form, host=host, path="cam"), {})

    def _add(self, plugin: str, url: str, options: dict[str, Any]) -> None:
        self.cameras[f"c{len(self.cameras)}"] = {
            "plugin": plugin,
            "url": url,
            "stall_timeout_seconds": 2,
            "reconnect_max_seconds": 2,
            "options": options,
        }

    def _url(self, separator: str, form: str, *, host: str, path: str) -> str:
        """Return what stands in the file for a URL with a new password."""
        secret = password(separator)
        self.passwords.append(secret)
        number, encoded = len(self.passwords), quote(secret.text, safe="")
        if form == "query":
            return f"rtsp://{host}/{path}?user=viewer&password={encoded}"
        if form == "variable":
            self.variables[f"CAMERA_{number}"] = secret.text
            return f"rtsp://user:${{CAMERA_{number}}}@{host}/{path}"
        if form == "file":
            reference = self.folder / f"url-{number}"
            reference.write_text(f"rtsp://user:{encoded}@{host}/{path}\n", encoding="utf-8")
            return f"file:{reference}"
        written = encoded if form == "encoded" else secret.text.replace("${", "$${")
        return f"rtsp://user:{written}@{host}/{path}"


RIGHT = Password("QZ7kw@VX3jq/HJ5vz")
"""The password of the camera that can be opened."""

KEY = Password("WK4xj-GV8qk-YQ6zw-HX2vj")
"""The API key."""


@pytest.fixture(scope="module")
def rtsp() -> Iterator[RtspServer]:
    with RtspServer(behaviour=Behaviour(credentials=("user", RIGHT.text))) as server:
        yield server


@pytest.fixture(scope="module", params=["json", pytest.param("console", marks=pytest.mark.thorough)])
def shown(
    request: pytest.FixtureRequest, rtsp: RtspServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Shown]:
    """Run a daemon with all these cameras at log level debug, ask it everything, and keep every word it said."""
    folder = tmp_path_factory.mktemp("secrets")
    house = House(folder, rtsp, thorough=request.param == "console")
    house.cameras["right"] = {"plugin": "faulty-capture", "url": rtsp.url}
    settings = {
        "auth": {"keys": [{"name": "me", "key": KEY.text, "scope": "admin"}]},
        "server": {"port": 0},
        "shutdown": {"grace_seconds": 1, "drain_seconds": 1},
        "cameras": house.cameras,
    }
    config = folder / "config.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    arguments = ["run", "--config", config, "--log-level", "debug", "--log-format", request.param]
    seen = Shown([*house.passwords, RIGHT, KEY])
    with Daemon(folder, arguments=arguments, **house.variables) as daemon:
        daemon.client.headers["X-Api-Key"] = KEY.text
        daemon.until_state("right", "live", seconds=60)
        until(lambda: all_tried(daemon), seconds=60, what=lambda: f"{untried(daemon)}\n{daemon.story()}")
        seen.add("source", daemon.camera("right")["source"])
        for path in ["/health", "/metrics", "/schema", "/", "/api/v1/state", "/api/v1/plugins", "/api/v1/cameras"]:
            seen.add(path, everything(daemon.get(path)))
        for name in house.cameras:
            for path in ["", "/snapshot", "/snapshot?overlay=true", "/prediction", "/no-such-thing"]:
                seen.add(f"{name}{path}", everything(daemon.get(f"/api/v1/cameras/{name}{path}")))
        for path in ["/api/v1/settings", "/api/v1/logs?limit=1000", "/api/v1/cameras/right/history"]:
            seen.add(path, everything(daemon.get(path)))
        with zipfile.ZipFile(io.BytesIO(daemon.get("/api/v1/diagnostics").raise_for_status().content)) as archive:
            for member in archive.namelist():
                seen.add(f"diagnostics/{member}", archive.read(member).decode())
        seen.add("change", everything(daemon.client.patch("/api/v1/cameras/c0", json={"quality": KEY.text})))
        seen.add("wrong key", everything(daemon.get("/api/v1/state", token=KEY.text)))
        stranger = httpx.get(f"{daemon.url}/api/v1/state", headers={"Authorization": f"Basic {KEY.text}"}, timeout=30)
        assert stranger.status_code == 401
        seen.add("stranger", everything(stranger))
        assert daemon.stop()[0] == 0
        seen.add("standard output", daemon.stdout)
        seen.add("log", daemon.stderr)
    return request.param, seen


def everything(answer: httpx.Response) -> str:
    """All that an answer tells: headers and body."""
    return f"{answer.status_code} {dict(answer.headers)} {answer.text}"


def untried(daemon: Daemon) -> list[str]:
    """Return the cameras that have not come to a result."""
    return [
        camera["name"]
        for camera in daemon.get("/api/v1/cameras").json()
        if not (camera["errors"] or camera["frame_id"] or camera["state"] == "failed")
    ]


def all_tried(daemon: Daemon) -> bool:
    return not untried(daemon)


def test_no_part_of_a_password_is_seen_anywhere(shown: tuple[str, Shown]) -> None:
    leaks = shown[1].leaks()
    assert not leaks, "\n".join(leaks[:40])


def test_what_is_shown_still_says_where_the_camera_is_and_what_is_wrong(shown: tuple[str, Shown]) -> None:
    texts = dict(shown[1].texts)
    assert texts["source"].startswith("rtsp://***@127.0.0.1:")
    assert texts["source"].endswith("/cam")
    said = texts["/api/v1/cameras"]
    for reason in ["no-such-host.invalid is not known", "connection refused", "cannot open rtsp://***"]:
        assert reason in said
    assert "method DESCRIBE failed" in texts["log"]
    assert "Traceback" in texts["log"]
    assert texts["log"].count("***") > 50


def test_the_log_has_the_format_that_was_asked_for(shown: tuple[str, Shown]) -> None:
    form, seen = shown
    lines = [line for line in dict(seen.texts)["log"].splitlines() if line]
    others = [line for line in lines if not (line.startswith("{") and isinstance(json.loads(line), dict))]
    assert others == ([] if form == "json" else lines)


REFUSED = {
    "by the settings": (
        (
            '[server]\nport = "{url}"\n[log]\nlevel = "{url}"\n[cameras.a]\nplugin = "faulty"\nurll = "{url}"\n'
            '[cameras.b]\nplugin = "faulty"\nurl = ["{url}"]\n[cameras.c]\nplugin = "faulty"\nurl = "{url}\\u0007"\n'
            '[cameras.d]\nplugin = "faulty"\nurl = "{url}${{NO_SUCH_VARIABLE}}"\n[cameras."{url}"]\nplugin = "faulty"\n'
        ),
        ["server.port", "log.level", "cameras.a.urll", "cameras.b.url", "cameras.c.url", "cameras.d.url", "a name has"],
    ),
    "by the plugins": (
        (
            '[cameras.a]\nplugin = "faulty"\noptions = {{url = "{url}"}}\n'
            '[cameras.b]\nplugin = "faulty"\noptions = {{fps = "{url}"}}\n'
            '[cameras.c]\nplugin = "{url}"\n'
            '[cameras.d]\nplugin = "faulty-constructor"\nurl = "{url}"\n'
        ),
        ["cameras.a", "cameras.b", "cameras.c", "cameras.d"],
    ),
    "for an open quote": ('[cameras.gym]\nplugin = "faulty"\nurl = "{url}\n', ["not valid TOML at line 3"]),
    "for a quote within": ('[cameras.gym]\nplugin = "faulty"\nurl = "{url}"x"\n', ["not valid TOML at line 3"]),
}
"""Configurations that are refused, with a URL in places where it hurts, and what must be said."""


@pytest.mark.parametrize("separator", ["-", "@/"])
@pytest.mark.parametrize("why", REFUSED)
def test_a_configuration_that_is_refused_is_not_quoted(why: str, separator: str, tmp_path: Path) -> None:
    text, said = REFUSED[why]
    secret = password(separator)
    config = tmp_path / "config.toml"
    config.write_text(text.format(url=f"rtsp://user:{secret.text}@camera.example/1"), encoding="utf-8")
    told = run_verb("check-config", "--config", config, "--log-level", "debug", folder=tmp_path)
    seen = Shown([secret])
    seen.add(why, told.stdout + told.stderr)
    assert told.returncode == 2
    assert seen.leaks() == []
    assert [text for text in said if text not in told.stderr] == []


def test_a_reload_shows_neither_what_comes_nor_what_is_refused(tmp_path: Path) -> None:
    old, new, away, wrong = (password(separator) for separator in ("-", "@/?#%", ":", "-"))
    seen = Shown([old, new, away, wrong, KEY])
    auth = {"keys": [{"name": "me", "key": KEY.text, "scope": "admin"}]}
    base = {"server": {"port": 0}, "shutdown": {"grace_seconds": 1, "drain_seconds": 1}, "auth": auth}

    def camera(plugin: str, url: str, **options: Any) -> dict[str, Any]:
        return {"plugin": plugin, "url": url, "reconnect_max_seconds": 1, "options": options}

    def source(secret: Password) -> str:
        return f"rtsp://user:{quote(secret.text, safe='')}@camera.example/1"

    def write(cameras: dict[str, Any], rest: str = "") -> None:
        daemon.config.write_text(to_toml({**base, "cameras": cameras}) + rest, encoding="utf-8")

    def listen() -> None:
        with suppress(httpx.HTTPError), daemon.client.stream("GET", "/api/v1/logs/stream", timeout=None) as answer:
            for line in answer.iter_lines():
                seen.add("stream", line)

    with Daemon(tmp_path, {**base, "cameras": {"a": camera("faulty", source(old), do="leak", after=1)}}) as daemon:
        daemon.client.headers["X-Api-Key"] = KEY.text
        listening = threading.Thread(target=listen)
        listening.start()
        until(lambda: all_tried(daemon), what=daemon.story)
        closed = f"https://user:{quote(away.text, safe='')}@127.0.0.1:9/a.jpg?token={quote(away.text, safe='')}"
        write({"a": camera("faulty", source(new), do="lose-leak", after=1), "b": camera("snapshot-url", closed)})
        seen.add("reload", everything(daemon.client.post("/api/v1/config/reload").raise_for_status()))
        until(lambda: all_tried(daemon), what=daemon.story)
        for text, _ in REFUSED.values():
            write({}, text.format(url=f"rtsp://user:{wrong.text}@camera.example/1"))
            answer = daemon.client.post("/api/v1/config/reload")
            assert answer.status_code == 422
            seen.add("refused", everything(answer))
        daemon.send(SIGHUP)
        until(lambda: len(daemon.events("config_reload_failed")) > len(REFUSED), what=daemon.story)
        paths = (
            "/health",
            "/metrics",
            "/api/v1/cameras",
            "/api/v1/settings",
            "/api/v1/logs?limit=1000",
            "/api/v1/plugins",
        )
        for path in paths:
            seen.add(path, everything(daemon.get(path)))
        with zipfile.ZipFile(io.BytesIO(daemon.get("/api/v1/diagnostics").raise_for_status().content)) as archive:
            for member in archive.namelist():
                seen.add(f"diagnostics/{member}", archive.read(member).decode())
        assert daemon.stop()[0] == 0
        listening.join(timeout=10)
        seen.add("log", daemon.stdout + daemon.stderr)
    assert seen.leaks() == []
    assert "connection refused" in dict(seen.texts)["log"]
    assert sum(where == "stream" for where, _ in seen.texts) > 10


def test_a_variable_that_is_refused_is_not_quoted(tmp_path: Path) -> None:
    secret = password("@/")
    url = f"rtsp://user:{secret.text}@camera.example/1"
    variables = {
        "HEALTHD_CAMERAS__GYM__PLUGIN": "faulty",
        "HEALTHD_CAMERAS__GYM__URLL": url,
        "HEALTHD_SERVER__PORT": url,
        "HEALTHD_AUTH__KEYS": f"[{url}",
        "HEALTHD_NONSENSE": url,
    }
    told = run_verb("run", folder=tmp_path, **variables)
    seen = Shown([secret])
    seen.add("error", told.stdout + told.stderr)
    assert told.returncode == 2
    assert seen.leaks() == []
    for name in ("HEALTHD_CAMERAS__GYM__URLL", "HEALTHD_SERVER__PORT", "HEALTHD_AUTH__KEYS", "HEALTHD_NONSENSE"):
        assert name in told.stderr
