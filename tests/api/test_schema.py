"""The OpenAPI document: complete and true. That each answer of each test stands in it is checked by `house.py`."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute

from healthd.api import openapi
from healthd.api.openapi import complete
from healthd.api.origins import PROBES
from healthd.app import create_app
from tests.api.house import KEYS, METHODS, House, open_house
from tests.fakes import FakeSource

Operation = tuple[str, str, dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house({"gym": FakeSource()}, auth={"keys": KEYS}) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(house: House) -> dict[str, Any]:
    answer = await house.get("/schema")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.oai.openapi+json"
    told: dict[str, Any] = answer.json()
    return told


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def nodes(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_is_made_once_however_many_ask_and_not_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made_on: list[threading.Thread] = []

    def noted(*arguments: Any, **options: Any) -> None:
        made_on.append(threading.current_thread())
        complete(*arguments, **options)

    monkeypatch.setattr(openapi, "complete", noted)
    async with open_house({}) as house:
        answers = await asyncio.gather(*(house.get("/schema") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert [thread.name for thread in made_on] == ["openapi"]


async def test_it_says_what_it_describes(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert (document["info"]["title"], document["info"]["version"]) == ("healthd", "1")
    assert document["servers"] == [{"url": "/"}]


async def test_every_route_that_is_served_stands_in_it(house: House, document: dict[str, Any]) -> None:
    served = {
        (str(method).lower(), route.path_format)
        for route in create_app(house.services).routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if handler.resolve_include_in_schema() and str(method) != "OPTIONS"
    }
    described = {(method, path) for method, path, _ in operations(document)}
    assert described == served
    assert {("get", "/api/v1/cameras/{name}/snapshot"), ("head", "/api/v1/cameras/{name}/snapshot")} <= described


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        assert found


async def test_every_operation_is_named_once_and_summed_up(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations(document):
        assert operation["summary"], f"{method} {path}"
        assert operation["tags"], f"{method} {path}"


async def test_every_parameter_of_a_path_is_described_and_every_parameter_means_something(
    document: dict[str, Any],
) -> None:
    for method, path, operation in operations(document):
        parameters = operation.get("parameters", [])
        in_path = {one["name"] for one in parameters if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path)), f"{method} {path}"
        for one in parameters:
            assert one.get("description"), f"{method} {path}: {one['name']}"
            assert one["schema"], f"{method} {path}: {one['name']}"
            assert one["required"] is (one["in"] == "path") or one["required"], f"{method} {path}: {one['name']}"


async def test_every_answer_has_a_meaning_and_every_error_the_one_shape(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        responses = operation["responses"]
        assert [status for status in responses if status[0] == "2" or status == "101"], f"{method} {path}"
        assert "default" in responses
        for status, response in responses.items():
            where = f"{method} {path} {status}"
            assert response["description"], where
            if method == "head" or status in {"204", "304"}:
                assert not response.get("content"), where
            elif status[0] in "45" and path not in {"/readyz", "/health"}:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}, where
            for name, header in response.get("headers", {}).items():
                assert header.get("schema"), f"{where} {name}"


async def test_what_takes_parameters_or_a_body_can_refuse_them(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        queried = [one for one in operation.get("parameters", []) if one["in"] == "query"]
        reads = queried or "requestBody" in operation or path == "/api/v1/config/reload"  # which reads a file
        assert ("422" in operation["responses"]) is bool(reads), f"{method} {path}"
        if "requestBody" in operation:
            assert "400" in operation["responses"], f"{method} {path}"


ASKING = {("post", "/api/v1/infer"), ("post", "/api/v1/detect")}
"""Questions that have a body: a key that may read may ask them."""


async def test_what_needs_a_key_says_so_and_what_needs_an_admin_too(document: dict[str, Any]) -> None:
    schemes = set(document["components"]["securitySchemes"])
    assert schemes == {"key", "bearer", "session"}
    for method, path, operation in operations(document):
        is_open = not path.startswith("/api/v1") or path.startswith("/api/v1/auth/")
        if is_open:
            assert operation["security"] == [], f"{method} {path}"
        else:
            assert {name for need in operation["security"] for name in need} == schemes, f"{method} {path}"
            assert "401" in operation["responses"], f"{method} {path}"
        asking = method in {"get", "head"}
        admins = {"/api/v1/diagnostics", "/api/v1/sessions"}
        assert ("403" in operation["responses"]) is (not asking or path in admins), f"{method} {path}"
        if "403" in operation["responses"]:
            told = operation["responses"]["403"]["description"]
            assert ("scope `admin`" in told) is not (is_open or (method, path) in ASKING), f"{method} {path}"
            assert ("another site" in told) is not asking, f"{method} {path}"


async def test_where_no_key_is_needed_none_is_described() -> None:
    async with open_house() as keyless:
        told = (await keyless.get("/schema")).json()
        for method, path, operation in operations(told):
            assert operation["security"] == [], f"{method} {path}"
            assert "scope" not in operation["responses"].get("403", {}).get("description", ""), f"{method} {path}"
            assert ("421" in operation["responses"]) is (path not in PROBES), f"{method} {path}"


async def test_a_snapshot_is_described_with_its_headers_bounds_and_answers(document: dict[str, Any]) -> None:
    item = document["paths"]["/api/v1/cameras/{name}/snapshot"]
    assert set(item["get"]["responses"]) == {"200", "304", "401", "404", "422", "429", "503", "default"}
    picture = item["get"]["responses"]["200"]
    assert picture["content"] == {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
    assert set(picture["headers"]) >= {
        "ETag",
        "Cache-Control",
        "X-Frame-Id",
        "X-Frame-Timestamp",
        "X-Frame-Age-Ms",
        "Content-Length",
    }
    assert "Retry-After" in item["get"]["responses"]["503"]["headers"]
    schemas = {one["name"]: one["schema"] for one in item["get"]["parameters"]}
    bounds = {name: (schema.get("minimum"), schema.get("maximum")) for name, schema in schemas.items()}
    assert bounds["q"] == (1, 95)
    assert bounds["width"] == (16, 8192)
    assert bounds["max_age"] == bounds["after"] == (0, None)
    assert bounds["wait"] == (0, 60_000)


async def test_the_two_words_of_readiness_and_strict_health_are_described(document: dict[str, Any]) -> None:
    for path, shape in (("/readyz", "Status"), ("/health", "Health")):
        for status in ("200", "503"):
            schema = document["paths"][path]["get"]["responses"][status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{shape}"}


async def test_what_is_answered_has_the_shape_that_is_described(house: House, document: dict[str, Any]) -> None:
    admin = {"X-Api-Key": KEYS[1]["key"]}
    for path in ("/healthz", "/readyz", "/health", "/api/v1/state", "/api/v1/cameras", "/api/v1/plugins"):
        answer = await house.get(path, headers=admin)
        schema = document["paths"][path]["get"]["responses"][str(answer.status_code)]["content"]["application/json"]
        assert_matches(answer.json(), schema["schema"], document, path)
    camera = await house.get("/api/v1/cameras/gym", headers=admin)
    assert_matches(camera.json(), {"$ref": "#/components/schemas/Camera"}, document, "camera")
    error = await house.get("/api/v1/cameras/nobody", headers=admin)
    assert_matches(error.json(), {"$ref": "#/components/schemas/Error"}, document, "error")


KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": list,
}


def assert_matches(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str) -> None:
    """Check a value against the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "oneOf" in schema:
        failures = []
        for one in schema["oneOf"]:
            try:
                return assert_matches(value, one, document, where)
            except AssertionError as exc:
                failures.append(exc)
        raise AssertionError(f"{where}: {value!r} is none of {schema['oneOf']}")
    kind = schema.get("type")
    if kind is None:
        return None
    assert isinstance(value, KINDS[kind]), f"{where}: {value!r} is no {kind}"
    assert not (isinstance(value, bool) and kind != "boolean"), f"{where}: {value!r} is no {kind}"
    if kind == "array" and "items" in schema:
        for item in value:
            assert_matches(item, schema["items"], document, f"{where}[]")
    if kind == "object":
        known = schema.get("properties", {})
        assert set(schema.get("required", [])) <= set(value), where
        for key, inner in value.items():
            rest = schema.get("additionalProperties", {})
            assert key in known or rest or not known, f"{where}.{key} is not described"
            assert_matches(inner, known.get(key, rest if isinstance(rest, dict) else {}), document, f"{where}.{key}")
    return None


async def test_what_takes_a_picture_is_described_with_its_form_its_bounds_and_its_answers(
    document: dict[str, Any],
) -> None:
    for path, names in (
        ("/api/v1/infer", "model annotated conf iou max_det imgsz half device text_queries question"),
        ("/api/v1/detect", "confidence"),
    ):
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]
        form = content["multipart/form-data"]["schema"]
        assert operation["requestBody"]["required"]
        assert form["required"] == ["file"]
        assert set(form["properties"]) == {"file", *names.split()}
        assert {"image/jpeg", "image/png", "image/webp", "image/bmp"} == set(content) - {"multipart/form-data"}
        assert [one["name"] for one in operation["parameters"]] == names.split()
        wanted = {"200", "400", "404", "408", "413", "415", "422", "500", "502", "503"}
        assert wanted <= set(operation["responses"])
        assert "Retry-After" in operation["responses"]["503"]["headers"]
    infer = document["paths"]["/api/v1/infer"]["post"]
    assert set(infer["responses"]["200"]["content"]) == {"application/json", "image/jpeg"}
    bounds = {one["name"]: (one["schema"].get("minimum"), one["schema"].get("maximum")) for one in infer["parameters"]}
    assert (bounds["conf"], bounds["max_det"], bounds["imgsz"]) == ((0, 1), (1, 1000), (32, 4096))
