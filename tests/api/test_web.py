"""The pages: open, small, under a strict policy, and reachable behind a proxy."""

import re

import pytest

from tests.api.house import open_house
from tests.eventually import eventually
from tests.fakes import FakeSource


@pytest.mark.parametrize("path", ["/", "/try", "/admin"])
async def test_a_page_loads_nothing_from_elsewhere(path: str) -> None:
    async with open_house() as house:
        page = await house.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        policy = page.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "form-action 'none'" in policy  # no default covers it; scripts send what is typed
        assert "unsafe" not in policy
        assert "//" not in policy
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page.text)
        assert not re.search(r"<script>|<script [^>]*>[^<]|\son\w+=|<style", page.text)  # the policy would block it


@pytest.mark.parametrize("path", ["/", "/try", "/admin"])
async def test_what_the_pages_ask_for_is_there(path: str) -> None:
    async with open_house() as house:
        page = (await house.get(path)).text
        links = re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page)
        assert links
        for link in links:  # the list grows: a script names others
            if link.endswith(".js"):
                named = re.findall(r'^import .* from "\./(\S+)";$', (await house.get(f"/{link}")).text, re.MULTILINE)
                links += [found for name in named if (found := f"static/{name}") not in links]
        for link in links:
            assert not link.startswith("/"), "a proxy may show healthd under a path"
            answer = await house.get(f"/{link}")
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("root", ["/healthd", "/lab/cameras"])
async def test_behind_a_proxy_it_answers_with_and_without_the_proxys_path(root: str) -> None:
    async with open_house({"gym": FakeSource()}, server={"root_path": root}) as house:
        await eventually(lambda: house.runner().has_frame)
        for path in (
            "/healthz",
            "/",
            "/try",
            "/static/wall.js",
            "/static/try.js",
            "/api/v1/cameras/gym/snapshot",
            "/schema",
        ):
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


async def test_the_wall_can_be_installed_wherever_a_proxy_shows_it() -> None:
    async with open_house() as house:
        answer = await house.get("/static/manifest.webmanifest")
        assert answer.headers["content-type"] == "application/manifest+json"
        manifest = answer.json()
        assert manifest["start_url"] == manifest["scope"] == "../"
        for icon in manifest["icons"]:
            found = await house.get(f"/static/{icon['src']}")
            assert (found.status_code, found.headers["content-type"]) == (200, icon["type"])


@pytest.mark.parametrize("root", ["", "/healthd"])
async def test_the_page_to_try_models_with_a_slash_leads_to_the_one_whose_links_work(root: str) -> None:
    async with open_house(server={"root_path": root}) as house:
        answer = await house.get(f"{root}/try/")
        assert (answer.status_code, answer.headers["location"]) == (307, "../try")
        assert str(answer.next_request.url.path if answer.next_request else "") == f"{root}/try"


async def test_the_pages_are_open_where_keys_are_set_and_lead_to_each_other() -> None:
    async with open_house(auth={"keys": [{"name": "wall", "key": "k3y-of-the-wall-page"}]}) as house:
        assert 'href="try"' in (await house.get("/")).text
        assert 'href="./"' in (await house.get("/try")).text
        assert (await house.get("/api/v1/models")).status_code == 401
