"""Methods: every path says which it takes, a wrong one is an error like all others, and so is what is no path."""

from typing import Any

import pytest

from tests.api.house import ADMIN, KEYS, assert_error, open_house
from tests.fakes import FakeSource

PREFLIGHT = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x-api-key"}
TAKEN = {
    "/": "GET, OPTIONS",
    "/healthz": "GET, OPTIONS",
    "/schema": "GET, OPTIONS",
    "/static/wall.js": "GET, HEAD, OPTIONS",
    "/api/v1/cameras/gym": "GET, OPTIONS, PATCH",
    "/api/v1/cameras/gym/snapshot": "GET, HEAD, OPTIONS",
    "/api/v1/auth/session": "DELETE, GET, OPTIONS",
    "/api/v1/models/a/b.onnx": "DELETE, GET, OPTIONS",
    "/api/v1/models/a/b.onnx/load": "OPTIONS, POST",
    "/api/v1/ws": "GET, OPTIONS",
}


async def test_a_path_takes_what_it_says_and_refuses_the_rest_with_405() -> None:
    async with open_house({"gym": FakeSource()}, auth={"keys": KEYS}, headers=ADMIN) as house:
        for path, methods in TAKEN.items():
            asked = await house.client.options(path)
            assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b""), path
            for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - {*methods.split(", ")}:
                refused = await house.client.request(method, path)
                assert (refused.status_code, refused.headers["allow"]) == (405, methods), f"{method} {path}"
                if method != "HEAD":
                    assert assert_error(refused, 405)["detail"] == f"this path takes {methods}"
        assert_error(await house.client.options("/nothing"), 404)


async def test_what_a_path_takes_is_told_without_a_key() -> None:
    async with open_house({"gym": FakeSource()}, auth={"keys": KEYS}) as house:
        assert (await house.client.options("/api/v1/cameras/gym")).headers["allow"] == "GET, OPTIONS, PATCH"


@pytest.mark.parametrize("path", ["/schema/nothing", "/schema/openapi.yaml", "/static/nothing", "/nothing", "/api/v1"])
async def test_an_unknown_path_is_an_error_like_all_others(path: str) -> None:
    async with open_house() as house:
        assert_error(await house.get(path), 404)


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": ""}])
async def test_a_refused_preflight_is_an_error_like_all_others(headers: dict[str, str]) -> None:
    async with open_house({"gym": FakeSource()}, server={"cors_origins": ["https://panel.lan"]}) as house:
        refused = await house.client.options("/api/v1/cameras/gym", headers={**headers, **PREFLIGHT})
        assert "server.cors_origins" in assert_error(refused, 403)["detail"]
        assert not [name for name in refused.headers if name.startswith("access-control")]
        panel = {**PREFLIGHT, "Origin": "https://panel.lan"}
        allowed = await house.client.options("/api/v1/cameras/gym", headers=panel)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "https://panel.lan")
        asked = await house.client.options("/api/v1/cameras/gym", headers=headers)
        assert (asked.status_code, asked.headers["allow"]) == (204, "GET, OPTIONS, PATCH")


@pytest.mark.parametrize("sections", [{}, {"auth": {"keys": KEYS}}])
async def test_parameters_that_nobody_knows_are_ignored_in_every_query(sections: dict[str, Any]) -> None:
    async with open_house({"gym": FakeSource()}, headers=ADMIN, **sections) as house:
        document = (await house.get("/schema")).json()
        for path, item in document["paths"].items():
            if "get" not in item or path.endswith("/stream"):
                continue
            here = path.format(name="gym", model_id="any", job_id="0" * 16)
            plain, busted = await house.get(here), await house.get(f"{here}?_=1700000000&cb=&t=a&t=b&%00")
            assert busted.status_code == plain.status_code, here
