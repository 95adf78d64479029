"""The pages: open, small, under a strict policy, and reachable behind a proxy."""

import re

import pytest

from healthd.app import WEB
from tests.api.house import open_house
from tests.eventually import eventually
from tests.fakes import FakeSource


async def test_the_wall_is_a_page_that_loads_nothing_from_elsewhere() -> None:
    async with open_house() as house:
        page = await house.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "//" not in policy
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page.text)
        assert not re.search(r"<script>|<script [^>]*>[^<]|\son\w+=|<style", page.text)  # the policy would block it


async def test_what_the_pages_ask_for_is_there() -> None:
    async with open_house() as house:
        page = (await house.get("/")).text
        links = re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page)
        assert links
        for link in links:
            assert not link.startswith("/"), "a proxy may show healthd under a path"
            answer = await house.get(f"/{link}")
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("root", ["/healthd", "/lab/cameras"])
async def test_behind_a_proxy_it_answers_with_and_without_the_proxys_path(root: str) -> None:
    async with open_house({"gym": FakeSource()}, server={"root_path": root}) as house:
        await eventually(lambda: house.runner().has_frame)
        for path in ("/healthz", "/", "/static/wall.js", "/api/v1/cameras/gym/snapshot", "/schema"):
            assert (await house.get(path)).status_code == 200, path
            assert (await house.get(root + path)).status_code == 200, root + path
        assert (await house.get(f"{root}x/healthz")).status_code == 404
        assert (await house.get("/schema")).json()["servers"] == [{"url": root}]


async def test_the_proxys_path_without_its_slash_leads_to_the_page_so_that_links_stay_below_it() -> None:
    async with open_house(server={"root_path": "/healthd"}) as house:
        answer = await house.get("/healthd")
        assert (answer.status_code, answer.headers["location"]) == (307, "/healthd/")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await house.get("/healthd?t=1")).headers["location"] == "/healthd/?t=1"
        assert (await house.client.head("/healthd")).status_code == 307
        assert (await house.client.post("/healthd")).status_code == 405
        for path in ("/healthd/", "/"):
            assert (await house.get(path)).headers["content-type"] == "text/html; charset=utf-8"
    async with open_house() as house:
        assert (await house.get("/healthd")).status_code == 404


def test_the_wall_keeps_the_words_of_the_api_when_a_key_is_refused() -> None:
    script = (WEB / "wall.js").read_text(encoding="utf-8")
    assert "key is needed" not in script
    assert script.count("error.detail ??") == 3
