"""What the configuration promises: one file, the environment on top, every mistake named and no value shown."""

import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from healthd.cpus import cpu_quota, set_thread_budget, thread_budget, usable_cpus
from healthd.redact import SCRUBBER, SourceUrl
from healthd.settings import (
    ConfigError,
    PerformanceSettings,
    Settings,
    is_loopback,
    load_settings,
    settings_hints,
    settings_origin,
)
from healthd.settings_tree import element_at, item_at, known_keys, model_at

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.example.toml"
GYM = '[cameras.gym]\nplugin = "fake"\n'
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_secrets_left() -> Iterator[None]:
    known, patterns = SCRUBBER._known, SCRUBBER._patterns
    SCRUBBER._known, SCRUBBER._patterns = {}, ()
    yield
    SCRUBBER._known, SCRUBBER._patterns = known, patterns


class Loader:
    """Writes a file and loads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.toml"

    def __call__(self, text: str = "", environ: Mapping[str, str] | None = None, **variables: str) -> Settings:
        self.path.write_text(text)
        return load_settings(self.path, {**(environ or {}), **variables})

    def problems(self, text: str = "", environ: Mapping[str, str] | None = None, **variables: str) -> list[str]:
        """Return the lines of the error, without the name of the file."""
        with pytest.raises(ConfigError) as caught:
            self(text, environ, **variables)
        lines = [line.strip().removeprefix(f"{self.path}: ") for line in str(caught.value).splitlines()[1:]]
        assert len(lines) == len(caught.value.problems)
        return lines


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


# --- secrets of plugins

OPTIONS = """[cameras.gym.options]
password = "hunter2secret"
side_url = "http://bob:swordfish9@nas.lan/y?w=1280"
deep = {webhook-token = ["tok-deep-1"], zone = "left", none = [1, true]}
"""


def test_secrets_among_options_are_hidden_from_every_text_and_given_to_the_plugin(load: Loader) -> None:
    settings = load(f"{GYM}{OPTIONS}", HEALTHD_CAMERAS__GYM__OPTIONS__CLOUD_KEY="12345678")
    options = settings.cameras["gym"].options
    assert options["password"] == "hunter2secret"
    assert options["deep"]["webhook-token"] == ["tok-deep-1"]
    assert options["cloud_key"] == "12345678"  # not a number: a key of digits is a key
    texts = [
        str(settings),
        repr(settings),
        repr(options),
        f"{options}",
        repr(options["deep"]),
        settings.model_dump_json(),
    ]
    for text in [*texts, repr(settings.cameras["gym"]), SCRUBBER.scrub(f"refused: {dict(options)}")]:
        for secret in ("hunter2secret", "swordfish9", "tok-deep-1", "12345678"):
            assert secret not in text
    assert "left" in texts[-1]
    assert SCRUBBER.scrub("hunter2secret at left, 1280") == "*** at left, 1280"
    assert pickle.loads(pickle.dumps(settings.cameras["gym"])).options == options


# --- the file


def test_without_a_file_and_environment_there_are_the_defaults() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert (settings.server.host, settings.server.port, settings.cameras) == ("127.0.0.1", 8080, {})


def test_a_variable_that_is_no_utf8_is_refused_without_its_value() -> None:
    with pytest.raises(ConfigError, match="HEALTHD_MODELS__DEFAULT: must be UTF-8") as told:
        load_settings(None, {"HEALTHD_MODELS__DEFAULT": os.fsdecode(b"/hunter2/caf\xe9.mp4")})
    assert "hunter2" not in str(told.value)


def test_made_directly_settings_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER", '{"port": 1}')
    monkeypatch.setenv("HEALTHD_SERVER__PORT", "1")
    assert Settings().server.port == 8080
    assert load_settings(None).server.port == 1


def test_cameras_keep_the_order_of_the_file(load: Loader) -> None:
    text = "".join(f'[cameras.{name}]\nplugin = "fake"\n' for name in ("yard", "gym", "attic"))
    assert list(load(text, HEALTHD_CAMERAS__GYM__QUALITY="3").cameras) == ["yard", "gym", "attic"]


def test_settings_are_frozen(load: Loader) -> None:
    settings = load(GYM)
    for thing, field in ((settings, "server"), (settings.server, "port"), (settings.cameras["gym"], "url")):
        with pytest.raises(ValidationError):
            setattr(thing, field, None)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "nope.toml", {})


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load_settings(tmp_path, {})


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"[server]\nhost = '\xff'\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 17\)"):
        load_settings(tmp_path / "c.toml", {})


def test_a_syntax_error_names_line_and_column_and_nothing_of_the_line(load: Loader) -> None:
    assert load.problems('[server]\nhost = "x"\nurl = rtsp://u:hunter22@h/\n') == [
        "is not valid TOML at line 3, column 7"
    ]
    assert load.problems('key = "hunter22') == ["is not valid TOML at end of document"]
    assert load.problems(f"{GYM}{GYM}") == ["is not valid TOML at line 3, column 13"]


# --- mistakes


@pytest.mark.parametrize("host", ["cams.lan:8443", "https://cams.lan", "*", "", "a b", "[cams.lan]"])
def test_an_allowed_host_is_a_name_or_an_address_without_a_port(load: Loader, host: str) -> None:
    (problem,) = load.problems(f'[server]\nallowed_hosts = ["cams.lan", "[fd00::7]", "{host}"]\n')
    assert problem.startswith("server.allowed_hosts[2]: ")


def test_all_problems_are_reported_at_once(load: Loader) -> None:
    text = 'prot = 3\n[server]\nport = 99999\n[sever]\n[cameras.gym]\nurl = "${NOPE}"\n[cameras."a b"]\nplugin = "x"\n'
    assert sorted(load.problems(text, HEALTHD_SERVER_PORT="3", HEALTHD_LOG__LEVEL="loud")) == [
        "cameras.a b: a name has 1 to 64 letters, digits, _ or -",
        "cameras.gym.plugin: is required",
        "cameras.gym.url: the environment has no variable NOPE",
        "environment: HEALTHD_LOG__LEVEL (log.level): must be 'debug', 'info', 'warning', 'error' or 'critical'",
        "environment: HEALTHD_SERVER_PORT: matches no setting; did you mean `HEALTHD_SERVER__PORT`?",
        "prot: unknown key; did you mean `server.port`?",
        "server.port: must be less than or equal to 65535",
        "sever: unknown key; did you mean `server`?",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nprot = 1", "server.prot: unknown key; did you mean `server.port`?"),
        ("[camera.gym]\nplugin = 'x'", "camera: unknown key; did you mean `cameras`?"),
        ("port = 1", "port: unknown key; did you mean `server.port`?"),
        ("[server]\nlevel = 'info'", "server.level: unknown key; did you mean `log.level`?"),
        (f"{GYM}predict_fsp = 1", "cameras.gym.predict_fsp: unknown key; did you mean `cameras.gym.predict_fps`?"),
        (
            f"{GYM}model = 'x'",
            "cameras.gym.model: unknown key (settings of the plugin stand in [cameras.gym.options])",
        ),
        (
            f"[[auth.keys]]\nname = 'a'\nkey = '{KEY}'\nscop = 'read'",
            "auth.keys[0].scop: unknown key; did you mean `auth.keys[0].scope`?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(load: Loader, text: str, line: str) -> None:
    assert load.problems(text) == [line]


NO_ORIGIN = "must be a whole origin, such as https://panel.lan, without path or pattern; or * alone, for any"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = true", "server.port: must be a number"),
        ("[server]\nport = -1", "server.port: must be greater than or equal to 0"),
        ("server = 1", "server: must be a table"),
        ("[cameras]\ngym = 1", "cameras.gym: must be a table"),
        ("[server]\ncors_origins = 'x'", "server.cors_origins: must be a list"),
        *[
            (f"[server]\ncors_origins = ['{origin}']", f"server.cors_origins[0]: {NO_ORIGIN}")
            for origin in ("https://*.lan", "https://*", "http*://a.lan", "https://a.lan/", "a.lan", "")
        ],
        (f"{GYM}predict_fps = nan", "cameras.gym.predict_fps: must be a finite number"),
        (f"{GYM}stall_timeout_seconds = 0", "cameras.gym.stall_timeout_seconds: must be greater than 0"),
        (f"{GYM}open_timeout_seconds = inf", "cameras.gym.open_timeout_seconds: must be a finite number"),
        (f"{GYM}url = ''", "cameras.gym.url: a URL must not be empty"),
        (
            f'{GYM}url = "rtsp://u:hunter22@h/\\n"\nurl2=1',
            "cameras.gym.url2: unknown key; did you mean `cameras.gym.url`?",
        ),
        (f'{GYM}url = ["rtsp://u:hunter22@h/"]', "cameras.gym.url: must be text"),
        ("[snapshots]\nquality = 96", "snapshots.quality: must be less than or equal to 95"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason_and_without_the_value(load: Loader, text: str, line: str) -> None:
    assert load.problems(text) == [line]


def test_no_error_quotes_a_secret(load: Loader) -> None:
    secret = "Qz7Kx9vW"
    text = (
        f'{GYM}url = ["rtsp://u:{secret}@h"]\npassword = "{secret}"\nquality = "{secret}"\n'
        f'[[auth.keys]]\nname = "a b"\nkey = "{secret}"\n["rtsp://u:{secret}@h"]\n'
    )
    shown = load.problems(text, {f"HEALTHD_CAMERAS__RTSP://U:{secret}@H/": "1", "HEALTHD_AUTH__KEYS": f"[{secret}"})
    assert len(shown) > 5
    assert secret.lower() not in " ".join(shown).lower()


# --- the environment


def test_a_variable_wins_over_the_file(load: Loader) -> None:
    settings = load("[server]\nport = 1\nhost = '::1'\n", HEALTHD_SERVER__PORT="9000")
    assert (settings.server.port, settings.server.host) == (9000, "::1")


def test_a_variable_saves_a_key_of_the_file_whose_reference_is_missing(load: Loader) -> None:
    settings = load(f'{GYM}url = "rtsp://u:${{NOPE}}@h/"\n', HEALTHD_CAMERAS__GYM__URL="0")
    assert settings.cameras["gym"].url == SourceUrl("0")


def test_a_variable_finds_its_camera_whatever_its_case_and_dashes(load: Loader) -> None:
    settings = load('[cameras.My-Cam]\nplugin = "fake"\n', HEALTHD_CAMERAS__MY_CAM__URL="clip.mp4")
    assert list(settings.cameras) == ["My-Cam"]
    assert settings.cameras["My-Cam"].url is not None


def test_a_name_with_two_underscores_is_found(load: Loader) -> None:
    text = '[cameras.my]\nplugin = "fake"\n[cameras.my__cam]\nplugin = "fake"\n'
    assert load(text, HEALTHD_CAMERAS__MY__CAM__QUALITY="3").cameras["my__cam"].quality == 3


def test_a_variable_that_fits_two_cameras_is_refused(load: Loader) -> None:
    text = '[cameras.my-cam]\nplugin = "fake"\n[cameras.my_cam]\nplugin = "fake"\n'
    assert load.problems(text, HEALTHD_CAMERAS__MY_CAM__QUALITY="3") == [
        "environment: HEALTHD_CAMERAS__MY_CAM__QUALITY: fits my-cam and my_cam: rename one of them"
    ]


def test_a_plugin_variable_makes_a_camera_that_the_file_does_not_have() -> None:
    environ = {"HEALTHD_CAMERAS__YARD__PLUGIN": "fake", "HEALTHD_CAMERAS__YARD__PREDICT_FPS": "2.5"}
    assert load_settings(None, environ).cameras["yard"].predict_fps == 2.5


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("HEALTHD_SERVER__PROT", "; did you mean `HEALTHD_SERVER__PORT`?"),
        ("HEALTHD_SERVER_PORT", "; did you mean `HEALTHD_SERVER__PORT`?"),
        ("HEALTHD_CAMERAS__GYN__URL", "; did you mean `HEALTHD_CAMERAS__GYM__URL`?"),
        ("HEALTHD_CAMERAS__GYM__ULR", "; did you mean `HEALTHD_CAMERAS__GYM__URL`?"),
        ("HEALTHD_CAMERAS__GYM__OPTIONS__", ""),
        ("HEALTHD_SERVER", ""),
        ("HEALTHD_SERVER__PORT__X", "; did you mean `HEALTHD_SERVER__PORT`?"),
        ("HEALTHD_ZZZ", ""),
    ],
)
def test_a_variable_that_matches_nothing_is_an_error(load: Loader, variable: str, nearest: str) -> None:
    (problem,) = load.problems(GYM, {variable: "1"})
    assert problem.startswith(f"environment: {variable}: matches no setting")
    assert nearest in problem


def test_what_kubernetes_injects_is_ignored() -> None:
    service = {
        "HEALTHD_SERVICE_HOST": "10.0.0.1",
        "HEALTHD_SERVICE_PORT": "8080",
        "HEALTHD_SERVICE_PORT_HTTP": "8080",
        "HEALTHD_PORT": "tcp://10.0.0.1:8080",
        "HEALTHD_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "HEALTHD_PORT_8080_TCP_PROTO": "tcp",
        "HEALTHD_PORT_8080_TCP_PORT": "8080",
        "HEALTHD_PORT_8080_TCP_ADDR": "10.0.0.1",
        "HEALTHD_TEST_ASSETS": "/x",
        "HEALTHD_FUZZ_EXAMPLES": "9",
        "HEALTHD_FUZZ_SEED": "9",
        "HEALTHD_API_KEY": "of healthd top",
    }
    second = {name.replace("HEALTHD_", "HEALTHD_METRICS_", 1): value for name, value in service.items()}
    for name in ("TEST_ASSETS", "FUZZ_EXAMPLES", "FUZZ_SEED", "API_KEY"):
        del second[f"HEALTHD_METRICS_{name}"]
    assert load_settings(None, {**service, **second}) == Settings()


def test_an_empty_variable_counts_as_not_set(load: Loader) -> None:
    assert load("[server]\nport = 1\n", HEALTHD_SERVER__PORT="", HEALTHD_ZZZ="").server.port == 1


def test_lists_come_with_commas_or_as_json(load: Loader) -> None:
    assert load("", HEALTHD_SERVER__CORS_ORIGINS="http://a, http://b").server.cors_origins == ("http://a", "http://b")
    assert load("", HEALTHD_SERVER__CORS_ORIGINS='["http://a"]').server.cors_origins == ("http://a",)
    keys = load("", HEALTHD_AUTH__KEYS=f'[{{"name": "a", "key": "{KEY}"}}]').auth.keys
    assert keys[0].key.matches(KEY)
    assert load.problems("", HEALTHD_AUTH__KEYS="[{") == [
        "environment: HEALTHD_AUTH__KEYS: must be a list or table in JSON"
    ]


def test_options_are_set_one_by_one_over_those_of_the_file(load: Loader) -> None:
    text = f'{GYM}[cameras.gym.options]\nmodel = "a"\nMaxDet = 5\ndeep = {{x = 1, y = 2}}\n'
    options = (
        load(
            text,
            {
                "HEALTHD_CAMERAS__GYM__OPTIONS__CONFIDENCE": "0.5",
                "HEALTHD_CAMERAS__GYM__OPTIONS__MAXDET": "7",
                "HEALTHD_CAMERAS__GYM__OPTIONS__DEEP__X": "true",
                "HEALTHD_CAMERAS__GYM__OPTIONS__SERIAL": '"0123"',
                "HEALTHD_CAMERAS__GYM__OPTIONS__NAMES": '["a", "b"]',
                "HEALTHD_CAMERAS__GYM__OPTIONS__NOTE": "NaN",
            },
        )
        .cameras["gym"]
        .options
    )
    assert options == {
        "model": "a",
        "MaxDet": 7,
        "deep": {"x": True, "y": 2},
        "confidence": 0.5,
        "serial": "0123",
        "names": ["a", "b"],
        "note": "NaN",
    }


def test_options_may_come_as_one_table_in_json(load: Loader) -> None:
    options = (
        load(GYM, HEALTHD_CAMERAS__GYM__OPTIONS='{"a": 1, "b": 2}', HEALTHD_CAMERAS__GYM__OPTIONS__B="3")
        .cameras["gym"]
        .options
    )
    assert options == {"a": 1, "b": 3}


# --- references


def test_a_reference_is_replaced_in_any_text(load: Loader) -> None:
    settings = load(f'{GYM}options = {{a = "x-${{ONE}}-$${{TWO}}", b = ["${{ONE}}"]}}\n', ONE="1")
    assert settings.cameras["gym"].options == {"a": "x-1-${TWO}", "b": ["1"]}


def test_a_password_is_encoded_as_it_is_put_into_a_url(load: Loader) -> None:
    text = f'{GYM}url = "rtsp://${{USER_NAME}}:${{PW}}@${{HOST}}:${{PORT}}/${{PLACE}}?token=${{PW}}"\n'
    password = "p@s/s w?r#d%41&é"
    url = load(text, USER_NAME="me@home", PW=password, HOST="cam.lan", PORT="554", PLACE="a/b").cameras["gym"].url
    assert url is not None
    encoded = "p%40s%2Fs%20w%3Fr%23d%2541%26%C3%A9"
    assert url.reveal() == f"rtsp://me%40home:{encoded}@cam.lan:554/a/b?token={encoded}"
    assert str(url) == "rtsp://***@cam.lan:554/a/b?***"


def test_a_reference_may_be_the_whole_url(load: Loader) -> None:
    url = load(f'{GYM}url = "${{GYM_URL}}"\n', GYM_URL="rtsp://u:p%40ss@h/x?y=1").cameras["gym"].url
    assert url is not None
    assert url.reveal() == "rtsp://u:p%40ss@h/x?y=1"


def test_a_missing_variable_and_a_reference_to_no_name_are_errors(load: Loader) -> None:
    assert load.problems(f'{GYM}options = {{a = "${{NOPE}}", b = "${{A:-b}}"}}\n') == [
        "cameras.gym.options.a: the environment has no variable NOPE",
        "cameras.gym.options.b: `${...}` must hold the name of a variable (a plain `${` is written `$${`)",
    ]


def test_a_referenced_variable_with_a_telling_name_is_hidden_from_the_log(load: Loader) -> None:
    load(f'{GYM}options = {{a = "${{CLOUD_TOKEN}}", b = "${{SITE}}"}}\n', CLOUD_TOKEN="Qz7Kx9vW", SITE="attic")
    assert SCRUBBER.scrub("Qz7Kx9vW in the attic") == "*** in the attic"


def test_a_file_reference_reads_a_url_or_a_key_without_the_space_around_it(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("rtsp://u:hunter22@h/\n")
    (tmp_path / "key").write_text(f"  {KEY}\n")
    text = f'{GYM}url = "file:{tmp_path}/url"\n[[auth.keys]]\nname = "a"\nkey = "file:${{DIR}}/key"\n'
    settings = load(text, DIR=str(tmp_path))
    assert settings.cameras["gym"].url == SourceUrl("rtsp://u:hunter22@h/")
    assert settings.auth.keys[0].key.matches(KEY)


def test_a_file_url_is_no_reference_and_other_texts_are_left_alone(load: Loader) -> None:
    settings = load(f'{GYM}url = "file:///clip.mp4"\noptions = {{a = "file:/x"}}\n')
    assert settings.cameras["gym"].url == SourceUrl("file:///clip.mp4")
    assert settings.cameras["gym"].options == {"a": "file:/x"}


def test_a_file_reference_works_for_options_whose_key_tells_of_a_secret(load: Loader, tmp_path: Path) -> None:
    secret = tmp_path / "nas"
    secret.write_text("Qz7Kx9vW\n")
    table = f'nas_password = "file:{secret}", deep = {{keys = ["file:{secret}"]}}, clip = "file:{secret}"'
    text = f"{GYM}options = {{{table}}}\n"
    options = load(text, HEALTHD_CAMERAS__GYM__OPTIONS__TOKEN=f"file:{secret}").cameras["gym"].options
    assert options == {
        "nas_password": "Qz7Kx9vW",
        "deep": {"keys": ["Qz7Kx9vW"]},
        "clip": f"file:{secret}",
        "token": "Qz7Kx9vW",
    }
    assert load.problems(f'{GYM}options = {{password = "file:/no/such"}}\n') == [
        "cameras.gym.options.password: the file /no/such cannot be read: No such file or directory"
    ]


def test_the_name_of_a_camera_tells_nothing_of_its_options(load: Loader) -> None:
    settings = load('[cameras.key]\nplugin = "fake"\noptions = {clip = "file:/x"}\n')
    assert settings.cameras["key"].options == {"clip": "file:/x"}


def test_a_file_reference_that_cannot_be_read_is_an_error(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    for name, reason in (
        ("nope", "cannot be read: No such file or directory"),
        ("empty", "is empty"),
        ("binary", "is not UTF-8"),
        ("large", "is too large"),
    ):
        url = f"file:{tmp_path}/{name}"
        assert load.problems(f'{GYM}url = "{url}"\n') == [f"cameras.gym.url: the file {tmp_path}/{name} {reason}"]


def test_relative_paths_are_relative_to_the_file(load: Loader, tmp_path: Path) -> None:
    settings = load(f'{GYM}url = "clips/a.mp4"\n[cameras.dev]\nplugin = "x"\nurl = "0"\n')
    assert settings.models.directory == tmp_path / "models"
    assert settings.cameras["gym"].url == SourceUrl(str(tmp_path / "clips/a.mp4"))
    assert settings.cameras["dev"].url == SourceUrl("0")
    assert load_settings(None, {}).models.directory == Path("models")


@pytest.mark.parametrize("url", ["/dev/video0", "rtsp://h/x", "v4l2:x", "videotestsrc ! appsink", "file:///a.mp4"])
def test_a_url_that_is_no_relative_path_stays(load: Loader, url: str) -> None:
    assert load(f'{GYM}url = "{url}"\n').cameras["gym"].url == SourceUrl(url)


# --- the open door


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "healthd.lan", "::ffff:10.0.0.1"])
def test_an_address_that_others_can_reach_needs_a_key_or_the_word_none(load: Loader, host: str) -> None:
    text = f'[server]\nhost = "{host}"\n'
    (problem,) = load.problems(text)
    assert "[[auth.keys]]" in problem
    assert 'auth.mode = "none"' in problem
    assert load(f'{text}[auth]\nmode = "none"\n').server.host == host
    assert load(f'{text}[[auth.keys]]\nname = "a"\nkey = "{KEY}"\n').auth.needs_key
    with pytest.raises(ValidationError, match="there is no API key"):
        Settings(server={"host": host})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(load: Loader, host: str) -> None:
    assert is_loopback(host)
    assert not load(f'[server]\nhost = "{host}"\n').auth.needs_key


def test_keys_without_a_key_is_an_error(load: Loader) -> None:
    (problem,) = load.problems('[auth]\nmode = "keys"\n')
    assert "there is no key" in problem


def test_keys_are_long_and_have_names_of_their_own(load: Loader) -> None:
    def key(name: str, text: str) -> str:
        return f'[[auth.keys]]\nname = "{name}"\nkey = "{text}"\n'

    assert load.problems(key("a", "short")) == ["auth.keys[0].key: must have at least 16 characters"]
    assert load.problems(key("a", "")) == ["auth.keys[0].key: must have at least 16 characters"]
    assert load.problems(key("a", KEY) + key("a", KEY[::-1])) == ["auth.keys: two keys have the same name"]
    assert load.problems(key("a", KEY) + key("b", KEY)) == ["auth.keys: two keys have the same key"]


def test_the_mode_none_needs_no_key_even_when_there_are_some(load: Loader) -> None:
    assert not load(f'[auth]\nmode = "none"\n[[auth.keys]]\nname = "a"\nkey = "{KEY}"\n').auth.needs_key


# --- what else settings tell


def test_the_origin_of_each_value_is_known(load: Loader) -> None:
    text = f'{GYM}url = "0"\n[cameras.gym.options]\na = 1\n[[auth.keys]]\nname = "a"\nkey = "{KEY}"\n'
    settings = load(text, HEALTHD_SERVER__PORT="1", HEALTHD_CAMERAS__GYM__OPTIONS__B="2")
    origins = {
        "server.port": "environment",
        "server.host": "default",
        "cameras.gym.url": "file",
        "cameras.gym.quality": "default",
        "cameras.gym.options.a": "file",
        "cameras.gym.options.b": "environment",
        "auth.keys[0].name": "file",
        "auth.session_hours": "default",
    }
    assert {key: settings_origin(settings, key) for key in origins} == origins


def test_an_ambiguous_url_is_pointed_out(load: Loader) -> None:
    assert settings_hints(load(f'{GYM}url = "rtsp://h/x"\n')) == ()
    (hint,) = settings_hints(load(f'{GYM}url = "rtsp://u:p@ss/word@h/x"\n'))
    assert hint.startswith("cameras.gym.url: it is not certain where the password ends")


def test_threads_are_those_that_were_set_else_those_that_are_granted() -> None:
    assert thread_budget() == usable_cpus() >= 1
    set_thread_budget(PerformanceSettings(threads=3).threads)
    assert thread_budget() == 3
    set_thread_budget(PerformanceSettings().threads)
    assert thread_budget() == usable_cpus()


def test_the_tightest_quota_of_the_control_groups_counts(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (cgroup / "a" / "b").mkdir(parents=True)
    assert cpu_quota(proc=proc, cgroup=cgroup) is None
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (cgroup / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(proc=proc, cgroup=cgroup) is None
    (cgroup / "a" / "cpu.max").write_text("150000 100000\n")
    (cgroup / "cpu.max").write_text("800000 100000\n")
    assert cpu_quota(proc=proc, cgroup=cgroup) == 1.5


def test_the_quota_of_the_older_control_groups_is_known_too(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("4:cpu,cpuacct:/docker/x\n")
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(proc=tmp_path, cgroup=tmp_path) == 2.0


# --- docs


def uncommented(text: str) -> str:
    """Return the example with every setting in it switched on."""
    return re.sub(r"(?m)^# (?=\[+[\w.-]+\]+|\w+ = )", "", text)


def keys_of(text: str) -> set[str]:
    """Return the keys that a TOML text names, cameras as NAME and lists as []."""
    table, keys = "", set()
    for line in text.splitlines():
        if header := re.match(r"\[(\[?)([\w.-]+)\]", line):
            table = re.sub(r"^cameras\.[^.]+", "cameras.NAME", header[2]) + ("[]" if header[1] else "")
            keys.add(table)
        elif key := re.match(r"(\w+) = ", line):
            keys.add(f"{table}.{key[1]}")
    return keys


def test_the_example_loads_as_it_is() -> None:
    settings = load_settings(EXAMPLE, {})
    anchored = {"models": {"directory"}, "jobs": {"directory"}}
    assert settings.model_dump(exclude=anchored) == Settings().model_dump(exclude=anchored)
    assert settings.jobs.directory == EXAMPLE.parent / "jobs"


def test_the_example_loads_with_every_line_switched_on(load: Loader, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    text = uncommented(EXAMPLE.read_text()).replace("/run/secrets/healthd-panel-key", str(tmp_path / "key"))
    settings = load(text, GYM_CAMERA_PASSWORD="hunter22")
    assert list(settings.cameras) == ["gym", "replay"]
    assert settings_hints(settings) == ()


def test_the_example_names_every_setting() -> None:
    assert set(known_keys(Settings)) - keys_of(uncommented(EXAMPLE.read_text())) == set()


def test_the_documentation_names_every_setting_and_no_other() -> None:
    documented = set(re.findall(r"(?m)^\| `([a-z]+\.[\w.\[\]]+)` \|", (ROOT / "docs/configuration.md").read_text()))
    assert documented - {"auth.keys"} == set(known_keys(Settings))


def test_every_setting_has_a_description() -> None:
    def undescribed(annotation: Any) -> Iterator[str]:
        model = model_at(annotation) or model_at(item_at(annotation)) or model_at(element_at(annotation))
        for name, field in model.model_fields.items() if model else ():
            if not field.description:
                yield f"{model}.{name}"
            yield from undescribed(field.annotation)

    assert list(undescribed(Settings)) == []
