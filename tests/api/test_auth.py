"""Who may do what: keys, sessions, scopes, and what stays open."""

import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute, WebSocketRoute

from healthd.api.attempts import Attempts
from healthd.api.auth import NOBODY_ASKED, Authenticator, guard, needed_scope
from healthd.api.keys import Identity
from healthd.api.log_ins import MAX_SESSIONS, MAX_SESSIONS_OF_A_KEY, Sessions
from healthd.app import create_app
from healthd.clock import Clock
from tests.api.house import (
    ADMIN,
    ADMIN_KEY,
    KEYS,
    METHODS,
    READ,
    READ_KEY,
    House,
    MovableClock,
    assert_error,
    http_client,
    open_house,
)
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction
from tests.stream_client import StreamClient

AUTH = {"keys": KEYS}
WALL = {"name": "wall", "scope": "read", "required": True, "expires_in_seconds": 86400}
NOBODY = {"name": None, "scope": None, "required": True, "expires_in_seconds": None}
ADMINS_ALONE = {"/api/v1/diagnostics", "/api/v1/sessions"}
"""What only an admin may ask, though it changes nothing."""
OPEN = {"/api/v1/auth/login", "/api/v1/auth/session"}
READING_POSTS = {"/api/v1/infer", "/api/v1/detect"}
"""Calls that compute and change nothing."""
CHANGES = {"post", "put", "patch", "delete"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked() -> AsyncIterator[House]:
    """A house that asks for keys."""
    async with open_house({"gym": FakeSource(predict=prediction)}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        house.services.auth.attempts = Attempts(burst=100_000)
        yield house


async def routes(house: House) -> list[tuple[str, str]]:
    """Every route of the API that asks for a key, as method and path of an existing thing."""
    document = (await house.get("/schema")).json()
    return [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda match: "gym" if match[1] == "name" else "none", path))
        for path, item in document["paths"].items()
        if path.startswith("/api/v1") and path not in OPEN
        for method in METHODS
        if method in item
    ]


async def status(house: House, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """Ask without reading the body: some never end."""
    async with house.client.stream(method, path, headers=headers) as answer:
        if answer.status_code >= 400:
            await answer.aread()
        return answer


@pytest.mark.asyncio(loop_scope="module")
async def test_every_route_of_the_api_wants_a_key(locked: House) -> None:
    asked = await routes(locked)
    assert len(asked) > 8
    for method, path in asked:
        for headers in (
            {},
            {"X-Api-Key": "wrong-key-wrong-key"},
            {"Authorization": f"Basic {READ_KEY}"},
            {"Cookie": "healthd_session=x"},
        ):
            answer = await status(locked, method, path, headers)
            assert answer.status_code == 401, f"{method} {path} with {headers}"
            if method != "HEAD":
                assert_error(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_that_may_read_can_look_at_everything_and_change_nothing(locked: House) -> None:
    for method, path in await routes(locked):
        answer = await status(locked, method, path, READ)
        if path in ADMINS_ALONE or (method.lower() in CHANGES and path not in READING_POSTS):
            body = assert_error(answer, 403)
            assert "`wall`" in body["detail"]
            assert "admin" in body["detail"]
        else:
            assert answer.status_code not in {401, 403}, f"{method} {path}"
    assert locked.runner().health.state == "live"
    assert locked.runner().tuning.quality == 75


OPEN_TO_ALL = {
    *(f"GET {path}" for path in ("/", "/try", "/admin", "/healthz", "/readyz", "/health", "/metrics")),
    *("GET /schema", "GET /schema/{path}", "GET /schema/openapi.json", "GET /static/{file_path}"),
    *("HEAD /static/{file_path}", "POST /api/v1/auth/login", "GET /api/v1/auth/session", "DELETE /api/v1/auth/session"),
}
"""Routes that ask for no key."""


@pytest.mark.asyncio(loop_scope="module")
async def test_no_route_escapes_the_guard_whether_it_is_described_or_not(locked: House) -> None:
    unguarded, lowered = set(), set()
    for route in create_app(locked.services).routes:
        if isinstance(route, WebSocketRoute):
            handlers: list[tuple[str, Any]] = [("WEBSOCKET", route.route_handler)]
        else:
            assert isinstance(route, HTTPRoute)
            handlers = [(str(method), handler) for method, (handler, _) in route.route_handler_map.items()]
        for method, handler in handlers:
            if method == "OPTIONS":
                continue
            if handler.opt.get("open") or guard not in handler.resolve_guards():
                unguarded.add(f"{method} {route.path_format}")
            elif method not in {"GET", "HEAD"} and needed_scope(method, handler.opt) == "read":
                lowered.add(f"{method} {route.path_format}")
    assert unguarded == OPEN_TO_ALL
    assert lowered == {*(f"POST {path}" for path in READING_POSTS), "WEBSOCKET /api/v1/ws"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_of_an_admin_may_do_everything(locked: House) -> None:
    for method, path in await routes(locked):
        answer = await status(locked, method, path, ADMIN)
        assert answer.status_code not in {401, 403}, f"{method} {path}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "headers",
    [
        READ,
        {"x-api-key": READ_KEY},
        {"Authorization": f"Bearer {READ_KEY}"},
        {"authorization": f"bearer  {READ_KEY} "},
        {"Authorization": "Bearer nonsense", "X-Api-Key": READ_KEY},
    ],
)
async def test_a_key_comes_in_its_header_or_as_a_bearer(locked: House, headers: dict[str, str]) -> None:
    assert (
        await locked.get("/api/v1/cameras", headers={name: value.rstrip() for name, value in headers.items()})
    ).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Api-Key": ""},
        {"X-Api-Key": READ_KEY[:-1]},
        {"X-Api-Key": READ_KEY + "x"},
        {"X-Api-Key": READ_KEY.upper()},
        {"X-Api-Key": "ü" * 20},
        {"Authorization": "Bearer"},
        {"Authorization": READ_KEY},
        {"Authorization": f"Bearer {READ_KEY}, {READ_KEY}"},
    ],
)
async def test_whatever_is_not_a_key_is_a_401_that_does_not_repeat_it(locked: House, headers: dict[str, str]) -> None:
    answer = await locked.get("/api/v1/cameras", headers={name: value.encode() for name, value in headers.items()})  # type: ignore[misc]
    body = assert_error(answer, 401)
    assert READ_KEY not in answer.text
    assert "`X-Api-Key`" in body["detail"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_in_the_query_counts_for_nothing(locked: House) -> None:
    for query in (f"?api_key={ADMIN_KEY}", f"?key={ADMIN_KEY}", f"?X-Api-Key={ADMIN_KEY}"):
        assert_error(await locked.get(f"/api/v1/cameras{query}"), 401)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health", "/metrics", "/schema", "/", "/static/wall.js"])
async def test_what_is_open_stays_open(locked: House, path: str) -> None:
    answer = await locked.get(path)
    assert answer.status_code == 200
    for secret in (READ_KEY, ADMIN_KEY):
        assert secret not in answer.text


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_is_needed_before_a_parameter_is_looked_at(locked: House) -> None:
    assert_error(await locked.get("/api/v1/cameras/gym/snapshot?q=500"), 401)
    assert_error(await locked.get("/api/v1/cameras/nobody"), 401)
    assert_error(await locked.client.patch("/api/v1/cameras/gym", content=b"{"), 401)
    assert_error(await locked.client.patch("/api/v1/cameras/gym", content=b"{", headers=READ), 403)


async def log_in(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/api/v1/auth/login", json={"key": key})


async def test_a_page_logs_in_once_and_its_cookie_is_kept_from_scripts_and_other_sites() -> None:
    async with open_house({"gym": FakeSource()}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        answer = await log_in(house.client, READ_KEY)
        assert (answer.status_code, answer.json()) == (200, WALL)
        attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "path=/", "max-age=86400"} <= attributes
        assert "secure" not in attributes  # plain HTTP at home
        assert READ_KEY not in answer.headers["set-cookie"]
        assert (await house.get("/api/v1/cameras/gym/snapshot")).status_code == 200
        assert (await house.get("/api/v1/auth/session")).json() == {
            **WALL,
            "expires_in_seconds": pytest.approx(86400, abs=60),
        }
        assert_error(await house.client.post("/api/v1/cameras/gym/restart"), 403)
        assert (await house.client.post("/api/v1/cameras/gym/restart", headers=ADMIN)).status_code == 202
        assert_error(await house.get("/api/v1/cameras", headers={"X-Api-Key": "wrong"}), 401)


async def test_logging_out_ends_the_session_for_good() -> None:
    async with open_house(auth=AUTH) as house:
        await log_in(house.client, READ_KEY)
        stolen = dict(house.client.cookies)
        answer = await house.client.delete("/api/v1/auth/session")
        assert (answer.status_code, answer.content) == (204, b"")
        assert not dict(house.client.cookies)
        assert (await house.get("/api/v1/auth/session")).json() == NOBODY
        async with http_client(house.url, cookies=stolen) as thief:
            assert_error(await thief.get("/api/v1/cameras"), 401)
        assert (await house.client.delete("/api/v1/auth/session")).status_code == 204  # ended already


def cookie_of(answer: httpx.Response) -> str:
    return f"Cookie: healthd_session={answer.cookies['healthd_session']}"


STREAMS = ("/api/v1/cameras/gym/stream", "/api/v1/cameras/gym/stream?fps=0.1", "/api/v1/events/stream")


@pytest.mark.parametrize("way", ["logs out", "expires", "makes room"])
async def test_what_a_page_has_opened_ends_with_its_log_in_and_nothing_else_does(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house({"gym": FakeSource(fps=20)}, auth=AUTH) as house, contextlib.AsyncExitStack() as stack:
        other = cookie_of(await log_in(house.client, READ_KEY))
        house.services.auth.sessions.seconds = 1.0 if way == "expires" else 3600
        own = cookie_of(await log_in(house.client, READ_KEY))
        key = f"X-Api-Key: {READ_KEY}"

        async def opened(*headers: str) -> list[StreamClient]:
            clients = [StreamClient(path, headers=headers) for path in STREAMS]
            for client in clients:
                await client.open(int(house.url.rpartition(":")[2]))
                stack.callback(client.leave)
            await eventually(lambda: all(client.frames or client.events for client in clients))
            return clients

        ends, stays = await opened(own), [*await opened(other), *await opened(key), *await opened(key, own)]
        if way == "logs out":
            answer = await house.client.delete("/api/v1/auth/session", headers={"Cookie": own.partition(" ")[2]})
            assert answer.status_code == 204
        elif way == "makes room":
            await opened(other)
            monkeypatch.setattr("healthd.api.log_ins.MAX_SESSIONS", 1)
            await log_in(house.client, READ_KEY)
            ends, stays = [*ends, *stays[:3]], stays[3:]
        await eventually(lambda: all(client.clean for client in ends), seconds=3)
        reasons = house.services.viewers.ended_total
        await eventually(lambda: reasons["logout"] == sum(reasons.values()) >= len(ends))
        assert not any(client.ended or client.lost_at for client in stays)
        refused = await StreamClient(STREAMS[0], headers=(own,)).open(int(house.url.rpartition(":")[2]))
        await eventually(lambda: refused.status == 401)
        refused.leave()


async def test_a_session_ends_by_itself() -> None:
    time = MovableClock()
    async with open_house(auth={**AUTH, "session_hours": 2}) as house:
        real = house.services.auth
        assert real.sessions.seconds == 7200
        house.services.auth = Authenticator([("wall", READ_KEY, "read")], session_seconds=7200, clock=time.clock)
        await log_in(house.client, READ_KEY)
        time.ahead = 7100
        assert (await house.get("/api/v1/cameras")).status_code == 200
        time.ahead = 7201
        assert_error(await house.get("/api/v1/cameras"), 401)
        assert (await house.get("/api/v1/auth/session")).json()["name"] is None
        assert (await log_in(house.client, READ_KEY)).status_code == 200
        assert (await house.get("/api/v1/cameras")).status_code == 200


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "status_code"),
    [
        ({"key": "wrong-key-wrong-key"}, 401),
        ({"key": ""}, 401),
        ({"key": "ü💥"}, 401),
        ({"key": "hunter2" * 10_000}, 401),
        ({"key": None}, 422),
        ({"key": 12345678}, 422),
        ({"key": ["hunter2hunter2"]}, 422),
        ({}, 422),
        ({"key": "hunter2hunter2", "remember": True}, 422),
    ],
)
async def test_a_log_in_with_something_else_than_a_key_sets_no_cookie_and_repeats_nothing(
    locked: House, body: dict[str, Any], status_code: int
) -> None:
    answer = await locked.client.post("/api/v1/auth/login", json=body)
    assert_error(answer, status_code)
    assert "set-cookie" not in answer.headers
    for secret in ("hunter2", "wrong-key", "12345678"):
        assert secret not in answer.text


async def test_without_keys_everybody_may_do_everything_and_is_told_so() -> None:
    async with open_house({"gym": FakeSource()}) as house:
        assert (await house.get("/api/v1/cameras")).status_code == 200
        assert (await house.client.post("/api/v1/cameras/gym/restart")).status_code == 202
        assert (await house.get("/api/v1/auth/session")).json() == {
            "name": "anonymous",
            "scope": "admin",
            "required": False,
            "expires_in_seconds": None,
        }
        assert (await log_in(house.client, "anything")).json()["required"] is False
        assert (await house.get("/api/v1/cameras", headers={"X-Api-Key": "left over"})).status_code == 200


async def test_with_mode_none_keys_are_needed_for_nothing() -> None:
    async with open_house({"gym": FakeSource()}, auth={**AUTH, "mode": "none"}) as house:
        assert (await house.get("/api/v1/cameras")).status_code == 200


ORIGIN = {"Origin": "https://panel.lan"}
EVIL = {"Origin": "https://panel.lan.evil.example"}
PREFLIGHT = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x-api-key"}


async def test_a_named_origin_may_read_answers_and_headers_and_others_may_not() -> None:
    async with open_house({"gym": FakeSource()}, server={"cors_origins": ["https://panel.lan"]}, auth=AUTH) as house:
        await eventually(lambda: house.runner().has_frame)
        for path in ("/api/v1/cameras", "/api/v1/cameras/gym/snapshot", "/api/v1/cameras/nobody", "/healthz"):
            answer = await house.get(path, headers={**ORIGIN, **READ})
            assert answer.headers["access-control-allow-origin"] == "https://panel.lan"
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert "X-Frame-Id" in answer.headers["access-control-expose-headers"]
            assert "Origin" in answer.headers["vary"]
            for other in (
                EVIL,
                {"Origin": "null"},
                {"Origin": "http://panel.lan"},
                {"Origin": "https://panel.lan:444"},
            ):
                assert "access-control-allow-origin" not in (await house.get(path, headers={**other, **READ})).headers
        refused = await house.get("/api/v1/cameras", headers=ORIGIN)
        assert_error(refused, 401)
        assert refused.headers["access-control-allow-origin"] == "https://panel.lan"
        allowed = await house.client.options("/api/v1/cameras/gym", headers={**ORIGIN, **PREFLIGHT})
        assert allowed.headers["access-control-allow-origin"] == "https://panel.lan"
        assert "PATCH" in allowed.headers["access-control-allow-methods"]
        assert "x-api-key" in allowed.headers["access-control-allow-headers"].lower()
        denied = await house.client.options("/api/v1/cameras/gym", headers={**EVIL, **PREFLIGHT})
        assert denied.status_code >= 400
        assert "access-control-allow-origin" not in denied.headers


async def test_where_every_origin_may_call_none_comes_with_credentials() -> None:
    origin = {"Origin": "https://evil.lan", "Cookie": "healthd_session=abc"}
    async with open_house(server={"cors_origins": ["*"]}, auth=AUTH) as house:
        for answer in (
            await house.get("/api/v1/cameras", headers={**origin, **READ}),
            await house.client.options("/api/v1/cameras", headers={**origin, **PREFLIGHT}),
        ):
            assert answer.headers["access-control-allow-origin"] in {"*", "https://evil.lan"}
            assert "access-control-allow-credentials" not in answer.headers


async def test_without_origins_no_page_of_another_site_may_read_anything() -> None:
    async with open_house() as house:
        for path in ("/api/v1/cameras", "/healthz", "/"):
            answer = await house.get(path, headers=ORIGIN)
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_key_is_recognised_by_its_digest_alone_and_is_kept_nowhere() -> None:
    auth = Authenticator([("wall", READ_KEY, "read"), ("panel", ADMIN_KEY, "admin")])
    found = await auth.by_key(ADMIN_KEY)
    assert found is not None
    assert (found.name, found.scope) == ("panel", "admin")
    assert READ_KEY not in repr(vars(auth)) + repr(vars(auth._keys))
    assert await auth.by_key("") is None
    assert Authenticator([]).identify({}, {}) is NOBODY_ASKED


def test_log_ins_are_bounded_and_the_oldest_of_the_same_key_leaves_first() -> None:
    sessions = Sessions(seconds=60, clock=Clock(monotonic=lambda: 0.0, now=lambda: datetime(2026, 1, 1, tzinfo=UTC)))
    closed: list[str] = []
    sessions.on_closed = closed.append
    admin = sessions.open(Identity("panel", "admin"))
    tokens = [sessions.open(Identity("wall", "read")) for _ in range(MAX_SESSIONS_OF_A_KEY + 2)]
    assert len(set(closed)) == 2
    assert [sessions.find(token) is not None for token in tokens[:3]] == [False, False, True]
    assert len(set(tokens)) == len(tokens)
    for number in range(MAX_SESSIONS):
        sessions.open(Identity(f"wall{number % 20}", "read"))
    assert len(list(sessions)) == MAX_SESSIONS
    assert sessions.find(admin) is not None
