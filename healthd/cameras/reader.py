"""The reader: from opening a camera to losing it. Straight lines that never catch; the runner does."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from healthd.cameras.accounting import Drop, FrameCounts
from healthd.cameras.attention import Attention
from healthd.cameras.backlog import LATE_SECONDS
from healthd.cameras.control import Control
from healthd.cameras.demand import Demand
from healthd.cameras.health import RateWindow
from healthd.cameras.isolated import MARGIN_SECONDS, Bounds, IsolatedCamera
from healthd.cameras.pull import Pulled, Puller
from healthd.cameras.source import CameraSource
from healthd.clock import Clock
from healthd.errors import CameraError
from healthd.frames import CapturedImage, Frame, JpegImage, StreamInfo, published_image
from healthd.latest import Latest
from healthd.settings import CameraSettings
from healthd.waiting import Backoff
from healthd.worker import Worker, entered

log = structlog.get_logger(__name__)
CLOSE_SECONDS = 2.0
"""A camera or a model that does not close within this is left to its thread."""


class Reader:
    """Reads, stamps and publishes the frames of one camera. Event loop only; lives as long as its runner."""

    def __init__(  # noqa: PLR0913  it stands between the camera and everybody who wants its frames
        self,
        source: CameraSource,
        *,
        settings: CameraSettings,
        control: Control,
        latest: Latest[Frame],
        counts: FrameCounts,
        attention: Attention,
        demand: Demand,
        clock: Clock,
        on_frame: Callable[[Frame], None],
        on_abandoned: Callable[[Worker], None],
        last_frame_id: int = 0,
        isolated: IsolatedCamera | None = None,
    ) -> None:
        """`isolated`: the camera is read in a process of its own; `source` is only asked about it."""
        self.info = StreamInfo()
        self.recording = source.recording
        self._waits = False
        """A recording stands still until the predictor takes its newest frame."""
        self.sessions = 0
        self.backoff = Backoff(longest_seconds=settings.reconnect_max_seconds)
        self.rate = RateWindow(clock)
        self._source = source
        self._settings = settings
        self._control = control
        self._latest = latest
        self._counts = counts
        self._attention = attention
        self._demand = demand
        self._clock = clock
        self._on_frame = on_frame
        self._on_abandoned = on_abandoned
        self.last_frame_id = last_frame_id
        self.good_since: float | None = None
        """When this session, which has delivered, was opened, in seconds of the monotonic clock; None: no frame yet."""
        self._opened_at = -math.inf
        self._isolated = isolated
        self.arrived_at = 0.0
        """When the newest frame came, its pixels wanted or not, in seconds of the monotonic clock."""
        self._released_at = -math.inf

    def adapt(self, settings: CameraSettings) -> None:
        """Take settings that do not need a new session."""
        self._settings = settings
        self.backoff.longest_seconds = settings.reconnect_max_seconds

    @property
    def waits_for_predictor(self) -> bool:
        """Whether a recording stands still because its predictor is not done, or has only just been read again."""
        reading = self.arrived_at < self._released_at
        late = self._clock.monotonic() - self._released_at > self._settings.stale_after_seconds
        return self._waits or (reading and not late)

    @property
    def _bounds(self) -> Bounds:
        """How long the thread that reads is waited for."""
        if self._isolated is not None:
            return self._isolated.bounds
        wanted = self._settings
        return Bounds(wanted.open_timeout_seconds + MARGIN_SECONDS, wanted.stall_timeout_seconds, CLOSE_SECONDS)

    async def session(self) -> None:
        """Read from opening the camera to losing it, or to leaving it on order."""
        generation, self.good_since = self._control.generation_of("reader"), None
        stall, bounds = self._settings.stall_timeout_seconds, self._bounds
        isolated = self._isolated.camera() if self._isolated is not None else None  # from now on it can be left
        async with entered(
            f"{self._source.name}-reader",
            self._source.camera if isolated is None else lambda: isolated,
            enter_timeout=bounds.enter_seconds,
            exit_timeout=bounds.close_seconds,
            on_abandoned=self._on_abandoned,
            late="the camera did not open",
        ) as (worker, read):
            if not callable(read):
                raise TypeError(f"the plugin's camera() yielded {type(read).__name__}, not something to call")
            puller = Puller(
                read, demand=self._demand, attention=self._attention, recording=self.recording, clock=self._clock
            )
            self.sessions += 1
            self._opened_at = self._clock.monotonic()
            log.info("session_opened", attempts=self.backoff.attempts + 1)
            published_at = self._clock.monotonic()
            while self._control.staying("reader", generation):
                pulled = await worker.call(puller.pull, timeout=bounds.read_seconds, late="no image")
                if not self._control.staying("reader", generation):
                    self._counts.came()
                    self._counts.drop(Drop.LOST)
                    return
                if self._accept(pulled):
                    published_at = self._clock.monotonic()
                elif self._clock.monotonic() - published_at > stall:
                    raise CameraError(f"only old images for {stall:g} s")
                await self._wait_for_predictor(generation)

    async def _wait_for_predictor(self, generation: int) -> None:
        """Pace a recording by its predictor: every frame, in order."""
        if not self.recording:
            return
        self._waits = True
        while self._latest and self._control.staying("reader", generation):
            await self._latest.wait_changed()
        self._waits = False
        self._released_at = self._clock.monotonic()

    def _accept(self, pulled: Pulled) -> bool:
        """Number, stamp and publish what the camera delivered; False when it was too old to be shown."""
        self._counts.came()
        if pulled.unseen:
            self._pass_over(pulled)
            return True
        output, waited = pulled.output, max(0.0, self._clock.monotonic() - pulled.at)
        if output is None or (waited > LATE_SECONDS and not self.recording):
            self._counts.drop(Drop.BACKLOG)
            return False
        captured = output if isinstance(output, CapturedImage) else None
        try:
            image = published_image(captured.image if captured else output, copy=self._isolated is None)
        except CameraError:
            self._counts.drop(Drop.INVALID)
            raise
        if isinstance(image, JpegImage):
            image.tell_of_decode(self._counts.decoded)
        self._note_arrival(pulled)
        frame = Frame(
            camera=self._source.name,
            frame_id=self.last_frame_id,
            delivered=image,
            captured_at=self._clock.now() - timedelta(seconds=waited),
            captured_monotonic=pulled.at,
            position_seconds=captured.position_seconds if captured else None,
        )
        described = (captured.info if captured else None) or StreamInfo()
        self.info = replace(described, width=frame.width, height=frame.height)
        self._demand.glanced_at = pulled.at
        self._attention.saw(frame, pulled.motion)
        if self._latest.put(frame) is not None:
            self._counts.drop(Drop.REPLACED)
        self._on_frame(frame)
        return True

    def _pass_over(self, pulled: Pulled) -> None:
        """Count a frame whose pixels nobody wanted; one that still waits for the model is no longer the newest."""
        self._note_arrival(pulled)
        self._counts.drop(Drop.UNSEEN)
        if self._latest.take_nowait() is not None:
            self._counts.drop(Drop.REPLACED)

    def _note_arrival(self, pulled: Pulled) -> None:
        """Number the frame that came."""
        self.last_frame_id += 1
        self.good_since = self._opened_at
        self.arrived_at = pulled.at
        self.rate.add()
        self.backoff.reset()
