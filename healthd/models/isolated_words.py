"""What a model's process is told and asked, and what it answers."""

from typing import Annotated

import msgspec

from healthd.channel import Failure
from healthd.models.model import Prediction
from healthd.shared_images import Place


class LoadOrder(msgspec.Struct, frozen=True):
    """Which model to load: a `ModelSpec`, and what is set for the whole process."""

    family: str
    """Name of its entry point."""
    model_id: str
    path: str | None
    directory: str
    options: bytes | None
    """JSON; None: the caller gave none of the family's own."""
    threads: int | None
    cache_directory: str | None
    cache_max_bytes: int
    allow_pickle: bool
    thread_budget: int
    """As `set_thread_budget` takes it."""


class Facts(msgspec.Struct, frozen=True):
    """What a loaded model says of itself."""

    task: str
    labels: dict[int, str]
    concurrency: Annotated[int, msgspec.Meta(ge=1)]
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    memory_bytes: int | None


class Picture(msgspec.Struct, frozen=True, array_like=True):
    """Where an image lies, uint8 (height, width, 3), and how it is to be predicted on."""

    place: Place
    height: int
    width: int
    params: bytes
    """`InferenceParams` as JSON."""


class Ask(msgspec.Struct, frozen=True):
    """A prediction on one image, or on several at once."""

    pictures: tuple[Picture, ...]


class Answer(msgspec.Struct, frozen=True):
    """What became of one image; one of the two."""

    prediction: Prediction | None = None
    failure: Failure | None = None


class Answers(msgspec.Struct, frozen=True):
    """What became of the images asked for, in their order; one failure alone where all of them failed together."""

    answers: tuple[Answer, ...]
    kept: tuple[int, ...] = ()
    """Images that the model holds on to, by their place: nothing else may be written over them."""
    memory_bytes: int | None = None
