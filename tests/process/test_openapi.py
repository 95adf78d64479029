"""The OpenAPI document against the running daemon: schemathesis asks whatever the document lets it ask, and more."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.house import ADMIN, ADMIN_KEY, KEYS, METHODS
from tests.fuzzing import MORE, SEED
from tests.process.daemon import TESTS, Daemon

EXAMPLES = MORE or 5
SECONDS = 300.0 * max(1.0, EXAMPLES / 8)
pytestmark = [pytest.mark.process, pytest.mark.timeout(SECONDS + 60)]

ENDLESS = {"/api/v1/cameras/{name}/stream", "/api/v1/events/stream", "/api/v1/logs/stream"}
CONFIG = """
seed = {seed}
hooks = "tests.process.openapi_checks"
continue-on-failure = true
request-timeout = 20

[cache]
enabled = false

[generation]
max-examples = {examples}
database = "none"

[dictionaries]
models = {{ values = ["counter", "slow"] }}  # one that cameras hold, and one that only those orders touch
asked = {{ values = ["counter", "noting"] }}

[parameters]
model_id = {{ dictionary = "models", probability = 0.6 }}
"query.model" = {{ dictionary = "asked", probability = 0.6 }}

# 503 is no bug: "not now", with Retry-After. That it is described wherever it comes is checked as of every status.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]

# The others keep their picture, so that there is something to see.
[[operations]]
include-path = "/api/v1/cameras/{{name}}/pause"
parameters = {{ name = "porch" }}

# What is deleted stays: a job that has not ended is cancelled and keeps its results so far, a model is unloaded.
[[operations]]
include-path-regex = "^/api/v1/(jobs|models)"
checks.use_after_free.enabled = false
"""


def camera(**options: Any) -> dict[str, Any]:
    return {"plugin": "faulty", "options": options}


@pytest.fixture(scope="module", params=["with keys", pytest.param("without keys", marks=pytest.mark.thorough)])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A house in which all may be tried: cameras with a model, without one, and one that is not there."""
    folder = tmp_path_factory.mktemp("house")
    media = folder / "media"
    media.mkdir()
    shutil.copy(TESTS / "data" / "counter.mp4", media)
    settings: dict[str, Any] = {
        "models": {"default": "noting"},
        "jobs": {"allowed_directories": [str(media)]},
        "cameras": {
            "gym": camera(model="counter"),
            "porch": camera(model="counter"),
            "hall": camera(),
            "dark": camera(do="lose-open"),
            "spare": {**camera(model="slow"), "enabled": False},
        },
    }
    if request.param == "with keys":
        settings["auth"] = {"keys": KEYS}
    with Daemon(folder, settings) as running:
        running.until_ready()
        running.client.headers.update(ADMIN)
        running.until_state("gym", "live")
        yield running


def test_schemathesis_finds_nothing(daemon: Daemon) -> None:
    document = daemon.get("/schema").json()
    asked = {
        (method, path)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item and path not in ENDLESS
    }
    config = daemon.folder / "schemathesis.toml"
    config.write_text(CONFIG.format(seed=SEED, examples=EXAMPLES), encoding="utf-8")
    command = [Path(sysconfig.get_path("scripts")) / "schemathesis", "--config-file", config]
    command += ["run", f"{daemon.url}/schema", "--no-color", "--exclude-path-regex", "/stream$"]
    command += [
        "--exclude-checks",
        "ignored_auth",
    ]  # the eleventh wrong key is a 429; see test_ways_in.py
    ran = subprocess.run(
        [sys.executable, *map(str, command), "--header", f"X-Api-Key: {ADMIN_KEY}"],
        cwd=daemon.folder,
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS.parent),
            "JOB_PATH": str(daemon.folder / "media" / "counter.mp4"),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    told = f"{ran.stdout}\n{ran.stderr}"
    assert ran.returncode == 0, told
    tested = re.search(r"Tested: (\d+)", ran.stdout)
    assert tested is not None, told
    assert int(tested[1]) == len(asked), told
    assert daemon.errors() == [], daemon.story()


def test_endless_answers_are_what_they_are_said_to_be(daemon: Daemon) -> None:
    document = daemon.get("/schema").json()
    assert {path for path in document["paths"] if path.endswith("/stream")} == ENDLESS
    for path in ENDLESS:
        described = document["paths"][path]["get"]["responses"]
        with daemon.client.stream("GET", path.format(name="gym"), params={"_": "1"}) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].partition(";")[0] in described["200"]["content"]
            assert next(answer.iter_bytes())
        wrong = {"camera": "nobody"} if "{name}" not in path else {"q": "0"}
        here = path.format(name="gym")
        refused = [daemon.get(here, **wrong), daemon.client.post(here), daemon.client.head(here)]
        if "{name}" in path:
            refused.append(daemon.get(path.format(name="nobody")))
        with httpx.Client(base_url=daemon.url, trust_env=False) as nobody:
            if "401" in described:
                refused.append(nobody.get(here))
        for answer in refused:
            assert answer.headers["content-type"] == "application/json"
            if answer.request.method == "GET":
                assert str(answer.status_code) in described
                assert answer.json()["status_code"] == answer.status_code
            else:
                assert (answer.status_code, answer.headers["allow"]) == (405, "GET, OPTIONS")
