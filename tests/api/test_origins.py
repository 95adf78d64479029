"""Pages of other sites: they give no orders, and read nothing by a name of their own. Others notice none of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.api.house import ADMIN, ADMIN_KEY, KEYS, House, assert_error, open_house
from tests.eventually import eventually
from tests.fakes import FakeSource

PAUSE = "/api/v1/cameras/gym/pause"
EVIL = "https://evil.example"
READS = ("/", "/static/wall.js", "/schema", "/api/v1/cameras", "/api/v1/cameras/gym/snapshot", "/nothing")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house(
        {"gym": FakeSource()},
        server={"cors_origins": ["https://panel.lan"], "allowed_hosts": ["cams.lan", "[fd00::7]"]},
    ) as opened:
        await eventually(lambda: opened.runner().has_frame)
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ordered(house: House, headers: dict[str, str]) -> int:
    """Order a pause with these headers; return the status. Whatever was done is undone."""
    answer = await house.client.post(PAUSE, headers=headers)
    if answer.status_code == 202:
        await house.client.post("/api/v1/cameras/gym/resume")
        await eventually(lambda: house.runner().has_frame)
    else:
        assert_error(answer, 403)
        assert "server.cors_origins" in answer.json()["detail"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert house.runner().health.state == "live"
    return answer.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "Cross-Site"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:99999999"},
        {"Origin": "http://[::1"},
        {"Origin": "https://panel.lan.evil.example"},
        {"Origin": "http://panel.lan"},
        {"Origin": "chrome-extension://abc"},
        {"Origin": EVIL, "X-Forwarded-Host": "evil.example"},
        {"Origin": EVIL, "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_page_of_another_site_gives_no_orders(house: House, headers: dict[str, str]) -> None:
    assert await ordered(house, headers) == 403


async def test_a_page_of_another_site_is_refused_whatever_it_orders(house: House) -> None:
    for method, path in (
        ("PATCH", "/api/v1/cameras/gym"),
        ("POST", "/api/v1/cameras/gym/restart"),
        ("POST", "/api/v1/auth/login"),
        ("DELETE", "/api/v1/auth/session"),
        ("PUT", "/healthz"),
        ("POST", "/nothing"),
    ):
        assert_error(await house.client.request(method, path, headers={"Origin": EVIL}), 403)


async def test_whatever_comes_from_here_or_from_no_page_gives_orders(house: House) -> None:
    for headers in (
        {},
        {"Origin": house.url},
        {"Origin": house.url, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://panel.lan"},
        {"Origin": "https://panel.lan", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://cams.lan", "Host": "cams.lan"},
        {"Origin": "https://cams.lan", "Host": "Cams.lan:443"},
        {"Origin": "http://cams.lan:80", "Host": "cams.lan"},
        {"Origin": "https://outside.example", "Sec-Fetch-Site": "same-origin"},  # a proxy that rewrites the Host
        {"Origin": "http://[::1]:8080", "Host": "[::1]:8080"},
    ):
        assert await ordered(house, headers) == 202, headers


async def test_the_host_of_a_proxy_is_compared_with_its_port(house: House) -> None:
    for headers in (
        {"Origin": "https://cams.lan", "Host": "cams.lan:80"},
        {"Origin": "http://cams.lan", "Host": "cams.lan:443"},
        {"Origin": "https://cams.lan:8443", "Host": "cams.lan"},
    ):
        assert await ordered(house, headers) == 403, headers


async def test_looking_is_not_an_order(house: House) -> None:
    for path in READS[:-1]:
        answer = await house.get(path, headers={"Origin": EVIL, "Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers  # the page may not read it


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0.0.0.0",
            "10.0.0.1",
        ),
        *(
            "[fd00::1]:8080",
            "evil.example:80:80",
            "xlocalhost",
            "cams.lan.evil.example",
            "::1",
            ":8080",
            "[",
            "a@localhost",
        ),
    ],
)
async def test_a_foreign_name_is_refused_and_the_probes_answer(house: House, host: str) -> None:
    for path in READS:
        body = assert_error(await house.get(path, headers={"Host": host}), 421)
        assert "server.allowed_hosts" in body["detail"]
        assert body["extra"] == {"host": host}
    assert_error(await house.client.post(PAUSE, headers={"Host": host}), 421)
    for path in ("/healthz", "/readyz", "/health", "/metrics", "/healthz/", "/health?strict=true"):
        assert (await house.get(path, headers={"Host": host})).status_code == 200, path


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8080", "localhost.", "gym.localhost:1", "127.0.0.1", "127.1.2.3:8080", "[::1]:8080"),
        *("[::1]", "cams.lan", "CAMS.lan:8443", "cams.lan.", "[fd00::7]:8080"),
    ],
)
async def test_the_names_of_this_machine_and_those_that_are_named_are_known(house: House, host: str) -> None:
    for path in READS[:-1]:
        assert (await house.get(path, headers={"Host": host})).status_code == 200


async def test_who_names_no_host_is_no_browser(house: House) -> None:
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/v1/cameras HTTP/1.0\r\n\r\n")
    assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


@pytest.mark.parametrize(
    ("sections", "headers"),
    [
        ({"auth": {"keys": KEYS}}, ADMIN),
        ({"server": {"host": "0.0.0.0"}, "auth": {"mode": "none"}}, {}),
    ],
)
async def test_with_keys_or_an_open_door_every_name_is_good_and_foreign_orders_are_not(
    sections: dict[str, Any], headers: dict[str, str]
) -> None:
    async with open_house({"gym": FakeSource()}, headers=headers, **sections) as other:
        assert (await other.get("/api/v1/cameras", headers={"Host": "cams.example"})).status_code == 200
        at_home = {"Host": "cams.example", "Origin": "https://cams.example"}
        assert (await other.client.post(PAUSE, headers=at_home)).status_code == 202
        assert_error(await other.client.post(PAUSE, headers={"Host": "cams.example", "Origin": EVIL}), 403)
        told = (await other.get("/schema")).json()["paths"]["/api/v1/cameras"]["get"]["responses"]
        assert "421" not in told


async def test_a_refusal_shows_no_secret_and_no_more_than_a_little() -> None:
    async with open_house({"gym": FakeSource()}, auth={"keys": KEYS}) as locked:
        answer = await locked.client.post(PAUSE, headers={"Origin": f"https://x/{ADMIN_KEY}{'y' * 5000}"})
        assert_error(answer, 403)
        assert ADMIN_KEY not in answer.text
        assert len(answer.content) < 1000


async def test_every_page_that_may_do_everything_may_give_orders() -> None:
    async with open_house({"gym": FakeSource()}, server={"cors_origins": ["*"]}) as opened:
        await eventually(lambda: opened.runner().has_frame)
        assert await ordered(opened, {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"}) == 202


async def test_refusals_are_counted(house: House) -> None:
    await house.client.post(PAUSE, headers={"Origin": EVIL})
    await house.get("/", headers={"Host": "evil.example"})
    metrics = (await house.get("/metrics")).text
    for status in (403, 421):
        assert f'healthd_http_requests_total{{route="unknown",status="{status}"}}' in metrics
