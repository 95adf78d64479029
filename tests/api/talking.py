"""A house whose one model does what a test tells it, and clients that talk to it over WebSockets."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import cv2
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.protocol import State

from healthd.errors import LoadError
from healthd.frames import Image
from healthd.models.model import (
    Detection,
    InferenceParams,
    Keypoint,
    Model,
    ModelFamily,
    ModelOptions,
    ModelSpec,
    Prediction,
)
from tests.api.house import House, open_house
from tests.fakes import picture

MODEL = "scripted"
WS = "/api/v1/ws"
ENVELOPE = {"model_id", "inference_time_ms", "results", "metadata"}
SECONDS = 10


class DeviceOptions(ModelOptions):
    device: str = "cpu"


class Scripted(ModelFamily):
    """Predicts by a function of the test's. `broken` cannot be loaded."""

    options_model = DeviceOptions

    def __init__(self, predict: Callable[[Image, InferenceParams], object] = lambda _image, _params: None) -> None:
        self.predict = predict
        self.seen: list[tuple[tuple[int, ...], InferenceParams]] = []

    def serves(self, model_id: str) -> bool:
        return model_id in {MODEL, "broken"}

    def load(self, spec: ModelSpec) -> Model:
        if spec.model_id == "broken":
            raise LoadError("it is garbage")
        family = self

        class Obedient(Model):
            task = "pose"
            labels: ClassVar = {0: "person"}

            def predict(self, image: Image, params: InferenceParams) -> Prediction:
                family.seen.append((image.shape, params))
                family.predict(image, params)
                return said(image)

        return Obedient()


def said(image: Image) -> Prediction:
    """One person whose left edge is the blue of the first pixel: the number of `picture(number)`."""
    person = Detection((float(image[0, 0, 0]), 1.0, 9.0, 9.0), 0.5, 0, "person", (Keypoint(2.0, 3.0, 0.9),))
    height, width = image.shape[:2]
    return Prediction(MODEL, 1.0, (person,), {"task": "pose", "width": width, "height": height})


class Gate:
    """A model's `predict` that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, image: Image, params: InferenceParams) -> None:
        self.entered.release()
        assert self.open.wait(SECONDS), "the test never opened the gate"

    async def wait_entered(self) -> None:
        while not self.entered.acquire(blocking=False):
            await asyncio.sleep(0.002)


def png(number: int = 0) -> bytes:
    return cv2.imencode(".png", picture(number))[1].tobytes()


def jpeg(number: int = 0) -> bytes:
    return cv2.imencode(".jpg", picture(number))[1].tobytes()


def noise(*, width: int, height: int) -> bytes:
    """A JPEG that no compression makes small."""
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def asked(data: bytes | None = None, **fields: Any) -> str:
    """A text message with a picture."""
    image = {"image": base64.b64encode(png() if data is None else data).decode()}
    return json.dumps({**image, **fields})


@asynccontextmanager
async def talking_house(
    predict: Callable[[Image, InferenceParams], object] | None = None, **options: Any
) -> AsyncIterator[House]:
    """A house with the model `scripted` as its default one, and `broken` beside it."""
    models = {"default": MODEL, "preload": ["broken"], **options.pop("models", {})}
    family = Scripted(predict) if predict else Scripted()
    async with open_house(family=family, models=models, **options) as house:
        yield house


@asynccontextmanager
async def connected(
    house: House, query: str = "", *, headers: Mapping[str, str] | None = None, greet: bool = True, **options: Any
) -> AsyncIterator[ClientConnection]:
    """A client; what it was greeted with is taken."""
    url = house.url.replace("http://", "ws://") + WS + query
    options = {"proxy": None, "max_size": None, "ping_interval": None, "close_timeout": 2, **options}
    client = await connect(url, additional_headers=headers or {}, **options)
    try:
        if greet:
            assert (await heard(client))["type"] == "ready"
        yield client
    finally:
        if client.state is not State.CLOSED:  # closing it once more fails within asyncio
            await client.close()


async def heard(client: ClientConnection) -> dict[str, Any]:
    """The next message."""
    message: dict[str, Any] = json.loads(await asyncio.wait_for(client.recv(decode=True), SECONDS))
    return message


async def ask(client: ClientConnection, message: str | bytes) -> dict[str, Any]:
    await client.send(message)
    return await heard(client)


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """Wait for the end; return code and reason that the server gave."""
    await asyncio.wait_for(client.wait_closed(), SECONDS)
    return client.close_code, client.close_reason
