"""A whole house for one test: the parts of the daemon, cameras on fake sources, a real server on a socket."""

import asyncio
import contextlib
import queue
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cv2
import httpx
import numpy as np
import uvicorn

from healthd.api.origins import guards_hosts
from healthd.api.services import Services
from healthd.app import create_app
from healthd.cameras.runner import CameraRunner
from healthd.cameras.source import CameraSource, PredictOptions
from healthd.clock import Clock
from healthd.daemon import InstalledPlugins, build
from healthd.errors import EndOfStream
from healthd.frames import Image
from healthd.http_server import Server, listen, protocol, proxy_options
from healthd.http_sockets import socket_options
from healthd.models.model import InferenceParams, Model, ModelFamily, ModelOptions, ModelSpec, Prediction
from healthd.plugins import FAMILIES, SOURCES, Plugin, Plugins
from healthd.settings import Settings
from tests.eventually import eventually
from tests.fakes import FakeSource, prediction

READ_KEY, ADMIN_KEY = "k3y-of-the-wall-page", "k3y-of-the-admin-panel"
KEYS = [{"name": "wall", "key": READ_KEY}, {"name": "panel", "key": ADMIN_KEY, "scope": "admin"}]
READ, ADMIN = {"X-Api-Key": READ_KEY}, {"X-Api-Key": ADMIN_KEY}
METHODS = ("get", "head", "post", "put", "patch", "delete")

_BOUNDS = {"open_timeout_seconds": 5, "reconnect_max_seconds": 0.5, "frozen_after_seconds": 0}


def http_client(url: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=120, verify=False, trust_env=False, **options)


class FakePlugin:
    """Stands for a plugin's class: hands out the sources that a test has made."""

    options_model: ClassVar = PredictOptions

    def __init__(self, sources: Mapping[str, CameraSource]) -> None:
        self._sources = sources

    def __call__(self, name: str, *, url: Any = None, options: Any = None) -> CameraSource:
        source = self._sources[name]
        source.name, source.url = name, url
        return source


class Feed(FakeSource):
    """A camera that shows what a test gives it, when it gives it, and nothing in between."""

    def __init__(self, *, predict: Callable[[Image], object] | None = None) -> None:
        super().__init__(predict=predict, read=self._next)
        self._shown: queue.SimpleQueue[Image | Exception] = queue.SimpleQueue()

    def show(self, image: Image | Exception) -> None:
        self._shown.put(image)

    def _next(self) -> Image:
        item = self._shown.get()
        if isinstance(item, Exception):
            raise item
        return item


class FakeOptions(ModelOptions):
    device: str = "cpu"


class FakeFamily(ModelFamily):
    """A family of models that see nothing."""

    options_model = FakeOptions

    def serves(self, model_id: str) -> bool:
        return True

    def load(self, spec: ModelSpec) -> Model:
        class Blind(Model):
            task = "detect"
            labels: ClassVar = {0: "person"}

            def predict(self, image: Image, params: InferenceParams) -> Prediction:
                return prediction(image)

        return Blind()


@dataclass
class House:
    """What a test can look at and ask."""

    services: Services
    url: str
    client: httpx.AsyncClient
    families: dict[type[ModelFamily], ModelFamily]
    answers: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def get(self) -> Callable[..., Any]:
        return self.client.get

    def runner(self, name: str = "gym") -> CameraRunner:
        runner = self.services.supervisor.get(name)
        assert runner is not None
        return runner

    async def show(self, image: Image, name: str = "gym") -> int:
        """Let a `Feed` show an image; return the frame's id once it is published."""
        runner = self.runner(name)
        before = runner.newest_frame_id
        assert isinstance(runner.source, Feed)
        runner.source.show(image)
        await eventually(lambda: runner.newest_frame_id > before, seconds=10)
        return before + 1


class _Server(Server):
    """The server of the daemon, but it ends when it is told to and not at its next look."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config, settings=services.settings.server, counts=services.doors)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections:
            await super().shutdown(sockets)
            return
        for one in [*self.servers, *(sockets or [])]:  # uvicorn would sleep first
            one.close()


@asynccontextmanager
async def open_house(
    sources: Mapping[str, CameraSource] | None = None,
    *,
    cameras: Mapping[str, Mapping[str, Any]] | None = None,
    plugins: tuple[Plugin[Any], ...] = (),
    start: bool = True,
    headers: Mapping[str, str] | None = None,
    family: ModelFamily | None = None,
    **sections: Any,
) -> AsyncIterator[House]:
    """Open a house with a camera per source; `cameras` adds to their settings, `sections` to all the others.

    `family`: what loads the models, in place of one whose models see nothing.
    """
    sources, cameras = sources or {}, cameras or {}
    names = [*sources, *(name for name in cameras if name not in sources)]
    sources = {name: sources.get(name) or FakeSource() for name in names}
    nowhere = f"{tempfile.gettempdir()}/healthd-house-{secrets.token_hex(8)}"  # made by the first job, if there is one
    jobs = {"directory": nowhere, **sections.pop("jobs", {})}
    tables = {name: {"plugin": "fake", **_BOUNDS, **cameras.get(name, {})} for name in names}
    settings = Settings.model_validate({"cameras": tables, "jobs": jobs, **sections})
    fake: Plugin[Any] = Plugin("fake", SOURCES, "healthd-fake", "0.1", FakePlugin(sources))
    family = family or FakeFamily()
    families: dict[type[ModelFamily], ModelFamily] = {type(family): family}
    named: Plugin[Any] = Plugin("fake-family", FAMILIES, "healthd-fake", "0.1", type(family))
    group: Plugins[Any] = Plugins(SOURCES, [fake, *plugins])
    services = await build(settings, InstalledPlugins(group, Plugins(FAMILIES, [named]), families))
    if start:
        services.supervisor.start()
        services.jobs.start()
    async with _serving(services, root_path=settings.server.root_path) as url:
        answers: list[tuple[str, str, int]] = []

        async def remember(response: httpx.Response) -> None:
            answers.append((response.request.method, response.request.url.path, response.status_code))

        async with http_client(url, headers=headers, event_hooks={"response": [remember]}) as client:
            yield House(services, url, client, families, answers)
            await check_documented(answers, url, variant=(services.auth.required, guards_hosts(services)))
    for source in sources.values():
        if isinstance(source, Feed):
            source.show(EndOfStream("the test is over"))
    await services.supervisor.drain(3)
    await services.jobs.drain(5)
    shutil.rmtree(nowhere, ignore_errors=True)


@asynccontextmanager
async def _serving(services: Services, *, root_path: str) -> AsyncIterator[str]:
    timeout = services.settings.streams.write_timeout_seconds
    listening = listen("127.0.0.1", 0, dead_peer_seconds=2 * timeout)
    app = create_app(services)
    config = uvicorn.Config(
        app,
        lifespan="off",
        http=protocol(app),
        **socket_options(services.settings),
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=root_path,
        **proxy_options(services.settings.server),
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, services)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        with contextlib.suppress(AssertionError):  # else uvicorn would look for it, a tenth of a second later
            await eventually(lambda: not server.server_state.connections, seconds=1)
        server.stopping.set()
        await serving


def _pattern(path: str) -> str:
    """Return what paths of a route look like; the id of a model may have slashes in it."""
    return re.sub(r"\{\w+\}", "[^/]+", path.replace("{model_id}", ".+"))


_DOCUMENTED: dict[tuple[bool, bool], list[tuple[str, re.Pattern[str], set[str]]]] = {}


async def check_documented(answers: list[tuple[str, str, int]], url: str, *, variant: tuple[bool, bool]) -> None:
    """Whatever a test was answered stands in the OpenAPI document: every route, every status but that of a bug.

    `variant`: what the document depends on, so that it is read once for each.
    """
    if variant not in _DOCUMENTED:
        async with http_client(url) as client:
            document = (await client.get("/schema")).json()
        _DOCUMENTED[variant] = [
            (method, re.compile(_pattern(path)), set(item[method]["responses"]))
            for path, item in document["paths"].items()
            for method in METHODS
            if method in item
        ]
    for method, path, status in answers:
        routes = [
            known for verb, pattern, known in _DOCUMENTED[variant] if verb == method.lower() and pattern.fullmatch(path)
        ]
        if routes and status not in {500, 405}:
            assert any(str(status) in known for known in routes), f"{method} {path} answers {status}: undocumented"


def decoded(answer: httpx.Response) -> np.ndarray:
    """The picture in an answer."""
    assert answer.headers["content-type"] == "image/jpeg"
    assert int(answer.headers["content-length"]) == len(answer.content)
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def assert_error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check that an answer has the one shape of all errors; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"status_code", "detail", "extra"}
    assert body["status_code"] == status
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    return body


class MovableClock:
    """The real clocks, moved forward by a test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: time.monotonic() + self.ahead)
