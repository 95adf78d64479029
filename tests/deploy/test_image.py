"""The image, the compose file and the unit, as far as they can be looked at without an engine."""

import http.server
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

import healthd
from healthd.settings import Settings, load_settings
from tests.deploy.tools import CHART, DEPLOY, case, one, run, tool

DOCKER = DEPLOY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
SHUTDOWN = Settings.model_fields["shutdown"].default
STOP_SECONDS = int(SHUTDOWN.grace_seconds + SHUTDOWN.drain_seconds + 5)
UNIT = (DEPLOY / "healthd.service").read_text(encoding="utf-8")


def compose() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"][
        "healthd"
    ]
    return service


def unit(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, flags=re.MULTILINE)


# -- the image ---------------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_to_say() -> None:
    done = run(tool("hadolint"), "--no-color", DOCKER / "Dockerfile")
    assert done.returncode == 0, done.stdout
    assert not done.stdout


def test_the_last_stage_is_without_root_and_without_tools() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", last, flags=re.MULTILINE)
    assert not re.search(r"pip install|apt-get|curl|gcc|tini", last)
    user = one(case("default"), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert (user["runAsUser"], user["runAsGroup"]) == (10001, 10001)


def test_image_chart_and_compose_run_the_same_command_on_the_same_folders() -> None:
    entry = [*_exec_form("ENTRYPOINT"), *_exec_form("CMD")]
    container = one(case("default"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == entry
    volumes = {item["mountPath"] for item in container["volumeMounts"]}
    assert {"/var/lib/healthd/models", "/var/lib/healthd/state"} <= volumes
    mounted = {volume.split(":")[1] for volume in compose()["volumes"]}
    assert mounted == {"/var/lib/healthd/models", "/var/lib/healthd/state"} == set(_exec_form("VOLUME"))
    settings = load_settings(DOCKER / "config.toml", {"HEALTHD_AUTH__MODE": "none"})
    for place in (settings.models.directory, settings.models.cache_directory, settings.jobs.directory):
        assert any(str(place).startswith(folder) for folder in mounted)


def _exec_form(instruction: str) -> list[str]:
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    return list(yaml.safe_load(found))


def test_every_build_argument_that_is_documented_reaches_the_build() -> None:
    """One that no stage declares is dropped with a warning."""
    docs = (DEPLOY.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
    told = docs[docs.index("## The image") : docs.index("### Size")]
    names = set(re.findall(r"\b([A-Z][A-Z_]+)=", told)) | {"PIP_EXTRA_INDEX_URL"}
    names -= {name for name in names if name.startswith("HEALTHD_")}
    declared = set(re.findall(r"\b([A-Z_]+)\b", " ".join(re.findall(r"^ARG (.*)$", DOCKERFILE, flags=re.MULTILINE))))
    assert {"EXTRAS", "PIP_INDEX_URL"} <= names <= declared


def test_the_scripts_of_the_image_are_scripts() -> None:
    for script in ("install.sh", "slim.sh", "bytecode.sh", "check.sh"):
        assert run("sh", "-n", DOCKER / script).returncode == 0, script
        assert script in DOCKERFILE or script == "check.sh"


def test_the_build_context_holds_what_the_packages_are_made_of() -> None:
    kept = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    installed = re.findall(r"\./(plugins/[a-z-]+)", (DOCKER / "install.sh").read_text(encoding="utf-8"))
    assert len(installed) == 2
    for needed in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "healthd", *installed):
        assert f"!{needed}" in kept


@pytest.fixture
def answering() -> Iterator[int]:
    class Works(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Works) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_health_check_asks_where_healthd_listens(answering: int, tmp_path: Path) -> None:
    def alive(text: str, **environment: str) -> int:
        config = tmp_path / "config.toml"
        config.write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, DOCKER / "alive.py", config], env=environment, capture_output=True, timeout=20, check=False
        ).returncode

    assert alive(f'[server]\nhost = "0.0.0.0"\nport = {answering}\n') == 0
    assert alive("", HEALTHD_SERVER__PORT=str(answering), http_proxy="http://127.0.0.1:1") == 0
    assert alive("[server]\nport = 1\n") == 1


# -- compose and systemd -----------------------------------------------------------------------------------------------


def test_compose_knows_every_key_of_the_compose_file() -> None:
    vendored = pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    jsonschema = pytest.importorskip("jsonschema")
    folder = resources.files(vendored) / "builtin_schemas" / "vendor"
    schema = yaml.safe_load((folder / "compose-spec.json").read_text(encoding="utf-8"))
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), schema)


def test_compose_is_as_closed_as_the_chart() -> None:
    service = compose()
    assert service["read_only"] is True
    assert service["environment"]["HOME"] == "/tmp"
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["image"] == f"healthd:{healthd.__version__}"
    assert service["healthcheck"]["test"][1:] == ["python", "/usr/local/share/healthd/alive.py"]
    said = service["environment"]["HEALTHD_AUTH__KEYS"].replace("$$", "$")
    assert load_settings(None, {"HEALTHD_AUTH__KEYS": said, "ADMIN_API_KEY": "k" * 20}).auth.keys[0].scope == "admin"


def test_everybody_waits_for_the_end_of_the_stop() -> None:
    assert compose()["stop_grace_period"] == f"{STOP_SECONDS}s"
    assert unit("TimeoutStopSec") == [str(STOP_SECONDS)]
    assert (
        one(case("default"), "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == STOP_SECONDS
    )
    assert "NOTIFY_SOCKET" not in (CHART.parents[2] / "healthd" / "daemon.py").read_text(encoding="utf-8")
    assert not unit("WatchdogSec"), "the daemon does not notify systemd"


def test_systemd_reads_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    file = tmp_path / "healthd.service"
    file.write_text(UNIT.replace("/opt/healthd/bin/healthd ", "/bin/true "), encoding="utf-8")
    done = run(analyze, "verify", file)
    assert (done.returncode, done.stderr) == (0, "")
    told = run(analyze, "security", "--offline=true", file).stdout
    exposure = re.search(r"Overall exposure level for healthd.service: ([0-9.]+)", told)
    if exposure is None:
        pytest.skip("this systemd-analyze looks at running services only: systemd 252 can do more")
    assert float(exposure[1]) < 2.0, told


def test_the_unit_sets_what_healthd_knows() -> None:
    found = {item.partition("=")[0]: item.partition("=")[2] for item in unit("Environment")}
    del found["HOME"]
    settings = load_settings(None, {key: value.replace("%S", "/s").replace("%C", "/c") for key, value in found.items()})
    assert str(settings.jobs.directory).startswith("/s/healthd/")
    assert unit("RestartPreventExitStatus") == ["2"], "docs/operations.md: a wrong configuration"
    assert not unit("ExecStartPre"), "systemd would start it again and again: the line above is for the main process"


def test_the_unit_checks_the_configuration_first_and_then_becomes_healthd(tmp_path: Path) -> None:
    """As systemd would split the line; the exit code of the check is that of the main process."""
    config = tmp_path / "config.toml"
    (line,) = unit("ExecStart")
    healthd = tmp_path / "healthd"  # the checkout may lie anywhere, spaces included
    healthd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m healthd "$@"\n', encoding="utf-8")
    healthd.chmod(0o755)
    line = line.replace("/opt/healthd/bin/healthd", str(healthd))
    command = shlex.split(line.replace("/etc/healthd/config.toml", str(config)))
    config.write_text("[server]\nprot = 1\n", encoding="utf-8")
    done = run(*command)
    assert done.returncode == 2
    assert "prot" in done.stderr
    config.write_text("[server]\nport = 0\n", encoding="utf-8")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        assert any("daemon_started" in line for line in daemon.stderr)
        daemon.terminate()
        assert daemon.wait(timeout=30) == 0
