"""When a fault happens: by time, by frame, by chance; the same each time for the same settings."""

import math
import random
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Moment(NamedTuple):
    """Where a camera or a model stands."""

    seconds: float
    """Since it was used for the first time."""
    frame: int
    """Counts from 1: the frames asked for; of `open` and `close` the sessions."""
    seed: str = ""


class Schedule(BaseModel):
    """When a fault happens. What is absent is no condition: without any, it happens always."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_seconds: float | None = Field(
        None, ge=0, description="Not before; absent: `every_seconds`, else from the start."
    )
    for_seconds: float | None = Field(None, gt=0, description="For so long; absent: for ever.")
    every_seconds: float | None = Field(None, gt=0, description="Again and again; needs `for_seconds`.")
    after_frames: int | None = Field(None, ge=0, description="After so many; absent: `every_frames` less one, else 0.")
    for_frames: int | None = Field(
        None, ge=1, description="For so many; absent: one with `every_frames`, else all that come."
    )
    every_frames: int | None = Field(None, ge=1, description="Again and again.")
    probability: float = Field(1.0, gt=0, le=1, description="Of each frame for which all else holds.")

    @model_validator(mode="after")
    def _ends_before_it_begins_again(self) -> Self:
        if self.every_seconds is not None and not (self.for_seconds and self.for_seconds < self.every_seconds):
            raise PydanticCustomError("schedule", "every_seconds: needs a for_seconds that is shorter")
        if self.every_frames is not None and (self.for_frames or 1) > self.every_frames:
            raise PydanticCustomError("schedule", "every_frames: needs a for_frames that is not longer")
        return self

    def left_seconds(self, moment: Moment) -> float | None:
        """Return for how many seconds from now it goes on; infinite: time does not end it. None: it is not on."""
        left = _left(moment.seconds, self.after_seconds, self.for_seconds, self.every_seconds, self.every_seconds or 0)
        frames = self.for_frames or (1 if self.every_frames else None)
        first = self.every_frames - 1 if self.every_frames else 0
        if left is None or _left(moment.frame - 1, self.after_frames, frames, self.every_frames, first) is None:
            return None
        if self.probability < 1 and random.Random(f"{moment.seed}:{moment.frame}").random() >= self.probability:  # noqa: S311  no secret
            return None
        return left


def _left(value: float, after: float | None, length: float | None, every: float | None, first: float) -> float | None:
    since = value - (first if after is None else after)
    if since < 0:
        return None
    if every is not None:
        since %= every
    left = math.inf if length is None else length - since
    return left if left > 0 else None
