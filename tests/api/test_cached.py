"""What is answered before the router is answered in the words of the router, and everything else is left to it."""

import asyncio
from typing import Any

import httpx
import pytest

from healthd.api.cached import TEMPLATE, CachedSnapshots, Question
from tests.api.house import READ, Feed, House, open_house
from tests.fakes import picture

QUERIES = [
    "",
    "?t=1234567890",
    "?q=60",
    "?q=60&q=70",
    "?q=0",
    "?q=060",
    "?q=096",
    "?q=ten",
    "?q=",
    "?q=%31",
    "?q=1e1",
    "?q=99999999999999999999",
    "?width=32",
    "?width=4000",
    "?width=15",
    "?width=+32",
    "?overlay=true",
    "?overlay=0",
    "?overlay=maybe",
    "?max_age=100000",
    "?max_age=0",
    "?max_age=-1",
    "?after=0",
    "?after=999&wait=1",
    "?unknown=1&Q=3&%71=5",
    "?q=60&width=32&t=1",
]
HEADERS: list[dict[str, str]] = [
    {},
    {"If-None-Match": "{etag}"},
    {"If-None-Match": 'W/{etag}, "other"'},
    {"If-None-Match": "*"},
    {"If-None-Match": '"other"'},
    {"Origin": "http://panel.lan"},
    {"Cookie": "healthd_session=nonsense"},
]


def told(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Everything but what depends on the moment."""
    moment = {"date", "x-frame-age-ms", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in moment}
    dated = b"ms old" in answer.content
    return answer.status_code, headers, b"" if dated else answer.content


async def asked(house: House, query: str, headers: dict[str, str]) -> httpx.Response:
    answer: httpx.Response = await house.get(f"/api/v1/cameras/gym/snapshot{query}", headers=headers)
    return answer


@pytest.fixture
def bypass(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A switch: nothing is answered before the router any more."""

    def switch() -> None:
        monkeypatch.setattr(CachedSnapshots, "known", lambda *_: None)
        monkeypatch.setattr(CachedSnapshots, "question", lambda *_: None)

    return switch


@pytest.mark.parametrize("keys", [False, True])
async def test_each_answer_is_that_of_the_router(bypass: Any, keys: bool) -> None:  # noqa: FBT001
    auth = {"auth": {"keys": [{"name": "wall", "key": READ["X-Api-Key"]}]}} if keys else {}
    async with open_house(
        {"gym": Feed()}, headers=READ if keys else {}, server={"cors_origins": ["http://panel.lan"]}, **auth
    ) as house:
        await house.show(picture(1))
        first = await asked(house, "", {})
        cases = [
            (query, {name: value.format(etag=first.headers["etag"]) for name, value in headers.items()})
            for query in QUERIES
            for headers in HEADERS
        ]
        for query, headers in cases:
            await asked(house, query, headers)  # encodes it
        early = [told(await asked(house, query, headers)) for query, headers in cases]
        bypass()
        late = [told(await asked(house, query, headers)) for query, headers in cases]
        for case, one, other in zip(cases, early, late, strict=True):
            assert one == other, case
        assert {status for status, _, _ in early} >= {200, 304, 422, 503}


async def test_repeated_questions_are_answered_before_the_router_and_counted_as_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered: list[bool] = []
    original = CachedSnapshots.answer

    def watched(self: CachedSnapshots, question: Question, defaults: Any) -> Any:
        answer = original(self, question, defaults)
        answered.append(answer is not None)
        return answer

    monkeypatch.setattr(CachedSnapshots, "answer", watched)
    async with open_house({"gym": Feed()}) as house:
        await house.show(picture(1))
        for number in range(3):
            assert (await asked(house, f"?t={number}", {})).status_code == 200
        assert answered == [False, True, True]
        assert (
            f'healthd_http_requests_total{{route="{TEMPLATE}",status="200"}} 3.0' in (await house.get("/metrics")).text
        )
        assert house.runner().jpegs.hits == 2


async def test_a_picture_that_may_not_be_shown_any_more_is_not_shown_from_the_cache() -> None:
    async with open_house({"gym": Feed()}) as house:
        await house.show(picture(1))
        for _ in range(2):
            assert (await asked(house, "", {})).status_code == 200
        house.runner().pause()
        await asyncio.sleep(0.05)
        assert (await asked(house, "", {})).status_code == 404


async def test_without_a_key_nothing_is_answered_before_the_guard() -> None:
    async with open_house({"gym": Feed()}, auth={"keys": [{"name": "wall", "key": READ["X-Api-Key"]}]}) as house:
        await house.show(picture(1))
        for _ in range(2):
            assert (await asked(house, "", READ)).status_code == 200
        assert (await asked(house, "", {})).status_code == 401
        assert (await asked(house, "", {"X-Api-Key": "wrong"})).status_code == 401
        bearer = {"Authorization": f"Bearer {READ['X-Api-Key']}"}
        assert (await asked(house, "", bearer)).status_code == 200


async def test_by_a_name_that_is_not_ours_nothing_is_answered() -> None:
    async with open_house({"gym": Feed()}) as house:
        await house.show(picture(1))
        for _ in range(2):
            assert (await asked(house, "", {})).status_code == 200
        assert (await asked(house, "", {"Host": "evil.example"})).status_code == 421
