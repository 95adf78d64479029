"""No request makes the daemon fetch an address, or read a file that is none of its business."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from healthd.models.model import Model, ModelSpec
from tests.api.house import METHODS, FakeFamily, House, assert_error, open_house
from tests.api.talking import ask, connected, png
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction

CONFIGURED = "people.onnx"
HEADERS = ("Host", "Origin", "Referer", "Forwarded", "X-Forwarded-Host", "X-Original-URL", "Destination", "Link")


class Remembering(FakeFamily):
    """Serves any name, as families that download may, and remembers which it was to load."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def load(self, spec: ModelSpec) -> Model:
        self.asked.add(spec.model_id)
        return super().load(spec)


@dataclass
class Canary:
    """A server that nobody may come to."""

    port: int
    visits: int = 0

    @property
    def addresses(self) -> tuple[str, ...]:
        here = f"127.0.0.1:{self.port}"
        return (f"http://{here}/a.onnx", f"rtsp://{here}/a", f"//{here}/a.mp4")


@asynccontextmanager
async def listening() -> AsyncIterator[Canary]:
    canary = Canary(0)

    async def visited(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canary.visits += 1
        writer.close()

    server = await asyncio.start_server(visited, "127.0.0.1", 0)
    async with server:
        canary.port = server.sockets[0].getsockname()[1]
        yield canary


async def told(house: House, method: str, path: str, **options: Any) -> int:
    """Ask without reading the body: some never end."""
    async with house.client.stream(method, path, **options) as answer:
        return answer.status_code


def properties(schema: dict[str, Any], document: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(schema.get("properties", {}))


async def ask_everything(house: House, document: dict[str, Any], address: str) -> int:
    """Put the address wherever the document lets anything be said, one place at a time; return how often."""
    count = 0
    for template, item in document["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            path = template.replace("{name}", "gym").replace("{", "").replace("}", "")
            asked: list[tuple[str, dict[str, Any]]] = []
            if "{" in template:
                begin, end = template.partition("{")[0], template.partition("}")[2]
                asked += [(f"{begin}{quote(address, safe='')}{end}", {}), (f"{begin}{address}{end}", {})]
            operation = item[method]
            queries = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            asked += [(path, {"params": {name: address}}) for name in (*queries, "url")]
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                names = properties(content["schema"], document) | {"url"}
                if kind == "application/json":
                    asked += [(path, {"json": {name: address}}) for name in names]
                elif kind == "multipart/form-data":
                    file = {"file": ("a.png", png())}
                    asked += [(path, {"data": {name: address}, "files": file}) for name in names - {"file"}]
                    asked += [(path, {"files": {"file": (address, address.encode())}})]
                elif kind == "application/x-www-form-urlencoded":
                    asked += [(path, {"data": {name: address}}) for name in names]
                else:
                    asked += [(path, {"content": address.encode(), "headers": {"Content-Type": kind}})]
            for target, options in asked:
                await told(house, method, target, **options)
            count += len(asked)
    return count


@pytest.mark.timeout(240)
async def test_no_request_makes_the_daemon_fetch_an_address(tmp_path: Path) -> None:
    family = Remembering()
    places = {"models": {"default": CONFIGURED, "directory": str(tmp_path)}, "jobs": {"allowed_directories": ["/"]}}
    source = FakeSource(predict=prediction)
    async with listening() as canary, open_house({"gym": source}, family=family, **places) as house:
        await eventually(lambda: house.runner().has_frame)
        document = (await house.get("/schema")).json()
        http, rtsp, bare = canary.addresses
        assert await ask_everything(house, document, http) > 100
        for address in (rtsp, bare):
            for ask_for in (
                ("POST", "/api/v1/jobs", {"json": {"path": address}}),
                ("POST", "/api/v1/jobs", {"json": {"path": "people.mp4", "model": address}}),
                ("POST", f"/api/v1/models/{quote(address, safe='')}/load", {}),
                ("POST", "/api/v1/infer", {"params": {"model": address}, "files": {"file": ("a.png", png())}}),
                ("PATCH", "/api/v1/cameras/gym", {"json": {"url": address}}),
            ):
                method, path, options = ask_for
                assert await told(house, method, path, **options) in {400, 404, 422}, ask_for
        for name in HEADERS:
            await told(house, "GET", "/api/v1/cameras", headers={name: http})
        async with connected(house) as client:
            for said in ({"image": http}, {"image": f"data:{http}"}, {"model_id": http, "image": ""}, {"url": http}):
                assert (await ask(client, json.dumps(said)))["type"] == "error"
        await asyncio.sleep(0.2)
        assert canary.visits == 0
    assert {Path(name).name for name in family.asked} <= {CONFIGURED}


async def test_what_names_other_files_and_addresses_is_no_video(tmp_path: Path) -> None:
    async with listening() as canary, open_house(family=FakeFamily(), models={"default": CONFIGURED}) as house:
        http, rtsp, _ = canary.addresses
        playlists = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{http}\n",
            f"ffconcat version 1.0\nfile {http}\n",
            f"v=0\nc=IN IP4 127.0.0.1\nm=video {canary.port} RTP/AVP/TCP 96\n",
            f"G\nc=IN IP4 127.0.0.1\nm=video {canary.port} RTP/AVP/TCP 96\n".ljust(188, " ") + "G".ljust(188),
            f"AAAAfree<MPD profiles='urn:mpeg:dash:profile:isoff-live:2011'><BaseURL>{http}</BaseURL></MPD>",
            f"[reference]\nref1={rtsp}\n",
        )
        for text in playlists:
            for data in (text.encode(), zipped(text)):
                answer = await house.client.post("/api/v1/jobs", files={"file": ("clip.mp4", data)})
                assert_error(answer, 400)
        assert canary.visits == 0


def zipped(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("list.m3u8", text)
    return packed.getvalue()


OUTSIDE = (
    "../secret.onnx",
    "a/../../secret.onnx",
    "/etc/passwd",
    "{outside}",
    "link.onnx",
    "links/secret.onnx",
    "inside.onnx\0",
    "..\\secret.onnx",
    "file:{outside}",
    "file://{outside}",
    "~/secret.onnx",
    "\u2025/secret.onnx",
)
"""Names of what lies beside the directory that may be named."""


def spellings(name: str) -> tuple[str, ...]:
    """A path as it may stand in a URL: encoded, encoded twice, and only what gives it away."""
    return (quote(name, safe=""), quote(quote(name, safe=""), safe=""), quote(name).replace("..", "%2e%2E"))


async def test_no_spelling_of_a_path_leads_out_of_what_may_be_named(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "secret.onnx"
    inside.mkdir()
    for file in (inside / "inside.onnx", outside):
        file.write_bytes(b"PK\x05\x06" + bytes(18))
    (inside / "link.onnx").symlink_to(outside)
    (inside / "links").symlink_to(tmp_path)
    family = Remembering()
    places = {"models": {"directory": str(inside)}, "jobs": {"allowed_directories": [str(inside)]}}
    async with open_house(family=family, **places) as house:
        for name in (one.format(outside=outside) for one in OUTSIDE):
            for spelling in spellings(name):
                for method, end in (("POST", "/load"), ("GET", ""), ("DELETE", "")):
                    # what decodes to `..` segments is another path: no route, or the model's, but never the file
                    status = await told(house, method, f"/api/v1/models/{spelling}{end}")
                    assert status in {400, 404, 405}, (method, spelling, status)
                assert await told(house, "GET", f"/api/v1/labels?model={spelling}") in {404, 422}, spelling
                for form in ({"json": {"path": name}}, {"data": {"path": name}}):
                    answer = await house.client.post("/api/v1/jobs", **form)  # type: ignore[arg-type]
                    assert answer.status_code in {404, 422}, (form, answer.text)
                    assert str(tmp_path) not in answer.text.replace(name, "")
                status = await told(house, "GET", f"/static/{spelling}")
                assert status in {400, 404}, spelling
        assert family.asked == set()


async def test_a_name_that_no_file_can_have_is_an_ordinary_mistake() -> None:
    async with open_house() as house:
        for name in ("%00", "a%00.js", "x" * 300, "wall.js/x", "%ff", "a%0d%0ab", "%2e%2e/app.py", "icons"):
            for place in ("static/", "api/v1/models/", "api/v1/cameras/", "api/v1/jobs/"):
                answer = await house.get(f"/{place}{name}")
                assert answer.status_code in {400, 404, 405}, (place, name, answer.text)
        for name in ("wall.js", "icons/healthd.svg", "/wall.js"):
            assert (await house.get(f"/static/{name}")).status_code == 200
