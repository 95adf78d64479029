"""What entry points may name by mistake, and classes that break before they are a camera."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from healthd.cameras.source import CameraSource, Read
from healthd.models.model import Model, ModelFamily, ModelSpec
from healthd_faulty.misdeeds import hang, note


class NoCamera:
    """Neither a CameraSource nor a ModelFamily."""


def no_class() -> None:
    """No class at all."""


class MissingMethod(CameraSource):
    """Forgets the one method that a camera must have."""

    contract = 1


class _Idle(CameraSource):
    contract = 1

    @contextmanager
    def camera(self) -> Iterator[Read]:
        yield lambda: None


class FutureContract(_Idle):
    """Written for a healthd that does not exist yet."""

    contract = 99


class RaisingConstructor(_Idle):
    """Does something in its constructor, against the contract, and fails; tells everybody where it wanted to go."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        raise RuntimeError(f"no route to {self.url.reveal() if self.url else 'nowhere'}")


class HangingConstructor(_Idle):
    """Opens its camera in the constructor, against the contract, and never returns."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        note(os.environ.get("HANGING_JOURNAL"), "making")
        hang("lock")


class RaisingFamily(ModelFamily):
    """A family that cannot be made."""

    contract = 1

    def __init__(self) -> None:
        raise RuntimeError("no accelerator")

    def serves(self, model_id: str) -> bool:
        return False

    def load(self, spec: ModelSpec) -> Model:
        raise NotImplementedError
