"""The camera source `snapshot-url`: a camera that is asked for one picture after the other."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from pydantic import Field

from healthd.cameras.source import CameraSource, Predict, PredictOptions, Read, SourceOptions
from healthd.errors import CameraError, SettingsError
from healthd.frames import CapturedImage, StreamInfo
from healthd.models.manager import ModelManager
from healthd_snapshot_url.fetch import Fetched, Fetcher, Flawed, Validators

LONGEST_INTERVAL = 0.75
"""A picture must be fetched within the stall timeout; waiting for the next one may take this share of it."""


class SnapshotOptions(PredictOptions):
    """The settings under `[cameras.NAME.options]` of `snapshot-url`."""

    interval_seconds: float = Field(1.0, ge=0.02, le=3600, description="Seconds from one request to the next.")
    request_timeout_seconds: float | None = Field(
        None,
        ge=0.1,
        le=3600,
        description="How long one request may take, to its last byte; absent: as long as the camera's"
        " `open_timeout_seconds` and `stall_timeout_seconds` leave.",
    )
    max_bytes: int = Field(10_000_000, ge=1000, le=100_000_000, description="A picture with more bytes is refused.")
    max_age_seconds: float | None = Field(
        None,
        ge=0,
        le=86_400,
        description="A picture that its server itself says is older is not shown; absent: as the camera's"
        " `stall_timeout_seconds`; 0: what the server says of it is not believed.",
    )
    verify_tls: bool = Field(True, description="`false`: the certificate of an `https` camera is not checked.")
    model: str | None = Field(None, min_length=1, description="Model that watches the camera; absent: none does.")
    model_family: str = Field("yolo", min_length=1, description="Family of that model, as `healthd plugins` lists it.")


class SnapshotUrl(CameraSource):
    """A camera that offers single JPEGs over HTTP. Lives as long as its camera is configured."""

    contract: ClassVar[int] = 1
    options_model: ClassVar[type[SourceOptions]] = SnapshotOptions
    options: SnapshotOptions
    _validators = Validators()
    """Of the newest picture: one that was shown is not shown as new by the next session of this object."""

    @property
    def model_id(self) -> str | None:
        """The model as the configuration names it."""
        return self.options.model

    @contextmanager
    def camera(self) -> Iterator[Read]:
        """Fetch a first picture; the callable returns one at each interval, as the camera encoded it.

        Raises:
            CameraError: the camera cannot be reached, or sends no JPEG.
            SettingsError: the address or the password is wrong, or the interval does not fit.
        """
        if self.url is None:
            raise SettingsError("url: a snapshot camera needs one, e.g. `http://esp32.lan/capture`")
        longest = LONGEST_INTERVAL * self.stall_timeout_seconds
        if self.options.interval_seconds > longest:
            raise SettingsError(
                f"interval_seconds: {self.options.interval_seconds:g} is too long for a stall_timeout_seconds of"
                f" {self.stall_timeout_seconds:g}, with which it may be {longest:g}: raise that and stale_after_seconds"
            )
        with Fetcher(
            self.url,
            verify_tls=self.options.verify_tls,
            max_bytes=self.options.max_bytes,
            validators=self._validators,
        ) as fetcher:
            session = _Session(self.options, fetcher, self.stall_timeout_seconds)
            try:
                session.open(self.open_timeout_seconds)
                yield session.read
            finally:
                self._validators = fetcher.validators

    def model(self, models: ModelManager) -> AbstractContextManager[Predict] | None:
        """Load or share the model, where one is named."""
        return None if self.options.model is None else self._watched(models, self.options.model)

    @contextmanager
    def _watched(self, models: ModelManager, model_id: str) -> Iterator[Predict]:
        with models.use(self.options.model_family, model_id) as shared:
            yield lambda image: shared.predict(image, self.params or self.options.params())


class _Session:
    """The pictures of one session, at their interval. It belongs to the session's thread."""

    def __init__(self, options: SnapshotOptions, fetcher: Fetcher, stall_seconds: float) -> None:
        self._options = options
        self._fetcher = fetcher
        self._stall = stall_seconds
        self._max_age = stall_seconds if options.max_age_seconds is None else options.max_age_seconds
        self._info = StreamInfo(fps=1 / options.interval_seconds, codec="jpeg")
        self._first: Fetched | None = None
        self._due = self._newest_at = 0.0

    def open(self, seconds: float) -> None:
        """Fetch the first picture, so that what is wrong is said at once."""
        now = time.monotonic()
        self._due = self._newest_at = now
        self._first = self._fetch(now + seconds - _margin(seconds))

    def read(self) -> CapturedImage:
        """Wait for the next new picture.

        Raises:
            CameraError: none came in time.
        """
        give_up = time.monotonic() + self._stall - _margin(self._stall)
        fetched, self._first = self._first, None
        answered = False
        while fetched is None or self._is_old(fetched):
            if self._due >= give_up:
                raise CameraError(self._why_nothing_new(fetched))
            time.sleep(max(0.0, self._due - time.monotonic()))
            try:
                fetched = self._fetch(give_up)
            except CameraError:
                if answered and time.monotonic() >= give_up:  # the last question was asked too late to be answered
                    raise CameraError(self._why_nothing_new(fetched)) from None
                raise
            answered = True
        self._newest_at = time.monotonic()
        return CapturedImage(fetched.image, info=self._info)

    def _fetch(self, give_up: float) -> Fetched | None:
        """Fetch now; a picture that came broken is asked for once more: a radio link loses something now and then."""
        now = time.monotonic()
        self._due = max(self._due + self._options.interval_seconds, now)
        until = min(give_up, now + (self._options.request_timeout_seconds or math.inf))
        try:
            return self._fetcher.fetch(until)
        except Flawed:
            return self._fetcher.fetch(until)

    def _is_old(self, fetched: Fetched) -> bool:
        return 0 < self._max_age < fetched.age_seconds

    def _why_nothing_new(self, fetched: Fetched | None) -> str:
        if fetched is not None:
            return (
                f"the camera's server says that its newest picture is {fetched.age_seconds:.0f} s old"
                " (`max_age_seconds = 0` if that is not true)"
            )
        waited = time.monotonic() - self._newest_at
        return f"the camera answers, but its picture has not changed for {waited:.1f} s (304 Not Modified)"


def _margin(seconds: float) -> float:
    """So much sooner than healthd the plugin gives up, because it can say why."""
    return min(0.5, seconds / 10)
