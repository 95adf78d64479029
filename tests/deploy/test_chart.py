"""The chart: what it makes of its values, and which values it does not take."""

import base64
import http.server
import importlib.util
import json
import re
import shutil
import sys
import threading
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import healthd
from healthd.settings import Settings, load_settings
from tests.deploy.tools import CASES, CHART, DEPLOY, case, one, refused, rendered, run, template, tool
from tests.process.daemon import Daemon, run_verb

PASSWORDS = {"GYM_CAMERA_PASSWORD": "p@ss/w:rd${X}", "PANEL_KEY": "0123456789abcdef", "ADMIN_API_KEY": "k" * 40}


def pod(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = one(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def config(objects: dict[tuple[str, str], dict[str, Any]]) -> str:
    (found,) = [item["data"]["config.toml"] for item in objects.values() if "config.toml" in item.get("data", {})]
    return str(found)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "helm" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- values, schema and table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_helm_finds_nothing_to_say_about_the_chart(name: str) -> None:
    values = CHART / "values.yaml" if name == "default" else CHART / "ci" / f"{name}-values.yaml"
    done = run(tool("helm"), "lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout


def test_the_chart_is_made_for_this_version() -> None:
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert f"\nappVersion: {healthd.__version__}\n" in chart


def test_schema_and_table_say_what_values_and_settings_say(generate: ModuleType) -> None:
    for name, text in generate.made().items():
        assert (CHART / name).read_text(encoding="utf-8") == text, f"{name}: run `make chart`"


def test_every_value_has_its_comment(generate: ModuleType) -> None:
    values = list(generate.read_values((CHART / "values.yaml").read_text(encoding="utf-8")))
    assert len(values) > 90
    assert [value.path for value in values if not value.meaning] == []


def test_the_schema_is_closed_everywhere() -> None:
    """But for objects that Kubernetes or a plugin checks, and maps with names of the user's choice."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    open_ones = set()

    def look(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and node.get("additionalProperties") is not False:
                inner = node.get("additionalProperties")
                if not (isinstance(inner, dict) and "type" in inner):
                    open_ones.add(path)
            for key, value in node.items():
                look(value, f"{path}.{key}" if key not in {"properties", "items", "definitions"} else path)

    look(schema, "")
    theirs = {".networkPolicy.ingressFrom.namespaceSelector", ".networkPolicy.ingressFrom.podSelector"}
    theirs |= {".networkPolicy.ingressFrom.ipBlock", ".resources.claims", ".extraVolumes", ".global"}
    theirs |= {f".affinity.{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    assert open_ones == theirs | {".CameraSettings.options"}


@pytest.mark.parametrize(
    ("values", "reasons"),
    [
        ({"server": {"prot": 1}}, ["server", "prot is not allowed"]),
        ({"camera": {}}, ["camera is not allowed"]),
        ({"cameras": {"gym": {"plugin": "yolo-pose", "ulr": "x"}}}, ["cameras.gym", "ulr is not allowed"]),
        ({"cameras": {"gym": {"url": "x"}}}, ["cameras.gym", "plugin is required"]),
        ({"cameras": {"the gym": {"plugin": "x"}}}, ["cameras", "the gym is not allowed"]),
        ({"cameras": {"gym": {"plugin": "x", "predict_fps": 500}}}, ["cameras.gym.predict_fps", "equal to 120"]),
        ({"shutdown": {"grace_seconds": "long"}}, ["shutdown.grace_seconds", "Expected: number"]),
        ({"image": {"digest": "latest"}}, ["image.digest", "pattern"]),
        ({"user": {"id": 0}}, ["user.id", "greater than or equal to 1"]),
        ({"service": {"type": "ExternalName"}}, ["service.type", "must be one of"]),
        ({"resources": {"limits": {"memory": "2 GB"}}}, ["resources.limits.memory", "pattern"]),
        ({"server": {"host": "127.0.0.1"}}, ["the Service and the probes must reach healthd"]),
        ({"apiKey": {"create": False}}, ["apiKey: everybody would be let in"]),
        (
            {"auth": {"keys": [{"name": "a", "key": "plain-text-key-123"}]}},
            ["the key of `a` would stand in a ConfigMap"],
        ),
        ({"cameras": {"gym": {"plugin": "x", "url": "rtsp://u:pw@cam"}}}, ["cameras.gym.url", "secretEnv"]),
        ({"cameras": {"gym": {"plugin": "x", "url": "rtsp://${U}:u:pw@cam"}}}, ["cameras.gym.url", "secretEnv"]),
        ({"cameras": {"gym": {"plugin": "x", "url": "http://cam/a?user=b&pwd=u:pw@"}}}, ["cameras.gym.url"]),
        ({"jobs": {"redis_url": "redis://:u:pw@queue/0"}}, ["jobs.redis_url", "secretEnv"]),
        (
            {"cameras": {"gym": {"plugin": "x", "options": {"login": [{"apiKey": "plain-text-key-123"}]}}}},
            ["cameras.gym.options.login.apiKey: would stand in a ConfigMap"],
        ),
        ({"existingConfig": {"secret": "s"}, "cameras": {"a": {"plugin": "x"}}}, ["cameras: would not be read"]),
        ({"existingConfig": {"secret": "s"}, "jobs": {"enabled": False}}, ["jobs.enabled: would not be read"]),
        ({"shutdown": {"grace_seconds": None}}, ["shutdown.grace_seconds: the chart must know it"]),
        ({"env": {"HEALTHD_SERVER__PORT": "9000"}}, ["HEALTHD_SERVER__PORT: the chart must know it", "server.port"]),
        ({"existingConfig": {"secret": "s", "configMap": "c"}}, ["not both"]),
        ({"v4l2": {"devices": ["/dev/video0"]}}, ["v4l2.privileged"]),
        ({"ingress": {"enabled": True}}, ["ingress.hosts"]),
        ({"httpRoute": {"enabled": True}}, ["httpRoute.parentRefs"]),
    ],
    ids=lambda given: json.dumps(given)[:40] if isinstance(given, dict) else "",
)
def test_values_that_are_wrong_are_refused_with_the_place_and_the_reason(
    values: dict[str, Any], reasons: list[str]
) -> None:
    told = refused(values)
    for reason in reasons:
        assert reason in told
    assert "plain-text-key-123" not in told
    assert "u:pw@" not in told


def test_no_table_is_passed_over_where_a_file_of_ones_own_is_read() -> None:
    """What the chart does not tell healthd by a variable is refused, in each table that healthd has."""
    told = (CHART / "templates" / "_pod.tpl").read_text(encoding="utf-8")
    asked = set()
    defaults = Settings(auth={"mode": "none"}).model_dump(mode="json")  # type: ignore[arg-type]
    for section, keys in {**defaults, "cameras": {"gym": {"plugin": "x"}}}.items():
        for key, value in keys.items():
            if value is None or f"- name: HEALTHD_{section.upper()}__{key.upper()}\n" in told:
                continue
            reason = refused({section: {key: value}, "existingConfig": {"secret": "s"}})
            assert section in reason
            assert "would not be read, because existingConfig is set" in reason
            asked.add(section)
            break
    assert asked == set(Settings.model_fields) - {"shutdown"}, "of which the chart tells all"


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "minimal", "full"])
def test_the_values_arrive_as_they_were_written(name: str, tmp_path: Path) -> None:
    """Also numbers, which Sprig's toToml would turn into floats; and healthd takes them."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    said = {} if name == "default" else yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text("utf-8"))
    wanted = {}
    for section in Settings.model_fields:
        merged = {**values[section], **said.get(section, {})}
        if merged:
            wanted[section] = merged
    if name != "full":
        wanted["auth"] = {"keys": [{"name": "admin", "key": "${ADMIN_API_KEY}", "scope": "admin"}]}
    text = config(case(name))
    found = tomllib.loads(text)
    assert found == wanted
    assert isinstance(found["server"]["port"], int)

    file = tmp_path / "config.toml"
    kiosk = tmp_path / "kiosk"
    kiosk.write_text("fedcba9876543210", encoding="utf-8")
    file.write_text(text.replace("/run/secrets/kiosk/key", str(kiosk)), encoding="utf-8")
    settings = load_settings(file, PASSWORDS)
    if name != "default":
        url = settings.cameras["gym"].url
        assert url is not None
        assert "p%40ss%2Fw%3Ard%24%7BX%7D@gym-cam.lan" in url.reveal()


def test_any_text_and_any_nesting_comes_through() -> None:
    options = {
        "text": 'a "b" \\ c\n\t<&> \U0001f3cb é # = [x]',
        "numbers": [0, -1, 0.25, 1e-7, 4294967296],
        "a key": {"b.c": {"d": [{"e": {"f": [[1], []]}, "g": True}]}},
        "empty": {},
    }
    camera = {"plugin": "x", "url": "", "options": {**options, "absent": None}}
    found = tomllib.loads(config(rendered({"cameras": {"gym": camera}})))
    assert found["cameras"]["gym"]["options"] == options


def test_the_defaults_are_taken_and_check_config_names_what_is_wrong(tmp_path: Path) -> None:
    """As the init container runs it, with what Kubernetes injects for Services `healthd` and `healthd-metrics`."""
    (tmp_path / "config.toml").write_text(config(case("default")), encoding="utf-8")
    command = pod(case("default"))["initContainers"][0]["command"]
    assert command == ["python", "-m", "healthd", "check-config", "--config", "/etc/healthd/config.toml"]
    injected = {}
    for name, port in (("HEALTHD", "HTTP"), ("HEALTHD_METRICS", "HTTP_METRICS")):
        link = f"{name}_PORT_8080_TCP"
        injected |= {
            f"{name}_SERVICE_HOST": "10.43.7.9",
            f"{name}_SERVICE_PORT": "8080",
            f"{name}_SERVICE_PORT_{port}": "8080",
            f"{name}_PORT": "tcp://10.43.7.9:8080",
            link: "tcp://10.43.7.9:8080",
            f"{link}_PROTO": "tcp",
            f"{link}_PORT": "8080",
            f"{link}_ADDR": "10.43.7.9",
        }
    assert load_settings(tmp_path / "config.toml", {**injected, **PASSWORDS}).cameras == {}

    wrong = rendered({"cameras": {"gym": {"plugin": "no-such-plugin"}}})
    (tmp_path / "config.toml").write_text(config(wrong), encoding="utf-8")
    done = run_verb(*command[3:5], "config.toml", folder=tmp_path, **injected, **PASSWORDS)
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("config.toml: cameras.gym: ")
    assert "no-such-plugin" in told


def test_a_url_or_an_option_that_holds_no_secret_is_taken() -> None:
    urls = ["rtsp://u:${PW}@cam:554/x@y", "rtsp://u:${PW}@[::1]:554/", "rtsp://${HOST}:${PORT}/x@y", "/dev/video0"]
    options = {"keypoints": "all", "password": "${PW}", "tokens": 5, "token_file": "", "a": {"secret": "file:/run/x"}}
    cameras = {f"c{index}": {"plugin": "x", "url": url, "options": options} for index, url in enumerate(urls)}
    assert len(tomllib.loads(config(rendered({"cameras": cameras})))["cameras"]) == len(urls)


def test_a_file_of_ones_own_is_told_what_the_chart_must_know() -> None:
    container = pod(case("hardened"))["containers"][0]
    told = {item["name"]: item["value"] for item in container["env"]}
    assert load_settings(None, {**told, "HEALTHD_AUTH__MODE": "none"}).model_dump(
        include={"server": {"host", "port"}, "models": {"directory", "cache_directory"}, "jobs": {"directory"}},
        mode="json",
    ) == {
        "server": {"host": "0.0.0.0", "port": 8080},
        "models": {"directory": "/var/lib/healthd/models", "cache_directory": "/var/lib/healthd/state/cache"},
        "jobs": {"directory": "/var/lib/healthd/state/jobs"},
    }


def test_what_else_the_chart_must_know_is_told_too() -> None:
    values = {"server": {"root_path": "/cams"}, "models": {"load_timeout_seconds": 600}}
    container = pod(rendered({**values, "existingConfig": {"secret": "s"}}))["containers"][0]
    told = {item["name"]: item["value"] for item in container["env"]}
    settings = load_settings(None, {**told, "HEALTHD_AUTH__MODE": "none"})
    assert (settings.server.root_path, settings.models.load_timeout_seconds) == ("/cams", 600)


def test_an_upgrade_keeps_the_random_key(tmp_path: Path) -> None:
    """Helm asks a cluster which of its objects it has: here one that has nothing but the Secret of the key."""
    kept = base64.b64encode(b"kept over upgrades").decode()
    has = {
        "/api/v1": {"groupVersion": "v1", "resources": [{"name": "secrets", "namespaced": True, "kind": "Secret"}]},
        "/api/v1/namespaces/home/secrets/cams-healthd-api-key": {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "cams-healthd-api-key"},
            "data": {"api-key": kept},
        },
    }

    class Cluster(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(has.get(self.path.partition("?")[0], {"kind": "Status", "code": 404})).encode()
            self.send_response(404 if b'"code"' in body else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cluster) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        named = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        access = {"clusters": [named], "contexts": [context], "users": [{"name": "u", "user": {}}]}
        file = tmp_path / "kubeconfig"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **access}), "utf-8")
        command = ("template", "cams", CHART, "--namespace", "home", "--show-only", "templates/secret.yaml")
        done = run(tool("helm"), *command, "--dry-run=server", "--kubeconfig", file)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["data"] == {"api-key": kept}
    assert one(case("default"), "Secret")["data"]["api-key"] != kept


def test_a_changed_configuration_starts_a_new_pod() -> None:
    def checksum(values: dict[str, Any]) -> str:
        annotations = one(rendered(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum({}) == checksum({"service": {"port": 9000}})
    assert checksum({}) != checksum({"snapshots": {"quality": 80}})
    watching = one(rendered({"config": {"watch": True}}), "Deployment")["spec"]["template"]["metadata"]
    assert "annotations" not in watching, "healthd reads the change by itself"


# -- the pod -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shutdown", "seconds"), [({}, 20), ({"grace_seconds": 7.5, "drain_seconds": 20}, 33), ({"drain_seconds": 0}, 10)]
)
def test_kubernetes_waits_for_the_end_of_the_stop(shutdown: dict[str, float], seconds: int) -> None:
    objects = rendered({"shutdown": shutdown})
    assert pod(objects)["terminationGracePeriodSeconds"] == seconds
    settings = Settings.model_validate(
        {"shutdown": tomllib.loads(config(objects))["shutdown"], "auth": {"mode": "none"}}
    ).shutdown
    assert seconds - 1 < settings.grace_seconds + settings.drain_seconds + 5 <= seconds


@pytest.mark.parametrize("name", CASES)
def test_the_pod_is_closed(name: str) -> None:
    spec = pod(case(name))
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    deployment = one(case(name), "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    assert deployment["replicas"] == 1
    for container in [*spec["initContainers"], *spec["containers"]]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        camera_of_the_node = name == "full" and container["name"] == "healthd"
        assert security["privileged"] is security["allowPrivilegeEscalation"] is camera_of_the_node
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]


def test_what_healthd_writes_to_is_mounted_and_nothing_else_is_writable() -> None:
    mounts = {item["mountPath"]: item for item in pod(case("default"))["containers"][0]["volumeMounts"]}
    assert {path for path, item in mounts.items() if not item.get("readOnly")} == {
        *("/var/lib/healthd/models", "/var/lib/healthd/state", "/tmp"),
    }
    settings = tomllib.loads(config(case("default")))
    for path in (settings["models"]["directory"], settings["models"]["cache_directory"], settings["jobs"]["directory"]):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts)


def test_a_claim_that_is_shared_is_left_alone() -> None:
    """Read-only as a volume too: else Kubernetes hands its files to the group of this pod."""
    claims = {item["name"]: item["persistentVolumeClaim"] for item in pod(case("hardened"))["volumes"][1:3]}
    assert claims == {"models": {"claimName": "models", "readOnly": True}, "state": {"claimName": "cams-healthd-state"}}


def test_a_certificate_in_a_secret_is_served_and_asked_for() -> None:
    values = {"tls": {"secretName": "cams-tls"}, "metrics": {"serviceMonitor": {"enabled": True}}}
    objects = rendered(values)
    container = pod(objects)["containers"][0]
    variables = {item["name"]: item.get("value") for item in container["env"]}
    (mount,) = [item for item in container["volumeMounts"] if item["name"] == "tls"]
    assert mount["readOnly"]
    assert variables["HEALTHD_SERVER__TLS_CERT"] == f"{mount['mountPath']}/tls.crt"
    assert variables["HEALTHD_SERVER__TLS_KEY"] == f"{mount['mountPath']}/tls.key"
    probes = [container[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "liveness", "readiness")]
    assert probes == ["HTTPS"] * 3
    assert objects["ServiceMonitor", "cams-healthd"]["spec"]["endpoints"][0]["scheme"] == "https"
    assert pod(case("default"))["containers"][0]["livenessProbe"]["httpGet"]["scheme"] == "HTTP"
    twice = template({**values, "server": {"tls_cert": "/a", "tls_key": "/b"}})
    assert "leave server.tls_cert and server.tls_key out" in twice.stderr


def test_the_start_may_take_as_long_as_loading_a_model() -> None:
    for values, least in (({}, 120), ({"models": {"load_timeout_seconds": 600}}, 600)):
        probe = pod(rendered(values))["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= least + 30
    container = pod(case("default"))["containers"][0]
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_reason_of_a_failed_start_is_the_message_of_its_container() -> None:
    """The end of its log: that of pip, of check-config or of healthd itself."""
    containers = [item for key in ("initContainers", "containers") for item in pod(case("full"))[key]]
    assert [item["name"] for item in containers] == ["plugins", "check-config", "healthd"]
    assert {item["terminationMessagePolicy"] for item in containers} == {"FallbackToLogsOnError"}


def test_hardware_is_there_only_where_it_is_asked_for() -> None:
    plain = json.dumps(pod(case("default")))
    assert not re.search(r"hostPath|hostNetwork|gpu|supplementalGroups|\"privileged\": true", plain)
    full = pod(case("full"))
    assert full["hostNetwork"] is True
    assert full["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert full["securityContext"]["supplementalGroups"] == [44]
    given = pod(rendered({"v4l2": {"resource": "squat.ai/video"}}))
    assert given["containers"][0]["resources"]["limits"]["squat.ai/video"] == 1
    assert given["containers"][0]["securityContext"]["privileged"] is False


def test_plugins_are_installed_beside_the_image_by_one_that_runs_before() -> None:
    first, check = pod(case("full"))["initContainers"]
    assert first["command"][:2] == ["sh", "-ec"]
    assert first["command"][-3:] == ["--no-deps", "healthd-foo==1.2", "healthd-bar>=2"]
    assert "--no-index" in first["command"]
    assert "--no-index" not in pod(rendered({"plugins": {"pip": ["healthd-foo"]}}))["initContainers"][0]["command"]
    assert check["command"][0] == pod(case("full"))["containers"][0]["command"][0] != "python"


def test_the_notes_tell_the_next_step(tmp_path: Path) -> None:
    chart = tmp_path / "healthd"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}\n', encoding="utf-8"
    )

    def notes(values: dict[str, Any]) -> str:
        done = template(values, chart=chart)
        assert done.returncode == 0, done.stderr
        (found,) = [item["text"] for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "Notes"]
        return str(found)

    told = notes({})
    for wanted in ("service/cams-healthd 8080", "secret cams-healthd-api-key", "first camera", "helm -n home test"):
        assert wanted in told
    assert "WARNING: models are lost" in told
    keep = {"models": {"enabled": True}, "state": {"enabled": True}}
    quiet = notes({"persistence": keep, "cameras": {"gym": {"plugin": "x"}}})
    assert "WARNING" not in quiet
    assert "first camera" not in quiet


@pytest.mark.process
def test_the_default_values_become_ready_and_pass_the_test_of_the_chart(tmp_path: Path) -> None:
    """With no camera and no model. The test pod's own command asks; only the address is one of this machine."""
    here = {"HEALTHD_SERVER__HOST": "127.0.0.1", "HEALTHD_SERVER__PORT": "0", **PASSWORDS}
    with Daemon(tmp_path, config(case("default")), **here) as daemon:
        daemon.until_ready()
        command = one(case("default"), "Pod")["spec"]["containers"][0]["command"]
        assert command[0] == "python"
        done = run(sys.executable, *command[1:-1], daemon.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["/healthz", "200", "/readyz", "200", "/metrics", "200"]
        assert daemon.get("/api/v1/cameras").status_code == 401
        assert daemon.stop()[0] == 0
