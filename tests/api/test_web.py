"""The pages: open, small, under a strict policy, and reachable behind a proxy."""

import re

import pytest

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
