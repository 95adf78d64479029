"""Loads that failed a short while ago, so that not every request tries the same again."""

from dataclasses import dataclass
from typing import TypeAlias

from healthd.clock import Clock
from healthd.errors import BusyError, ModelError, SettingsError, WornOutError
from healthd.models.model import ModelOptions, ModelSpec
from healthd.models.shared import again

_Wish: TypeAlias = tuple[str, str, ModelOptions]


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A load that failed a short while ago."""

    error: ModelError | SettingsError
    at: float
    """Seconds of the monotonic clock."""


class FailedLoads:
    """Remembers failed loads for `seconds`. Not thread-safe; lives as long as its manager."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.seconds = seconds
        self._clock = clock
        self._failed: dict[_Wish, FailedLoad] = {}

    def note(self, family: str, spec: ModelSpec, error: BaseException) -> None:
        """Remember how a load failed; not where there was no room, which may be there the next moment."""
        told = again(error, spec)
        if not isinstance(told, BusyError):
            self._failed[family, spec.model_id, spec.options] = FailedLoad(told, self._clock.monotonic())

    def find(self, family: str, model_id: str, options: ModelOptions) -> FailedLoad | None:
        """Return how the last load failed, if that was a short while ago."""
        now = self._clock.monotonic()
        for wish, failed in list(self._failed.items()):
            if now - failed.at >= self.seconds:
                del self._failed[wish]
        return self._failed.get((family, model_id, options))

    def forgive(self, family: str, model_id: str) -> None:
        """Forget that loads of this model failed."""
        for wish in [wish for wish in self._failed if wish[:2] == (family, model_id)]:
            del self._failed[wish]


def worn_out(hung: int, model_id: str) -> WornOutError:
    """Return why a model is not loaded again in which so many threads hang, and what to do."""
    return WornOutError(
        f"{hung} threads hang in {model_id}: it is loaded again when one of them returns; if none does, restart"
        ' healthd, with models.isolation = "process", which ends what hangs, or with another model'
    )
