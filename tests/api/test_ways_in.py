"""Every route of the OpenAPI document against those who may not use it; log-ins that others may end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from healthd import __version__
from healthd.api import cameras, jobs
from healthd.clock import Clock
from tests.api.house import (
    ADMIN,
    ADMIN_KEY,
    KEYS,
    METHODS,
    READ,
    READ_KEY,
    House,
    assert_error,
    http_client,
    open_house,
)
from tests.api.talking import MODEL, Scripted
from tests.eventually import eventually
from tests.fakes import FakeSource
from tests.stream_client import StreamClient

AUTH = {"keys": KEYS}
READING = {("post", "/api/v1/infer"), ("post", "/api/v1/detect")}
"""Questions with a body: they change nothing, and a read key may ask them."""
FOREIGN: tuple[dict[str, str], ...] = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
)


async def operations(house: House) -> list[tuple[str, str, dict[str, Any]]]:
    """All of the document, with names of existing things in their paths."""
    document = (await house.get("/schema")).json()
    return [
        (method, path.format(name="gym", model_id="any", job_id="0" * 16, viewer_id="v1", session_id="none"), operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


async def log_in(house: House, key: str) -> str:
    async with http_client(house.url) as client:
        answer = await client.post("/api/v1/auth/login", json={"key": key})
        assert answer.status_code == 200
        return f"healthd_session={answer.cookies['healthd_session']}"


async def test_nothing_is_changed_by_a_read_key_by_nobody_or_by_a_foreign_page() -> None:
    async with open_house({"gym": FakeSource()}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        cookies = {name: await log_in(house, key) for name, key in (("read", READ_KEY), ("admin", ADMIN_KEY))}
        before = house.runner().tuning
        changing = [(m, p) for m, p, _ in await operations(house) if m not in {"get", "head"}]
        assert len(changing) >= 15
        for method, path in changing:
            order = house.client.build_request
            for who, headers in (("key", READ), ("cookie", {"Cookie": cookies["read"]})):
                answer = await house.client.send(order(method, path, headers=headers))
                if path.startswith("/api/v1/auth/"):
                    assert path != "/api/v1/auth/login" or answer.status_code >= 400
                elif (method, path) in READING:
                    assert answer.status_code == 415, f"{method} {path}"
                else:
                    assert_error(answer, 403)
                if path == "/api/v1/auth/session" and who == "cookie":  # whoever logs out has logged out
                    cookies["read"] = await log_in(house, READ_KEY)
            if not path.startswith("/api/v1/auth/"):
                assert_error(await house.client.send(order(method, path)), 401)
            for page in FOREIGN:
                answer = await house.client.send(order(method, path, headers={**page, "Cookie": cookies["admin"]}))
                assert_error(answer, 403)
        assert (house.runner().tuning, house.runner().health.state) == (before, "live")
        assert len(list(house.services.auth.sessions)) == 2


async def test_no_question_loads_a_model_or_ends_a_log_in() -> None:
    async with open_house({"gym": FakeSource()}, family=Scripted(), models={"default": MODEL}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        cookie = await log_in(house, READ_KEY)
        before = [one.page.session_id for one in house.services.auth.sessions]
        asked = [path.replace("/any", f"/{MODEL}") for method, path, _ in await operations(house) if method == "get"]
        assert len(asked) >= 20
        for path in (one for one in asked if not one.endswith("stream")):  # these do not end
            for headers in (READ, ADMIN, {"Cookie": cookie}, {**READ, **FOREIGN[-1]}):
                assert (await house.get(path, headers=headers)).status_code < 500, path
        assert not house.services.models.loaded()
        assert [one.page.session_id for one in house.services.auth.sessions] == before


async def test_no_answer_lacks_the_headers_of_its_kind_and_none_says_what_runs() -> None:
    server = {"embed_origins": ["https://dash.lan:8123"]}
    async with open_house({"gym": FakeSource()}, auth=AUTH, server=server) as house:
        await eventually(lambda: house.runner().has_frame)
        pages, files = ["/", "/try", "/admin"], ["/static/wall.js", "/schema", "/healthz", "/metrics", "/health"]
        api = [path for method, path, _ in await operations(house) if method == "get" and not path.endswith("stream")]
        for headers in ({}, READ):
            for path in [*pages, *files, *api, "/nothing", "/api/v1/cameras/gym/snapshot"]:
                answer = await house.get(path, headers=headers)
                told = answer.headers
                assert told["x-content-type-options"] == "nosniff", path
                assert told["referrer-policy"] == "no-referrer", path
                assert "server" not in told, path
                assert "strict-transport-security" not in told, path
                picture = path.endswith("snapshot")
                assert told["cross-origin-resource-policy"] == ("cross-origin" if picture else "same-origin"), path
                policy = told.get("content-security-policy", "")
                assert "unsafe" not in policy
                if path in pages:
                    assert policy.startswith("default-src 'self'; ")
                    assert policy.endswith("frame-ancestors 'self' https://dash.lan:8123")
                elif not picture:
                    assert policy == "default-src 'none'; frame-ancestors 'none'", path
                if not headers:
                    assert __version__ not in answer.text or path in api, path
                    assert "python_info" not in answer.text
        assert (await house.get("/health", headers=READ)).json()["version"] == __version__
        assert f'version="{__version__}"' in (await house.get("/metrics", headers=READ)).text
        assert 'healthd_build_info{version=""}' in (await house.get("/metrics")).text


@pytest.mark.parametrize("page", FOREIGN)
async def test_a_foreign_page_opens_no_socket_by_the_log_in_of_its_viewer(page: dict[str, str]) -> None:
    async with open_house(auth=AUTH) as house:
        headers = {**page, "Cookie": await log_in(house, ADMIN_KEY)}
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"{house.url.replace('http', 'ws')}/api/v1/ws", additional_headers=headers, proxy=None):
                pass
        assert caught.value.response.status_code == 403


async def test_a_key_that_is_taken_away_finishes_nothing_that_it_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = tmp_path / "pictures"
    allowed.mkdir()
    jobs_ = {"directory": str(tmp_path / "jobs"), "allowed_directories": [str(allowed)]}
    async with open_house({"gym": FakeSource(fps=20)}, auth=AUTH, jobs=jobs_, models={"default": "a"}) as house:
        await eventually(lambda: house.runner().has_frame)
        auth = house.services.auth

        def take_away() -> None:
            auth.replace([("other", "other-" + ADMIN_KEY, "admin")], session_seconds=60)

        def give_back() -> None:
            auth.replace([("wall", READ_KEY, "read"), ("panel", ADMIN_KEY, "admin")], session_seconds=60)

        read, waited = jobs.received, cameras.while_connected

        @asynccontextmanager
        async def received(*args: Any, **options: Any) -> AsyncIterator[Any]:
            async with read(*args, **options) as form:
                take_away()
                yield form

        async def while_connected(*args: Any) -> Any:
            take_away()
            return await waited(*args)

        monkeypatch.setattr(jobs, "received", received)
        monkeypatch.setattr(cameras, "while_connected", while_connected)
        cookie = {"Cookie": await log_in(house, ADMIN_KEY)}
        for headers in (ADMIN, cookie):
            order = {"path": str(allowed)}
            assert_error(await house.client.post("/api/v1/jobs", json=order, headers=headers), 401)
            give_back()
            cookie["Cookie"] = await log_in(house, ADMIN_KEY)
            query = {"after": house.runner().newest_frame_id, "wait": 5000}
            answer = await house.get("/api/v1/cameras/gym/snapshot", params=query, headers=headers)
            assert_error(answer, 401)
            give_back()
            cookie["Cookie"] = await log_in(house, ADMIN_KEY)
        assert (await house.get("/api/v1/jobs", headers=ADMIN)).json() == []


async def test_an_admin_sees_who_is_logged_in_and_ends_it_with_all_that_it_watches() -> None:
    async with open_house({"gym": FakeSource(fps=20)}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        cookies = [await log_in(house, READ_KEY) for _ in range(3)]
        own = await log_in(house, ADMIN_KEY)
        stream = await StreamClient("/api/v1/cameras/gym/stream", headers=(f"Cookie: {cookies[0]}",)).open(
            int(house.url.rpartition(":")[2])
        )
        await eventually(lambda: stream.frames)
        listed = (await house.get("/api/v1/sessions", headers={"Cookie": own})).json()
        assert [(one["name"], one["scope"], one["viewers"], one["own"]) for one in listed] == [
            ("wall", "read", 1, False),
            ("wall", "read", 0, False),
            ("wall", "read", 0, False),
            ("panel", "admin", 0, True),
        ]
        assert {one["client"] for one in listed} == {"127.0.0.1"}
        assert not any(cookie.partition("=")[2] in str(listed) for cookie in [*cookies, own])
        assert (await house.client.delete(f"/api/v1/sessions/{listed[0]['id']}", headers=ADMIN)).status_code == 204
        await eventually(lambda: stream.clean)
        stream.leave()
        assert_error(await house.get("/api/v1/cameras", headers={"Cookie": cookies[0]}), 401)
        assert (await house.get("/api/v1/cameras", headers={"Cookie": cookies[1]})).status_code == 200
        assert_error(await house.client.delete("/api/v1/sessions/none", headers=ADMIN), 404)
        ended = await house.client.delete("/api/v1/sessions?key=wall", headers=ADMIN)
        assert (ended.status_code, ended.json()) == (200, {"ended": 2})
        assert_error(await house.get("/api/v1/cameras", headers={"Cookie": cookies[1]}), 401)
        assert (await house.get("/api/v1/cameras", headers={"Cookie": own})).status_code == 200
        house.services.auth.replace(
            [("wall", READ_KEY, "read"), ("panel", "another-key-for-it", "admin")], session_seconds=3600
        )
        assert_error(await house.get("/api/v1/cameras", headers={"Cookie": own}), 401)
        assert (await house.get("/api/v1/cameras", headers=READ)).status_code == 200
        assert_error(await house.get("/api/v1/cameras", headers=ADMIN), 401)


async def test_a_log_in_that_nobody_uses_ends_and_one_that_watches_is_used() -> None:
    async with open_house({"gym": FakeSource(fps=20)}, auth={**AUTH, "session_idle_hours": 1}) as house:
        await eventually(lambda: house.runner().has_frame)
        ahead, sessions = 0.0, house.services.auth.sessions
        now = asyncio.get_running_loop().time
        sessions._clock = Clock(monotonic=lambda: now() + ahead)
        idle, used = await log_in(house, READ_KEY), await log_in(house, READ_KEY)
        watching = await log_in(house, READ_KEY)
        stream = await StreamClient("/api/v1/cameras/gym/stream", headers=(f"Cookie: {watching}",)).open(
            int(house.url.rpartition(":")[2])
        )
        await eventually(lambda: stream.frames)
        ahead = 3000
        assert (await house.get("/api/v1/cameras", headers={"Cookie": used})).status_code == 200
        ahead = 3700
        assert_error(await house.get("/api/v1/cameras", headers={"Cookie": idle}), 401)
        for cookie in (used, watching):
            assert (await house.get("/api/v1/cameras", headers={"Cookie": cookie})).status_code == 200
        ahead = 8000
        stream.leave()
        await eventually(lambda: not len(house.services.viewers))
        ahead = 9000  # nothing was asked for longer than an hour, but it has watched until a moment ago
        assert (await house.get("/api/v1/cameras", headers={"Cookie": watching})).status_code == 200
