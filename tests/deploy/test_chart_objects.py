"""What the chart makes is what Kubernetes knows."""

import importlib.util
import json
from typing import Any

import pytest
import yaml

from tests.deploy.other_kinds import OTHERS
from tests.deploy.tools import CASES, CHART, case, one


def versions() -> list[str]:
    """Return the oldest Kubernetes that the chart names, and the newest three."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        return ["none"]
    from kubernetes_validate.utils import all_versions, major_minor  # noqa: PLC0415

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    oldest = major_minor(chart["kubeVersion"].removeprefix(">="))
    known = list(dict.fromkeys(major_minor(version) for version in all_versions()))
    assert oldest in known
    return [oldest, *known[-3:]]


@pytest.mark.parametrize("version", versions())
def test_the_objects_are_valid(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate").validate
    seen = set()
    for name in CASES:
        for (kind, _), item in case(name).items():
            if kind not in OTHERS and (text := json.dumps(item, sort_keys=True)) not in seen:
                seen.add(text)
                validate(item, version, strict=True)
    assert len(seen) > 12


@pytest.mark.parametrize("kind", OTHERS)
def test_the_objects_that_kubernetes_itself_does_not_have_are_valid_too(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install kubernetes-validate")
    check = jsonschema.Draft202012Validator(OTHERS[kind])
    item = one(case("full"), kind)
    assert [error.message for error in check.iter_errors(item)] == []
    item = json.loads(json.dumps(item).replace('"name":', '"nmae":'))
    assert any("'nmae' was unexpected" in error.message for error in check.iter_errors(item))


def test_everything_that_can_be_made_is_made_and_the_default_makes_little() -> None:
    assert {kind for kind, _ in case("default")} == {
        *("ServiceAccount", "Secret", "ConfigMap", "Service", "Deployment", "Pod"),
    }
    assert {kind for kind, _ in case("full")} == {
        *("ServiceAccount", "ConfigMap", "Service", "Deployment", "Pod", "PersistentVolumeClaim", "Ingress"),
        *("NetworkPolicy", *OTHERS),
    }


def test_the_service_leads_to_the_pod_and_routes_and_monitors_to_the_service() -> None:
    for name in CASES:
        objects = case(name)
        service, deployment = one(objects, "Service"), one(objects, "Deployment")
        labels: dict[str, Any] = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
        test_pod = one(objects, "Pod")
        assert not service["spec"]["selector"].items() <= test_pod["metadata"]["labels"].items()
        assert test_pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        for where in ("nodeSelector", "tolerations"):  # the image may be for one kind of node
            assert test_pod["spec"].get(where) == deployment["spec"]["template"]["spec"].get(where)
        port = service["spec"]["ports"][0]["port"]
        scheme = "https" if name == "full" else "http"
        assert test_pod["spec"]["containers"][0]["command"][-1] == f"{scheme}://{service['metadata']['name']}:{port}"
    full = case("full")
    service = one(full, "Service")
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    (rule,) = one(full, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": name, "port": port}]
    assert one(full, "ServiceMonitor")["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    (http,) = one(full, "Ingress")["spec"]["rules"]
    assert http["http"]["paths"][0]["backend"]["service"] == {"name": name, "port": {"name": "http"}}


def test_claims_outlive_the_release() -> None:
    claim = one(case("full"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["storageClassName"] == "fast"


def test_no_password_stands_in_any_object() -> None:
    """Only references do; the random key of the API stands in a Secret."""
    for name in CASES:
        for (kind, _), item in case(name).items():
            if kind == "Secret":
                assert set(item["data"]) == {"api-key"}
            else:
                assert "password" not in json.dumps(item).lower().replace("gym_camera_password", "")
