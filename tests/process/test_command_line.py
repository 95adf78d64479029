"""The command line: what it answers, where it says it, and its exit codes."""

import json
import re
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from healthd import __version__
from healthd.cameras.source import SourceOptions
from healthd.check import settings_lines
from tests.certificates import make_certificate
from tests.process.daemon import DEMO, INSTALLED, TESTS, Daemon, run_verb

pytestmark = pytest.mark.process

WELL = '[server]\nport = 0\n[cameras.gym]\nplugin = "faulty"\n'


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def config(folder: Path, text: str) -> Path:
    path = folder / "healthd.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("verb", ["run", "check-config"])
def test_a_configuration_file_that_does_not_exist_is_an_error(verb: str, tmp_path: Path) -> None:
    told = run_verb(verb, "--config", "nowhere.toml", folder=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert "nowhere.toml: no such file" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server\nport = 0", "not valid TOML at line 1"),
        ("[server]\nprot = 0", "server.prot: unknown key; did you mean `server.port`"),
        ("[srever]\nport = 0", "srever: unknown key; did you mean `server`"),
        ("[server]\nport = 70000", "server.port"),
        ('[server]\nhost = "0.0.0.0"', "[[auth.keys]]"),
        ('[server]\nhost = "::"', 'auth.mode = "none"'),
        ('[cameras."a b"]\nplugin = "faulty"', "a name has"),
        ("[cameras.gym]\nenabled = true", "cameras.gym.plugin: is required"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_with_what_to_do(text: str, said: str, tmp_path: Path) -> None:
    told = run_verb("run", "--config", config(tmp_path, text), folder=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert said in told.stderr
    assert "Traceback" not in told.stderr


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    wrong = '[server]\nprot = 0\n[log]\nlevel = "loud"\n[cameras.gym]\nplugin = "faulty"\npredict_fsp = 3\n'
    told = run_verb("run", "--config", config(tmp_path, wrong), folder=tmp_path, HEALTHD_SHUTDOWN__GRACE="1")
    assert told.returncode == 2
    for key in ("server.prot", "log.level", "cameras.gym.predict_fsp", "HEALTHD_SHUTDOWN__GRACE"):
        assert key in told.stderr


def test_listening_beyond_this_machine_without_a_key_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    told = run_verb("run", folder=tmp_path, HEALTHD_SERVER__HOST="0.0.0.0", HEALTHD_SERVER__PORT="0")
    assert told.returncode == 2
    assert "[[auth.keys]]" in told.stderr
    assert 'auth.mode = "none"' in told.stderr


def test_a_port_that_is_taken_is_said_at_once_with_what_to_do(taken: int, tmp_path: Path) -> None:
    told = run_verb("run", folder=tmp_path, HEALTHD_SERVER__PORT=str(taken))
    assert (told.returncode, told.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1:{taken}" in told.stderr
    assert "free the port or set server.port" in told.stderr
    assert "Traceback" not in told.stderr


def test_an_address_that_this_machine_does_not_have_is_said_at_once(tmp_path: Path) -> None:
    told = run_verb(
        "run", folder=tmp_path, HEALTHD_SERVER__HOST="192.0.2.1", HEALTHD_SERVER__PORT="0", HEALTHD_AUTH__MODE="none"
    )
    assert told.returncode == 1
    assert "cannot listen on 192.0.2.1" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_variable_that_means_nothing_is_an_error_with_the_one_that_was_meant(tmp_path: Path) -> None:
    told = run_verb("run", folder=tmp_path, HEALTHD_SERVER__PROT="0", HEALTHD_SERVER_PORT="0")
    assert told.returncode == 2
    assert "HEALTHD_SERVER__PROT: matches no setting; did you mean `HEALTHD_SERVER__PORT`" in told.stderr
    assert "HEALTHD_SERVER_PORT: matches no setting; did you mean `HEALTHD_SERVER__PORT`" in told.stderr


@pytest.fixture(scope="module")
def overridden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose file names a port that is taken, and whose environment says better, among Kubernetes' own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = WELL.replace("port = 0", f"port = {server.getsockname()[1]}") + '[cameras.gym.options]\ndo = "spew"\n'
        folder = tmp_path_factory.mktemp("overridden")
        kubernetes = {
            "HEALTHD_SERVICE_HOST": "10.0.0.1",
            "HEALTHD_SERVICE_PORT": "8080",
            "HEALTHD_SERVICE_PORT_HTTP": "8080",
            "HEALTHD_PORT": "tcp://10.0.0.1:8080",
            "HEALTHD_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "HEALTHD_PORT_8080_TCP_PROTO": "tcp",
            "HEALTHD_PORT_8080_TCP_PORT": "8080",
            "HEALTHD_PORT_8080_TCP_ADDR": "10.0.0.1",
        }
        arguments = ["run", "--config", config(folder, text), "--log-level", "debug", "--log-format", "json"]
        variables = {"HEALTHD_SERVER__PORT": "0", "HEALTHD_CAMERAS__GYM__QUALITY": "33", **kubernetes}
        with Daemon(folder, arguments=arguments, **variables) as daemon:
            daemon.until_state("gym", "live", seconds=60)
            yield daemon


def test_the_environment_wins_over_the_file(overridden: Daemon) -> None:
    assert overridden.camera("gym")["tuning"]["quality"] == 33


def test_the_variables_that_kubernetes_makes_for_a_service_are_ignored(overridden: Daemon) -> None:
    assert overridden.get("/healthz").status_code == 200


def test_standard_output_has_the_address_and_nothing_else(overridden: Daemon) -> None:
    assert re.fullmatch(r"healthd is at http://127\.0\.0\.1:\d+ .*\n", overridden.stdout)


def test_with_log_format_json_every_line_is_one_object(overridden: Daemon) -> None:
    overridden.get("/no-such-page")
    lines = overridden.stderr.splitlines()
    assert len(lines) > 5
    for line in lines:
        assert {"timestamp", "level", "event"} <= json.loads(line).keys(), line
    assert overridden.events("native_output"), "what a C library writes is logged too"


def test_ipv6_is_listened_on_and_shown_in_brackets(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with Daemon(tmp_path, {"server": {"host": "::1"}}) as daemon:
        assert daemon.url.startswith("http://[::1]:")
        assert daemon.get("/healthz").status_code == 200
        assert daemon.stop()[0] == 0


def test_without_a_file_the_environment_alone_may_configure_a_camera(tmp_path: Path) -> None:
    variables = {"HEALTHD_SERVER__PORT": "0", "HEALTHD_CAMERAS__GYM__PLUGIN": "faulty"}
    with Daemon(tmp_path, arguments=["run"], **variables) as daemon:
        daemon.until_state("gym", "live", seconds=60)
        assert daemon.stop()[0] == 0


def test_help_names_every_verb_and_version_the_version(tmp_path: Path) -> None:
    told = run_verb("--help", folder=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    for verb in ("run", "demo", "check-config", "plugins"):
        assert verb in told.stdout
    told = run_verb("--version", folder=tmp_path)
    assert (told.returncode, told.stdout, told.stderr) == (0, f"healthd {__version__}\n", "")


WRONG_USAGE = [
    *([], ["walk"], ["run", "--log-level", "loud"], ["check-config"]),
    *(["demo", "--port", port] for port in ("99999", "65536", "-1", "eighty", "")),
]


@pytest.mark.parametrize("arguments", WRONG_USAGE)
def test_wrong_usage_exits_with_2_and_says_how_it_is_meant(arguments: list[str], tmp_path: Path) -> None:
    told = run_verb(*arguments, folder=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("usage: healthd")


@pytest.fixture
def yolo() -> None:
    """Skip where the plugin that the example names is not installed."""
    try:
        version("healthd-yolo")
    except PackageNotFoundError:
        pytest.skip("healthd-yolo is not installed")


def test_the_example_passes_check_config_as_it_stands_and_with_everything_switched_on(
    yolo: None, tmp_path: Path
) -> None:
    example = (TESTS.parent / "config.example.toml").read_text(encoding="utf-8")
    key = tmp_path / "key"
    key.write_text("0123456789abcdef", encoding="utf-8")
    make_certificate(tmp_path, "cams")
    everything = re.sub(r"^# (?=\[|[a-z_]+ = )", "", example, flags=re.MULTILINE)
    everything = everything.partition("[cameras.replay]")[0]  # which leaves the model to the reader
    everything = re.sub(r"file:/[^\"]*", f"file:{key}", everything)
    for text, cameras in ((example, 0), (everything, 1)):
        path = config(tmp_path, text)
        told = run_verb("check-config", "--config", path, folder=tmp_path, GYM_CAMERA_PASSWORD="p@ss/word")
        assert told.returncode == 0, told.stderr
        assert f"ok, {cameras} camera" in told.stdout


def test_a_demo_that_is_broken_is_named_and_the_next_one_shown(tmp_path: Path) -> None:
    with Daemon(tmp_path, arguments=["demo", "--port", 0], plugins=[DEMO, INSTALLED]) as daemon:
        daemon.until_state("shown", "live", seconds=60)
        assert "the clips are missing" in daemon.stderr
        assert daemon.stop()[0] == 0


def test_plugins_lists_the_settings_of_each_plugin_once(tmp_path: Path) -> None:
    told = run_verb("plugins", folder=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    plugin = next(number for number, line in enumerate(lines) if line.startswith("faulty  "))
    settings = [re.split(r"  +", line.strip()) for line in lines[plugin + 1 :]]
    assert ["fps", "number > 0", "25", "Images per second."] in settings
    assert ["journal", "text", "absent", "File in which it notes what it does."] in settings
    assert ["confidence", "number 0 to 1", "0.25", "Detections below this confidence are left out."] in settings
    assert told.stdout.count("Images per second.") == 1
    assert ["device_width", "integer >= 1", "absent", "Width to ask of a V4L2 device, in pixels."] in settings
    broken = next(number for number, line in enumerate(lines) if "BROKEN" in line)
    assert not lines[broken + 1].startswith(" ")


class _Zone(BaseModel):
    name: str


class _Odd(BaseModel):
    """Settings as few plugins have them."""

    zone: _Zone
    zones: list[_Zone] = Field(default_factory=list, description="Two\nlines.")
    width: int | Literal["auto"] = "auto"
    anything: Any = None


def test_settings_of_any_kind_are_described_and_a_bug_of_a_plugin_hides_no_other() -> None:
    class Broken(BaseModel):
        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            raise LookupError("a bug")

    assert [re.split(r"  +", line.strip()) for line in settings_lines(_Odd)] == [
        ["zone", "table", "required"],
        ["zones", "list of table", "its own", "Two lines."],
        ["width", "integer or auto", '"auto"'],
        ["anything", "any", "absent"],
    ]
    assert settings_lines(Broken) == ["    its settings cannot be described: LookupError"]
    assert settings_lines(SourceOptions) == []
